"""The window of one series: what `window` does with arrays of m, in plain numbers.

FAST PATH: most reads are of one metric.  As arrays of one the same takes 45 us instead of 15, and three times that when
the processor's caches are cold, since each function of numpy brings its own tables.
"""

from typing import NamedTuple

import numpy

from gnocchi.carbonara import grouping
from gnocchi.carbonara.grouping import span_ns
from gnocchi.carbonara.methods import IDENTITIES, RATE, aggregate
from gnocchi.carbonara.series import SeriesBatch

NAT = numpy.iinfo(numpy.int64).min
_MAX = numpy.iinfo(numpy.int64).max


class SeriesWindow(NamedTuple):
    """Where one series stands; a row of `window.WindowState`.

    newest, accept_from : int ns; NAT: no point yet
    predecessor : float, the value of the last point before the raw ones; None: there is none
    timestamps : ndarray, shape (n,), int64 ns, ascending and unique;  values : ndarray, shape (n,), float64
    """

    newest: int
    accept_from: int
    predecessor: float | None
    timestamps: numpy.ndarray
    values: numpy.ndarray


def floor(instant: int, width: int) -> int:
    """Round an instant (ns) down, not beyond the first edge that int64 can tell; NAT stays."""
    return NAT if instant == NAT else max(instant // width, -(_MAX // width)) * width


def oldest_visible(series: SeriesWindow, granularity: numpy.timedelta64, timespan: numpy.timedelta64 | None) -> int:
    """Return the first bucket (ns) that a read may show; NAT: all.  Buckets are kept while > floor(newest) - timespan.

    As `window.oldest_visible`.
    """
    if timespan is None or series.newest == NAT:
        return NAT
    width = span_ns(granularity)
    return max(floor(series.newest, width) - (span_ns(timespan) - width), -_MAX)


def open_buckets(series: SeriesWindow, granularity: numpy.timedelta64, method: str,
                 oldest: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Compute the buckets that are not sealed yet, from `oldest` (ns) on, where the method has a value.

    Returns
    -------
    timestamps : ndarray, shape (g,), int64 ns, ascending
    values : ndarray, shape (g,), float64
    """
    begin = max(floor(series.accept_from, span_ns(granularity)), oldest)
    first = int(series.timestamps.searchsorted(begin))
    times, values = series.timestamps[first:], series.values[first:]
    if not len(times):
        return times, values
    if method in IDENTITIES and int(times[0]) >= floor(NAT + 1, span_ns(granularity)):
        edges = times - times % span_ns(granularity)
        # One measure in each bucket, as nearly always at the finest granularity.
        if (edges[1:] > edges[:-1]).all():
            return edges, values
    batch = SeriesBatch(numpy.array([0, len(times)]), times.view("M8[ns]"), values)
    groups = grouping.group(batch, granularity)
    before: tuple[numpy.ndarray, ...] = ()
    if method.startswith(RATE):
        predecessor = float(series.values[first - 1]) if first else series.predecessor
        before = (numpy.array([0.0 if predecessor is None else predecessor]), numpy.array([predecessor is not None]))
    column = aggregate(batch, groups, (method,), *before)[method]
    edges = groups.timestamps.view(numpy.int64)
    return (edges, column.values) if column.present is None else (edges[column.present], column.values[column.present])
