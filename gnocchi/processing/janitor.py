"""Clean-up: deleted metrics leave storage, objects that no row names are deleted, read backlog is freed.

The janitor joins no ring.  It takes each sack's lock without waiting: a busy sack has its turn in the
next round.
"""

import logging
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.exceptions import CommitLost, CorruptedData
from gnocchi.incoming import IncomingDriver
from gnocchi.indexer import MetricPolicy
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.aggregate import expunge_sack
from gnocchi.processing.locks import Coordinator, lock_name, sack_name
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

#: Seconds an object is kept after its last reference went, for readers that still follow it.
GARBAGE_GRACE_S = 600

#: Objects deleted at once, so that a stop is heeded in between.
GARBAGE_BATCH = 1000


class CleanedUp(NamedTuple):
    """What one round did: metrics expunged and objects deleted."""

    metrics: int
    objects: int


class Janitor:
    """One round after the other, each step bounded.

    Parameters
    ----------
    metrics_max : int
        Deleted metrics taken in one round.
    stopped : callable returning bool
        Asked between two pieces of work.
    """

    def __init__(self, incoming: IncomingDriver, indexer: Indexer, store: Store, coordinator: Coordinator,
                 metrics_max: int, stopped: Callable[[], bool]) -> None:
        self._incoming = incoming
        self._indexer = indexer
        self._store = store
        self._coordinator = coordinator
        self._metrics_max = metrics_max
        self._stopped = stopped
        self._after: uuid.UUID | None = None

    def clean_up(self) -> CleanedUp:
        """Run one round.  Raises BackendUnavailable; what was done until then stays done."""
        metrics = self._expunge_metrics()
        objects = self._delete_garbage()
        self._incoming.acknowledge({sack.number: sack.checkpoint for sack in self._indexer.list_sacks()})
        return CleanedUp(metrics, objects)

    def _expunge_metrics(self) -> int:
        sacks = self._indexer.count_sacks()
        deleted = self._indexer.list_deleted_metrics(self._metrics_max, self._after)
        # On from there in the next round: some that cannot be expunged do not hold up the others.
        self._after = deleted[-1].id if len(deleted) == self._metrics_max else None
        numbers = metric_ids.sack_numbers(metric_ids.pack_ids(metric.id for metric in deleted), sacks)
        by_sack: dict[int, list[MetricPolicy]] = {}
        for metric, number in zip(deleted, numbers.tolist(), strict=True):
            by_sack.setdefault(number, []).append(metric)
        expunged = 0
        for number, metrics in by_sack.items():
            if self._stopped():
                break
            with self._coordinator.try_lock(lock_name(sack_name(number, sacks))) as held:
                if held and self._expunge_sack(number, metrics):
                    expunged += len(metrics)
        return expunged

    def _expunge_sack(self, number: int, metrics: Sequence[MetricPolicy]) -> bool:
        ids_by_policy: dict[uuid.UUID, list[uuid.UUID]] = {}
        for metric in metrics:
            ids_by_policy.setdefault(metric.policy_id, []).append(metric.id)
        packed: dict[uuid.UUID, numpy.ndarray] = {
            policy: metric_ids.pack_ids(ids) for policy, ids in ids_by_policy.items()}
        try:
            expunge_sack(number, packed, self._indexer, self._store)
        except (CommitLost, CorruptedData) as e:
            LOG.warning("Unable to expunge %d metrics of sack %d from storage, which is tried again: %s",
                        len(metrics), number, e)
            return False
        self._indexer.expunge_metrics([metric.id for metric in metrics])
        return True

    def _delete_garbage(self) -> int:
        deleted = 0
        while not self._stopped():
            keys = self._indexer.list_collectable_garbage(GARBAGE_GRACE_S, GARBAGE_BATCH)
            # The rows go last: when the driver fails in between, the same keys come up again.
            self._store.driver.delete_many(keys)
            self._indexer.delete_garbage_rows(keys)
            deleted += len(keys)
            if len(keys) < GARBAGE_BATCH:
                break
        return deleted
