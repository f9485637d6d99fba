"""The processes of metricd: processing workers, a janitor, a reporter, and the master that minds them.

    master ──fork──> processing worker(0..n)   some sacks at a time: lock, process_sacks, unlock, until nothing is left
                     janitor worker(0)         parked measures, deleted metrics, blocks, garbage
                     reporting worker(0)       one log line on the backlog, another on parked measures

Workers open their back ends themselves, after the fork, and go on trying while one is away.
"""

import contextlib
import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import cotyledon
from cotyledon import oslo_config_glue
from cotyledon.types import ServiceId, WorkerId
from oslo_config import cfg

from gnocchi.backends import HOST_CACHE_BYTES, Backends, read_life_spans
from gnocchi.common import allocators
from gnocchi.exceptions import BackendUnavailable, CommitLost, InvalidConfiguration
from gnocchi.incoming import SackBacklog
from gnocchi.processing.aggregate import Processed, process_sacks
from gnocchi.processing.janitor import Janitor
from gnocchi.processing.locks import lock_name, sack_name
from gnocchi.processing.members import Membership
from gnocchi.processing.schedule import Schedule
from gnocchi.processing.statistics import JANITOR, METRICD, REFUSED, Statistics

LOG = logging.getLogger(__name__)

#: Seconds between two looks for new measures with `greedy`.
GREEDY_DELAY_S = 0.5

#: Shortest pause between two rounds in seconds, whatever is configured.
DELAY_MIN_S = 0.05

#: A worker that is woken pauses before, for so many times as long as its last round took: what comes in meanwhile is
#: taken together, and the same heads are not written again and again.
REST = 4

#: Pause after a failed round in seconds: doubled from the first to the last, by which work goes on later than it could.
RETRY_S = 0.5
RETRY_MAX_S = 10.0

#: Sacks that are processed together: what they share costs each of them little then, and no lock is held for long.
SACKS_PER_COMMIT = 64

#: Measures of sacks that are processed together: more gain nothing from it and take memory, a million 100 MB.
MEASURES_PER_COMMIT = 100_000

#: Seconds from one line about measures that were not stored to the next.
REFUSED_LOG_S = 60.0

#: When the janitor's first round begins, as shares of the delay between two: those of several hosts that were started
#: together go apart.
JANITOR_FIRST_DELAYS = (0.1, 0.3)

#: Memory of the janitor for what it reads, which it seldom reads twice.
JANITOR_CACHE_BYTES = 16 << 20


class Job(cotyledon.Service):
    """A process that runs a round, waits, and so on until it is told to stop."""

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts, cache_bytes: int = JANITOR_CACHE_BYTES) -> None:
        super().__init__(WorkerId(worker_id))
        self._conf = conf
        self._stop = threading.Event()
        #: Held while something is under way that a stop has to wait for.
        self._working = threading.Lock()
        self._backends = Backends(conf, cache_bytes, f"{socket.gethostname()}.{worker_id}.{uuid.uuid4()}")
        self.errors = 0

    def run_round(self) -> None:
        """Do what is due.  Raises BackendUnavailable: the next round tries again."""
        raise NotImplementedError

    @property
    def delay_s(self) -> float:
        """Seconds from the start of one round to the start of the next."""
        raise NotImplementedError

    @property
    def first_delay_s(self) -> float:
        """Seconds from the start of the process to that of the first round."""
        return 0.0

    def run(self) -> None:
        retry_s = RETRY_S
        self._stop.wait(self.first_delay_s)
        while not self._stop.is_set():
            started = time.monotonic()
            pause = max(DELAY_MIN_S, self.delay_s)
            wait: Callable[[float], object] = self._stop.wait
            try:
                self.run_round()
                retry_s = RETRY_S
                wait = self.rest
            except BackendUnavailable as e:
                LOG.warning("%s; the %s worker tries again in %.1f seconds", e, self.name, retry_s)
                pause, retry_s = retry_s, min(2 * retry_s, RETRY_MAX_S)
                started = time.monotonic()
            except Exception:
                self.errors += 1
                LOG.exception("Unexpected error during %s job", self.name)
                pause = max(pause, RETRY_S)
            wait(max(0.0, started + pause - time.monotonic()))

    def rest(self, pause_s: float) -> None:
        """Wait for the next round."""
        self._stop.wait(pause_s)

    def stop(self) -> None:
        """Begin no new work."""
        self._stop.set()

    def terminate(self) -> None:
        self.stop()
        # Not for the end of the round, which may be waiting for a back end: only for work.  Never
        # released, so that none begins any more.
        self._working.acquire()
        self.leave()

    def leave(self) -> None:
        """Give up what others may be waiting for, just before the process ends."""


