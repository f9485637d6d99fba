"""The raw back window: what stays, what comes too late, and which buckets a batch of measures closes.

Only raw points in the window are state.  A bucket is computed once, when its end passes `accept_from` (it is
sealed), for no measure can change it any more; buckets still open are computed from the raw points on each read.

    time --->       predecessor   raw points .....................  newest
                         |        |
    finest    [ sealed ][ sealed ][ open ][ open ][ open ][ open ]
    coarsest  [     sealed        ][        open         ][ open ]
                                   ^ accept_from: older measures are refused

A bucket starting at s is sealed when s + g <= accept_from, which is s < floor(accept_from, g) for whole multiples s of
g: the points of sealed buckets are exactly those before floor(accept_from, g), so that no bucket is ever cut in two.
"""

from typing import NamedTuple

import numpy

from gnocchi.carbonara import grouping
from gnocchi.carbonara.grouping import span_ns
from gnocchi.carbonara.methods import RATE, aggregate
from gnocchi.carbonara.series import (
    Buckets,
    SeriesBatch,
    concat,
    empty_batch,
    merge,
    search,
    select,
    slice_series,
    take_ranges,
)

_NAT = numpy.iinfo(numpy.int64).min
_MAX = numpy.iinfo(numpy.int64).max


class WindowPolicy(NamedTuple):
    """What the engine has to know of an archive policy.

    items : tuple of (granularity, timespan), timedelta64[ns] above zero, granularities unique, in any order
        The timespan is a whole multiple of the granularity, or None (unlimited).
    window_blocks : int >= 0
        W: how many coarsest periods before the newest point's one still accept measures.
    methods : tuple of str, some of `carbonara.methods.METHODS`
    """

    items: tuple[tuple[numpy.timedelta64, numpy.timedelta64 | None], ...]
    window_blocks: int
    methods: tuple[str, ...]

    @property
    def coarsest(self) -> numpy.timedelta64:
        return max(granularity for granularity, _ in self.items)

    @property
    def has_rates(self) -> bool:
        return any(method.startswith(RATE) for method in self.methods)


class WindowState(NamedTuple):
    """Where m series stand.

    newest : ndarray, shape (m,), datetime64[ns]; NaT: no point yet
    accept_from : ndarray, shape (m,), datetime64[ns]; NaT iff newest is: nothing is too old for a new series
        Older measures are refused; it never falls.
    predecessor : ndarray, shape (m,), float64; arbitrary where has_predecessor is False
        Value of the last point before the raw ones; kept for policies with rates only.
    has_predecessor : ndarray, shape (m,), bool
    raw : SeriesBatch of m series, ascending and unique in a series
    """

    newest: numpy.ndarray
    accept_from: numpy.ndarray
    predecessor: numpy.ndarray
    has_predecessor: numpy.ndarray
    raw: SeriesBatch


class Advance(NamedTuple):
    """What a batch of measures did.

    state : WindowState of the same m series; may share arrays with what was given
    sealed : dict of granularity -> Buckets of the same m series, those closed by this batch
        Granularities without any are left out.
    refused : ndarray, shape (m,), int64; measures older than accept_from
    """

    state: WindowState
    sealed: dict[numpy.timedelta64, Buckets]
    refused: numpy.ndarray


def empty_state(m: int) -> WindowState:
    """Get the state of m series that have no point yet."""
    nat = numpy.full(m, _NAT, numpy.int64).view("M8[ns]")
    return WindowState(nat, nat, numpy.zeros(m), numpy.zeros(m, bool), empty_batch(m))


def select_rows(state: WindowState, rows: numpy.ndarray) -> WindowState:
    """Get some series of a state: rows is an index array (any order, repetitions allowed) or a bool mask."""
    return WindowState(
        state.newest[rows],
        state.accept_from[rows],
        state.predecessor[rows],
        state.has_predecessor[rows],
        select(state.raw, rows),
    )


