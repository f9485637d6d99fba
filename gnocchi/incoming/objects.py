"""Groups of incoming measures as objects of a container, or bucket."""

from collections.abc import Iterable, Iterator, Sequence

from gnocchi.common.objects import ObjectRange, Objects
from gnocchi.incoming.keyed_store import KeyedStore, KeyRange


class ObjectsStore(KeyedStore):
    """A group is an object.  forget_s : see KeyedStore"""

    def __init__(self, objects: Objects, forget_s: float) -> None:
        self._objects = objects
        self.forget_s = forget_s

    def upgrade(self) -> None:
        self._objects.create()

    def put(self, key: str, data: bytes) -> None:
        self._objects.put(key, data)

    def get_many(self, ranges: Sequence[KeyRange]) -> list[bytes | None]:
        # A replica that was away may have what was deleted meanwhile.
        return self._objects.get_many([ObjectRange(*item) for item in ranges], newest=True)

    def list(self, prefix: str, after: str) -> Iterator[str]:
        return self._objects.list(prefix, after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._objects.delete_many(list(keys))

    def close(self) -> None:
        self._objects.close()
