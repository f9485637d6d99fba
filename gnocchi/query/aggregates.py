"""Aggregates across metrics: an expression, the series that it names, and what comes of it at each granularity.

Steps and errors: contract, aggregates 2.6 to 2.8.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy

from gnocchi.carbonara import grouping
from gnocchi.exceptions import InvalidInput, NotFound
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.query import align
from gnocchi.query.align import NotEnoughOverlap, Points, Table, join_points, split_pieces
from gnocchi.query.expression import Node, Reference
from gnocchi.query.fetch import MeasuresAtGranularity, Window
from gnocchi.query.operations import CannotAggregate, Work, evaluate
from gnocchi.query.series import Series, check_size, read_pieces
from gnocchi.storage.store import Store


class MetricsCannotBeAggregated(InvalidInput):
    """reason : text;  detail : the references concerned, as lists"""

    def __init__(self, reason: str, detail: list[Any]) -> None:
        super().__init__(f"Metrics cannot be aggregated: {reason}")
        self.reason = reason
        self.detail = detail


class UnknownAggregation(NotFound):
    """A metric's archive policy does not have the aggregation method.  series : the Series"""

    def __init__(self, series: Series) -> None:
        super().__init__(f"Aggregation method '{series.method}' for metric {series.metric.id} does not exist")
        self.series = series


class Selection(NamedTuple):
    """The series that an expression's references mean.

    series : each once
    names : of each series, what errors call it: the metric's id, or its name within a resource
    owners : of each series, the id of its resource; or None, when resources do not matter
    columns : reference -> indexes of `series`
    """

    series: Sequence[Series]
    names: Sequence[str]
    owners: Sequence[object] | None
    columns: Mapping[Reference, Sequence[int]]

    def describe(self) -> list[list[str]]:
        """Return the references as errors show them."""
        return [[name, series.method] for name, series in zip(self.names, self.series, strict=True)]


class Terms(NamedTuple):
    """granularity : timedelta64[ns], or None for all that the series have in common
    window : Window
    fill : number, one of align.FILLS, or None: see needed_overlap
    needed_overlap : percent of the timestamps at which every series must have a value; counts only without `fill`
    points_max : values to hold at once
    work : what may be computed, by all selections together; None: without limit
    """

    granularity: numpy.timedelta64 | None
    window: Window
    fill: float | str | None
    needed_overlap: float | None
    points_max: int
    work: Work | None = None


class Result(NamedTuple):
    """columns : index of each resulting series in the selection; None: one made of several
    measures : of each resulting series, coarsest granularity first
    """

    columns: tuple[int, ...] | None
    measures: list[list[MeasuresAtGranularity]]


def compute(store: Store, indexer: Indexer, root: Node, selections: Sequence[Selection], terms: Terms) -> list[Result]:
    """Evaluate an expression over stored series, once for each selection; no two have a series in common.

    Raises
    ------
    MetricsCannotBeAggregated, UnknownAggregation, TooManyPoints, CorruptedData, BackendUnavailable
    """
    # Read together: the metrics of different groups lie in the same packs.
    together: dict[tuple[int, ...], list[int]] = {}
    chosen = [choose_granularities(selection, terms.granularity) for selection in selections]
    for number, granularities in enumerate(chosen):
        together.setdefault(tuple(map(grouping.span_ns, granularities)), []).append(number)
    results: dict[int, Result] = {}
    points_max = terms.points_max
    for numbers in together.values():
        granularities = chosen[numbers[0]]
        series = [one for number in numbers for one in selections[number].series]
        pieces = read_pieces(store, indexer, series, granularities, terms.window, points_max)
        points_max -= sum(len(piece.values) for found in pieces for piece in found)
        groups = [split_pieces(found, [len(selections[number].series) for number in numbers]) for found in pieces]
        for place, number in enumerate(numbers):
            # One after the other: of a day of 10,000 metrics, two copies of all points are 700 MB.
            results[number] = compute_points(root, selections[number], terms, granularities,
                                             [join_points(group[place]) for group in groups])
    return [results[number] for number in range(len(selections))]


