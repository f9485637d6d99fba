"""Archive policies and rules in the index, on every database."""

import concurrent.futures
import dataclasses
import uuid

import numpy
import pytest

from gnocchi import exceptions
from gnocchi.archive_policy import ArchivePolicy, ArchivePolicyItem
from gnocchi.indexer import ArchivePolicyRule, MetricDefinition
from gnocchi.indexer.archive_policies import match_archive_policy
from gnocchi.indexer.models import metric
from gnocchi.tests.databases import StatementCounter


def make_item(granularity_s, points=None):
    granularity = numpy.timedelta64(int(granularity_s * 10**9), "ns")
    return ArchivePolicyItem(granularity, points, None if points is None else granularity * points)


def make_policy(name="low", back_window=0, items=((3600, 24), (60, 60))):
    return ArchivePolicy(uuid.uuid4(), name, back_window, tuple(make_item(*item) for item in items), ("max", "mean"))


@pytest.fixture
def policy(indexer):
    policy = make_policy()
    indexer.create_archive_policy(policy)
    return policy


@pytest.mark.parametrize("name", ["low", "✔éñ☃ 😀", "a/b", "", "LOW", "x" * 255, "é😀" * 127, "100%s :name"])
def test_policy_round_trip(indexer, name):
    """Every field comes back as it was given, in its order, also fractions of a second and unlimited items."""
    policy = make_policy(name, 3, ((3.6, 1000), (0.000000001, 2**40), (86400, None)))
    indexer.create_archive_policy(policy)
    assert policy == indexer.get_archive_policy(name)
    assert [policy] == indexer.list_archive_policies()


def test_policy_names_differ_by_case(indexer):
    """Names compare by code points: case and accents count."""
    policies = [make_policy(name) for name in ("LOW", "low", "löw", "low2")]
    for policy in policies:
        indexer.create_archive_policy(policy)
    assert sorted(policies, key=lambda p: p.name) == indexer.list_archive_policies()
    with pytest.raises(exceptions.NoSuchArchivePolicy, match="Archive policy Low does not exist"):
        indexer.get_archive_policy("Low")


def test_policy_already_exists(indexer, policy):
    with pytest.raises(exceptions.ArchivePolicyAlreadyExists, match="Archive policy low already exists"):
        indexer.create_archive_policy(make_policy())
    assert policy == indexer.get_archive_policy("low")


def test_policy_created_at_once(indexer):
    """Of threads that create one name, one succeeds."""
    def create(_):
        try:
            indexer.create_archive_policy(make_policy("same"))
        except exceptions.ArchivePolicyAlreadyExists:
            return 0
        return 1

    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        assert 1 == sum(threads.map(create, range(12)))


@pytest.mark.parametrize("policy", [make_policy("x" * 256), make_policy("a\0b"), make_policy("\ud800"),
                                    make_policy(back_window=2**31), make_policy(back_window=-1)],
                         ids=["long", "nul", "surrogate", "large", "negative"])
def test_policy_invalid(indexer, policy):
    with pytest.raises(exceptions.InvalidInput):
        indexer.create_archive_policy(policy)
    assert [] == indexer.list_archive_policies()


def test_policy_update(indexer, policy):
    """Points, timespans and the back window change; the order given last is kept."""
    definition = (make_item(60, 10), make_item(3600))
    changed = dataclasses.replace(policy, definition=definition, back_window=5)
    assert changed == indexer.update_archive_policy("low", definition, 5)
    assert changed == indexer.get_archive_policy("low")
    assert changed == indexer.update_archive_policy("low", None, None)


@pytest.mark.parametrize(("items", "reason"), [
    (((60, 60),), "Archive policy low does not support change: Cannot add or drop granularities"),
    (((60, 60), (3600, 24), (1, 1)), "Archive policy low does not support change: Cannot add or drop granularities"),
    (((61, 60), (3600, 24)), "Archive policy low does not support change: 60.0 granularity interval was changed"),
    (((60, 60), (7200, 24)), "Archive policy low does not support change: 3600.0 granularity interval was changed"),
])
def test_policy_update_unsupported(indexer, policy, items, reason):
    with pytest.raises(exceptions.UnsupportedArchivePolicyChange) as e:
        indexer.update_archive_policy("low", [make_item(*item) for item in items], 7)
    assert reason == str(e.value)
    assert policy == indexer.get_archive_policy("low")


def test_policy_update_missing(indexer):
    with pytest.raises(exceptions.NoSuchArchivePolicy):
        indexer.update_archive_policy("low", None, 1)


def test_policy_lower_back_window_marks_metrics(indexer):
    """Only lowering marks, and only metrics of that policy; the number of statements does not depend on theirs."""
    for policy in (make_policy("a", 5), make_policy("b", 5)):
        indexer.create_archive_policy(policy)
        indexer.create_metrics([MetricDefinition(uuid.uuid4(), policy.name) for _ in range(3)], "me")

    def count_marked():
        with indexer.reading() as connection:
            return sorted(connection.execute(metric.select().where(metric.c.needs_raw_data_truncation)).scalars())

    indexer.update_archive_policy("a", None, 6)
    assert [] == count_marked()
    with StatementCounter(indexer) as counter:
        indexer.update_archive_policy("a", None, 4)
    assert 5 >= counter.count
    assert sorted(m.id for m in indexer.list_metrics({"archive_policy_name": "a"})) == count_marked()


def test_policy_delete(indexer, policy):
    indexer.delete_archive_policy("low")
    assert [] == indexer.list_archive_policies()
    with pytest.raises(exceptions.NoSuchArchivePolicy, match="Archive policy low does not exist"):
        indexer.delete_archive_policy("low")


