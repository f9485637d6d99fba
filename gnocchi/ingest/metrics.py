"""Metrics of one resource, known by name and made when a measure for them comes in."""

import logging
import uuid
from collections.abc import Sequence

import numpy

from gnocchi.backends import Backends
from gnocchi.exceptions import ResourceAlreadyExists
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.ingest.batch import NamedBatch, WantedMetric, WantedResource
from gnocchi.ingest.finder import MetricFinder, log_refused

LOG = logging.getLogger(__name__)


class ResourceMetrics:
    """Writes measures to the metrics of a generic resource; what is missing of either is made.

    For one thread.

    Parameters
    ----------
    backends : Backends
    resource_id : UUID
    creator : str or None
        Of the resource and of the metrics.
    archive_policy_name : str or None
        Of the metrics; None: the rules decide by name.
    """

    def __init__(self, backends: Backends, resource_id: uuid.UUID, creator: str | None,
                 archive_policy_name: str | None) -> None:
        self._backends = backends
        self._resource_id = resource_id
        self._creator = creator
        self._archive_policy_name = archive_policy_name
        self._finder = MetricFinder(backends)
        self._resources = {resource_id: WantedResource(str(resource_id), GENERIC)}
        self._resource_seen = False

    def create_resource(self) -> None:
        """Create the resource unless there is one.  Raises BackendUnavailable, InvalidInput."""
        try:
            self._backends.indexer.create_resource(GENERIC, self._resource_id, self._creator)
            LOG.info("Created resource %s", self._resource_id)
        except ResourceAlreadyExists:
            LOG.info("Resource %s already exists", self._resource_id)
        self._resource_seen = True

    def write_measures(self, names: Sequence[str], timestamps: numpy.ndarray, values: numpy.ndarray) -> None:
        """Write one measure for each name; on return they survive a crash.

        A measure whose metric cannot be made is logged and dropped.

        Parameters
        ----------
        names : sequence of n distinct str
        timestamps : ndarray, shape (n,), datetime64[ns]
        values : ndarray, shape (n,), float64

        Raises
        ------
        BackendUnavailable
            Nothing was written; it may be tried again.
        """
        if not self._resource_seen:
            self.create_resource()
        if not names:
            # Health checks look for a connection to the database, which it may have closed meanwhile.
            self._backends.indexer.count_sacks()
            return
        wanted = [WantedMetric(self._resource_id, name, self._archive_policy_name) for name in names]
        refused = self._finder.write_measures(
            NamedBatch(self._resources, wanted, numpy.ones(len(names), numpy.int64), timestamps, values), self._creator)
        log_refused(refused, names.__getitem__)
