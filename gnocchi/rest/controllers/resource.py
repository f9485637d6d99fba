"""`/v1/resource`."""

import uuid
from typing import Any

import pecan

from gnocchi.common.repeat import until_unchanged
from gnocchi.exceptions import InvalidInput, NoSuchMetric, NoSuchResource
from gnocchi.indexer import Metric, MetricDefinition, Resource, ResourceType
from gnocchi.indexer.filters import all_of
from gnocchi.resource_ids import resource_id
from gnocchi.rest import errors, formats, headers, resource_lists, schemas, visibility
from gnocchi.rest.controllers import measures, metric
from gnocchi.rest.filters.read import read_filter
from gnocchi.rest.preconditions import check_preconditions, has_preconditions, set_validators
from gnocchi.rest.request import Request
from gnocchi.rest.schemas import metric as metric_schemas
from gnocchi.rest.schemas import resource as resource_schemas

NO_FILTER = "caution: the query can not be empty, or it will delete entire database"


def read_path_id(request: Request, text: str) -> uuid.UUID:
    """The id of the resource that the caller means by a segment of the path.  Raises NoSuchResource."""
    try:
        return resource_id(text, request.identity.creator)
    except InvalidInput:
        raise NoSuchResource(text) from None


def find_resource(request: Request, type_name: str, text: str) -> Resource:
    """Raises NoSuchResource, NoSuchResourceType."""
    indexer = request.services.indexer
    try:
        return indexer.get_resource(type_name, read_path_id(request, text))
    except NoSuchResource:
        indexer.get_resource_type(type_name)
        raise


def find_named_metric(request: Request, type_name: str, text: str, name: str) -> Metric:
    """Raises NoSuchMetric, NoSuchResource, NoSuchResourceType."""
    indexer = request.services.indexer
    try:
        return indexer.get_resource_metric(read_path_id(request, text), name)
    except (NoSuchMetric, NoSuchResource):
        indexer.get_resource_type(type_name)
        raise


def read_metrics(request: Request, metrics: dict[str, Any],
                 resource_id: uuid.UUID) -> dict[str, uuid.UUID | MetricDefinition]:
    """What a checked body wants a resource's metrics to be, after asking whether the caller may create new ones."""
    choices = metric_schemas.make_resource_metrics(metrics, resource_id, request.identity.creator)
    for choice in choices.values():
        if isinstance(choice, MetricDefinition):
            metric.enforce_create(request, choice)
    return choices


class ResourceIndexController:
    """`/v1/resource`: where the resources of each type are."""

    def get(self) -> dict[str, str]:
        request = pecan.request
        return {found.name: headers.url_for(request, "resource", found.name)
                for found in request.services.indexer.list_resource_types()}


class ResourcesController:
    """`/v1/resource/{type}`."""

    def lookup(self, type_name: str) -> tuple[ResourceType]:
        return (pecan.request.services.indexer.get_resource_type(type_name),)

    def get(self, type: ResourceType) -> list[dict[str, Any]]:
        request = pecan.request
        return resource_lists.list_page(request, pecan.response, type,
                                        visible=visibility.list_visible(request, "list resource"))

    def post(self, type: ResourceType) -> dict[str, Any]:
        request = pecan.request
        body = request.read_json()
        resource = until_unchanged(lambda: _create(request, type.name, body))
        headers.set_created(request, pecan.response, "resource", type.name, str(resource.id))
        set_validators(pecan.response, resource)
        return resource_lists.format_for(resource, type.name)


    def delete(self, type: ResourceType) -> dict[str, int]:
        """Deletes what a filter matches and the caller may delete."""
        request = pecan.request
        wanted = read_filter(request, type)
        if wanted is None:
            raise errors.RequestError(400, NO_FILTER)
        permitted = visibility.require_permitted(request, "delete resources")
        return {"deleted": request.services.indexer.delete_resources(type, all_of([permitted, wanted]))}


def _create(request: Request, type_name: str, body: Any) -> Resource:
    indexer, creator = request.services.indexer, request.identity.creator
    type = indexer.get_resource_type(type_name)
    values = schemas.validate(resource_schemas.for_creation(type), body)
    resource_id = metric_schemas.read_resource_id(values, "id", creator)
    metrics = values.pop("metrics", {})
    request.enforce("create resource", {**values, "id": str(resource_id), "type": type.name, "creator": creator})
    with metric.named_in_body():
        return indexer.create_resource(
            type.name, resource_id, creator, original_resource_id=values["id"],
            user_id=values.get("user_id"), project_id=values.get("project_id"),
            started_at=values.get("started_at"), ended_at=values.get("ended_at"),
            attributes={name: values[name] for name in type.attributes if name in values}, checked=type,
            metrics=read_metrics(request, metrics, resource_id))


