"""The engine end to end: what is posted is read back as the model says, whatever happens in between."""

import json
import pathlib
import random
import uuid
from collections import Counter

import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnocchi import metric_ids
from gnocchi.catalogue import SackCommit
from gnocchi.exceptions import (
    AggregationDoesNotExist,
    BackendUnavailable,
    CommitLost,
    CorruptedData,
    GranularityDoesNotExist,
    NoSuchMetric,
)
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.incoming.redis import RedisDriver as RedisIncoming
from gnocchi.processing import aggregate
from gnocchi.processing.aggregate import process_sack, process_sacks
from gnocchi.storage import packs
from gnocchi.storage.drivers.file import FileDriver
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.drivers.redis import RedisDriver
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, key, make_policy
from gnocchi.tests.unit.carbonara.model import Model
from gnocchi.tests.unit.carbonara.test_golden import EXAMPLES, parse_span, parse_timestamp

GOLDEN_TOLERANCE = 1e-12
SACKS = 4
START = 1_700_000_040 * 10**9  # a whole minute
MINUTE = 60 * 10**9
METHODS = ("mean", "sum", "min", "max", "count", "std")


@pytest.fixture
def indexer(tmp_path, make_index):
    indexer = make_index(tmp_path / "index.db", SACKS)
    yield indexer
    indexer.close()


@pytest.fixture(params=["memory", "file", "redis", "ceph"])
def engine(request, tmp_path, indexer):
    incoming = MemoryIncoming(SACKS)
    if request.param == "redis":
        url = request.getfixturevalue("empty_redis")
        incoming, driver = RedisIncoming(url, SACKS), RedisDriver(url)
    elif request.param == "ceph":
        arguments = request.getfixturevalue("empty_ceph")
        from gnocchi.incoming.ceph import CephDriver as CephIncoming
        from gnocchi.storage.drivers.ceph import CephDriver
        incoming, driver = CephIncoming(sacks=SACKS, **arguments), CephDriver(**arguments)
    else:
        driver = MemoryDriver() if request.param == "memory" else FileDriver(str(tmp_path / "data"))
    driver.upgrade()
    yield Engine(indexer, incoming, Store(driver, cache_bytes=1 << 20), SACKS)
    incoming.close()
    driver.close()


def fresh_store(engine):
    """Return a store without anything cached, as another process has it."""
    return Store(engine.store.driver, cache_bytes=0)


HOURS = make_policy("hours", [(60, 10080), (3600, 8760)], METHODS)


def test_aggregates_of_many_metrics(engine):
    """Hundreds of metrics over several packs and commits, one of which splits each pack."""
    ids = engine.create_metrics(HOURS, 1500)
    rng = numpy.random.default_rng(3)
    model = Model(HOURS.window_policy, len(ids))
    for begin, end in ((0, 50), (50, 51), (51, 130), (130, 200)):
        times = START + MINUTE * numpy.arange(begin, end)
        series = [(times, numpy.round(rng.random(len(times)) * 100, 3)) for _ in ids]
        engine.post(ids, series)
        engine.process()
        model.process_points(*[(t.view("M8[ns]"), v) for t, v in series])
    engine.store = fresh_store(engine)
    for row in range(0, len(ids), 37):
        for method in METHODS:
            got = engine.read(ids[row], method)
            for granularity, _ in model.policy.items:
                stamps, values = model.read(granularity, method, row)
                assert list(zip(stamps.view("i8").tolist(), values.tolist(), strict=True)) == got[key(granularity)]
    stored = [pack for number in range(SACKS) for pack in engine.indexer.list_packs(number)]
    assert len(ids) == sum(pack.metrics for pack in stored)
    assert all(pack.metrics <= packs.METRICS_MAX for pack in stored)


EVENTS = st.lists(st.tuples(st.integers(0, 3), st.integers(-90, 400), st.integers(-50, 50)), max_size=25)


