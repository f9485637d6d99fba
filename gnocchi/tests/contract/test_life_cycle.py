"""Resources end when their metrics fall silent, come back with new measures, and go when their time is over."""

import concurrent.futures
import datetime
import itertools
import random
import uuid

import numpy
import pytest
import sqlalchemy as sa

from gnocchi import exceptions
from gnocchi.archive_policy import ArchivePolicyItem
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.indexer import MetricDefinition
from gnocchi.indexer.models import metric, resource, statistics
from gnocchi.processing import life_cycle
from gnocchi.processing.aggregate import process_sack
from gnocchi.processing.janitor import Janitor
from gnocchi.processing.life_cycle import Activity, LifeSpans
from gnocchi.processing.locks import Coordinator
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.databases import StatementCounter
from gnocchi.tests.engine import Engine, make_policy

SACKS = 2
DAY = datetime.timedelta(days=1)
SPANS = LifeSpans(inactive_after_s=DAY.total_seconds(), cleanup_after_s=7 * DAY.total_seconds())
POLICY = make_policy("living", [(60, 1000)], ("sum", "count"), back_window=10)
MINUTE = 60 * 10**9


def now():
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


@pytest.fixture
def engine(indexer):
    indexer.create_sacks(SACKS)
    indexer.create_archive_policy(POLICY)
    return Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=0), SACKS)


@pytest.fixture
def make_janitor(engine, tmp_path):
    coordinator = Coordinator(f"file://{tmp_path / 'coordination'}", "test")
    coordinator.start()
    yield lambda spans, metrics_max=100: Janitor(engine.incoming, engine.indexer, engine.store, coordinator,
                                                 metrics_max, lambda: False, spans=spans, delay_s=300)
    coordinator.stop()


@pytest.fixture
def clean(make_janitor):
    """Run one round of the janitor, with the spans given."""

    def run(spans=SPANS):
        janitor = make_janitor(spans)
        assert 0 == janitor.clean_up().errors
        return janitor.counters

    return run


def create(indexer, metrics=2, type="generic", **fields):
    names = {f"m{i}": MetricDefinition(uuid.uuid4(), POLICY.name) for i in range(metrics)}
    return indexer.create_resource(type, uuid.uuid4(), "me", metrics=names, **fields)


def age(indexer, time=2 * DAY, watched=True, metrics=True):
    """Make everything older: as if nothing had happened for some time, with janitors watching or not."""
    with indexer.writing() as connection:
        for row in connection.execute(sa.select(resource)).all():
            connection.execute(sa.update(resource).where(resource.c.id == row.id).values(
                started_at=row.started_at - time, revision_start=row.revision_start - time,
                ended_at=None if row.ended_at is None else row.ended_at - time))
        for row in connection.execute(sa.select(metric)).all() if metrics else []:
            last = row.last_measure_timestamp
            connection.execute(sa.update(metric).where(metric.c.id == row.id).values(
                created_at=row.created_at - time, last_measure_timestamp=None if last is None else last - time))
    if watched:
        watch(indexer, time)


def watch(indexer, since=2 * DAY, last=datetime.timedelta(),
          names=(life_cycle.WATCH_INACTIVE, life_cycle.WATCH_BACKLOG)):
    """Have the janitors watched for some time, the last time some time ago."""
    began = datetime.datetime.now(datetime.UTC) - since
    with indexer.writing() as connection:
        connection.execute(sa.delete(statistics).where(statistics.c.process.in_(names)))
        connection.execute(sa.insert(statistics), [
            {"process": name, "service": "watch", "counters": {"since": began.timestamp()}, "updated_at": now() - last}
            for name in names])


def post(engine, metrics, time=None, spans=SPANS, count=1):
    """Post measures, the last one at `time`, and have them processed."""
    last = numpy.datetime64(now() if time is None else time, "ns").astype(numpy.int64)
    times = [int(last) - MINUTE * i for i in reversed(range(count))]
    engine.post(list(metrics), [(times, [1.0] * count)] * len(metrics))
    for number in range(SACKS):
        process_sack(number, engine.incoming, engine.indexer, engine.store, note=Activity(spans).note)


def find(indexer, resource):
    return indexer.get_resource("generic", resource.id)


def read_history(indexer, resource):
    return indexer.list_resources("generic", history=True, id=resource.id)


