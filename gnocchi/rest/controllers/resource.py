"""`/v1/resource`."""

import uuid
from typing import Any

import pecan
import voluptuous

from gnocchi.exceptions import NoSuchMetric, NoSuchResource
from gnocchi.indexer import Metric, MetricDefinition, Resource
from gnocchi.indexer.pagination import RESOURCE_SORTS
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.rest import arguments, formats, headers, ids, pagination
from gnocchi.rest.controllers import measures, metric
from gnocchi.rest.preconditions import check_preconditions, set_validators
from gnocchi.rest.request import Request
from gnocchi.rest.schemas import metric as metric_schemas
from gnocchi.rest.schemas import resource as resource_schemas


def read_path_id(request: Request, text: str) -> uuid.UUID:
    """The id of the resource that the caller means by a segment of the path.  Raises NoSuchResource."""
    try:
        return ids.resource_id(text, request.identity.creator)
    except voluptuous.Invalid:
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


def format_for(resource: Resource, type_name: str, details: bool = False) -> dict[str, Any]:
    """A resource as it looks through the URL of a type."""
    if details or type_name != GENERIC:
        return formats.format_typed_resource(resource)
    return formats.format_resource(resource)


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

    @pecan.expose("json")
    def get(self) -> dict[str, str]:
        request = pecan.request
        return {found.name: headers.url_for(request, "resource", found.name)
                for found in request.services.indexer.list_resource_types()}


class ResourcesController:
    """`/v1/resource/{type}`."""

    def lookup(self, type_name: str) -> tuple[str]:
        pecan.request.services.indexer.get_resource_type(type_name)
        return (type_name,)

    @pecan.expose("json")
    def get(self, type_name: str) -> list[dict[str, Any]]:
        request = pecan.request
        details = arguments.read_bool(request, "details", default=False)
        page = pagination.read_page(request, RESOURCE_SORTS)
        resources = request.services.indexer.list_resources(
            type_name, limit=page.limit, marker=ids.parse_marker(page.marker), sorts=page.sorts)
        if resources:
            pagination.set_next_link(request, pecan.response, page, len(resources), str(resources[-1].id))
        wanted = set(request.GET.getall("attrs"))
        return [_keep(format_for(resource, type_name, details), wanted) for resource in resources]

    @pecan.expose("json")
    def post(self, type_name: str) -> dict[str, Any]:
        request = pecan.request
        creator = request.identity.creator
        body = request.read_json(resource_schemas.CREATE)
        resource_id = metric_schemas.read_resource_id(body, "id", creator)
        metrics = body.pop("metrics", {})
        request.enforce("create resource", {**body, "id": str(resource_id), "type": type_name, "creator": creator})
        with metric.named_in_body():
            resource = request.services.indexer.create_resource(
                type_name, resource_id, creator, original_resource_id=body["id"],
                user_id=body.get("user_id"), project_id=body.get("project_id"),
                started_at=body.get("started_at"), ended_at=body.get("ended_at"),
                metrics=read_metrics(request, metrics, resource_id))
        headers.set_created(request, pecan.response, "resource", type_name, str(resource.id))
        set_validators(pecan.response, resource)
        return format_for(resource, type_name)


def _keep(item: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Only the keys wanted; all if none are named."""
    return {key: value for key, value in item.items() if key in wanted} if wanted else item


class ResourceController:
    """`/v1/resource/{type}/{id}`."""

    def lookup(self, type_name: str, resource_id: str) -> tuple[str, Resource]:
        return type_name, find_resource(pecan.request, type_name, resource_id)

    @pecan.expose("json")
    def get(self, type_name: str, resource: Resource) -> dict[str, Any]:
        request = pecan.request
        request.enforce("get resource", formats.format_resource(resource))
        check_preconditions(request, resource)
        set_validators(pecan.response, resource)
        return format_for(resource, type_name)

    @pecan.expose("json")
    def delete(self, type_name: str, resource: Resource) -> None:
        request = pecan.request
        request.enforce("delete resource", formats.format_resource(resource))
        check_preconditions(request, resource)
        request.services.indexer.delete_resource(type_name, resource.id)


class ResourceMetricsController:
    """`/v1/resource/{type}/{id}/metric`."""

    def lookup(self, type_name: str, resource_id: str) -> tuple[Resource]:
        return (find_resource(pecan.request, type_name, resource_id),)

    @pecan.expose("json")
    def get(self, resource: Resource) -> list[dict[str, Any]]:
        request = pecan.request
        request.enforce("get resource", formats.format_resource(resource))
        return [formats.format_metric(found)
                for found in request.services.indexer.list_resource_metrics(resource.id)]

    @pecan.expose("json")
    def post(self, resource: Resource) -> list[dict[str, Any]]:
        """Adds metrics; answers 200 with all of them."""
        request = pecan.request
        request.enforce("update resource", formats.format_resource(resource))
        choices = read_metrics(request, request.read_json(metric_schemas.RESOURCE_METRICS), resource.id)
        with metric.named_in_body():
            metrics = request.services.indexer.add_resource_metrics(resource.id, choices)
        return [formats.format_metric(found) for found in metrics]


class NamedMetricController(metric.MetricController):
    """`/v1/resource/{type}/{id}/metric/{name}`."""

    def lookup(self, type_name: str, resource_id: str, name: str) -> tuple[Metric]:  # type: ignore[override]
        return (find_named_metric(pecan.request, type_name, resource_id, name),)


class NamedMeasuresController(measures.MeasuresController):
    """`/v1/resource/{type}/{id}/metric/{name}/measures`."""

    def lookup(self, type_name: str, resource_id: str, name: str) -> tuple[Metric]:  # type: ignore[override]
        return (find_named_metric(pecan.request, type_name, resource_id, name),)
