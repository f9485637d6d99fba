"""Merging blocks: many small ones become one, and rows that nobody can read go.

Blocks have levels: a commit writes level 0, and `FAN_IN` blocks of one level become one of the next.  So
each row is written again once per level, and a reader finds few blocks however long a metric lives.
A block is also written anew once more than `DEAD_SHARE_MAX` of its rows are past their metric's
timespan or belong to metrics that went.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy

from gnocchi.carbonara.grouping import floor_ns
from gnocchi.carbonara.series import Buckets, Column, cumulate
from gnocchi.catalogue import Block
from gnocchi.storage.head import Head

#: Blocks of one level that become one of the next.
FAN_IN = 8
#: A merged block has no more rows.  Bounds memory: with 6 methods a row takes 64 bytes, three times that in sorting.
ROWS_MAX = 1 << 20
#: Share of dead rows, as `BlockSummary` estimates it, from which a block is written anew.  An estimate is at most an
#: eighth of the rows too low, so stored rows stay below 2 x readable ones.
DEAD_SHARE_MAX = 0.25
#: Points in time that a summary keeps of each metric.
QUANTILES = 9


class MergePlan(NamedTuple):
    """Blocks of one pack and granularity that shall become one of `level`, or none if nothing of them is alive."""

    blocks: tuple[Block, ...]
    level: int


class BlockSummary(NamedTuple):
    """When the rows of a block were, metric by metric: enough to tell without reading how many of them are dead.

    ids : ndarray, shape (m,), `S16`, ascending
    counts : ndarray, shape (m,), int64; rows of each metric
    times : ndarray, shape (QUANTILES, m), int64 ns; the metric's first row, those at each eighth, its last row
    """

    ids: numpy.ndarray
    counts: numpy.ndarray
    times: numpy.ndarray


def summarize(ids: numpy.ndarray, offsets: numpy.ndarray, times: numpy.ndarray) -> BlockSummary:
    """Return the summary of a block; `offsets` as in Buckets, `times` int64 ns."""
    begins, counts = offsets[:-1].astype(numpy.int64), numpy.diff(offsets.astype(numpy.int64))
    steps = numpy.arange(QUANTILES)[:, None]
    return BlockSummary(ids, counts, times[begins + steps * (counts - 1) // (QUANTILES - 1)])


def count_dead(summary: BlockSummary, head: Head, granularity: int, timespan: int | None) -> int:
    """Estimate the rows of a block that nobody can read; never more than there are, and not an eighth less."""
    oldest = _oldest_readable(head, summary.ids, granularity, timespan)
    passed = (summary.times <= oldest).sum(axis=0)
    dead = numpy.where(passed == QUANTILES, summary.counts,
                       numpy.maximum(passed - 1, 0) * summary.counts // (QUANTILES - 1))
    return int(dead.sum())


def _oldest_readable(head: Head, ids: numpy.ndarray, granularity: int, timespan: int | None) -> numpy.ndarray:
    """Return, for each id, the time (int64 ns) up to which its rows are dead: all of them for a metric that went."""
    limits = numpy.iinfo(numpy.int64)
    oldest = numpy.full(len(ids), limits.max)
    if not len(head.ids):
        return oldest
    places = numpy.minimum(numpy.searchsorted(head.ids, ids), len(head.ids) - 1)
    known = head.ids[places] == ids
    oldest[known] = limits.min
    if timespan is not None:
        newest = head.state.newest.view(numpy.int64)[places]
        seen = known & (newest != limits.min)
        oldest[seen] = numpy.maximum(floor_ns(newest[seen], granularity), limits.min + timespan) - timespan
    return oldest


def find_alive(head: Head, ids: numpy.ndarray, metrics: numpy.ndarray, times: numpy.ndarray, granularity: int,
               timespan: int | None) -> numpy.ndarray:
    """Tell which rows may still be read; bool, shape (r,).

    Parameters
    ----------
    head : Head of the pack; a metric that it lacks went
    ids : ndarray, shape (k,), `S16`
    metrics : ndarray, shape (r,), int64; place of each row's metric in `ids`
    times : ndarray, shape (r,), int64 ns
    """
    return times > _oldest_readable(head, ids, granularity, timespan)[metrics]


def plan_levels(blocks: Sequence[Block]) -> list[MergePlan]:
    """Choose what to merge among the blocks of one pack and granularity, from the catalogue alone."""
    plans = []
    for level in sorted({block.level for block in blocks}):
        # A block of more than half of what is allowed stays as it is: it would only be copied.
        small = sorted((b for b in blocks if b.level == level and b.rows <= ROWS_MAX // 2), key=lambda b: b.first)
        while len(small) >= FAN_IN:
            chosen = _take_fitting(small[:FAN_IN])
            plans.append(MergePlan(tuple(chosen), level + 1))
            small = small[len(chosen):]
    return plans


def _take_fitting(blocks: list[Block]) -> list[Block]:
    """Return as many of the first blocks as fit into one; two always do."""
    rows = numpy.cumsum([block.rows for block in blocks])
    return blocks[:max(2, int(numpy.searchsorted(rows, ROWS_MAX, side="right")))]


class Rows(NamedTuple):
    """r rows of a block or several.

    metrics : ndarray, shape (r,), int64; places in a table of ids
    times : ndarray, shape (r,), int64 ns
    columns : dict of method -> Column
    """

    metrics: numpy.ndarray
    times: numpy.ndarray
    columns: dict[str, Column]


def join_rows(parts: Sequence[Rows], metrics: int) -> Buckets:
    """Return the rows of several blocks, by metric and time; `metrics` is the length of the table of ids."""
    numbers = numpy.concatenate([part.metrics for part in parts])
    times = numpy.concatenate([part.times for part in parts])
    order = numpy.lexsort((times, numbers))
    columns = {}
    for method in sorted({method for part in parts for method in part.columns}):
        columns[method] = _join_column([(part.columns.get(method), len(part.times)) for part in parts], order)
    offsets = cumulate(numpy.bincount(numbers, minlength=metrics))
    return Buckets(offsets, times[order].view("M8[ns]"), columns)


def _join_column(parts: Sequence[tuple[Column | None, int]], order: numpy.ndarray) -> Column:
    values = numpy.concatenate([numpy.zeros(rows) if column is None else column.values for column, rows in parts])
    if all(column is not None and column.present is None for column, _ in parts):
        return Column(values[order], None)
    present = numpy.concatenate([
        numpy.zeros(rows, bool) if column is None
        else numpy.ones(rows, bool) if column.present is None else column.present for column, rows in parts])
    return Column(values[order], present[order])
