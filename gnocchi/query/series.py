"""Stored series of many metrics at once: each head and each block is read once, whatever the number of metrics."""

import itertools
import uuid
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.archive_policy import ArchivePolicy
from gnocchi.carbonara import grouping, single, window
from gnocchi.carbonara.series import Buckets
from gnocchi.carbonara.window import concat_states
from gnocchi.catalogue import Block, Pack
from gnocchi.exceptions import BackendUnavailable, InvalidInput, ObjectNotFound
from gnocchi.indexer import Metric
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.query.align import Points, join_points
from gnocchi.query.fetch import TRIES_MAX, Window, instant_ns
from gnocchi.storage.merge import Rows
from gnocchi.storage.store import Store


class TooManyPoints(InvalidInput):
    """An answer would need more points than the service is allowed to hold."""


class Series(NamedTuple):
    """One aggregation method of one metric."""

    metric: Metric
    method: str


def read_points(store: Store, indexer: Indexer, series: Sequence[Series], granularities: Sequence[numpy.timedelta64],
                asked: Window, points_max: int) -> list[Points]:
    """Return what is stored of series at each granularity: what `read_pieces` finds, each in one piece."""
    return [join_points(pieces)
            for pieces in read_pieces(store, indexer, series, granularities, asked, points_max)]


def read_pieces(store: Store, indexer: Indexer, series: Sequence[Series], granularities: Sequence[numpy.timedelta64],
                asked: Window, points_max: int) -> list[list[Points]]:
    """Return what is stored of series at each granularity, in pieces as it was found.

    Parameters
    ----------
    series : each once; their policies have the methods and the granularities
    granularities : timedelta64[ns]
    asked : Window; `start` is rounded down to each granularity
    points_max : values to hold at once, all granularities together

    Returns
    -------
    list of Points, in no order, for each of `granularities`; their rows are indexes into `series`

    Raises
    ------
    TooManyPoints, CorruptedData, BackendUnavailable
    """
    by_policy: dict[uuid.UUID, list[int]] = {}
    for row, (metric, _) in enumerate(series):
        by_policy.setdefault(metric.archive_policy.id, []).append(row)
    for _ in range(TRIES_MAX):
        readers = [_PolicyReader(store, indexer, [series[row] for row in rows], rows, granularities, asked)
                   for rows in by_policy.values()]
        try:
            _refuse_too_many(readers, points_max)
            parts = [reader.read() for reader in readers]
        except ObjectNotFound as e:     # merged away meanwhile: the catalogue knows what took its place
            missing = e.key
            continue
        return [list(itertools.chain.from_iterable(part[number] for part in parts))
                for number in range(len(granularities))]
    raise BackendUnavailable(f"Object {missing}, which the index names, is missing from storage")


def _refuse_too_many(readers: Sequence["_PolicyReader"], points_max: int) -> None:
    """Refuse what is too much before it is read, from what the catalogue says of blocks, and if that does not tell
    (other metrics share them), from their directories."""
    size = sum(reader.count_points() for reader in readers)
    if size > points_max:
        _refuse_beyond(min(size, sum(reader.count_values() for reader in readers)), points_max)


def check_size(series: int, points: Points, points_max: int) -> None:
    """Refuse a table that is too large, as of series that share few timestamps.  Raises TooManyPoints."""
    if series * len(points.timestamps) > points_max:
        _refuse_beyond(series * len(numpy.unique(points.timestamps)), points_max)


def _refuse_beyond(size: int, points_max: int) -> None:
    if size > points_max:
        raise TooManyPoints(f"About {size} points would have to be read, of at most {points_max}: "
                            "ask for a shorter time, a coarser granularity or fewer metrics")


