"""`/v1/aggregation/metric`, deprecated: one expression over a list of metrics, with arguments in the URL."""

import uuid
from collections.abc import Sequence
from typing import Any

import pecan
import voluptuous

from gnocchi import times
from gnocchi.carbonara import methods
from gnocchi.exceptions import AggregationDoesNotExist, GranularityDoesNotExist
from gnocchi.indexer import Metric
from gnocchi.query import fetch
from gnocchi.query.aggregates import Selection, Terms
from gnocchi.query.expression import AGGREGATIONS, RESAMPLINGS, Aggregate, Node, Reference, Resample
from gnocchi.query.expression import Metric as MetricNode
from gnocchi.query.series import Series
from gnocchi.rest import arguments, errors, ids, measures, schemas
from gnocchi.rest.controllers.aggregates import compute, read_terms, wants_null
from gnocchi.rest.controllers.measures import DEFAULT_METHOD, read_resample, refresh_metrics
from gnocchi.rest.controllers.metric import enforce_on_metrics
from gnocchi.rest.request import Request

#: Percent of the timestamps at which every metric must have a value, unless the client says otherwise.
NEEDED_OVERLAP = 100.0


class MetricsAggregationController:
    """`/v1/aggregation/metric`."""

    @pecan.expose("json")
    def get(self) -> bytes:
        texts = pecan.request.GET.getall("metric")
        try:
            wanted = [ids.parse_uuid(text) for text in texts]
        except ValueError:
            number = next(number for number, text in enumerate(texts) if not _is_uuid(text))
            raise errors.RequestError(400, f"Invalid input: not a valid value @ data[{number}]") from None
        return aggregate_metrics(pecan.request, wanted)

    @pecan.expose("json")
    def post(self) -> bytes:
        wanted = pecan.request.read_json()
        if not isinstance(wanted, list):
            raise schemas.invalid_input(voluptuous.Invalid("expected a list"))
        for number, text in enumerate(wanted):
            if not _is_uuid(text):
                raise schemas.invalid_input(voluptuous.Invalid("not a valid value", [number]))
        return aggregate_metrics(pecan.request, [ids.parse_uuid(text) for text in wanted])


def _is_uuid(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(ids.parse_uuid(text))
    except ValueError:
        return False


def aggregate_metrics(request: Request, wanted: Sequence[uuid.UUID]) -> bytes:
    """Answer with the aggregates across metrics.  Raises errors.RequestError."""
    terms = read_terms(request, NEEDED_OVERLAP)
    resample = read_resample(request)
    method = arguments.read_text(request, "aggregation") or DEFAULT_METHOD
    across = arguments.read_text(request, "reaggregation") or method
    refresh = arguments.read_bool(request, "refresh", default=False)
    if resample is not None and terms.granularity is None:
        raise errors.RequestError(400, "A granularity must be specified to resample")
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        return b"[]"
    known = {metric.id: metric for metric in request.services.indexer.list_metrics_by_id(wanted)}
    for id in wanted:
        if id not in known:
            raise errors.RequestError(404, f"Metric {id} does not exist")
    metrics = [known[id] for id in wanted]
    enforce_on_metrics(request, "get metric", metrics)
    if refresh:
        refresh_metrics(request, metrics)
    if len(metrics) == 1:
        return _read_one(request, metrics[0], method, terms, resample)
    _check_metrics(metrics, method, terms)
    root, selection = _make_expression(metrics, method, across, resample)
    result, = compute(request, root, [selection], terms)
    return measures.encode_measures(result.measures[0], wants_null(request))


def _read_one(request: Request, metric: Metric, method: str, terms: Terms, resample: Any) -> bytes:
    """Answer with the measures of one metric as they are: there is nothing to aggregate."""
    try:
        return measures.encode_measures(fetch.read_measures(
            request.services.store, request.services.indexer, metric, method,
            None if terms.granularity is None else (terms.granularity,), terms.window.start, terms.window.stop,
            resample), wants_null(request))
    except AggregationDoesNotExist as e:
        raise errors.RequestError(404, {
            "cause": "Aggregation method does not exist for this metric",
            "detail": {"metric": str(metric.id), "aggregation_method": method},
        }) from e


def _check_metrics(metrics: Sequence[Metric], method: str, terms: Terms) -> None:
    """Raises GranularityDoesNotExist for the first metric that lacks method or granularity."""
    for metric in metrics:
        policy = metric.archive_policy
        first = policy.granularities[0] if terms.granularity is None else terms.granularity
        if method not in policy.aggregation_methods:
            raise GranularityDoesNotExist(metric.id, method, times.to_seconds(policy.granularities[0]))
        if terms.granularity is not None and policy.get_item(first) is None:
            raise GranularityDoesNotExist(metric.id, method, times.to_seconds(first))


def _make_expression(metrics: Sequence[Metric], method: str, across: str, resample: Any) -> tuple[Node, Selection]:
    """Return what the arguments mean in the language of /v1/aggregates.  Raises errors.RequestError 400."""
    if across not in AGGREGATIONS:
        raise errors.argument_error("reaggregation", f"Must be one of {', '.join(sorted(AGGREGATIONS))}")
    references = [Reference(str(metric.id), method) for metric in metrics]
    root: Node = MetricNode(["metric", *map(list, references)], tuple(references))
    if resample is not None:
        # Stored values of `rate:x` are differences already.
        plain = method.removeprefix(methods.RATE)
        assert plain in RESAMPLINGS, f"BUG: {method} is stored and cannot be resampled"
        root = Resample(["resample", plain, str(resample), root.source], root, plain, resample)
    root = Aggregate(["aggregate", across, root.source], root, across)
    series = [Series(metric, method) for metric in metrics]
    return root, Selection(series, [str(metric.id) for metric in metrics], None,
                           {reference: [row] for row, reference in enumerate(references)})
