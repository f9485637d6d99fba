"""What an object store must do to hold groups."""

import abc
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class KeyRange(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of what is under a key."""

    key: str
    start: int
    stop: int


class KeyedStore(abc.ABC):
    """Objects under keys (ASCII, below 64 characters), each written once and later deleted.

    All calls are safe from many threads and raise BackendUnavailable, in bounded time.

    Attributes
    ----------
    forget_s : float
        For how long something may show again that was deleted.
    """

    forget_s = 3600.0

    @abc.abstractmethod
    def upgrade(self) -> None:
        """Create what is needed (container, bucket, pool); may be run any number of times."""

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store an object whole; on return it survives a crash.  The same one may be stored again.

        When it raises, it may or may not be stored; it must not be stored by this call later than within `forget_s`.
        """

    @abc.abstractmethod
    def get_many(self, ranges: Sequence[KeyRange]) -> list[bytes | None]:
        """Return the bytes of each range, in order, short if an object ends before; None where there is no object.

        What was stored is found, whether it is listed already or not.
        """

    @abc.abstractmethod
    def list(self, prefix: str, after: str) -> Iterator[str]:
        """Yield, ascending, the keys that begin with `prefix` and are greater than `after`, in pieces as they are used.

        Some that were stored may be missing for a while, and some that were deleted still be there.
        """

    @abc.abstractmethod
    def delete_many(self, keys: Iterable[str]) -> None:
        """Delete objects; those that do not exist are no error."""

    def get_position(self) -> object | None:
        """Return a cheap value that changes whenever something was stored; None where that cannot be told."""
        return None

    def close(self) -> None:
        """Give back connections."""
        return