@given(st.lists(EVENTS, min_size=1, max_size=6), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batches_in_any_slices(tmp_path_factory, make_index, rounds, back_window, random_):
    """Random measures of four metrics, late ones too, processed in slices of any size: as the model says."""
    indexer = make_index(tmp_path_factory.mktemp("engine") / "index.db", SACKS)
    policy = make_policy("any", [(10, 9), (45, None)], ("mean", "count", "last", "rate:sum", "95pct"), back_window)
    engine = Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=0), SACKS)
    ids = engine.create_metrics(policy, 4)
    model = Model(policy.window_policy, 4)
    for events in rounds:
        series = [([START + t * 10**9 for m, t, _ in events if m == row], [float(v) for m, _, v in events if m == row])
                  for row in range(4)]
        engine.post(ids, series)
        refused = engine.process(measures_max=random_.choice([1, 5, 1000]))
        before = model.refused.sum()
        model.process_points(*[(numpy.array(t, "i8").view("M8[ns]"), v) for t, v in series])
        assert model.refused.sum() - before == refused.get("too old", 0)
    for row, metric_id in enumerate(ids):
        for method in policy.aggregation_methods:
            got = engine.read(metric_id, method)
            for granularity, _ in model.policy.items:
                stamps, values = model.read(granularity, method, row)
                assert list(zip(stamps.view("i8").tolist(), values.tolist(), strict=True)) == got[key(granularity)]
    indexer.close()


@pytest.mark.parametrize("example", EXAMPLES, ids=[example["id"] for example in EXAMPLES])
def test_golden_examples(indexer, example):
    """The contract's worked examples through index, backlog, store and read."""
    engine = Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=0), SACKS)
    body = example["policy"]
    policy = golden_policy(body)
    [metric_id] = engine.create_metrics(policy)
    for batch in example["batches"]:
        if isinstance(batch, dict):
            body = {**body, **batch["patch"]}
            engine.indexer.update_archive_policy(policy.name, golden_policy(body).definition, body["back_window"])
            continue
        for request in batch if batch and isinstance(batch[0][0], list) else [batch]:
            times = [int(parse_timestamp(t).view("i8")) for t, _ in request]
            engine.post([metric_id], [(times, [float(v) for _, v in request])])
        engine.process()
    for query, expected in {**example["expect"], **example.get("right", {})}.items():
        assert_golden(engine, metric_id, query, expected)


def golden_policy(body):
    pairs = [(int(parse_span(item["granularity"]).astype("i8")) / 1e9, item.get("points"))
             for item in body["definition"]]
    return make_policy("golden", pairs, body["aggregation_methods"], body["back_window"])


def assert_golden(engine, metric_id, query, expected):
    arguments = dict(pair.split("=", 1) for pair in query.split("&") if pair)
    call = {name: parse_timestamp(arguments[name]) for name in ("start", "stop") if name in arguments}
    if "granularity" in arguments:
        call["granularities"] = (parse_span(float(arguments["granularity"])),)
    if "resample" in arguments:
        letter = arguments["resample"]
        call["resample"] = letter if letter.isalpha() else parse_span(float(letter))
    got = engine.read(metric_id, arguments.get("aggregation", "mean"), **call)
    flat = [(t, g, v) for g, points in got.items() for t, v in points]
    assert len(expected) == len(flat), (query, flat)
    for (stamp, granularity, value), (time, g, v) in zip(expected, flat, strict=True):
        assert granularity == g
        assert int(parse_timestamp(stamp).view("i8")) // 10**9 == time // 10**9
        assert v == pytest.approx(float(value), rel=GOLDEN_TOLERANCE, nan_ok=True)


def test_unknown_method_and_granularity(engine):
    """What the policy does not hold is an error, not an empty answer."""
    [metric_id] = engine.create_metrics(HOURS)
    with pytest.raises(AggregationDoesNotExist):
        engine.read(metric_id, "last")
    with pytest.raises(GranularityDoesNotExist, match="42.0"):
        engine.read(metric_id, "mean", granularities=(numpy.timedelta64(42 * 10**9, "ns"),))


def test_metric_without_measures(engine):
    """Nothing stored means empty series, also beside a metric that has some."""
    first, second = engine.create_metrics(HOURS, ids=[uuid.UUID(int=4), uuid.UUID(int=8)])
    assert {3600.0: [], 60.0: []} == engine.read(first, "mean")
    engine.post([second], [([START], [1.0])])
    engine.process()
    assert {3600.0: [], 60.0: []} == engine.read(first, "mean")
    assert [(START, 1.0)] == engine.read(second, "mean")[60.0]


