"""Stored series of one metric, as a reader sees them."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy

from gnocchi.archive_policy import ArchivePolicy
from gnocchi.carbonara import grouping, single
from gnocchi.carbonara.series import Buckets, Column
from gnocchi.catalogue import Block, Pack
from gnocchi.exceptions import AggregationDoesNotExist, BackendUnavailable, GranularityDoesNotExist, ObjectNotFound
from gnocchi.indexer import Metric
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.storage.store import Store

#: An object may go, long after it was replaced, while a slow reader is on its way to it: the reader asks again.
TRIES_MAX = 5
#: The longest calendar period, of each letter, in days.
CALENDAR_DAYS = {"Y": 366, "H": 184, "Q": 92, "M": 31, "W": 7}


class MeasuresAtGranularity(NamedTuple):
    """Aggregates of one metric at one granularity, ascending.

    granularity : timedelta64[ns], or a calendar letter after a calendar resample
    timestamps : ndarray, shape (n,), datetime64[ns];  values : ndarray, shape (n,), float64
    """

    granularity: numpy.timedelta64 | str
    timestamps: numpy.ndarray
    values: numpy.ndarray


class Window(NamedTuple):
    """start (inclusive, rounded down to each granularity) and stop (exclusive); None is open."""

    start: numpy.datetime64 | None
    stop: numpy.datetime64 | None


def read_measures(store: Store, indexer: Indexer, metric: Metric, method: str,
                  granularities: tuple[numpy.timedelta64, ...] | None = None,
                  start: numpy.datetime64 | None = None, stop: numpy.datetime64 | None = None,
                  resample: numpy.timedelta64 | str | None = None) -> list[MeasuresAtGranularity]:
    """Return a metric's aggregates, coarsest granularity first (contract, timeseries 6).

    Parameters
    ----------
    granularities : timedelta64[ns], some of the policy's; None: all
    resample : a span (timedelta64[ns]) or calendar letter; groups are always whole, also those that
        `start` or `stop` fall into

    Raises AggregationDoesNotExist, GranularityDoesNotExist, CorruptedData, BackendUnavailable.
    """
    policy = metric.archive_policy
    wanted = check(metric, policy, method, granularities)
    fetched = widen(Window(start, stop), resample)
    for _ in range(TRIES_MAX):
        pack, blocks = _find(indexer, metric, policy, wanted, fetched)
        if pack is None or pack.base is None:
            return [_empty(granularity, resample) for granularity in wanted]
        try:
            reader = _MetricReader(store, pack, blocks, metric, policy)
            series = [reader.read(granularity, method, fetched) for granularity in wanted]
        except ObjectNotFound as e:
            missing = e.key
            continue
        return [present(s, method, resample, Window(start, stop)) for s in series]
    raise BackendUnavailable(f"Object {missing}, which the index names, is missing from storage")


def check(metric: Metric, policy: ArchivePolicy, method: str,
          granularities: Sequence[numpy.timedelta64] | None) -> list[numpy.timedelta64]:
    """Return the granularities to read.  Raises AggregationDoesNotExist, GranularityDoesNotExist."""
    if method not in policy.aggregation_methods:
        raise AggregationDoesNotExist(metric.id, method)
    wanted = policy.granularities if granularities is None else granularities
    for granularity in wanted:
        if policy.get_item(granularity) is None:
            seconds = grouping.span_ns(granularity) / 1e9
            raise GranularityDoesNotExist(metric.id, method, seconds)
    return sorted(wanted, reverse=True)


def widen(asked: Window, resample: numpy.timedelta64 | str | None) -> Window:
    """Return the window to fetch so that every resampled group is whole."""
    if resample is None:
        return asked
    start, stop = asked
    if start is not None:
        start = _floor(start, resample)
    if stop is not None:
        longest = numpy.timedelta64(CALENDAR_DAYS[resample], "D") if isinstance(resample, str) else resample
        stop = _add(stop, longest.astype("m8[ns]"))
    return Window(start, stop)


def _floor(instant: numpy.datetime64, span: numpy.timedelta64 | str) -> numpy.datetime64:
    times = numpy.array([instant], "M8[ns]")
    return (grouping.floor_calendar(times, span) if isinstance(span, str) else grouping.floor(times, span))[0]


def _add(instant: numpy.datetime64, span: numpy.timedelta64) -> numpy.datetime64 | None:
    """Return instant + span, or None (open) beyond the last instant that can be told."""
    total = instant_ns(instant) + grouping.span_ns(span)
    return None if total > numpy.iinfo(numpy.int64).max else numpy.datetime64(total, "ns")


def instant_ns(instant: numpy.datetime64) -> int:
    """Return a datetime64 of any unit as ns since 1970."""
    return int(instant.astype("M8[ns]").astype(numpy.int64))


def _find(indexer: Indexer, metric: Metric, policy: ArchivePolicy, wanted: list[numpy.timedelta64],
          fetched: Window) -> tuple[Pack | None, list[Block]]:
    low = metric.id.int & ((1 << 62) - 1)
    # The widest rounding of start; blocks of finer granularities are looked at closer when they are read.
    start = None if fetched.start is None else instant_ns(_floor(fetched.start, max(wanted)))
    stop = None if fetched.stop is None else instant_ns(fetched.stop)
    return indexer.get_pack_catalogue(policy.id, low, [grouping.span_ns(g) for g in wanted], start, stop)


class _MetricReader:
    """What one snapshot of the catalogue holds of one metric."""

    def __init__(self, store: Store, pack: Pack, blocks: list[Block], metric: Metric, policy: ArchivePolicy) -> None:
        self._store = store
        self._blocks = blocks
        self._id = metric.id.bytes
        self._timespans = {item.granularity: item.timespan for item in policy.definition}
        self._series = store.read_window(pack, self._id)

    def read(self, granularity: numpy.timedelta64, method: str, fetched: Window) -> MeasuresAtGranularity:
        """Return the visible aggregates of one granularity: sealed ones from blocks, open ones from the raw window."""
        if self._series is None:
            return _empty(granularity, None)
        oldest = single.oldest_visible(self._series, granularity, self._timespans[granularity])
        span = grouping.span_ns(granularity)
        first = oldest if fetched.start is None else max(oldest, single.floor(instant_ns(fetched.start), span))
        stop = None if fetched.stop is None else instant_ns(fetched.stop)
        parts = [self._store.read_rows(block, self._id, method) for block in self._blocks
                 if block.granularity == span and block.last >= first and (stop is None or block.first < stop)]
        parts.append(single.open_buckets(self._series, granularity, method, oldest))
        times, values = _cut(*_join(parts), first, stop)
        return MeasuresAtGranularity(granularity, times.view("M8[ns]"), values)


def _join(parts: list[tuple[numpy.ndarray, numpy.ndarray]]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Put the points (times in ns, values) of blocks and of the window, which have no time in common, in order."""
    found = sorted((part for part in parts if len(part[0])), key=lambda part: part[0][0])
    if len(found) < 2:
        return found[0] if found else parts[0]
    times, values = numpy.concatenate([part[0] for part in found]), numpy.concatenate([part[1] for part in found])
    if all(before[0][-1] < after[0][0] for before, after in itertools.pairwise(found)):
        return times, values
    # Merged blocks need not have been neighbours.
    order = numpy.argsort(times, kind="stable")
    return times[order], values[order]


