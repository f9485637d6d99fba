"""Metrics in the index, on every database."""

import concurrent.futures
import itertools
import random
import uuid

import pytest

from gnocchi import exceptions, metric_ids
from gnocchi.indexer import ArchivePolicyRule, Metric, MetricDefinition, MetricPolicy, pagination
from gnocchi.indexer.models import metric
from gnocchi.tests.contract.test_indexer_archive_policies import make_policy
from gnocchi.tests.databases import StatementCounter


@pytest.fixture
def policies(indexer):
    policies = {name: make_policy(name) for name in ("low", "high")}
    for policy in policies.values():
        indexer.create_archive_policy(policy)
    return policies


def define(name=None, policy="low", **fields):
    return MetricDefinition(uuid.uuid4(), policy, name, **fields)


def create_resource(indexer, **fields):
    return indexer.create_resource("generic", uuid.uuid4(), "me", **fields).id


def test_create_round_trip(indexer, policies):
    resource_id = create_resource(indexer)
    definitions = [define("✔ name", unit="é" * 31, resource_id=resource_id), define("x" * 255, "high"), define()]
    expected = [Metric(d.id, policies[d.archive_policy_name], "user:project", d.name, d.unit, d.resource_id)
                for d in definitions]
    assert expected == indexer.create_metrics(definitions, "user:project")
    assert expected == [indexer.get_metric(d.id) for d in definitions]
    assert sorted(expected, key=lambda m: m.id) == indexer.list_metrics()
    assert {m.id: m for m in expected} == {m.id: m for m in indexer.list_metrics_by_id([d.id for d in definitions])}
    assert [] == indexer.create_metrics([], "me")


def test_create_by_rules(indexer, policies):
    indexer.create_archive_policy_rule(ArchivePolicyRule("all", "low", "*"))
    indexer.create_archive_policy_rule(ArchivePolicyRule("disk", "high", "disk.*"))
    names = ["disk.io", "cpu", None]
    found = indexer.create_metrics([define(name, None) for name in names], "me")
    assert ["high", "low", "low"] == [m.archive_policy.name for m in found]


@pytest.mark.parametrize("bad", [
    (define(policy="nope"), exceptions.NoSuchArchivePolicy, "Archive policy nope does not exist"),
    (define("m", None), exceptions.NoArchivePolicyRuleMatch, "matching the metric name m$"),
    (define("m", resource_id=uuid.UUID(int=1)), exceptions.NoSuchResource,
     "Resource 00000000-0000-0000-0000-000000000001 does not exist"),
    (define(resource_id=uuid.UUID(int=1)), exceptions.InvalidInput, "needs a name"),
    (define("x" * 256), exceptions.InvalidInput, "Metric name is longer than 255 characters"),
    (define("m", unit="x" * 32), exceptions.InvalidInput, "Unit is longer than 31 characters"),
    (define("a\0b"), exceptions.InvalidInput, "NUL"),
], ids=lambda bad: bad[1].__name__)
def test_create_all_or_nothing(indexer, policies, bad):
    """One definition that cannot be carried out undoes the others."""
    definition, error, text = bad
    with pytest.raises(error, match=text):
        indexer.create_metrics([define("good"), definition, define("good")], "me")
    assert [] == indexer.list_metrics()


def test_create_creator_too_long(indexer, policies):
    with pytest.raises(exceptions.InvalidInput):
        indexer.create_metrics([define()], "x" * 256)


def test_create_named_metric_exists(indexer, policies):
    """Names are unique within a resource only; a deleted metric frees its name at once."""
    resource_id, other = create_resource(indexer), create_resource(indexer)
    first = define("m", resource_id=resource_id)
    indexer.create_metrics([first, define("m", resource_id=other), define("m"), define("m")], "me")
    with pytest.raises(exceptions.NamedMetricAlreadyExists, match="Named metric m already exists"):
        indexer.create_metrics([define("n", resource_id=resource_id), define("m", resource_id=resource_id)], "me")
    with pytest.raises(exceptions.NamedMetricAlreadyExists, match="Named metric n already exists"):
        indexer.create_metrics([define("n", resource_id=resource_id)] * 2, "me")
    indexer.delete_metrics([first.id])
    indexer.create_metrics([define("m", resource_id=resource_id)], "me")


