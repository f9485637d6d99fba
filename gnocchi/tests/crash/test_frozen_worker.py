"""Workers that sleep through others' commits, and masters that both believe to own everything."""

import contextlib
import pathlib
import shutil
import threading
from collections.abc import Iterator

import pytest
from oslo_config import cfg

from gnocchi import metric_ids, opts
from gnocchi.backends import Backends
from gnocchi.exceptions import CommitLost
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.metricd import JanitorJob, Job, Processor
from gnocchi.processing import janitor
from gnocchi.processing.aggregate import expunge_sack, process_sack
from gnocchi.processing.merge import merge_sack
from gnocchi.processing.orphans import collect_orphans
from gnocchi.tests.crash.ledger import MINUTE, START, Ledger
from gnocchi.tests.crash.machine import INDEX, METRICS, Granted, Process, hurry, make_disk

DEADLINE_S = 120
MINUTES = 60


@pytest.fixture
def disk(monkeypatch) -> Iterator[pathlib.Path]:
    hurry(monkeypatch)
    with make_disk() as disk:
        shutil.copytree(disk / "template", disk / "data", dirs_exist_ok=True)
        yield disk / "data"


@pytest.fixture
def start_process(disk) -> Iterator:
    """Gives processes of a machine, each with connections of its own."""
    with contextlib.ExitStack() as stack:
        def start() -> Process:
            indexer = stack.enter_context(contextlib.closing(Indexer(f"sqlite:///{disk}/{INDEX}")))
            process = Process(disk, indexer)
            stack.callback(process.die)
            return process

        yield start


class Frozen:
    """A call in a thread of its own, frozen when it has written everything and is about to commit."""

    def __init__(self, process: Process, function, *arguments) -> None:
        self._commit_sacks = process.indexer.commit_sacks
        self._frozen = threading.Event()
        self._released = threading.Event()
        self._outcome: BaseException | None = None
        process.indexer.commit_sacks = self._freeze
        self._thread = threading.Thread(target=self._run, args=(function, *arguments))
        self._thread.start()
        assert self._frozen.wait(DEADLINE_S)

    def _freeze(self, commits) -> set[int]:
        self._frozen.set()
        assert self._released.wait(DEADLINE_S)
        return self._commit_sacks(commits)

    def _run(self, function, *arguments) -> None:
        try:
            function(*arguments)
        except CommitLost as e:
            self._outcome = e

    def resume(self) -> BaseException | None:
        """Return what the call raised."""
        self._released.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        return self._outcome


def post(process: Process, ledger: Ledger, begin: int, end: int, ids=METRICS) -> None:
    """Post a measure for each minute, of a value that no other has."""
    series = {metric: {START + minute * MINUTE: float(1000 * minute + place) for minute in range(begin, end)}
              for place, metric in enumerate(ids)}
    process.post(list(series), [(list(points), list(points.values())) for points in series.values()])
    ledger.add(series)


def describe(process: Process) -> object:
    """Return all that the index says of sack 0, and the objects that there are."""
    return (process.indexer.get_sack_contents(0), set(process.indexer.list_sack_blocks(0)),
            set(process.store.driver.list("")))


def make_history(process: Process, ledger: Ledger) -> None:
    """Leave packs, blocks to merge, a deleted metric, and a backlog."""
    for begin in range(0, 45, 15):
        post(process, ledger, begin, begin + 15)
        process.work()
    process.indexer.delete_metrics([METRICS[4]])
    ledger.ids.remove(METRICS[4])
    post(process, ledger, 45, 60)


def process_backlog(process: Process) -> None:
    process_sack(0, process.incoming, process.indexer, process.store)


def merge(process: Process) -> None:
    merge_sack(0, process.indexer, process.store, None)


def expunge(process: Process) -> None:
    [metric] = process.indexer.list_deleted_metrics(10)
    expunge_sack(0, {metric.policy_id: metric_ids.pack_ids([metric.id])}, process.indexer, process.store)


@pytest.mark.parametrize("action", [process_backlog, merge, expunge])
def test_frozen_before_its_commit(start_process, action):
    """Others work and clean up meanwhile; resumed, it loses and nothing else happens."""
    sleeper, other = start_process(), start_process()
    ledger = Ledger(METRICS)
    make_history(sleeper, ledger)
    frozen = Frozen(sleeper, action, sleeper)
    other.work()
    other.clean_up()
    post(other, ledger, 60, 75)
    other.work()
    other.clean_up()
    before = describe(other)
    ledger.verify(other)
    assert isinstance(frozen.resume(), CommitLost)
    assert before == describe(other)
    ledger.verify(sleeper)
    assert set() == other.list_stray_objects()


