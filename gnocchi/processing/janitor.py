"""Clean-up: parked measures are tried again; deleted metrics leave storage, and so do raw measures that a smaller back
window has no use for; silent resources end, and ended ones go; blocks are merged, objects that no row names go, read
backlog is freed.

The janitor joins no ring.  It takes each sack's lock without waiting: a busy sack has its turn in the
next round.
"""

import functools
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.catalogue import Sack
from gnocchi.exceptions import BackendUnavailable, CommitLost
from gnocchi.incoming import IncomingDriver
from gnocchi.indexer import MetricPolicy
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.aggregate import expunge_sack
from gnocchi.processing.life_cycle import NEVER, LifeSpans, end_inactive_resources, expire_resources
from gnocchi.processing.locks import Coordinator, lock_name, sack_name
from gnocchi.processing.merge import list_idle_sacks, merge_sack
from gnocchi.processing.orphans import collect_old_orphans, collect_orphans
from gnocchi.processing.parking import Unprocessable, utcnow
from gnocchi.processing.replay import is_due, replay_pack
from gnocchi.processing.statistics import FORGET_S, JANITOR, Statistics
from gnocchi.processing.truncate import truncate_sack
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

#: Seconds an object is kept after its last reference went, for readers that still follow it.
GARBAGE_GRACE_S = 600

#: Seconds an object without any reference is left alone: a commit that takes longer is lost.
ORPHAN_GRACE_S = 600

#: Seconds after which an unfinished write is taken for left behind.
LEFTOVER_AGE_S = 3600

#: Objects deleted at once, so that a stop is heeded in between.
GARBAGE_BATCH = 1000

#: Every so many rounds all blocks are searched for rows of deleted metrics, in case a janitor died over its work,
#: and all objects for such as no row names.
ROUNDS_PER_SEARCH = 16

#: Sacks whose blocks are looked at together; bounds memory.
SACKS_LOOKED_AT = 16


class CleanedUp(NamedTuple):
    """What one round did: metrics expunged, blocks merged away, objects deleted, and pieces of work that failed."""

    metrics: int
    blocks: int
    objects: int
    errors: int


#: Names of the counters that make up a CleanedUp, in its order.
EXPUNGED, MERGED, DELETED, ERRORS = "expunged metrics", "merged blocks", "deleted objects", "errors"
#: Names of the others.
TRUNCATED, ENDED, EXPIRED = "truncated metrics", "ended resources", "expired resources"


