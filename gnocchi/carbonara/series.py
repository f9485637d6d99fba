"""A batch of series in flat arrays: the currency of the numeric engine."""

from typing import NamedTuple

import numpy


class SeriesBatch(NamedTuple):
    """m series of n points in all; series i is points offsets[i] to offsets[i + 1].

    offsets : ndarray, shape (m + 1,), int64, offsets[0] == 0, offsets[m] == n
    timestamps : ndarray, shape (n,), datetime64[ns]
    values : ndarray, shape (n,), float64
    """

    offsets: numpy.ndarray
    timestamps: numpy.ndarray
    values: numpy.ndarray


class Column(NamedTuple):
    """One aggregation method's values for g buckets.

    values : ndarray, shape (g,), float64; arbitrary where absent
    present : ndarray, shape (g,), bool; or None when every value is there
        Absence is never told by NaN, which is a value.
    """

    values: numpy.ndarray
    present: numpy.ndarray | None


class Buckets(NamedTuple):
    """Aggregates of m series at one granularity, g buckets in all.

    offsets : ndarray, shape (m + 1,), int64; series i owns buckets offsets[i] to offsets[i + 1]
    timestamps : ndarray, shape (g,), datetime64[ns]; left edges, ascending and unique in a series
    columns : dict of method -> Column
    """

    offsets: numpy.ndarray
    timestamps: numpy.ndarray
    columns: dict[str, Column]