def test_create_same_id(indexer, policies):
    definition = define()
    indexer.create_metrics([definition], "me")
    with pytest.raises(exceptions.Conflict, match="already exists"):
        indexer.create_metrics([definition], "me")


def test_create_at_once(indexer, policies):
    """Of threads that create one name on a resource, one succeeds."""
    resource_id = create_resource(indexer)

    def create(_):
        try:
            indexer.create_metrics([define("same", resource_id=resource_id)], "me")
        except exceptions.NamedMetricAlreadyExists:
            return 0
        return 1

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert 1 == sum(threads.map(create, range(12)))


def test_statements_are_constant(indexer, policies):
    """What a request runs does not depend on how many metrics it names, up to 5,000."""
    indexer.create_archive_policy_rule(ArchivePolicyRule("all", "low", "*"))
    counts = []
    for size in (2, 5_000):
        definitions = [define(f"m{i}", None if i % 2 else "high") for i in range(size)]
        ids = [d.id for d in definitions]
        with StatementCounter(indexer) as counter:
            indexer.create_metrics(definitions, "me")
            found = indexer.list_metrics_by_id(ids)
            indexer.list_metric_policies(metric_ids.pack_ids(ids))
            indexer.delete_metrics(ids)
            indexer.expunge_metrics(ids)
        assert set(ids) == {m.id for m in found}
        counts.append(counter.count)
    assert counts[0] == counts[1]
    assert 15 >= counts[0]


def test_get_missing(indexer):
    with pytest.raises(exceptions.NoSuchMetric, match=f"Metric {uuid.UUID(int=5)} does not exist"):
        indexer.get_metric(uuid.UUID(int=5))
    assert [] == indexer.list_metrics_by_id([uuid.UUID(int=5)])
    assert [] == indexer.list_metrics_by_id([])


def test_delete(indexer, policies):
    """Deleted metrics are gone for everybody but the janitor, and leave their resource."""
    resource_id = create_resource(indexer)
    definitions = [define(f"m{i}", resource_id=resource_id) for i in range(4)]
    ids = [d.id for d in definitions]
    indexer.create_metrics(definitions, "me")
    indexer.delete_metrics(ids[:2])
    with pytest.raises(exceptions.NoSuchMetric):
        indexer.get_metric(ids[0])
    assert {ids[2], ids[3]} == {m.id for m in indexer.list_metrics_by_id(ids)} == {m.id for m in indexer.list_metrics()}
    assert {"m2": ids[2], "m3": ids[3]} == indexer.get_resource("generic", resource_id).metrics
    deleted = [MetricPolicy(id, policies["low"].id) for id in sorted(ids[:2])]
    assert deleted == indexer.list_deleted_metrics(10)
    assert deleted[:1] == indexer.list_deleted_metrics(1)
    assert deleted[1:] == indexer.list_deleted_metrics(10, deleted[0].id)


def test_delete_all_or_none(indexer, policies):
    definitions = [define(), define()]
    indexer.create_metrics(definitions, "me")
    with pytest.raises(exceptions.NoSuchMetric, match=str(uuid.UUID(int=7))):
        indexer.delete_metrics([definitions[0].id, uuid.UUID(int=7), definitions[1].id])
    assert 2 == len(indexer.list_metrics())
    indexer.delete_metrics([definitions[0].id])
    with pytest.raises(exceptions.NoSuchMetric, match=str(definitions[0].id)):
        indexer.delete_metrics([definitions[0].id])


def test_expunge_spares_live_metrics(indexer, policies):
    dead, live = define(), define()
    indexer.create_metrics([dead, live], "me")
    indexer.delete_metrics([dead.id])
    indexer.expunge_metrics([dead.id, live.id, uuid.uuid4()])
    assert [] == indexer.list_deleted_metrics(10)
    assert live.id == indexer.get_metric(live.id).id


