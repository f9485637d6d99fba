"""Stores of objects under keys, as Swift and S3 are: what drivers need of them."""

import abc
import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from gnocchi.common.parallel import Threads
from gnocchi.exceptions import BackendUnavailable, ObjectNotFound

# It tells, with a traceback, of each answer that broke off among its headers; we tell that it was cut off.
logging.getLogger("urllib3.connection").setLevel(logging.ERROR)

#: Longest waits for a connection and for an answer; seconds.  Proxies of Swift give up on their servers after 10.
CONNECT_TIMEOUT_S = 5.0
TIMEOUT_S = 30.0

#: Tries of a call that was refused, or lost its connection; not of one that was not answered in time.
ATTEMPTS = 2
#: Longest pause before the second one; seconds.
PAUSE_S = 0.5

#: Why a call failed.
NO_ANSWER = "no answer in time"
CUT_OFF = "the answer was cut off"
NO_TLS = "TLS failed: the certificate is not trusted, or the server has none"

T = TypeVar("T")

_UNKNOWN_HOST = re.compile("Failed to resolve|NameResolutionError|Name or service not known")
_ERRNO = re.compile(r"\[Errno (-?\d+)\]")


class ObjectRange(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of an object; `stop` None means the end."""

    key: str
    start: int
    stop: int | None


class CallFailed(Exception):
    """A call brought nothing, because of this error's cause.  reason : str, for people;  may_pass : bool, try again"""

    def __init__(self, reason: str, *, may_pass: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.may_pass = may_pass


class Objects(abc.ABC):
    """One container, or bucket.  Safe to use from many threads; connects at its first use, so after any fork.

    All methods raise BackendUnavailable, in bounded time; its text tells no password, key or token.

    Parameters
    ----------
    name : str
        Of the container.
    service : str
        What holds it, for texts.
    parallel_operations : int
        Calls made at once by those methods that make many.
    """

    def __init__(self, name: str, service: str, parallel_operations: int) -> None:
        self.name = name
        self.parallel_operations = parallel_operations
        self._service = service
        self._threads = Threads(parallel_operations, service)

    @abc.abstractmethod
    def create(self) -> None:
        """Create the container unless it is there."""

    @abc.abstractmethod
    def exists(self) -> bool:
        """Return whether the container is there."""

    @abc.abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Store an object; on return it survives a crash."""

    @abc.abstractmethod
    def get(self, key: str, start: int = 0, stop: int | None = None, *, newest: bool = False) -> bytes | None:
        """Return bytes of an object, short if it ends before `stop`, or None when there is none.

        newest : look at all replicas, of which one may not know yet that the object was deleted
        """

    @abc.abstractmethod
    def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there are no error."""

    def get_many(self, ranges: Sequence[ObjectRange], *, newest: bool = False) -> list[bytes | None]:
        """Return what `get` does, for each range."""
        return self._threads.map(lambda item: self.get(*item, newest=newest), ranges)

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Store objects."""
        self._threads.map(lambda item: self.put(*item), objects)

    @abc.abstractmethod
    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        """Yield the keys that begin with a prefix and are greater than `after`, ascending."""

    def make_missing(self, key: str) -> ObjectNotFound:
        """Return the error that tells of a missing object, unless it is the container that is missing."""
        if not self.exists():
            raise self.no_container(f"read {key}")
        return ObjectNotFound(key)

    def no_container(self, action: str) -> BackendUnavailable:
        return self.failed(action, f"there is no {self.name}; gnocchi-upgrade has to be run")

    def failed(self, action: str, reason: str) -> BackendUnavailable:
        return BackendUnavailable(f"{self._service}: cannot {action}: {reason}")

    def _repeat(self, action: str, call: Callable[[], T]) -> T:
        """Return what a call returns, which raises CallFailed when it has to."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call()
            except CallFailed as e:
                if attempt == ATTEMPTS or not e.may_pass:
                    raise self.failed(action, e.reason) from e.__cause__
            time.sleep(random.uniform(0, PAUSE_S))
        raise AssertionError("BUG: no attempt was made")

    def close(self) -> None:
        """Give back threads and connections."""
        self._threads.close()


def tells_length(headers: Mapping[str, str]) -> bool:
    """Return whether the end of an answer's body is known.

    It is not when the answer broke off among its headers: then what there is passes for a body, which seems empty.

    headers : by names in lower case
    """
    return "content-length" in headers or "transfer-encoding" in headers


def explain_connection(error: object) -> str:
    """Say why there is no connection, in words that hold no URL, for that may hold a password."""
    if _UNKNOWN_HOST.search(str(error)):
        return "the name of the host is not known"
    number = _ERRNO.search(str(error))
    if number is not None and int(number[1]) in errno.errorcode:
        return os.strerror(int(number[1]))
    return "the connection failed"
