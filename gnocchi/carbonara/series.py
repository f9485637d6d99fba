"""A batch of series in flat arrays: the currency of the numeric engine."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy

#: From this many points per series on, copying slices one by one is faster than one gather.
_POINTS_PER_SLICE = 512
#: Up to this many points, comparing all with their limit is faster than a binary search with its many small steps.
_POINTS_COMPARED = 40_000


class SeriesBatch(NamedTuple):
    """m series of n points in all; series i is points offsets[i] to offsets[i + 1].

    offsets : ndarray, shape (m + 1,), int64, offsets[0] == 0, offsets[m] == n
    timestamps : ndarray, shape (n,), datetime64[ns]
    values : ndarray, shape (n,), float64
    """

    offsets: numpy.ndarray
    timestamps: numpy.ndarray
    values: numpy.ndarray

    @property
    def counts(self) -> numpy.ndarray:
        """Number of points of each series, shape (m,), int64."""
        return self.offsets[1:] - self.offsets[:-1]


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


class Groups(NamedTuple):
    """The g buckets of a batch of m series: runs of points of one series in one bucket.

    starts : ndarray, shape (g,), int64; index of each bucket's first point, no bucket is empty
    offsets : ndarray, shape (m + 1,), int64; series i owns buckets offsets[i] to offsets[i + 1]
    timestamps : ndarray, shape (g,), datetime64[ns]; left edges
    """

    starts: numpy.ndarray
    offsets: numpy.ndarray
    timestamps: numpy.ndarray

    @property
    def rows(self) -> numpy.ndarray:
        """Series of each bucket, shape (g,), int64."""
        return numpy.repeat(numpy.arange(len(self.offsets) - 1), self.offsets[1:] - self.offsets[:-1])


def empty_batch(m: int) -> SeriesBatch:
    """Get m series without points."""
    return SeriesBatch(numpy.zeros(m + 1, numpy.int64), numpy.zeros(0, "M8[ns]"), numpy.zeros(0))


def make_batch(series: Iterable[tuple[Sequence, Sequence]]) -> SeriesBatch:
    """Get a batch from (timestamps, values) of each series; timestamps are anything datetime64[ns] can be made of."""
    parts = [(numpy.asarray(times, "M8[ns]"), numpy.asarray(values, numpy.float64)) for times, values in series]
    if not parts:
        return empty_batch(0)
    return SeriesBatch(
        cumulate([len(times) for times, _ in parts]),
        numpy.concatenate([times for times, _ in parts]),
        numpy.concatenate([values for _, values in parts]),
    )


def cumulate(counts: numpy.ndarray | Sequence[int]) -> numpy.ndarray:
    """Turn m counts into m + 1 offsets, int64."""
    offsets = numpy.zeros(len(counts) + 1, numpy.int64)
    numpy.cumsum(counts, out=offsets[1:])
    return offsets


def concat(batches: Sequence[SeriesBatch]) -> SeriesBatch:
    """Get one batch with the series of all, in order."""
    if not batches:
        return empty_batch(0)
    return SeriesBatch(
        cumulate(numpy.concatenate([batch.counts for batch in batches])),
        numpy.concatenate([batch.timestamps for batch in batches]),
        numpy.concatenate([batch.values for batch in batches]),
    )


def select(batch: SeriesBatch, rows: numpy.ndarray) -> SeriesBatch:
    """Get some series: rows is an index array (any order, repetitions allowed) or a bool mask."""
    return take_ranges(batch, batch.offsets[:-1][rows], batch.offsets[1:][rows])


def slice_series(batch: SeriesBatch, begin: int, end: int) -> SeriesBatch:
    """Get series `begin` to `end`, as views of the batch's arrays."""
    offsets = batch.offsets[begin:end + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return SeriesBatch(offsets - first if first else offsets, batch.timestamps[first:last], batch.values[first:last])


def slice_buckets(buckets: Buckets, begin: int, end: int) -> Buckets:
    """Get the buckets of series `begin` to `end`, as views."""
    offsets = buckets.offsets[begin:end + 1]
    rows = slice(int(offsets[0]), int(offsets[-1]))
    columns = {method: Column(column.values[rows], None if column.present is None else column.present[rows])
               for method, column in buckets.columns.items()}
    return Buckets(offsets - offsets[0], buckets.timestamps[rows], columns)


def take_ranges(batch: SeriesBatch, begins: numpy.ndarray, ends: numpy.ndarray) -> SeriesBatch:
    """Get k series, number i made of the batch's points begins[i] to ends[i].

    Parameters
    ----------
    batch : SeriesBatch of n points
    begins, ends : ndarray, shape (k,), int64; 0 <= begins <= ends <= n

    Returns
    -------
    SeriesBatch of k series; the given arrays themselves when that means all points in order, else copies
    """
    offsets = cumulate(ends - begins)
    n = int(offsets[-1])
    if n == len(batch.timestamps) and numpy.array_equal(begins, offsets[:-1]):
        return SeriesBatch(offsets, batch.timestamps, batch.values)
    if n >= _POINTS_PER_SLICE * len(begins) > 0:
        slices = [slice(begin, end) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        return SeriesBatch(
            offsets,
            numpy.concatenate([batch.timestamps[part] for part in slices]),
            numpy.concatenate([batch.values[part] for part in slices]),
        )
    points = _expand(begins, offsets)
    return SeriesBatch(offsets, batch.timestamps[points], batch.values[points])


def search(batch: SeriesBatch, limits: numpy.ndarray) -> numpy.ndarray:
    """Find the first point of each series at or after a limit.

    Parameters
    ----------
    batch : SeriesBatch of m series, ascending
    limits : ndarray, shape (m,), int64 ns; the smallest int64 (NaT) is before everything

    Returns
    -------
    points : ndarray, shape (m,), int64, offsets[:-1] <= points <= offsets[1:]
    """
    low, high = batch.offsets[:-1], batch.offsets[1:]
    timestamps = batch.timestamps.view(numpy.int64)
    if len(timestamps) <= _POINTS_COMPARED:
        found = low.copy()
        filled = high > low
        earlier = timestamps < limits.repeat(high - low)
        found[filled] += numpy.add.reduceat(earlier, low[filled], dtype=numpy.int64)
        return found
    # A binary search in all series at once.  Where low == high, `right` is False and nothing changes.
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) >> 1
        right = (timestamps[numpy.minimum(middle, len(timestamps) - 1)] < limits) & (low < high)
        low = numpy.where(right, middle + 1, low)
        high = numpy.where(right, high, middle)
    return low


def merge(stored: SeriesBatch, posted: SeriesBatch) -> SeriesBatch:
    """Merge new points into series.

    Parameters
    ----------
    stored : SeriesBatch of m series, ascending and unique in a series
    posted : SeriesBatch of the same m series, in order of arrival

    Returns
    -------
    SeriesBatch of m series, ascending and unique: of equal timestamps, posted beats stored and the later posted
    beats the earlier.  May share arrays with the arguments, which are not changed.
    """
    if not len(posted.timestamps):
        return stored
    joined = posted if not len(stored.timestamps) else _append(stored, posted)
    rows = _unsorted_rows(joined)
    # Fast path: ascending posted points, newer than the stored ones, need no sort.
    return _sort_rows(joined, rows) if len(rows) else joined


def _append(stored: SeriesBatch, posted: SeriesBatch) -> SeriesBatch:
    """Put each series' posted points after its stored ones."""
    offsets = stored.offsets + posted.offsets
    places = _expand(stored.offsets[1:] + posted.offsets[:-1], posted.offsets)
    is_stored = numpy.ones(offsets[-1], bool)
    is_stored[places] = False
    timestamps = numpy.empty(len(is_stored), "M8[ns]")
    values = numpy.empty(len(is_stored))
    timestamps[places], timestamps[is_stored] = posted.timestamps, stored.timestamps
    values[places], values[is_stored] = posted.values, stored.values
    return SeriesBatch(offsets, timestamps, values)


def _expand(begins: numpy.ndarray, offsets: numpy.ndarray) -> numpy.ndarray:
    """Get the indexes begins[0], begins[0] + 1, ... of k ranges whose lengths are the differences of offsets."""
    return numpy.arange(offsets[-1]) + (begins - offsets[:-1]).repeat(offsets[1:] - offsets[:-1])


def _unsorted_rows(batch: SeriesBatch) -> numpy.ndarray:
    """Find the series that are not strictly ascending."""
    timestamps = batch.timestamps.view(numpy.int64)
    descents = numpy.flatnonzero(timestamps[1:] <= timestamps[:-1]) + 1
    rows = numpy.searchsorted(batch.offsets, descents, side="right") - 1
    return numpy.unique(rows[descents != batch.offsets[rows]])


def _sort_rows(batch: SeriesBatch, rows: numpy.ndarray) -> SeriesBatch:
    """Sort some series by time (the later of equal timestamps wins) and leave the others alone."""
    part = select(batch, rows)
    places = _expand(batch.offsets[rows], part.offsets)
    row_numbers = numpy.repeat(numpy.arange(len(rows)), part.counts)
    order = _sort_order(row_numbers, part.timestamps.view(numpy.int64))
    timestamps, values = batch.timestamps.copy(), batch.values.copy()
    timestamps[places], values[places] = part.timestamps[order], part.values[order]
    # The sort is stable: of equal timestamps the last one is the last received.
    times = timestamps[places].view(numpy.int64)
    beaten = numpy.flatnonzero((times[1:] == times[:-1]) & (row_numbers[1:] == row_numbers[:-1]))
    if not len(beaten):
        return SeriesBatch(batch.offsets, timestamps, values)
    keep = numpy.ones(len(timestamps), bool)
    keep[places[beaten]] = False
    counts = batch.counts
    counts[rows] -= numpy.bincount(row_numbers[beaten], minlength=len(rows))
    return SeriesBatch(cumulate(counts), timestamps[keep], values[keep])


def _sort_order(row_numbers: numpy.ndarray, timestamps: numpy.ndarray) -> numpy.ndarray:
    """Get the stable order by (row number, timestamp); row numbers are ascending from 0."""
    first = int(timestamps.min())
    span = int(timestamps.max()) - first + 1
    if span * (int(row_numbers[-1]) + 1) <= numpy.iinfo(numpy.int64).max:
        # One key is twice as fast as two, and finds the runs that are already sorted.
        return numpy.argsort(row_numbers * span + (timestamps - first), kind="stable")
    return numpy.lexsort((timestamps, row_numbers))
