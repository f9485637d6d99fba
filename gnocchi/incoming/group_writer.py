"""Writes the requests of one process as groups: those that come while one is being written go into the next."""

import os
import secrets
import threading
import time
from collections import deque

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming.batch import MeasureBatch, concat_batches
from gnocchi.incoming.group import GroupKey, encode_group, format_key
from gnocchi.incoming.keyed_store import KeyedStore

#: Measures and metrics of requests that are written together.  A slice is taken whole, so this bounds readers too.
MEASURES_PER_GROUP = 250_000
METRICS_PER_GROUP = 50_000


class _Request:
    """A batch on its way.  done : bool, it is known what became of it;  failure : str, why it is not stored"""

    def __init__(self, batch: MeasureBatch) -> None:
        self.batch = batch
        self.done = False
        self.failure: str | None = None


class GroupWriter:
    """One group at a time; safe to use from many threads, and in the child of a fork.

    The thread that finds nobody writing writes for all that wait.
    """

    def __init__(self, store: KeyedStore, sacks: int) -> None:
        self._store = store
        self._sacks = sacks
        self._changed = threading.Condition()
        self._waiting: deque[_Request] = deque()
        self._writing = False
        self._pid = 0
        self._writer = ""
        self._stamp = 0
        #: Stamps of the last groups that are stored for sure: of all, and by sack of those with a slice for it.
        self._previous = 0
        self._previous_of: dict[int, int] = {}

    def write(self, batch: MeasureBatch) -> None:
        """Return once a request is stored.  Raises BackendUnavailable: it may not be."""
        request = _Request(batch)
        with self._changed:
            self._waiting.append(request)
        while self._lead(request):
            self._write_group(self._take())
        if request.failure is not None:
            raise BackendUnavailable(request.failure)

    def _lead(self, request: _Request) -> bool:
        """Wait; return True when the caller is to write the next group, False when its own request is done with."""
        with self._changed:
            while self._writing and not request.done:
                self._changed.wait()
            if request.done:
                return False
            self._writing = True
            return True

    def _take(self) -> list[_Request]:
        """Return the requests of the next group: one at least, those that came first."""
        group: list[_Request] = []
        measures = metrics = 0
        with self._changed:
            while self._waiting:
                batch = self._waiting[0].batch
                measures += len(batch.values)
                metrics += len(batch.metric_ids)
                if group and (measures > MEASURES_PER_GROUP or metrics > METRICS_PER_GROUP):
                    break
                group.append(self._waiting.popleft())
        return group

    def _write_group(self, group: list[_Request]) -> None:
        failure: str | None = "BUG: the group was not written"
        try:
            self._put(concat_batches([request.batch for request in group]))
            failure = None
        except BackendUnavailable as e:
            failure = str(e)
        finally:
            with self._changed:
                for request in group:
                    request.done, request.failure = True, failure
                self._writing = False
                self._changed.notify_all()

    def _put(self, batch: MeasureBatch) -> None:
        if self._pid != os.getpid():
            # Two processes that write under one name would hide each other's groups.
            self._pid, self._writer = os.getpid(), secrets.token_hex(8)
            self._previous, self._previous_of = 0, {}
        self._stamp = max(time.time_ns(), self._stamp + 1)
        key = GroupKey(self._stamp, self._writer)
        encoded = encode_group(batch, key, self._sacks, self._previous, self._previous_of)
        self._store.put(format_key(key), encoded.data)
        self._previous = self._stamp
        self._previous_of.update(dict.fromkeys(encoded.numbers, self._stamp))