def _cut(times: numpy.ndarray, values: numpy.ndarray, first: int,
         stop: int | None) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Keep the points with first <= time < stop; times are int64 ns, ascending."""
    rows = slice(int(times.searchsorted(first)), None if stop is None else int(times.searchsorted(stop)))
    return times[rows], values[rows]


def present(series: MeasuresAtGranularity, method: str, resample: numpy.timedelta64 | str | None,
             asked: Window) -> MeasuresAtGranularity:
    """Resample, if asked to, and leave out the groups that the wider fetch has added."""
    if resample is None:
        return series
    offsets = numpy.array([0, len(series.values)])
    buckets = grouping.resample(Buckets(offsets, series.timestamps, {method: Column(series.values, None)}),
                                resample, method)
    column = buckets.columns[method]
    held = slice(None) if column.present is None else column.present
    return cut_groups(MeasuresAtGranularity(resample, buckets.timestamps[held], column.values[held]), asked)


def cut_groups(series: MeasuresAtGranularity, asked: Window) -> MeasuresAtGranularity:
    """Keep the groups that a window touches, of those that came of the wider one."""
    first = single.NAT if asked.start is None else instant_ns(_floor(asked.start, series.granularity))
    stop = None if asked.stop is None else instant_ns(asked.stop)
    times, values = _cut(series.timestamps.view(numpy.int64), series.values, first, stop)
    return MeasuresAtGranularity(series.granularity, times.view("M8[ns]"), values)


def _empty(granularity: numpy.timedelta64, resample: numpy.timedelta64 | str | None) -> MeasuresAtGranularity:
    return MeasuresAtGranularity(granularity if resample is None else resample,
                                 numpy.empty(0, "M8[ns]"), numpy.empty(0))
