"""The rounds of a processing worker: which sacks it takes together, and what one of them can do to the others."""

import threading
import time
import types
import uuid

import pytest

from gnocchi import metricd
from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import SackBacklog
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.incoming.redis import RedisDriver
from gnocchi.processing.aggregate import process_sacks
from gnocchi.processing.life_cycle import NEVER, Activity
from gnocchi.processing.locks import Coordinator, lock_name, sack_name
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.engine import Engine, make_policy

SACKS = 4
START = 1_700_000_040 * 10**9
MINUTE = 60 * 10**9
METRICS = [uuid.UUID(int=SACKS + number) for number in range(SACKS)]


@pytest.fixture(params=["sqlite"])
def database(request):
    """The sacks' commits are tested on each database; this is about workers."""
    return request.param


@pytest.fixture
def engine(indexer):
    indexer.create_sacks(SACKS)
    engine = Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=1 << 20), SACKS)
    engine.create_metrics(make_policy("minutes", [(60, 100)], ("sum",), back_window=1), ids=METRICS)
    return engine


@pytest.fixture
def coordinator(tmp_path):
    coordinator = Coordinator(f"file://{tmp_path / 'coordination'}", "test")
    coordinator.start()
    yield coordinator
    coordinator.stop()


@pytest.fixture
def worker(engine, coordinator):
    worker = metricd.Processor(0, types.SimpleNamespace(metricd=types.SimpleNamespace(
        metric_processing_delay=0.0, greedy=False, processing_replicas=3)))
    worker._backends = types.SimpleNamespace(
        incoming=engine.incoming, indexer=engine.indexer, store=engine.store, coordinator=coordinator,
        activity=Activity(NEVER))
    yield worker
    worker.leave()


def post(engine, minutes=1, ids=METRICS):
    for minute in range(minutes):
        engine.post(ids, [([START + MINUTE * minute], [1.0])] * len(ids))


def list_waiting(engine):
    """Return the sacks that have a backlog."""
    return sorted(engine.incoming.list_backlogs({s.number: s.checkpoint for s in engine.indexer.list_sacks()}))


def note_groups(monkeypatch, act=lambda numbers: None, **arguments):
    """Return a list that will hold the sacks of each call of `process_sacks`; `act` comes before it."""
    groups = []

    def process(numbers, *backends, note):
        groups.append(sorted(numbers))
        act(numbers)
        return process_sacks(numbers, *backends, note=note, **arguments)

    monkeypatch.setattr(metricd, "process_sacks", process)
    return groups


def test_sacks_are_taken_together(engine, worker, monkeypatch):
    """All that wait in one go, up to a number of sacks and of measures."""
    groups = note_groups(monkeypatch)
    post(engine)
    worker.run_round()
    assert [[0, 1, 2, 3]] == groups
    monkeypatch.setattr(metricd, "SACKS_PER_COMMIT", 3)
    post(engine)
    worker.run_round()
    assert [3, 1] == [len(group) for group in groups[1:]]
    monkeypatch.setattr(metricd, "MEASURES_PER_COMMIT", 10)
    post(engine, 6)
    worker.run_round()
    assert [1, 1, 1, 1] == [len(group) for group in groups[3:]]
    assert [] == list_waiting(engine)


def test_locks_that_are_dear(engine, worker, coordinator, monkeypatch):
    """No more sacks are taken together than locks may be held: some services open a connection for each."""
    groups = note_groups(monkeypatch)
    monkeypatch.setattr(coordinator, "locks_max", 2)
    post(engine)
    worker.run_round()
    assert [2, 2] == [len(group) for group in groups]
    assert 4 == Coordinator("postgresql://user@localhost/gnocchi", "other").locks_max


@pytest.mark.parametrize(("measures", "groups"), [
    ([1, 1, 1], [0, 1, 2]), ([10**9, 1], [0]), ([1, 10**9], [0]), ([75_000, 25_000, 1], [0, 1])])
def test_choose_group(measures, groups):
    """The first sack is always taken, others as long as all fit in a commit."""
    backlogs = {number: SackBacklog(1, count, 0) for number, count in enumerate(measures)}
    assert groups == metricd._choose_group(list(backlogs), backlogs, 64)


