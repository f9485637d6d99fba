"""Calls that wait for a network, several at a time."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Threads:
    """Threads that make calls for others; they begin at the first use, so after any fork.

    count : int
        How many; 1: the caller does all himself.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[_Item], _Result], items: Iterable[_Item]) -> list[_Result]:
        """Return what the function makes of each item, in order; the first error ends it, and nothing more begins."""
        work = list(items)
        if self._count == 1 or len(work) < 2:
            return [function(item) for item in work]
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._count, self._name)
        futures = [self._executor.submit(function, item) for item in work]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown(wait=False, cancel_futures=True)
                self._executor = None