class Processor(Job):
    """Aggregates the measures of its sacks.

    Parameters
    ----------
    metrics_max : int
        Stop after that many metrics; 0: never.
    """

    name = "processing"

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts, cache_bytes: int = HOST_CACHE_BYTES,
                 metrics_max: int = 0) -> None:
        super().__init__(worker_id, conf, cache_bytes)
        self._metrics_max = metrics_max
        self._membership: Membership | None = None
        self._schedule: Schedule | None = None
        self._position: object = object()
        self._drained = False
        self._committed = False
        #: Whether there was work since memory was given back.  Amid work the same memory is needed again at once.
        self._trim_due = False
        self._next_scan = self._next_roll_call = self._next_look = 0.0
        #: Sacks that ended the last pause, and how long the next one is to be at least.
        self._woken: set[int] = set()
        self._rest_s = 0.0
        self._statistics = Statistics(METRICD, self._backends.member_id, conf.metricd.metric_processing_delay)
        self.counters = self._statistics.counters
        #: Measures not stored, by reason, since the last line about it.
        self._refused: Counter[str] = Counter()
        self._next_refused_log = 0.0
        self._busy_s = 0.0

    @property
    def delay_s(self) -> float:
        delay = self._conf.metricd.metric_processing_delay
        return min(GREEDY_DELAY_S, delay) if self._conf.metricd.greedy else delay

    def run_round(self) -> None:
        """Process what is new, or everything when a full scan is due.

        While nothing is posted and the last scan found nothing waiting, a round costs one look at the
        incoming driver's position, and no SQL.  A driver that cannot tell its position is scanned when it is due.
        """
        now = time.monotonic()
        self._rest_s = 0.0
        if self._woken and now < self._next_look:
            self._process_woken(now)
            return
        self._next_look = now + max(DELAY_MIN_S, self.delay_s)
        self._report_refused(now)
        self._statistics.publish(self._backends.indexer, {"processing time": round(self._busy_s, 3)})
        position = self._backends.incoming.get_position()
        due = now >= self._next_scan
        idle = not due if position is None else position == self._position and (self._drained or not due)
        if idle:
            if self._trim_due:
                allocators.trim()
                self._trim_due = False
            return
        checkpoints = {sack.number: sack.checkpoint for sack in self._backends.indexer.list_sacks()}
        if self._committed and due:
            self._backends.incoming.acknowledge(checkpoints)
            self._committed = False
        backlogs = self._backends.incoming.list_backlogs(checkpoints)
        self._drained = not backlogs
        if backlogs or self._schedule is None:
            schedule = self._call_roll(len(checkpoints))
            self._process_all(schedule.order(backlogs, time.time_ns()), backlogs, len(checkpoints))
        # As it was before the backlog was listed: what came in between is seen by the next round.  And so is what was
        # left because a back end is away.
        self._position = position
        if due:
            self._next_scan = now + self._conf.metricd.metric_processing_delay
        self._rest_s = REST * (time.monotonic() - now)

    def _process_all(self, waiting: Sequence[int], backlogs: Mapping[int, SackBacklog], sacks: int) -> None:
        while waiting and not self._stop.is_set():
            group = _choose_group(waiting, backlogs, min(SACKS_PER_COMMIT, self._backends.coordinator.locks_max))
            # What is left of a long backlog comes after everybody else's turn, and meanwhile its lock is free.
            waiting = [*waiting[len(group):], *self._process(group, sacks)]

    def _process_woken(self, now: float) -> None:
        """Process what came into own sacks, and look at no others."""
        assert self._schedule is not None, "BUG: woken without own sacks"
        busy_s = self._busy_s
        schedule = self._call_roll(self._schedule.sacks)
        self._process_all(sorted(self._woken), dict.fromkeys(self._woken, SackBacklog(1, 1, 0)), schedule.sacks)
        # Whoever holds their locks needs some time, too.
        self._rest_s = REST * (time.monotonic() - now) if self._busy_s > busy_s else GREEDY_DELAY_S

    def rest(self, pause_s: float) -> None:
        """Wait for the next look, or until something comes into own sacks, if the driver can tell."""
        self._woken = set()
        own = self._schedule.own if self._schedule is not None and self._conf.metricd.greedy else []
        if not own or not self._backends.incoming.wakes:
            super().rest(pause_s)
            return
        self._stop.wait(min(max(DELAY_MIN_S, self._rest_s), GREEDY_DELAY_S, self._until_look()))
        try:
            while not self._woken and self._until_look() and not self._stop.is_set():
                self._woken = self._backends.incoming.wait(own, self._until_look())
        except BackendUnavailable:      # as the next look will tell
            self._stop.wait(self._until_look())

    def _until_look(self) -> float:
        return max(0.0, self._next_look - time.monotonic())

    def _report_refused(self, now: float) -> None:
        """Tell of measures that were not stored, once a minute at most."""
        if now >= self._next_refused_log and self._refused.total():
            LOG.info("Measures not stored: %s", ", ".join(
                f"{measures} {reason}" for reason, measures in sorted(self._refused.items()) if measures))
            self._refused.clear()
            self._next_refused_log = now + REFUSED_LOG_S

    def _call_roll(self, sacks: int) -> Schedule:
        """Return the schedule, brought up to date with who works, once per processing delay."""
        coordinator = self._backends.coordinator
        if coordinator.lost:
            raise BackendUnavailable("Coordination service is away: no sacks are taken")
        if self._schedule is None or self._membership is None:
            self._membership = Membership(coordinator)
            self._schedule = Schedule(coordinator.member_id, sacks, self._conf.metricd.processing_replicas,
                                      self._conf.metricd.metric_processing_delay)
        now = time.monotonic()
        if now >= self._next_roll_call:
            members = self._membership.join()
            if members is None and not self._next_roll_call:
                LOG.info("Coordinator does not support partitioning. "
                         "Worker will battle against other workers for jobs.")
            self._schedule.set_members(members)
            self._next_roll_call = now + self._conf.metricd.metric_processing_delay
        return self._schedule

    def _process(self, numbers: Sequence[int], sacks: int) -> list[int]:
        """Process a slice of each of some sacks, unless somebody else is at them; return those that have more."""
        coordinator = self._backends.coordinator
        with contextlib.ExitStack() as locks:
            held = [number for number in numbers
                    if locks.enter_context(coordinator.try_lock(lock_name(sack_name(number, sacks))))]
            with self._working:
                if not held or self._stop.is_set() or coordinator.lost:
                    return []
                return self._process_slices(held)

    def _process_slices(self, numbers: Sequence[int]) -> list[int]:
        """Process a part of bounded size; return the sacks that have more."""
        started = time.monotonic()
        self._trim_due = True
        backends = self._backends
        try:
            outcomes = process_sacks(numbers, backends.incoming, backends.indexer, backends.store,
                                     note=backends.activity.note)
        except BackendUnavailable:
            raise
        except Exception:
            if len(numbers) > 1:
                # One of them has a fault that no other shall suffer from.
                return [unfinished for number in numbers for unfinished in self._process_slices([number])]
            self.errors += 1
            self.counters["errors"] += 1
            LOG.exception("Error processing new measures of sack %d", numbers[0])
            return []
        self._busy_s += time.monotonic() - started
        for number, done in outcomes.items():
            if isinstance(done, CommitLost):
                LOG.warning("%s; its backlog is read again", done)
                continue
            self._count(number, done)
        if 0 < self._metrics_max <= self.counters["processed metrics"]:
            self.stop()
        return [number for number, done in outcomes.items() if isinstance(done, Processed) and not done.complete]

    def _count(self, number: int, done: Processed) -> None:
        self._committed = True
        self.counters["processed measures"] += done.measures
        self.counters["processed metrics"] += done.metrics
        self._refused.update(done.refused)
        for reason, measures in done.refused.items():
            if measures:
                self.counters[f"{REFUSED}{reason}"] += measures
        if done.parked:
            self.counters["parked measures"] += done.parked
        LOG.debug("Sack %d: %d measures of %d metrics", number, done.measures, done.metrics)

    def terminate(self) -> None:
        LOG.info("Waiting ongoing metric processing to finish")
        super().terminate()

    def leave(self) -> None:
        _forget(self._statistics, self._backends)
        if self._membership is None or self._backends.coordinator.lost:
            return
        # No more than that: the session ends with the process, and stopping it in order takes tooz a second.
        try:
            self._membership.leave()
        except BackendUnavailable as e:
            LOG.warning("%s", e)