class _PolicyReader:
    """Series whose metrics follow one archive policy."""

    def __init__(self, store: Store, indexer: Indexer, series: Sequence[Series], rows: Sequence[int],
                 granularities: Sequence[numpy.timedelta64], asked: Window) -> None:
        self.granularities = granularities
        self._store = store
        self._policy = series[0].metric.archive_policy.window_policy
        self._start = None if asked.start is None else instant_ns(asked.start)
        self._stop = None if asked.stop is None else instant_ns(asked.stop)
        self._ids, places = numpy.unique(metric_ids.pack_ids([metric.id for metric, _ in series]), return_inverse=True)
        self._methods = tuple(dict.fromkeys(method for _, method in series))
        #: For each method, the row of each metric, or -1.
        self._rows = {method: numpy.full(len(self._ids), -1, numpy.int32) for method in self._methods}
        for place, row, (_, method) in zip(places.tolist(), rows, series, strict=True):
            self._rows[method][place] = row
        self._packs = self._find(indexer, series[0].metric.archive_policy)

    def _find(self, indexer: Indexer, policy: ArchivePolicy) -> list[tuple[Pack, list[Block], numpy.ndarray]]:
        """Return packs, their blocks and the metrics (indexes of ids) that are theirs."""
        start = None if self._start is None else self._floor_start(max(self.granularities))
        lows = metric_ids.low_words(self._ids)
        low_list = (lows & numpy.uint64((1 << 62) - 1)).tolist()
        found = []
        for pack, blocks in indexer.list_pack_catalogue(
                policy.id, low_list, [grouping.span_ns(g) for g in self.granularities], start, self._stop):
            mine = numpy.flatnonzero(lows & numpy.uint64((1 << pack.bits) - 1) == numpy.uint64(pack.low))
            if len(mine):
                found.append((pack, blocks, mine))
        return found

    def _floor_start(self, granularity: numpy.timedelta64) -> int:
        assert self._start is not None
        return single.floor(self._start, grouping.span_ns(granularity))

    def count_points(self) -> int:
        """Return how many points there are in blocks at most, from what the catalogue says of each pack.

        Blocks hold other metrics of the pack, too, perhaps of other times, and rows past their timespan.
        """
        count = 0
        for granularity in self.granularities:
            step, timespan = grouping.span_ns(granularity), dict(self._policy.items)[granularity]
            start, stop = self._limits(granularity)
            for _, blocks, mine in self._packs:
                held = [block for block in blocks if block.granularity == step]
                if held:
                    first, last = min(block.first for block in held), max(block.last for block in held)
                    periods = (min(last, stop) - max(first, start)) // step + 1
                    if timespan is not None:
                        periods = min(periods, grouping.span_ns(timespan) // step)
                    count += len(mine) * len(self._methods) * max(0, min(periods, sum(block.rows for block in held)))
        return count

    def count_values(self) -> int:
        """Return how many values there are in blocks, also outside the window."""
        return len(self._methods) * sum(self._store.count_rows(block, self._ids[mine])
                                        for _, blocks, mine in self._packs for block in blocks)

    def _limits(self, granularity: numpy.timedelta64) -> tuple[int, int]:
        """Return the window in int64 ns, start inclusive and rounded, stop exclusive."""
        return (single.NAT if self._start is None else self._floor_start(granularity),
                numpy.iinfo(numpy.int64).max if self._stop is None else self._stop)

    def read(self) -> list[list[Points]]:
        """Return the points of each granularity, in pieces.  Raises ObjectNotFound and what reading does."""
        windows = self._store.read_each(lambda pack: self._store.read_windows(pack[0], self._ids[pack[2]]), self._packs)
        read = [(mine[held], state) for (_, _, mine), found in zip(self._packs, windows, strict=True)
                for held, state in found]
        if not read:
            return [[] for _ in self.granularities]
        metrics = numpy.concatenate([held for held, _ in read])
        state = concat_states([state for _, state in read])
        points = []
        for granularity in self.granularities:
            oldest = numpy.full(len(self._ids), numpy.iinfo(numpy.int64).max)   # what no head knows has no rows
            oldest[metrics] = window.oldest_visible(state, granularity, self._policy)
            open_ = window.open_buckets(state, granularity, self._methods, self._policy)
            parts = itertools.chain(self._read_blocks(granularity), (_as_rows(open_, metrics),))
            points.append([found for part in parts for found in self._select(part, granularity, oldest)])
        return points

    def _read_blocks(self, granularity: numpy.timedelta64) -> Iterator[Rows]:
        step = grouping.span_ns(granularity)
        wanted = [(block, mine) for _, blocks, mine in self._packs for block in blocks if block.granularity == step]

        def read(one: tuple[Block, numpy.ndarray]) -> Rows:
            block, mine = one
            rows = self._store.read_columns(block, self._ids[mine], self._methods)
            return rows._replace(metrics=mine[rows.metrics])

        yield from self._store.read_each(read, wanted)

    def _select(self, rows: Rows, granularity: numpy.timedelta64, oldest: numpy.ndarray) -> list[Points]:
        """Return, for each method, the points of the series asked for, within window and retention."""
        start, stop = self._limits(granularity)
        visible = (rows.times >= numpy.maximum(oldest[rows.metrics], start)) & (rows.times < stop)
        found = []
        for method, column in rows.columns.items():
            numbers = self._rows[method][rows.metrics]
            held = visible & (numbers >= 0)
            if column.present is not None:
                held &= column.present
            if held.all():
                found.append(Points(numbers, rows.times.view("M8[ns]"), column.values))
            else:
                found.append(Points(numbers[held], rows.times[held].view("M8[ns]"), column.values[held]))
        return found


def _as_rows(buckets: Buckets, metrics: numpy.ndarray) -> Rows:
    return Rows(metrics.repeat(numpy.diff(buckets.offsets)), buckets.timestamps.view(numpy.int64), buckets.columns)
