"""Measures of hosts that agents tell of: their resources are of a type that is made for the agent."""

import logging
from collections.abc import Mapping
from typing import Any

from gnocchi.backends import Backends
from gnocchi.exceptions import NoSuchResourceType, ResourceTypeAlreadyExists
from gnocchi.ingest.batch import NamedBatch
from gnocchi.ingest.finder import MetricFinder, log_refused

LOG = logging.getLogger(__name__)


class HostMeasures:
    """Writes measures of resources of one type; what is missing is made, the type too.

    Parameters
    ----------
    backends : Backends
    resource_type : str
    attributes : Mapping
        What the type has if it has to be made.
    creator : str or None
        Of resources and metrics.
    """

    def __init__(self, backends: Backends, resource_type: str, attributes: Mapping[str, Mapping[str, Any]],
                 creator: str | None) -> None:
        self._backends = backends
        self._resource_type = resource_type
        self._attributes = attributes
        self._creator = creator
        self._finder = MetricFinder(backends)
        self._type_seen = False

    def create_resource_type(self) -> None:
        """Create the type unless there is one.  Raises BackendUnavailable, InvalidInput."""
        try:
            self._backends.indexer.create_resource_type(self._resource_type, self._attributes)
            LOG.info("Created resource type %s", self._resource_type)
        except ResourceTypeAlreadyExists:
            LOG.info("Resource type %s already exists", self._resource_type)
        self._type_seen = True

    def write_measures(self, batch: NamedBatch) -> None:
        """Write what can be stored; on return it survives a crash.  The rest is logged.

        Raises
        ------
        BackendUnavailable
            It may be tried again, as a whole.
        NoSuchResourceType, InvalidInput
            The type cannot be made, or is deleted all the time.
        """
        if not self._type_seen:
            self.create_resource_type()
        try:
            refused = self._finder.write_measures(batch, self._creator)
        except NoSuchResourceType:
            self.create_resource_type()     # it was deleted meanwhile
            refused = self._finder.write_measures(batch, self._creator)
        log_refused(refused, lambda row: f"{batch.metrics[row].name} of "
                                         f"{batch.resources[batch.metrics[row].resource_id].original_id}")
