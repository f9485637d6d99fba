"""Measures of one metric: `.../measures` of a metric by id or by name."""

from collections.abc import Sequence

import numpy
import pecan

from gnocchi import metric_ids, times
from gnocchi.exceptions import AggregationDoesNotExist, SackLocked
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import Metric
from gnocchi.processing.locks import sack_name
from gnocchi.processing.refresh import refresh_sacks
from gnocchi.query import fetch
from gnocchi.rest import arguments, errors, formats, measures
from gnocchi.rest.controllers.metric import find_metric, get_resource_of
from gnocchi.rest.request import Request

DEFAULT_METHOD = "mean"


def accept_measures(request: Request, response, batch: MeasureBatch) -> None:
    """Answer 202 once the measures of a checked batch are durable."""
    if len(batch.timestamps):
        request.services.incoming.write_measures(batch)
    response.status = 202


def refresh_metrics(request: Request, metrics: Sequence[Metric]) -> None:
    """Have everything that was posted to metrics aggregated.  Raises errors.RequestError 503."""
    services = request.services
    count = services.indexer.count_sacks()
    sacks = metric_ids.sack_numbers(metric_ids.pack_ids([metric.id for metric in metrics]), count)
    try:
        with services.turns.refreshing(services.conf.api.operation_timeout) as timeout_s:
            refresh_sacks(sacks.tolist(), services.incoming, services.indexer, services.store,
                          lambda: services.coordinator, timeout_s, services.count_processed,
                          services.backends.activity.note)
    except SackLocked as e:
        metric = next(metric for metric, sack in zip(metrics, sacks.tolist(), strict=True)
                      if e.sack == sack_name(sack, count))
        raise errors.RequestError(
            503, f"Unable to refresh metric: {metric.id}. Metric is locked. Please try again.") from e
    finally:
        services.publish_statistics()


def read_resample(request: Request) -> numpy.timedelta64 | str | None:
    """The argument `resample`: a span or a calendar letter.  Raises errors.RequestError 400."""
    text = arguments.read_text(request, "resample")
    if text is None or text in fetch.CALENDAR_DAYS:
        return text
    try:
        return times.parse_timespan(text)
    except ValueError as e:
        raise errors.RequestError(400, str(e)) from e


class MeasuresController:
    """`/v1/metric/{id}/measures`."""

    def lookup(self, metric_id: str) -> tuple[Metric]:
        return (find_metric(pecan.request, metric_id),)

    def get(self, metric: Metric) -> bytes:
        request = pecan.request
        request.enforce("get measures", formats.metric_target(metric, get_resource_of(request, metric)))
        start = arguments.read_timestamp(request, "start")
        stop = arguments.read_timestamp(request, "stop")
        granularity = arguments.read_timespan(request, "granularity")
        resample = read_resample(request)
        if resample is not None and granularity is None:
            raise errors.RequestError(400, "A granularity must be specified to resample")
        method = arguments.read_text(request, "aggregation")
        method = DEFAULT_METHOD if method is None else method
        if arguments.read_bool(request, "refresh", default=False):
            refresh_metrics(request, [metric])
        try:
            return measures.encode_measures(fetch.read_measures(
                request.services.store, request.services.indexer, metric, method,
                None if granularity is None else (granularity,), start, stop, resample), measures.wants_null(request))
        except AggregationDoesNotExist as e:
            raise errors.RequestError(404, {
                "cause": "Aggregation method does not exist for this metric",
                "detail": {"metric": str(metric.id), "aggregation_method": method},
            }) from e

    def post(self, metric: Metric) -> None:
        request = pecan.request
        request.enforce("post measures", formats.metric_target(metric))
        body = request.read_body()
        with request.services.turns.decoding(len(body)):
            batch = measures.decode_measures(body, metric.id)
        accept_measures(request, pecan.response, batch)
