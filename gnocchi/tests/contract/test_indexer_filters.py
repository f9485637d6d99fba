"""Filters in SQL mean the same on every database: what a plain evaluation of the tree with three truth values says."""

import datetime
import operator
import random
import uuid

import pytest

from gnocchi.indexer import sampling
from gnocchi.indexer.filters import AllOf, AnyOf, Comparison, Constant, Kind, Membership, Not
from gnocchi.indexer.resource_lists import filter_kinds
from gnocchi.tests.databases import StatementCounter

T1 = datetime.datetime(2024, 2, 29, 23, 59, 59, 999999)
T2 = datetime.datetime(2024, 3, 1)
T3 = datetime.datetime(2024, 3, 1, 0, 0, 0, 1)
U1, U2 = str(uuid.UUID(int=1)), str(uuid.UUID(int=2**127 + 5))

#: Values to set and to compare with; None is not set.
VALUES = {
    "text": [None, "", "a", "A", "a ", "a%", "a_", "ab", "/", "\\", "é", "☃'\""],
    "size": [None, 0.0, -1.5, 0.1, 10.0, 9.0, 1e308, 5e-324, float(2**53)],
    "on": [None, True, False],
    "since": [None, T1, T2, T3],
    "host-id": [None, U1, U2],
    "user_id": [None, "a", "a ", "A", "b"],
    "project_id": [None, "p", "q"],
    "creator": [None, "u:p", "u:q", "v:p", "u", "u:", ":p", "u:p:q"],
    "started_at": [T1, T2],
    "ended_at": [None, T2, T3],
}
EXTRA = {
    "id": [uuid.UUID(int=3), uuid.UUID(int=4)],
    "type": ["instance", "disk", "a"],
    "original_resource_id": ["name 1", "name 2", "x"],
    "created_by_user_id": ["u", "v", "", "a"], "created_by_project_id": ["p", "q", "", "p:q", "%"],
    "lifespan": [0, 1, 2, 10**12], "revision": [-1, 1, 5], "revision_start": [T1, datetime.datetime(2100, 1, 1)],
    "revision_end": [None, T1, datetime.datetime(2100, 1, 1)],
}
PATTERNS = ["a", "a%", "_", "%", "a\\%", "/%", "A%", "", "%☃%", "a_", "\\", "%:p", "00000000-0000-0000-0000-%"]
ATTRIBUTES = {name: {"type": kind, "required": False} for name, kind in (
    ("text", "string"), ("size", "number"), ("on", "bool"), ("since", "datetime"), ("host-id", "uuid"))}
TEXTUAL = {Kind.STRING, Kind.CREATOR_USER, Kind.CREATOR_PROJECT}
ORDERS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
UNORDERED = {Kind.BOOL, Kind.CREATOR_USER, Kind.CREATOR_PROJECT}


@pytest.fixture
def instance(indexer):
    return indexer.create_resource_type("instance", ATTRIBUTES)


def fill(indexer, rng, count):
    """Make resources of random values, some with old revisions."""
    for number in range(count):
        chosen = {name: rng.choice(values) for name, values in VALUES.items()}
        attributes = {name: value for name, value in chosen.items() if name in ATTRIBUTES}
        made = indexer.create_resource(
            "instance", uuid.UUID(int=number), chosen["creator"], user_id=chosen["user_id"],
            project_id=chosen["project_id"], started_at=chosen["started_at"], ended_at=None,
            original_resource_id=f"name {number}", attributes=attributes)
        if rng.random() < 0.5:
            changed = {name: rng.choice(VALUES[name]) for name in ("text", "size", "on")}
            made = indexer.update_resource(made, {"project_id": rng.choice(VALUES["project_id"])},
                                           attributes={k: v for k, v in changed.items() if v is not None})
        if chosen["ended_at"] is not None:
            indexer.update_resource(made, {"ended_at": chosen["ended_at"]})


