"""A pack that cannot be read or processed stalls nobody, and gets every measure once it can be."""

import datetime
import uuid

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnocchi.exceptions import BackendUnavailable, CommitLost, CorruptedData, UnknownFormat
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.processing import parking, plan, replay
from gnocchi.processing.aggregate import METRIC_GONE, process_sack
from gnocchi.processing.janitor import Janitor
from gnocchi.processing.locks import Coordinator
from gnocchi.processing.merge import merge_sack
from gnocchi.processing.parking import Unprocessable
from gnocchi.processing.refresh import refresh_sacks
from gnocchi.processing.replay import is_due, replay_pack
from gnocchi.rest.errors import as_request_error
from gnocchi.storage import head
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, make_policy
from gnocchi.tests.unit.carbonara.model import Model

SACKS = 2
MINUTE = 60 * 10**9
START = 1_700_000_040 * 10**9
#: Its window takes every measure of these tests, so that results do not depend on how posts are cut into slices.
WIDE = make_policy("wide", [(60, 1000)], ("sum", "count"), back_window=1000)
OTHER = make_policy("other", [(60, 1000)], ("sum",))
#: Seals minutes after an hour.
SEALING = make_policy("sealing", [(60, 10000), (3600, None)], ("sum", "count"))


class DamagedDriver(MemoryDriver):
    """The bytes at the places (key, offset) in `damaged` are returned with one bit changed."""

    def __init__(self):
        super().__init__()
        self.damaged = set()
        self.away = False

    def get(self, key, start=0, stop=None):
        if self.away:
            raise BackendUnavailable("storage: away")
        data = bytearray(super().get(key, start, stop))
        for damaged, place in self.damaged:
            if damaged == key and start <= place < start + len(data):
                data[place - start] ^= 1
        return bytes(data)


def make_engine(indexer):
    return Engine(indexer, MemoryIncoming(SACKS), Store(DamagedDriver(), 0), SACKS)


@pytest.fixture
def engine(tmp_path, make_index):
    engine = make_engine(make_index(tmp_path / "index.db", SACKS))
    yield engine
    engine.indexer.close()


@pytest.fixture
def coordinator(tmp_path):
    coordinator = Coordinator(f"file://{tmp_path / 'coordination'}", "test")
    coordinator.start()
    yield coordinator
    coordinator.stop()


@pytest.fixture
def janitor(engine, coordinator):
    return Janitor(engine.incoming, engine.indexer, engine.store, coordinator, 100, lambda: False)


def ids_in_sack_0(count, first=1):
    return [uuid.UUID(int=SACKS * n) for n in range(first, first + count)]


def post(engine, metric_id, *points):
    """Post (minute, value) pairs."""
    engine.post([metric_id], [([START + MINUTE * minute for minute, _ in points], [value for _, value in points])])


