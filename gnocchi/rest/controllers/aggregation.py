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
from gnocchi.rest import arguments, errors, ids, json, measures, schemas, visibility
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
            wanted = [ids.parse_uuid(text) for text in texts]
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
        return aggregate_named(pecan.request, [ids.parse_uuid(text) for text in wanted])


def _is_uuid(text: Any) -> bool:
    try:
        return isinstance(text, str) and bool(ids.parse_uuid(text))
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
    return answer(request, metrics, question)


def answer(request: Request, metrics: Sequence[Metric], question: Question) -> bytes:
    """Return the aggregates across metrics, encoded.  Raises errors.RequestError."""
    if not metrics:
        return b"[]"
    if question.refresh:
        refresh_metrics(request, metrics)
    if len(metrics) == 1:
        return _read_one(request, metrics[0], question)
    _check_metrics(metrics, question)
    root, selection = _make_expression(metrics, question)
    result, = compute(request, root, [selection], question.terms)
    return measures.encode_measures(result.measures[0], measures.wants_null(request))


def _read_one(request: Request, metric: Metric, question: Question) -> bytes:
    """Return the measures of one metric as they are: there is nothing to aggregate."""
    terms, method = question.terms, question.method
    try:
        return measures.encode_measures(fetch.read_measures(
            request.services.store, request.services.indexer, metric, method,
            None if terms.granularity is None else (terms.granularity,), terms.window.start, terms.window.stop,
            question.resample), measures.wants_null(request))
    except AggregationDoesNotExist as e:
        raise errors.RequestError(404, {
            "cause": "Aggregation method does not exist for this metric",
            "detail": {"metric": str(metric.id), "aggregation_method": method},
        }) from e


def _check_metrics(metrics: Sequence[Metric], question: Question) -> None:
    """Raises GranularityDoesNotExist for the first metric that lacks method or granularity."""
    granularity = question.terms.granularity
    for metric in metrics:
        policy = metric.archive_policy
        if question.method not in policy.aggregation_methods:
            raise GranularityDoesNotExist(metric.id, question.method, times.to_seconds(policy.granularities[0]))
        if granularity is not None and policy.get_item(granularity) is None:
            raise GranularityDoesNotExist(metric.id, question.method, times.to_seconds(granularity))


def _make_expression(metrics: Sequence[Metric], question: Question) -> tuple[Node, Selection]:
    """Return what the arguments mean in the language of /v1/aggregates.  Raises errors.RequestError 400."""
    across, resample = question.across, question.resample
    if across not in AGGREGATIONS:
        raise errors.argument_error("reaggregation", f"Must be one of {', '.join(sorted(AGGREGATIONS))}")
    references = [Reference(str(metric.id), question.method) for metric in metrics]
    root: Node = MetricNode(["metric", *map(list, references)], tuple(references))
    if resample is not None:
        # Stored values of `rate:x` are differences already.
        plain = question.method.removeprefix(methods.RATE)
        assert plain in RESAMPLINGS, f"BUG: {question.method} is stored and cannot be resampled"
        root = Resample(["resample", plain, str(resample), root.source], root, plain, resample)
    root = Aggregate(["aggregate", across, root.source], root, across)
    series = [Series(metric, question.method) for metric in metrics]
    return root, Selection(series, [str(metric.id) for metric in metrics], None,
                           {reference: [row] for row, reference in enumerate(references)})


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
        groups = [(values, answer(request, [metrics[id] for resource in members
                                            if (id := resource.metrics.get(metric_name)) in metrics], question))
                  for values, members in group_resources(resources, groupby)]
        if not groupby:
            return groups[0][1] if groups else b"[]"
        return json.assemble([{"group": values, "measures": text} for values, text in groups])
