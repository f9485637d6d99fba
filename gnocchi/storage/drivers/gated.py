"""Any storage driver, behind a gate."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from gnocchi.common.gate import Gate
from gnocchi.storage.drivers import ByteRange, StorageDriver


class GatedDriver(StorageDriver):
    """Makes each call as its gate wants it; listings, which no request needs, pass by it."""

    def __init__(self, driver: StorageDriver, gate: Gate) -> None:
        self._driver = driver
        self._gate = gate
        self.reads_at_once = driver.reads_at_once

    def upgrade(self) -> None:
        self._driver.upgrade()

    def put(self, key: str, data: bytes) -> None:
        with self._gate.calling():
            self._driver.put(key, data)

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        with self._gate.calling():
            self._driver.put_many(objects)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        with self._gate.calling():
            return self._driver.get(key, start, stop)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        with self._gate.calling():
            return self._driver.get_many(ranges)

    def delete_many(self, keys: Iterable[str]) -> None:
        with self._gate.calling():
            self._driver.delete_many(keys)

    def list(self, prefix: str) -> Iterator[str]:
        return self._driver.list(prefix)

    def delete_leftovers(self, older_than_s: float) -> int:
        return self._driver.delete_leftovers(older_than_s)

    def check(self) -> None:
        with self._gate.calling(always=True):
            self._driver.check()

    def waiting(self) -> AbstractContextManager[None]:
        return self._gate.waiting()

    def close(self) -> None:
        self._driver.close()
