"""Resource types in the index, on every database: changes of types reach resources and their old revisions."""

import concurrent.futures
import contextlib
import datetime
import uuid

import pytest

from gnocchi import exceptions
from gnocchi.indexer import ResourceType
from gnocchi.tests.databases import StatementCounter

START = datetime.datetime(2024, 2, 29)
TEXT = {"type": "string", "required": False, "min_length": 0, "max_length": 256}
NUMBER = {"type": "number", "required": False, "min": None, "max": None}
BOOL = {"type": "bool", "required": False}
DATE = {"type": "datetime", "required": False}
UUID = {"type": "uuid", "required": False}


def create(indexer, type, **attributes):
    return indexer.create_resource(type, uuid.uuid4(), "me", attributes=attributes)


def revise(indexer, resource, **attributes):
    return indexer.update_resource(resource, {}, attributes=attributes)


def read_history(indexer, resource):
    """Return the attributes of all revisions, the oldest first."""
    return [found.attributes for found in indexer.list_resources("generic", history=True, id=resource.id)]


def test_create(indexer):
    """Attributes keep their order; the name is free for one only."""
    created = indexer.create_resource_type("instance", {"zone": TEXT, "age": NUMBER, "✔é": BOOL})
    assert ResourceType("instance", {"zone": TEXT, "age": NUMBER, "✔é": BOOL}, "active") == created
    found = indexer.get_resource_type("instance")
    assert created == found
    assert ["zone", "age", "✔é"] == list(found.attributes)
    with pytest.raises(exceptions.ResourceTypeAlreadyExists, match="Resource type instance already exists"):
        indexer.create_resource_type("instance", {})
    with pytest.raises(exceptions.InvalidInput, match="Resource type name is longer than 255 characters"):
        indexer.create_resource_type("x" * 256, {})
    assert "Instance" == indexer.create_resource_type("Instance", {}).name


def test_delete(indexer):
    """A type goes when no resource has it; its name is free at once."""
    indexer.create_resource_type("instance", {"a": TEXT})
    resource = create(indexer, "instance", a="x")
    with pytest.raises(exceptions.ResourceTypeInUse, match="Resource type instance is still in use"):
        indexer.delete_resource_type("instance")
    revise(indexer, resource, a="y")
    indexer.delete_resource("generic", resource.id)
    indexer.delete_resource_type("instance")
    with pytest.raises(exceptions.NoSuchResourceType):
        indexer.delete_resource_type("instance")
    with pytest.raises(exceptions.NoSuchResourceType):
        create(indexer, "instance")
    assert {} == indexer.create_resource_type("instance", {}).attributes


def test_generic_stays(indexer):
    with pytest.raises(exceptions.ResourceTypeInUse):
        indexer.delete_resource_type("generic")


@pytest.mark.parametrize(("options", "value"), [
    (TEXT, ""), (TEXT, "☃\"'\\ $.x null"), (NUMBER, 0.0), (NUMBER, -1.5), (NUMBER, 1e308), (NUMBER, 0.1),
    (NUMBER, 5e-324), (NUMBER, 1e23), (BOOL, True), (BOOL, False), (DATE, START.replace(microsecond=1)),
    (UUID, str(uuid.UUID(int=7)))], ids=repr)
def test_fill(indexer, options, value):
    """New attributes get the value everywhere, changed ones where they have none; other types are left alone."""
    indexer.create_resource_type("instance", {"old": options, "other": TEXT})
    indexer.create_resource_type("disk", {"old": options})
    without, disk = create(indexer, "instance", other="it's"), create(indexer, "disk")
    revised = revise(indexer, create(indexer, "instance", other="1"), old=value, other="2")
    seen = indexer.get_resource_type("instance")
    changed = {"old": {**options, "required": True}, "other": TEXT, "new": options}
    assert changed == indexer.update_resource_type(seen, changed, {"old": value, "new": value}).attributes
    filled = {"old": value, "new": value}
    assert [{**filled, "other": "it's"}] == read_history(indexer, without)
    assert [{**filled, "other": "1"}, {**filled, "other": "2"}] == read_history(indexer, revised)
    assert [{"old": None}] == read_history(indexer, disk)


def test_fill_keeps_values(indexer):
    indexer.create_resource_type("instance", {"a": NUMBER, "b": BOOL})
    resource = create(indexer, "instance", a=5.0, b=False)
    seen = indexer.get_resource_type("instance")
    indexer.update_resource_type(seen, seen.attributes, {"a": 7.0, "b": True})
    assert [{"a": 5.0, "b": False}] == read_history(indexer, resource)


