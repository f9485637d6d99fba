"""Metrics of one resource, known by name and made when a measure for them comes in."""

import logging
import uuid
from collections.abc import Mapping, Sequence

import numpy

from gnocchi import metric_ids
from gnocchi.backends import Backends
from gnocchi.exceptions import (
    BackendUnavailable,
    ClientError,
    InvalidInput,
    NamedMetricAlreadyExists,
    NoSuchArchivePolicy,
    NoSuchResource,
    ResourceAlreadyExists,
)
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import ArchivePolicyRule, MetricDefinition
from gnocchi.indexer.archive_policies import match_archive_policy
from gnocchi.indexer.resource_types import GENERIC

LOG = logging.getLogger(__name__)

#: Names whose metric ids are remembered; about 200 bytes each.
CACHED_NAMES_MAX = 200_000

#: How often new names are looked up again because somebody else makes them, or deletes the resource, meanwhile.
ATTEMPTS_MAX = 5

#: Measures refused by one call that are logged one by one.
MESSAGES_MAX = 10


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
        self._resource_seen = False
        #: Metric id, 16 bytes, of each name met lately.
        self._ids: dict[str, bytes] = {}

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

        The number of SQL statements is constant per 5,000 names.  A measure whose metric cannot be made is
        logged and dropped.

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
        # Opened first: the sacks are what an upgrade makes last, so with them the archive policies are there.
        incoming = self._backends.incoming
        if not self._resource_seen:
            self.create_resource()
        if not names:
            # Health checks look for a connection to the database, which it may have closed meanwhile.
            self._backends.indexer.count_sacks()
            return
        refused = self._find_ids(names)
        if refused:
            _log_refused(refused)
            kept = numpy.array([name not in refused for name in names])
            names = [name for name in names if name not in refused]
            timestamps, values = timestamps[kept], values[kept]
        if names:
            incoming.write_measures(MeasureBatch(
                self._pack_ids(names), numpy.ones(len(names), numpy.int64), timestamps, values))

    def _pack_ids(self, names: Sequence[str]) -> numpy.ndarray:
        return numpy.frombuffer(b"".join([self._ids[name] for name in names]), metric_ids.DTYPE)

    def _find_ids(self, names: Sequence[str]) -> Mapping[str, ClientError]:
        """See to it that the id of each name is known, or return why not."""
        if len(self._ids) > CACHED_NAMES_MAX:
            self._ids = {}
        self._forget_deleted([name for name in names if name in self._ids])
        for _attempt in range(ATTEMPTS_MAX):
            try:
                self._look_up({name for name in names if name not in self._ids})
                missing = [name for name in names if name not in self._ids]
                return self._create(missing) if missing else {}
            except NoSuchResource:
                self.create_resource()
            except NamedMetricAlreadyExists as e:
                LOG.debug("%s: looking again", e)
        raise BackendUnavailable(f"index: metrics of resource {self._resource_id} change all the time")

    def _forget_deleted(self, names: Sequence[str]) -> None:
        if not names:
            return
        ids = self._pack_ids(names)
        live, _policies = self._backends.indexer.list_metric_policies(ids)
        if len(live) < len(ids):
            for row in numpy.flatnonzero(~numpy.isin(ids, live)).tolist():
                del self._ids[names[row]]

    def _look_up(self, names: set[str]) -> None:
        if names:
            metrics = self._backends.indexer.get_resource(GENERIC, self._resource_id).metrics
            self._ids.update({name: id.bytes for name, id in metrics.items() if name in names})

    def _create(self, names: Sequence[str]) -> Mapping[str, ClientError]:
        """Create metrics; return those that cannot be created, with the reason.

        Raises NoSuchResource, NamedMetricAlreadyExists: none was created.
        """
        indexer = self._backends.indexer
        rules = [] if self._archive_policy_name else indexer.list_archive_policy_rules()
        refused: dict[str, ClientError] = {}
        definitions = []
        for name in names:
            try:
                definitions.append(MetricDefinition(uuid.uuid4(), self._choose_policy(rules, name), name=name,
                                                    resource_id=self._resource_id))
            except InvalidInput as e:
                refused[name] = e
        try:
            created = indexer.create_metrics(definitions, self._creator) if definitions else []
        except (NoSuchArchivePolicy, InvalidInput) as e:
            return dict.fromkeys(names, e) | refused
        self._ids.update({definition.name: metric.id.bytes
                          for definition, metric in zip(definitions, created, strict=True)
                          if definition.name is not None})
        return refused

    def _choose_policy(self, rules: Sequence[ArchivePolicyRule], name: str) -> str:
        """Raises NoArchivePolicyRuleMatch."""
        return self._archive_policy_name or match_archive_policy(rules, name)


def _log_refused(refused: Mapping[str, ClientError]) -> None:
    for name in list(refused)[:MESSAGES_MAX]:
        LOG.error("Unable to add measure %s: %s", name, refused[name])
    if len(refused) > MESSAGES_MAX:
        LOG.error("Unable to add measures of %d more metrics", len(refused) - MESSAGES_MAX)
