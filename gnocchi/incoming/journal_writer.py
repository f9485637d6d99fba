"""Appends requests to journals: one frame each, made durable by at most one fsync that concurrent requests share."""

import contextlib
import errno
import fcntl
import functools
import logging
import os
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming.journal import (
    PAGE_BYTES,
    PUBLISHED_AT,
    SUFFIX,
    TEMPORARY_SUFFIX,
    JournalName,
    Slices,
    encode_frame_head,
    encode_page,
    encode_published,
    format_name,
)

LOG = logging.getLogger(__name__)

#: A journal is deleted whole: small enough to give back space soon, large enough to make new ones rarely.
JOURNAL_BYTES_MAX = 64 * 2 ** 20
#: Age at which a journal in use gives way to a new one, so that a steady trickle gives back space too.
JOURNAL_AGE_S_MAX = 3600


class _Journal:
    """A journal being written.  Everything but the fsync happens under the writer's lock.

    end : int, byte after the last frame written;  synced : int, byte after the last frame acknowledged
    syncing : int, byte up to which some thread is syncing now, or 0;  failure : str or None, why no more frames
        get durable;  covered, uncovered : who waits for the sync that runs, and for the one after it
    """

    def __init__(self, path: str, fd: int, inode: int, name: JournalName, lock: threading.Lock):
        self.path = path
        self.fd = fd
        self.inode = inode
        self.name = name
        self.created_s = time.monotonic()
        self.end = self.synced = PAGE_BYTES
        self.syncing = 0
        self.failure: str | None = None
        self.covered = threading.Condition(lock)
        self.uncovered = threading.Condition(lock)


