"""Storage in a store of objects, under their keys."""

from collections.abc import Iterable, Iterator, Sequence

from gnocchi.common.objects import ObjectRange, Objects
from gnocchi.storage.drivers import ByteRange, StorageDriver


class ObjectsDriver(StorageDriver):
    """An object per object.

    None is written twice, so nothing stale is ever read.  Listings may lag; they serve only to find what nobody names
    any more.
    """

    def __init__(self, objects: Objects) -> None:
        self.reads_at_once = objects.parallel_operations
        self._objects = objects

    def upgrade(self) -> None:
        self._objects.create()

    def put(self, key: str, data: bytes) -> None:
        self._objects.put(key, data)

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        self._objects.put_many(objects)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        return self.get_many([ByteRange(key, start, stop)])[0]

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        found = self._objects.get_many([ObjectRange(*item) for item in ranges])
        return [self._expect(item.key, data) for item, data in zip(ranges, found, strict=True)]

    def _expect(self, key: str, data: bytes | None) -> bytes:
        if data is None:
            raise self._objects.make_missing(key)
        return data

    def delete_many(self, keys: Iterable[str]) -> None:
        self._objects.delete_many(list(keys))

    def list(self, prefix: str) -> Iterator[str]:
        return self._objects.list(prefix)

    def close(self) -> None:
        self._objects.close()
