"""`/v1/batch`: measures of many metrics in one request."""

import uuid
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy
import pecan

from gnocchi import metric_ids
from gnocchi.exceptions import ChangedMeanwhile, NamedMetricAlreadyExists, NoSuchResource
from gnocchi.indexer import MetricDefinition, NamedMetric, Resource
from gnocchi.rest import arguments, errors, formats, measures
from gnocchi.rest.controllers.measures import accept_measures
from gnocchi.rest.controllers.metric import enforce_create, named_in_body
from gnocchi.rest.named_measures import NamedBatch, decode_named_batch
from gnocchi.rest.repeat import until_unchanged
from gnocchi.rest.request import Request
from gnocchi.rest.schemas.metric import check_metric_name

POST, UPDATE, CREATE = "post measures", "update resource", "create metric"

#: What is the same in all metrics that one request makes.
CREATOR = frozenset(("creator",))


class MetricsMeasuresController:
    """`/v1/batch/metrics/measures`."""

    def post(self) -> None:
        request = pecan.request
        body = request.read_body()
        with request.services.turns.decoding(len(body)):
            batch = measures.decode_batch(body)
        wanted = numpy.unique(batch.metric_ids)
        if _looks_at(request, POST, formats.CREATOR_KEYS):
            _check_by_creator(request, wanted)
        else:
            _check_one_by_one(request, wanted)
        accept_measures(request, pecan.response, batch)


class ResourcesMetricsMeasuresController:
    """`/v1/batch/resources/metrics/measures`."""

    def post(self) -> None:
        request = pecan.request
        create = arguments.read_bool(request, "create_metrics", default=False)
        body = request.read_body()
        with request.services.turns.decoding(len(body)):
            batch = decode_named_batch(body, request.identity.creator)
        names: dict[uuid.UUID, set[str]] = {}
        for wanted in batch.metrics:
            names.setdefault(wanted.resource_id, set()).add(wanted.name)
        found = until_unchanged(lambda: _find_or_create(request, batch, names, create)) if names else {}
        metrics = [found[wanted.resource_id, wanted.name].id for wanted in batch.metrics]
        accept_measures(request, pecan.response, batch.with_ids(metrics))


def _find_or_create(request: Request, batch: NamedBatch, names: Mapping[uuid.UUID, set[str]],
                    create: bool) -> dict[tuple[uuid.UUID, str], NamedMetric]:
    """Return the metrics of a batch, all of which the caller may post to.

    Raises errors.RequestError 400 or 403; ChangedMeanwhile if another request made some of them first.
    """
    indexer, creator = request.services.indexer, request.identity.creator
    found = indexer.list_named_metrics(names)
    missing = {(wanted.resource_id, wanted.name): wanted for wanted in reversed(batch.metrics)
               if (wanted.resource_id, wanted.name) not in found}
    if missing and not create:
        _refuse(f"{resource_id}/{name}" for resource_id, name in missing)
    # In one order in all requests, so that they wait for each other instead of blocking each other.
    definitions = [MetricDefinition(uuid.uuid4(), wanted.archive_policy_name, name, wanted.unit, resource_id)
                   for (resource_id, name), wanted in sorted(missing.items(), key=lambda item: item[0])]
    if definitions:
        _check_creation(request, batch, definitions)
    _check_posting(request, found, definitions)
    if not definitions:
        return found
    try:
        with named_in_body():
            made = indexer.create_metrics(definitions, creator)
    except (NamedMetricAlreadyExists, NoSuchResource) as e:
        raise ChangedMeanwhile("What a batch names") from e
    return found | {(metric.resource_id, metric.name): NamedMetric(metric.id, creator) for metric in made}


def _check_creation(request: Request, batch: NamedBatch, definitions: Sequence[MetricDefinition]) -> None:
    """Ask whether the caller may give their resources new metrics.  Raises errors.RequestError 400 or 403."""
    wanted = {definition.resource_id: None for definition in definitions}
    resources = {resource.id: resource for resource in request.services.indexer.list_resources_by_id(list(wanted))}
    unknown = [{"resource_id": str(id), "original_resource_id": text}
               for id, text in batch.resources.items() if id in wanted and id not in resources]
    if unknown:
        raise errors.RequestError(400, {"cause": "Unknown resources", "detail": unknown})
    for definition in definitions:
        check_metric_name(definition.name)
    for resource in _distinct(request, UPDATE, resources.values()):
        request.enforce(UPDATE, formats.format_resource(resource))
    alike = _looks_at(request, CREATE, CREATOR)
    for definition in definitions[:1] if alike else definitions:
        enforce_create(request, definition)


def _distinct(request: Request, rule: str, resources: Iterable[Resource]) -> Iterable[Resource]:
    """Those of the resources that a rule may tell from each other."""
    if not _looks_at(request, rule, formats.CREATOR_KEYS | {"project_id", "user_id", "type"}):
        return resources
    return {(found.creator, found.project_id, found.user_id, found.type): found for found in resources}.values()


def _check_posting(request: Request, found: Mapping[Any, NamedMetric], definitions: Sequence[MetricDefinition]) -> None:
    """Ask whether the caller may post to metrics that exist, and to those that will be his.  Raises 403."""
    mine = formats.format_creator(request.identity.creator)
    if _looks_at(request, POST, formats.CREATOR_KEYS):
        for creator in {metric.creator for metric in found.values()}:
            request.enforce(POST, formats.format_creator(creator))
        if definitions:
            request.enforce(POST, mine)
        return
    for metric in request.services.indexer.list_metrics_by_id([metric.id for metric in found.values()]):
        request.enforce(POST, formats.metric_target(metric))
    for definition in definitions:
        request.enforce(POST, mine | {"name": definition.name, "unit": definition.unit,
                                      "resource_id": str(definition.resource_id)})


def _looks_at(request: Request, rule: str, known: Set[str]) -> bool:
    """Whether a rule looks at nothing of its target but these values."""
    names = request.services.policy.names_in(rule)
    return names is not None and names <= known


def _check_by_creator(request: Request, wanted: numpy.ndarray) -> None:
    """Check metrics, shape (m,), `S16`, of which the policy looks at the creator only: ask once for each creator.

    Fast path, 1 us for each metric instead of 20.
    """
    found, creators = request.services.indexer.list_metric_creators(wanted)
    if len(found) < len(wanted):
        known = set(metric_ids.unpack_ids(found))
        _refuse(metric_id for metric_id in metric_ids.unpack_ids(wanted) if metric_id not in known)
    for creator in creators:
        request.enforce(POST, formats.format_creator(creator))


def _check_one_by_one(request: Request, wanted: numpy.ndarray) -> None:
    ids = metric_ids.unpack_ids(wanted)
    metrics = request.services.indexer.list_metrics_by_id(ids)
    known = {metric.id for metric in metrics}
    if len(known) < len(ids):
        _refuse(metric_id for metric_id in ids if metric_id not in known)
    for metric in metrics:
        request.enforce(POST, formats.metric_target(metric))


def _refuse(unknown: Iterable[object]) -> None:
    raise errors.RequestError(400, f"Unknown metrics: {', '.join(sorted(map(str, unknown)))}")
