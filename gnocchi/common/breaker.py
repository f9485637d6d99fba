"""Back ends that say nothing: who would ask in vain is told so at once, and waits for no time limit."""

import contextlib
import threading
import time
from collections.abc import Iterator

from gnocchi.exceptions import BackendUnavailable

#: A back end that was asked, and from which nothing came for so long, is silent; seconds.  Less than any limit of ours.
SILENT_S = 4.0

#: Seconds from one call that a silent back end gets to the next: each may take as long as its limit allows.
PROBE_S = 1.0


class Breaker:
    """Calls of one process to one back end; safe to use from many threads.

    While it is silent one call per second goes on to it, and the others fail.  The first answer ends that.

    name : str
        Of the back end, for texts.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        #: When calls that have no outcome yet began (time.monotonic()), the oldest first.
        self._pending: dict[object, float] = {}
        self._heard_at = float("-inf")
        self._probed_at = float("-inf")
        #: The last call that ended had waited in vain.
        self._confirmed = False

    @contextlib.contextmanager
    def calling(self, *, always: bool = False) -> Iterator[None]:
        """Make a call.  Raises BackendUnavailable when nothing comes from the back end; `always`: goes on to it anyway.

        What the call raises does not matter, only how long that took.
        """
        call = object()
        with self._changed:
            if not always:
                self._let_in()
            begun = self._pending[call] = time.monotonic()
        in_vain = False
        try:
            yield
        except BackendUnavailable:
            in_vain = time.monotonic() - begun >= SILENT_S
            raise
        finally:
            with self._changed:
                del self._pending[call]
                self._confirmed = in_vain
                if not in_vain:
                    self._heard_at = time.monotonic()
                self._changed.notify_all()

    def _let_in(self) -> None:
        """Return if a call may be made."""
        now = time.monotonic()
        if not self._is_silent(now):
            return
        if now >= self._probed_at + PROBE_S:
            self._probed_at = now
            return
        # Perhaps it had a single long thing to do; then the call that goes on to it now will tell.
        if self._confirmed or not self._changed.wait_for(lambda: not self._is_silent(time.monotonic()), PROBE_S):
            raise BackendUnavailable(f"{self._name}: nothing came from it for {SILENT_S:g} seconds; it is asked again "
                                     f"every {PROBE_S:g} s")

    def _is_silent(self, now: float) -> bool:
        oldest = next(iter(self._pending.values()), now)
        return self._confirmed or now - max(oldest, self._heard_at) >= SILENT_S
