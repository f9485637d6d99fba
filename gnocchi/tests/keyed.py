"""A store of groups in memory, which may show what is gone and hide what is there, as object stores do."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming.keyed_store import KeyedStore, KeyRange


class MemoryStore(KeyedStore):
    """Objects in a dict.

    hidden : keys that listings do not show
    away : keys that cannot be read for now, and that listings do not show
    ghosts : deleted objects that listings show, and that can be read, too, where they are not None
    fails : told the name of each call and its keys; may raise BackendUnavailable
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.hidden: set[str] = set()
        self.away: set[str] = set()
        self.ghosts: dict[str, bytes | None] = {}
        self.calls: list[tuple[str, int]] = []
        self.fails: Callable[[str, list[str]], None] = lambda name, keys: None
        self._lock = threading.Lock()

    def _call(self, name: str, keys: Iterable[str]) -> None:
        listed = list(keys)
        self.calls.append((name, len(listed)))
        self.fails(name, listed)

    def count(self, name: str) -> int:
        """Return how many objects were asked for by calls of that name."""
        return sum(count for call, count in self.calls if call == name)

    def upgrade(self) -> None:
        return None

    def put(self, key: str, data: bytes) -> None:
        self._call("put", [key])
        with self._lock:
            self.objects[key] = bytes(data)

    def get_many(self, ranges: Sequence[KeyRange]) -> list[bytes | None]:
        self._call("get", [key for key, _, _ in ranges])
        with self._lock:
            found = [None if key in self.away else self.objects.get(key, self.ghosts.get(key)) for key, _, _ in ranges]
        return [None if data is None else data[start:stop]
                for data, (_, start, stop) in zip(found, ranges, strict=True)]

    def list(self, prefix: str, after: str) -> Iterator[str]:
        self._call("list", [])
        with self._lock:
            keys = (self.objects.keys() - self.hidden - self.away) | self.ghosts.keys()
        return iter(sorted(key for key in keys if key.startswith(prefix) and key > after))

    def delete_many(self, keys: Iterable[str]) -> None:
        names = list(keys)
        self._call("delete", names)
        with self._lock:
            for key in names:
                self.objects.pop(key, None)

    def fail(self, *names: str) -> None:
        """Let calls of these names fail from now on; without any, none."""
        def check(name: str, keys: list[str]) -> None:
            if name in names:
                raise BackendUnavailable(f"memory: cannot {name}")

        self.fails = check