def read(engine, metric_id, method="sum"):
    return [((t - START) // MINUTE, v) for t, v in engine.read(metric_id, method)[60.0]]


def damage(engine, section):
    engine.store.driver.damaged.add((section.key, section.offset + section.length - 1))


def damage_head(engine, policy):
    """Damage what the packs of a policy have as base; returns the keys."""
    bases = {pack.base for number in range(engine.sacks) for pack in engine.indexer.list_packs(number)
            if pack.policy_id == engine.indexer.get_archive_policy(policy.name).id}
    for base in bases:
        damage(engine, base)
    return {base.key for base in bases}


def replay_all(engine, measures_max=1_000_000):
    """Take everything that is parked; returns how many measures."""
    taken = 0
    while parked := engine.indexer.list_parked():
        taken += replay_pack(parked[0].sack, parked[0].pack_id, engine.indexer, engine.store, measures_max).measures
    return taken


@pytest.fixture
def damaged(engine):
    """Two metrics in packs of one sack, the head of the first damaged, each with one measure."""
    [bad] = engine.create_metrics(WIDE, ids=ids_in_sack_0(1))
    [good] = engine.create_metrics(OTHER, ids=ids_in_sack_0(1, first=2))
    for metric_id in (bad, good):
        post(engine, metric_id, (0, 1.0))
        engine.process()
    [object_key] = damage_head(engine, WIDE)
    return bad, good, object_key


def test_damaged_pack_stalls_nobody(engine, damaged):
    """Its neighbour in the sack goes on, the backlog is gone, the reader is told the name, and nothing is lost."""
    bad, good, object_key = damaged
    for minute in (1, 2):
        for metric_id in (bad, good):
            post(engine, metric_id, (minute, float(minute)))
        engine.process()
    assert {} == engine.incoming.list_backlogs({s.number: s.checkpoint for s in engine.indexer.list_sacks()})
    assert [(0, 1.0), (1, 1.0), (2, 2.0)] == read(engine, good)
    with pytest.raises(CorruptedData, match=object_key):
        read(engine, bad)
    [parked] = engine.indexer.list_parked()
    assert 2 == parked.measures
    assert object_key in parked.reason
    with pytest.raises(Unprocessable, match=object_key):
        replay_pack(0, parked.pack_id, engine.indexer, engine.store)
    engine.store.driver.damaged.clear()
    assert [(0, 1.0)] == read(engine, bad)
    post(engine, bad, (3, 3.0))
    engine.process()
    assert 3 == replay_all(engine)
    assert [(0, 1.0), (1, 1.0), (2, 2.0), (3, 3.0)] == read(engine, bad)


def test_later_posted_wins(engine, damaged):
    """Also when the head was sound again before the last one was posted: it waits behind those parked."""
    bad, _, _ = damaged
    for value in (10.0, 20.0):
        post(engine, bad, (0, value), (1, value))
        engine.process()
    engine.store.driver.damaged.clear()
    post(engine, bad, (1, 30.0))
    engine.process()
    assert [(0, 1.0)] == read(engine, bad)
    assert 5 == replay_all(engine, measures_max=1)
    assert [(0, 20.0), (1, 30.0)] == read(engine, bad)
    post(engine, bad, (0, 40.0))
    engine.process()
    assert [(0, 40.0), (1, 30.0)] == read(engine, bad)


ROUNDS = st.lists(st.tuples(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.integers(0, 99)), max_size=6),
    st.sampled_from(["sound", "damaged", "replay"])), min_size=1, max_size=10)