@pytest.mark.parametrize("name", ["a", "a.b", "a-b", "a b", "a'b", "a[0]", "a$", "a%s", "a:b", "0", "a*", "aé", "a}{"])
def test_strange_names(indexer, name):
    """Attributes of any name are set, listed, filled and dropped, and no others with them."""
    indexer.create_resource_type("instance", {name: TEXT, "x": TEXT})
    resource = revise(indexer, create(indexer, "instance", **{name: "1", "x": "2"}), **{name: "3"})
    assert [{name: "1", "x": "2"}, {name: "3", "x": "2"}] == read_history(indexer, resource)
    if ":" not in name:
        assert [resource.id] == [found.id for found in indexer.list_resources("instance", sorts=[f"{name}:desc"])]
    seen = indexer.get_resource_type("instance")
    indexer.update_resource_type(seen, {"x": TEXT}, {})
    assert [{"x": "2"}] * 2 == read_history(indexer, resource)
    seen = indexer.get_resource_type("instance")
    indexer.update_resource_type(seen, {"x": TEXT, name: NUMBER}, {name: 1.0})
    assert [{"x": "2", name: 1.0}] * 2 == read_history(indexer, resource)


def test_dropped_without_fill(indexer):
    """An attribute of the same name begins without values."""
    indexer.create_resource_type("instance", {"a": TEXT})
    resource = revise(indexer, create(indexer, "instance", a="1"), a="2")
    indexer.update_resource_type(indexer.get_resource_type("instance"), {}, {})
    indexer.update_resource_type(indexer.get_resource_type("instance"), {"a": NUMBER}, {})
    assert [{"a": None}] * 2 == read_history(indexer, resource)


def test_changed_meanwhile(indexer):
    """A change that was made of what is no more changes nothing; neither do values that were checked against it."""
    seen = indexer.create_resource_type("instance", {"a": TEXT})
    resource = create(indexer, "instance", a="1")
    indexer.update_resource_type(seen, {"b": TEXT}, {})
    with pytest.raises(exceptions.ChangedMeanwhile):
        indexer.update_resource_type(seen, {"c": TEXT}, {})
    with pytest.raises(exceptions.ChangedMeanwhile):
        indexer.create_resource("instance", uuid.uuid4(), "me", attributes={"a": "1"}, checked=seen)
    with pytest.raises(exceptions.ChangedMeanwhile):
        indexer.update_resource(resource, {}, attributes={"a": "1"}, checked=seen)
    assert [{"b": None}] == [found.attributes for found in indexer.list_resources()]
    indexer.delete_resource("instance", resource.id)
    indexer.delete_resource_type("instance")
    with pytest.raises(exceptions.NoSuchResourceType):
        indexer.update_resource_type(seen, {}, {})


def test_at_once(indexer):
    """Types that are made, changed and deleted at once, with their resources, leave nothing half done."""
    def work(number):
        for step in range(6):
            with contextlib.suppress(exceptions.ResourceTypeAlreadyExists):
                indexer.create_resource_type("shared", {"first": TEXT})
            try:
                seen = indexer.get_resource_type("shared")
                name = f"a{number}{step}"
                indexer.update_resource_type(seen, {**seen.attributes, name: NUMBER}, {name: 1.0})
                resource = create(indexer, "shared", first="x")
                revise(indexer, resource, first="y")
                indexer.delete_resource("shared", resource.id)
                indexer.delete_resource_type("shared")
            except (exceptions.NoSuchResourceType, exceptions.ResourceTypeInUse, exceptions.ChangedMeanwhile):
                continue

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        for future in [threads.submit(work, number) for number in range(6)]:
            future.result()
    for resource in indexer.list_resources(history=True):
        found = indexer.get_resource_type(resource.type)
        assert set(found.attributes) == set(resource.attributes)


def test_no_lost_change(indexer):
    """Whoever looks again after each change of others gets all its attributes in, and all resources have them."""
    indexer.create_resource_type("shared", {})
    resources = [create(indexer, "shared") for _ in range(3)]

    def add(name):
        while True:
            seen = indexer.get_resource_type("shared")
            try:
                return indexer.update_resource_type(seen, {**seen.attributes, name: TEXT}, {name: name})
            except exceptions.ChangedMeanwhile:
                continue

    def revise_all(number):
        for resource in resources:
            indexer.update_resource(resource, {"started_at": START.replace(microsecond=number)})

    names = [f"a{i}" for i in range(12)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        done = [threads.submit(add, name) for name in names] + [threads.submit(revise_all, i) for i in range(4)]
        for future in done:
            future.result()
    assert set(names) == set(indexer.get_resource_type("shared").attributes)
    history = indexer.list_resources("shared", history=True)
    assert 3 * 5 == len(history)
    assert all({name: name for name in names} == found.attributes for found in history)


def test_statements_are_constant(indexer):
    """However many resources and types there are."""
    counts = []
    indexer.create_resource_type("instance", {"a": TEXT})
    for size in (1, 20):
        for i in range(size):
            indexer.create_resource_type(f"t{size}{i}", {"b": TEXT})
            revise(indexer, create(indexer, "instance", a="1"), a="2")
            create(indexer, f"t{size}{i}")
        seen = indexer.get_resource_type("instance")
        with StatementCounter(indexer) as counter:
            changed = indexer.update_resource_type(seen, {**seen.attributes, f"n{size}": NUMBER}, {f"n{size}": 1.0})
            indexer.list_resource_types()
            indexer.list_resources()
            indexer.list_resources(history=True)
            indexer.list_resources(changed, history=True)
        counts.append(counter.count)
    assert counts[0] == counts[1]
