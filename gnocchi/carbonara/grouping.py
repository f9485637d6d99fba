"""Timestamps to buckets of one granularity or of the calendar."""

import functools

import numpy

from gnocchi.carbonara import methods
from gnocchi.carbonara.series import Buckets, Groups, SeriesBatch, cumulate

#: Letters of the calendar groups: year, half year, quarter, month, week (from Sunday on).
CALENDAR = "YHQMW"

_MONTHS = {"Y": 12, "H": 6, "Q": 3, "M": 1}
_NS_PER_DAY = 86_400 * 10**9
_MAX = numpy.iinfo(numpy.int64).max


def floor(timestamps: numpy.ndarray, granularity: numpy.timedelta64) -> numpy.ndarray:
    """Round timestamps down to whole multiples of a granularity since 1970-01-01T00:00:00Z.

    Parameters
    ----------
    timestamps : ndarray or scalar, datetime64[ns], not NaT; also before 1970
    granularity : timedelta64[ns], above zero

    Returns
    -------
    datetime64[ns], same shape; where the multiple is before the range of int64 (September 1677), the first one inside.
    """
    return floor_ns(numpy.asarray(timestamps, "M8[ns]").view(numpy.int64), span_ns(granularity)).view("M8[ns]")


def floor_calendar(timestamps: numpy.ndarray, letter: str) -> numpy.ndarray:
    """Round timestamps down to the start of their year, half year, quarter, month or week (Sunday), UTC.

    Parameters
    ----------
    timestamps : ndarray or scalar, datetime64[ns], not NaT
    letter : one of CALENDAR

    Returns
    -------
    datetime64[ns], same shape; not before the first midnight of the range of int64 (September 1677).

    Raises
    ------
    ValueError
        There is no such letter.
    """
    times = numpy.asarray(timestamps, "M8[ns]")
    if letter == "W":
        days = times.view(numpy.int64) // _NS_PER_DAY
        days = days - (days + 4) % 7  # day 3, 1970-01-04, was a Sunday
    elif letter in _MONTHS:
        months = times.astype("M8[M]").view(numpy.int64)
        days = (months - months % _MONTHS[letter]).view("M8[M]").astype("M8[D]").view(numpy.int64)
    else:
        raise ValueError(f"{letter!r} is no calendar group; there are {', '.join(CALENDAR)}")
    return (numpy.maximum(days, -(_MAX // _NS_PER_DAY)) * _NS_PER_DAY).view("M8[ns]")


def group(batch: SeriesBatch, granularity: numpy.timedelta64) -> Groups:
    """Find the buckets of series.

    Parameters
    ----------
    batch : SeriesBatch of m series, ascending
    granularity : timedelta64[ns], above zero

    Returns
    -------
    Groups
    """
    width = span_ns(granularity)
    periods = _periods(batch.timestamps.view(numpy.int64), width)
    starts, offsets = _runs(batch.offsets, periods)
    return Groups(starts, offsets, (periods[starts] * width).view("M8[ns]"))


def group_calendar(batch: SeriesBatch, letter: str) -> Groups:
    """Find the buckets of series by the calendar; as `group`, with one of CALENDAR."""
    edges = floor_calendar(batch.timestamps, letter)
    starts, offsets = _runs(batch.offsets, edges.view(numpy.int64))
    return Groups(starts, offsets, edges[starts])


def resample(buckets: Buckets, span: numpy.timedelta64 | str, method: str) -> Buckets:
    """Aggregate stored aggregates into wider buckets with the same method (contract, timeseries 6).

    Parameters
    ----------
    buckets : Buckets of m series with a column `method`
    span : timedelta64[ns] above zero, or one of CALENDAR
    method : str
        The stored values of `rate:x` are differences already: they are resampled with `x`.

    Returns
    -------
    Buckets of m series with the column `method`
    """
    column = buckets.columns[method]
    points = SeriesBatch(buckets.offsets, buckets.timestamps, column.values)
    if column.present is not None:
        before = cumulate(column.present)
        points = SeriesBatch(before[buckets.offsets], buckets.timestamps[column.present], column.values[column.present])
    groups = group_calendar(points, span) if isinstance(span, str) else group(points, span)
    plain = method.removeprefix("rate:")
    columns = methods.aggregate(points, groups, (plain,))
    return Buckets(groups.offsets, groups.timestamps, {method: columns[plain]})


@functools.lru_cache(maxsize=1024)
def span_ns(span: numpy.timedelta64) -> int:
    """Get a span as a number of nanoseconds.  Kept, since there are few spans and each read asks 14 times, at 3 us."""
    return int(span.astype("m8[ns]").astype(numpy.int64))


def floor_ns(timestamps: numpy.ndarray, width: int) -> numpy.ndarray:
    """Do what `floor` does, with int64 and a number of nanoseconds."""
    return _periods(timestamps, width) * width


def _periods(timestamps: numpy.ndarray, width: int) -> numpy.ndarray:
    """Number the periods since 1970 (int64); the first is the first whose edge int64 can tell."""
    return numpy.maximum(timestamps // width, -(_MAX // width))


def _runs(offsets: numpy.ndarray, keys: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Find where runs of equal (series, key) start, and each series' range of runs."""
    changes = numpy.ones(len(keys), bool)
    numpy.not_equal(keys[1:], keys[:-1], out=changes[1:])
    changes[offsets[:-1][offsets[1:] > offsets[:-1]]] = True
    starts = numpy.flatnonzero(changes)
    return starts, numpy.searchsorted(starts, offsets)
