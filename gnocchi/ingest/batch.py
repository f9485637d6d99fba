"""Measures of metrics that are known by resource and name, as all protocols deliver them."""

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.incoming.batch import MeasureBatch


class WantedResource(NamedTuple):
    """A resource that measures are for, and what it shall be if it has to be made.

    original_id : what the client calls it
    type : None: it must exist already, and may be of any type; `generic` takes an existing one of any type, too
    attributes : values by name; those that the type does not have are left out
    """

    original_id: str
    type: str | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    user_id: str | None = None
    project_id: str | None = None


class WantedMetric(NamedTuple):
    """A metric that measures are for: its resource, and what it shall be if it has to be made.

    archive_policy_name : None: the rules decide by name
    """

    resource_id: uuid.UUID
    name: str
    archive_policy_name: str | None = None
    unit: str | None = None


class NamedBatch(NamedTuple):
    """m metrics, the same one perhaps more than once, and n measures, grouped by metric.

    resources : those of the metrics, by id
    counts : ndarray, shape (m,), int64
    timestamps : ndarray, shape (n,), datetime64[ns]
    values : ndarray, shape (n,), float64
    """

    resources: Mapping[uuid.UUID, WantedResource]
    metrics: Sequence[WantedMetric]
    counts: numpy.ndarray
    timestamps: numpy.ndarray
    values: numpy.ndarray

    def with_ids(self, found: Sequence[bytes | None]) -> MeasureBatch:
        """Return the measures of the metrics that have an id (16 bytes); `found` has one or None for each."""
        counts, timestamps, values = self.counts, self.timestamps, self.values
        if None in found:
            kept = numpy.array([id is not None for id in found])
            rows = numpy.repeat(kept, counts)
            counts, timestamps, values = counts[kept], timestamps[rows], values[rows]
        ids = numpy.frombuffer(b"".join([id for id in found if id is not None]), metric_ids.DTYPE)
        return MeasureBatch(ids, counts, timestamps, values)
