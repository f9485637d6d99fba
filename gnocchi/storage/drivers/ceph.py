"""Storage in a pool of Ceph: an object per object, and maps of their keys."""

import collections
from collections.abc import Iterable, Iterator, Sequence

from gnocchi.common.ceph import Pool
from gnocchi.common.ceph_options import OPTS
from gnocchi.common.ceph_pieces import PIECE_BYTES, PartOf, Pieces
from gnocchi.exceptions import ObjectNotFound
from gnocchi.storage.drivers import ByteRange, StorageDriver

__all__ = ["OPTS", "CephDriver"]

NAMESPACE = "gnocchi-storage"

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
        object/<key>           the object (see ceph_pieces)

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
        self._pieces = Pieces(self._pool, piece_bytes)
        self._known: set[str] = set()

    def upgrade(self) -> None:
        self._pool.set_entries({DIRECTORIES: {MARK: b""}})     # there is no pool to make, but one to write to

    def put(self, key: str, data: bytes) -> None:
        self.put_many([(key, data)])

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        entries: dict[str, dict[str, bytes]] = collections.defaultdict(dict)
        for key, data in objects:
            directory, rest = _split(key)
            entries[directory][rest] = b"%d" % self._pieces.count(len(data))
        new = set(entries) - self._known
        if new:
            self._pool.set_entries({DIRECTORIES: dict.fromkeys((MARK + directory for directory in new), b"")})
            self._known |= new
        self._pool.set_entries({_index_name(directory): values for directory, values in entries.items()})
        self._pieces.write([(_object_name(key), data) for key, data in objects])

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.get_many([ByteRange(key, start, stop)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        results = []
        parts = [PartOf(_object_name(key), start, self._find_stop(key) if stop is None else stop)
                 for key, start, stop in ranges]
        for byte_range, data in zip(ranges, self._pieces.read(parts), strict=True):
            if data is None:
                raise ObjectNotFound(byte_range.key)
            results.append(data)
        return results

    def _find_stop(self, key: str) -> int:
        """Return a number of bytes that an object does not exceed."""
        directory, rest = _split(key)
        return int(self._pool.read_entries(_index_name(directory), [rest]).get(rest, b"0")) * self._pieces.piece_bytes

    def delete_many(self, keys: Iterable[str]) -> None:
        entries: dict[str, list[str]] = collections.defaultdict(list)
        for key in keys:
            directory, rest = _split(key)
            entries[directory].append(rest)
        self._pieces.remove({_object_name(directory + rest): int(count) for directory, names in entries.items()
                             for rest, count in self._pool.read_entries(_index_name(directory), names).items()})
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


def _object_name(key: str) -> str:
    return f"object/{key}"