def value_of(row, name):
    if name in ATTRIBUTES:
        return row.attributes[name]
    user, colon, project = (row.creator or "").partition(":")
    if name == "created_by_user_id":
        return user if colon else None
    if name == "created_by_project_id":
        return project if colon else None
    if name == "lifespan":
        return None if row.ended_at is None else (row.ended_at - row.started_at) // datetime.timedelta(microseconds=1)
    return getattr(row, name)


def matches_pattern(text, pattern):
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(matches_pattern(text[i:], pattern[1:]) for i in range(len(text) + 1))
    return bool(text) and pattern[0] in ("_", text[0]) and matches_pattern(text[1:], pattern[1:])


def evaluate(tree, row):
    """Return True, False or None for unknown, as SQL does."""
    if isinstance(tree, Constant):
        return tree.value
    if isinstance(tree, Not):
        found = evaluate(tree.operand, row)
        return None if found is None else not found
    if isinstance(tree, (AllOf, AnyOf)):
        decisive = isinstance(tree, AnyOf)
        found = [evaluate(each, row) for each in tree.operands]
        return decisive if decisive in found else None if None in found else not decisive
    value = value_of(row, tree.field)
    if isinstance(tree, Membership):
        return None if value is None else value in tree.values
    if tree.value is None:
        return (value is None) == (tree.operator == "=")
    if tree.operator == "!=":
        return value is None or value != tree.value
    if value is None:
        return None
    if tree.operator == "like":
        return matches_pattern(value, tree.value)
    return value == tree.value if tree.operator == "=" else ORDERS[tree.operator](value, tree.value)


def list_conditions(kinds):
    """Every operator on every kind with every value."""
    for name, kind in kinds.items():
        values = VALUES.get(name, EXTRA.get(name))
        for value in values:
            yield from (Comparison(name, sign, value) for sign in ("=", "!="))
            if value is not None and kind not in UNORDERED:
                yield from (Comparison(name, sign, value) for sign in ORDERS)
        given = tuple(value for value in values if value is not None)
        yield from (Membership(name, part) for part in (given[:1], given[1:], given))
        if kind in TEXTUAL or name == "host-id":
            yield from (Comparison(name, "like", pattern) for pattern in PATTERNS)


def check(indexer, type, rows, tree, history):
    found = indexer.list_resources(type, filter=tree, history=history)
    expected = [row for row in rows if evaluate(tree, row) is True]
    assert expected == found, tree


@pytest.mark.parametrize("history", [False, True])
def test_every_condition(indexer, instance, history):
    """As it is, negated, and negated twice."""
    fill(indexer, random.Random(1), 25)
    rows = indexer.list_resources(instance, history=history)
    for condition in list_conditions(filter_kinds(instance, history)):
        if history and condition.field not in ("revision", "revision_end", "size", "created_by_project_id"):
            continue
        check(indexer, instance, rows, AnyOf((condition, Not(Not(condition)))), history)
        check(indexer, instance, rows, Not(condition), history)


@pytest.mark.parametrize("seed", range(3))
def test_random_trees(indexer, instance, seed):
    """Nested and negated in any way, on current resources and on all revisions, through the type."""
    rng = random.Random(seed)
    fill(indexer, rng, 25)
    history = bool(seed % 2)
    rows = indexer.list_resources(instance, history=history)
    conditions = list(list_conditions(filter_kinds(instance, history)))

    def grow(depth):
        kind = rng.random()
        if depth == 0 or kind < 0.2:
            return rng.choice(conditions)
        if kind < 0.4:
            return Not(grow(depth - 1))
        return (AllOf, AnyOf)[kind < 0.7](tuple(grow(depth - 1) for _ in range(rng.randint(1, 3))))

    for _ in range(60):
        check(indexer, instance, rows, grow(rng.randint(1, 4)), history)


def test_pages_of_a_filter(indexer, instance):
    """Pages of what matches, in the order of an attribute."""
    fill(indexer, random.Random(5), 25)
    tree = Not(Comparison("size", ">", 9.0))
    for sorts in (["size:desc"], ["text:asc-nullsfirst", "on"], []):
        whole = indexer.list_resources(instance, filter=tree, sorts=sorts)
        seen, marker = [], None
        while page := indexer.list_resources(instance, filter=tree, sorts=sorts, marker=marker, limit=2):
            seen += page
            marker = page[-1].id
        assert whole == seen


