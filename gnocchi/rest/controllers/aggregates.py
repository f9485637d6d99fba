"""`/v1/aggregates`: arithmetic across metrics."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import pecan

from gnocchi.exceptions import NoSuchMetric, NoSuchResourceType
from gnocchi.indexer import Resource, ResourceType
from gnocchi.indexer.filters import Filter
from gnocchi.indexer.resource_lists import filter_kinds
from gnocchi.query import aggregates, align, expression
from gnocchi.query.aggregates import MetricsCannotBeAggregated, Selection, Terms, UnknownAggregation
from gnocchi.query.expression import InvalidExpression, Node, Reference
from gnocchi.query.fetch import Window
from gnocchi.query.group import Group, list_metric_ids, make_groups
from gnocchi.query.series import Series
from gnocchi.rest import arguments, errors, formats, ids, json, measures, visibility
from gnocchi.rest.controllers.metric import enforce_on_metrics, list_resources_of
from gnocchi.rest.filters.text import parse_filter
from gnocchi.rest.filters.tree import FilterReader
from gnocchi.rest.request import Request
from gnocchi.rest.resource_lists import format_for
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
        use_history = arguments.read_bool(request, "use_history", default=False)
        details = arguments.read_bool(request, "details", default=False)
        terms = read_terms(request, None)
        body = request.read_json(schemas.QUERY)
        root = _parse(body["operations"])
        if "resource_type" not in body:
            selection = _select_metrics(request, root)
            result, = compute(request, root, [selection], terms)
            return json.assemble(_format(request, result, selection,
                                         _format_metrics(request, selection) if details else None))
        groupby = read_groupby(request)
        if groupby and use_history:
            raise errors.RequestError(501, "use_history is not served yet")
        type = _find_type(request, body["resource_type"])
        wanted = _read_search(request, type, body.get("search"))
        groups = find_groups(request, type, wanted, expression.list_references(root), groupby)
        results = compute(request, root, [group.selection for group in groups], terms)
        answers = [_format(request, result, group.selection, [format_for(resource, type.name) for resource
                                                             in group.resources] if details else None)
                   for group, result in zip(groups, results, strict=True)]
        if not groupby:
            return json.assemble(answers[0])
        return json.assemble([{"group": group.values, "measures": answer}
                              for group, answer in zip(groups, answers, strict=True)])


def read_groupby(request: Request) -> list[str]:
    """The attributes to group by, each once, in alphabetical order."""
    return sorted(set(filter(None, request.GET.getall("groupby"))))


def _find_type(request: Request, name: str) -> ResourceType:
    try:
        return request.services.indexer.get_resource_type(name)
    except NoSuchResourceType as e:
        raise errors.RequestError(400, {"cause": "Resource type does not exist", "detail": name}) from e


def _read_search(request: Request, type: ResourceType, search: Any) -> Filter | None:
    """The condition on resources in a body: a tree or a text.  Raises errors.RequestError 400, InvalidInput."""
    if not isinstance(search, str | dict):
        raise schemas.search_missing()
    tree = parse_filter(search) if isinstance(search, str) else search
    return FilterReader(filter_kinds(type), type.name, request.identity.creator).read(tree)


def find_groups(request: Request, type: ResourceType, wanted: Filter | None, references: Sequence[Reference],
                groupby: Sequence[str]) -> list[Group]:
    """Return the resources that match and that the caller may find, in groups, with their series.

    Raises NoSuchMetric, InvalidPagination when there is no such attribute.
    """
    indexer = request.services.indexer
    resources = indexer.list_resources(type, sorts=groupby, filter=wanted,
                                       visible=visibility.list_visible(request, "search resource"))
    metrics = {metric.id: metric for metric in indexer.list_metrics_by_id(list_metric_ids(resources, references))}

    groups = make_groups(group_resources(resources, groupby), references, metrics)
    if not groups:
        raise NoSuchMetric(sorted({reference.name for reference in references}))
    return groups


def group_resources(resources: Iterable[Resource],
                    groupby: Sequence[str]) -> list[tuple[dict[str, Any], list[Resource]]]:
    """Return runs of resources whose attributes look the same, each with these."""
    def describe(resource: Resource) -> dict[str, Any]:
        shown = formats.format_typed_resource(resource) if groupby else {}
        return {name: shown[name] for name in groupby}

    return [(values, list(members)) for values, members in itertools.groupby(resources, describe)]


def compute(request: Request, root: Node, selections: Sequence[Selection], terms: Terms) -> list[aggregates.Result]:
    """Evaluate an expression.  Raises errors.RequestError 400 or 404, and what reading does."""
    services = request.services
    try:
        return aggregates.compute(services.store, services.indexer, root, selections, terms)
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


def _format(request: Request, result: aggregates.Result, selection: Selection, references: Any) -> dict[str, Any]:
    """Return a result as it is shown: by metric (below its resource, if any) and method, or as `aggregated`."""
    texts = [measures.encode_measures(parts, wants_null(request)) for parts in result.measures]
    tree: dict[str, Any] = {}
    if result.columns is None:
        tree["aggregated"] = texts[0]
    else:
        for text, column in zip(texts, result.columns, strict=True):
            branch = tree if selection.owners is None else tree.setdefault(str(selection.owners[column]), {})
            branch.setdefault(selection.names[column], {})[selection.series[column].method] = text
    return {"measures": tree} if references is None else {"measures": tree, "references": references}


def _format_metrics(request: Request, selection: Selection) -> list[dict[str, Any]]:
    metrics = list({metric.id: metric for metric, _ in selection.series}.values())
    resources = list_resources_of(request, metrics)
    return [formats.format_single_metric(metric, resources.get(metric.resource_id)) for metric in metrics]