def test_silent_resources_end(engine, clean):
    """Those end all of whose metrics got nothing for too long, and their open state becomes a revision."""
    indexer = engine.indexer
    silent, half, alone, old = create(indexer), create(indexer), create(indexer, metrics=0), create(indexer)
    ended = create(indexer, started_at=now() - 3 * DAY, ended_at=now() - 2 * DAY)
    future = create(indexer, started_at=now() + 30 * DAY)
    age(indexer)
    new, changed = create(indexer), indexer.update_resource(old, {"user_id": "x"})
    post(engine, [half.metrics["m0"]])
    before = now()
    assert 1 == clean()["ended resources"]
    assert before <= find(indexer, silent).ended_at <= now()
    assert [None] * 5 == [find(indexer, each).ended_at for each in (half, alone, future, new, changed)]
    assert ended.ended_at - 2 * DAY == find(indexer, ended).ended_at
    first, second = read_history(indexer, silent)
    assert (None, first.revision_end) == (first.ended_at, second.revision_start)
    assert 0 == clean()["ended resources"]


def test_nothing_ends_when_it_is_off(engine, clean):
    """Without the options, resources stay as they are however old they are, whether measures come or not."""
    indexer = engine.indexer
    silent, ended = create(indexer), create(indexer, ended_at=now() + DAY)
    age(indexer, 100 * DAY)
    assert {} == {name: count for name, count in clean(LifeSpans()).items() if "resources" in name}
    with StatementCounter(indexer) as counter:
        post(engine, [ended.metrics["m0"], silent.metrics["m0"]], spans=LifeSpans())
    assert not any("resource" in statement and "UPDATE" in statement for statement in counter.statements)
    assert (None, None) == (find(indexer, silent).ended_at, get_last(indexer, silent.metrics["m0"]))
    assert find(indexer, ended).ended_at


def get_last(indexer, id):
    with indexer.reading() as connection:
        return connection.execute(sa.select(metric.c.last_measure_timestamp).where(metric.c.id == id)).scalar()


def test_nothing_ends_before_it_was_watched(engine, clean):
    """Just after the option was set, or after metricd was down, measures may have come that nobody noted."""
    indexer = engine.indexer
    silent = create(indexer)
    age(indexer, watched=False)
    assert 0 == clean()["ended resources"]
    watch(indexer)
    watch(indexer, last=0.6 * DAY, names=[life_cycle.WATCH_INACTIVE])      # nobody did for half of the time
    assert 0 == clean()["ended resources"]
    watch(indexer, last=0.4 * DAY, names=[life_cycle.WATCH_INACTIVE])
    watch(indexer, since=datetime.timedelta(minutes=59), names=[life_cycle.WATCH_BACKLOG])
    assert 0 == clean()["ended resources"]
    assert find(indexer, silent).ended_at is None
    watch(indexer, last=0.4 * DAY, names=[life_cycle.WATCH_INACTIVE])
    watch(indexer, since=datetime.timedelta(minutes=61), names=[life_cycle.WATCH_BACKLOG])
    assert 1 == clean()["ended resources"]


def test_nothing_goes_before_the_backlog_is_done(engine, clean):
    """After a pause of metricd, measures may wait that make a resource go on: it is not deleted before them."""
    indexer = engine.indexer
    ended = create(indexer, started_at=now() - 9 * DAY, ended_at=now() - 8 * DAY)
    watch(indexer, last=datetime.timedelta(minutes=15))
    assert 0 == clean()["expired resources"]
    watch(indexer, since=datetime.timedelta(minutes=61))
    post(engine, [ended.metrics["m0"]])
    assert 0 == clean()["expired resources"]
    assert find(indexer, ended).ended_at is None


def test_measures_are_noted_now_and_then(engine):
    """A metric's row is written once in a while, not at each commit, and early enough."""
    indexer = engine.indexer
    made = create(indexer)
    first, second = made.metrics.values()
    post(engine, [first])
    assert get_last(indexer, first) is None      # it is not older than that
    age(indexer, DAY / 4)
    before = now()
    post(engine, [first])
    noted = get_last(indexer, first)
    assert before <= noted <= now()
    assert get_last(indexer, second) is None
    post(engine, [first, second])
    assert noted == get_last(indexer, first)
    assert get_last(indexer, second)


