"""Where each sack's slices lie in a journal: an index, built in one pass over the frames' headers.

It is in memory, or, of a long backlog, in a table beside the journal (slice_table.py), but for the latest entries.
"""

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import numpy

from gnocchi import metric_ids
from gnocchi.exceptions import BackendUnavailable, CorruptedData
from gnocchi.incoming.batch import body_bytes, concat_ranges
from gnocchi.incoming.journal import (
    FRAME,
    FRAME_MAGIC,
    PAGE_BYTES,
    PUBLISHED_AT,
    PUBLISHED_BYTES,
    ROW,
    SUFFIX,
    VERSION,
    Frame,
    JournalName,
    decode_page_version,
    decode_published,
    frame_head_bytes,
    parse_frame,
)
from gnocchi.incoming.slice_table import (
    ENTRY,
    TABLE_SUFFIX,
    SliceTable,
    StaleTable,
    Totals,
    concat_entries,
    load_table,
    sum_up,
    write_table,
)

LOG = logging.getLogger(__name__)

_NO_ENTRIES = numpy.empty(0, ENTRY)

Answer = TypeVar("Answer")

#: Bytes read at once while looking at headers: hundreds of small frames, little of a large one's body.
_WINDOW_BYTES = 64 * 2 ** 10
#: Frames, and slices, turned into entries at once; bounds the memory of the pass.
_FRAMES_PER_STEP = 50_000
_SLICES_PER_STEP = 100_000
#: How often another process may put its table in the place of one that is being read.
_STALE_TABLES_MAX = 5
#: Slices with no more than this between them are read by one call: copying it costs less than another call.
_GAP_BYTES_MAX = 2048
#: Slices of more than this are not read by one call; bounds the scratch memory.
_RUN_BYTES_MAX = 2 ** 20
#: Frames begin, and bodies' arrays lie, at multiples of this.
_ALIGNMENT = 8


