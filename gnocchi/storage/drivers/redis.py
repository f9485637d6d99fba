"""Storage in Redis: a string per object, and a sorted set of their keys."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gnocchi.common import redis
from gnocchi.common.redis_options import OPTS
from gnocchi.exceptions import ObjectNotFound
from gnocchi.storage.drivers import ByteRange, StorageDriver

__all__ = ["OPTS", "RedisDriver"]

PREFIX = "gnocchi:object:"

#: All keys with score 0, so in the order of their bytes: what begins with a prefix is found without going through all.
KEYS = "gnocchi:objects"

#: Keys listed or deleted at once.
KEYS_AT_ONCE = 1000

#: Bytes sent at once.
BYTES_AT_ONCE = 16 << 20


class RedisDriver(StorageDriver):
    """Objects in a Redis server, or behind its sentinels.

    What was stored survives what the server's own persistence survives: `appendonly yes` and `appendfsync always` keep
    everything that was acknowledged.

    Parameters
    ----------
    url : str
        As `[storage] redis_url`.
    """

    reads_at_once = 8

    def __init__(self, url: str) -> None:
        self._client = redis.make_client(url)

    def upgrade(self) -> None:
        with redis.unavailable("connect"):
            self._client.ping()

    def put(self, key: str, data: bytes) -> None:
        self.put_many([(key, data)])

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        pending: list[tuple[str, bytes]] = []
        size = 0
        for key, data in objects:
            pending.append((key, data))
            size += len(data)
            if size >= BYTES_AT_ONCE:
                self._put(pending)
                pending, size = [], 0
        if pending:
            self._put(pending)

    def _put(self, objects: Sequence[tuple[str, bytes]]) -> None:
        with redis.unavailable(f"write {objects[0][0]}" if len(objects) == 1 else f"write {len(objects)} objects"):
            pipeline = self._client.pipeline(transaction=True)
            for key, data in objects:
                pipeline.set(PREFIX + key, data)
            pipeline.zadd(KEYS, {key: 0 for key, _ in objects})
            pipeline.execute()

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.get_many([ByteRange(key, start, stop)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        if not ranges:
            return []
        with redis.unavailable(f"read {ranges[0].key}" if len(ranges) == 1 else f"read {len(ranges)} objects"):
            # No transaction, in which Redis refuses even to read when its memory is full.  It gives an empty range of
            # an object that is not there; one that is there afterwards was there before, for no key is used twice.
            pipeline = self._client.pipeline(transaction=False)
            for key, start, stop in ranges:
                # The last byte is counted; -1 is the end, so an empty range needs a first one behind the last.
                begin, end = (1, 0) if stop is not None and stop <= start else (start, -1 if stop is None else stop - 1)
                pipeline.getrange(PREFIX + key, begin, end)
                pipeline.exists(PREFIX + key)
            replies = pipeline.execute()
        for (key, _, _), exists in zip(ranges, replies[1::2], strict=True):
            if not exists:
                raise ObjectNotFound(key)
        return replies[::2]

    def delete_many(self, keys: Iterable[str]) -> None:
        names = list(keys)
        for first in range(0, len(names), KEYS_AT_ONCE):
            part = names[first:first + KEYS_AT_ONCE]
            with redis.unavailable("delete objects"):
                # No transaction, or nothing could be deleted when the memory is full; in this order, for what is still
                # listed is deleted again.
                pipeline = self._client.pipeline(transaction=False)
                # Unlike DEL, which frees large strings before it answers anybody else.
                pipeline.unlink(*[PREFIX + key for key in part])
                pipeline.zrem(KEYS, *part)
                pipeline.execute()

    def list(self, prefix: str) -> Iterator[str]:
        begin = f"[{prefix}".encode()
        end = f"[{prefix}".encode() + b"\xff"
        while True:
            with redis.unavailable(f"list {prefix}"):
                found: Any = self._client.zrangebylex(KEYS, begin, end, start=0, num=KEYS_AT_ONCE)
            for key in found:
                yield key.decode()
            if len(found) < KEYS_AT_ONCE:
                return
            begin = b"(" + found[-1]

    def close(self) -> None:
        self._client.close()