def test_list_metric_policies(indexer, policies):
    """More ids than one statement takes; ids that end in NUL bytes; unknown and deleted ones are left out."""
    definitions = [define(policy=name) for name, _ in zip(itertools.cycle(policies), range(5_100))]
    definitions += [MetricDefinition(uuid.UUID(int=i << 32), "low") for i in range(1, 50)]
    indexer.create_metrics(definitions, "me")
    indexer.delete_metrics([definitions[0].id])
    wanted = [d.id for d in definitions] + [uuid.uuid4()]
    random.Random(1).shuffle(wanted)
    found, its_policies = indexer.list_metric_policies(metric_ids.pack_ids(wanted))
    expected = {d.id: policies[d.archive_policy_name].id for d in definitions[1:]}
    assert expected == dict(zip(metric_ids.unpack_ids(found), metric_ids.unpack_ids(its_policies), strict=True))
    for ids in ([], [uuid.uuid4()]):
        found, its_policies = indexer.list_metric_policies(metric_ids.pack_ids(ids))
        assert (0, 0) == (len(found), len(its_policies))


def test_list_policy_metrics(indexer, policies):
    """The live ones, by id."""
    low, gone, high = (indexer.create_metrics([define(policy=name)], "me")[0].id for name in ("low", "low", "high"))
    more = [metric.id for metric in indexer.create_metrics([define() for _ in range(20)], "me")]
    indexer.delete_metrics([gone])
    assert sorted([low, *more]) == metric_ids.unpack_ids(indexer.list_policy_metrics(policies["low"].id))
    assert [high] == metric_ids.unpack_ids(indexer.list_policy_metrics(policies["high"].id))
    assert [] == metric_ids.unpack_ids(indexer.list_policy_metrics(uuid.UUID(int=1)))


def test_list_metric_creators(indexer, policies):
    """Creators are told apart to the last blank; unknown and deleted metrics have none."""
    creators = ["me", "me ", "ME", "mé", None, "gone"]
    ids = {creator: indexer.create_metrics([define(), define()], creator)[0].id for creator in creators}
    indexer.delete_metrics([ids["gone"]])
    found, its_creators = indexer.list_metric_creators(metric_ids.pack_ids([*ids.values(), uuid.uuid4()]))
    assert set(creators) - {"gone"} == its_creators
    assert {id for creator, id in ids.items() if creator != "gone"} == set(metric_ids.unpack_ids(found))
    found, its_creators = indexer.list_metric_creators(metric_ids.pack_ids([]))
    assert (0, set()) == (len(found), its_creators)


def test_get_resource_metric(indexer, policies):
    resource_id = create_resource(indexer)
    definition = define("☃", resource_id=resource_id)
    created, = indexer.create_metrics([definition], "me")
    assert created == indexer.get_resource_metric(resource_id, "☃")
    with pytest.raises(exceptions.NoSuchMetric, match="Metric nope does not exist"):
        indexer.get_resource_metric(resource_id, "nope")
    with pytest.raises(exceptions.NoSuchResource):
        indexer.get_resource_metric(uuid.uuid4(), "☃")
    indexer.delete_metrics([definition.id])
    with pytest.raises(exceptions.NoSuchMetric):
        indexer.get_resource_metric(resource_id, "☃")


@pytest.mark.parametrize(("key", "value"), [
    ("name", "a"), ("unit", "B"), ("creator", "you"), ("archive_policy_name", "high"), ("creator", None)])
def test_list_filters(indexer, policies, key, value):
    indexer.create_metrics([define("a", unit="B"), define("A", unit="b"), define("b", "high")], "me")
    indexer.create_metrics([define("a")], "you")
    indexer.create_metrics([define()], None)
    expected = {m.id for m in indexer.list_metrics()
                if value == (m.archive_policy.name if key == "archive_policy_name" else getattr(m, key))}
    assert expected
    assert expected == {m.id for m in indexer.list_metrics({key: value})}


def test_list_filters_together(indexer, policies):
    resource_id = create_resource(indexer)
    wanted, *_ = indexer.create_metrics([define("a", resource_id=resource_id), define("b", resource_id=resource_id),
                                         define("a")], "me")
    assert [wanted] == indexer.list_metrics({"resource_id": resource_id, "name": "a"})
    assert [wanted] == indexer.list_metrics({"id": wanted.id})
    assert [] == indexer.list_metrics({"id": uuid.uuid4()})