class JournalWriter:
    """The journals of one process, one at a time; safe to use from many threads.

    A journal's `flock` is held for life and tells readers that it may still grow.  The first write opens
    it, so after any fork of a pre-forking server; a child of a later fork lets go of it at once.

    Parameters
    ----------
    directory : str
        Where journals lie; must exist when something is written.
    sacks : int
        Number of sacks that requests are cut for.
    sync : bool
        Whether a frame is only acknowledged once fsync has returned.
    journal_bytes_max, journal_age_s_max
        When a journal in use gives way to a new one.
    system
        Has the functions of `os` that touch the file; tests inject faults there.
    """

    def __init__(self, directory: str, sacks: int, sync: bool, journal_bytes_max: int = JOURNAL_BYTES_MAX,
                 journal_age_s_max: float = JOURNAL_AGE_S_MAX, system: Any = os):
        self._directory = directory
        self._sacks = sacks
        self._sync = sync
        self._journal_bytes_max = journal_bytes_max
        self._journal_age_s_max = journal_age_s_max
        self._system = system
        self._lock = threading.Lock()
        self._current: _Journal | None = None
        #: Every journal whose descriptor is open: the current one and those that still wait for an fsync.
        self._open: set[_Journal] = set()
        self._stamp = 0
        self._watching_forks = self._forking = False

    def write(self, slices: Slices) -> None:
        """Append one request; return once it is durable.

        Raises BackendUnavailable, naming the reason: then the request will not be read.
        """
        with self._lock:
            journal = self._journal_for(slices.frame_bytes)
            end = self._append(journal, slices)
            while journal.synced < end:
                if journal.syncing:
                    (journal.covered if end <= journal.syncing else journal.uncovered).wait()
                elif journal.failure is not None:
                    raise BackendUnavailable(journal.failure)
                else:
                    self._make_durable(journal)

    def close(self) -> None:
        """End the current journal; a later write begins a new one."""
        with self._lock:
            if self._current is not None:
                self._retire(self._current)

    def _journal_for(self, frame_bytes: int) -> _Journal:
        journal = self._current
        if journal is not None and journal.end > PAGE_BYTES and (
                journal.end + frame_bytes > self._journal_bytes_max
                or time.monotonic() - journal.created_s > self._journal_age_s_max):
            self._retire(journal)
            journal = None
        if journal is None:
            journal = self._current = self._create()
            self._open.add(journal)
        return journal

    def _next_stamp(self) -> int:
        self._stamp = max(time.time_ns(), self._stamp + 1)
        return self._stamp

    def _create(self) -> _Journal:
        """Make a journal that readers see only once it is locked and durable."""
        if not self._watching_forks:
            self._watching_forks = True
            _watch_forks(self)
        name = JournalName(self._next_stamp(), secrets.randbits(64))
        path = os.path.join(self._directory, format_name(name) + SUFFIX)
        temporary = os.path.join(self._directory, format_name(name) + TEMPORARY_SUFFIX)
        try:
            fd = self._system.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as e:
            raise BackendUnavailable(f"Cannot create a journal in {self._directory}: {e.strerror}") from e
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_all(fd, [encode_page(name)], 0)
            if self._sync:
                self._system.fsync(fd)
            self._system.rename(temporary, path)
            if self._sync:
                sync_directory(self._directory, self._system)
            return _Journal(path, fd, os.fstat(fd).st_ino, name, self._lock)
        except OSError as e:
            for leftover in (temporary, path):
                with contextlib.suppress(OSError):    # What it tells is in `e`; the janitor removes leftovers.
                    self._system.unlink(leftover)
            os.close(fd)
            raise BackendUnavailable(f"Cannot create a journal in {self._directory}: {e.strerror}") from e

    def _append(self, journal: _Journal, slices: Slices) -> int:
        """Write one frame behind the others; return the byte after it."""
        head = encode_frame_head(slices, self._next_stamp(), self._sacks, journal.name.seed)
        try:
            self._write_all(journal.fd, [head, slices.body], journal.end)
        except OSError as e:
            self._fail(journal, e)
            raise BackendUnavailable(journal.failure) from e
        journal.end += slices.frame_bytes
        return journal.end

    def _write_all(self, fd: int, buffers: Sequence[bytes | memoryview], offset: int) -> None:
        size = sum(map(len, buffers))
        written = self._system.pwritev(fd, buffers, offset)
        while written < size:    # A short write: what stopped it shows at the next one.
            more = self._system.pwritev(fd, [b"".join(buffers)[written:]], offset + written)
            if more == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written += more

    def _make_durable(self, journal: _Journal) -> None:
        """Sync what is written so far, for everybody who waits; meanwhile others may append."""
        end, error = journal.end, None
        journal.syncing = end
        journal.covered, journal.uncovered = journal.uncovered, journal.covered
        try:
            with self._unlocked() if self._sync else contextlib.nullcontext():
                self._sync_and_publish(journal, end)
        except OSError as e:
            error = e
        finally:
            journal.syncing = 0
            journal.covered.notify_all()
            journal.uncovered.notify()    # One is enough: it syncs for the others.
        if error is not None:
            self._fail(journal, error)
            return
        journal.synced = end
        if journal.failure is not None:    # A write failed meanwhile and left the rest to us.
            self._cut(journal)
        elif journal is not self._current and journal.synced == journal.end:
            self._close(journal)

    @contextlib.contextmanager
    def _unlocked(self) -> Iterator[None]:
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()

    def _sync_and_publish(self, journal: _Journal, end: int) -> None:
        if self._sync:
            self._system.fdatasync(journal.fd)
        # A file that has lost its name takes writes as ever, and loses them.
        if self._system.stat(journal.path).st_ino != journal.inode:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._system.pwrite(journal.fd, encode_published(end), PUBLISHED_AT)

    def _retire(self, journal: _Journal) -> None:
        """Stop appending; the last thread that waits for it closes it."""
        self._current = None
        if journal.synced == journal.end:
            self._close(journal)

    def _fail(self, journal: _Journal, error: OSError) -> None:
        if journal.failure is None:
            journal.failure = f"Cannot write journal {journal.path}: {error.strerror}"
            LOG.error("%s; the requests that wait for it are refused, the next one begins a new journal",
                      journal.failure)
        if journal is self._current:
            self._current = None
        if not journal.syncing:
            self._cut(journal)

    def _cut(self, journal: _Journal) -> None:
        """Remove the frames that were refused, before the lock goes and readers take all they find."""
        journal.covered.notify_all()
        journal.uncovered.notify_all()
        if journal not in self._open:
            return
        try:
            if journal.synced == PAGE_BYTES:
                with contextlib.suppress(FileNotFoundError):
                    self._system.unlink(journal.path)
            self._system.ftruncate(journal.fd, journal.synced)
        except OSError as e:
            # Kept open and locked, so readers stop at the published end as long as this process lives.
            LOG.error("Cannot cut journal %s at byte %d: %s; requests refused after it may show up when this "
                      "process ends", journal.path, journal.synced, e.strerror)
            return
        self._close(journal)

    def _close(self, journal: _Journal) -> None:
        self._open.discard(journal)
        os.close(journal.fd)

    def prepare_fork(self) -> None:
        self._lock.acquire()
        self._forking = True

    def forked_in_parent(self) -> None:
        if self._forking:
            self._forking = False
            self._lock.release()

    def forked_in_child(self) -> None:
        """Let go of the parent's journals, or they would look alive after its death."""
        self._forking = False
        self._lock = threading.Lock()
        for journal in self._open:
            os.close(journal.fd)
        self._open = set()
        self._current = None


def _watch_forks(writer: JournalWriter) -> None:
    """Have every later fork happen while the writer is at rest, and the child let go of its journals."""
    reference = weakref.ref(writer)

    def call(action: Callable[[JournalWriter], object]) -> None:
        living = reference()
        if living is not None:
            action(living)

    os.register_at_fork(before=functools.partial(call, JournalWriter.prepare_fork),
                        after_in_parent=functools.partial(call, JournalWriter.forked_in_parent),
                        after_in_child=functools.partial(call, JournalWriter.forked_in_child))


def sync_directory(directory: str, system: Any = os) -> None:
    """Make the names in a directory durable.  Raises OSError."""
    fd = system.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        system.fsync(fd)
    finally:
        os.close(fd)
