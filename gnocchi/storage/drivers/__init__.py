"""What a storage driver must do.  Keys are `/`-separated ASCII; values are bytes."""

import abc
import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from gnocchi.exceptions import ObjectNotFound

#: Under which nothing is ever stored.
ABSENT_KEY = "absent/object"

class ByteRange(NamedTuple):
    """Part of an object: bytes `start` to `stop` (exclusive); `stop` None means the end."""

    key: str
    start: int = 0
    stop: int | None = None


class StorageDriver(abc.ABC):
    """A flat store of immutable objects.

    Attributes
    ----------
    reads_at_once : int
        Reads that are worth having under way at the same time: more than one where each waits for a network.
    """

    reads_at_once = 1

    @abc.abstractmethod
    def upgrade(self) -> None:
        """Create what the driver needs (directory, bucket, pool); may be run any number of times."""

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store an object whole under a key never used before; on return it survives a crash.

        Raises BackendUnavailable when it may not be stored; it may be tried again.
        """

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Store several objects as `put` does; all that takes time may be done for all of them at once.

        Raises BackendUnavailable when any may not be stored; others may be.
        """
        for key, data in objects:
            self.put(key, data)

    @abc.abstractmethod
    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """Return bytes `start` to `stop` of an object; short if the object ends before `stop`.

        Raises ObjectNotFound, BackendUnavailable.
        """

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        """Return the bytes of each range, in order; remote drivers read them concurrently."""
        return [self.get(*byte_range) for byte_range in ranges]

    @abc.abstractmethod
    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects; those that do not exist are not an error.  Raises BackendUnavailable."""

    @abc.abstractmethod
    def list(self, prefix: str) -> Iterator[str]:
        """Yield, in no order, the keys that begin with `prefix`.  Raises BackendUnavailable."""

    def delete_leftovers(self, older_than_s: float) -> int:
        """Delete what unfinished writes left beside the objects; return how much.  Raises BackendUnavailable.

        For drivers whose `put` passes through something that `list` does not show.
        """
        return 0

    def check(self) -> None:
        """Raise BackendUnavailable unless the back end answers.  Cheap."""
        with contextlib.suppress(ObjectNotFound):
            self.get(ABSENT_KEY)

    def waiting(self) -> contextlib.AbstractContextManager[None]:
        """Return the context in which a thread waits for calls that other threads make of this driver for it."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Give back connections and files."""
        return
