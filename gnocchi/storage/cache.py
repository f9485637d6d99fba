"""What a process keeps in memory of the objects that it read or wrote."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable
from typing import Any


class Cache:
    """Entries by key, the least recently used of which goes when together they take more than `bytes_max`.

    May be used by several threads.  (cachetools asks for the size of an entry whenever it comes or goes and takes
    several times as long.)
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        #: Entry and size.
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        """Return an entry, or None."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, entry: Any, size: int) -> None:
        """Keep an entry of so many bytes, unless it alone takes too much."""
        self.replace((), [(key, entry, size)])

    def replace(self, gone: Iterable[Hashable], entries: Iterable[tuple[Hashable, Any, int]]) -> None:
        """Drop what is kept of some keys, and keep (key, entry, size) of others."""
        with self._lock:
            for key in gone:
                self._bytes -= self._entries.pop(key, (None, 0))[1]
            for key, entry, size in entries:
                if size > self._bytes_max:
                    continue
                self._bytes += size - self._entries.pop(key, (None, 0))[1]
                self._entries[key] = entry, size
            while self._bytes > self._bytes_max:
                self._bytes -= self._entries.popitem(last=False)[1][1]
