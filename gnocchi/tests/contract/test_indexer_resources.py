"""Resources and resource types in the index, on every database."""

import concurrent.futures
import datetime
import itertools
import uuid

import pytest

from gnocchi import exceptions
from gnocchi.indexer import MetricDefinition, ResourceType
from gnocchi.indexer.models import resource_history, resource_type
from gnocchi.tests.contract.test_indexer_archive_policies import make_policy
from gnocchi.tests.databases import StatementCounter

START = datetime.datetime(2024, 2, 29, 23, 59, 59, 999999)
END = datetime.datetime(2024, 3, 1, 0, 0, 0, 1)
ATTRIBUTES = {"text": {"type": "string", "required": False}, "size": {"type": "number", "required": False},
              "on": {"type": "bool", "required": False}, "since": {"type": "datetime", "required": False},
              "host-id": {"type": "uuid", "required": False}}


@pytest.fixture
def policy(indexer):
    policy = make_policy()
    indexer.create_archive_policy(policy)
    return policy


@pytest.fixture
def instance(indexer):
    """A resource type with one attribute of each kind."""
    with indexer.writing() as connection:
        connection.execute(resource_type.insert(), [
            {"name": name, "attributes": ATTRIBUTES, "state": state, "updated_at": START}
            for name, state in (("instance", "active"), ("broken", "creation_error"))])
    return "instance"


def create(indexer, type="generic", creator="me", **fields):
    return indexer.create_resource(type, uuid.uuid4(), creator, **fields)


def define(policy="low"):
    return MetricDefinition(uuid.uuid4(), policy)


def test_round_trip(indexer):
    """Every field comes back, times to the microsecond."""
    id = uuid.uuid4()
    created = indexer.create_resource("generic", id, "user:project", user_id="✔", project_id="x" * 255,
                                      started_at=START, ended_at=END, original_resource_id="😀" * 289)
    assert (id, "generic", "user:project", "✔", "x" * 255, START, END, "😀" * 289) == (
        created.id, created.type, created.creator, created.user_id, created.project_id, created.started_at,
        created.ended_at, created.original_resource_id)
    assert (None, {}, {}) == (created.revision_end, created.attributes, created.metrics)
    assert created == indexer.get_resource("generic", id)
    assert [created] == indexer.list_resources()


def test_defaults(indexer):
    """Without a start it starts with its first revision; the text of the id stands for the original one."""
    created = create(indexer, creator=None)
    assert created.started_at == created.revision_start
    assert str(created.id) == created.original_resource_id
    assert created.ended_at is None
    assert created.creator is None


def test_ends_when_it_starts(indexer):
    assert START == create(indexer, started_at=START, ended_at=START).ended_at


@pytest.mark.parametrize(("fields", "error", "text"), [
    ({"started_at": END, "ended_at": START}, exceptions.InvalidResource,
     "^Start timestamp cannot be after end timestamp$"),
    ({"ended_at": START}, exceptions.InvalidResource, "^Start timestamp cannot be after end timestamp$"),
    ({"user_id": "x" * 256}, exceptions.InvalidInput, "user_id is longer than 255 characters"),
    ({"project_id": "x" * 256}, exceptions.InvalidInput, "project_id is longer than 255 characters"),
    ({"creator": "x" * 256}, exceptions.InvalidInput, "creator is longer than 255 characters"),
    ({"original_resource_id": "x" * 290}, exceptions.InvalidInput, "longer than 289 characters"),
    ({"user_id": "a\0"}, exceptions.InvalidInput, "NUL"),
    ({"type": "nope"}, exceptions.NoSuchResourceType, "Resource type nope does not exist"),
    ({"type": "broken"}, exceptions.InvalidInput,
     r"Resource type broken state is creation_error \(expected: active\)"),
    ({"metrics": {"x" * 256: define()}}, exceptions.InvalidInput, "Metric name is longer than 255 characters"),
    ({"metrics": {"a": define("nope")}}, exceptions.NoSuchArchivePolicy, "Archive policy nope does not exist"),
    ({"metrics": {"a": define(None)}}, exceptions.NoArchivePolicyRuleMatch, "matching the metric name a$"),
    ({"metrics": {"a": define(), "b": uuid.UUID(int=9)}}, exceptions.NoSuchMetric,
     f"Metric {uuid.UUID(int=9)} does not exist"),
])
def test_create_invalid(indexer, policy, instance, fields, error, text):
    """What cannot be carried out leaves nothing behind."""
    with pytest.raises(error, match=text):
        create(indexer, **fields)
    assert [] == indexer.list_resources()
    assert [] == indexer.list_metrics()


