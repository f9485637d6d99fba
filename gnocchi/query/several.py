"""Stored series of several metrics, each by itself."""

import uuid
from collections.abc import Sequence

import numpy

from gnocchi.archive_policy import ArchivePolicy
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.query import fetch
from gnocchi.query.align import Points
from gnocchi.query.fetch import MeasuresAtGranularity, Window
from gnocchi.query.series import Series, read_points
from gnocchi.storage.store import Store


def read_several(store: Store, indexer: Indexer, series: Sequence[Series],
                 granularities: Sequence[numpy.timedelta64] | None, window: Window, points_max: int,
                 resample: numpy.timedelta64 | str | None = None) -> list[list[MeasuresAtGranularity]]:
    """Return what `fetch.read_measures` returns of each of several series; each head and block is read once.

    Parameters
    ----------
    series : each once;  granularities : None: all of each one's policy
    points_max : values to hold at once, of all series together

    Raises
    ------
    TooManyPoints, AggregationDoesNotExist, GranularityDoesNotExist, CorruptedData, BackendUnavailable
    """
    by_policy: dict[uuid.UUID, tuple[ArchivePolicy, list[int]]] = {}
    for number, (metric, method) in enumerate(series):
        policy = metric.archive_policy
        fetch.check(metric, policy, method, granularities)
        by_policy.setdefault(policy.id, (policy, []))[1].append(number)
    read: dict[int, list[MeasuresAtGranularity]] = {}
    for policy, numbers in by_policy.values():
        wanted = sorted(policy.granularities if granularities is None else granularities, reverse=True)
        points = read_points(store, indexer, [series[number] for number in numbers], wanted,
                             fetch.widen(window, resample), points_max)
        points_max -= sum(len(found.values) for found in points)
        parts = [_split(found, len(numbers), granularity) for found, granularity in zip(points, wanted, strict=True)]
        for place, number in enumerate(numbers):
            read[number] = [fetch.present(part[place], series[number].method, resample, window) for part in parts]
    return [read[number] for number in range(len(series))]


def _split(points: Points, series: int, granularity: numpy.timedelta64) -> list[MeasuresAtGranularity]:
    """Return the points of each series, ascending."""
    order = numpy.lexsort((points.timestamps, points.rows))
    bounds = numpy.searchsorted(points.rows[order], numpy.arange(1, series))
    return [MeasuresAtGranularity(granularity, points.timestamps[part], points.values[part])
            for part in numpy.split(order, bounds)]
