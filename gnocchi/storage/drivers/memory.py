"""Storage in this process's memory: for tests, and the reference for the driver contract."""

from collections.abc import Iterable, Iterator

from gnocchi.exceptions import ObjectNotFound
from gnocchi.storage.drivers import StorageDriver


class MemoryDriver(StorageDriver):
    """Objects in a dict."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def upgrade(self) -> None:
        return None

    def put(self, key: str, data: bytes) -> None:
        assert key not in self._objects, f"BUG: key {key} was used before"
        self._objects[key] = bytes(data)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            return self._objects[key][start:stop]
        except KeyError:
            raise ObjectNotFound(key) from None

    def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[str]:
        return iter([key for key in list(self._objects) if key.startswith(prefix)])
