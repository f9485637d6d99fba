"""Storage in a container of Swift: an object per object."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gnocchi.common.swift import Container, ObjectRange
from gnocchi.common.swift_options import OPTS
from gnocchi.storage.drivers import ByteRange, StorageDriver

__all__ = ["OPTS", "SwiftDriver"]


class SwiftDriver(StorageDriver):
    """Objects in the container `<prefix>.objects`, under their keys.

    An object is never written twice, so nothing stale is ever read.  Listings may lag; they serve only to find what
    nobody names any more.

    Parameters
    ----------
    container_prefix, ...
        As `[storage] swift_*`.
    parallel_operations : int
        Calls made at once.
    """

    def __init__(self, container_prefix: str, parallel_operations: int = 1, container_prefix_all: bool = False,
                 **options: Any) -> None:
        self.reads_at_once = parallel_operations
        self._container = Container(f"{container_prefix}.objects", parallel_operations=parallel_operations, **options)

    def upgrade(self) -> None:
        self._container.create()

    def put(self, key: str, data: bytes) -> None:
        self._container.put(key, data)

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        self._container.put_many(objects)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.get_many([ByteRange(key, start, stop)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        found = self._container.get_many([ObjectRange(*item) for item in ranges])
        return [self._expect(item.key, data) for item, data in zip(ranges, found, strict=True)]

    def _expect(self, key: str, data: bytes | None) -> bytes:
        if data is None:
            raise self._container.make_missing(key)
        return data

    def delete_many(self, keys: Iterable[str]) -> None:
        self._container.delete_many(list(keys))

    def list(self, prefix: str) -> Iterator[str]:
        return self._container.list(prefix)

    def close(self) -> None:
        self._container.close()