class ResourceController:
    """`/v1/resource/{type}/{id}`."""

    def lookup(self, type_name: str, resource_id: str) -> tuple[str, Resource]:
        return type_name, find_resource(pecan.request, type_name, resource_id)

    def get(self, type_name: str, resource: Resource) -> dict[str, Any]:
        request = pecan.request
        visibility.enforce_get(request, resource)
        check_preconditions(request, resource)
        set_validators(pecan.response, resource)
        return resource_lists.format_for(resource, type_name)

    def patch(self, type_name: str, resource: Resource) -> dict[str, Any]:
        request = pecan.request
        request.enforce("update resource", formats.format_resource(resource))
        check_preconditions(request, resource)
        body = request.read_json()
        changed = until_unchanged(lambda: _change(request, type_name, resource.id, body))
        set_validators(pecan.response, changed)
        return resource_lists.format_for(changed, type_name)

    def delete(self, type_name: str, resource: Resource) -> None:
        request = pecan.request

        def attempt() -> None:
            seen = _find_permitted(request, type_name, resource.id, "delete resource")
            request.services.indexer.delete_resource(type_name, seen.id, seen, has_preconditions(request))

        until_unchanged(attempt)


def _find_permitted(request: Request, type_name: str, id: uuid.UUID, rule: str) -> Resource:
    """A resource that the caller may change, and wants to as it is now."""
    resource = request.services.indexer.get_resource(type_name, id)
    request.enforce(rule, formats.format_resource(resource))
    check_preconditions(request, resource)
    return resource


def _change(request: Request, type_name: str, id: uuid.UUID, body: Any) -> Resource:
    indexer = request.services.indexer
    resource = _find_permitted(request, type_name, id, "update resource")
    type = indexer.get_resource_type(type_name)
    values = schemas.validate(resource_schemas.for_change(type), body)
    metrics = values.pop("metrics", None)
    attributes = {name: values.pop(name) for name in type.attributes if name in values}
    choices = None if metrics is None else read_metrics(request, metrics, resource.id)
    with metric.named_in_body():
        return indexer.update_resource(resource, values, attributes=attributes, checked=type, metrics=choices,
                                       same_revision=has_preconditions(request))


class HistoryController:
    """`/v1/resource/{type}/{id}/history`."""

    def lookup(self, type_name: str, resource_id: str) -> tuple[ResourceType, Resource]:
        request = pecan.request
        return (request.services.indexer.get_resource_type(type_name), find_resource(request, type_name, resource_id))

    def get(self, type: ResourceType, resource: Resource) -> list[dict[str, Any]]:
        request = pecan.request
        visibility.enforce_get(request, resource)
        return resource_lists.list_revisions(request, pecan.response, type, resource.id)


class ResourceMetricsController:
    """`/v1/resource/{type}/{id}/metric`."""

    def lookup(self, type_name: str, resource_id: str) -> tuple[Resource]:
        return (find_resource(pecan.request, type_name, resource_id),)

    def get(self, resource: Resource) -> list[dict[str, Any]]:
        request = pecan.request
        visibility.enforce_get(request, resource)
        return [formats.format_metric(found)
                for found in request.services.indexer.list_resource_metrics(resource.id)]

    def post(self, resource: Resource) -> list[dict[str, Any]]:
        """Adds metrics; answers 200 with all of them."""
        request = pecan.request
        request.enforce("update resource", formats.format_resource(resource))
        body = request.read_json(metric_schemas.RESOURCE_METRICS)

        def attempt() -> list[Metric]:
            seen = request.services.indexer.get_resource("generic", resource.id)
            request.enforce("update resource", formats.format_resource(seen))
            with metric.named_in_body():
                return request.services.indexer.add_resource_metrics(
                    seen.id, read_metrics(request, body, seen.id), seen)

        return [formats.format_metric(found) for found in until_unchanged(attempt)]


class NamedMetricController(metric.MetricController):
    """`/v1/resource/{type}/{id}/metric/{name}`."""

    def lookup(self, type_name: str, resource_id: str, name: str) -> tuple[Metric]:  # type: ignore[override]
        return (find_named_metric(pecan.request, type_name, resource_id, name),)


class NamedMeasuresController(measures.MeasuresController):
    """`/v1/resource/{type}/{id}/metric/{name}/measures`."""

    def lookup(self, type_name: str, resource_id: str, name: str) -> tuple[Metric]:  # type: ignore[override]
        return (find_named_metric(pecan.request, type_name, resource_id, name),)