class JournalIndex:
    """What one journal holds, sack by sack; not safe to use from several threads.

    final : bool; the writer is gone and every frame is known
    kept : int; entries in memory
    damage : list of CorruptedData, found and not yet taken away by the owner
    """

    def __init__(self, path: str, name: JournalName, sacks: int):
        self.path = path
        self.table_path = path.removesuffix(SUFFIX) + TABLE_SUFFIX
        self.final = False
        self.damage: list[CorruptedData] = []
        self._seed = name.seed
        self._sacks = sacks
        self._fd: int | None = None
        self._published = PAGE_BYTES
        #: The end of a journal whose writer is known to be gone.
        self._last_end: int | None = None
        #: What could not be read; byte -> reason.
        self._damaged: dict[int, str] = {}
        #: Whether to do without a table: one was damaged.
        self._tableless = False
        #: Up to where the owner needs no entries.
        self._committed: dict[int, int] = {}
        self._reset()

    def _reset(self) -> None:
        self.final = False
        self.kept = 0
        self._scanned = PAGE_BYTES
        self._table: SliceTable | None = None
        #: Those that are not in the table.
        self._entries: dict[int, list[numpy.ndarray]] = {}
        #: Up to where those were freed.
        self._forgotten: dict[int, int] = {}

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def read_end(self) -> int:
        """Return the byte up to which frames may be read now; cheap.  Raises OSError."""
        if self._last_end is not None:
            return self._last_end
        end, alive = self._readable()
        if not alive:
            # A large backlog is many journals: only those that still grow are kept open.
            self._last_end = end
            self.close()
        return end

    def refresh(self) -> None:
        """Learn of the frames that became readable.

        Raises OSError (FileNotFoundError: the journal was deleted) and BackendUnavailable (a format
        that this release does not know).
        """
        if self.final:
            return
        end, alive = self._readable()
        if self._scanned == PAGE_BYTES:
            self._adopt_table(end)
        step: list[tuple[int, Frame]] = []
        tables: list[bytes] = []
        slices = 0
        for at, frame, table in self._frames(end, alive):
            step.append((at, frame))
            tables.append(table)
            slices += frame.slices
            if len(step) == _FRAMES_PER_STEP or slices >= _SLICES_PER_STEP:
                self._add(step, tables)
                step, tables, slices = [], [], 0
        if step:
            self._add(step, tables)
        self._scanned = max(self._scanned, end)
        if not alive:
            self.final = True
            self.close()

    def unread(self, sack: int, offset: int) -> numpy.ndarray:
        """Return the entries of a sack that start at or after `offset`, shape (k,), ENTRY, ascending.

        Raises as `refresh` does.
        """
        self._go_back(sack, offset)
        stored = self._ask_table(lambda table: table.read(sack, offset))
        entries = self._unread_in_memory(sack, offset)
        if stored is None or not len(stored):
            return entries
        return concat_entries((stored, entries)) if len(entries) else stored

    def sum_up(self, sack: int, offset: int) -> Totals | None:
        """Sum up the entries that `unread` would return; None if there are none.  Raises as `refresh` does."""
        self._go_back(sack, offset)
        stored = self._ask_table(lambda table: table.sum_up(sack, offset))
        kept = sum_up(self._unread_in_memory(sack, offset))
        if stored is None or kept is None:
            return kept if stored is None else stored
        return Totals(stored.bundles + kept.bundles, stored.measures + kept.measures, stored.oldest_ns)

    def forget(self, offsets: Mapping[int, int]) -> None:
        """Free the entries that start before each sack's offset."""
        self._committed.update(offsets)
        for sack, offset in offsets.items():
            if sack not in self._entries or offset <= self._forgotten.get(sack, 0):
                continue
            before = len(self._sack_entries(sack))
            unread = self._unread_in_memory(sack, offset)
            self.kept -= before - len(unread)
            self._forgotten[sack] = offset
            if len(unread):
                self._entries[sack] = [unread.copy()]
            else:
                del self._entries[sack]

    @property
    def exhausted(self) -> bool:
        """Whether the writer is gone and every entry was forgotten."""
        table = self._table
        return self.final and not self._entries and (table is None or all(
            table.last_start(sack) < self._committed.get(sack, 0) for sack in table.sacks))

    def spill(self) -> bool:
        """Have all entries in a table, not in memory; return whether that is so now.

        Raises OSError, as `refresh` does or when the table cannot be written; and BackendUnavailable.
        """
        found = None if self._tableless else load_table(self.table_path, self._seed, self._sacks)
        if found is not None and found.end >= self._scanned:    # Another process was faster.
            self._use_table(found)
            return True
        if self._forgotten:
            # What was forgotten is committed, but not beyond recall: a table has everything.
            self._reset()
            self.refresh()
        if self._tableless:
            return False
        counts = self._table.counts if self._table is not None else {}
        for sack in self._entries:
            counts[sack] = counts.get(sack, 0) + len(self._sack_entries(sack))
        try:
            self._use_table(write_table(self.table_path, self._seed, self._sacks, self._scanned, counts,
                                        self._read_all, self._damaged))
        except StaleTable:
            self._renew_table()
            return False
        return True

    def _read_all(self, sack: int) -> numpy.ndarray:
        entries = self._sack_entries(sack)
        return entries if self._table is None else concat_entries((self._table.read(sack), entries))

    # The table

    def _adopt_table(self, end: int) -> None:
        """Take what another process has found before; `end` is how far it can have come."""
        table = None if self._tableless else load_table(self.table_path, self._seed, self._sacks)
        if table is not None and table.end <= end:
            self._use_table(table)

    def _use_table(self, table: SliceTable) -> None:
        self._table = table
        for at, reason in table.damage.items():    # Every process is to come across it.
            self._note_damage(at, reason)
        self._entries, self._forgotten, self.kept = {}, {}, 0
        self._scanned = table.end

    def _ask_table(self, question: Callable[[SliceTable], Answer]) -> Answer | None:
        """Return what the table answers, or None if there is none."""
        for _attempt in range(_STALE_TABLES_MAX):
            if self._table is None:
                return None
            try:
                return question(self._table)
            except StaleTable as e:
                LOG.debug("%s", e)
                self._renew_table()
        self._tableless = True
        self._renew_table()
        return None

    def _renew_table(self) -> None:
        """Take the table that is there now; without one, or when it is the one that failed, look at the journal."""
        failed = self._table
        if failed is not None and failed.is_same(load_table(self.table_path, self._seed, self._sacks)):
            LOG.warning("%s is damaged: it is left aside, nothing is lost", self.table_path)
            self._tableless = True
            with contextlib.suppress(OSError):    # Then others will find out by themselves.
                os.unlink(self.table_path)
        self._reset()
        self.refresh()

    def _go_back(self, sack: int, offset: int) -> None:
        """Have what was forgotten again when somebody goes back behind what all had committed: slow, and right."""
        if offset < self._forgotten.get(sack, 0):
            self._reset()
            self.refresh()

    def _unread_in_memory(self, sack: int, offset: int) -> numpy.ndarray:
        entries = self._sack_entries(sack)
        return entries[numpy.searchsorted(entries["start"], offset):]

    def _sack_entries(self, sack: int) -> numpy.ndarray:
        parts = self._entries.get(sack)
        if parts is None:
            return _NO_ENTRIES
        if len(parts) > 1:
            parts[:] = [concat_entries(parts)]
        return parts[0]

    # Where to stop

    def _readable(self) -> tuple[int, bool]:
        """Return the end of what may be read, and whether the writer lives."""
        if self._fd is None:
            self._open()
        assert self._fd is not None
        # The lock first: a writer that dies in between has left more than it published, never less.
        alive = is_locked(self._fd)
        published = decode_published(os.pread(self._fd, PUBLISHED_BYTES, PUBLISHED_AT))
        if published is not None and published > self._published:
            self._published = published
        return (self._published if alive else os.fstat(self._fd).st_size), alive

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        version = decode_page_version(os.pread(self._fd, PAGE_BYTES, 0))
        if version is None:
            self._note_damage(0, "the first page of a journal is damaged")
        elif version != VERSION:
            self.close()
            raise BackendUnavailable(f"Journal {self.path} has format {version}; this release only knows {VERSION}")

    # The pass over the headers

    def _frames(self, end: int, alive: bool) -> Iterator[tuple[int, Frame, bytes]]:
        """Yield start, header and table of each whole frame from where the last pass ended up to `end`."""
        at, window, base = self._scanned, b"", self._scanned
        while end - at >= FRAME.size:
            if at - base + FRAME.size > len(window):
                window, base = self._read(at, _WINDOW_BYTES, end), at
            head_bytes = frame_head_bytes(window, at - base) if at - base + FRAME.size <= len(window) else 0
            if at - base + head_bytes > len(window):
                window, base = self._read(at, max(head_bytes, _WINDOW_BYTES), end), at
            frame = self._check_frame(window, at, base, head_bytes, end)
            if frame is None:
                at = self._skip_damage(at, end, alive)
                continue
            yield at, frame, window[at - base + FRAME.size:at - base + head_bytes]
            at += frame.length
        if at < self._published <= end or end < self._published:
            self._note_damage(at, f"frames up to byte {self._published} are missing")

    def _check_frame(self, window: bytes, at: int, base: int, head_bytes: int, end: int) -> Frame | None:
        """Return the frame at `at`, or None unless it is whole and its header is sound."""
        if not head_bytes or at - base + head_bytes > len(window):
            return None
        frame = parse_frame(window, at - base, head_bytes, self._seed)
        return frame if frame is not None and at + frame.length <= end else None

    def _skip_damage(self, at: int, end: int, alive: bool) -> int:
        """Return where the next sound frame begins, or `end`; note what lies before it."""
        found = self._find_frame(at + _ALIGNMENT, end)
        if found is None and not alive and at >= self._published:
            LOG.info("The last frame of journal %s, at byte %d, was never finished nor acknowledged", self.path, at)
            return end
        following = end if found is None else found
        self._note_damage(at, f"no frame can be read up to byte {following}")
        return following

    def _note_damage(self, at: int, reason: str) -> None:
        if at not in self._damaged:
            self._damaged[at] = reason
            self.damage.append(CorruptedData(self.path, at, reason))

    def _find_frame(self, start: int, end: int) -> int | None:
        """Return the first sound frame at or after `start`, by its magic."""
        at = start
        while end - at >= FRAME.size:
            window = self._read(at, _WINDOW_BYTES, end)
            if len(window) < FRAME.size:
                return None
            i = window.find(FRAME_MAGIC)
            while i >= 0:
                if i % _ALIGNMENT == 0 and self._is_frame(at + i, end):
                    return at + i
                i = window.find(FRAME_MAGIC, i + 1)
            at += len(window) - len(window) % _ALIGNMENT
        return None

    def _is_frame(self, at: int, end: int) -> bool:
        window = self._read(at, FRAME.size, end)
        if len(window) < FRAME.size:
            return False
        head_bytes = frame_head_bytes(window, 0)
        if not head_bytes or at + head_bytes > end:
            return False
        return self._check_frame(self._read(at, head_bytes, end), at, at, head_bytes, end) is not None

    def _read(self, at: int, size: int, end: int) -> bytes:
        assert self._fd is not None
        return os.pread(self._fd, min(size, end - at), at)

    # From tables to entries

    def _add(self, frames: list[tuple[int, Frame]], tables: list[bytes]) -> None:
        """Put the slices of frames, in their order, into the index."""
        rows = numpy.frombuffer(b"".join(tables), ROW)
        ats = numpy.array([at for at, _ in frames], numpy.int64)
        stamps, sacks, slices, heads, lengths = numpy.array([frame for _, frame in frames], numpy.int64).T
        frame_of = numpy.repeat(numpy.arange(len(frames)), slices)
        firsts = numpy.cumsum(slices) - slices
        sizes = body_bytes(rows["metrics"].astype(numpy.int64), rows["measures"].astype(numpy.int64))
        before = numpy.cumsum(sizes) - sizes
        starts = (ats + heads - before[firsts])[frame_of] + before
        odd = numpy.add.reduceat(sizes, firsts) != lengths - heads
        for at in ats[odd].tolist():
            self._note_damage(at, "BUG: the slices of a frame do not add up to its length")

        entries = numpy.empty(len(rows), ENTRY)
        entries["stamp"], entries["start"] = stamps[frame_of], starts
        for field, source in (("checksum", "checksum"), ("metrics", "metrics"), ("measures", "measures"),
                              ("stored_metrics", "metrics"), ("stored_measures", "measures")):
            entries[field] = rows[source]
        shared = sacks[frame_of] % self._sacks != 0
        ours = ~shared & ~odd[frame_of]
        self._add_entries(entries[ours], rows["sack"][ours] % self._sacks)
        if shared.any():
            self._cut_again(entries[shared & ~odd[frame_of]])
        self._scanned = frames[-1][0] + frames[-1][1].length

    def _add_entries(self, entries: numpy.ndarray, numbers: numpy.ndarray) -> None:
        self.kept += len(entries)
        order = numpy.argsort(numbers, kind="stable")
        entries, numbers = entries[order], numbers[order]
        cuts = (numpy.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()
        for a, b in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
            if a < b:
                self._entries.setdefault(int(numbers[a]), []).append(entries[a:b])

    def _cut_again(self, entries: numpy.ndarray) -> None:
        """Add slices that were cut for fewer sacks: one entry for each of ours that they hold metrics of.

        The ids are not checked here; whoever reads the slice checks all of it.
        """
        assert self._fd is not None
        metrics = entries["metrics"].astype(numpy.int64)
        words, bases = read_ranges(self._fd, entries["start"], 24 * metrics)
        ids = words[concat_ranges(bases, 2 * metrics)].view(metric_ids.DTYPE)
        counts = words[concat_ranges(bases + 2 * metrics, metrics)].astype(numpy.float64)
        slice_of = numpy.repeat(numpy.arange(len(entries)), metrics)
        keys, key_of = numpy.unique(slice_of * self._sacks + metric_ids.sack_numbers(ids, self._sacks),
                                    return_inverse=True)
        parts = entries[keys // self._sacks]
        parts["metrics"] = numpy.bincount(key_of)
        parts["measures"] = numpy.minimum(numpy.bincount(key_of, counts), parts["measures"])
        self._add_entries(parts, keys % self._sacks)


def is_locked(fd: int) -> bool:
    """Return whether the writer of an open journal lives."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def read_ranges(fd: int, starts: numpy.ndarray, sizes: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Read many small parts of a file with few calls.

    Parameters
    ----------
    fd : int
    starts, sizes : ndarray, shape (k,), int64
        Bytes, multiples of 8, starts ascending, parts not overlapping.

    Returns
    -------
    words : ndarray, shape (sizes.sum() / 8,), uint64
        The parts one after the other; zero where the file has ended.
    bases : ndarray, shape (k,), int64
        The word at which each part begins.
    """
    ends = starts + sizes
    bases = (numpy.cumsum(sizes) - sizes) // 8
    words = numpy.zeros(int(sizes.sum()) // 8, numpy.uint64)
    gaps = starts[1:] - ends[:-1]
    cuts = numpy.flatnonzero((gaps > _GAP_BYTES_MAX) | (starts[1:] // _RUN_BYTES_MAX != starts[:-1] // _RUN_BYTES_MAX))
    for a, b in zip([0, *(cuts + 1).tolist()], [*(cuts + 1).tolist(), len(starts)], strict=True):
        if a == b:
            continue
        start, size = int(starts[a]), int(ends[b - 1] - starts[a])
        part = words[bases[a]:bases[a] + int(sizes[a:b].sum()) // 8]
        if part.nbytes == size:
            _read_into(fd, part, start)
        else:
            scratch = numpy.zeros(size // 8, numpy.uint64)
            _read_into(fd, scratch, start)
            part[:] = scratch[concat_ranges((starts[a:b] - start) // 8, sizes[a:b] // 8)]
    return words, bases


def _read_into(fd: int, words: numpy.ndarray, start: int) -> None:
    view = words.view(numpy.uint8).data
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], start + done)
        if count == 0:    # Cut off: the zeros left will fail their checksum.
            return
        done += count