def test_visible_goes_for_markers(indexer):
    """What is hidden cannot be used to begin after it; what does not match the filter any more can."""
    mine, foreign = (indexer.create_resource("generic", uuid.uuid4(), "me", project_id=project)
                     for project in ("mine", "foreign"))
    visible = Comparison("project_id", "=", "mine")
    assert [mine] == indexer.list_resources(visible=visible)
    assert [] == indexer.list_resources(visible=visible, marker=mine.id, filter=Constant(False))
    with pytest.raises(Exception, match="Invalid marker"):
        indexer.list_resources(visible=visible, marker=foreign.id)


def test_long_and_deep(indexer, instance):
    """The largest filter that a client can send compiles and runs."""
    made = indexer.create_resource("instance", uuid.uuid4(), "me", attributes={"text": "v499", "size": 3.0})
    chain = AnyOf(tuple(Comparison("text", "=", f"v{i}") for i in range(500)))
    assert [made] == indexer.list_resources(instance, filter=chain)
    unequal = AllOf(tuple(Comparison("text", "!=", f"w{i}") for i in range(500)))
    assert [made] == indexer.list_resources(instance, filter=unequal)
    deep = Comparison("size", "=", 3.0)
    for _ in range(98):
        deep = AllOf((Not(deep), Not(deep))) if _ < 1 else Not(AnyOf((deep,)))
    assert isinstance(indexer.list_resources(instance, filter=deep, history=True), list)
    many = Membership("size", tuple(float(i) for i in range(5000)))
    assert [made] == indexer.list_resources(instance, filter=many)


@pytest.mark.parametrize("plan", [0, 2])
def test_same_name_in_another_type(indexer, instance, monkeypatch, plan):
    """What resources of another type have under the names of attributes is not looked at, however it is searched."""
    monkeypatch.setattr(sampling, "RARE_SHARE", plan)
    text = {"type": "string", "required": False}
    indexer.create_resource_type("other", dict.fromkeys(ATTRIBUTES, text))
    for number in range(30):
        made = indexer.create_resource("other", uuid.uuid4(), "me", attributes=dict.fromkeys(ATTRIBUTES, f"x{number}"))
        indexer.update_resource(made, {"user_id": "x"})
    fill(indexer, random.Random(1), 8)
    if indexer.dialect == "postgresql":
        with indexer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE resource, resource_history")
    rows = indexer.list_resources(instance, history=True)
    conditions = [each for each in list_conditions(filter_kinds(instance, True)) if each.field in ATTRIBUTES]
    for condition in random.Random(plan).sample(conditions, 20):
        check(indexer, instance, rows, Not(condition), True)
        check(indexer, instance, rows, condition, True)
    for name in ATTRIBUTES:
        assert len(rows) == len(indexer.list_resources(instance, history=True, sorts=[name]))


def test_delete_resources(indexer, instance):
    """All of the type that match, and nothing else, in a constant number of statements; with history."""
    indexer.create_resource_type("disk", ATTRIBUTES)
    disk = indexer.create_resource("disk", uuid.uuid4(), "me", attributes={"text": "a"})
    counts = []
    for count in (1, 20):
        kept = [indexer.create_resource("instance", uuid.uuid4(), "me", attributes={"text": "b"}) for _ in range(2)]
        for _ in range(count):
            made = indexer.create_resource("instance", uuid.uuid4(), "me", attributes={"text": "a"})
            indexer.update_resource(made, {"user_id": "x"})
        with StatementCounter(indexer) as counter:
            assert count == indexer.delete_resources(instance, Comparison("text", "=", "a"))
        counts.append(counter.count)
        assert [disk, *kept] == indexer.list_resources(history=True)
        assert 2 == indexer.delete_resources("instance", Comparison("creator", "=", "me"))
    assert counts[0] == counts[1]
    assert 0 == indexer.delete_resources("generic", Comparison("type", "=", "instance"))
    assert 1 == indexer.delete_resources("generic", Comparison("type", "=", "disk"))