def test_long_backlogs_take_turns(engine, worker, monkeypatch):
    """A sack with more than fits comes again after the others, until nothing is left."""
    monkeypatch.setattr(metricd, "SACKS_PER_COMMIT", 2)
    groups = note_groups(monkeypatch, measures_max=4)
    post(engine, 6, METRICS[:1])
    post(engine, 1, METRICS[1:])
    worker.run_round()
    assert [] == list_waiting(engine)
    first = next(place for place, group in enumerate(groups) if 0 in group)
    assert any(0 in group for group in groups[first + 1:])
    assert 9 == worker.counters["processed measures"]


def test_fault_of_one_sack(engine, worker, monkeypatch):
    """The others of its group are processed all the same; its own backlog stays, and the error is counted."""
    def fail(numbers):
        if 2 in numbers:
            raise ZeroDivisionError("a mistake of ours")

    groups = note_groups(monkeypatch, fail)
    post(engine)
    worker.run_round()
    assert [[0, 1, 2, 3], [0], [1], [2], [3]] == [groups[0], *sorted(groups[1:])]
    assert [2] == list_waiting(engine)
    assert 1 == worker.errors == worker.counters["errors"]


def test_locked_sacks_are_left_out(engine, worker, coordinator, monkeypatch):
    """Somebody else is at them."""
    groups = note_groups(monkeypatch)
    post(engine)
    with coordinator.try_lock(lock_name(sack_name(1, SACKS))):
        worker.run_round()
    assert [[0, 2, 3]] == groups
    assert [1] == list_waiting(engine)


def test_locks_are_given_back(engine, worker, coordinator, monkeypatch):
    """After a round, and after one that a back end ended."""
    def fail(numbers):
        raise BackendUnavailable("index: away")

    with monkeypatch.context() as patch:
        note_groups(patch, fail)
        post(engine)
        with pytest.raises(BackendUnavailable):
            worker.run_round()
    acquired = [coordinator.acquire(lock_name(sack_name(number, SACKS))) for number in range(SACKS)]
    assert None not in acquired
    for lock in acquired:
        coordinator.release(lock)
    worker.run_round()
    assert [] == list_waiting(engine)
    for metric in METRICS:
        assert [(START, 1.0)] == engine.read(metric, "sum")[60.0]


def test_memory_is_given_back_when_idle(engine, worker, monkeypatch):
    """Once after work, and not amid it, where it is needed again at once."""
    trims = []
    monkeypatch.setattr(metricd.allocators, "trim", lambda: trims.append(list_waiting(engine)))
    post(engine)
    worker.run_round()
    post(engine)
    worker.run_round()
    assert [] == trims
    for _ in range(4):
        worker.run_round()
    assert [[]] == trims


def test_driver_that_cannot_tell_its_position(engine, worker, monkeypatch):
    """Its backlog is looked at when a scan is due, also after one that found nothing, and not before."""
    monkeypatch.setattr(engine.incoming, "get_position", lambda: None)
    post(engine)
    worker.run_round()
    worker.run_round()
    assert [] == list_waiting(engine)
    post(engine)
    worker._next_scan = time.monotonic() + 3600
    worker.run_round()
    assert [0, 1, 2, 3] == list_waiting(engine)
    worker._next_scan = 0.0
    worker.run_round()
    assert [] == list_waiting(engine)


@pytest.mark.parametrize("tells", [True, False])
def test_back_end_that_was_away(engine, worker, monkeypatch, tells):
    """What was left is taken in the next round, although nothing new has come in and the next full look is far."""
    def fail(numbers):
        raise BackendUnavailable("storage: away")

    worker.run_round()
    worker._conf.metricd.metric_processing_delay = 3600.0
    if tells:
        worker._next_scan = time.monotonic() + 3600
    else:
        monkeypatch.setattr(engine.incoming, "get_position", lambda: None)
    post(engine)
    with monkeypatch.context() as patch:
        note_groups(patch, fail)
        with pytest.raises(BackendUnavailable):
            worker.run_round()
    worker.run_round()
    assert [] == list_waiting(engine)


