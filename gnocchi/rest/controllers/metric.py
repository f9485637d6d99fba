"""`/v1/metric`."""

import contextlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import pecan

from gnocchi.exceptions import NamedMetricAlreadyExists, NoSuchArchivePolicy, NoSuchMetric, NoSuchResource
from gnocchi.indexer import Metric, MetricDefinition, Resource
from gnocchi.indexer.filters import Membership
from gnocchi.indexer.metrics import chunks
from gnocchi.indexer.pagination import METRIC_SORTS
from gnocchi.resource_ids import parse_uuid
from gnocchi.rest import errors, formats, headers, ids, pagination, visibility
from gnocchi.rest.request import Request
from gnocchi.rest.schemas import metric as schemas

#: What lists can be filtered by, besides `id`, `user_id`, `project_id` and `status`.
FILTERS = ("name", "unit", "archive_policy_name", "creator")


@contextlib.contextmanager
def named_in_body() -> Iterator[None]:
    """What a body names and does not exist is the client's mistake (400); only what the path names can be missing."""
    try:
        yield
    except (NoSuchArchivePolicy, NoSuchMetric) as e:
        raise errors.RequestError(400, str(e)) from e


def find_metric(request: Request, text: str) -> Metric:
    """The live metric with an id as the client wrote it.  Raises NoSuchMetric with that text."""
    try:
        return request.services.indexer.get_metric(parse_uuid(text))
    except (ValueError, NoSuchMetric):
        raise NoSuchMetric(text) from None


def get_resource_of(request: Request, metric: Metric) -> Resource | None:
    """The resource of a metric, if it has one; if it has just gone, the metric will have gone with it."""
    if metric.resource_id is None:
        return None
    with contextlib.suppress(NoSuchResource):
        return request.services.indexer.get_resource("generic", metric.resource_id)
    return None


def list_resources_of(request: Request, metrics: Sequence[Metric]) -> dict[uuid.UUID | None, Resource]:
    """The resources of metrics, by id."""
    wanted = tuple(sorted({metric.resource_id for metric in metrics if metric.resource_id is not None}))
    found = [resource for part in chunks(wanted) for resource in request.services.indexer.list_resources(
        filter=Membership("id", tuple(part)))]
    return {resource.id: resource for resource in found}


def enforce_on_metrics(request: Request, rule: str, metrics: Sequence[Metric]) -> None:
    """Ask whether the caller may do something with all of many metrics.  Raises errors.RequestError 403.

    Metrics that are equal in all that the rule looks at are asked about once: 27 us each.
    """
    names = request.services.policy.names_in(rule)
    of_resources = names is None or any(name.startswith("resource.") for name in names)
    resources = list_resources_of(request, metrics) if of_resources else {}
    once = names is not None and all(name in formats.CREATOR_KEYS or name.startswith("resource.") for name in names)
    asked = set()
    for metric in metrics:
        if once:
            key = (metric.creator, metric.resource_id)
            if key in asked:
                continue
            asked.add(key)
        request.enforce(rule, formats.metric_target(metric, resources.get(metric.resource_id)))


class MetricsController:
    def get(self) -> list[dict[str, Any]]:
        request = pecan.request
        page = pagination.read_page(request, METRIC_SORTS)
        filters = _read_filters(request)
        visible = visibility.list_visible(request, "list metric", visibility.METRIC_FIELDS)
        if filters is None:
            return []
        metrics = request.services.indexer.list_metrics(
            filters, limit=page.limit, marker=ids.parse_marker(page.marker), sorts=page.sorts, visible=visible)
        if metrics:
            pagination.set_next_link(request, pecan.response, page, len(metrics), str(metrics[-1].id))
        return [formats.format_metric(metric) for metric in metrics]

    def post(self) -> dict[str, Any]:
        request = pecan.request
        creator = request.identity.creator
        definition = schemas.make_definition(request.read_json(schemas.CREATE), creator)
        enforce_create(request, definition)
        if definition.resource_id is not None:
            _enforce_update_resource(request, definition.resource_id)
        try:
            with named_in_body():
                metric, = request.services.indexer.create_metrics([definition], creator)
        except NoSuchResource as e:
            raise errors.RequestError(400, str(e)) from e
        except NamedMetricAlreadyExists as e:
            raise errors.RequestError(400, {"cause": "Named metric already exists", "detail": e.metric_name}) from e
        headers.set_created(request, pecan.response, "metric", str(metric.id))
        return formats.format_created_metric(metric)


def enforce_create(request: Request, definition: MetricDefinition) -> None:
    """Ask whether the caller may create a metric.  Raises errors.RequestError 403."""
    request.enforce("create metric", {
        "creator": request.identity.creator,
        "name": definition.name,
        "unit": definition.unit,
        "archive_policy_name": definition.archive_policy_name,
        "resource_id": None if definition.resource_id is None else str(definition.resource_id),
    })


def _enforce_update_resource(request: Request, resource_id: uuid.UUID) -> None:
    """A new metric changes its resource: the caller must be allowed to."""
    try:
        resource = request.services.indexer.get_resource("generic", resource_id)
    except NoSuchResource as e:
        raise errors.RequestError(400, str(e)) from e
    request.enforce("update resource", formats.format_resource(resource))


def _read_filters(request: Request) -> dict[str, Any] | None:
    """The filters of a list, or None when nothing can match.  Raises errors.RequestError 400."""
    arguments = request.GET
    for name in (*FILTERS, "id", "user_id", "project_id", "status"):
        if len(arguments.getall(name)) > 1:
            raise errors.RequestError(400, f"Invalid input: expected str for dictionary value @ data['{name}']")
    filters: dict[str, Any] = {name: arguments[name] for name in FILTERS if name in arguments}
    if "user_id" in arguments or "project_id" in arguments:
        filters["creator"] = f"{arguments.get('user_id', '')}:{arguments.get('project_id', '')}"
    status = arguments.get("status", "active")
    if status not in ("active", "delete"):
        raise errors.RequestError(400, "Invalid input: not a valid value for dictionary value @ data['status']")
    try:
        if "id" in arguments:
            filters["id"] = parse_uuid(arguments["id"])
    except ValueError:
        return None
    # A deleted metric is gone for clients at once: they poll until this list is empty.
    return None if status == "delete" else filters


class MetricController:
    def lookup(self, metric_id: str) -> tuple[Metric]:
        return (find_metric(pecan.request, metric_id),)

    def get(self, metric: Metric) -> dict[str, Any]:
        request = pecan.request
        resource = get_resource_of(request, metric)
        request.enforce("get metric", formats.metric_target(metric, resource))
        return formats.format_single_metric(metric, resource)

    def delete(self, metric: Metric) -> None:
        request = pecan.request
        request.enforce("delete metric", formats.metric_target(metric))
        request.services.indexer.delete_metrics([metric.id])
