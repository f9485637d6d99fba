"""Moving windows over series.  The time is at most that of values x log(values), however wide the window is."""

from collections.abc import Callable
from typing import NamedTuple

import numpy

#: Values worked on at once; bounds memory.
CHUNK_VALUES = 1_000_000
#: Up to this many rows the windows are sorted one by one for their medians.
SORTED_WINDOW_MAX = 8


def roll(values: numpy.ndarray, method: str, window: int) -> numpy.ndarray:
    """Aggregate each run of `window` values of each series; NaN is no value.

    Parameters
    ----------
    values : ndarray, shape (k, n), float64
    method : `mean median std min max sum var` or `count`
    window : 1 to n

    Returns
    -------
    ndarray, shape (k, n - window + 1), float64; of nothing but NaN: 0 for `sum` and `count`, else NaN
    """
    rolled = numpy.empty((len(values), values.shape[1] - window + 1))
    # Neighbouring parts of long series have window - 1 values in common.
    width = max(CHUNK_VALUES, 2 * window)
    height = max(1, CHUNK_VALUES // values.shape[1])
    for first in range(0, len(values), height):
        for begin in range(0, rolled.shape[1], width):
            part = values[first:first + height, begin:begin + width + window - 1]
            rolled[first:first + height, begin:begin + width] = _ROLL[method](part, window)
    return rolled


class _Moments(NamedTuple):
    """Of runs of values: how many there are, their sum, and the sum of their squared deviations from their mean."""

    counts: numpy.ndarray
    sums: numpy.ndarray
    squares: numpy.ndarray


def _combine(values: numpy.ndarray, join: Callable[[numpy.ndarray, numpy.ndarray], numpy.ndarray],
             window: int) -> numpy.ndarray:
    """Join the values of each window, which is made of runs of 1, 2, 4, 8 … values: sums of sums lose no digits, as
    differences of cumulated sums would.  Works along the last axis."""
    runs, length = values, 1
    whole: numpy.ndarray | None = None
    covered = 0
    count = values.shape[-1]
    while True:
        if window & length:
            rest = runs[..., covered:covered + count - covered - length + 1]
            whole = rest if whole is None else join(whole[..., :rest.shape[-1]], rest)
            covered += length
        if covered == window:
            assert whole is not None
            return whole
        runs = join(runs[..., :-length], runs[..., length:])
        length *= 2


def _count(values: numpy.ndarray, window: int) -> numpy.ndarray:
    return _combine((~numpy.isnan(values)).astype(numpy.float64), numpy.add, window)


def _sum(values: numpy.ndarray, window: int) -> numpy.ndarray:
    return _combine(numpy.where(numpy.isnan(values), 0.0, values), numpy.add, window)


def _variance(values: numpy.ndarray, window: int) -> numpy.ndarray:
    holes = numpy.isnan(values)
    # What is infinite has no deviation.
    moments = _Moments((~holes).astype(numpy.float64), numpy.where(holes, 0.0, values),
                       numpy.where(holes, 0.0, values - values))
    joined = _Moments(*_combine(numpy.stack(moments), _join_moments, window))
    return joined.squares / joined.counts


def _join_moments(left: numpy.ndarray, right: numpy.ndarray) -> numpy.ndarray:
    """Join moments of neighbouring runs (Chan, Golub and LeVeque)."""
    one, other = _Moments(*left), _Moments(*right)
    counts = one.counts + other.counts
    apart = other.sums / other.counts - one.sums / one.counts
    squares = one.squares + other.squares
    both = (one.counts > 0) & (other.counts > 0)
    squares = numpy.where(both, squares + apart * apart * (one.counts * other.counts / counts), squares)
    return numpy.stack(_Moments(counts, one.sums + other.sums, squares))


def _median(values: numpy.ndarray, window: int) -> numpy.ndarray:
    counts = _count(values, window).astype(numpy.int64)
    places = [numpy.maximum(counts - 1, 0) // 2, numpy.minimum(counts // 2, window - 1)]
    if window <= SORTED_WINDOW_MAX:
        ranked = numpy.sort(numpy.lib.stride_tricks.sliding_window_view(values, window, axis=1), axis=2)   # NaN last
        low, high = (numpy.take_along_axis(ranked, place[..., None], 2)[..., 0] for place in places)
    else:
        low, high = _select(values, window, places)
    return numpy.where(low == high, low, (low + high) / 2)


def _select(values: numpy.ndarray, window: int, places: list[numpy.ndarray]) -> list[numpy.ndarray]:
    """Return the values at some places of each window's sorted values, NaN last.

    All values are ranked.  Then the ranks' bits are looked at from the highest on, with the ranks in order of the bits
    seen: so the values of a window are neighbours that go on together, zeros first, and counting the zeros among them
    tells where the wanted one is (a wavelet matrix).
    """
    rows, width = values.shape
    small = numpy.int32 if values.size < 1 << 30 else numpy.int64
    order = numpy.argsort(values, axis=None, kind="stable")
    ranks: numpy.ndarray = numpy.empty(len(order), small)
    ranks[order] = numpy.arange(len(order), dtype=small)
    begin = (numpy.arange(rows, dtype=small)[:, None] * width + numpy.arange(width - window + 1, dtype=small)).ravel()
    same = numpy.array_equal(places[0], places[1])
    wanted: numpy.ndarray = numpy.concatenate([place.ravel() for place in places[:1 if same else 2]]).astype(small)
    begin = begin if same else numpy.tile(begin, 2)
    end = begin + window
    found: numpy.ndarray = numpy.zeros(len(begin), small)
    zeros_before = numpy.zeros(len(ranks) + 1, small)
    for bit in range((len(ranks) - 1).bit_length() - 1, -1, -1):
        ones = (ranks >> bit) & 1 == 1
        numpy.cumsum(~ones, out=zeros_before[1:])
        first, last = zeros_before[begin], zeros_before[end]
        above = wanted >= last - first
        total = zeros_before[-1]
        wanted -= numpy.where(above, last - first, 0)
        begin = numpy.where(above, total + begin - first, first)
        end = numpy.where(above, total + end - last, last)
        found += above.astype(small) << bit
        ranks = numpy.concatenate([ranks[~ones], ranks[ones]])
    result = values.ravel()[order[found]]
    parts = [result, result] if same else numpy.split(result, 2)
    return [part.reshape(rows, width - window + 1) for part in parts]


_ROLL: dict[str, Callable[[numpy.ndarray, int], numpy.ndarray]] = {
    "min": lambda values, window: _combine(values, numpy.fmin, window),
    "max": lambda values, window: _combine(values, numpy.fmax, window),
    "count": _count, "sum": _sum, "mean": lambda values, window: _sum(values, window) / _count(values, window),
    "var": _variance, "std": lambda values, window: numpy.sqrt(_variance(values, window)), "median": _median,
}
