"""Random measures for random metrics: load to see how an installation bears it."""

import logging
import threading
import time
import uuid
from collections.abc import Iterator

import numpy

from gnocchi import metric_ids
from gnocchi.backends import Backends
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition
from gnocchi.processing.aggregate import Processed
from gnocchi.processing.locks import Coordinator
from gnocchi.processing.refresh import refresh_sacks

LOG = logging.getLogger(__name__)

#: As the API shows it.
CREATOR = "admin"

#: Metrics made by one call, and measures written by one: what a large request brings.
METRICS_PER_CALL = 5_000
MEASURES_PER_CALL = 100_000

#: How often it is told how far it is, in seconds.
PROGRESS_S = 5.0

#: How long one sack after the other may take to be aggregated, in seconds.
PROCESS_S_MAX = 3600.0

_SECOND = numpy.timedelta64(10**9, "ns")


class Progress:
    """Tells now and then, and at the end, how much of something is done and how fast that was."""

    def __init__(self, verb: str, noun: str, total: int | None) -> None:
        self._verb = verb
        self._noun = noun
        self._total = total
        self._done = 0
        self._began = self._told = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._told >= PROGRESS_S:
            self._told = now
            of = f" of {self._total:,}" if self._total is not None else ""
            LOG.info("%s %s%s %s, %s per second", self._verb, f"{self._done:,}", of, self._noun, self._rate(now))

    def end(self) -> None:
        now = time.monotonic()
        LOG.info("%s %s %s in %.1f seconds: %s per second", self._verb, f"{self._done:,}", self._noun,
                 now - self._began, self._rate(now))

    def _rate(self, now: float) -> str:
        return f"{self._done / max(now - self._began, 1e-6):,.0f}"


class Injector:
    """Makes metrics and writes measures to them.

    Parameters
    ----------
    backends : Backends
    metrics, measures : int
        Number of metrics, and of measures for each of them in a round.
    """

    def __init__(self, backends: Backends, metrics: int, measures: int) -> None:
        self._backends = backends
        self._metrics = metrics
        self._measures = measures
        self._ids: list[uuid.UUID] = []
        self._random = numpy.random.default_rng()
        self._last = numpy.datetime64(time.time_ns(), "ns") - measures * _SECOND
        self._stopped = threading.Event()
        self._coordinated = False

    def create_metrics(self, archive_policy_name: str) -> None:
        """Raises NoSuchArchivePolicy, BackendUnavailable."""
        progress = Progress("Created", "metrics", self._metrics)
        while len(self._ids) < self._metrics and not self._stopped.is_set():
            definitions = [MetricDefinition(uuid.uuid4(), archive_policy_name)
                           for _ in range(min(METRICS_PER_CALL, self._metrics - len(self._ids)))]
            self._ids += [metric.id for metric in self._backends.indexer.create_metrics(definitions, CREATOR)]
            progress.add(len(definitions))
        progress.end()

    def write_measures(self) -> None:
        """Write a round: measures at even distances since the last one; at first, one per second.

        Raises BackendUnavailable.
        """
        now = numpy.datetime64(time.time_ns(), "ns")
        steps = (numpy.arange(1, self._measures + 1) * ((now - self._last) / self._measures).astype("m8[ns]"))
        timestamps = self._last + steps
        self._last = now
        progress = Progress("Wrote", "measures", len(self._ids) * self._measures)
        for batch in self._make_batches(timestamps):
            if self._stopped.is_set():
                break
            self._backends.incoming.write_measures(batch)
            progress.add(len(batch.values))
        progress.end()

    def _make_batches(self, timestamps: numpy.ndarray) -> Iterator[MeasureBatch]:
        per_call = max(1, MEASURES_PER_CALL // self._measures)
        for start in range(0, len(self._ids), per_call):
            ids = self._ids[start:start + per_call]
            yield MeasureBatch(metric_ids.pack_ids(ids), numpy.full(len(ids), self._measures, numpy.int64),
                               numpy.tile(timestamps, len(ids)), self._random.random(len(ids) * self._measures))

    def process(self) -> None:
        """Aggregate what waits, as metricd does.  Raises BackendUnavailable."""
        backends = self._backends
        progress = Progress("Processed", "measures", None)

        def count(done: Processed) -> None:
            progress.add(done.measures)

        def get_coordinator() -> Coordinator:
            self._coordinated = True
            return backends.coordinator

        for number in range(backends.indexer.count_sacks()):
            if self._stopped.is_set():
                break
            refresh_sacks([number], backends.incoming, backends.indexer, backends.store, get_coordinator,
                          PROCESS_S_MAX, count)
        progress.end()

    def close(self) -> None:
        """Leave coordination.  Raises BackendUnavailable."""
        if self._coordinated:
            self._backends.coordinator.stop()

    def stop(self) -> None:
        """End soon.  May be called by a signal handler."""
        self._stopped.set()

    def wait(self, delay_s: float) -> bool:
        """Wait that long, or until it is stopped; return whether it is to go on."""
        return not self._stopped.wait(delay_s)