def test_already_exists(indexer, instance):
    """An id is taken whatever the type of its resource."""
    created = create(indexer, "instance")
    for type in ("generic", "instance"):
        with pytest.raises(exceptions.ResourceAlreadyExists, match=f"Resource {created.id} already exists"):
            indexer.create_resource(type, created.id, "you")
    assert [created] == indexer.list_resources()


def test_created_at_once(indexer):
    id = uuid.uuid4()

    def attempt(_):
        try:
            indexer.create_resource("generic", id, "me")
        except exceptions.ResourceAlreadyExists:
            return 0
        return 1

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert 1 == sum(threads.map(attempt, range(12)))


def test_attributes(indexer, instance):
    """All of the type are there, unset ones as None."""
    values = {"text": "☃\"'\\ ", "size": 1.5, "on": False, "since": datetime.datetime(2024, 1, 1),
              "host-id": uuid.UUID(int=1)}
    created = create(indexer, "instance", attributes=values)
    assert {**values, "host-id": str(uuid.UUID(int=1))} == created.attributes
    assert dict.fromkeys(ATTRIBUTES) == create(indexer, "instance", attributes={"text": None}).attributes
    assert created == indexer.get_resource("instance", created.id) == indexer.get_resource("generic", created.id)


def test_attributes_large_and_strange_numbers(indexer, instance):
    for size in (0, -1, 2**53, 1e308, 5e-324, 0.1):
        assert size == create(indexer, "instance", attributes={"size": size}).attributes["size"]


def test_get_through_type(indexer, instance):
    """A typed address finds that type only, `generic` all."""
    generic, typed = create(indexer), create(indexer, "instance")
    assert typed == indexer.get_resource("instance", typed.id)
    for type, id in (("instance", generic.id), ("other", typed.id), ("generic", uuid.UUID(int=4))):
        with pytest.raises(exceptions.NoSuchResource, match=f"Resource {id} does not exist"):
            indexer.get_resource(type, id)
    assert [typed] == indexer.list_resources("instance")
    assert {generic.id, typed.id} == {found.id for found in indexer.list_resources("generic")}
    with pytest.raises(exceptions.NoSuchResourceType):
        indexer.list_resources("nope")


def test_create_with_metrics(indexer, policy):
    """New metrics get the resource's creator; attached ones are renamed and leave their former resource."""
    former = create(indexer, metrics={"old": define(), "stays": define()})
    loose, = indexer.create_metrics([define()], "me")
    created = create(indexer, metrics={"new": define(), "moved": former.metrics["old"], "named": loose.id})
    assert {"new", "moved", "named"} == set(created.metrics)
    assert (former.metrics["old"], loose.id) == (created.metrics["moved"], created.metrics["named"])
    assert "me" == indexer.get_metric(created.metrics["new"]).creator
    assert {"stays": former.metrics["stays"]} == indexer.get_resource("generic", former.id).metrics
    moved = indexer.get_resource_metric(created.id, "moved")
    assert ("moved", created.id) == (moved.name, moved.resource_id)


@pytest.mark.parametrize("creator", ["you", None])
def test_attach_of_another_creator(indexer, policy, creator):
    """Somebody else's metric and a deleted one look as if they did not exist."""
    foreign, = indexer.create_metrics([define()], creator)
    deleted, = indexer.create_metrics([define()], "me")
    indexer.delete_metrics([deleted.id])
    for id in (foreign.id, deleted.id):
        with pytest.raises(exceptions.NoSuchMetric, match=f"Metric {id} does not exist"):
            create(indexer, metrics={"a": id, "b": define()})
    assert [] == indexer.list_resources()
    create(indexer, creator=creator, metrics={"a": foreign.id})


