"""Metrics that are made when a measure comes in, on every database; and what statsd makes of packets in them."""

import datetime
import threading
import types
import uuid

import numpy
import pytest

from gnocchi import metric_ids
from gnocchi.exceptions import BackendUnavailable, InvalidInput, NoSuchResource
from gnocchi.incoming.file import FileDriver
from gnocchi.indexer import ArchivePolicyRule, MetricDefinition
from gnocchi.ingest.metrics import ResourceMetrics
from gnocchi.ingest.statsd import Aggregator
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.databases import StatementCounter
from gnocchi.tests.engine import Engine, make_policy

RESOURCE = uuid.UUID("5e3fcbe2-7aab-475d-b42c-a440aa42e5ad")
SACKS = 4
NOW = numpy.datetime64("2015-01-07T13:58:36", "ns")
STATISTICS = make_policy("statistics", [(60, 60), (3600, 24), (86400, 30)], ["mean"])


@pytest.fixture
def engine(indexer, tmp_path):
    indexer.create_sacks(SACKS)
    indexer.create_archive_policy(STATISTICS)
    incoming = FileDriver(str(tmp_path / "data"), SACKS)
    incoming.upgrade()
    yield Engine(indexer, incoming, Store(MemoryDriver(), cache_bytes=1 << 20), SACKS)
    incoming.close()


@pytest.fixture
def make(engine):
    def make_metrics(creator="me", policy="statistics"):
        return ResourceMetrics(types.SimpleNamespace(indexer=engine.indexer, incoming=engine.incoming), RESOURCE,
                               creator, policy)

    return make_metrics


def write(metrics, *names, value=1.0, now=NOW):
    metrics.write_measures(list(names), numpy.full(len(names), now), numpy.full(len(names), value))


def get_ids(engine):
    return engine.indexer.get_resource("generic", RESOURCE).metrics


def list_waiting(engine):
    """Return {metric id: values} of what was written."""
    found = {}
    for number in range(SACKS):
        backlog = engine.incoming.read_backlog(number, {}, 1 << 20)
        if backlog is not None:
            values = numpy.split(backlog.batch.values, numpy.cumsum(backlog.batch.counts)[:-1])
            for id, its_values in zip(metric_ids.unpack_ids(backlog.batch.metric_ids), values, strict=True):
                found.setdefault(id, []).extend(its_values.tolist())
    return found


def test_resource_and_metrics_are_made(engine, make, caplog):
    """At first sight, with creator and policy as configured; later nothing is made again."""
    caplog.set_level("INFO", "gnocchi")
    metrics = make()
    write(metrics, "a/b|c", "✔|g")
    write(metrics, "✔|g", value=2.0)
    resource = engine.indexer.get_resource("generic", RESOURCE)
    assert ("me", str(RESOURCE), {"a/b|c", "✔|g"}) == (
        resource.creator, resource.original_resource_id, set(resource.metrics))
    assert {("me", "statistics")} == {(metric.creator, metric.archive_policy.name)
                                      for metric in engine.indexer.list_resource_metrics(RESOURCE)}
    assert {resource.metrics["a/b|c"]: [1.0], resource.metrics["✔|g"]: [1.0, 2.0]} == list_waiting(engine)
    assert [f"Created resource {RESOURCE}"] == caplog.messages


def test_existing_resource_and_metrics_are_used(engine, make, caplog):
    """Whoever made them: another daemon, or a user by the API."""
    caplog.set_level("INFO", "gnocchi")
    id = uuid.uuid4()
    engine.indexer.create_resource("generic", RESOURCE, "other", metrics={
        "a|c": MetricDefinition(id, "statistics")})
    metrics = make(policy="no such policy")
    metrics.create_resource()
    write(metrics, "a|c")
    assert {id: [1.0]} == list_waiting(engine)
    assert [f"Resource {RESOURCE} already exists"] == caplog.messages


def test_number_of_statements_is_constant(engine, make):
    """One statement for known names; at first sight a few, however many names are new."""
    metrics = make()
    metrics.create_resource()
    counts = []
    for many in ([f"a{i}|c" for i in range(3)], [f"b{i}|c" for i in range(300)]):
        for _ in range(2):
            with StatementCounter(engine.indexer) as counter:
                write(metrics, *many)
            counts.append(len([text for text in counter.statements if not text.startswith("BEGIN")]))
    assert counts[:2] == counts[2:]
    assert counts[1] == 1
    assert counts[0] <= 6
    with StatementCounter(engine.indexer) as counter:
        write(metrics)
    assert 1 == counter.count, "an idle daemon lets its connection close"


def test_deleted_metric_is_made_anew(engine, make):
    """Measures never go to a metric that nobody can read."""
    metrics = make()
    write(metrics, "a|c", "b|c")
    before = get_ids(engine)
    engine.indexer.delete_metrics([before["a|c"]])
    write(metrics, "a|c", "b|c", value=2.0)
    after = get_ids(engine)
    assert before["a|c"] != after["a|c"]
    assert before["b|c"] == after["b|c"]
    assert {before["a|c"]: [1.0], after["a|c"]: [2.0], after["b|c"]: [1.0, 2.0]} == list_waiting(engine)


def test_deleted_resource_is_made_anew(engine, make):
    """With the metrics that measures come in for."""
    metrics = make()
    write(metrics, "a|c", "b|c")
    engine.indexer.delete_resource("generic", RESOURCE)
    write(metrics, "b|c")
    assert ["b|c"] == list(get_ids(engine))


