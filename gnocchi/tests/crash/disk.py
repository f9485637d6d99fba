"""A disk that loses power: a record of every write, and the states that POSIX permits after a cut at any of them.

Until a file is synced, each page of 4 KiB written since may hold any of the versions it had, and the
file may end at any of these pages.  Until a directory is synced, each name made or removed in it since
may be there or not, whatever happened to other names.  What was synced stays.

SQLite's file in WAL mode only grows by whole commits here (no checkpoint comes in between): a cut inside
a commit leaves any part of the new pages, in any order, for its own recovery to judge.
"""

import os
import pathlib
import random
from typing import Any, NamedTuple

PAGE_BYTES = 4096


class File:
    """A file's content: what is durable, and each page's versions since.

    durable : bytes;  versions : page number -> its contents since the last sync, oldest first
    sizes : sizes since the last sync, oldest first
    """

    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.current = durable
        self.versions: dict[int, list[bytes]] = {}
        self.sizes: list[int] = []

    def write(self, offset: int, data: bytes) -> None:
        content = self.current.ljust(offset, b"\0")
        self.current = content[:offset] + data + content[offset + len(data):]
        for page in range(offset // PAGE_BYTES, (offset + len(data) - 1) // PAGE_BYTES + 1):
            self.versions.setdefault(page, []).append(self.current[page * PAGE_BYTES:(page + 1) * PAGE_BYTES])
        self.sizes.append(len(self.current))

    def truncate(self, size: int) -> None:
        self.current = self.current[:size].ljust(size, b"\0")
        self.sizes.append(size)

    def sync(self) -> None:
        self.durable = self.current
        self.versions, self.sizes = {}, []

    def copy(self) -> "File":
        other = File(self.durable)
        other.current = self.current
        other.versions = {page: list(contents) for page, contents in self.versions.items()}
        other.sizes = list(self.sizes)
        return other

    def guess(self, rng: random.Random, mood: str) -> bytes:
        """Return what may be found after a power cut."""
        if mood == "nothing unsynced" or not self.sizes:
            return self.durable
        if mood == "everything":
            return self.current
        content = bytearray(self.durable)
        for page, contents in self.versions.items():
            chosen = rng.randrange(len(contents) + 1)
            if chosen:
                place = page * PAGE_BYTES
                content = content.ljust(place, b"\0")
                content[place:place + len(contents[chosen - 1])] = contents[chosen - 1]
        sizes = [len(self.durable), *self.sizes]
        size = rng.choice([*sizes, *range((min(sizes) // PAGE_BYTES + 1) * PAGE_BYTES, max(sizes), PAGE_BYTES)])
        return bytes(content[:size].ljust(size, b"\0"))


class Directory:
    """Names in a directory: what is durable, and what was done since.

    names, durable : name -> File or Directory;  pending : [(name, File, Directory or None)], None: removed
    """

    def __init__(self) -> None:
        self.names: dict[str, File | Directory] = {}
        self.durable: dict[str, File | Directory] = {}
        self.pending: list[tuple[str, File | Directory | None]] = []

    def set(self, name: str, what: "File | Directory | None") -> None:
        if what is None:
            del self.names[name]
        else:
            self.names[name] = what
        self.pending.append((name, what))

    def sync(self) -> None:
        self.durable = dict(self.names)
        self.pending = []

    def guess(self, rng: random.Random, mood: str, prefix: str = "") -> dict[str, bytes | None]:
        """Return {path: content, or None for a directory} of what may be found after a power cut."""
        names = dict(self.durable)
        for name, what in self.pending:
            if mood == "everything" or (mood == "anything" and rng.random() < 0.5):
                if what is None:
                    names.pop(name, None)
                else:
                    names[name] = what
        found: dict[str, bytes | None] = {}
        for name, what in names.items():
            if isinstance(what, File):
                found[prefix + name] = what.guess(rng, mood)
            else:
                found[prefix + name] = None
                found.update(what.guess(rng, mood, f"{prefix}{name}/"))
        return found


class Index(NamedTuple):
    """SQLite's write-ahead log: what is durable of it, and what a commit under way adds."""

    durable: bytes
    adding: bytes

    def guess(self, rng: random.Random, mood: str) -> bytes:
        file = File(self.durable)
        if self.adding:
            file.write(len(self.durable), self.adding)
        return file.guess(rng, mood)


class Recorder:
    """Does what `os` does in a directory, and keeps a model of what of it is durable.

    After each call that changes anything, `on_change` is called.
    """

    def __init__(self, root: pathlib.Path, on_change: Any) -> None:
        self._root = str(root)
        self.on_change = on_change
        self._open: dict[int, File | Directory] = {}
        self.root = self._load(self._root)
        self.index = Index(b"", b"")

    def _load(self, path: str) -> Directory:
        directory = Directory()
        for entry in os.scandir(path):
            if entry.is_dir():
                directory.names[entry.name] = self._load(entry.path)
            elif not entry.name.startswith("index.db"):
                directory.names[entry.name] = File(pathlib.Path(entry.path).read_bytes())
        directory.sync()
        return directory

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _find(self, path: str) -> tuple[Directory, str]:
        """Return the directory that a path lies in, and its name there."""
        *parents, name = os.path.relpath(path, self._root).split(os.sep)
        directory = self.root
        for parent in parents:
            found = directory.names[parent]
            assert isinstance(found, Directory)
            directory = found
        return directory, name

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        fd = os.open(path, flags, mode)
        if path == self._root:
            self._open[fd] = self.root
            return fd
        directory, name = self._find(path)
        if name not in directory.names:
            assert flags & os.O_CREAT
            directory.set(name, File())
        self._open[fd] = directory.names[name]
        self.on_change()
        return fd

    def _file(self, fd: int) -> File:
        file = self._open[fd]
        assert isinstance(file, File)
        return file

    def write(self, fd: int, data: bytes) -> int:
        return self.pwrite(fd, bytes(data), os.lseek(fd, 0, os.SEEK_END))

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        assert os.pwrite(fd, data, offset) == len(data)
        self._file(fd).write(offset, data)
        self.on_change()
        return len(data)

    def pwritev(self, fd: int, buffers: Any, offset: int) -> int:
        return self.pwrite(fd, b"".join(buffers), offset)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)
        self._file(fd).truncate(size)
        self.on_change()

    def fsync(self, fd: int) -> None:
        self._open[fd].sync()
        self.on_change()

    fdatasync = fsync

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)
        (old, old_name), (new, new_name) = self._find(source), self._find(target)
        what = old.names[old_name]
        old.set(old_name, None)
        new.set(new_name, what)
        self.on_change()

    def unlink(self, path: str) -> None:
        os.unlink(path)
        directory, name = self._find(path)
        directory.set(name, None)
        self.on_change()

    def mkdir(self, path: str) -> None:
        os.mkdir(path)
        directory, name = self._find(path)
        directory.set(name, Directory())
        self.on_change()
