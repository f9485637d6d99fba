"""Storage in a pool of Ceph: an object per object, and maps of their keys."""

import collections
from collections.abc import Iterable, Iterator, Sequence

from gnocchi.common.ceph import NamedRange, Pool
from gnocchi.common.ceph_options import OPTS
from gnocchi.exceptions import ObjectNotFound
from gnocchi.storage.drivers import ByteRange, StorageDriver

__all__ = ["OPTS", "CephDriver"]

NAMESPACE = "gnocchi-storage"

#: Where larger objects are cut: OSDs refuse writes above 90 MB and objects above 128 MB, and like smaller ones.
PIECE_BYTES = 16 << 20

#: Map whose keys are all directories that ever held an object.  A directory ends in "/", or is "".
DIRECTORIES = "directories"

#: What the name of a directory begins with there: a key of a map cannot be empty.
MARK = "/"


class CephDriver(StorageDriver):
    """Objects in a replicated pool.

    RADOS lists nothing but whole pools.  So each directory, which is what of a key is before the last "/", has a map of
    the objects in it.  An object is in the map before it is stored, and until it is removed: what was interrupted can
    be listed, and deleted.

        directories            map {"/" and directory: ""}
        index/<directory>      map {rest of the key: number of pieces, as text}
        object/<key>           first piece
        object/<key>#<n>       piece n = 1, 2, ...; written before the first one and removed after it

    Parameters
    ----------
    pool, username, secret, keyring, timeout, conffile
        As `[storage] ceph_*`.
    piece_bytes : int
        Where objects are cut; never to be changed once there are any.
    """

    reads_at_once = 8

    def __init__(self, pool: str, username: str | None, secret: str | None, keyring: str | None, timeout: str,
                 conffile: str, piece_bytes: int = PIECE_BYTES) -> None:
        self._pool = Pool(NAMESPACE, pool, username, secret, keyring, timeout, conffile)
        self._piece_bytes = piece_bytes
        self._known: set[str] = set()

    def upgrade(self) -> None:
        self._pool.set_entries({DIRECTORIES: {MARK: b""}})     # there is no pool to make, but one to write to

    def put(self, key: str, data: bytes) -> None:
        self.put_many([(key, data)])

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        pieces = {key: max(1, -(-len(data) // self._piece_bytes)) for key, data in objects}
        entries: dict[str, dict[str, bytes]] = collections.defaultdict(dict)
        for key, count in pieces.items():
            directory, rest = _split(key)
            entries[directory][rest] = b"%d" % count
        new = set(entries) - self._known
        if new:
            self._pool.set_entries({DIRECTORIES: dict.fromkeys((MARK + directory for directory in new), b"")})
            self._known |= new
        self._pool.set_entries({_index_name(directory): values for directory, values in entries.items()})
        size = self._piece_bytes
        self._pool.write((_object_name(key, number), data[number * size:(number + 1) * size])
                         for key, data in objects for number in range(1, pieces[key]))
        self._pool.write((_object_name(key), data if pieces[key] == 1 else data[:size]) for key, data in objects)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.get_many([ByteRange(key, start, stop)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        parts = [list(self._cut(*byte_range)) for byte_range in ranges]
        found = self._pool.read([part for several in parts for part in several])
        results = []
        doubtful = []
        end = 0
        for (key, _, _), several in zip(ranges, parts, strict=True):
            first, end = end, end + len(several)
            missing = {part.name for number, part in enumerate(several, first) if number not in found}
            if _object_name(key) in missing:
                raise ObjectNotFound(key)
            if missing or not several:
                doubtful.append(key)
            results.append(found[first] if not missing and end - first == 1
                           else b"".join([found.get(number, b"") for number in range(first, end)]))
        # A later piece that is missing is behind the end of the object, if the object is still there now: the first
        # piece is removed before the others are.
        there = self._pool.read([NamedRange(_object_name(key), 0, 1) for key in doubtful]) if doubtful else {}
        for number, key in enumerate(doubtful):
            if number not in there:
                raise ObjectNotFound(key)
        return results

    def _cut(self, key: str, start: int, stop: int | None) -> Iterator[NamedRange]:
        """Yield the parts of the pieces that make a range."""
        size = self._piece_bytes
        if stop is None:
            directory, rest = _split(key)
            stop = size * int(self._pool.read_entries(_index_name(directory), [rest]).get(rest, b"0"))
        for number in range(start // size, -(-stop // size)):
            begin = max(start - number * size, 0)
            length = min(stop - number * size, size) - begin
            if length > 0:
                yield NamedRange(_object_name(key, number), begin, length)

    def delete_many(self, keys: Iterable[str]) -> None:
        entries: dict[str, list[str]] = collections.defaultdict(list)
        for key in keys:
            directory, rest = _split(key)
            entries[directory].append(rest)
        pieces = {directory + rest: int(count) for directory, names in entries.items()
                  for rest, count in self._pool.read_entries(_index_name(directory), names).items()}
        self._pool.remove(_object_name(key) for key in pieces)
        self._pool.remove(_object_name(key, number) for key, count in pieces.items() for number in range(1, count))
        self._pool.remove_entries({_index_name(directory): names for directory, names in entries.items()})

    def list(self, prefix: str) -> Iterator[str]:
        for mark, _ in list(self._pool.list_entries(DIRECTORIES)):
            directory = mark.removeprefix(MARK)
            if directory.startswith(prefix):
                rest = ""
            elif prefix.startswith(directory) and "/" not in prefix[len(directory):]:
                rest = prefix[len(directory):]
            else:
                continue
            for name, _ in self._pool.list_entries(_index_name(directory), rest):
                yield directory + name

    def close(self) -> None:
        self._pool.close()


def _split(key: str) -> tuple[str, str]:
    """Return directory and rest of a key."""
    directory, slash, rest = key.rpartition("/")
    return directory + slash, rest


def _index_name(directory: str) -> str:
    return f"index/{directory}"


def _object_name(key: str, number: int = 0) -> str:
    return f"object/{key}#{number}" if number else f"object/{key}"