class Janitor:
    """One round after the other, each step bounded.

    Parameters
    ----------
    metrics_max : int
        Deleted metrics taken in one round.
    stopped : callable returning bool
        Asked between two pieces of work.
    statistics : Statistics, optional
        Where it is counted what is done.
    spans : LifeSpans
        When resources end and go by themselves.
    delay_s : float
        From one round to the next.
    """

    def __init__(self, incoming: IncomingDriver, indexer: Indexer, store: Store, coordinator: Coordinator,
                 metrics_max: int, stopped: Callable[[], bool], statistics: Statistics | None = None,
                 spans: LifeSpans = NEVER, delay_s: float = 0) -> None:
        self._incoming = incoming
        self._indexer = indexer
        self._store = store
        self._coordinator = coordinator
        self._metrics_max = metrics_max
        self._stopped = stopped
        self._spans = spans
        self._delay_s = delay_s
        #: When it was last looked for resources that end.
        self._last_look = time.monotonic()
        self._after: uuid.UUID | None = None
        self._truncated_after: uuid.UUID | None = None
        self._round = 0
        self._statistics = statistics or Statistics(JANITOR, "", 0.0)
        self.counters = self._statistics.counters
        #: Packs with rows of deleted metrics, by sack.
        self._suspects: dict[int, set[uuid.UUID]] = {}
        #: Sequence of each sack when there was nothing left to merge in it.
        self._merged: dict[int, int] = {}
        #: When objects were first found without a name, by sack and key.
        self._unnamed: dict[int, dict[str, float]] = {}
        #: The same of objects that were written for another number of sacks.
        self._unnamed_old: dict[str, float] = {}

    def clean_up(self) -> CleanedUp:
        """Run one round.  Raises BackendUnavailable; what was done until then stays done."""
        before = self.counters.copy()
        self._retry_parked()
        self._expunge_metrics()
        self._truncate_metrics()
        self._end_resources()
        sacks = self._indexer.list_sacks()
        self._merge_blocks(sacks)
        self._delete_garbage()
        if self._searches():
            self._collect_orphans(sacks)
            self.counters[DELETED] += collect_old_orphans(sacks, self._indexer, self._store, ORPHAN_GRACE_S,
                                                          self._unnamed_old)
            self._indexer.delete_old_statistics(FORGET_S)
            self._store.driver.delete_leftovers(LEFTOVER_AGE_S)
        self._incoming.acknowledge({sack.number: sack.checkpoint for sack in sacks})
        self._round += 1
        return CleanedUp(*[self.counters[name] - before[name] for name in (EXPUNGED, MERGED, DELETED, ERRORS)])

    def _work_on(self, number: int, sacks: int, purpose: str, work: Callable[[], None]) -> None:
        """Do a piece of work on one sack, unless somebody else is at it.

        What goes wrong there is counted and keeps nobody from the other sacks: the next round tries again.
        """
        with self._coordinator.try_lock(lock_name(sack_name(number, sacks))) as held:
            if not held:
                return
            try:
                work()
            except CommitLost as e:
                LOG.warning("Unable to %s in sack %d, which is tried again: %s", purpose, number, e)
            except BackendUnavailable:
                raise
            except Exception:
                self.counters[ERRORS] += 1
                LOG.exception("Unable to %s in sack %d, which is tried again", purpose, number)

    def _retry_parked(self) -> None:
        now = utcnow()
        due = {(row.sack, row.pack_id) for row in self._indexer.list_parked() if is_due(row, now)}
        sacks = self._indexer.count_sacks() if due else 0
        for number, pack_id in sorted(due):
            if self._stopped():
                break
            self._work_on(number, sacks, f"take the parked measures of pack {pack_id}",
                          functools.partial(self._retry_pack, number, pack_id))

    def _retry_pack(self, number: int, pack_id: uuid.UUID) -> None:
        """Take parked measures until none are left; the commits of a stopped janitor count."""
        try:
            complete = False
            while not complete and not self._stopped():
                measures, refused, complete = replay_pack(number, pack_id, self._indexer, self._store)
                LOG.info("Aggregated %d parked measures of pack %s, %d of them were refused",
                         measures, pack_id, refused.total())
                self._statistics.count_refused(refused)
        except Unprocessable as e:
            self._indexer.count_parked_attempt(pack_id)
            LOG.error("Pack %s of sack %d still cannot be processed, and its measures stay parked: %s",
                      pack_id, number, e, exc_info=e.__cause__)

    def _expunge_metrics(self) -> None:
        deleted = self._indexer.list_deleted_metrics(self._metrics_max, self._after)
        # On from there in the next round: some that cannot be expunged do not hold up the others.
        self._after = deleted[-1].id if len(deleted) == self._metrics_max else None
        self._work_on_metrics(deleted, "expunge", self._expunge_sack)

    def _work_on_metrics(self, metrics: Sequence[MetricPolicy], purpose: str,
                         work: Callable[[int, Sequence[MetricPolicy]], None]) -> None:
        """Do something to metrics, sack by sack."""
        if not metrics:
            return
        sacks = self._indexer.count_sacks()
        numbers = metric_ids.sack_numbers(metric_ids.pack_ids(metric.id for metric in metrics), sacks)
        by_sack: dict[int, list[MetricPolicy]] = {}
        for metric, number in zip(metrics, numbers.tolist(), strict=True):
            by_sack.setdefault(number, []).append(metric)
        for number, those in by_sack.items():
            if self._stopped():
                break
            self._work_on(number, sacks, f"{purpose} {len(those)} metrics", functools.partial(work, number, those))

    def _expunge_sack(self, number: int, metrics: Sequence[MetricPolicy]) -> None:
        touched, kept = expunge_sack(number, _pack_by_policy(metrics), self._indexer, self._store)
        self._suspects.setdefault(number, set()).update(touched)
        gone = {metric.id for metric in metrics} - set(metric_ids.unpack_ids(kept))
        self._indexer.expunge_metrics(sorted(gone))
        self.counters[EXPUNGED] += len(gone)

    def _truncate_metrics(self) -> None:
        found = self._indexer.list_metrics_to_truncate(self._metrics_max, self._truncated_after)
        self._truncated_after = found[-1].id if len(found) == self._metrics_max else None
        self._work_on_metrics(found, "truncate", self._truncate_sack)

    def _truncate_sack(self, number: int, metrics: Sequence[MetricPolicy]) -> None:
        done = truncate_sack(number, _pack_by_policy(metrics), self._indexer, self._store)
        for policy_id, (back_window, ids) in done.items():
            self._indexer.clear_truncation(policy_id, back_window, metric_ids.unpack_ids(ids))
            self.counters[TRUNCATED] += len(ids)

    def _end_resources(self) -> None:
        """End and delete resources whose time has come, unless another janitor is at it."""
        spans = self._spans
        now = time.monotonic()
        # A long round is no pause of metricd.
        delay_s = max(self._delay_s, now - self._last_look)
        self._last_look = now
        if spans.inactive_after_s > 0:
            with self._coordinator.try_lock(lock_name("resource_ended_at_normalization_lock")) as held:
                ended = held and end_inactive_resources(self._indexer, spans, delay_s, self._stopped)
            if ended:
                self.counters[ENDED] += ended
                LOG.info("%d resources ended, whose metrics got no measures", ended)
        if spans.cleanup_after_s > 0:
            with self._coordinator.try_lock(lock_name("auto_clean_expired_resources_lock")) as held:
                expired = held and expire_resources(self._indexer, spans, delay_s, self._stopped)
            if expired:
                self.counters[EXPIRED] += expired
                LOG.info("Deleted %d resources that ended over %d seconds ago", expired, spans.cleanup_after_s)

    def _merge_blocks(self, sacks: Sequence[Sack]) -> None:
        # From a place of its own on, so that the janitors of several hosts do not follow each other.
        start = random.randrange(len(sacks)) if sacks else 0
        search = self._searches()
        due = [sack.number for sack in [*sacks[start:], *sacks[:start]]
               if search or self._suspects.get(sack.number) or self._merged.get(sack.number) != sack.sequence]
        for begin in range(0, len(due), SACKS_LOOKED_AT):
            numbers = due[begin:begin + SACKS_LOOKED_AT]
            idle = {} if search else self._list_idle_sacks(numbers)
            self._merged.update(idle)
            for number in numbers:
                if self._stopped():
                    return
                if number not in idle:
                    self._work_on(number, len(sacks), "merge blocks",
                                  functools.partial(self._merge_sack, number, search))

    def _list_idle_sacks(self, numbers: Sequence[int]) -> dict[int, int]:
        """Return those in which there is nothing to merge; none if one of them keeps that from being told."""
        try:
            return list_idle_sacks(numbers, self._indexer, self._suspects)
        except BackendUnavailable:
            raise
        except Exception:
            LOG.exception("Unable to tell whether there are blocks to merge in sacks %s, which are taken one by one",
                          numbers)
            return {}

    def _searches(self) -> bool:
        """Tell whether this round looks for what nobody knows of.

        The first one does not, so that a start costs little.
        """
        return self._round % ROUNDS_PER_SEARCH == 1 % ROUNDS_PER_SEARCH

    def _merge_sack(self, number: int, search: bool) -> None:
        """Merge until nothing is left to merge; the commits of a stopped janitor count."""
        suspects = None if search else self._suspects.get(number, set())
        damaged: set[uuid.UUID] = set()
        while merged := merge_sack(number, self._indexer, self._store, suspects, damaged).removed:
            self.counters[MERGED] += merged
            if self._stopped():
                return
        self._suspects.pop(number, None)
        self._merged[number] = self._indexer.get_sack(number).sequence

    def _delete_garbage(self) -> None:
        while not self._stopped():
            keys = self._indexer.list_collectable_garbage(GARBAGE_GRACE_S, GARBAGE_BATCH)
            # The rows go last: when the driver fails in between, the same keys come up again.
            self._store.driver.delete_many(keys)
            self._indexer.delete_garbage_rows(keys)
            self.counters[DELETED] += len(keys)
            if len(keys) < GARBAGE_BATCH:
                break

    def _collect_orphans(self, sacks: Sequence[Sack]) -> None:
        for sack in sacks:
            if self._stopped():
                break
            self._work_on(sack.number, len(sacks), "look for objects that nothing refers to",
                          functools.partial(self._collect_orphans_of, sack.number))

    def _collect_orphans_of(self, number: int) -> None:
        self.counters[DELETED] += collect_orphans(number, self._indexer, self._store, ORPHAN_GRACE_S,
                                                  self._unnamed.setdefault(number, {}))


def _pack_by_policy(metrics: Sequence[MetricPolicy]) -> dict[uuid.UUID, numpy.ndarray]:
    ids: dict[uuid.UUID, list[uuid.UUID]] = {}
    for metric in metrics:
        ids.setdefault(metric.policy_id, []).append(metric.id)
    return {policy_id: metric_ids.pack_ids(of_policy) for policy_id, of_policy in ids.items()}