def test_policy_delete_in_use_by_metric(indexer, policy):
    """A deleted metric holds its policy until it is expunged."""
    metric_id = uuid.uuid4()
    indexer.create_metrics([MetricDefinition(metric_id, "low")], "me")
    with pytest.raises(exceptions.ArchivePolicyInUse, match="Archive policy low is still in use"):
        indexer.delete_archive_policy("low")
    indexer.delete_metrics([metric_id])
    with pytest.raises(exceptions.ArchivePolicyInUse):
        indexer.delete_archive_policy("low")
    indexer.expunge_metrics([metric_id])
    indexer.delete_archive_policy("low")


def test_policy_delete_in_use_by_rule(indexer, policy):
    indexer.create_archive_policy_rule(ArchivePolicyRule("r", "low", "*"))
    with pytest.raises(exceptions.ArchivePolicyInUse):
        indexer.delete_archive_policy("low")
    indexer.delete_archive_policy_rule("r")
    indexer.delete_archive_policy("low")


def test_policy_deleted_while_metrics_are_created(indexer):
    """Either the policy stays or the metrics fail: no metric is left without a policy."""
    def create(number):
        try:
            indexer.create_metrics([MetricDefinition(uuid.uuid4(), f"p{number}")], "me")
        except exceptions.NoSuchArchivePolicy:
            return False
        return True

    def delete(number):
        try:
            indexer.delete_archive_policy(f"p{number}")
        except exceptions.ArchivePolicyInUse:
            return False
        return True

    for number in range(10):
        indexer.create_archive_policy(make_policy(f"p{number}"))
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        for number in range(10):
            created, deleted = threads.submit(create, number), threads.submit(delete, number)
            assert created.result() != deleted.result()


def test_rule_round_trip(indexer, policy):
    rule = ArchivePolicyRule("✔éñ☃", "low", "disk.☃.*")
    indexer.create_archive_policy_rule(rule)
    assert rule == indexer.get_archive_policy_rule("✔éñ☃")
    with pytest.raises(exceptions.ArchivePolicyRuleAlreadyExists, match="Archive policy rule ✔éñ☃ already exists"):
        indexer.create_archive_policy_rule(ArchivePolicyRule("✔éñ☃", "low", "other"))
    assert [rule] == indexer.list_archive_policy_rules()


@pytest.mark.parametrize("rule", [ArchivePolicyRule("x" * 256, "low", "*"), ArchivePolicyRule("r", "low", "*" * 256),
                                  ArchivePolicyRule("r", "low", "\0")])
def test_rule_invalid(indexer, policy, rule):
    with pytest.raises(exceptions.InvalidInput):
        indexer.create_archive_policy_rule(rule)


def test_rule_of_missing_policy(indexer):
    with pytest.raises(exceptions.NoSuchArchivePolicy) as e:
        indexer.create_archive_policy_rule(ArchivePolicyRule("r", "nope", "*"))
    assert "nope" == e.value.archive_policy


def test_rules_order(indexer, policy):
    """Patterns descend and names ascend, by code points on every database."""
    rules = [ArchivePolicyRule(name, "low", pattern) for name, pattern in (
        ("a", "*"), ("b", "disk.*"), ("c", "disk.io.*"), ("d", "Disk.*"), ("e", "[ab]*"), ("f", "é*"), ("g", "😀"),
        ("Z", "disk.*"), ("h", "_"), ("i", "~"), ("j", "-"))]
    for rule in rules:
        indexer.create_archive_policy_rule(rule)
    expected = sorted(sorted(rules, key=lambda r: r.name), key=lambda r: r.metric_pattern, reverse=True)
    assert expected == indexer.list_archive_policy_rules()


def test_rule_rename(indexer, policy):
    for name in ("a", "b"):
        indexer.create_archive_policy_rule(ArchivePolicyRule(name, "low", "*"))
    assert ArchivePolicyRule("c", "low", "*") == indexer.update_archive_policy_rule("a", "c")
    assert ArchivePolicyRule("c", "low", "*") == indexer.update_archive_policy_rule("c", "c")
    with pytest.raises(exceptions.UnsupportedArchivePolicyRuleChange) as e:
        indexer.update_archive_policy_rule("c", "b")
    assert "Archive policy rule c does not support change: Archive policy rule b already exists." == str(e.value)
    with pytest.raises(exceptions.NoSuchArchivePolicyRule, match="Archive policy rule a does not exist"):
        indexer.update_archive_policy_rule("a", "d")
    with pytest.raises(exceptions.InvalidInput):
        indexer.update_archive_policy_rule("c", "x" * 256)
    assert ["b", "c"] == [rule.name for rule in indexer.list_archive_policy_rules()]


def test_rule_missing(indexer):
    with pytest.raises(exceptions.NoSuchArchivePolicyRule, match="Archive policy rule r does not exist"):
        indexer.get_archive_policy_rule("r")
    with pytest.raises(exceptions.NoSuchArchivePolicyRule):
        indexer.delete_archive_policy_rule("r")


@pytest.mark.parametrize(("name", "expected"), [
    ("disk.io.rate", "io"), ("disk.size", "disk"), ("Disk.size", "all"), (None, "all"), ("", "all")])
def test_match(name, expected):
    """The first rule of the list decides; case counts; a nameless metric is the empty name."""
    rules = [ArchivePolicyRule("1", "io", "disk.io.*"), ArchivePolicyRule("2", "disk", "disk.*"),
             ArchivePolicyRule("3", "all", "*")]
    assert expected == match_archive_policy(rules, name)


def test_match_nothing():
    with pytest.raises(exceptions.NoArchivePolicyRuleMatch, match="matching the metric name None"):
        match_archive_policy([ArchivePolicyRule("1", "io", "?*")], None)
