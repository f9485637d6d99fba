"""`/v1/aggregation`, deprecated: aggregates across metrics, or one of each resource, with arguments in the URL."""

import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
import pecan
import voluptuous

from gnocchi import times
from gnocchi.carbonara import methods
from gnocchi.exceptions import AggregationDoesNotExist, GranularityDoesNotExist, InvalidPagination
from gnocchi.indexer import Metric, ResourceType
from gnocchi.query import fetch
from gnocchi.query.aggregates import Selection, Terms
from gnocchi.query.expression import AGGREGATIONS, RESAMPLINGS, Aggregate, Node, Reference, Resample
from gnocchi.query.expression import Metric as MetricNode
from gnocchi.query.series import Series
from gnocchi.query.several import read_several
from gnocchi.resource_ids import parse_uuid
from gnocchi.rest import arguments, errors, json, measures, schemas, visibility
from gnocchi.rest.controllers.aggregates import compute, group_resources, read_groupby, read_terms
from gnocchi.rest.controllers.measures import DEFAULT_METHOD, read_resample, refresh_metrics
from gnocchi.rest.controllers.metric import enforce_on_metrics
from gnocchi.rest.filters.read import read_filter
from gnocchi.rest.request import Request

#: Percent of the timestamps at which every metric must have a value, unless the client says otherwise.
NEEDED_OVERLAP = 100.0


class MetricsAggregationController:
    """`/v1/aggregation/metric`."""

    def get(self) -> bytes:
        texts = pecan.request.GET.getall("metric")
        try:
            wanted = [parse_uuid(text) for text in texts]
        except ValueError:
            number = next(number for number, text in enumerate(texts) if not _is_uuid(text))
            raise errors.RequestError(400, f"Invalid input: not a valid value @ data[{number}]") from None
        return aggregate_named(pecan.request, wanted)

    def post(self) -> bytes:
        wanted = pecan.request.read_json()
        if not isinstance(wanted, list):
            raise schemas.invalid_input(voluptuous.Invalid("expected a list"))
        for number, text in enumerate(wanted):
            if not _is_uuid(text):
                raise schemas.invalid_input(voluptuous.Invalid("not a valid value", [number]))
        return aggregate_named(pecan.request, [parse_uuid(text) for text in wanted])


