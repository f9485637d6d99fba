"""`refresh=true`: pending measures are aggregated within the request that wants to see them."""

import time
from collections.abc import Callable, Iterable

from gnocchi.exceptions import CommitLost, SackLocked
from gnocchi.incoming import IncomingDriver
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.aggregate import Note, Processed, process_sack
from gnocchi.processing.locks import Coordinator, lock_name, sack_name
from gnocchi.storage.store import Store


def refresh_sacks(numbers: Iterable[int], incoming: IncomingDriver, indexer: Indexer, store: Store,
                  get_coordinator: Callable[[], Coordinator], timeout_s: float,
                  count: Callable[[Processed], None] = lambda done: None, note: Note | None = None) -> None:
    """Return once everything that waited in these sacks when this was called is aggregated.

    Parameters
    ----------
    numbers : iterable of int
        The sacks of the metrics asked for.
    get_coordinator : callable returning Coordinator
        Called only when there is something to do: nothing pending means no lock.
    timeout_s : float
        For all sacks together.
    count : callable
        Told what each commit did, also when time runs out later.
    note : callable, optional
        As of `process_sacks`.

    Raises
    ------
    SackLocked
        Time ran out, for a lock or for the work itself; what was done stays done.
    BackendUnavailable
    """
    deadline = time.monotonic() + timeout_s
    numbers = sorted(set(numbers))
    checkpoints = {number: indexer.get_sack(number).checkpoint for number in numbers}
    pending = incoming.list_backlogs(checkpoints)
    for number in numbers:
        if number in pending:
            _refresh_sack(number, incoming, indexer, store, get_coordinator(), deadline, count, note)


def _refresh_sack(number: int, incoming: IncomingDriver, indexer: Indexer, store: Store, coordinator: Coordinator,
                  deadline: float, count: Callable[[Processed], None], note: Note | None) -> None:
    name = sack_name(number, indexer.count_sacks())
    with coordinator.wait_lock(lock_name(name), deadline, name):
        # A slice that was complete when it was read holds everything posted before; what arrives
        # while it is being worked on is not waited for.
        while True:
            try:
                done = process_sack(number, incoming, indexer, store, note=note)
                count(done)
                if done.complete:
                    return
            except CommitLost:
                # Somebody whose lock had expired committed first.  The rest is read anew.
                pass
            if time.monotonic() >= deadline:
                raise SackLocked(name)
