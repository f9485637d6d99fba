"""Incoming measures in append-only journals, one per API process, on a file system.

Writing is journal_writer.py, reading journal_index.py and journal_slices.py; here both become a driver.
Format: doc/source/format/journal.rst.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy
from oslo_config import cfg

from gnocchi import metric_ids
from gnocchi.exceptions import BackendUnavailable, CorruptedData
from gnocchi.incoming import Backlog, BacklogReport, Checkpoint, IncomingDriver, SackBacklog
from gnocchi.incoming.batch import MeasureBatch, count_ids
from gnocchi.incoming.journal import DAMAGED_SUFFIX, SUFFIX, TEMPORARY_SUFFIX, encode_slices, parse_name
from gnocchi.incoming.journal_index import JournalIndex
from gnocchi.incoming.journal_slices import (
    IdRanges,
    JournalPart,
    read_metric_ids,
    read_sacks,
    read_slices,
)
from gnocchi.incoming.journal_writer import JOURNAL_AGE_S_MAX, JOURNAL_BYTES_MAX, JournalWriter, sync_directory
from gnocchi.incoming.slice_table import TABLE_SUFFIX, concat_entries, is_shared

LOG = logging.getLogger(__name__)

#: A journal's name, its index, and unread entries of one sack.
_Candidate = tuple[str, JournalIndex, numpy.ndarray]

OPTS = [
    cfg.StrOpt("file_basepath",
               default="/var/lib/gnocchi",
               help="Root of the data directory.  Journals of incoming measures lie in its folder 'incoming', "
                    "which must be on a local file system with locks (flock)."),
    cfg.StrOpt("durability",
               default="fsync",
               choices=[("fsync", "measures are accepted once they are on the disk, so they survive a power failure; "
                                  "requests that arrive together share one fsync"),
                        ("os", "measures are accepted once the operating system has them: faster, they survive a "
                               "crash of Gnocchi; a crash of the machine loses the last ones (about 30 s)")],
               help="What 'accepted' means for measures in files."),
]

#: Names of deleted journals remembered; forgetting one costs a sync.
_DELETED_MAX = 10_000
#: How often a slice is planned anew because a journal was deleted, all of it being committed, meanwhile.
_ATTEMPTS_MAX = 5
#: Slices whose metric ids are looked at together for the figures; bounds memory.
_SLICES_PER_STEP = 100_000
#: Bundles read at once: one takes as much memory as five measures.
BUNDLES_PER_SLICE = 250_000
#: Entries of indexes that a process has in memory, 40 bytes each; those of a longer backlog go to tables beside the
#: journals.
ENTRIES_IN_MEMORY = 1_000_000
#: A journal that still grows gets a new table, which is written whole, when this share of all entries is of it.
_SHARE_OF_A_TABLE = 1 / 16
#: Pause after a table could not be written, in seconds.
_TABLE_PAUSE_S = 60.0
#: Age at which a journal that was never finished being created is taken for left behind.
_TEMPORARY_AGE_NS_MAX = 3600 * 10 ** 9


class FileDriver(IncomingDriver):
    """Journals in `<basepath>/incoming`.

    The checkpoint of a sack is `{"journals": {name: offset}}`: its slices that start before the offset are
    committed.  A journal that is not named has none committed.

    Parameters
    ----------
    basepath : str
        The data directory.
    sacks : int
        The number of sacks, a power of two.
    durability : str
        `fsync` or `os`, see OPTS.
    journal_bytes_max, journal_age_s_max
        When a journal in use gives way to a new one.
    entries_max : int
        Entries of indexes in memory.
    system
        Has the functions of `os` that write; tests inject faults there.
    """

    def __init__(self, basepath: str, sacks: int, durability: str = "fsync", *,
                 journal_bytes_max: int = JOURNAL_BYTES_MAX, journal_age_s_max: float = JOURNAL_AGE_S_MAX,
                 entries_max: int = ENTRIES_IN_MEMORY, system: Any = os):
        self.directory = os.path.join(basepath, "incoming")
        self._sacks = sacks
        self._system = system
        self._entries_max = entries_max
        self._next_table_s = 0.0
        self._writer = JournalWriter(self.directory, sacks, durability == "fsync", journal_bytes_max,
                                     journal_age_s_max, system)
        #: Guards the indexes; never held while measures are read.
        self._reading = threading.Lock()
        self._indexes: dict[str, JournalIndex] = {}
        #: Names of journals that are durably gone, of those that checkpoints still have.
        self._deleted: set[str] = set()
        self._damage: set[tuple[str, int]] = set()
        #: The newest stamp that a look at the journals has come across.
        self._newest_seen = 0

    @property
    def damaged_count(self) -> int:
        """How many damaged places this process has met (and left out) in journals."""
        return len(self._damage)

    def upgrade(self) -> None:
        try:
            os.makedirs(self.directory, exist_ok=True)
            sync_directory(os.path.dirname(self.directory))
        except OSError as e:
            raise BackendUnavailable(f"Cannot create {self.directory}: {e.strerror}") from e

    def close(self) -> None:
        self._writer.close()
        with self._reading:
            for index in self._indexes.values():
                index.close()
            self._indexes = {}

    def write_measures(self, batch: MeasureBatch) -> None:
        if len(batch.metric_ids):
            self._writer.write(encode_slices(batch, self._sacks))

    def read_backlog(self, sack: int, checkpoint: Checkpoint, measures_max: int) -> Backlog | None:
        for _attempt in range(_ATTEMPTS_MAX):
            with self._reading, self._unavailable():
                planned = self._plan(sack, checkpoint, measures_max)
            if planned is None:
                return None
            parts, following, complete = planned
            try:
                with self._unavailable(but=FileNotFoundError):
                    batch, damage = read_slices(parts, sack, self._sacks)
            except FileNotFoundError:
                continue    # Somebody deleted a journal: committed, all of it.  So look again.
            self._note_damage(damage)
            return Backlog(batch, len(batch.metric_ids), following, complete)
        raise BackendUnavailable(f"Journals in {self.directory} vanish while they are read")

    def read_backlogs(self, checkpoints: Mapping[int, Checkpoint], measures_max: int) -> dict[int, Backlog | None]:
        # FAST PATH: all that waits, as long as it fits, with a few calls for all sacks.
        with contextlib.suppress(FileNotFoundError), self._unavailable(but=FileNotFoundError):
            with self._reading:
                planned = self._plan_all(checkpoints, measures_max)
            if planned is not None:
                parts, owners, following = planned
                found: dict[int, Backlog | None] = dict.fromkeys(checkpoints)
                batches, damage = read_sacks(parts, owners, len(following)) if parts else ([], [])
                self._note_damage(damage)
                for (sack, checkpoint), batch in zip(following.items(), batches, strict=True):
                    found[sack] = Backlog(batch, len(batch.metric_ids), checkpoint, True)
                return found
        return super().read_backlogs(checkpoints, measures_max)

    def list_backlogs(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, SackBacklog]:
        """Return the sacks that have something waiting; `checkpoints` must be committed ones."""
        waiting = {}
        with self._reading, self._unavailable():
            indexes = self._refresh()
            self._forget(indexes, checkpoints)
            for sack, checkpoint in checkpoints.items():
                found = []
                for name, index in indexes:
                    with contextlib.suppress(FileNotFoundError):    # Deleted just now: committed, all of it.
                        totals = index.sum_up(sack, _offset(checkpoint, name))
                        found += [] if totals is None else [totals]
                if found:
                    waiting[sack] = SackBacklog(sum(totals.bundles for totals in found),
                                                sum(totals.measures for totals in found),
                                                min(totals.oldest_ns for totals in found))
        return waiting

    def report_backlog(self, checkpoints: Mapping[int, Checkpoint], details: bool) -> BacklogReport:
        """Return the figures of `/v1/status`; `checkpoints` must be committed ones."""
        with self._reading, self._unavailable():
            indexes = self._refresh()
            self._forget(indexes, checkpoints)
        ids, bundles = count_ids(self._read_ids(indexes, checkpoints))
        by_metric = None
        if details:
            by_metric = {str(i): n for i, n in zip(metric_ids.unpack_ids(ids), bundles.tolist(), strict=True)}
        return BacklogReport(len(ids), int(bundles.sum()), by_metric)

    def acknowledge(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        with self._reading, self._unavailable():
            indexes = self._refresh()
            self._forget(indexes, checkpoints)
            exhausted = [name for name, index in indexes if index.exhausted]
            for name in exhausted:
                with contextlib.suppress(FileNotFoundError):    # Another process was faster.
                    self._system.unlink(self._indexes[name].path)
                self._indexes.pop(name).close()
            self._delete_leftovers()
            if exhausted:
                sync_directory(self.directory, self._system)

    def get_position(self) -> tuple[tuple[str, int], ...]:
        with self._reading, self._unavailable():
            position = []
            for name, index in self._list_indexes():
                with contextlib.suppress(FileNotFoundError):
                    position.append((name, index.read_end()))
            return tuple(position)

    # Planning

    def _plan(self, sack: int, checkpoint: Checkpoint,
              measures_max: int) -> tuple[list[JournalPart], Checkpoint, bool] | None:
        """Choose the oldest unread slices; return them by journal, the checkpoint after them, whether that is all."""
        # A journal that is looked at later may show a request that was sent when another one's was answered, but not
        # that one, of which the other journal told too late.  What is no newer than the look itself has no such gaps.
        newest = max(time.time_ns(), self._newest_seen)
        listed = self._list_indexes()
        found: list[_Candidate] = []
        complete = True
        for name, index in listed:
            if _is_enough(found, int(name.partition("-")[0]), measures_max):
                complete = False    # Journals made after all that fits need not be looked at.
                break
            with contextlib.suppress(FileNotFoundError):    # Deleted just now: committed, all of it.
                if self._refresh_one(name, index) and len(entries := index.unread(sack, _offset(checkpoint, name))):
                    found.append((name, index, entries))
        if not found:
            return None
        # Also when the clock was set back, the next look takes what this one has seen.
        self._newest_seen = max(self._newest_seen, *(int(entries["stamp"][-1]) for _, _, entries in found))
        candidates = [(name, index, entries[:numpy.searchsorted(entries["stamp"], newest, side="right")])
                      for name, index, entries in found if entries["stamp"][0] <= newest]
        if not candidates:
            return self._plan(sack, checkpoint, measures_max)
        complete = complete and self._newest_seen <= newest
        last_stamp, all_taken = _cut_prefix(candidates, measures_max)
        following = {name: offset for name, _ in listed if (offset := _offset(checkpoint, name))}
        self._make_deletions_durable(checkpoint.get("journals", {}).keys() - following.keys())
        parts = []
        for name, index, entries in candidates:
            taken = entries[:numpy.searchsorted(entries["stamp"], last_stamp, side="right")]
            if len(taken):
                parts.append(_make_part(index.path, taken))
                following[name] = int(taken["start"][-1]) + 1
        return parts, {"journals": following}, complete and all_taken

    def _plan_all(self, checkpoints: Mapping[int, Checkpoint], measures_max: int
                  ) -> tuple[list[JournalPart], list[numpy.ndarray], dict[int, Checkpoint]] | None:
        """Choose all unread slices of some sacks; None when they are too many, or not to be told apart so simply.

        Returns them by journal, of each slice which sack it is of, and the checkpoints of those that have any.
        """
        newest = max(time.time_ns(), self._newest_seen)
        listed = self._list_indexes()
        indexes = [(name, index) for name, index in listed if self._refresh_one(name, index)]
        unread: dict[str, list[numpy.ndarray]] = {name: [] for name, _ in indexes}
        owners: dict[str, list[tuple[int, int]]] = {name: [] for name, _ in indexes}
        following: dict[int, Checkpoint] = {}
        gone: set[str] = set()
        measures = bundles = 0
        for sack, checkpoint in checkpoints.items():
            offsets = {name: offset for name, _ in listed if (offset := _offset(checkpoint, name))}
            gone |= checkpoint.get("journals", {}).keys() - offsets.keys()
            for name, index in indexes:
                entries = index.unread(sack, offsets.get(name, 0))
                if not len(entries):
                    continue
                if sack not in following:
                    following[sack] = {"journals": offsets}
                offsets[name] = int(entries["start"][-1]) + 1
                unread[name].append(entries)
                owners[name].append((len(following) - 1, len(entries)))
                measures += int(entries["measures"].sum(dtype=numpy.int64))
                bundles += int(entries["metrics"].sum(dtype=numpy.int64))
                if measures >= measures_max or bundles > BUNDLES_PER_SLICE or entries["stamp"][-1] > newest:
                    return None
        self._make_deletions_durable(gone)
        parts, owner_arrays = [], []
        for name, index in indexes:
            if unread[name]:
                entries = concat_entries(unread[name])
                self._newest_seen = max(self._newest_seen, int(entries["stamp"].max()))
                order = numpy.argsort(entries["start"], kind="stable")
                entries = entries[order]
                parts.append(_make_part(index.path, entries))
                if parts[-1].shared.any():
                    return None
                owner_arrays.append(numpy.repeat(*numpy.array(owners[name]).T)[order])
        return parts, owner_arrays, following

    def _make_deletions_durable(self, names: Set[str]) -> None:
        """Have journals that are gone stay gone, before a commit forgets how far they were read.

        Who deleted them may not have come to it yet.  A power cut would bring them back, and their measures
        would be taken for new ones, later than all that were posted since.
        """
        if names - self._deleted:
            sync_directory(self.directory, self._system)
            if len(self._deleted) > _DELETED_MAX:
                self._deleted = set()
            self._deleted |= names

    # The journals there are

    def _list_indexes(self) -> list[tuple[str, JournalIndex]]:
        """Return the journals that exist, in the order of creation."""
        names = {file_name[:-len(SUFFIX)]: parsed for file_name in os.listdir(self.directory)
                 if (parsed := parse_name(file_name)) is not None}
        for name in self._indexes.keys() - names.keys():
            self._indexes.pop(name).close()
        for name in names.keys() - self._indexes.keys():
            self._indexes[name] = JournalIndex(os.path.join(self.directory, name + SUFFIX), names[name], self._sacks)
        return sorted(self._indexes.items())

    def _refresh_one(self, name: str, index: JournalIndex) -> bool:
        """Bring an index up to date; return False when the journal is gone."""
        kept = index.kept
        try:
            index.refresh()
        except FileNotFoundError:
            self._indexes.pop(name).close()
            return False
        if index.damage:
            self._note_damage(index.damage)
            index.damage = []
        if index.kept > kept:
            self._bound_memory()
        return True

    def _bound_memory(self) -> None:
        """Put entries that are too many into tables, those of the longest indexes first."""
        total = sum(index.kept for index in self._indexes.values())
        if total <= self._entries_max or time.monotonic() < self._next_table_s:
            return
        for index in sorted(self._indexes.values(), key=lambda index: index.kept, reverse=True):
            kept = index.kept
            if total <= self._entries_max or not kept:
                return
            if not index.final and kept < self._entries_max * _SHARE_OF_A_TABLE:
                continue
            try:
                index.spill()
            except FileNotFoundError:    # The journal is gone, as whoever comes to it next will see.
                continue
            except OSError as e:
                LOG.warning("Cannot write %s: %s; the backlog's index takes memory instead, 40 bytes for each bundle "
                            "that waits, and more", index.table_path, e.strerror)
                self._next_table_s = time.monotonic() + _TABLE_PAUSE_S
                return
            total += index.kept - kept

    def _refresh(self) -> list[tuple[str, JournalIndex]]:
        return [(name, index) for name, index in self._list_indexes() if self._refresh_one(name, index)]

    def _forget(self, indexes: list[tuple[str, JournalIndex]], checkpoints: Mapping[int, Checkpoint]) -> None:
        for name, index in indexes:
            index.forget({sack: _offset(checkpoint, name) for sack, checkpoint in checkpoints.items()})

    def _delete_leftovers(self) -> None:
        """Delete journals whose writer died while it made them, and tables of journals that are gone."""
        file_names = set(os.listdir(self.directory))
        for file_name in file_names:
            journal_name, _, suffix = file_name.partition(".")
            made = parse_name(journal_name + SUFFIX)
            if made is not None and (
                    f".{suffix}".startswith(TABLE_SUFFIX) and journal_name + SUFFIX not in file_names
                    or f".{suffix}" == TEMPORARY_SUFFIX and time.time_ns() - made.stamp > _TEMPORARY_AGE_NS_MAX):
                with contextlib.suppress(FileNotFoundError):
                    self._system.unlink(os.path.join(self.directory, file_name))

    # Reading ids, errors

    def _read_ids(self, indexes: list[tuple[str, JournalIndex]],
                  checkpoints: Mapping[int, Checkpoint]) -> Iterator[numpy.ndarray]:
        """Yield the metric ids of what waits, journal by journal."""
        for name, index in indexes:
            sacks = list(checkpoints)
            # A journal deleted meanwhile was committed, all of it: nothing in it waits.
            with contextlib.suppress(FileNotFoundError), self._unavailable(but=FileNotFoundError):
                while sacks:
                    with self._reading:
                        unread = _take_unread(index, name, checkpoints, sacks)
                    for step in _id_ranges(index, unread, self._sacks):
                        yield read_metric_ids(step, self._sacks)

    @contextlib.contextmanager
    def _unavailable(self, but: type[OSError] | tuple[()] = ()) -> Iterator[None]:
        try:
            yield
        except but:
            raise
        except OSError as e:
            raise BackendUnavailable(f"Cannot read journals in {self.directory}: {e.strerror}") from e

    def _note_damage(self, damage: list[CorruptedData]) -> None:
        """Count and log each damaged place once, and keep the bytes when the journal will be deleted."""
        for error in damage:
            if (error.key, error.offset) in self._damage:
                continue
            self._damage.add((error.key, error.offset))
            LOG.error("Measures are lost to damage: %s", error)
            try:
                os.link(error.key, error.key.removesuffix(SUFFIX) + DAMAGED_SUFFIX)
            except FileExistsError:
                pass
            except OSError as e:
                LOG.warning("Cannot keep a copy of the damaged journal %s: %s", error.key, e.strerror)


def _offset(checkpoint: Checkpoint, name: str) -> int:
    return checkpoint.get("journals", {}).get(name, 0)


def _is_enough(candidates: list[_Candidate], stamp: int, measures_max: int) -> bool:
    """Return whether a slice is full with what comes before `stamp`."""
    before = [entries[:numpy.searchsorted(entries["stamp"], stamp)] for _name, _index, entries in candidates]
    return (sum(int(entries["measures"].sum(dtype=numpy.int64)) for entries in before) >= measures_max
            or sum(int(entries["metrics"].sum(dtype=numpy.int64)) for entries in before) >= BUNDLES_PER_SLICE)


def _cut_prefix(candidates: list[_Candidate], measures_max: int) -> tuple[int, bool]:
    """Return the last stamp of the longest prefix of at most `measures_max` measures and `BUNDLES_PER_SLICE` bundles,
    and whether it is everything.

    One stamp at least, whatever its size; what shares a stamp stays together.
    """
    stamps = numpy.concatenate([entries["stamp"] for _, _, entries in candidates])
    order = numpy.argsort(stamps, kind="stable")
    stamps = stamps[order]
    fitting = len(stamps)
    for field, most in (("measures", measures_max), ("metrics", BUNDLES_PER_SLICE)):
        sizes = numpy.concatenate([entries[field] for _, _, entries in candidates])
        ends = numpy.cumsum(sizes[order], dtype=numpy.int64)
        fitting = min(fitting, int(numpy.searchsorted(ends, most, side="right")))
    if fitting < len(stamps):
        fitting = int(numpy.searchsorted(stamps, stamps[fitting]))
    if fitting == 0:
        fitting = int(numpy.searchsorted(stamps, stamps[0], side="right"))
    return int(stamps[fitting - 1]), fitting == len(stamps)


def _take_unread(index: JournalIndex, name: str, checkpoints: Mapping[int, Checkpoint],
                 sacks: list[int]) -> list[tuple[int, numpy.ndarray]]:
    """Remove some sacks from the end of `sacks`; return those that have unread entries, with these."""
    unread: list[tuple[int, numpy.ndarray]] = []
    count = 0
    while sacks and count < _SLICES_PER_STEP:
        sack = sacks.pop()
        entries = index.unread(sack, _offset(checkpoints[sack], name))
        if len(entries):
            unread.append((sack, entries))
            count += len(entries)
    return unread


def _make_part(path: str, entries: numpy.ndarray) -> JournalPart:
    return JournalPart(path, entries["stamp"], entries["start"], entries["stored_metrics"].astype(numpy.int64),
                       entries["stored_measures"].astype(numpy.int64), entries["checksum"], is_shared(entries))


def _id_ranges(index: JournalIndex, unread: list[tuple[int, numpy.ndarray]], sacks: int) -> list[IdRanges]:
    """Return where the metric ids of slices of a journal are."""
    if not unread:
        return []
    numbers = numpy.repeat([sack for sack, _ in unread], [len(entries) for _, entries in unread])
    entries = concat_entries([entries for _, entries in unread])
    starts, firsts, slice_of = numpy.unique(entries["start"], return_index=True, return_inverse=True)
    metrics = entries["stored_metrics"][firsts].astype(numpy.int64)
    wanted = slice_of * sacks + numbers if is_shared(entries).any() else None
    return [
        IdRanges(index.path, starts[a:a + _SLICES_PER_STEP], metrics[a:a + _SLICES_PER_STEP],
                 None if wanted is None else wanted - a * sacks)
        for a in range(0, len(starts), _SLICES_PER_STEP)
    ]