def test_processing_again_changes_nothing(engine):
    """A backlog that is read twice, as after a crash before the acknowledgement, counts once."""
    [metric_id] = engine.create_metrics(HOURS)
    times = START + MINUTE * numpy.arange(100)
    engine.post([metric_id], [(times, numpy.arange(100.0))])
    engine.process()
    before = {method: engine.read(metric_id, method) for method in METHODS}
    engine.post([metric_id], [(times, numpy.arange(100.0))])
    engine.process()
    assert before == {method: engine.read(metric_id, method) for method in METHODS}


def test_two_workers_on_one_sack(engine):
    """Both believe they own the sack: one loses its commit, and no point is lost or counted twice."""
    [metric_id] = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS)])
    engine.post([metric_id], [([START], [1.0])])
    slow = engine.indexer.commit_sacks

    def overtaken(commits):
        engine.indexer.commit_sacks = slow
        engine.process()
        engine.post([metric_id], [([START + MINUTE], [2.0])])
        engine.process()
        return slow(commits)

    engine.indexer.commit_sacks = overtaken
    with pytest.raises(CommitLost):
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    engine.process()
    assert [(START, 1.0), (START + MINUTE, 2.0)] == engine.read(metric_id, "sum")[60.0]


def test_one_of_a_group_is_overtaken(engine):
    """It loses its commit, and only that; the others' happen, and nothing is lost or counted twice."""
    ids = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS + number) for number in range(SACKS)])
    series = [([START + MINUTE * number], [float(number)]) for number in range(SACKS)]
    engine.post(ids, series)
    slow = engine.indexer.commit_sacks

    def overtaken(commits):
        engine.indexer.commit_sacks = slow
        process_sack(2, engine.incoming, engine.indexer, engine.store)
        return slow(commits)

    engine.indexer.commit_sacks = overtaken
    outcomes = process_sacks(range(SACKS), engine.incoming, engine.indexer, engine.store)
    assert [2] == [number for number, outcome in outcomes.items() if isinstance(outcome, CommitLost)]
    assert SACKS - 1 == sum(outcome.measures for number, outcome in outcomes.items() if number != 2)
    engine.post(ids, [([START + MINUTE * 9], [1.0])] * SACKS)
    engine.process()
    for metric_id, (times, values) in zip(ids, series, strict=True):
        expected = [(times[0], values[0]), (START + MINUTE * 9, 1.0)]
        assert expected == engine.read(metric_id, "sum")[60.0]


def test_group_in_slices(engine, monkeypatch):
    """Sacks for which there is no room, of measures or of heads, wait for the next slice."""
    ids = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS + number) for number in range(SACKS)])
    engine.post(ids, [(START + MINUTE * numpy.arange(100), numpy.arange(100.0))] * SACKS)
    taken = process_sacks(range(SACKS), engine.incoming, engine.indexer, engine.store, measures_max=200)
    assert [100, 100, 0, 0] == [taken[number].measures for number in range(SACKS)]
    assert [True, True, False, False] == [taken[number].complete for number in range(SACKS)]
    engine.process()
    monkeypatch.setattr(aggregate, "HEAD_BYTES_PER_SLICE", 1)
    engine.post(ids, [([START + MINUTE * 100], [1.0])] * SACKS)
    taken = process_sacks(range(SACKS), engine.incoming, engine.indexer, engine.store)
    assert [1, 0, 0, 0] == [taken[number].measures for number in range(SACKS)]
    engine.process()
    assert [101] * SACKS == [len(engine.read(metric_id, "count")[60.0]) for metric_id in ids]


def test_group_is_as_good_as_one_by_one(engine, make_index, tmp_path):
    """Several policies, packs and sacks at once give what each sack gives alone, byte for byte."""
    wide = make_policy("wide", [(1, 60), (60, 60)], METHODS, back_window=1)
    ids = [*engine.create_metrics(HOURS, 30), *engine.create_metrics(wide, 30)]
    other = Engine(make_index(tmp_path / "other.db", SACKS), MemoryIncoming(SACKS),
                   Store(MemoryDriver(), cache_bytes=0), SACKS)
    for policy, some in ((HOURS, ids[:30]), (wide, ids[30:])):
        other.create_metrics(policy, ids=some)
    rng = random.Random(3)
    for turn in range(8):
        some = rng.sample(ids, 60 if turn % 3 == 0 else rng.randint(1, 12))
        series = [(START + MINUTE * rng.randint(0, 40 * turn + 1) + rng.randint(0, 50) * 10**9 * numpy.arange(3),
                   numpy.array([rng.random() for _ in range(3)])) for _ in some]
        for each in (engine, other):
            each.post(some, series)
        assert engine.process() == {
            reason: count for reason, count in other_process(other).items() if count}
    assert [engine.read(i, method) for i in ids for method in METHODS] == [
        other.read(i, method) for i in ids for method in METHODS]
    other.indexer.close()