def test_add_metrics(indexer, policy):
    resource = create(indexer, metrics={"a": define()})
    loose, = indexer.create_metrics([define()], "me")
    found = indexer.add_resource_metrics(resource.id, {"c": loose.id, "b": define()})
    assert ["a", "b", "c"] == [m.name for m in found]
    assert found == indexer.list_resource_metrics(resource.id)
    assert found == indexer.add_resource_metrics(resource.id, {})
    assert {"me"} == {m.creator for m in found}
    assert resource.revision_start == indexer.get_resource("generic", resource.id).revision_start


def test_add_metrics_conflicts(indexer, policy):
    """A name that stays taken is refused; metrics of one resource may exchange names."""
    resource = create(indexer, metrics={"a": define(), "b": define()})
    a, b = resource.metrics["a"], resource.metrics["b"]
    for choice in (define(), b):
        with pytest.raises(exceptions.NamedMetricAlreadyExists, match="Named metric a already exists"):
            indexer.add_resource_metrics(resource.id, {"c": define(), "a": choice})
    assert {"a": a, "b": b} == indexer.get_resource("generic", resource.id).metrics
    indexer.add_resource_metrics(resource.id, {"a": b, "b": a})
    assert {"a": b, "b": a} == indexer.get_resource("generic", resource.id).metrics
    with pytest.raises(exceptions.InvalidInput, match="more than one name"):
        indexer.add_resource_metrics(resource.id, {"x": a, "y": a})


def test_add_metrics_at_once(indexer, policy):
    """Of threads that add one name, one succeeds, and none fails in another way."""
    resource = create(indexer)

    def add(_):
        try:
            indexer.add_resource_metrics(resource.id, {"same": define()})
        except exceptions.NamedMetricAlreadyExists:
            return 0
        return 1

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert 1 == sum(threads.map(add, range(12)))


def test_metrics_of_missing_resource(indexer, policy):
    for call in (lambda id: indexer.list_resource_metrics(id), lambda id: indexer.add_resource_metrics(id, {})):
        with pytest.raises(exceptions.NoSuchResource):
            call(uuid.uuid4())
    assert [] == indexer.list_resource_metrics(create(indexer).id)


def test_delete(indexer, policy, instance):
    """Metrics and history go with their resource; the id is free again."""
    resource = create(indexer, "instance", metrics={"a": define(), "b": define()})
    other = create(indexer, metrics={"a": define()})
    with indexer.writing() as connection:
        connection.execute(resource_history.insert(), {
            "id": resource.id, "type": "instance", "original_resource_id": "x", "started_at": START,
            "revision_start": START, "revision_end": END, "attributes": {}})
    with pytest.raises(exceptions.NoSuchResource):
        indexer.delete_resource("other", resource.id)
    indexer.delete_resource("generic", resource.id)
    with pytest.raises(exceptions.NoSuchResource):
        indexer.delete_resource("generic", resource.id)
    assert [other] == indexer.list_resources()
    assert sorted(resource.metrics.values()) == [m.id for m in indexer.list_deleted_metrics(10)]
    with indexer.reading() as connection:
        assert [] == connection.execute(resource_history.select()).all()
    indexer.create_resource("generic", resource.id, "me", metrics={"a": define()})


def test_deleted_while_metrics_are_added(indexer, policy):
    """A metric that came in time is deleted with the resource: none is left alive without it."""
    resources = [create(indexer) for _ in range(10)]

    def add(id):
        try:
            indexer.create_metrics([MetricDefinition(uuid.uuid4(), "low", "m", resource_id=id)], "me")
        except exceptions.NoSuchResource:
            return

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for resource in resources:
            for future in (threads.submit(add, resource.id),
                           threads.submit(indexer.delete_resource, "generic", resource.id)):
                future.result()
    assert [] == indexer.list_metrics()