def _choose_group(numbers: Sequence[int], backlogs: Mapping[int, SackBacklog], sacks_max: int) -> list[int]:
    """Return the first sacks that are worth a commit together; those behind are left for other workers."""
    group: list[int] = []
    measures = 0
    for number in numbers:
        measures += backlogs[number].measures
        if group and (len(group) == sacks_max or measures > MEASURES_PER_COMMIT):
            break
        group.append(number)
    return group


class JanitorJob(Job):
    name = "janitor"
    _janitor: Janitor | None = None

    def __init__(self, worker_id: int, conf: cfg.ConfigOpts, cache_bytes: int = JANITOR_CACHE_BYTES) -> None:
        super().__init__(worker_id, conf, cache_bytes)
        self._statistics = Statistics(JANITOR, self._backends.member_id, conf.metricd.metric_processing_delay)

    @property
    def first_delay_s(self) -> float:
        # Nothing of its work is urgent, and workers have a backlog to catch up with after a start.
        return random.uniform(*JANITOR_FIRST_DELAYS) * self.delay_s

    @property
    def delay_s(self) -> float:
        return self._conf.metricd.metric_cleanup_delay

    def run_round(self) -> None:
        if self._janitor is None:
            backends = self._backends
            self._janitor = Janitor(backends.incoming, backends.indexer, backends.store, backends.coordinator,
                                    self._conf.metricd.cleanup_batch_size, self._stop.is_set, self._statistics,
                                    read_life_spans(self._conf), self.delay_s)
        with self._working:
            done = self._janitor.clean_up()
        self.errors += done.errors
        if any(done):
            LOG.info("Expunged %d metrics, merged %d blocks and deleted %d objects; %d errors", *done)
        self._statistics.publish(self._backends.indexer)

    def leave(self) -> None:
        _forget(self._statistics, self._backends)