def _is_uuid(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(parse_uuid(text))
    except ValueError:
        return False


class Question(NamedTuple):
    """The arguments of a request.

    resample : span, calendar letter or None
    method : what was stored;  across : what is done with several metrics
    """

    terms: Terms
    resample: numpy.timedelta64 | str | None
    method: str
    across: str
    refresh: bool


def read_question(request: Request) -> Question:
    """Raises errors.RequestError 400."""
    terms = read_terms(request, NEEDED_OVERLAP)
    resample = read_resample(request)
    method = arguments.read_text(request, "aggregation") or DEFAULT_METHOD
    across = arguments.read_text(request, "reaggregation") or method
    refresh = arguments.read_bool(request, "refresh", default=False)
    if resample is not None and terms.granularity is None:
        raise errors.RequestError(400, "A granularity must be specified to resample")
    return Question(terms, resample, method, across, refresh)


def aggregate_named(request: Request, wanted: Sequence[uuid.UUID]) -> bytes:
    """Answer with the aggregates across metrics that a client names.  Raises errors.RequestError."""
    question = read_question(request)
    wanted = list(dict.fromkeys(wanted))
    known = {metric.id: metric for metric in request.services.indexer.list_metrics_by_id(wanted)}
    for id in wanted:
        if id not in known:
            raise errors.RequestError(404, f"Metric {id} does not exist")
    metrics = [known[id] for id in wanted]
    enforce_on_metrics(request, "get metric", metrics)
    return answer(request, [metrics], question)[0]


def answer(request: Request, groups: Sequence[Sequence[Metric]], question: Question) -> list[bytes]:
    """Return the aggregates across the metrics of each group, encoded; no two have a metric in common.

    Raises errors.RequestError, and what reading does.
    """
    metrics = [metric for members in groups for metric in members]
    if question.refresh and metrics:
        refresh_metrics(request, metrics)
    alone = _read_alone(request, [members[0] for members in groups if len(members) == 1], question)
    held = sum(len(part.values) for parts in alone for part in parts)
    terms = question.terms._replace(points_max=question.terms.points_max - held)
    across = _compute(request, [members for members in groups if len(members) > 1], question._replace(terms=terms))
    left = {True: iter(alone), False: iter(across)}
    return [measures.encode_measures(next(left[len(members) == 1]) if members else [], measures.wants_null(request))
            for members in groups]


def _read_alone(request: Request, metrics: Sequence[Metric],
                question: Question) -> list[list[fetch.MeasuresAtGranularity]]:
    """Return the measures of each metric as they are: there is nothing to aggregate."""
    terms, method = question.terms, question.method
    try:
        return read_several(
            request.services.store, request.services.indexer, [Series(metric, method) for metric in metrics],
            None if terms.granularity is None else (terms.granularity,), terms.window, terms.points_max,
            question.resample)
    except AggregationDoesNotExist as e:
        raise errors.RequestError(404, {
            "cause": "Aggregation method does not exist for this metric",
            "detail": {"metric": str(e.metric_id), "aggregation_method": method},
        }) from e


def _compute(request: Request, groups: Sequence[Sequence[Metric]],
             question: Question) -> list[list[fetch.MeasuresAtGranularity]]:
    """Return the aggregates across each group's metrics.  Raises errors.RequestError 400 or 404."""
    if not groups:
        return []
    for members in groups:
        _check_metrics(members, question)
    reference = Reference("*", question.method)
    selections = [Selection([Series(metric, question.method) for metric in members],
                            [str(metric.id) for metric in members], None, {reference: range(len(members))})
                  for members in groups]
    asked = question.terms.window
    terms = question.terms._replace(window=fetch.widen(asked, question.resample))
    results = compute(request, _make_expression(reference, question), selections, terms)
    return [[part if question.resample is None else fetch.cut_groups(part, asked) for part in result.measures[0]]
            for result in results]


def _check_metrics(metrics: Sequence[Metric], question: Question) -> None:
    """Raises GranularityDoesNotExist for the first metric that lacks method or granularity."""
    granularity = question.terms.granularity
    for metric in metrics:
        policy = metric.archive_policy
        if question.method not in policy.aggregation_methods:
            raise GranularityDoesNotExist(metric.id, question.method, times.to_seconds(policy.granularities[0]))
        if granularity is not None and policy.get_item(granularity) is None:
            raise GranularityDoesNotExist(metric.id, question.method, times.to_seconds(granularity))


def _make_expression(reference: Reference, question: Question) -> Node:
    """Return what the arguments mean in the language of /v1/aggregates.  Raises errors.RequestError 400."""
    across, resample = question.across, question.resample
    if across not in AGGREGATIONS:
        raise errors.argument_error("reaggregation", f"Must be one of {', '.join(sorted(AGGREGATIONS))}")
    root: Node = MetricNode(["metric", list(reference)], (reference,))
    if resample is not None:
        # Stored values of `rate:x` are differences already.
        plain = question.method.removeprefix(methods.RATE)
        assert plain in RESAMPLINGS, f"BUG: {question.method} is stored and cannot be resampled"
        root = Resample(["resample", plain, str(resample), root.source], root, plain, resample)
    return Aggregate(["aggregate", across, root.source], root, across)


class PartialController:
    """Paths that end too early: no method."""


class ResourcesAggregationController:
    """`/v1/aggregation/resource/{type}/metric/{name}`."""

    def lookup(self, type_name: str, metric_name: str) -> tuple[ResourceType, str]:
        return pecan.request.services.indexer.get_resource_type(type_name), metric_name

    def post(self, type: ResourceType, metric_name: str) -> bytes:
        request = pecan.request
        question = read_question(request)
        wanted = read_filter(request, type)
        groupby = read_groupby(request)
        try:
            resources = request.services.indexer.list_resources(
                type, sorts=groupby, filter=wanted, visible=visibility.list_visible(request, "search resource"))
        except InvalidPagination as e:
            raise errors.RequestError(400, "Invalid groupby attribute") from e
        ids = [resource.metrics[metric_name] for resource in resources if metric_name in resource.metrics]
        metrics = {metric.id: metric for metric in request.services.indexer.list_metrics_by_id(ids)}
        groups = group_resources(resources, groupby)
        texts = answer(request, [[metrics[id] for resource in members
                                  if (id := resource.metrics.get(metric_name)) in metrics]
                                 for _, members in groups], question)
        if not groupby:
            return texts[0] if texts else b"[]"
        return json.assemble([{"group": values, "measures": text}
                              for (values, _), text in zip(groups, texts, strict=True)])
