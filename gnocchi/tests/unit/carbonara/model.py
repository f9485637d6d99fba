"""A metric store in memory around the numeric engine: what storage does, without any format or I/O."""

import numpy

from gnocchi.carbonara import grouping, window
from gnocchi.carbonara.series import Buckets, Column, SeriesBatch, cumulate, make_batch


def ns(seconds):
    """Get a span of so many seconds as timedelta64[ns]."""
    return numpy.timedelta64(round(seconds * 10**9), "ns")


def make_policy(granularities, methods, window_blocks=0):
    """Get a WindowPolicy from granularities in seconds, or pairs (granularity, points or None)."""
    pairs = [pair if isinstance(pair, tuple) else (pair, None) for pair in granularities]
    items = tuple((ns(width), None if points is None else ns(width) * points) for width, points in pairs)
    return window.WindowPolicy(items, window_blocks, tuple(methods))


class Model:
    """m series under one policy: their window state, and the sealed buckets in the order they came.

    `policy` may be replaced at any time, as PATCH does.
    """

    def __init__(self, policy, m=1):
        self.policy = policy
        self.state = window.empty_state(m)
        self.sealed = {granularity: [] for granularity, _ in policy.items}
        self.refused = numpy.zeros(m, numpy.int64)

    def process(self, posted):
        """Take in one batch of measures; returns the `Advance`."""
        result = window.advance(self.state, posted, self.policy)
        self.state = result.state
        self.refused = self.refused + result.refused
        for granularity, buckets in result.sealed.items():
            self.sealed[granularity].append(buckets)
        return result

    def process_points(self, *series):
        """Take in one (timestamps, values) for each series."""
        return self.process(make_batch(series))

    def read(self, granularity, method, row=0, start=None, stop=None, resample=None):
        """Get (timestamps, values) of one series as the API shows them: floor(start) <= timestamp < stop."""
        timestamps, values = self._visible(granularity, method, row)
        width = granularity
        if resample is not None:
            width = resample
            visible = Buckets(numpy.array([0, len(timestamps)]), timestamps, {method: Column(values, None)})
            timestamps, values = select_buckets(grouping.resample(visible, resample, method), 0, method)
        chosen = numpy.ones(len(timestamps), bool)
        if start is not None:
            floor = grouping.floor_calendar if isinstance(width, str) else grouping.floor
            chosen &= timestamps >= floor(numpy.datetime64(start, "ns"), width)
        if stop is not None:
            chosen &= timestamps < numpy.datetime64(stop, "ns")
        return timestamps[chosen], values[chosen]

    def _visible(self, granularity, method, row):
        """Get all buckets that are within the timespan, seen from the newest point."""
        parts = [select_buckets(buckets, row, method) for buckets in self.sealed[granularity]]
        open_buckets = window.open_buckets(self.state, granularity, (method,), self.policy)
        parts.append(select_buckets(open_buckets, row, method))
        timestamps = numpy.concatenate([part[0] for part in parts])
        values = numpy.concatenate([part[1] for part in parts])
        assert (timestamps[1:] > timestamps[:-1]).all(), "a bucket was sealed twice or out of order"
        timespan = dict(self.policy.items)[granularity]
        if timespan is None or not len(timestamps):
            return timestamps, values
        newest = int(grouping.floor(self.state.newest[row], granularity).view("i8"))
        visible = timestamps.view("i8") > max(newest - grouping.span_ns(timespan), numpy.iinfo(numpy.int64).min)
        return timestamps[visible], values[visible]


def select_buckets(buckets, row, method):
    """Get (timestamps, values) of one series' buckets that have a value."""
    part = slice(*buckets.offsets[row : row + 2])
    values, present = buckets.columns[method]
    chosen = numpy.ones(part.stop - part.start, bool) if present is None else present[part]
    return buckets.timestamps[part][chosen], values[part][chosen]


def join_arrivals(batches):
    """Make one batch out of several of the same m series, each series' points in the order they came."""
    parts = [
        (batch, slice(*batch.offsets[row : row + 2])) for row in range(len(batches[0].offsets) - 1) for batch in batches
    ]
    counts = numpy.sum([numpy.diff(batch.offsets) for batch in batches], axis=0)
    return SeriesBatch(
        cumulate(counts),
        numpy.concatenate([batch.timestamps[part] for batch, part in parts]),
        numpy.concatenate([batch.values[part] for batch, part in parts]),
    )