def other_process(engine):
    """Process all sacks together; returns the measures refused, by reason."""
    refused = Counter()
    numbers = list(range(SACKS))
    while numbers:
        outcomes = process_sacks(numbers, engine.incoming, engine.indexer, engine.store)
        refused.update(sum((outcome.refused for outcome in outcomes.values()), Counter()))
        numbers = [number for number, outcome in outcomes.items() if not outcome.complete]
    return refused


def test_failed_commit_is_not_remembered(engine):
    """A head whose commit failed is not taken for the stored one, and nothing is lost."""
    [metric_id] = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS)])
    engine.post([metric_id], [([START], [1.0])])
    commit = engine.indexer.commit_sacks

    def fail(_):
        raise BackendUnavailable("index: away")

    engine.indexer.commit_sacks = fail
    with pytest.raises(BackendUnavailable):
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    engine.indexer.commit_sacks = commit
    assert [] == engine.read(metric_id, "sum")[60.0]
    engine.process()
    assert [(START, 1.0)] == engine.read(metric_id, "sum")[60.0]


def test_deleted_metric(engine):
    """Its backlog is dropped and counted, its stored data goes, and its neighbours stay."""
    gone, kept = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS), uuid.UUID(int=2 * SACKS)])
    engine.post([gone, kept], [([START], [1.0]), ([START], [2.0])])
    engine.process()
    engine.post([gone, kept], [([START + MINUTE] * 3, [1.0] * 3), ([START + MINUTE], [2.0])])
    engine.indexer.delete_metrics([gone])
    assert {"metric gone": 3} == engine.process()
    with pytest.raises(NoSuchMetric):
        engine.read(gone, "mean")
    engine.expunge()
    assert [kept] == metric_ids.unpack_ids(engine.store.read_head(engine.indexer.list_packs(0)[0]).ids)
    assert [(START, 2.0), (START + MINUTE, 2.0)] == engine.read(kept, "mean")[60.0]
    engine.indexer.delete_metrics([kept])
    engine.expunge()
    assert [] == engine.indexer.list_packs(0)
    assert [] == engine.indexer.list_deleted_metrics(10)


def test_sparse_updates_write_deltas(engine):
    """One metric of many: only what changed is written, until a base is cheaper; every read is right."""
    ids = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS * (n + 1)) for n in range(40)])
    engine.post(ids, [(START + MINUTE * numpy.arange(30), numpy.arange(30.0))] * 40)
    engine.process()
    [before] = engine.indexer.list_packs(0)
    for round_, row in enumerate((3, 7, 3)):
        engine.post([ids[row]], [([START + MINUTE * (30 + round_)], [1.0])])
        engine.process()
    [pack] = engine.indexer.list_packs(0)
    assert before.base == pack.base
    assert pack.delta is not None and pack.delta.length * 10 < pack.base.length
    new = [uuid.UUID(int=SACKS * 99)]
    engine.create_metrics(HOURS, ids=new)
    engine.post(new, [([START], [5.0])])
    engine.process()
    engine.store = fresh_store(engine)
    counts = [sum(v for _, v in engine.read(i, "count")[3600.0]) for i in ids + new]
    assert [30.0] * 3 + [32.0] + [30.0] * 3 + [31.0] + [30.0] * 32 + [1.0] == counts
    engine.post(ids[:20], [([START + MINUTE * 40], [1.0])] * 20)
    engine.process()
    [pack] = engine.indexer.list_packs(0)
    assert before.base != pack.base and pack.delta is None
    engine.indexer.delete_metrics([ids[0]])
    engine.expunge()
    engine.store = fresh_store(engine)
    assert 31 == sum(v for _, v in engine.read(ids[1], "count")[3600.0])


