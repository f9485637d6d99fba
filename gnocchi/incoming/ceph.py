"""Incoming measures in a pool of Ceph: groups of requests, and a map that lists them."""

import time
from collections.abc import Iterable, Iterator, Sequence

from gnocchi.common.ceph import Pool
from gnocchi.common.ceph_options import OPTS
from gnocchi.common.ceph_pieces import PIECE_BYTES, PartOf, Pieces
from gnocchi.incoming.keyed import KeyedDriver
from gnocchi.incoming.keyed_store import KeyedStore, KeyRange

__all__ = ["OPTS", "CephDriver"]

NAMESPACE = "gnocchi-incoming"

#: The object whose map has an entry for each group: what is stored under LISTED and its key, what is on its way under
#: UNFINISHED and its key.  Their values are numbers of pieces, as text.
INDEX = "index"
LISTED, UNFINISHED = "listed/", "unfinished/"

#: Its entry that names the group which was listed last.
NEWEST = "newest"

#: Who has seen a group unfinished for so long removes it: far longer than any request to Ceph may take.
ABANDONED_S = 3600.0

#: How often that is looked at, in seconds.
_SWEEP_S = 600.0


class CephStore(KeyedStore):
    """Groups as objects.

    RADOS lists nothing but whole pools; so there is a map.  An object is listed once it is there, and until it is
    removed; what was interrupted on the way is known from its other entry.

    Parameters
    ----------
    pool : Pool
    piece_bytes, abandoned_s
        As the constants.  None for `abandoned_s` where a write may take for ever.
    """

    def __init__(self, pool: Pool, piece_bytes: int = PIECE_BYTES, abandoned_s: float | None = ABANDONED_S) -> None:
        self._pool = pool
        self._pieces = Pieces(pool, piece_bytes)
        self._abandoned_s = abandoned_s
        #: Unfinished groups, and when they were first seen.  No clock of another host is asked.
        self._seen: dict[str, float] = {}
        self._swept_at = time.monotonic()

    def upgrade(self) -> None:
        # There is no pool to make, but one to write to.
        self._pool.set_entries({INDEX: {"upgraded": b""}})

    def put(self, key: str, data: bytes) -> None:
        count = b"%d" % self._pieces.count(len(data))
        self._pool.set_entries({INDEX: {UNFINISHED + key: count}})
        self._pieces.write([(_object_name(key), data)])
        self._pool.replace_entries(INDEX, [UNFINISHED + key], {LISTED + key: count, NEWEST: key.encode()})

    def get_many(self, ranges: Sequence[KeyRange]) -> list[bytes | None]:
        return self._pieces.read([PartOf(_object_name(key), start, stop) for key, start, stop in ranges])

    def list(self, prefix: str, after: str) -> Iterator[str]:
        for name, _ in self._pool.list_entries(INDEX, LISTED + prefix, LISTED + after):
            yield name.removeprefix(LISTED)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._delete(LISTED, list(keys))
        if self._abandoned_s is not None and time.monotonic() >= self._swept_at + min(_SWEEP_S, self._abandoned_s):
            self._sweep(self._abandoned_s)

    def get_position(self) -> bytes:
        return self._pool.read_entries(INDEX, [NEWEST]).get(NEWEST, b"")

    def close(self) -> None:
        self._pool.close()

    def _delete(self, mark: str, keys: Sequence[str]) -> None:
        if keys:
            counts = self._pool.read_entries(INDEX, [mark + key for key in keys])
            self._pieces.remove({_object_name(name.removeprefix(mark)): int(count) for name, count in counts.items()})
            self._pool.remove_entries({INDEX: list(counts)})

    def _sweep(self, abandoned_s: float) -> None:
        """Remove groups that were never finished."""
        now = self._swept_at = time.monotonic()
        unfinished = [name.removeprefix(UNFINISHED) for name, _ in self._pool.list_entries(INDEX, UNFINISHED)]
        self._seen = {key: self._seen.get(key, now) for key in unfinished}
        self._delete(UNFINISHED, [key for key, first in self._seen.items() if now >= first + abandoned_s])


class CephDriver(KeyedDriver):
    """Groups in a replicated pool.

    Parameters
    ----------
    pool, username, secret, keyring, timeout, conffile
        As `[incoming] ceph_*`.
    sacks : int
        The number of sacks, a power of two.
    """

    def __init__(self, pool: str, username: str | None, secret: str | None, keyring: str | None, timeout: str,
                 conffile: str, sacks: int) -> None:
        connection = Pool(NAMESPACE, pool, username, secret, keyring, timeout, conffile)
        abandoned_s = max(ABANDONED_S, 20.0 * connection.timeout_s) if connection.timeout_s else None
        super().__init__(CephStore(connection, abandoned_s=abandoned_s), sacks)


def _object_name(key: str) -> str:
    return f"object/{key}"
