"""`/v1/aggregates`: arithmetic across metrics."""

import contextlib
import datetime
import itertools
import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
import pecan

from gnocchi import times
from gnocchi.exceptions import NoSuchMetric, NoSuchResourceType
from gnocchi.indexer import Resource, ResourceType
from gnocchi.indexer.filters import AllOf, AnyOf, Comparison, Filter, Membership, all_of
from gnocchi.indexer.metrics import chunks
from gnocchi.indexer.resource_lists import filter_kinds
from gnocchi.query import aggregates, align, expression
from gnocchi.query.aggregates import MetricsCannotBeAggregated, Selection, Terms, UnknownAggregation
from gnocchi.query.expression import InvalidExpression, Node, Reference
from gnocchi.query.fetch import Window
from gnocchi.query.group import Group, list_metric_ids, make_groups, select_series
from gnocchi.query.history import Pool, Stay, compute_group, list_stays
from gnocchi.query.operations import Work
from gnocchi.query.series import Series, read_points
from gnocchi.resource_ids import parse_uuid
from gnocchi.rest import arguments, errors, formats, json, measures, visibility
from gnocchi.rest.controllers.metric import enforce_on_metrics, list_resources_of
from gnocchi.rest.filters.text import parse_filter
from gnocchi.rest.filters.tree import FilterReader
from gnocchi.rest.request import Request
from gnocchi.rest.resource_lists import format_for
from gnocchi.rest.schemas import aggregates as schemas

CANNOT = "Metrics cannot be aggregated"

#: Operations may take this many times the values that may be read.
WORK_FACTOR = 16


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
    points_max = request.services.conf.api.aggregates_max_points
    return Terms(granularity, window, read_fill(request), percent, points_max, Work(WORK_FACTOR * points_max))


class AggregatesController:
    """`/v1/aggregates`."""

    def post(self) -> bytes:
        request = pecan.request
        use_history = arguments.read_bool(request, "use_history", default=False)
        details = arguments.read_bool(request, "details", default=False)
        terms = read_terms(request, None)
        body = request.read_json(schemas.QUERY)
        root = _parse(body["operations"], named="resource_type" in body)
        if "resource_type" not in body:
            selection = _select_metrics(request, root)
            result, = compute(request, root, [selection], terms)
            return json.assemble(_format(request, result, selection,
                                         _format_metrics(request, selection) if details else None))
        groupby = read_groupby(request)
        search = Search(_find_type(request, body["resource_type"]), body.get("search"), groupby)
        if groupby and use_history:
            return json.assemble(_answer_history(request, root, search, terms, details))
        return json.assemble(_answer_groups(request, root, search, terms, details))


class Search(NamedTuple):
    """Which resources: a type, the client's filter as it came, and what to group by."""

    type: ResourceType
    filter: Any
    groupby: Sequence[str]

    def read_filter(self, request: Request, history: bool = False) -> Filter | None:
        """Return the condition on resources.  Raises errors.RequestError 400, InvalidInput."""
        if not isinstance(self.filter, str | dict):
            raise schemas.search_missing()
        tree = parse_filter(self.filter) if isinstance(self.filter, str) else self.filter
        return FilterReader(filter_kinds(self.type, history), self.type.name, request.identity.creator).read(tree)


def _answer_groups(request: Request, root: Node, search: Search, terms: Terms, details: bool) -> Any:
    groups = find_groups(request, search.type, search.read_filter(request), expression.list_references(root),
                         search.groupby)
    results = compute(request, root, [group.selection for group in groups], terms)
    answers = [_format(request, result, group.selection, [format_for(resource, search.type.name) for resource
                                                         in group.resources] if details else None)
               for group, result in zip(groups, results, strict=True)]
    if not search.groupby:
        return answers[0]
    return [{"group": group.values, "measures": answer} for group, answer in zip(groups, answers, strict=True)]


def _answer_history(request: Request, root: Node, search: Search, terms: Terms, details: bool) -> Any:
    """Return the groups that revisions of resources form, each for the time in which it had its members."""
    references = expression.list_references(root)
    stays = _list_stays(request, search, terms.window)
    resources = {stay.resource.id: stay.resource for stay in stays}
    metrics = {metric.id: metric for metric in request.services.indexer.list_metrics_by_id(
        list_metric_ids(resources.values(), references))}
    selection = select_series(list(resources.values()), references, metrics)
    answers = []
    if selection.series:
        with _explained():
            granularities = aggregates.choose_granularities(selection, terms.granularity)
            pool = Pool(selection, read_points(request.services.store, request.services.indexer, selection.series,
                                               granularities, terms.window, terms.points_max))
            for values, members in _group_stays(stays, search.groupby):
                mine, points = pool.take({stay.resource.id for stay in members})
                found = compute_group(root, mine, members, terms, granularities, points)
                if found:
                    used = set(mine.owners or ())
                    columns = None if None in found else tuple(column for column in found if column is not None)
                    answers.append({"group": values, "measures": _format(
                        request, aggregates.Result(columns, list(found.values())), mine,
                        [_format_stay(stay, search.type) for stay in members if stay.resource.id in used]
                        if details else None)})
    if not answers:
        raise NoSuchMetric(sorted({reference.name for reference in references}))
    return answers


