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

#: A request that waits longer than this for a back end, in seconds, lets another one work meanwhile.
PATIENCE_S = 0.25

#: How long a request waits for its turn to send a large body, in seconds.
LARGE_BODY_WAIT_S = 30.0


class _Wait:
    """lent : bool, whether somebody else has the turn of who waits"""

    __slots__ = ("begun_at", "lent")

    def __init__(self) -> None:
        self.begun_at = time.monotonic()
        self.lent = False


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
        #: `works` in it: the thread has a turn.
        self._thread = threading.local()
        self._waits_lock = threading.Lock()
        #: Those who wait with a turn, the first one first.
        self._waits: dict[_Wait, None] = {}
        self._someone_waits = threading.Event()
        self._watcher: threading.Thread | None = None

    def __enter__(self) -> None:
        self._free.get()
        self._thread.works = True

    def __exit__(self, *exc_info: object) -> None:
        self._thread.works = False
        self._free.put(None)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Let others work while this request waits for its client."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let others work if this request waits long, as for a back end that does not answer."""
        if not getattr(self._thread, "works", False):    # A thread that does something else, or is aside.
            yield
            return
        wait = _Wait()
        with self._waits_lock:
            self._waits[wait] = None
            if self._watcher is None:       # Only now: threads do not live on in the child of a fork.
                self._watcher = threading.Thread(target=self._watch, name="turns", daemon=True)
                self._watcher.start()
        self._someone_waits.set()
        self._thread.works = False
        try:
            yield
        finally:
            with self._waits_lock:
                del self._waits[wait]
            if wait.lent:
                self._free.get()
            self._thread.works = True

    def _watch(self) -> None:
        """Give others the turns of those that wait long."""
        while True:
            self._someone_waits.wait()
            self._someone_waits.clear()
            time.sleep(PATIENCE_S)
            with self._waits_lock:
                for wait in self._waits:
                    if wait.begun_at > time.monotonic() - PATIENCE_S:
                        self._someone_waits.set()
                        break
                    if not wait.lent:
                        wait.lent = True
                        self._free.put(None)

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