def test_metric_made_by_another_at_the_same_time_is_used(engine, make, monkeypatch):
    """What comes into being between the look-up and the creation is no error."""
    metrics, others = make(), make(creator="other")
    metrics.create_resource()
    look_up = metrics._finder._look_up

    def look_up_too_early(*args):
        seen = look_up(*args)
        monkeypatch.undo()
        write(others, "b|c", value=5.0)
        return seen

    monkeypatch.setattr(metrics._finder, "_look_up", look_up_too_early)
    write(metrics, "a|c", "b|c")
    ids = get_ids(engine)
    assert {ids["a|c"]: [1.0], ids["b|c"]: [5.0, 1.0]} == list_waiting(engine)


def test_many_daemons_on_one_resource(engine, make):
    """Daemons that see the same names at the same time make each metric once, and no measure is lost."""
    names = [f"m{i}|c" for i in range(20)]
    everybody = [make() for _ in range(4)]
    errors = []

    def run(metrics):
        try:
            write(metrics, *names)
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(metrics,)) for metrics in everybody]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == errors
    assert dict.fromkeys(get_ids(engine).values(), [1.0] * 4) == list_waiting(engine)
    assert set(names) == set(get_ids(engine))


def test_metric_without_a_policy_is_refused_alone(engine, make, caplog):
    """The others of its flush are written; the log tells the reason, as often as it says."""
    engine.indexer.create_archive_policy_rule(ArchivePolicyRule("web", "statistics", "web.*"))
    metrics = make(policy=None)
    metrics.write_measures(["web.a|c", "db.a|c", "web.b|g"], NOW + numpy.arange(3), numpy.arange(3.0))
    ids = get_ids(engine)
    assert {ids["web.a|c"]: [0.0], ids["web.b|g"]: [2.0]} == list_waiting(engine)
    reason = "No archive policy name specified and no archive policy rule found matching the metric name"
    assert [f"Unable to add measure db.a|c: {reason} db.a|c"] == [
        record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    caplog.clear()
    write(metrics, *[f"db.{i}|c" for i in range(13)])
    assert [*[f"Unable to add measure db.{i}|c: {reason} db.{i}|c" for i in range(10)],
            "Unable to add measures of 3 more metrics"] == caplog.messages


def test_policy_that_does_not_exist(engine, make, caplog):
    """Each measure is refused with the reason, until there is one."""
    metrics = make(policy="gold")
    write(metrics, "a|c")
    assert "Unable to add measure a|c: Archive policy gold does not exist" in caplog.messages
    assert {} == list_waiting(engine)
    engine.indexer.create_archive_policy(make_policy("gold", [(60, 60)], ["mean"]))
    write(metrics, "a|c")
    assert {get_ids(engine)["a|c"]: [1.0]} == list_waiting(engine)


def test_creator_that_the_index_cannot_hold(engine, make):
    """It is told at once, and nothing is made."""
    with pytest.raises(InvalidInput):
        make(creator="x" * 256).create_resource()
    with pytest.raises(NoSuchResource):
        get_ids(engine)


def test_nothing_is_written_while_a_back_end_is_away(engine, make, tmp_path):
    """The same measures may be written again, once, when it is back."""
    metrics = make()
    data = tmp_path / "data" / "incoming"
    data.rmdir()
    with pytest.raises(BackendUnavailable):
        write(metrics, "a|c")
    data.mkdir()
    write(metrics, "a|c")
    assert {get_ids(engine)["a|c"]: [1.0]} == list_waiting(engine)


# The example of the contract (ingest-protocols 4), with a fixed clock.

def flush(metrics, *packets):
    """Feed (time, datagram) pairs and flush."""
    aggregator = Aggregator()
    for time, datagram in packets:
        at = datetime.datetime.fromisoformat(f"2015-01-07T{time}+00:00")
        aggregator.add([datagram], int(at.timestamp()) * 10**9)
    metrics.write_measures(*aggregator.take())


@pytest.mark.parametrize("policy", ["statistics", None])
@pytest.mark.parametrize(("kind", "first", "second", "minutes", "mean"), [
    ("g", b"x:1|g", (b"x:45|g", b"x:2|g"), (1.0, 2.0), 1.5),
    ("ms", b"x:1|ms", (b"x:45|ms", b"x:2|ms"), (1.0, 2.0), 1.5),
    ("c", b"x:1|c", (b"x:45|c", b"x:2|c|@0.2"), (1.0, 55.0), 28.0),
])
def test_flushes_become_aggregates(engine, make, policy, kind, first, second, minutes, mean):
    """One measure per metric and flush, aggregated like any other; with a named policy and by a rule."""
    engine.indexer.create_archive_policy_rule(ArchivePolicyRule("all", "statistics", "*"))
    metrics = make(policy=policy)
    flush(metrics, ("13:58:36", first))
    flush(metrics)
    flush(metrics, *[("13:59:37", datagram) for datagram in second])
    flush(metrics)
    engine.process()
    at = {text: int(numpy.datetime64(f"2015-01-07T{text}", "ns").astype("i8"))
          for text in ("00:00", "13:00", "13:58", "13:59")}
    assert {86400.0: [(at["00:00"], mean)], 3600.0: [(at["13:00"], mean)],
            60.0: [(at["13:58"], minutes[0]), (at["13:59"], minutes[1])]} == engine.read(
                get_ids(engine)[f"x|{kind}"], "mean")