def compute_points(root: Node, selection: Selection, terms: Terms, granularities: Sequence[numpy.timedelta64],
                   points: Sequence[Points]) -> Result:
    """Evaluate an expression over the points of a selection's series at each granularity.

    Raises MetricsCannotBeAggregated, TooManyPoints.
    """
    fill = align.DROP if terms.fill is None and terms.needed_overlap is None else terms.fill
    tables = []
    for granularity, found in zip(granularities, points, strict=True):
        check_size(len(selection.series), found, terms.points_max)
        table = align.align(found, len(selection.series), granularity, fill)
        try:
            if fill is None and terms.needed_overlap is not None:
                table = align.cut_to_overlap(table, terms.needed_overlap, start=terms.window.start is not None,
                                             stop=terms.window.stop is not None)
            tables.append(evaluate(root, table, selection.columns, selection.owners, terms.work))
        except (NotEnoughOverlap, CannotAggregate) as e:
            raise MetricsCannotBeAggregated(str(e), selection.describe()) from e
    dropping = isinstance(fill, str) and fill != align.NULL
    return Result(tables[0].columns, _join(tables, dropping))


def choose_granularities(selection: Selection, wanted: numpy.timedelta64 | None) -> list[numpy.timedelta64]:
    """Return what to read, coarsest first.  Raises MetricsCannotBeAggregated, UnknownAggregation."""
    policies = {series.metric.archive_policy.id: series.metric.archive_policy for series in selection.series}
    offered = {id: {grouping.span_ns(granularity): granularity for granularity in policy.granularities}
               for id, policy in policies.items()}
    common = set.intersection(*(set(granularities) for granularities in offered.values()))
    if wanted is None and not common:
        raise MetricsCannotBeAggregated("No granularity match", selection.describe())
    for series in selection.series:
        if series.method not in series.metric.archive_policy.aggregation_methods:
            raise UnknownAggregation(series)
    if wanted is None:
        return [next(iter(offered.values()))[ns] for ns in sorted(common, reverse=True)]
    ns = grouping.span_ns(wanted)
    if ns not in common:
        raise MetricsCannotBeAggregated("Granularities are missing", [
            [name, series.method, ns / 1e9] for name, series in zip(selection.names, selection.series, strict=True)
            if ns not in offered[series.metric.archive_policy.id]])
    return [wanted]


def _join(tables: Sequence[Table], dropping: bool) -> list[list[MeasuresAtGranularity]]:
    """Return the measures of each resulting series; what several granularities were resampled to is one."""
    series: list[list[MeasuresAtGranularity]] = []
    for number in range(len(tables[0].values)):
        parts: dict[numpy.timedelta64 | str, MeasuresAtGranularity] = {}
        for table in tables:
            values = table.values[number].astype(numpy.float64, copy=False)
            held = numpy.isfinite(values) if dropping else slice(None)
            part = MeasuresAtGranularity(table.granularity, table.timestamps[held], values[held])
            same = parts.get(table.granularity)
            parts[table.granularity] = part if same is None else _refine(same, part)
        series.append(list(parts.values()))
    return series


def _refine(coarse: MeasuresAtGranularity, fine: MeasuresAtGranularity) -> MeasuresAtGranularity:
    """Return measures of two sources for the same periods: the finer one knows more, but not always of the period in
    which it begins, and nothing of those before."""
    kept = ~numpy.isin(coarse.timestamps, fine.timestamps[1:])
    added = ~numpy.isin(fine.timestamps, coarse.timestamps[kept])
    timestamps = numpy.concatenate([coarse.timestamps[kept], fine.timestamps[added]])
    values = numpy.concatenate([coarse.values[kept], fine.values[added]])
    order = numpy.argsort(timestamps, kind="stable")
    return MeasuresAtGranularity(coarse.granularity, timestamps[order], values[order])
