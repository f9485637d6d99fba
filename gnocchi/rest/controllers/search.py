"""`/v1/search`."""

from collections.abc import Sequence
from typing import Any

import numpy
import pecan
import voluptuous

from gnocchi import times
from gnocchi.indexer import Metric, ResourceType
from gnocchi.query.fetch import MeasuresAtGranularity, Window
from gnocchi.query.series import Series
from gnocchi.query.several import read_several
from gnocchi.resource_ids import parse_uuid
from gnocchi.rest import arguments, errors, json, measures, resource_lists, schemas, visibility
from gnocchi.rest.controllers.metric import enforce_on_metrics
from gnocchi.rest.filters.read import read_filter
from gnocchi.rest.filters.values import ValueFilter
from gnocchi.rest.request import Request


class NoTypeController:
    """`/v1/search/resource`: no method without a type."""


class ResourceSearchController:
    """`/v1/search/resource/{type}`."""

    def lookup(self, type_name: str) -> tuple[ResourceType]:
        return (pecan.request.services.indexer.get_resource_type(type_name),)

    def post(self, type: ResourceType) -> list[dict[str, Any]]:
        request = pecan.request
        history = arguments.read_bool(request, "history", default=False)
        wanted = read_filter(request, type, history)
        return resource_lists.list_page(request, pecan.response, type, filter=wanted,
                                        visible=visibility.list_visible(request, "search resource"))


class MetricSearchController:
    """`/v1/search/metric`: aggregates whose values match."""

    def post(self) -> bytes:
        request = pecan.request
        metrics = _list_metrics(request)
        enforce_on_metrics(request, "search metric", metrics)
        if not request.has_body:
            raise errors.RequestError(400, "No query specified in body")
        try:
            matches = ValueFilter(request.read_json())
        except voluptuous.Invalid as e:
            raise schemas.invalid_input(e) from e
        window = Window(_read_time(request, "start"), _read_time(request, "stop"))
        method = arguments.read_text(request, "aggregation") or "mean"
        granularities = _read_granularities(request)
        for metric in metrics:
            _check_aggregations(metric, method, granularities)
        found = read_several(request.services.store, request.services.indexer,
                             [Series(metric, method) for metric in metrics], granularities or None, window,
                             request.services.conf.api.aggregates_max_points)
        nan_null = measures.wants_null(request)
        return json.assemble({str(metric.id): measures.encode_measures([_select(part, matches) for part in parts],
                                                                       nan_null)
                              for metric, parts in zip(metrics, found, strict=True)})


def _list_metrics(request: Request) -> list[Metric]:
    """The metrics named, each once, in the order given; unknown ones are left out."""
    texts = request.GET.getall("metric_id")
    if not texts:
        raise errors.argument_error("metric_id", "must be given")
    try:
        wanted = list(dict.fromkeys(map(parse_uuid, texts)))
    except ValueError as e:
        raise errors.argument_error("metric_id", str(e)) from None
    known = {metric.id: metric for metric in request.services.indexer.list_metrics_by_id(wanted)}
    return [known[id] for id in wanted if id in known]


def _read_time(request: Request, name: str) -> numpy.datetime64 | None:
    try:
        return arguments.read_timestamp(request, name)
    except errors.RequestError:
        raise errors.RequestError(400, f"Invalid value for {name}") from None


def _read_granularities(request: Request) -> tuple[numpy.timedelta64, ...]:
    try:
        return tuple(dict.fromkeys(map(times.parse_timespan, request.GET.getall("granularity"))))
    except ValueError as e:
        raise errors.argument_error("granularity", str(e)) from None


def _check_aggregations(metric: Metric, method: str, granularities: Sequence[numpy.timedelta64]) -> None:
    policy = metric.archive_policy
    if method not in policy.aggregation_methods:
        raise errors.RequestError(400, {"cause": "Metric does not exist", "detail": {"metric": str(metric.id)}})
    for granularity in granularities:
        if policy.get_item(granularity) is None:
            raise errors.RequestError(400, {
                "cause": "Aggregation does not exist",
                "detail": {"granularity": times.to_seconds(granularity), "aggregation_method": method}})


def _select(part: MeasuresAtGranularity, matches: ValueFilter) -> MeasuresAtGranularity:
    """Keep the measures that match."""
    kept = matches(part.values)
    return part._replace(timestamps=part.timestamps[kept], values=part.values[kept])