@pytest.mark.parametrize("limit", [1, 3, 50])
@pytest.mark.parametrize("sorts", [
    [], ["started_at:desc"], ["ended_at:desc-nullslast", "user_id"], ["size:desc-nullslast", "text"],
    ["on:asc-nullsfirst", "since:desc", "host-id"], ["type", "original_resource_id:desc"]], ids=" ".join)
def test_list_pages(indexer, instance, sorts, limit):
    """Pages one after the other give every resource once and in order, whatever lacks a value."""
    values = itertools.product((None, "a", "B"), (None, 10, 9.5, -1), (None, True, False))
    created = [create(indexer, "instance", started_at=START, ended_at=END if size else None, user_id=text,
                      attributes={"text": text, "size": size, "on": on, "since": START if on else None,
                                  "host-id": uuid.UUID(int=7) if size else None})
               for text, size, on in values]
    whole = indexer.list_resources("instance", sorts=sorts)
    seen, marker = [], None
    while True:
        page = indexer.list_resources("instance", sorts=sorts, limit=limit, marker=marker)
        seen += page
        if len(page) < limit:
            break
        marker = page[-1].id
    assert whole == seen
    assert sorted(r.id for r in created) == sorted(r.id for r in seen)


@pytest.mark.parametrize(("sort", "key", "expected"), [
    ("size:asc", "size", [-1, 9.5, 10, None]), ("size:desc", "size", [None, 10, 9.5, -1]),
    ("size:desc-nullslast", "size", [10, 9.5, -1, None]), ("text:asc", "text", ["B", "a", "é", None]),
    ("text:asc-nullsfirst", "text", [None, "B", "a", "é"]), ("on:asc", "on", [False, True, None, None])])
def test_list_by_attribute(indexer, instance, sort, key, expected):
    """Numbers sort as numbers, texts by code points."""
    for size, text, on in ((10, "a", True), (None, "é", None), (9.5, None, False), (-1, "B", None)):
        create(indexer, "instance", attributes={"size": size, "text": text, "on": on})
    found = indexer.list_resources("instance", sorts=[sort])
    assert expected == [resource.attributes.get(key) for resource in found]


def test_list_default_order(indexer):
    """The order in which they were made or last changed."""
    created = [create(indexer, started_at=START) for _ in range(5)]
    assert created == indexer.list_resources()


@pytest.mark.parametrize(("arguments", "reason"), [
    ({"sorts": ["size"]}, "Sort key supplied is invalid: size"),
    ({"sorts": ["metrics:asc"]}, "Sort key supplied is invalid: metrics"),
    ({"marker": uuid.UUID(int=3)}, f"Invalid marker: `{uuid.UUID(int=3)}'")])
def test_list_invalid(indexer, instance, arguments, reason):
    """Attributes are keys for their own type only."""
    with pytest.raises(exceptions.InvalidPagination) as e:
        indexer.list_resources("generic", **arguments)
    assert f"Invalid pagination: `{reason}'" == str(e.value)


def test_statements_are_constant(indexer, policy):
    """Neither the number of resources in a list nor of metrics in a request changes what is run."""
    counts = []
    for size in (1, 30):
        with StatementCounter(indexer) as counter:
            loose = indexer.create_metrics([define() for _ in range(size)], "me")
            choices = {f"new{i}": define() for i in range(size)} | {f"old{i}": m.id for i, m in enumerate(loose)}
            resource = create(indexer, metrics=choices)
            indexer.add_resource_metrics(resource.id, {f"more{i}": define() for i in range(size)})
            indexer.list_resources()
        counts.append(counter.count)
        for _ in range(size):
            create(indexer)
    assert counts[0] == counts[1]


def test_resource_types(indexer, instance):
    broken, generic = ResourceType("broken", ATTRIBUTES, "creation_error"), ResourceType("generic", {}, "active")
    typed = ResourceType("instance", ATTRIBUTES, "active")
    assert [broken, generic, typed] == indexer.list_resource_types()
    assert typed == indexer.get_resource_type("instance")
    with pytest.raises(exceptions.NoSuchResourceType, match="Resource type nope does not exist"):
        indexer.get_resource_type("nope")
