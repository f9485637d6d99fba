"""`/v1/aggregates`: arithmetic across metrics."""

import math
from typing import Any

import pecan

from gnocchi.query import aggregates, align, expression
from gnocchi.query.aggregates import MetricsCannotBeAggregated, Selection, Terms, UnknownAggregation
from gnocchi.query.expression import InvalidExpression, Node
from gnocchi.query.fetch import Window
from gnocchi.query.series import Series
from gnocchi.rest import arguments, errors, formats, ids, json, measures
from gnocchi.rest.controllers.metric import enforce_on_metrics, list_resources_of
from gnocchi.rest.request import Request
from gnocchi.rest.schemas import aggregates as schemas

CANNOT = "Metrics cannot be aggregated"


def read_fill(request: Request) -> float | str | None:
    """The argument `fill`: a number or one of align.FILLS.  Raises errors.RequestError 400."""
    text = arguments.read_text(request, "fill")
    if text is None or text in align.FILLS:
        return text
    try:
        return float(text)
    except ValueError:
        *others, last = [f"'{word}'" for word in align.FILLS]
        raise errors.argument_error("fill", f"Must be a float, {', '.join(others)} or {last}") from None


def read_percent(request: Request, name: str, default: float | None) -> float | None:
    """An argument that is a number.  Raises errors.RequestError 400."""
    text = arguments.read_text(request, name)
    if text is None:
        return default
    try:
        percent = float(text)
    except ValueError:
        percent = math.nan
    if not math.isfinite(percent):
        raise errors.argument_error(name, "Must be a number")
    return percent


def read_terms(request: Request, needed_overlap: float | None) -> Terms:
    """The arguments that say what to read and how to join it.  Raises errors.RequestError 400."""
    percent = read_percent(request, "needed_overlap", needed_overlap)
    window = Window(arguments.read_timestamp(request, "start"), arguments.read_timestamp(request, "stop"))
    granularity = arguments.read_timespan(request, "granularity")
    return Terms(granularity, window, read_fill(request), percent, request.services.conf.api.aggregates_max_points)


def wants_null(request: Request) -> bool:
    """Whether the client asked for null in place of NaN and infinities, which JSON does not have."""
    return "nan=null" in request.environ.get("HTTP_ACCEPT", "").replace(" ", "")


class AggregatesController:
    """`/v1/aggregates`."""

    @pecan.expose("json")
    def post(self) -> bytes:
        request = pecan.request
        arguments.read_bool(request, "use_history", default=False)
        details = arguments.read_bool(request, "details", default=False)
        terms = read_terms(request, None)
        body = request.read_json(schemas.QUERY)
        root = _parse(body["operations"])
        if "resource_type" in body:
            raise errors.RequestError(501, "Aggregates across resources are not served yet; "
                                           "list the metrics in the operations")
        selection = _select_metrics(request, root)
        result = compute(request, root, selection, terms)
        texts = [measures.encode_measures(parts, wants_null(request)) for parts in result.measures]
        answer: dict[str, Any] = {"measures": _arrange(texts, result.columns, selection)}
        if details:
            answer["references"] = _format_references(request, selection)
        return json.assemble(answer)


def compute(request: Request, root: Node, selection: Selection, terms: Terms) -> aggregates.Result:
    """Evaluate an expression.  Raises errors.RequestError 400 or 404, and what reading does."""
    services = request.services
    try:
        return aggregates.compute(services.store, services.indexer, root, selection, terms)
    except MetricsCannotBeAggregated as e:
        raise errors.RequestError(400, {"cause": CANNOT, "reason": e.reason, "detail": e.detail}) from e
    except UnknownAggregation as e:
        raise errors.RequestError(404, {"cause": "Metrics with unknown aggregation",
                                        "detail": [[str(e.series.metric.id), e.series.method]]}) from e


def _parse(operations: Any) -> Node:
    try:
        return expression.parse(operations)
    except InvalidExpression as e:
        detail = {"cause": e.cause, "reason": e.reason, "detail": e.detail}
        if e.explanation:
            detail["explanation"] = e.explanation
        raise errors.RequestError(400, detail) from e


def _select_metrics(request: Request, root: Node) -> Selection:
    """Return the series that references by metric id mean, after asking whether the caller may read them.

    Raises errors.RequestError 400, 404, 403.
    """
    references = expression.list_references(root)
    try:
        wanted = [ids.parse_uuid(reference.name) for reference in references]
    except ValueError as e:
        raise errors.RequestError(400, {"cause": "Invalid metric references", "reason": str(e),
                                        "detail": [list(reference) for reference in references]}) from e
    known = {metric.id: metric for metric in request.services.indexer.list_metrics_by_id(list(dict.fromkeys(wanted)))}
    missing = sorted({str(id) for id in wanted if id not in known})
    if missing:
        raise errors.RequestError(404, {"cause": "Unknown metrics", "reason": "Provided metrics don't exists",
                                        "detail": missing})
    enforce_on_metrics(request, "get metric", list(known.values()))
    rows: dict[tuple[object, str], int] = {}
    columns = {}
    for reference, id in zip(references, wanted, strict=True):
        columns[reference] = [rows.setdefault((id, reference.method), len(rows))]
    series = [Series(known[id], method) for id, method in rows]
    return Selection(series, [str(metric.id) for metric, _ in series], None, columns)


def _arrange(texts: list[bytes], columns: tuple[int, ...] | None, selection: Selection) -> dict[str, Any]:
    """Return the encoded series by metric and method, or as `aggregated`."""
    if columns is None:
        return {"aggregated": texts[0]}
    tree: dict[str, Any] = {}
    for text, column in zip(texts, columns, strict=True):
        tree.setdefault(selection.names[column], {})[selection.series[column].method] = text
    return tree


def _format_references(request: Request, selection: Selection) -> list[dict[str, Any]]:
    metrics = list({metric.id: metric for metric, _ in selection.series}.values())
    resources = list_resources_of(request, metrics)
    return [formats.format_single_metric(metric, resources.get(metric.resource_id)) for metric in metrics]