def test_garbage_leaves_what_counts(engine):
    """Objects that no row names can go at once; every aggregate is still read after that."""
    ids = engine.create_metrics(HOURS, 20)
    for minute in range(0, 300, 30):
        engine.post(ids, [(START + MINUTE * numpy.arange(minute, minute + 30), numpy.arange(30.0))] * 20)
        engine.process()
    expected = [engine.read(i, "sum") for i in ids]
    garbage = engine.indexer.list_collectable_garbage(older_than_s=-1, limit=1000)
    assert garbage
    engine.store.driver.delete_many(garbage)
    engine.indexer.delete_garbage_rows(garbage)
    assert [] == engine.indexer.list_collectable_garbage(older_than_s=-1, limit=1000)
    engine.store = fresh_store(engine)
    assert expected == [engine.read(i, "sum") for i in ids]


def test_missing_object_is_an_error(engine):
    """An object that the index names and storage lacks is never an empty answer."""
    [metric_id] = engine.create_metrics(HOURS)
    engine.post([metric_id], [([START], [1.0])])
    engine.process()
    engine.store.driver.delete_many(list(engine.store.driver.list("")))
    engine.store = fresh_store(engine)
    with pytest.raises(BackendUnavailable, match="base-1-"):
        engine.read(metric_id, "mean")


def test_reader_overtaken_by_a_commit(engine):
    """A head that went while the reader was on its way is asked for again."""
    [metric_id] = engine.create_metrics(HOURS)
    engine.post([metric_id], [([START], [1.0])])
    engine.process()
    find, calls = engine.indexer.get_pack_catalogue, []

    def overtaken(*args):
        found = find(*args)
        if not calls:
            engine.post([metric_id], [([START + MINUTE], [2.0])])
            engine.process()
            engine.store.driver.delete_many(engine.indexer.list_collectable_garbage(-1, 100))
            engine.store = fresh_store(engine)
        calls.append(args)
        return found

    engine.indexer.get_pack_catalogue = overtaken
    engine.store = fresh_store(engine)
    assert [(START, 1.0), (START + MINUTE, 2.0)] == engine.read(metric_id, "sum")[60.0]
    assert len(calls) == 2


def test_damaged_head_is_named(engine):
    """Damage is an error that names the object; what is posted meanwhile waits for it to be repaired."""
    [metric_id] = engine.create_metrics(HOURS, ids=[uuid.UUID(int=SACKS)])
    engine.post([metric_id], [([START], [1.0])])
    engine.process()
    driver = engine.store.driver
    [key_] = list(driver.list(""))
    data = bytearray(driver.get(key_))
    data[-20] ^= 1
    driver.delete_many([key_])
    driver.put(key_, bytes(data))
    engine.store = fresh_store(engine)
    with pytest.raises(CorruptedData, match=key_):
        engine.read(metric_id, "mean")
    engine.post([metric_id], [([START], [1.0])])
    assert 1 == process_sack(0, engine.incoming, engine.indexer, engine.store).parked
    [parked] = engine.indexer.list_parked()
    assert key_ in parked.reason


def test_packs_after_the_number_of_sacks_changed(engine):
    """More sacks or fewer: everything stored is read and goes on growing, without being moved."""
    ids = engine.create_metrics(HOURS, 60)
    times = START + MINUTE * numpy.arange(200)
    engine.post(ids, [(times, numpy.arange(200.0))] * 60)
    engine.process()
    expected = [engine.read(i, "count") for i in ids]
    objects = set(engine.store.driver.list(""))
    for sacks in (16, 2):
        engine.indexer.change_sacks(sacks)
        engine.sacks, engine.incoming = sacks, MemoryIncoming(sacks)
        assert expected == [engine.read(i, "count") for i in ids]
        assert objects == set(engine.store.driver.list(""))
    order = random.Random(5).sample(range(60), 30)
    engine.post([ids[n] for n in order], [([START + MINUTE * 200], [1.0])] * 30)
    engine.process()
    for row, metric_id in enumerate(ids):
        assert 200 + (row in order) == len(engine.read(metric_id, "count")[60.0])


def test_commit_of_nothing(engine):
    """A commit may carry nothing but a checkpoint."""
    sack = engine.indexer.get_sack(1)
    engine.indexer.commit_sack(SackCommit(1, sack.sequence, {"place": 3}))
    assert (sack.sequence + 1, {"place": 3}) == engine.indexer.get_sack(1)[1:]


def test_golden_file_is_whole():
    """All 45 examples of the contract are there."""
    path = pathlib.Path(__file__).parent.parent / "unit" / "carbonara" / "golden.json"
    assert 45 == len(json.loads(path.read_text()))
