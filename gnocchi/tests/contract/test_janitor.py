"""The janitor's round: what goes wrong with one sack keeps nobody from the others."""

import logging
import uuid

import pytest

from gnocchi.exceptions import BackendUnavailable, CommitLost
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.processing import janitor as janitor_module
from gnocchi.processing.janitor import Janitor
from gnocchi.processing.locks import Coordinator
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.merge import FAN_IN
from gnocchi.storage.sections import make_key, make_prefix
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, make_policy

SACKS = 2
SACK_BITS = 1
MINUTE = 60 * 10**9
START = 1_700_000_040 * 10**9
POLICY = make_policy("cleaned", [(60, 10_000)], ("sum",))
#: One metric in each sack.
METRICS = [uuid.UUID(int=SACKS + number) for number in range(SACKS)]


@pytest.fixture(params=["sqlite"])
def database(request):
    return request.param


@pytest.fixture
def engine(indexer):
    indexer.create_sacks(SACKS)
    made = Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=0), SACKS)
    made.create_metrics(POLICY, ids=METRICS)
    return made


@pytest.fixture
def coordinator(tmp_path):
    coordinator = Coordinator(f"file://{tmp_path / 'coordination'}", "test")
    coordinator.start()
    yield coordinator
    coordinator.stop()


@pytest.fixture
def janitor(engine, coordinator, monkeypatch):
    monkeypatch.setattr(janitor_module, "ORPHAN_GRACE_S", 0)
    monkeypatch.setattr(janitor_module, "ROUNDS_PER_SEARCH", 1)
    return Janitor(engine.incoming, engine.indexer, engine.store, coordinator, 100, lambda: False)


def make_work(engine):
    """Give each sack blocks to merge, an object that nothing refers to, and a metric that is to be expunged."""
    doomed = engine.create_metrics(POLICY, ids=[uuid.UUID(int=100 * SACKS + number) for number in range(SACKS)])
    for minute in range(10):
        for ids in (METRICS, doomed):
            engine.post(ids, [([START + MINUTE * minute], [1.0])] * SACKS)
        engine.process()
    engine.indexer.delete_metrics(doomed)
    for number in range(SACKS):
        engine.store.driver.put(make_key(SACK_BITS, number, "base", 1), b"of a commit that failed")


def fail_in(monkeypatch, name, sack, error):
    """Have a step of the janitor raise an error when it works on that sack."""
    step = getattr(janitor_module, name)

    def failing(number, *arguments):
        if number == sack:
            raise error
        return step(number, *arguments)

    monkeypatch.setattr(janitor_module, name, failing)


def list_left(engine, sack):
    """Return which kinds of work there are to do in a sack."""
    stored = list(engine.store.driver.list(make_prefix(SACK_BITS, sack)))
    left = {"expunge_sack": [m for m in engine.indexer.list_deleted_metrics(10) if m.id.int % SACKS == sack],
            "merge_sack": engine.indexer.list_sack_blocks(sack)[FAN_IN - 1:],
            "collect_orphans": set(stored) - engine.indexer.list_known_objects(stored)}
    return {kind for kind, work in left.items() if work}


@pytest.mark.parametrize("sack", range(SACKS))
@pytest.mark.parametrize("name", ["expunge_sack", "merge_sack", "collect_orphans"])
def test_error_in_one_sack(engine, janitor, monkeypatch, caplog, name, sack):
    """It is logged with a traceback and counted; the rest of the round is done, and the sack's work in the next."""
    make_work(engine)
    assert all(3 == len(list_left(engine, number)) for number in range(SACKS))
    with monkeypatch.context() as patch:
        fail_in(patch, name, sack, ZeroDivisionError("a mistake of ours"))
        done = janitor.clean_up()
    assert {number: {name} if number == sack else set() for number in range(SACKS)} == {
        number: list_left(engine, number) for number in range(SACKS)}
    assert 1 == done.errors == janitor.counters["errors"]
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert f"sack {sack}" in record.message
    assert "ZeroDivisionError: a mistake of ours" in caplog.text
    assert 0 == janitor.clean_up().errors
    assert set() == list_left(engine, sack)
    for metric in METRICS:
        assert [1.0] * 10 == [value for _, value in engine.read(metric, "sum")[60.0]]


def test_a_start_costs_little(engine, janitor, monkeypatch):
    """The first round does what the index tells to do, and takes no other lock; the second one searches."""
    monkeypatch.setattr(janitor_module, "ROUNDS_PER_SEARCH", 16)
    make_work(engine)
    taken = []
    acquire = janitor._coordinator.acquire
    monkeypatch.setattr(janitor._coordinator, "acquire", lambda name: taken.append(name) or acquire(name))
    janitor.clean_up()
    assert [{"collect_orphans"}] * SACKS == [list_left(engine, number) for number in range(SACKS)]
    janitor._round, janitor._merged = 0, {}
    taken.clear()
    janitor.clean_up()
    assert [] == taken
    janitor.clean_up()
    assert [set()] * SACKS == [list_left(engine, number) for number in range(SACKS)]


def test_error_in_telling_idle_sacks(engine, janitor, monkeypatch):
    """It costs a look at each of them, and no work is left undone."""
    monkeypatch.setattr(janitor_module, "ROUNDS_PER_SEARCH", 16)
    make_work(engine)

    def fail(*_):
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr(janitor_module, "list_idle_sacks", fail)
    assert 0 == janitor.clean_up().errors
    assert [{"collect_orphans"}] * SACKS == [list_left(engine, number) for number in range(SACKS)]


def test_lost_commit_is_no_error(engine, janitor, monkeypatch):
    """Somebody else was faster: that is what the sequence is for."""
    make_work(engine)
    fail_in(monkeypatch, "merge_sack", 0, CommitLost(0, 7))
    assert 0 == janitor.clean_up().errors
    assert [{"merge_sack"}, set()] == [list_left(engine, number) for number in range(SACKS)]


def test_orphans_of_another_number_of_sacks(engine, janitor):
    """They are found by the very next search."""
    key = make_key(SACK_BITS + 1, 3, "block", 1)
    engine.store.driver.put(key, b"of a commit that failed")
    engine.indexer.change_sacks(2 * SACKS)
    engine.indexer.change_sacks(SACKS)
    assert 1 == janitor.clean_up().objects
    assert [] == list(engine.store.driver.list(""))


def test_unwell_back_end_ends_the_round(engine, janitor, monkeypatch):
    """The next round tries again, and says why; other sacks would only wait for it too."""
    make_work(engine)
    fail_in(monkeypatch, "merge_sack", 0, BackendUnavailable("storage: away"))
    with pytest.raises(BackendUnavailable):
        janitor.clean_up()