@pytest.fixture
def many(indexer, policies):
    """Metrics with equal and missing names and units, so that every order has ties and nulls."""
    definitions = [define(name, policy, unit=unit)
                   for name in (None, "a", "B", "é", "😀") for policy in policies for unit in (None, "x")]
    return indexer.create_metrics(definitions, "me")


@pytest.mark.parametrize("limit", [1, 3, 20])
@pytest.mark.parametrize("sorts", [
    [], ["name"], ["name:desc"], ["name:asc-nullsfirst"], ["name:asc-nullslast"], ["name:desc-nullsfirst"],
    ["name:desc-nullslast", "unit:asc-nullsfirst"], ["archive_policy_name:desc", "name:desc-nullslast"],
    ["unit", "id:desc"], ["last_measure_timestamp", "needs_raw_data_truncation", "status", "creator", "resource_id"]],
    ids=" ".join)
def test_list_pages(indexer, many, sorts, limit):
    """Pages one after the other give every metric once, in the order asked for."""
    def rank(m):
        keys = []
        for sort in pagination.effective_sorts(sorts, pagination.METRIC_SORTS, ["id"]):
            key, direction = sort.split(":")
            value = m.archive_policy.name if key == "archive_policy_name" else getattr(m, key, None)
            nulls_first = direction.endswith("nullsfirst") or direction == "desc"
            text = [int(x) for x in (value.bytes if isinstance(value, uuid.UUID) else (value or "").encode())]
            if direction.startswith("desc"):
                text = [-x for x in text]
            keys.append((0 if (value is None) == nulls_first else 1, text))
        return keys

    seen, marker = [], None
    while True:
        page = indexer.list_metrics(sorts=sorts, limit=limit, marker=marker)
        seen += page
        if len(page) < limit:
            break
        marker = page[-1].id
    assert sorted(many, key=rank) == seen


@pytest.mark.parametrize(("sorts", "reason"), [
    (["nope"], "Sort key supplied is invalid: nope"),
    (["archive_policy:asc"], "Sort key supplied is invalid: archive_policy"),
    (["id:up"], "Unknown sort direction, must be one of: asc-nullsfirst, asc-nullslast, desc-nullsfirst, "
                "desc-nullslast"),
    (["id:"], "Unknown sort direction, must be one of: asc-nullsfirst, asc-nullslast, desc-nullsfirst, "
              "desc-nullslast"),
])
def test_list_invalid_sort(indexer, sorts, reason):
    with pytest.raises(exceptions.InvalidPagination) as e:
        indexer.list_metrics(sorts=sorts)
    assert f"Invalid pagination: `{reason}'" == str(e.value)


def test_list_invalid_marker(indexer, policies):
    deleted = define()
    indexer.create_metrics([deleted], "me")
    indexer.delete_metrics([deleted.id])
    for marker in (uuid.UUID(int=3), deleted.id):
        with pytest.raises(exceptions.InvalidPagination) as e:
            indexer.list_metrics(marker=marker)
        assert f"Invalid pagination: `Invalid marker: `{marker}''" == str(e.value)


def test_effective_sorts():
    """What links repeat: the default if nothing was asked for, `asc` spelled out, the unique keys at the end."""
    assert ["id:asc"] == pagination.effective_sorts([], ["id:asc"], ["id"])
    assert ["name:desc", "unit:asc", "id:asc"] == pagination.effective_sorts(["name:desc", "unit"], ["id:asc"], ["id"])
    assert ["id:desc"] == pagination.effective_sorts(["id:desc"], ["id:asc"], ["id"])


def test_created_now(indexer, policies):
    indexer.create_metrics([define()], "me")
    with indexer.reading() as connection:
        row = connection.execute(metric.select()).one()
    assert row.created_at.tzinfo is None
    assert (None, False) == (row.last_measure_timestamp, row.needs_raw_data_truncation)