@pytest.fixture
def woken_by(engine, worker, monkeypatch):
    """Return a list of what the incoming driver will wake the worker with, one set after the other."""
    answers = []

    def wait(sacks, timeout_s):
        assert 0 < timeout_s <= metricd.GREEDY_DELAY_S
        assert [0, 1, 2, 3] == sorted(sacks)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    worker._conf.metricd.greedy = True
    worker._conf.metricd.metric_processing_delay = 3600.0
    monkeypatch.setattr(engine.incoming, "wakes", True, raising=False)
    monkeypatch.setattr(engine.incoming, "wait", wait)
    worker.run_round()
    worker._next_look = time.monotonic() + metricd.GREEDY_DELAY_S
    return answers


def test_worker_is_woken(engine, worker, woken_by, monkeypatch):
    """It takes the sacks that something came into, and looks at no others."""
    groups = note_groups(monkeypatch)
    post(engine)
    monkeypatch.setattr(metricd, "GREEDY_DELAY_S", 3600.0)
    worker._next_look = time.monotonic() + 3600
    with monkeypatch.context() as patch:
        patch.setattr(engine.incoming, "list_backlogs", None)
        patch.setattr(engine.indexer, "list_sacks", None)
        for sacks in ({1, 3}, {2}):
            woken_by.append(sacks)
            worker.rest(3600)
            worker.run_round()
    assert [[1, 3], [2]] == groups
    assert [0] == list_waiting(engine)


def test_woken_worker_rests(engine, worker, woken_by, coordinator, monkeypatch):
    """Longer after a long round, and after one in which somebody else had the locks; shortly otherwise."""
    pauses = []
    monkeypatch.setattr(worker._stop, "wait", lambda seconds: pauses.append(seconds))
    worker._next_look = time.monotonic() + 3600

    def rest():
        woken_by.append({1})
        worker.rest(0.5)
        return pauses.pop()

    worker._rest_s = 0.0
    monkeypatch.setattr(metricd, "GREEDY_DELAY_S", 3600.0)
    assert metricd.DELAY_MIN_S == rest()
    post(engine)
    note_groups(monkeypatch, lambda numbers: time.sleep(0.05))
    worker.run_round()
    assert rest() >= 0.05 * metricd.REST
    with coordinator.try_lock(lock_name(sack_name(1, SACKS))):
        worker.run_round()
    woken_by.append({1})
    worker.rest(0.5)
    assert 3500 < pauses.pop() <= metricd.GREEDY_DELAY_S


def test_driver_that_fails_to_wake(engine, worker, woken_by, monkeypatch):
    """The next look comes when it would have come, and finds out."""
    pauses = []
    monkeypatch.setattr(worker._stop, "wait", lambda seconds: pauses.append(seconds))
    woken_by.append(BackendUnavailable("redis: away"))
    worker.rest(0.5)
    assert 2 == len(pauses)
    assert set() == worker._woken
    worker._next_look = 0.0
    worker._conf.metricd.metric_processing_delay = 0.0
    post(engine)
    worker.run_round()
    assert [] == list_waiting(engine)


def test_worker_is_woken_by_redis(engine, worker, empty_redis, monkeypatch):
    """What is posted while it waits is aggregated, although the next look is an hour away."""
    monkeypatch.setattr(metricd, "GREEDY_DELAY_S", 3600.0)
    worker._conf.metricd.greedy = True
    worker._conf.metricd.metric_processing_delay = 3600.0
    engine.incoming = worker._backends.incoming = RedisDriver(empty_redis, SACKS)
    runner = threading.Thread(target=worker.run)
    runner.start()
    try:
        for minutes in range(1, 4):
            post(engine, minutes)
            deadline = time.monotonic() + DEADLINE_S
            while list_waiting(engine):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for metric in METRICS:
                assert minutes == len(engine.read(metric, "sum")[60.0])
    finally:
        worker.stop()
        post(engine)    # which ends its waiting
        runner.join(DEADLINE_S)
    assert not runner.is_alive()