@pytest.mark.parametrize("action", [process_backlog, merge, expunge])
def test_frozen_while_only_its_objects_are_collected(start_process, action):
    """Nobody commits anything, but the objects it wrote are gone: so it must not name them."""
    sleeper, other = start_process(), start_process()
    ledger = Ledger(METRICS)
    make_history(sleeper, ledger)
    stored = set(other.store.driver.list(""))
    frozen = Frozen(sleeper, action, sleeper)
    assert stored < set(other.store.driver.list(""))
    assert 0 < collect_orphans(0, other.indexer, other.store, 0, {})
    assert stored == set(other.store.driver.list(""))
    assert isinstance(frozen.resume(), CommitLost)
    sleeper = start_process()
    sleeper.work()
    sleeper.clean_up()
    ledger.verify(sleeper)


def test_frozen_group(start_process):
    """One of its sacks was committed by another one meanwhile: that commit is lost, and the other one happens.

    The objects of sack 1 lie in those of sack 0, not the other way round (test_guests.py).
    """
    sleeper, other = start_process(), start_process()
    ledger = Ledger(METRICS)
    make_history(sleeper, ledger)
    before = [sack.sequence for sack in other.indexer.list_sacks()]
    frozen = Frozen(sleeper, sleeper.process_backlogs)
    post(other, ledger, 60, 75)
    process_sack(1, other.incoming, other.indexer, other.store)
    assert before[0] == other.indexer.get_sack(0).sequence
    assert frozen.resume() is None
    assert before[0] < other.indexer.get_sack(0).sequence
    other.work()
    other.clean_up()
    ledger.verify(other)
    ledger.verify(sleeper)
    assert set() == other.list_stray_objects()


def test_frozen_collector(start_process):
    """A janitor frozen before it moves the sequence on deletes nothing of those who committed meanwhile."""
    sleeper, other = start_process(), start_process()
    ledger = Ledger(METRICS)
    make_history(sleeper, ledger)
    writer = Frozen(other, process_backlog, other)
    frozen = Frozen(sleeper, collect_orphans, 0, sleeper.indexer, sleeper.store, 0, {})
    assert writer.resume() is None
    assert isinstance(frozen.resume(), CommitLost)
    other = start_process()
    other.work()
    ledger.verify(other)


class LyingCoordinator(Granted):
    """Tells everybody that he is alone, and grants him everything."""

    lost = False
    expires_members = True
    locks_max = 64

    def __init__(self, member_id: str) -> None:
        self.member_id = member_id.encode()

    def call(self, method: str, *arguments):
        return [self.member_id] if method == "get_members" else None


class LyingBackends(Backends):
    def _open_coordinator(self):
        return LyingCoordinator(self.member_id)


class Busy(threading.Thread):
    """Runs a job's rounds without a pause until it is told to stop and has done one more."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job
        self.stopping = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            last = False
            while not last:
                last = self.stopping.is_set()
                self.job.run_round()
        except BaseException as e:
            self.failure = e

    def end(self) -> None:
        """Raises what went wrong."""
        self.join(DEADLINE_S)
        assert not self.is_alive()
        if self.failure is not None:
            raise self.failure
        assert 0 == self.job.errors
        self.job._backends.incoming.close()
        self.job._backends.indexer.close()


def make_conf(disk: pathlib.Path) -> cfg.ConfigOpts:
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    for name, value, group in (("url", f"sqlite:///{disk}/{INDEX}", "indexer"), ("file_basepath", str(disk), "storage"),
                               ("file_basepath", str(disk), "incoming"), ("metric_processing_delay", 0.02, "metricd")):
        conf.set_override(name, value, group)
    conf([], project="gnocchi", default_config_files=[])
    return conf


def make_job(kind, number: int, conf: cfg.ConfigOpts) -> Job:
    job = kind(number, conf)
    job._backends = LyingBackends(conf, member_id=f"worker-{number}")
    return job


def test_two_masters(disk, start_process, monkeypatch):
    """Two workers and two janitors, each certain of every lock: the same result as of one."""
    monkeypatch.setattr(janitor, "LEFTOVER_AGE_S", 3600)    # what the others are writing is no leftover
    conf = make_conf(disk)
    poster = start_process()
    ledger = Ledger(METRICS)
    busy = [Busy(make_job(kind, number, conf))
            for number, kind in enumerate((Processor, Processor, JanitorJob, JanitorJob))]
    for thread in busy:
        thread.start()
    try:
        for minute in range(MINUTES):
            if minute == MINUTES // 2:
                poster.indexer.delete_metrics([METRICS[4]])
                ledger.ids.remove(METRICS[4])
            post(poster, ledger, minute, minute + 1, list(ledger.ids))
    finally:
        for thread in busy:
            thread.stopping.set()
    for thread in busy:
        thread.end()
    last = start_process()
    last.work()
    last.clean_up()
    ledger.verify(last)
    assert set() == last.list_stray_objects()
