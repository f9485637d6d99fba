"""Incoming measures in a store of objects: each process that accepts measures writes groups, workers read their parts.

    requests ──> GroupWriter ──> group/<stamp>-<writer> ──> GroupIndex: who has what in which group
                 one group at    an object, cut by sack     GroupReader ──> slices of a sack, up to its Marks
                 a time

What it takes to apply each slice once, and in order, although stores may list what is deleted and not yet what is
there: doc/source/design/groups.rst.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy
import xxhash

from gnocchi import metric_ids
from gnocchi.exceptions import BackendUnavailable, CorruptedData
from gnocchi.incoming import Backlog, BacklogReport, Checkpoint, IncomingDriver, SackBacklog
from gnocchi.incoming.batch import MeasureBatch, body_bytes, count_ids, select_metrics
from gnocchi.incoming.group import PREFIX, GroupKey, format_key, parse_key
from gnocchi.incoming.group_index import GroupIndex
from gnocchi.incoming.group_reader import GroupGone, GroupReader
from gnocchi.incoming.group_writer import GroupWriter
from gnocchi.incoming.journal_slices import gather_slices
from gnocchi.incoming.keyed_store import KeyedStore, KeyRange
from gnocchi.incoming.marks import Marks

LOG = logging.getLogger(__name__)

#: Where groups go in which damage was found, for the operator to look at and to delete.
DAMAGED_PREFIX = "damaged/"
#: Largest object kept there.
_DAMAGED_BYTES_MAX = 256 << 20

#: Bundles and groups read at once, per sack: a bundle takes as much memory as five measures.
BUNDLES_PER_SLICE = 250_000
GROUPS_PER_SLICE = 1000
#: With fewer entries in memory, all that is new is looked at.
_ENTRIES_LOW = 50_000
#: How often a slice is planned anew because a group was deleted, all of it being committed, meanwhile.
_ATTEMPTS_MAX = 5
#: Groups looked at together for the figures.
_GROUPS_PER_STEP = 64


class _Plan(NamedTuple):
    """The next slice of a sack.  entries : ndarray, shape (k,), ENTRY;  keys : of the group of each"""

    sack: int
    entries: numpy.ndarray
    keys: list[str]
    checkpoint: Checkpoint
    complete: bool


class KeyedDriver(IncomingDriver):
    """Groups in a store.

    Parameters
    ----------
    store : KeyedStore
    sacks : int
        The number of sacks, a power of two.
    """

    def __init__(self, store: KeyedStore, sacks: int) -> None:
        self._store = store
        self._sacks = sacks
        self._writer = GroupWriter(store, sacks)
        self._reader = GroupReader(store, sacks)
        #: Guards the index; never held while measures are read.
        self._lock = threading.Lock()
        self._index = GroupIndex(store, self._reader, sacks)
        self._damage: set[tuple[str, int]] = set()

    @property
    def damaged_count(self) -> int:
        """How many damaged places this process has met (and left out) in groups."""
        return len(self._damage)

    def upgrade(self) -> None:
        self._store.upgrade()

    def close(self) -> None:
        self._store.close()

    def write_measures(self, batch: MeasureBatch) -> None:
        if len(batch.metric_ids):
            self._writer.write(batch)

    def get_position(self) -> object | None:
        return self._store.get_position()

    def check(self) -> None:
        # Behind all groups there is nothing; where nothing can be listed, nothing can be read.
        next(iter(self._store.list(PREFIX, f"{PREFIX}~")), None)

    def read_backlog(self, sack: int, checkpoint: Checkpoint, measures_max: int) -> Backlog | None:
        return self.read_backlogs({sack: checkpoint}, measures_max)[sack]

    def read_backlogs(self, checkpoints: Mapping[int, Checkpoint], measures_max: int) -> dict[int, Backlog | None]:
        for _attempt in range(_ATTEMPTS_MAX):
            with self._lock:
                found, plans = self._plan_all(checkpoints, measures_max)
            try:
                found |= self._read(plans)
                return {sack: found[sack] for sack in checkpoints if sack in found}
            except GroupGone as e:
                # Somebody deleted it: committed, all of it.  So look again.
                with self._lock:
                    self._index.drop([e.key])
        raise BackendUnavailable("Groups of measures vanish while they are read")

    def list_backlogs(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, SackBacklog]:
        """Return the sacks that have something waiting, of what is known; `checkpoints` must be committed ones."""
        marks = _make_marks(checkpoints)
        waiting = {}
        with self._lock:
            self._refresh(marks)
            for sack, of_sack in marks.items():
                entries = self._index.list_untaken(sack, of_sack)
                if len(entries):
                    waiting[sack] = SackBacklog(int(entries["metrics"].sum(dtype=numpy.int64)),
                                                int(entries["measures"].sum(dtype=numpy.int64)),
                                                int(entries["stamp"][0]))
        return waiting

    def report_backlog(self, checkpoints: Mapping[int, Checkpoint], details: bool) -> BacklogReport:
        """Return the figures of `/v1/status`; `checkpoints` must be committed ones."""
        marks = _make_marks(checkpoints)
        with self._lock:
            self._refresh(marks)
            keys = self._index.list_waiting()
        ids, bundles = count_ids(self._read_ids(keys, marks))
        by_metric = None
        if details:
            by_metric = {str(i): n for i, n in zip(metric_ids.unpack_ids(ids), bundles.tolist(), strict=True)}
        return BacklogReport(len(ids), int(bundles.sum()), by_metric)

    def acknowledge(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        marks = _make_marks(checkpoints)
        with self._lock:
            self._refresh(marks)
            while True:
                exhausted = self._index.list_exhausted()
                exhausted += [key for key, error in self._index.damaged.items() if self._note_damage(error)]
                self._store.delete_many(exhausted)
                self._index.drop(exhausted)
                # Where nothing is committed, hardly anything behind it is.
                if not exhausted or not self._index.load_piece():
                    return
                self._index.forget(marks)

    # Planning

    def _refresh(self, marks: Mapping[int, Marks]) -> None:
        """Look at the groups there are, and forget what the sacks have committed."""
        self._index.refresh()
        self._index.forget(marks)
        while self._load_some():
            self._index.forget(marks)

    def _load_some(self) -> bool:
        """Get to know what is in more groups, unless that is enough to go on with; return whether there were any."""
        if not self._index.has_holes and self._index.entries_waiting >= _ENTRIES_LOW or not self._index.load_piece():
            return False
        for error in list(self._index.damaged.values()):
            self._note_damage(error)
        return True

    def _load(self) -> None:
        while self._load_some():
            pass

    def _plan_all(self, checkpoints: Mapping[int, Checkpoint],
                  measures_max: int) -> tuple[dict[int, Backlog | None], list[_Plan]]:
        """Choose the next slice of each sack; return those that have none, too.

        As long as not all groups are known, a sack that has nothing in those that are is left out.
        """
        self._index.refresh()
        self._load()
        sought: set[str] = set()
        refreshed = False
        while True:
            found: dict[int, Backlog | None] = {}
            plans: list[_Plan] = []
            missing: list[GroupKey] = []
            waits = False
            room = measures_max
            for sack, checkpoint in checkpoints.items():
                if room <= 0:
                    break
                marks = Marks(checkpoint)
                entries = self._index.list_untaken(sack, marks)
                if self._index.sees_all and not len(entries):
                    found[sack] = None
                ready = entries[:self._index.count_ready(entries)]
                waits = waits or len(ready) < len(entries)
                if len(ready):
                    missing += self._index.list_missing(ready, marks)
                    plans.append(self._cut(sack, entries, ready, marks, room))
                    room -= int(plans[-1].entries["measures"].sum(dtype=numpy.int64))
            missing = [key for key in missing if format_key(key) not in sought]
            sought |= {format_key(key) for key in missing}
            if missing and self._index.seek(missing):
                continue
            if plans or not (self._index.load_piece() or (waits and not refreshed)):
                if not plans and self._index.is_full:
                    raise BackendUnavailable("Incoming measures: more slices of other sacks wait than can be looked at")
                return found if plans else dict.fromkeys(checkpoints), plans
            if waits and not refreshed:
                # What is newer than the listing may be taken after another one.
                refreshed = True
                self._index.refresh()
                self._load()

    def _cut(self, sack: int, entries: numpy.ndarray, ready: numpy.ndarray, marks: Marks, measures_max: int) -> _Plan:
        """Return the longest prefix that fits, of one group at least; what is of one group stays together."""
        fitting = min(len(ready), GROUPS_PER_SLICE)
        for field, most in (("measures", measures_max), ("metrics", BUNDLES_PER_SLICE)):
            ends = numpy.cumsum(ready[field], dtype=numpy.int64)
            fitting = min(fitting, int(numpy.searchsorted(ends, most, side="right")))
        groups = ready["group"]
        fitting = max(fitting, 1)
        if fitting < len(ready) and groups[fitting] == groups[fitting - 1]:
            first = int(numpy.searchsorted(ready["stamp"], ready["stamp"][fitting]))
            fitting = first or int(numpy.searchsorted(ready["stamp"], ready["stamp"][0], side="right"))
        taken = ready[:fitting]
        for stamp, previous, writer in taken[["stamp", "previous", "writer"]].tolist():
            marks.take(self._index.writers[writer], stamp, previous)
        forget_before = time.time_ns() - int(self._store.forget_s * 1e9)
        return _Plan(sack, taken, [self._index.key_of(number) for number in taken["group"].tolist()],
                     marks.make_checkpoint(self._index.list_writers(), forget_before),
                     fitting == len(entries) and self._index.sees_all)

    # Reading

    def _read(self, plans: Sequence[_Plan]) -> dict[int, Backlog | None]:
        """Read slices of many sacks at once.  Raises GroupGone."""
        if not plans:
            return {}
        entries = numpy.concatenate([plan.entries for plan in plans])
        keys = [key for plan in plans for key in plan.keys]
        metrics, measures = (entries[name].astype(numpy.int64) for name in ("stored_metrics", "stored_measures"))
        starts = entries["start"]
        stops = starts + body_bytes(metrics, measures)
        pieces = self._reader.fetch(list(zip(keys, starts.tolist(), stops.tolist(), strict=True)))
        good = numpy.ones(len(entries), bool)
        digest = xxhash.xxh3_64_intdigest
        for i, (piece, checksum) in enumerate(zip(pieces, entries["checksum"].tolist(), strict=True)):
            if digest(piece) != checksum:
                good[i] = False
                self._note_damage(CorruptedData(keys[i], int(starts[i]),
                                                f"a slice of {measures[i]} measures fails its checksum"))
                pieces[i] = memoryview(b"")
        metrics, measures = metrics * good, measures * good
        sizes = body_bytes(metrics, measures)
        batch = gather_slices(numpy.frombuffer(b"".join(pieces), "<u8"), (numpy.cumsum(sizes) - sizes) // 8, metrics,
                              measures)
        found: dict[int, Backlog | None] = {}
        rows, points = numpy.append(0, numpy.cumsum(metrics)), numpy.append(0, numpy.cumsum(measures))
        first = 0
        for plan in plans:
            last = first + len(plan.entries)
            share = MeasureBatch(*(array[bounds[first]:bounds[last]]
                                   for array, bounds in zip(batch, (rows, rows, points, points), strict=True)))
            if (plan.entries["metrics"] != plan.entries["stored_metrics"]).any():
                # Only what was cut for another number of sacks can hold metrics of others.
                share = select_metrics(share, metric_ids.sack_numbers(share.metric_ids, self._sacks) == plan.sack)
            found[plan.sack] = Backlog(share, len(share.metric_ids), plan.checkpoint, plan.complete)
            first = last
        return found

    def _read_ids(self, keys: Sequence[str], marks: Mapping[int, Marks]) -> Iterator[numpy.ndarray]:
        """Yield the metric ids that wait in groups."""
        for first in range(0, len(keys), _GROUPS_PER_STEP):
            step = keys[first:first + _GROUPS_PER_STEP]
            for key, data in zip(step, self._reader.read_heads(step), strict=True):
                # What was deleted meanwhile was committed, all of it; and what is damaged waits for nobody.
                with contextlib.suppress(GroupGone, CorruptedData):
                    if data is not None:
                        yield from self._list_ids(key, self._reader.read_entries(key, data), marks)

    def _list_ids(self, key: str, entries: numpy.ndarray, marks: Mapping[int, Marks]) -> Iterator[numpy.ndarray]:
        named = parse_key(key)
        assert named is not None
        waiting = entries[[sack in marks and not marks[sack].took(named.writer, named.stamp)
                           for sack in entries["sack"].tolist()]]
        for row, (ids, _) in zip(waiting, self._reader.read_ids(key, waiting), strict=True):
            yield ids[metric_ids.sack_numbers(ids, self._sacks) == row["sack"]]

    def _note_damage(self, error: CorruptedData) -> bool:
        """Count and log a damaged place once, and copy the object; return whether there is a copy."""
        if (error.key, error.offset) in self._damage:
            return True
        LOG.error("Measures are lost to damage: %s", error)
        try:
            data = self._store.get_many([KeyRange(error.key, 0, _DAMAGED_BYTES_MAX)])[0]
            if data is not None:
                self._store.put(DAMAGED_PREFIX + error.key.removeprefix(PREFIX), data)
        except BackendUnavailable as e:
            LOG.warning("Cannot keep a copy of the damaged group %s: %s", error.key, e)
            return False
        self._damage.add((error.key, error.offset))
        return True


def _make_marks(checkpoints: Mapping[int, Checkpoint]) -> dict[int, Marks]:
    return {sack: Marks(checkpoint) for sack, checkpoint in checkpoints.items()}
