"""Measures on their way in: one request's worth, or a slice of a sack's backlog."""

from typing import NamedTuple

import numpy


class MeasureBatch(NamedTuple):
    """m metrics (the same one may come more than once) and n measures, grouped by metric.

    metric_ids : ndarray, shape (m,), `S16` (see gnocchi.metric_ids)
    counts : ndarray, shape (m,), int64; measures of each metric, in posted order; 0 is allowed
    timestamps : ndarray, shape (n,), datetime64[ns]; n == counts.sum()
    values : ndarray, shape (n,), float64
    """

    metric_ids: numpy.ndarray
    counts: numpy.ndarray
    timestamps: numpy.ndarray
    values: numpy.ndarray