@pytest.mark.parametrize("spans", [SPANS, SPANS._replace(inactive_after_s=0), SPANS._replace(cleanup_after_s=0)])
def test_new_measures_reopen(engine, spans):
    """A measure at or after its resource's end makes that go on; earlier ones do not."""
    indexer = engine.indexer
    end = now().replace(microsecond=5) - DAY
    made = create(indexer, started_at=end - DAY, ended_at=end)
    other = create(indexer, started_at=end - DAY, ended_at=end)
    post(engine, [made.metrics["m0"]], end - datetime.timedelta(microseconds=1), spans)
    assert end == find(indexer, made).ended_at
    post(engine, made.metrics.values(), end, spans)
    reopened = find(indexer, made)
    assert reopened.ended_at is None
    assert [end, None] == [state.ended_at for state in read_history(indexer, made)]
    assert reopened.revision_start > made.revision_start
    assert other == find(indexer, other)
    post(engine, made.metrics.values(), None, spans)
    assert reopened == find(indexer, made)


def test_resources_that_go_meanwhile(engine, monkeypatch):
    """Resource and metric may be deleted while their measures are processed; the others' are processed all the same."""
    indexer = engine.indexer
    end = now() - DAY
    gone, kept = (create(indexer, started_at=end - DAY, ended_at=end) for _ in range(2))
    reopen = indexer.reopen_resources

    def delete_first(newest):
        indexer.delete_resource("generic", gone.id)
        return reopen(newest)

    monkeypatch.setattr(indexer, "reopen_resources", delete_first)
    # One sack, so that they are processed together.
    ids = [uuid.UUID(int=SACKS * n) for n in (1, 2)]
    indexer.create_metrics([MetricDefinition(id, POLICY.name, name="x", resource_id=each.id)
                            for id, each in zip(ids, (gone, kept), strict=True)], "me")
    post(engine, ids)
    assert find(indexer, kept).ended_at is None
    with pytest.raises(exceptions.NoSuchResource):
        find(indexer, gone)
    assert [1.0] == [value for _, value in engine.read(ids[1], "sum")[60.0]]


def test_ended_resources_go(engine, clean, monkeypatch):
    """Those that ended long enough ago are deleted with their metrics and history, whatever their number."""
    monkeypatch.setattr(life_cycle, "RESOURCES_PER_STEP", 3)
    indexer = engine.indexer
    long_ago, recently = now() - 8 * DAY, now() - 6 * DAY
    dead = [create(indexer, metrics=1, started_at=long_ago - DAY, ended_at=long_ago) for _ in range(7)]
    kept = [create(indexer, metrics=1, started_at=long_ago, **fields) for fields in ({"ended_at": recently}, {})]
    indexer.update_resource(dead[0], {"user_id": "x"})
    post(engine, [dead[0].metrics["m0"]], long_ago - DAY)
    assert 0 == clean()["expired resources"]
    watch(indexer)
    assert 7 == clean()["expired resources"]
    assert {each.id for each in kept} == {each.id for each in indexer.list_resources()}
    assert {id for each in kept for id in each.metrics.values()} == {each.id for each in indexer.list_metrics()}
    assert 7 == clean()["expunged metrics"]
    assert [] == indexer.list_deleted_metrics(10)


def test_at_once_with_clients(engine):
    """Ending, reopening and changing the same resources at once: nothing blocks, and each change is a revision."""
    indexer = engine.indexer
    made = [create(indexer, started_at=now() - DAY) for _ in range(6)]
    ids = [id for each in made for id in each.metrics.values()]

    def change(number):
        for each in made:
            indexer.update_resource(each, {"started_at": now() - (2 + number) * DAY})
        return len(made)

    def reopen(number):
        indexer.note_measures(random.Random(number).sample(ids, len(ids)))
        return indexer.reopen_resources({each.id: now() + DAY for each in made})

    work = {"change": change, "reopen": reopen,
            "end": lambda number: indexer.end_inactive_resources(now() + DAY, 1000)}
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        done = [threads.submit(work[kind], number) for number in range(6) for kind in work]
        changes = sum(future.result() for future in done)
    histories = [read_history(indexer, each) for each in made]
    assert changes == sum(len(history) - 1 for history in histories)
    for history in histories:
        for before, after in itertools.pairwise(history):
            assert before.revision_end == after.revision_start
            assert (before.ended_at is None) != (after.ended_at is None) or before.started_at != after.started_at