@given(ROUNDS, st.sampled_from([1, 3, 1000]), st.sampled_from([0, 256 << 10]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replays_as_the_model_says(tmp_path_factory, make_index, rounds, measures_max, section_bytes):
    """Whatever the order of damage, posts, and partial replays: in the end the same as without any damage."""
    engine = make_engine(make_index(tmp_path_factory.mktemp("parking") / "index.db", SACKS))
    size, parking.SECTION_BYTES_MAX = parking.SECTION_BYTES_MAX, section_bytes
    try:
        ids = engine.create_metrics(WIDE, ids=ids_in_sack_0(3))
        model = Model(WIDE.window_policy, 3)
        for events, state in rounds:
            series = [([START + MINUTE * t for m, t, _ in events if m == row],
                       [float(v) for m, _, v in events if m == row]) for row in range(3)]
            engine.store.driver.damaged.clear()
            if state == "damaged":
                damage_head(engine, WIDE)
            elif state == "replay" and (parked := engine.indexer.list_parked()):
                replay_pack(0, parked[0].pack_id, engine.indexer, engine.store, measures_max)
            engine.post(ids, series)
            engine.process()
            model.process_points(*[(numpy.array(t, "i8").view("M8[ns]"), v) for t, v in series])
        engine.store.driver.damaged.clear()
        replay_all(engine, measures_max)
        for row, metric_id in enumerate(ids):
            stamps, values = model.read(WIDE.definition[0].granularity, "sum", row)
            got = engine.read(metric_id, "sum")[60.0]
            assert list(zip(stamps.view("i8").tolist(), values.tolist(), strict=True)) == got
    finally:
        parking.SECTION_BYTES_MAX = size
        engine.indexer.close()


def test_refresh_of_a_damaged_pack(engine, damaged, coordinator):
    """It ends, and the read that follows says what is wrong; neighbours are refreshed."""
    bad, good, object_key = damaged
    for metric_id in (bad, good):
        post(engine, metric_id, (1, 1.0))
        refresh_sacks([0], engine.incoming, engine.indexer, engine.store, lambda: coordinator, 10)
    assert [(0, 1.0), (1, 1.0)] == read(engine, good)
    with pytest.raises(CorruptedData, match=object_key) as e:
        read(engine, bad)
    assert 500 == as_request_error(e.value).status


def test_missing_object_parks(engine, damaged):
    """An object that the index names and storage lacks is damage, too."""
    bad, good, object_key = damaged
    data = MemoryDriver.get(engine.store.driver, object_key)
    engine.store.driver.delete_many([object_key])
    post(engine, bad, (1, 1.0))
    engine.process()
    [parked] = engine.indexer.list_parked()
    assert object_key in parked.reason
    engine.store.driver.damaged.clear()
    engine.store.driver.put(object_key, data)
    replay_all(engine)
    assert [(0, 1.0), (1, 1.0)] == read(engine, bad)


def test_back_end_away_parks_nothing(engine, damaged):
    """The sack waits: storage that is away says nothing about any pack."""
    bad, good, _ = damaged
    engine.store.driver.damaged.clear()
    post(engine, bad, (1, 1.0))
    before = engine.indexer.get_sack(0)
    engine.store.driver.away = True
    with pytest.raises(BackendUnavailable):
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    assert ([], before) == (engine.indexer.list_parked(), engine.indexer.get_sack(0))


def test_head_of_a_later_release_parks_nothing(engine, damaged, monkeypatch):
    """The sack waits for a release that reads it."""
    bad, _, _ = damaged
    engine.store.driver.damaged.clear()
    before = engine.indexer.get_sack(0)
    post(engine, bad, (1, 1.0))
    with monkeypatch.context() as patch:
        patch.setattr(head, "VERSION", 0)
        with pytest.raises(UnknownFormat, match="a head of format 1.0"):
            process_sack(0, engine.incoming, engine.indexer, engine.store)
    assert ([], before) == (engine.indexer.list_parked(), engine.indexer.get_sack(0))
    process_sack(0, engine.incoming, engine.indexer, engine.store)
    assert [(0, 1.0), (1, 1.0)] == read(engine, bad)


def fail_for(monkeypatch, policy, error):
    """Let the numeric part fail for the packs of one policy, until the function returned is called."""
    advance = plan.advance

    def fail(state, posted, window_policy):
        if window_policy.methods == policy.window_policy.methods:
            raise error
        return advance(state, posted, window_policy)

    monkeypatch.setattr(plan, "advance", fail)
    return lambda: monkeypatch.setattr(plan, "advance", advance)


def test_unexpected_exception_parks(engine, monkeypatch):
    """A mistake that only one pack brings out, and be it the pack's first measure, is the pack's alone."""
    [bad] = engine.create_metrics(WIDE, ids=ids_in_sack_0(1))
    [good] = engine.create_metrics(OTHER, ids=ids_in_sack_0(1, first=2))
    recover = fail_for(monkeypatch, WIDE, ZeroDivisionError("no \0 such thing"))
    for minute in (0, 1):
        for metric_id in (bad, good):
            post(engine, metric_id, (minute, 1.0))
        engine.process()
    assert [] == read(engine, bad)
    assert [(0, 1.0), (1, 1.0)] == read(engine, good)
    [parked] = engine.indexer.list_parked()
    assert ("ZeroDivisionError: no ? such thing", 2) == (parked.reason, parked.measures)
    with pytest.raises(Unprocessable, match="ZeroDivisionError"):
        replay_pack(0, parked.pack_id, engine.indexer, engine.store)
    recover()
    replay_all(engine)
    assert [(0, 1.0), (1, 1.0)] == read(engine, bad)
    assert 2 == len(engine.indexer.list_packs(0))


def test_content_that_cannot_be_encoded_parks(engine, monkeypatch):
    """So is a mistake of an encoder."""
    bad, good = engine.create_metrics(WIDE, ids=ids_in_sack_0(1)) + engine.create_metrics(
        OTHER, ids=ids_in_sack_0(1, first=2))
    encode = plan.encode_plan

    def fail(planned):
        if planned.pack.policy_id == WIDE.id:
            raise AssertionError("BUG: no rows")
        return encode(planned)

    monkeypatch.setattr(plan, "encode_plan", fail)
    for metric_id in (bad, good):
        post(engine, metric_id, (0, 1.0))
    engine.process()
    assert [(0, 1.0)] == read(engine, good)
    assert 1 == len(engine.indexer.list_parked())


def test_out_of_memory_parks_nothing(engine, monkeypatch):
    """A machine short of memory says nothing about the pack."""
    [metric_id] = engine.create_metrics(WIDE, ids=ids_in_sack_0(1))
    fail_for(monkeypatch, WIDE, MemoryError())
    post(engine, metric_id, (0, 1.0))
    with pytest.raises(MemoryError):
        engine.process()
    assert [] == engine.indexer.list_parked()


def test_many_commits_few_objects(engine, damaged, monkeypatch):
    """Small sections of parked measures are written together, up to a size."""
    bad, _, _ = damaged
    monkeypatch.setattr(parking, "SECTION_BYTES_MAX", 200)
    for minute in range(1, 41):
        post(engine, bad, (minute, float(minute)))
        engine.process()
    parked = engine.indexer.list_parked()
    assert 40 == sum(row.measures for row in parked)
    assert len(parked) <= 14
    engine.store.driver.delete_many(engine.indexer.list_collectable_garbage(-1, 1000))
    engine.store.driver.damaged.clear()
    replay_all(engine)
    assert [(0, 1.0), *((minute, float(minute)) for minute in range(1, 41))] == read(engine, bad)
    assert set() == {row.id for row in engine.indexer.list_parked()}


def test_lost_commit_parks_nothing(engine, damaged):
    """Of two workers that both park, one loses; each measure is parked once."""
    bad, _, _ = damaged
    post(engine, bad, (1, 1.0))
    commit = engine.indexer.commit_sacks

    def overtaken(mine):
        engine.indexer.commit_sacks = commit
        process_sack(0, engine.incoming, engine.indexer, engine.store)
        return commit(mine)

    engine.indexer.commit_sacks = overtaken
    with pytest.raises(CommitLost):
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    [parked] = engine.indexer.list_parked()
    assert 1 == parked.measures


def test_more_and_fewer_sacks(engine):
    """Parked measures follow their pack when the number of sacks changes, each metric's once."""
    ids = engine.create_metrics(WIDE, ids=[uuid.UUID(int=n) for n in range(1, 17)])
    for metric_id in ids:
        post(engine, metric_id, (0, 1.0))
    engine.process()
    damage_head(engine, WIDE)
    for metric_id in ids:
        post(engine, metric_id, (1, 2.0))
    engine.process()
    for sacks, value in ((8, 3.0), (2, 4.0)):
        engine.indexer.change_sacks(sacks)
        engine.sacks, engine.incoming = sacks, MemoryIncoming(sacks)
        for metric_id in ids:
            post(engine, metric_id, (int(value) - 1, value), (0, value))
        engine.process()
    engine.store.driver.damaged.clear()
    replay_all(engine)
    for metric_id in ids:
        assert [(0, 4.0), (1, 2.0), (2, 3.0), (3, 4.0)] == read(engine, metric_id)
        assert [(n, 1.0) for n in range(4)] == read(engine, metric_id, "count")


def test_replay_splits_the_pack(engine, monkeypatch):
    """When the first of several slices splits the pack, the rest goes to the halves."""
    monkeypatch.setattr("gnocchi.storage.packs.METRICS_MAX", 512)
    ids = engine.create_metrics(WIDE, ids=ids_in_sack_0(600))
    recover = fail_for(monkeypatch, WIDE, ValueError("not today"))
    monkeypatch.setattr(parking, "SECTION_BYTES_MAX", 0)
    for minute in range(3):
        engine.post(ids, [([START + MINUTE * minute, START], [1.0, float(minute)])] * 600)
        engine.process()
    assert 3 == len(engine.indexer.list_parked())
    recover()
    replay_all(engine, measures_max=1)
    assert 2 == len(engine.indexer.list_packs(0))
    for metric_id in (ids[0], ids[1], ids[599]):
        assert [(0, 2.0), (1, 1.0), (2, 1.0)] == read(engine, metric_id)


def test_deleted_metric_with_parked_measures(engine, damaged, janitor):
    """Its measures are dropped and counted when the pack is usable again; until then nothing of it is forgotten."""
    bad, good, _ = damaged
    [second] = engine.create_metrics(WIDE, ids=ids_in_sack_0(1, first=9))
    for metric_id in (bad, second):
        post(engine, metric_id, (1, 2.0))
    engine.process()
    engine.indexer.delete_metrics([bad, good])
    janitor.clean_up()
    assert [bad] == [metric.id for metric in engine.indexer.list_deleted_metrics(10)]
    engine.store.driver.damaged.clear()
    [parked] = engine.indexer.list_parked()
    result = replay_pack(0, parked.pack_id, engine.indexer, engine.store)
    assert (2, 1, True) == (result.measures, result.refused[METRIC_GONE], result.complete)
    janitor.clean_up()
    assert [] == engine.indexer.list_deleted_metrics(10)
    assert [(1, 2.0)] == read(engine, second)


def test_pack_whose_metrics_all_went(engine, monkeypatch, janitor):
    """A pack that never got a head is forgotten with its parked measures."""
    [metric_id] = engine.create_metrics(WIDE, ids=ids_in_sack_0(1))
    recover = fail_for(monkeypatch, WIDE, ValueError("not today"))
    post(engine, metric_id, (0, 1.0))
    engine.process()
    recover()
    engine.indexer.delete_metrics([metric_id])
    assert 1 == replay_all(engine)
    assert [] == engine.indexer.list_packs(0)
    janitor.clean_up()
    assert [] == engine.indexer.list_deleted_metrics(10)


def test_damaged_parked_measures_stay(engine, damaged):
    """They are named, nothing overtakes them, and once they can be read again they are taken."""
    bad, _, _ = damaged
    post(engine, bad, (1, 1.0))
    engine.process()
    [parked] = engine.indexer.list_parked()
    engine.store.driver.damaged.clear()
    damage(engine, parked.section)
    with pytest.raises(Unprocessable, match=parked.section.key):
        replay_pack(0, parked.pack_id, engine.indexer, engine.store)
    post(engine, bad, (1, 2.0))
    engine.process()
    assert 2 == len(engine.indexer.list_parked())
    engine.store.driver.damaged.clear()
    replay_all(engine)
    assert [(0, 1.0), (1, 2.0)] == read(engine, bad)


def test_janitor_tries_again(engine, damaged, janitor, caplog):
    """At growing distances, which are counted, and at once after the first damage."""
    bad, _, object_key = damaged
    post(engine, bad, (1, 2.0))
    engine.process()
    janitor.clean_up()
    [parked] = engine.indexer.list_parked()
    assert 1 == parked.attempts
    assert object_key in caplog.text
    janitor.clean_up()
    assert [1] == [row.attempts for row in engine.indexer.list_parked()]    # not due yet
    post(engine, bad, (2, 2.0))
    engine.process()
    [parked] = engine.indexer.list_parked()
    assert 1 == parked.attempts
    engine.store.driver.damaged.clear()
    with engine.indexer.writing() as connection:
        connection.exec_driver_sql("UPDATE parked SET attempts = 0")
    janitor.clean_up()
    assert [(0, 1.0), (1, 2.0), (2, 2.0)] == read(engine, bad)
    assert [] == engine.indexer.list_parked()


@pytest.mark.parametrize(("attempts", "waited_s"), [(0, 0), (1, 60), (2, 180), (3, 420), (7, 7380), (8, 10980)])
def test_pauses(engine, damaged, attempts, waited_s):
    """They double up to an hour."""
    bad, _, _ = damaged
    post(engine, bad, (1, 2.0))
    engine.process()
    [parked] = engine.indexer.list_parked()
    for _ in range(attempts):
        engine.indexer.count_parked_attempt(parked.pack_id)
    [parked] = engine.indexer.list_parked()
    due = parked.parked_at + datetime.timedelta(seconds=waited_s)
    assert is_due(parked, due)
    assert not is_due(parked, due - datetime.timedelta(seconds=1))
    assert 3600 == replay.PAUSE_S_MAX


def seal_blocks(engine, count, ids):
    """Seal an hour of minutes per commit."""
    for hour in range(count + 1):
        minutes = numpy.arange(hour * 60, hour * 60 + 60)
        engine.post(ids, [(START + MINUTE * minutes, minutes.astype(float))] * len(ids))
        engine.process()


def test_damaged_block_is_left_alone(engine, caplog):
    """Other blocks of the sack are merged, the damage is told once, and only what needs the block is an error."""
    ids = engine.create_metrics(SEALING, ids=ids_in_sack_0(2))
    [bad, other] = ids[0], ids[1]
    seal_blocks(engine, 10, ids)
    blocks = sorted((b for b in engine.indexer.list_sack_blocks(0) if b.granularity == MINUTE), key=lambda b: b.first)
    before = {method: engine.read(other, method) for method in ("sum", "count")}
    bad_key = blocks[3].section.key
    damage(engine, blocks[3].section)
    damaged = set()
    while merge_sack(0, engine.indexer, engine.store, None, damaged).removed:
        pass
    assert 1 == sum(bad_key in record.getMessage() for record in caplog.records if record.levelname == "ERROR")
    assert {blocks[3].id} == damaged
    left = [b for b in engine.indexer.list_sack_blocks(0) if b.granularity == MINUTE]
    assert blocks[3] in left
    assert len(left) < 8
    with pytest.raises(CorruptedData, match=bad_key):
        engine.read(bad, "sum")
    hours = engine.read(bad, "sum", granularities=(numpy.timedelta64(3600, "s"),))
    assert before["sum"][3600.0] == hours[3600.0]
    late = numpy.datetime64(START + MINUTE * 400, "ns")
    minutes = engine.read(bad, "sum", granularities=(numpy.timedelta64(60, "s"),), start=late)[60.0]
    assert [(t, v) for t, v in before["sum"][60.0] if t >= START + MINUTE * 400] == minutes
    engine.store.driver.damaged.clear()
    while merge_sack(0, engine.indexer, engine.store, None).removed:
        pass
    assert before == {method: engine.read(other, method) for method in ("sum", "count")}


def test_damaged_head_is_not_merged(engine, caplog):
    """Its blocks stay as they are, those of other packs are merged."""
    [bad] = engine.create_metrics(SEALING, ids=ids_in_sack_0(1))
    twin = make_policy("twin", [(60, 10000), (3600, None)], ("sum", "count"))
    [good] = engine.create_metrics(twin, ids=ids_in_sack_0(1, first=2))
    seal_blocks(engine, 9, [bad, good])
    before = engine.read(good, "sum")
    damage_head(engine, SEALING)
    count = len(engine.indexer.list_sack_blocks(0))
    merged = merge_sack(0, engine.indexer, engine.store, None)
    assert (16, 2) == merged
    assert count - 14 == len(engine.indexer.list_sack_blocks(0))
    assert before == engine.read(good, "sum")
    assert 1 == sum("head of pack" in record.getMessage() for record in caplog.records)
