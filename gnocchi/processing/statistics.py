"""The counters of a process, and how they get into `/v1/status`: through the index, whatever coordinates processes."""

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.indexer.statistics import ProcessStatistics

#: The services that count something.
METRICD, JANITOR, API = "metricd", "janitor", "api"

#: Beginning of the names of counters of measures that were not stored; the reason follows.
REFUSED = "refused measures: "

#: Seconds after which counters are told again although they have not changed.
REPEAT_S = 3600.0

#: Seconds after which a process that tells nothing is taken for dead, if nothing else says whether it is: an API
#: process tells nothing while it is asked for no refresh.
FORGET_S = 86400.0


class Statistics:
    """Tells the counters of this process when they have changed.  Safe to use from many threads.

    Parameters
    ----------
    service : METRICD, JANITOR or API
    process : str
        A name that no other process ever has.
    delay_s : float
        Shortest time from one publication to the next.
    """

    def __init__(self, service: str, process: str, delay_s: float) -> None:
        self.counters: Counter[str] = Counter()
        self._service = service
        self._process = process
        self._delay_s = delay_s
        self._published: dict[str, float] = {}
        self._published_at = float("-inf")
        self._lock = threading.Lock()

    def count(self, measures: int, metrics: int, refused: Mapping[str, int], parked: int = 0) -> None:
        """Count what became of measures that were taken from the backlog."""
        with self._lock:
            self.counters["processed measures"] += measures
            self.counters["processed metrics"] += metrics
            self.count_refused(refused)
            if parked:
                self.counters["parked measures"] += parked

    def count_other(self, name: str, number: int) -> None:
        """Add to a counter that has a name of its own."""
        with self._lock:
            self.counters[name] += number

    def count_refused(self, refused: Mapping[str, int]) -> None:
        """Count measures that were not stored, by reason.  `count` does so too."""
        self.counters.update({f"{REFUSED}{reason}": measures for reason, measures in refused.items() if measures})

    def publish(self, indexer: Indexer, more: Mapping[str, float] | None = None) -> None:
        """Tell the counters, and `more` that goes with them, if that is due; refused measures always are.

        Raises BackendUnavailable: the next call tells them.
        """
        with self._lock:
            now = time.monotonic()
            changed = {name for name, value in self.counters.items() if value != self._published.get(name, 0)}
            waited_s = now - self._published_at
            if not (changed and (waited_s >= self._delay_s or any(name.startswith(REFUSED) for name in changed))
                    or self._published and waited_s >= REPEAT_S):
                return
            counters = {**self.counters, **(more or {})}
            indexer.publish_statistics(self._service, self._process, counters)
            self._published, self._published_at = counters, now

    def forget(self, indexer: Indexer) -> None:
        """Leave `/v1/status`, when the process ends.  Raises BackendUnavailable."""
        if self._published:
            indexer.delete_statistics(self._process)


def list_living(indexer: Indexer, processors: Sequence[str] | None) -> list[ProcessStatistics]:
    """Return what the processes of now have told.

    Parameters
    ----------
    processors : names of the processing workers that live, None when that is not known

    Raises BackendUnavailable.
    """
    return [row for row in indexer.list_statistics(FORGET_S)
            if processors is None or row.service != METRICD or row.process in processors]


def sum_refused(rows: Sequence[ProcessStatistics]) -> dict[str, int]:
    """Return how many measures these processes did not store since they were started, by reason."""
    totals: Counter[str] = Counter()
    for row in rows:
        totals.update({name.removeprefix(REFUSED): int(value) for name, value in row.counters.items()
                       if name.startswith(REFUSED)})
    return dict(totals)
