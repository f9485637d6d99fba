"""Series on a common grid of timestamps, and what is done about their holes (contract, aggregates 2.7)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy

from gnocchi.carbonara.grouping import span_ns

#: What `fill` may be, besides a number.
NULL, DROP = "null", "dropna"
_DIRECTIONS = {"ffill": (False,), "bfill": (True,), "full_ffill": (False, True), "full_bfill": (True, False)}
FILLS = (DROP, NULL, *_DIRECTIONS)

#: A grid is looked up in a table of all its periods when these are at most this many times the points.
_TABLE_RATIO = 8


class NotEnoughOverlap(Exception):
    """Too few of the grid's timestamps have a value in each series; the text says how many."""


class Points(NamedTuple):
    """p points of k series at one granularity, in any order; at most one of a series at a time.

    rows : ndarray, shape (p,), int32; the series of each point
    timestamps : ndarray, shape (p,), datetime64[ns]
    values : ndarray, shape (p,), float64
    """

    rows: numpy.ndarray
    timestamps: numpy.ndarray
    values: numpy.ndarray


def join_points(pieces: Sequence[Points]) -> Points:
    """Return the points of all pieces; what is left of a list of one is that one."""
    if len(pieces) == 1:
        return pieces[0]
    empty = Points(numpy.empty(0, numpy.int32), numpy.empty(0, "M8[ns]"), numpy.empty(0))
    return Points(*(numpy.concatenate(arrays) for arrays in zip(empty, *pieces, strict=True)))


def split_pieces(pieces: list[Points], counts: Sequence[int]) -> list[list[Points]]:
    """Return the points of the first counts[0] series, of the next counts[1] and so on, numbered from 0 each.

    The list is emptied: each piece is let go when it was sorted.
    """
    if len(counts) == 1:
        return [pieces]
    groups: list[list[Points]] = [[] for _ in counts]
    firsts = numpy.cumsum([0, *counts])
    while pieces:
        piece = pieces.pop()
        # Small integers are sorted by their digits, in a fraction of the time.
        order = numpy.argsort(piece.rows.astype(numpy.uint16) if firsts[-1] < 1 << 16 else piece.rows, kind="stable")
        rows, timestamps, values = (array[order] for array in piece)
        places = rows.searchsorted(firsts)
        for group in numpy.flatnonzero(places[1:] > places[:-1]).tolist():
            mine = slice(*places[group:group + 2].tolist())
            groups[group].append(Points(rows[mine] - firsts[group], timestamps[mine], values[mine]))
    return groups


class Table(NamedTuple):
    """k series at n timestamps.

    granularity : timedelta64[ns], or a calendar letter
    timestamps : ndarray, shape (n,), datetime64[ns], ascending, unique
    values : ndarray, shape (k, n), float64, or bool after a comparison; NaN where there is nothing
    columns : which of the fetched series each row is, k numbers; None when it is one made of several
    """

    granularity: numpy.timedelta64 | str
    timestamps: numpy.ndarray
    values: numpy.ndarray
    columns: tuple[int, ...] | None


def align(points: Points, series: int, granularity: numpy.timedelta64 | str, fill: float | str | None) -> Table:
    """Put series on the grid of all their timestamps.

    Parameters
    ----------
    points : Points of `series` series
    fill : number, one of FILLS, or None: holes become that number, what stands beside them, or NaN

    Returns
    -------
    Table of all series
    """
    if isinstance(granularity, str):
        timestamps, places = numpy.unique(points.timestamps, return_inverse=True)
    else:
        timestamps, places = _make_grid(points.timestamps, span_ns(granularity))
    values = numpy.full((series, len(timestamps)), fill if isinstance(fill, float) else numpy.nan)
    values[points.rows, places] = points.values
    for backwards in _DIRECTIONS.get(fill, ()) if isinstance(fill, str) else ():
        values = _fill_forward(values[:, ::-1])[:, ::-1] if backwards else _fill_forward(values)
    return Table(granularity, timestamps, values, tuple(range(series)))


def _make_grid(timestamps: numpy.ndarray, step: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the distinct timestamps, ascending, and the place of each timestamp among them."""
    instants = timestamps.view(numpy.int64)
    if not len(instants):
        return timestamps, numpy.zeros(0, numpy.int64)
    first = int(instants.min())
    size = (int(instants.max()) - first) // step + 1
    periods, rest = numpy.divmod(instants - first, step)
    if size > _TABLE_RATIO * len(instants) or rest.any():
        return numpy.unique(timestamps, return_inverse=True)
    held = numpy.zeros(size, bool)
    held[periods] = True
    grid = (numpy.flatnonzero(held) * step + first).view("M8[ns]")
    return grid, (numpy.cumsum(held) - 1)[periods]


def _fill_forward(values: numpy.ndarray) -> numpy.ndarray:
    """Give each hole the last value before it in its row, if there is one."""
    holds = ~numpy.isnan(values)
    latest = numpy.maximum.accumulate(numpy.where(holds, numpy.arange(values.shape[1]), 0), axis=1)
    return numpy.take_along_axis(values, latest, axis=1)


def cut_to_overlap(table: Table, needed_percent: float, *, start: bool, stop: bool) -> Table:
    """Check that enough timestamps have a value in each series, and cut what lies before the first such one (unless
    `start`: the client said where to begin) and after the last (unless `stop`).

    Raises NotEnoughOverlap.
    """
    complete = ~numpy.isnan(table.values).any(axis=0)
    places = numpy.flatnonzero(complete)
    if not len(places):
        if needed_percent > 0 and len(complete):
            raise NotEnoughOverlap("No overlap")
        return table
    part = slice(0 if start else int(places[0]), len(complete) if stop else int(places[-1]) + 1)
    percent = 100.0 * len(places) / (part.stop - part.start)
    if percent < needed_percent:
        raise NotEnoughOverlap(f"Less than {needed_percent:f}% of datapoints overlap in this timespan "
                               f"({percent:.2f}%)")
    return table._replace(timestamps=table.timestamps[part], values=table.values[:, part])
