"""Storage in a local directory: `<basepath>/objects/<key>`."""

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from oslo_config import cfg

from gnocchi.exceptions import BackendUnavailable, ObjectNotFound
from gnocchi.storage.drivers import ByteRange, StorageDriver

OPTS = [
    cfg.StrOpt("file_basepath", default="/var/lib/gnocchi",
               help="Directory that holds all stored data of the file driver."),
]

#: Where unfinished objects lie, beside the finished ones: a rename must not cross file systems.
TEMPORARY = "tmp"
OBJECTS = "objects"

#: Files that are written together, and so open at the same time.
FILES_AT_ONCE = 64
SYNC_THREADS = 4


@contextlib.contextmanager
def _unavailable(action: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        # An error of reading or writing an open file does not say which.
        where = "" if e.filename is None else f": {e.filename}"
        raise BackendUnavailable(f"File storage cannot {action}: {e.strerror}{where}") from e


def sync_directory(path: str, system: Any = os) -> None:
    """Make the names in a directory durable."""
    fd = system.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        system.fsync(fd)
    finally:
        os.close(fd)


def _call_each(function: Callable[[Any], Any], arguments: Sequence[Any]) -> None:
    for argument in arguments:
        function(argument)


class FileDriver(StorageDriver):
    """One file per object: written beside, fsynced, renamed, directory fsynced.

    Parameters
    ----------
    basepath : str
        The data directory.
    sync_threads : int
        Files that are synced at the same time: the disk then does with one flush what would take it many.
    system
        Has the functions of `os` that write; tests inject faults there.
    """

    def __init__(self, basepath: str, *, sync_threads: int = SYNC_THREADS, system: Any = os) -> None:
        self._system = system
        self._sync_threads = sync_threads
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._objects = os.path.join(basepath, OBJECTS)
        self._temporary = os.path.join(basepath, TEMPORARY)

    def upgrade(self) -> None:
        with _unavailable("create its directories"):
            os.makedirs(self._objects, exist_ok=True)
            os.makedirs(self._temporary, exist_ok=True)
            sync_directory(os.path.dirname(self._objects))

    def put(self, key: str, data: bytes) -> None:
        self.put_many([(key, data)])

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        for start in range(0, len(objects), FILES_AT_ONCE):
            self._put_group(objects[start:start + FILES_AT_ONCE])

    def _put_group(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Take each step for all files before the next one, so that the disk can do the syncs of a step together."""
        temporaries = [os.path.join(self._temporary, secrets.token_hex(16)) for _ in objects]
        what = objects[0][0] if len(objects) == 1 else f"{len(objects)} objects"
        with _unavailable(f"write {what} in {self._objects}"):
            try:
                with contextlib.ExitStack() as opened:
                    fds = [self._write(temporary, data, opened)
                           for temporary, (_, data) in zip(temporaries, objects, strict=True)]
                    self._for_all(self._system.fsync, fds)
                for temporary, (key, _) in zip(temporaries, objects, strict=True):
                    self._name(temporary, self._path(key))
            except OSError:
                for temporary in temporaries:
                    with contextlib.suppress(OSError):
                        self._system.unlink(temporary)
                raise
            directories = sorted({os.path.dirname(self._path(key)) for key, _ in objects})
            self._for_all(lambda directory: sync_directory(directory, self._system), directories)

    def _path(self, key: str) -> str:
        return os.path.join(self._objects, key)

    def _write(self, path: str, data: bytes, opened: contextlib.ExitStack) -> int:
        fd = self._system.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        opened.callback(os.close, fd)
        view = memoryview(data)
        while view:
            view = view[self._system.write(fd, view):]
        return fd

    def _for_all(self, sync: Callable[[Any], None], targets: Sequence[Any]) -> None:
        """Call a function that waits for the disk, for several targets at the same time."""
        if len(targets) < 2 or self._sync_threads < 2:
            for target in targets:
                sync(target)
            return
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._sync_threads, "sync")
        # All of them, before the files are closed.
        futures = [self._pool.submit(_call_each, sync, targets[thread::self._sync_threads])
                   for thread in range(min(self._sync_threads, len(targets)))]
        wait(futures)
        for future in futures:
            future.result()

    def _name(self, temporary: str, path: str) -> None:
        """Give a finished file its name, in a directory that may have to be made."""
        try:
            self._system.rename(temporary, path)
        except FileNotFoundError:
            self._make_directory(os.path.dirname(path))
            self._system.rename(temporary, path)

    def _make_directory(self, path: str) -> None:
        """Create a directory below the root, parents first, each name durable.

        The root itself is made by `upgrade` alone: when it is gone, a disk is not mounted, and what
        is written beneath would be hidden once it is back.
        """
        if path == self._objects or os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        self._make_directory(parent)
        with contextlib.suppress(FileExistsError):
            self._system.mkdir(path)
        sync_directory(parent, self._system)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.get_many([ByteRange(key, start, stop)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        found = []
        opened, fd, size = None, -1, 0
        try:
            for key, start, stop in ranges:
                with _unavailable(f"read {key}"):
                    if key != opened:       # a file is opened once for all ranges of it that follow each other
                        if fd >= 0:
                            os.close(fd)
                        opened, fd = key, -1
                        fd = self._open(key)
                        size = os.fstat(fd).st_size
                    found.append(self._read(fd, start, max(0, (size if stop is None else min(stop, size)) - start)))
        finally:
            if fd >= 0:
                os.close(fd)
        return found

    def _open(self, key: str) -> int:
        try:
            return os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            if os.path.isdir(self._objects):
                raise ObjectNotFound(key) from None
            raise

    @staticmethod
    def _read(fd: int, start: int, length: int) -> bytes:
        data = os.pread(fd, length, start)
        while 0 < len(data) < length:
            more = os.pread(fd, length - len(data), start + len(data))
            if not more:
                break
            data += more
        return data

    def check(self) -> None:
        with _unavailable("be used"):
            os.stat(self._objects)

    def delete_many(self, keys: Iterable[str]) -> None:
        with _unavailable("delete objects"):
            for key in keys:
                with contextlib.suppress(FileNotFoundError):
                    self._system.unlink(self._path(key))

    def delete_leftovers(self, older_than_s: float) -> int:
        deleted = 0
        with _unavailable("delete unfinished objects"):
            for entry in os.scandir(self._temporary):
                # One that is being written has a younger mark; one that is finished meanwhile is gone.
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > older_than_s:
                        self._system.unlink(entry.path)
                        deleted += 1
        return deleted

    def list(self, prefix: str) -> Iterator[str]:
        directory, _, _ = prefix.rpartition("/")
        with _unavailable(f"list {prefix}"):
            for root, _, names in os.walk(os.path.join(self._objects, directory), onerror=self._raise_unless_missing):
                place = os.path.relpath(root, self._objects)
                keys = names if place == os.curdir else [f"{place}/{name}" for name in names]
                yield from (key for key in keys if key.startswith(prefix))

    def _raise_unless_missing(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) or not os.path.isdir(self._objects):
            raise error

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
