"""Groups of resources whose attributes change: a period counts for the group that a resource was in, while it was.

Between two changes the members of a group are the same: there the expression is evaluated over them, and what comes of
a period is multiplied by the share of the period.  So a group that nothing changes gives what it gives without history.
Source: contract, aggregates 2.11.
"""

import datetime
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy

from gnocchi.carbonara import grouping
from gnocchi.indexer import Resource
from gnocchi.query.aggregates import Selection, Terms, compute_points
from gnocchi.query.align import Points
from gnocchi.query.expression import Node, Reference
from gnocchi.query.fetch import MeasuresAtGranularity, Window, instant_ns

_MIN, _MAX = numpy.iinfo(numpy.int64).min, numpy.iinfo(numpy.int64).max
_EPOCH = datetime.datetime(1970, 1, 1)

#: A resulting series: an index in the selection, or None for one made of several.
Column = int | None


class Stay(NamedTuple):
    """When a revision of a resource counts: start <= t < stop, int64 ns; the smallest and largest number are open."""

    resource: Resource
    start: int
    stop: int

    @property
    def window(self) -> Window:
        return Window(None if self.start == _MIN else numpy.datetime64(self.start, "ns"),
                      None if self.stop == _MAX else numpy.datetime64(self.stop, "ns"))


def list_stays(revisions: Sequence[Resource], firsts: Mapping[uuid.UUID, datetime.datetime],
               asked: Window) -> list[Stay]:
    """Return when each revision counts within a window, in the order given; those that never do are left out.

    Parameters
    ----------
    firsts : when the first revision of each resource began; it counts from the beginning, for measures may be older.
        A resource without one was deleted just now.
    """
    start = _MIN if asked.start is None else instant_ns(asked.start)
    stop = _MAX if asked.stop is None else instant_ns(asked.stop)
    stays = []
    for revision in revisions:
        if revision.id not in firsts:
            continue
        begin = start if revision.revision_start == firsts[revision.id] else max(start, to_ns(revision.revision_start))
        end = stop if revision.revision_end is None else min(stop, to_ns(revision.revision_end))
        if begin < end:
            stays.append(Stay(revision, begin, end))
    return stays


class Pool:
    """The series of all groups, and their points, from which each group takes its own: a group that looked at all would
    take as long as all groups.

    Parameters
    ----------
    selection : all series of the request
    points : of the selection at each granularity, in any order
    """

    def __init__(self, selection: Selection, points: Sequence[Points]) -> None:
        self._selection = selection
        self._points = [_sort(found, numpy.lexsort((found.timestamps, found.rows))) for found in points]
        self._places = [found.rows.searchsorted(numpy.arange(len(selection.series) + 1)) for found in self._points]
        self._rows: dict[object, list[int]] = {}
        for row, owner in enumerate(selection.owners or ()):
            self._rows.setdefault(owner, []).append(row)
        self._references: list[list[Reference]] = [[] for _ in selection.series]
        for reference, columns in selection.columns.items():
            for row in columns:
                self._references[row].append(reference)

    def take(self, owners: Iterable[object]) -> tuple[Selection, list[Points]]:
        """Return the series of some resources, and their points ascending in time, as `compute_group` needs them."""
        rows = sorted(row for owner in owners for row in self._rows.get(owner, ()))
        whole, columns = self._selection, {reference: list[int]() for reference in self._selection.columns}
        for place, row in enumerate(rows):
            for reference in self._references[row]:
                columns[reference].append(place)
        selection = Selection([whole.series[row] for row in rows], [whole.names[row] for row in rows],
                              None if whole.owners is None else [whole.owners[row] for row in rows], columns)
        points = []
        for found, places in zip(self._points, self._places, strict=True):
            parts = [slice(places[row], places[row + 1]) for row in rows]
            counts = numpy.array([part.stop - part.start for part in parts], numpy.int64)
            timestamps, values = (numpy.concatenate([array[part] for part in parts] or [array[:0]])
                                  for array in (found.timestamps, found.values))
            points.append(sort_by_time(Points(numpy.arange(len(rows)).repeat(counts), timestamps, values)))
        return selection, points


