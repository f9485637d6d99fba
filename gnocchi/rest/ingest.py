"""Requests that bring measures of metrics known by resource and name: what their senders may do."""

import contextlib
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from typing import Any

from gnocchi.exceptions import (
    ClientError,
    NoSuchArchivePolicy,
    NoSuchResourceType,
    ResourceAlreadyExists,
    ResourceTypeAlreadyExists,
)
from gnocchi.indexer import MetricDefinition, MetricRow, Resource, ResourceDefinition
from gnocchi.ingest.batch import NamedBatch, WantedMetric
from gnocchi.ingest.guard import Guard
from gnocchi.rest import errors, formats
from gnocchi.rest.controllers.metric import enforce_create
from gnocchi.rest.request import Request
from gnocchi.rest.schemas.metric import check_metric_name

POST, UPDATE, CREATE = "post measures", "update resource", "create metric"

#: What is the same in all metrics that one request makes.
_CREATOR = frozenset(("creator",))


class RequestGuard(Guard):
    """Asks the policy about the sender of a request, and refuses all when some of it cannot be done.

    Parameters
    ----------
    request : Request
    """

    def __init__(self, request: Request) -> None:
        self._request = request

    def check_refusals(self, refused: Sequence[tuple[WantedMetric, ClientError]]) -> None:
        """Raises the first reason, as what its request is to be answered with."""
        _, error = refused[0]
        if isinstance(error, ResourceAlreadyExists):
            raise errors.RequestError(409, {"cause": "Resource already exists", "detail": str(error.resource)})
        if isinstance(error, NoSuchArchivePolicy):
            raise errors.RequestError(400, str(error))
        raise error

    def check_new_resources(self, type: str, resources: Sequence[ResourceDefinition]) -> None:
        creator = self._request.identity.creator
        for resource in resources:
            self._request.enforce("create resource", {
                **resource.attributes, "id": str(resource.id), "type": type, "creator": creator,
                "user_id": resource.user_id, "project_id": resource.project_id,
                "original_resource_id": resource.original_resource_id})

    def check_new_metrics(self, resources: Sequence[Resource], metrics: Sequence[MetricDefinition]) -> None:
        for definition in metrics:
            check_metric_name(definition.name)
        for resource in self._distinct(resources):
            self._request.enforce(UPDATE, formats.format_resource(resource))
        alike = looks_at(self._request, CREATE, _CREATOR)
        for definition in metrics[:1] if alike else metrics:
            enforce_create(self._request, definition)

    def _distinct(self, resources: Iterable[Resource]) -> Iterable[Resource]:
        """Those of the resources that the rule may tell from each other."""
        if not looks_at(self._request, UPDATE, formats.CREATOR_KEYS | {"project_id", "user_id", "type"}):
            return resources
        return {(found.creator, found.project_id, found.user_id, found.type): found for found in resources}.values()

    def check_posting(self, found: Collection[MetricRow], made: Sequence[MetricDefinition]) -> None:
        request = self._request
        mine = formats.format_creator(request.identity.creator)
        if looks_at(request, POST, formats.CREATOR_KEYS):
            for creator in {row.creator for row in found}:
                request.enforce(POST, formats.format_creator(creator))
            if made:
                request.enforce(POST, mine)
            return
        ids = [uuid.UUID(bytes=row.id) for row in found]
        for metric in request.services.indexer.list_metrics_by_id(ids):
            request.enforce(POST, formats.metric_target(metric))
        for definition in made:
            request.enforce(POST, mine | {"name": definition.name, "unit": definition.unit,
                                          "resource_id": str(definition.resource_id)})


class PartialGuard(RequestGuard):
    """The same, but what can be done is done.  What the sender may not do is refused wholly."""

    def check_refusals(self, refused: Sequence[tuple[WantedMetric, ClientError]]) -> None:
        pass


def looks_at(request: Request, rule: str, known: Set[str]) -> bool:
    """Whether a rule looks at nothing of its target but these values."""
    names = request.services.policy.names_in(rule)
    return names is not None and names <= known


def write_partially(request: Request, batch: NamedBatch, resource_type: str,
                    attributes: Mapping[str, Mapping[str, Any]]) -> dict[int, ClientError]:
    """Write what can be written of a batch; the type of its resources is made with `attributes` if there is none.

    Returns and raises as `MetricFinder.write_measures`; errors.RequestError 403 if the sender may not.
    """
    def write() -> dict[int, ClientError]:
        return request.services.finder.write_measures(batch, request.identity.creator, PartialGuard(request))

    try:
        return write()
    except NoSuchResourceType:
        ensure_resource_type(request, resource_type, attributes)
        return write()


def ensure_resource_type(request: Request, name: str, attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Make a resource type unless it exists.  Raises errors.RequestError 403 if its sender may not."""
    indexer = request.services.indexer
    try:
        indexer.get_resource_type(name)
    except NoSuchResourceType:
        request.enforce("create resource type", {"name": name, "attributes": attributes})
        with contextlib.suppress(ResourceTypeAlreadyExists):
            indexer.create_resource_type(name, attributes)
