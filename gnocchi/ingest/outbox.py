"""What daemons have received, on its way from the thread that receives to the one that writes."""

import collections
import logging
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gnocchi.exceptions import BackendUnavailable

LOG = logging.getLogger(__name__)

#: Pause after a failed write in seconds: doubled from the first to the last.
RETRY_S = 1.0
RETRY_MAX_S = 30.0


class Parcel(Protocol):
    """What is written at once."""

    @property
    def measures(self) -> int: ...


P = TypeVar("P", bound=Parcel)


class Outbox(Generic[P]):
    """Parcels, oldest first.

    Parameters
    ----------
    measures_max : int, optional
        Holds at most that many measures, or one parcel; the oldest are dropped for it.
    """

    def __init__(self, measures_max: int | None = None) -> None:
        self._measures_max = measures_max
        self._parcels: collections.deque[P] = collections.deque()
        self._measures = 0
        self._changed = threading.Condition()
        self._closed = False

    def put(self, parcel: P) -> None:
        dropped = 0
        with self._changed:
            # Empty ones only show the writer that time passes.
            if parcel.measures or not self._parcels:
                self._parcels.append(parcel)
                self._measures += parcel.measures
            while self._measures_max is not None and self._measures > self._measures_max and len(self._parcels) > 1:
                oldest = self._parcels.popleft()
                self._measures -= oldest.measures
                dropped += oldest.measures
            self._changed.notify()
        if dropped:
            LOG.error("%d measures are lost: more than %d wait to be written", dropped, self._measures_max)

    def get(self) -> P | None:
        """Wait for a parcel and take it out; None once the outbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._parcels or self._closed)
            if not self._parcels:
                return None
            parcel = self._parcels.popleft()
            self._measures -= parcel.measures
            return parcel

    def clear(self) -> int:
        """Drop everything; return the number of measures."""
        with self._changed:
            dropped = self._measures
            self._parcels.clear()
            self._measures = 0
            return dropped

    def close(self) -> None:
        """Let the writer end after what is in here."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Return whether it is closed, after `timeout_s` seconds at the latest."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, timeout_s)

    @property
    def measures(self) -> int:
        return self._measures


class Writer(Generic[P]):
    """The thread that writes parcels, again and again while a back end is away.

    Parameters
    ----------
    outbox : Outbox
    write : callable
        Writes a parcel durably, or raises BackendUnavailable when it may be tried again.
    fate : str
        What becomes of measures that are given up at a stop; for the log.
    fail : callable, optional
        Told of each parcel that is given up because of an unexpected error.
    end : callable, optional
        Called when nothing more is written.
    """

    def __init__(self, outbox: Outbox[P], write: Callable[[P], None], *, fate: str = "are lost",
                 fail: Callable[[P], None] | None = None, end: Callable[[], None] | None = None) -> None:
        self._outbox = outbox
        self._write = write
        self._fate = fate
        self._fail = fail
        self._end = end
        self._thread = threading.Thread(target=self._run, name="writer")
        #: Measures that were given up.
        self.lost = 0

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while (parcel := self._outbox.get()) is not None:
            try:
                self._write_patiently(parcel)
            except Exception:
                self.lost += parcel.measures
                LOG.exception("Unexpected error: %d measures are lost", parcel.measures)
                if self._fail is not None:
                    self._fail(parcel)
        if self._end is not None:
            self._end()

    def _write_patiently(self, parcel: P) -> None:
        """Write a parcel; a stop ends the tries."""
        retry_s = RETRY_S
        while True:
            closed = self._outbox.wait_until_closed(0)
            try:
                self._write(parcel)
                LOG.debug("Flushed %d measures", parcel.measures)
                return
            except BackendUnavailable as e:
                if closed:
                    self._give_up(parcel.measures + self._outbox.clear(), e)
                    return
                LOG.warning("%s; %d measures are kept and tried again in %.1f seconds", e,
                            parcel.measures + self._outbox.measures, retry_s)
            self._outbox.wait_until_closed(retry_s)
            retry_s = min(2 * retry_s, RETRY_MAX_S)

    def _give_up(self, measures: int, reason: BackendUnavailable) -> None:
        if measures:
            self.lost += measures
            LOG.error("%s; stopping all the same: %d measures %s", reason, measures, self._fate)
