"""Incoming measures in the memory of one process: for tests and experiments; they are gone with the process."""

import threading
import time
import uuid
from collections.abc import Mapping
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.incoming import Backlog, BacklogReport, Checkpoint, IncomingDriver, SackBacklog
from gnocchi.incoming.batch import MeasureBatch, concat_batches, split_by_sack


class _Bundle(NamedTuple):
    """One request's share in a sack."""

    stamp: int
    batch: MeasureBatch


class MemoryDriver(IncomingDriver):
    """One list per sack.  The checkpoint of a sack is `{"instance": text, "taken": bundles taken so far}`."""

    def __init__(self, sacks: int):
        self._sacks = sacks
        #: Checkpoints of another instance name measures that are gone.
        self._instance = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._stamp = 0
        self._lanes: list[list[_Bundle]] = [[] for _ in range(sacks)]
        #: How many shares each lane has lost at its head.
        self._freed = [0] * sacks

    def upgrade(self) -> None:
        return None

    def write_measures(self, batch: MeasureBatch) -> None:
        shares = [(sack, MeasureBatch(*(array.copy() for array in share)))
                  for sack, share in split_by_sack(batch, self._sacks)]
        with self._lock:
            self._stamp = max(time.time_ns(), self._stamp + 1)
            for sack, share in shares:
                self._lanes[sack].append(_Bundle(self._stamp, share))

    def read_backlog(self, sack: int, checkpoint: Checkpoint, measures_max: int) -> Backlog | None:
        with self._lock:
            taken, waiting = self._waiting(sack, checkpoint)
        if not waiting:
            return None
        ends = numpy.cumsum([len(bundle.batch.values) for bundle in waiting])
        fitting = max(1, int(numpy.searchsorted(ends, measures_max, side="right")))
        batch = concat_batches([bundle.batch for bundle in waiting[:fitting]])
        following = {"instance": self._instance, "taken": taken + fitting}
        return Backlog(batch, len(batch.metric_ids), following, fitting == len(waiting))

    def list_backlogs(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, SackBacklog]:
        backlogs = {}
        with self._lock:
            for sack, checkpoint in checkpoints.items():
                _taken, waiting = self._waiting(sack, checkpoint)
                if waiting:
                    backlogs[sack] = SackBacklog(sum(len(bundle.batch.metric_ids) for bundle in waiting),
                                                 sum(len(bundle.batch.values) for bundle in waiting),
                                                 waiting[0].stamp)
        return backlogs

    def report_backlog(self, checkpoints: Mapping[int, Checkpoint], details: bool) -> BacklogReport:
        with self._lock:
            batches = [bundle.batch for sack, checkpoint in checkpoints.items()
                       for bundle in self._waiting(sack, checkpoint)[1]]
        ids, bundles = numpy.unique(concat_batches(batches).metric_ids, return_counts=True)
        by_metric = None
        if details:
            by_metric = {str(i): n for i, n in zip(metric_ids.unpack_ids(ids), bundles.tolist(), strict=True)}
        return BacklogReport(len(ids), int(bundles.sum()), by_metric)

    def acknowledge(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        with self._lock:
            for sack, checkpoint in checkpoints.items():
                taken, waiting = self._waiting(sack, checkpoint)
                self._lanes[sack], self._freed[sack] = waiting, taken

    def get_position(self) -> int:
        with self._lock:
            return self._stamp

    def _waiting(self, sack: int, checkpoint: Checkpoint) -> tuple[int, list[_Bundle]]:
        """Return how many shares of the sack were taken so far, and those that were not."""
        taken = checkpoint["taken"] if checkpoint.get("instance") == self._instance else 0
        taken = max(taken, self._freed[sack])
        return taken, self._lanes[sack][taken - self._freed[sack]:]