def compute_group(root: Node, selection: Selection, stays: Sequence[Stay], terms: Terms,
                  granularities: Sequence[numpy.timedelta64],
                  points: Sequence[Points]) -> dict[Column, list[MeasuresAtGranularity]]:
    """Evaluate an expression over a group.

    Parameters
    ----------
    selection : the series of the resources, and perhaps of others
    stays : when resources were in the group
    points : of the selection at each of `granularities`, ascending in time

    Returns
    -------
    dict of each resulting series that has any points -> its measures, coarsest granularity first

    Raises MetricsCannotBeAggregated, TooManyPoints.
    """
    sums: dict[Column, dict[numpy.timedelta64 | str, list[MeasuresAtGranularity]]] = {}
    for start, stop, members in _cut(stays):
        rows = numpy.array([owner in members for owner in selection.owners or ()], bool)
        if not rows.any():
            continue
        window = Stay(stays[0].resource, start, stop).window
        parts = [_select(found, rows, granularity, start, stop)
                 for granularity, found in zip(granularities, points, strict=True)]
        result = compute_points(root, restrict(selection, rows), terms._replace(window=window), granularities, parts)
        numbers = numpy.flatnonzero(rows).tolist()
        for place, series in enumerate(result.measures):
            column = None if result.columns is None else numbers[result.columns[place]]
            for part in series:
                if len(part.values):
                    sums.setdefault(column, {}).setdefault(part.granularity, []).append(_weigh(part, start, stop))
    return {column: [_add_up(granularity, parts) for granularity, parts in by_granularity.items()]
            for column, by_granularity in sums.items()}


def _cut(stays: Sequence[Stay]) -> Iterator[tuple[int, int, set[uuid.UUID]]]:
    """Return the times between changes and who is in the group then; without those when nobody is."""
    changes: dict[int, list[tuple[uuid.UUID, bool]]] = {}
    for stay in stays:
        changes.setdefault(stay.start, []).append((stay.resource.id, True))
        changes.setdefault(stay.stop, []).append((stay.resource.id, False))
    members: set[uuid.UUID] = set()
    times = sorted(changes)
    start = times[0]
    for time in times:
        before = set(members)
        # Who leaves and comes back at once, with another revision, has not left.
        members -= {id for id, comes in changes[time] if not comes}
        members |= {id for id, comes in changes[time] if comes}
        if members != before:
            if before:
                yield start, time, before
            start = time


def restrict(selection: Selection, rows: numpy.ndarray) -> Selection:
    """Return the selection of some series; `rows` is a bool for each."""
    places = (numpy.cumsum(rows) - 1).tolist()
    kept = numpy.flatnonzero(rows).tolist()
    return Selection([selection.series[row] for row in kept], [selection.names[row] for row in kept],
                     None if selection.owners is None else [selection.owners[row] for row in kept],
                     {reference: [places[row] for row in columns if rows[row]]
                      for reference, columns in selection.columns.items()})


def sort_by_time(points: Points) -> Points:
    """Return the points ascending in time, as `compute_group` needs them."""
    return _sort(points, numpy.argsort(points.timestamps, kind="stable"))


def _sort(points: Points, order: numpy.ndarray) -> Points:
    return Points(*(array[order] for array in points))


def _select(points: Points, rows: numpy.ndarray, granularity: numpy.timedelta64, start: int, stop: int) -> Points:
    """Return the points of some series whose period overlaps a time, with the series numbered anew."""
    first = start if start == _MIN else int(grouping.floor_ns(numpy.array(start), grouping.span_ns(granularity)))
    begin, end = numpy.searchsorted(points.timestamps.view(numpy.int64), [first, stop])
    mine = rows[points.rows[begin:end]]
    numbers, timestamps, values = (array[begin:end][mine] for array in points)
    return Points((numpy.cumsum(rows) - 1)[numbers], timestamps, values)


def _weigh(part: MeasuresAtGranularity, start: int, stop: int) -> MeasuresAtGranularity:
    """Multiply each value by the share of its period that lies within start and stop."""
    assert not isinstance(part.granularity, str), "BUG: calendar periods have no one length"
    length = grouping.span_ns(part.granularity)
    begins = part.timestamps.view(numpy.int64)
    covered = numpy.minimum(begins + length, stop) - numpy.maximum(begins, start)
    return part._replace(values=part.values * (covered / length))


def _add_up(granularity: numpy.timedelta64 | str, parts: Sequence[MeasuresAtGranularity]) -> MeasuresAtGranularity:
    timestamps, places = numpy.unique(numpy.concatenate([part.timestamps for part in parts]), return_inverse=True)
    values = numpy.bincount(places, numpy.concatenate([part.values for part in parts]), len(timestamps))
    return MeasuresAtGranularity(granularity, timestamps, values)


def to_ns(time: datetime.datetime) -> int:
    """Return a naive UTC time as ns since 1970."""
    return (time - _EPOCH) // datetime.timedelta(microseconds=1) * 1000
