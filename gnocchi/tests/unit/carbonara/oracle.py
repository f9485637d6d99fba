"""A slow engine that is obviously right: all raw points are kept for ever, and each answer is computed from them."""

import math

import numpy
import pandas


class Oracle:
    """One series.  Times and spans are Python integers (ns); `granularities` maps them to timespans or None."""

    def __init__(self, granularities, window_blocks):
        self.granularities = granularities
        self.window_blocks = window_blocks
        self.points = {}
        self.newest = self.accept_from = -math.inf

    def process(self, points):
        """Take in (time, value) pairs in order of arrival; returns those that were not too late."""
        accepted = [(time, value) for time, value in points if time >= self.accept_from]
        for time, value in accepted:
            self.points[time] = value
            self.newest = max(self.newest, time)
        if self.points:
            coarsest = max(self.granularities)
            oldest = self.newest // coarsest * coarsest - self.window_blocks * coarsest
            self.accept_from = max(self.accept_from, oldest)
        return accepted

    def read(self, granularity, method):
        """Get {bucket: value} of all visible buckets."""
        series = pandas.Series(self.points, dtype="float64").sort_index()
        if method.startswith("rate:"):
            with_difference = series.index[1:]
            series = series.diff()[with_difference]  # not dropna: a difference may be NaN
            method = method.removeprefix("rate:")
        if series.empty:
            return {}
        buckets = {
            bucket: aggregate(values, method)
            for bucket, values in series.groupby(series.index // granularity * granularity)
            if method != "std" or len(values) > 1
        }
        timespan = self.granularities[granularity]
        oldest = -math.inf if timespan is None else self.newest // granularity * granularity - timespan
        return {bucket: value for bucket, value in buckets.items() if bucket > oldest}


def aggregate(values, method):
    """Aggregate a pandas Series that is not empty, in time order (contract, timeseries 4.1 and 4.2)."""
    if method == "count":
        return float(len(values))
    if method == "first":
        return values.iloc[0]
    if method == "last":
        return values.iloc[-1]
    if method == "min":
        return values.min(skipna=True)
    if method in ("mean", "sum", "max", "std"):
        with numpy.errstate(invalid="ignore"):
            return getattr(values, method)(skipna=False)
    percent = 50 if method == "median" else int(method.removesuffix("pct"))
    ranked = values.sort_values(na_position="last").tolist()
    position = (len(ranked) - 1) * percent / 100
    below, above = math.floor(position), math.ceil(position)
    if below == above:
        return ranked[below]
    return ranked[below] * (above - position) + ranked[above] * (position - below)