def test_statements_are_constant(engine, indexer):
    """Noting, reopening, ending and deleting 60 resources takes as many statements as 2 do."""
    counts = []
    for number in (2, 60):
        end = now() - DAY
        made = [create(indexer, started_at=end - DAY, ended_at=end) for _ in range(number)]
        age(indexer)
        ids = [id for each in made for id in each.metrics.values()]
        engine.post(ids, [([numpy.datetime64(now(), "ns").astype(int)], [1.0])] * len(ids))
        steps = [
            lambda ids=ids: _note(indexer, ids),
            lambda: indexer.end_inactive_resources(now() + DAY, 1000),
            lambda: indexer.delete_ended_resources(now() + DAY, 1000),
        ]
        counted = []
        for step in steps:
            with StatementCounter(indexer) as counter:
                assert number == (step() or number)
            counted.append(counter.count)
        counts.append(counted)
        assert [] == indexer.list_resources()
    assert counts[0] == counts[1]


def _note(indexer, ids):
    found = indexer.list_metrics_to_note(numpy.array([id.bytes for id in ids], "S16"), now() - DAY)
    assert len(ids) == len(found)
    indexer.note_measures([row.id for row in found])
    return indexer.reopen_resources({row.resource_id: now() for row in found})


def test_smaller_back_window(engine, clean):
    """Raw measures before it go, what they add up to stays, and late ones are refused; metrics elsewhere stay alone."""
    indexer = engine.indexer
    other = make_policy("other", [(60, 1000)], ("sum", "count"), back_window=10)
    ids = engine.create_metrics(POLICY, 5)
    [silent] = engine.create_metrics(POLICY, 1)
    [spared] = engine.create_metrics(other, 1)
    start = numpy.datetime64("2026-01-01T00:00", "ns").astype(int)
    times = [int(start) + MINUTE * i for i in range(20)]
    engine.post([*ids, spared], [(times, [1.0] * 20)] * 6)
    engine.process()
    read = {id: (engine.read(id, "sum"), engine.read(id, "count")) for id in ids}
    sizes = sum_heads(indexer)
    indexer.update_archive_policy(POLICY.name, None, 2)
    assert {*ids, silent} == {each.id for each in indexer.list_metrics_to_truncate(100)}
    assert 6 == clean(LifeSpans())["truncated metrics"]
    assert [] == indexer.list_metrics_to_truncate(100)
    assert read == {id: (engine.read(id, "sum"), engine.read(id, "count")) for id in ids}
    assert sum_heads(indexer) < sizes
    engine.post([*ids, spared], [([times[-4]], [5.0])] * 6)
    assert {"too old": 5} == engine.process()
    assert 0 == clean(LifeSpans())["truncated metrics"]


def sum_heads(indexer):
    return sum(pack.bytes for number in range(SACKS) for pack in indexer.get_sack_contents(number).packs)


def test_back_window_that_shrinks_twice(engine):
    """What was truncated to a window that is too large by now is not taken for done."""
    indexer = engine.indexer
    ids = engine.create_metrics(POLICY, 2)
    indexer.update_archive_policy(POLICY.name, None, 5)
    indexer.update_archive_policy(POLICY.name, None, 1)
    indexer.clear_truncation(POLICY.id, 5, ids)
    assert set(ids) == {each.id for each in indexer.list_metrics_to_truncate(100)}
    indexer.clear_truncation(POLICY.id, 1, ids)
    assert [] == indexer.list_metrics_to_truncate(100)


def test_back_window_that_does_not_shrink(engine):
    """A larger one, the same, or another timespan marks nothing."""
    indexer = engine.indexer
    engine.create_metrics(POLICY, 2)
    minute = numpy.timedelta64(60, "s").astype("m8[ns]")
    for back_window in (10, 20):
        indexer.update_archive_policy(POLICY.name, [ArchivePolicyItem(minute, 10, 10 * minute)], back_window)
    assert [] == indexer.list_metrics_to_truncate(100)


def test_truncation_in_turns(engine, make_janitor):
    """More metrics than one round takes are done by the next ones."""
    indexer = engine.indexer
    ids = engine.create_metrics(POLICY, 7)
    engine.post(ids, [([1_700_000_000 * 10**9 + MINUTE * i for i in range(15)], [1.0] * 15)] * 7)
    engine.process()
    indexer.update_archive_policy(POLICY.name, None, 0)
    janitor = make_janitor(LifeSpans(), metrics_max=3)
    left = []
    for _ in range(3):
        janitor.clean_up()
        left.append(len(indexer.list_metrics_to_truncate(100)))
    assert [4, 1, 0] == left
    assert 7 == janitor.counters["truncated metrics"]