def slice_rows(state: WindowState, begin: int, end: int) -> WindowState:
    """Get series `begin` to `end` of a state, as views of its arrays."""
    rows = slice(begin, end)
    return WindowState(state.newest[rows], state.accept_from[rows], state.predecessor[rows],
                       state.has_predecessor[rows], slice_series(state.raw, begin, end))


def concat_states(states: list[WindowState]) -> WindowState:
    """Get one state with the series of all, in order; at least one must be given."""
    if len(states) == 1:
        return states[0]
    return WindowState(
        numpy.concatenate([state.newest for state in states]),
        numpy.concatenate([state.accept_from for state in states]),
        numpy.concatenate([state.predecessor for state in states]),
        numpy.concatenate([state.has_predecessor for state in states]),
        concat([state.raw for state in states]),
    )


def advance(state: WindowState, posted: SeriesBatch, policy: WindowPolicy) -> Advance:
    """Take in a batch of measures: refuse what is too old, merge the rest, seal what no measure can change any more.

    Parameters
    ----------
    state : WindowState of m series
    posted : SeriesBatch of the same m series, in order of arrival; may be empty
        A series without measures is processed all the same: a back window made smaller acts now.
    policy : WindowPolicy
        As it is now; its granularities and whether it has rates must be those of earlier calls.

    Returns
    -------
    Advance

    Applying the same batch again changes nothing: its points are refused or replace themselves.
    """
    assert len(posted.offsets) == len(state.raw.offsets), f"BUG: {posted.offsets} measures, {state.raw.offsets} points"
    old = state.accept_from.view(numpy.int64)
    posted, refused = _refuse_late(posted, old)
    raw = merge(state.raw, posted)
    newest = numpy.maximum(state.newest.view(numpy.int64), _last_timestamps(raw))
    accept_from = numpy.maximum(old, _oldest_accepted(newest, policy))
    merged = state._replace(newest=newest.view("M8[ns]"), accept_from=accept_from.view("M8[ns]"), raw=raw)
    if not (accept_from > old).any():
        return Advance(merged, {}, refused)
    sealed = {}
    for granularity, timespan in policy.items:
        begin = numpy.maximum(_floor(old, span_ns(granularity)), _oldest_visible(newest, granularity, timespan))
        end = _floor(accept_from, span_ns(granularity))
        buckets = _compute_buckets(merged, begin, end, granularity, policy.methods)
        if len(buckets.timestamps):
            sealed[granularity] = buckets
    return Advance(_cut(merged, policy), sealed, refused)


def open_buckets(
    state: WindowState, granularity: numpy.timedelta64, methods: tuple[str, ...], policy: WindowPolicy
) -> Buckets:
    """Compute the buckets that are not sealed yet, without those older than the timespan.

    Parameters
    ----------
    state : WindowState of m series
    granularity : timedelta64[ns], one of the policy's
    methods : tuple of str, some of the policy's
    policy : WindowPolicy

    Returns
    -------
    Buckets of m series
    """
    begin = numpy.maximum(
        _floor(state.accept_from.view(numpy.int64), span_ns(granularity)),
        oldest_visible(state, granularity, policy),
    )
    return _compute_buckets(state, begin, None, granularity, methods)


def oldest_visible(state: WindowState, granularity: numpy.timedelta64, policy: WindowPolicy) -> numpy.ndarray:
    """Get the first bucket of each series that a read may show, shape (m,), int64 ns; NaT: all."""
    return _oldest_visible(state.newest.view(numpy.int64), granularity, dict(policy.items)[granularity])


def _refuse_late(posted: SeriesBatch, accept_from: numpy.ndarray) -> tuple[SeriesBatch, numpy.ndarray]:
    """Split off what is older than `accept_from` (int64); also count it by series."""
    refused = numpy.zeros(len(accept_from), numpy.int64)
    filled = numpy.flatnonzero(posted.offsets[1:] > posted.offsets[:-1])
    if not len(filled):
        return posted, refused
    timestamps = posted.timestamps.view(numpy.int64)
    # Fast path: a minimum per series tells that nothing is late, which is the usual case.
    if (numpy.minimum.reduceat(timestamps, posted.offsets[filled]) >= accept_from[filled]).all():
        return posted, refused
    accepted = timestamps >= numpy.repeat(accept_from, posted.counts)
    refused[filled] = numpy.add.reduceat(~accepted, posted.offsets[filled], dtype=numpy.int64)
    offsets = posted.offsets.copy()
    offsets[1:] -= numpy.cumsum(refused)
    return SeriesBatch(offsets, posted.timestamps[accepted], posted.values[accepted]), refused


