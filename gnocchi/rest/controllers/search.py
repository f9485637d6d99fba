"""`/v1/search`."""

import uuid
from collections.abc import Sequence
from typing import Any

import numpy
import pecan
import voluptuous

from gnocchi import times
from gnocchi.indexer import Metric, ResourceType
from gnocchi.query.align import Points
from gnocchi.query.fetch import MeasuresAtGranularity, Window
from gnocchi.query.series import Series, read_points
from gnocchi.rest import arguments, errors, ids, json, measures, resource_lists, schemas, visibility
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
        by_policy: dict[uuid.UUID, list[Metric]] = {}
        for metric in metrics:
            _check_aggregations(metric, method, granularities)
            by_policy.setdefault(metric.archive_policy.id, []).append(metric)
        texts: dict[uuid.UUID, bytes] = {}
        for alike in by_policy.values():
            wanted = sorted(granularities or alike[0].archive_policy.granularities, reverse=True)
            texts |= _search(request, alike, method, wanted, window, matches)
        return json.assemble({str(metric.id): texts[metric.id] for metric in metrics})


def _list_metrics(request: Request) -> list[Metric]:
    """The metrics named, each once, in the order given; unknown ones are left out."""
    texts = request.GET.getall("metric_id")
    if not texts:
        raise errors.argument_error("metric_id", "must be given")
    try:
        wanted = list(dict.fromkeys(map(ids.parse_uuid, texts)))
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


def _search(request: Request, metrics: Sequence[Metric], method: str, granularities: Sequence[numpy.timedelta64],
            window: Window, matches: ValueFilter) -> dict[uuid.UUID, bytes]:
    """Return the encoded rows that match, of metrics of one archive policy that has the granularities."""
    services = request.services
    found = read_points(services.store, services.indexer, [Series(metric, method) for metric in metrics], granularities,
                        window, services.conf.api.aggregates_max_points)
    parts = [_split(points, len(metrics), granularity, matches)
             for points, granularity in zip(found, granularities, strict=True)]
    nan_null = measures.wants_null(request)
    return {metric.id: measures.encode_measures([part[row] for part in parts], nan_null)
            for row, metric in enumerate(metrics)}


def _split(points: Points, metrics: int, granularity: numpy.timedelta64,
           matches: ValueFilter) -> list[MeasuresAtGranularity]:
    """Return the points of each metric that match, ascending."""
    kept = numpy.flatnonzero(matches(points.values))
    kept = kept[numpy.lexsort((points.timestamps[kept], points.rows[kept]))]
    bounds = numpy.searchsorted(points.rows[kept], numpy.arange(1, metrics))
    return [MeasuresAtGranularity(granularity, points.timestamps[part], points.values[part])
            for part in numpy.split(kept, bounds)]