def _list_stays(request: Request, search: Search, window: Window) -> list[Stay]:
    """Return when each revision that matches counts.

    Raises errors.RequestError 400, InvalidInput, InvalidPagination when there is no attribute to group by.
    """
    indexer = request.services.indexer
    wanted = [search.read_filter(request, history=True)]
    if window.start is not None and window.stop is not None:
        start, stop = window.start.astype("M8[us]").item(), window.stop.astype("M8[us]").item()
        wanted.append(AllOf((Comparison("revision_start", "<", stop), AnyOf((
            Comparison("revision_end", ">=", start), Comparison("revision_end", "=", None))))))
    visible = visibility.list_visible(request, "search resource")
    revisions = indexer.list_resources(search.type, sorts=search.groupby, history=True, filter=all_of(wanted),
                                       visible=visible)
    firsts: dict[uuid.UUID, datetime.datetime] = {}
    for part in chunks(sorted({revision.id for revision in revisions})):
        for revision in indexer.list_resources(search.type, history=True, filter=Membership("id", tuple(part))):
            firsts[revision.id] = min(revision.revision_start, firsts.get(revision.id, revision.revision_start))
    return list_stays(revisions, firsts, window)


def _group_stays(stays: Sequence[Stay], groupby: Sequence[str]) -> list[tuple[dict[str, Any], list[Stay]]]:
    """Return the stays of each group, by the text of the groups' values."""
    groups: dict[tuple[str, ...], tuple[dict[str, Any], list[Stay]]] = {}
    for stay in stays:
        values = _describe(stay.resource, groupby)
        texts = tuple("" if value is None else str(value) for value in values.values())
        groups.setdefault(texts, (values, []))[1].append(stay)
    return [groups[texts] for texts in sorted(groups)]


def _format_stay(stay: Stay, type: ResourceType) -> dict[str, Any]:
    start, stop = stay.window
    return format_for(stay.resource, type.name) | {
        "search_start": None if start is None else times.format_timestamps(numpy.array([start]))[0],
        "search_end": None if stop is None else times.format_timestamps(numpy.array([stop]))[0]}


def read_groupby(request: Request) -> list[str]:
    """The attributes to group by, each once, in alphabetical order."""
    return sorted(set(filter(None, request.GET.getall("groupby"))))


def _find_type(request: Request, name: str) -> ResourceType:
    try:
        return request.services.indexer.get_resource_type(name)
    except NoSuchResourceType as e:
        raise errors.RequestError(400, {"cause": "Resource type does not exist", "detail": name}) from e


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
    return [(values, list(members)) for values, members in itertools.groupby(
        resources, lambda resource: _describe(resource, groupby))]


def _describe(resource: Resource, groupby: Sequence[str]) -> dict[str, Any]:
    """Return attributes of a resource as they are shown."""
    shown = formats.format_typed_resource(resource) if groupby else {}
    return {name: shown[name] for name in groupby}


def compute(request: Request, root: Node, selections: Sequence[Selection], terms: Terms) -> list[aggregates.Result]:
    """Evaluate an expression.  Raises errors.RequestError 400 or 404, and what reading does."""
    services = request.services
    with _explained():
        return aggregates.compute(services.store, services.indexer, root, selections, terms)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what cannot be computed into errors.RequestError 400 or 404."""
    try:
        yield
    except MetricsCannotBeAggregated as e:
        raise errors.RequestError(400, {"cause": CANNOT, "reason": e.reason, "detail": e.detail}) from e
    except UnknownAggregation as e:
        raise errors.RequestError(404, {"cause": "Metrics with unknown aggregation",
                                        "detail": [[str(e.series.metric.id), e.series.method]]}) from e


def _parse(operations: Any, *, named: bool) -> Node:
    """Return the expression.  Raises errors.RequestError 400.

    named : whether it names metrics of resources, not ids
    """
    try:
        root = expression.parse(operations)
        if named:
            expression.check_names(root)
        return root
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
        wanted = [parse_uuid(reference.name) for reference in references]
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
    texts = [measures.encode_measures(parts, measures.wants_null(request)) for parts in result.measures]
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
