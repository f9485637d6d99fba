"""Who may work: what slow and heavy requests may take from the others.

A thread is cheap while it waits for a client, so a process has many; what they do in earnest takes turns.
"""

import contextlib
import gc
import queue
import threading
import time
from collections.abc import Iterator

from gnocchi.rest import errors

#: Bodies above this are large.
LARGE_BODY_BYTES = 1 << 20

#: Large bodies that one process reads at once; each may be held in memory up to `[api] max_body_size`.
LARGE_BODIES = 4

#: How long a request waits for its turn to send a large body, in seconds.
LARGE_BODY_WAIT_S = 30.0


class Turns:
    """The turns of one process.

    Parameters
    ----------
    count : int
        Requests that work at once.  A request that waits for its client does not count.
    """

    def __init__(self, count: int) -> None:
        # FAST PATH: each request takes and gives back two turns; 0.15 us each as items of a queue, 2.5 as a Semaphore.
        self._free: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(None)
        self._refreshing = threading.Semaphore(max(1, count // 2))
        self._large = threading.Semaphore(LARGE_BODIES)
        self._decoding = threading.Lock()

    def __enter__(self) -> None:
        self._free.get()

    def __exit__(self, *exc_info: object) -> None:
        self._free.put(None)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let others work while this request waits for its client."""
        self._free.put(None)
        try:
            yield
        finally:
            self._free.get()

    @contextlib.contextmanager
    def refreshing(self, timeout_s: float) -> Iterator[float]:
        """Aggregate what is pending, which may wait for the locks of sacks; yields the seconds that are left for it.

        Those who refresh take turns of their own, so that a worker that hangs with a sack stalls nobody else.
        Raises errors.RequestError 503 when the time is over before one is free.
        """
        deadline = time.monotonic() + timeout_s
        with self.aside():
            if not self._refreshing.acquire(timeout=timeout_s):
                raise errors.RequestError(503, "Unable to refresh: too many other requests do. Please try again.")
            try:
                yield max(0.0, deadline - time.monotonic())
            finally:
                self._refreshing.release()

    @contextlib.contextmanager
    def large_body(self) -> Iterator[None]:
        """Read a large body.  Raises errors.RequestError 503 when clients of others take too long."""
        if not self._large.acquire(timeout=LARGE_BODY_WAIT_S):
            raise errors.RequestError(503, "Too many large requests at once. Please try again.")
        try:
            yield
        finally:
            self._large.release()

    @contextlib.contextmanager
    def decoding(self, size: int) -> Iterator[None]:
        """Decode a body of `size` bytes; large ones alone.

        What they become takes up to 30 times their bytes; two at once would not be faster, for decoders keep the
        interpreter's lock.  No garbage is collected meanwhile: going through millions of new objects again and again
        takes four times as long as making them.
        """
        if size <= LARGE_BODY_BYTES:
            yield
            return
        with self._decoding:
            gc.disable()
            try:
                yield
            finally:
                gc.enable()