def _last_timestamps(batch: SeriesBatch) -> numpy.ndarray:
    """Get each series' last timestamp (int64), NaT if it is empty."""
    last = numpy.full(len(batch.offsets) - 1, _NAT, numpy.int64)
    filled = batch.offsets[1:] > batch.offsets[:-1]
    last[filled] = batch.timestamps.view(numpy.int64)[batch.offsets[1:][filled] - 1]
    return last


def _floor(timestamps: numpy.ndarray, width: int) -> numpy.ndarray:
    """Round int64 timestamps down; NaT stays, as the smallest int64 it means before everything."""
    return numpy.where(timestamps == _NAT, _NAT, grouping.floor_ns(timestamps, width))


def _subtract(timestamps: numpy.ndarray, amount: int) -> numpy.ndarray:
    """Go back by an amount >= 0 of any size, not beyond the first instant that int64 can tell; NaT stays."""
    is_nat = timestamps == _NAT
    amount = min(amount, 2 * _MAX)  # from the last instant to the first
    while amount:
        step = min(amount, _MAX)
        timestamps = numpy.maximum(timestamps, step - _MAX) - step
        amount -= step
    return numpy.where(is_nat, _NAT, timestamps)


def _oldest_accepted(newest: numpy.ndarray, policy: WindowPolicy) -> numpy.ndarray:
    width = span_ns(policy.coarsest)
    return _subtract(_floor(newest, width), policy.window_blocks * width)


def _oldest_visible(
    newest: numpy.ndarray, granularity: numpy.timedelta64, timespan: numpy.timedelta64 | None
) -> numpy.ndarray:
    """Get the first bucket that a read may show: buckets are kept while > floor(newest) - timespan."""
    if timespan is None:
        return numpy.full(len(newest), _NAT, numpy.int64)
    width = span_ns(granularity)
    return _subtract(_floor(newest, width), span_ns(timespan) - width)


def _compute_buckets(
    state: WindowState,
    begin: numpy.ndarray,
    end: numpy.ndarray | None,
    granularity: numpy.timedelta64,
    methods: tuple[str, ...],
) -> Buckets:
    """Aggregate each series' raw points with begin <= timestamp < end (int64, whole buckets)."""
    raw = state.raw
    first = search(raw, begin)
    stop = raw.offsets[1:] if end is None else numpy.maximum(search(raw, end), first)
    points = take_ranges(raw, first, stop)
    groups = grouping.group(points, granularity)
    columns = aggregate(points, groups, methods, *_predecessors(state, first))
    return Buckets(groups.offsets, groups.timestamps, columns)


def _predecessors(state: WindowState, first: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Get the value before the raw point at index `first` of each series, and whether there is one."""
    in_raw = first > state.raw.offsets[:-1]
    predecessor = state.predecessor.copy()
    predecessor[in_raw] = state.raw.values[first[in_raw] - 1]
    return predecessor, in_raw | state.has_predecessor


def _cut(state: WindowState, policy: WindowPolicy) -> WindowState:
    """Drop the raw points that no open bucket needs."""
    accept_from = state.accept_from.view(numpy.int64)
    needed = numpy.minimum.reduce([_floor(accept_from, span_ns(granularity)) for granularity, _ in policy.items])
    first = search(state.raw, needed)
    if policy.has_rates:
        predecessor, has_predecessor = _predecessors(state, first)
        state = state._replace(predecessor=predecessor, has_predecessor=has_predecessor)
    return state._replace(raw=take_ranges(state.raw, first, state.raw.offsets[1:]))