def _forget(statistics: Statistics, backends: Backends) -> None:
    try:
        statistics.forget(backends.indexer)
    except BackendUnavailable as e:
        LOG.warning("%s", e)


class Reporter(Job):
    name = "reporting"

    @property
    def delay_s(self) -> float:
        return self._conf.metricd.metric_reporting_delay

    def run_round(self) -> None:
        try:
            checkpoints = {sack.number: sack.checkpoint for sack in self._backends.indexer.list_sacks()}
            report = self._backends.incoming.report_backlog(checkpoints, details=False)
            parked = self._backends.indexer.list_parked()
        except BackendUnavailable as e:
            raise BackendUnavailable(f"Unable to compute backlog. Retrying at next interval. {e}") from e
        LOG.info("%d measurements bundles across %d metrics wait to be processed.", report.bundles, report.metrics)
        if parked:
            LOG.warning("%d measures are parked, because %d packs cannot be read or processed (gnocchi-repair list).",
                        sum(row.measures for row in parked), len({row.pack_id for row in parked}))


class Master(cotyledon.ServiceManager):
    """Forks the processes and forks anew those that die.

    Parameters
    ----------
    check : callable
        Called before the configuration files are read again; raises cfg.Error or InvalidConfiguration if these are
        wrong.
    on_reload : callable
        Called after the configuration files were read again.
    """

    def __init__(self, conf: cfg.ConfigOpts, check: Callable[[], object], on_reload: Callable[[], None]) -> None:
        super().__init__()
        self._check = check
        oslo_config_glue.setup(self, conf)
        self._conf = conf
        workers = get_workers(conf)
        self._processors = self.add(Processor, workers, args=(conf, HOST_CACHE_BYTES // workers))
        if conf.metricd.metric_reporting_delay >= 0:
            self.add(Reporter, args=(conf,))
        self.add(JanitorJob, args=(conf,))
        self.register_hooks(on_reload=on_reload)
        self.register_hooks(on_reload=self._set_worker_count, on_dead_worker=self._tell_of_death)

    def _reload(self) -> None:
        try:
            self._check()
        except (cfg.Error, InvalidConfiguration) as e:
            # New workers could not start, for as long as the files are wrong; the present ones can work.
            LOG.error("Nothing is changed, because the configuration is wrong: %s", e)
            return
        super()._reload()

    def _tell_of_death(self, service_id: ServiceId, worker_id: WorkerId, status: int) -> None:
        """Log what only the kernel knows otherwise, such as that there was no memory left."""
        if status:      # 0: was told to end
            how = f"was killed by {_name_signal(-status)}" if status < 0 else f"ended with status {status}"
            LOG.error("The %s worker(%d) %s: starting another", self._services[service_id].service.name, worker_id, how)

    def _set_worker_count(self) -> None:
        # The files have been read again by now; children end and come back with them.
        self.reconfigure(self._processors, get_workers(self._conf))

    def _start_worker(self, service_id: ServiceId, worker_id: WorkerId) -> None:
        # cotyledon would start anew, for ever, the workers that it stops when there are to be fewer.
        if worker_id < self._services[service_id].workers:
            super()._start_worker(service_id, worker_id)

    def run(self) -> None:
        # What exists now is shared by all children until somebody writes to it; the collector would.
        allocators.collect_seldom()
        super().run()


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:      # most real-time signals have no name
        return f"signal {number}"


def get_workers(conf: cfg.ConfigOpts) -> int:
    return conf.metricd.workers or len(os.sched_getaffinity(0))
