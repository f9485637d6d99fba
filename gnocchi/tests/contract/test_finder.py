"""Measures of metrics known by resource and name: what is found, made and refused, on every database."""

import threading
import types
import uuid

import numpy
import pytest

from gnocchi import metric_ids
from gnocchi.exceptions import (
    InvalidInput,
    NoArchivePolicyRuleMatch,
    NoSuchMetric,
    NoSuchResource,
    NoSuchResourceType,
    ResourceAlreadyExists,
)
from gnocchi.incoming.memory import MemoryDriver
from gnocchi.indexer import ArchivePolicyRule
from gnocchi.ingest.batch import NamedBatch, WantedMetric, WantedResource
from gnocchi.ingest.finder import MetricFinder
from gnocchi.ingest.guard import Guard
from gnocchi.tests.databases import StatementCounter
from gnocchi.tests.engine import make_policy

HOST = {"host": {"type": "string", "required": True, "min_length": 1, "max_length": 20}}


class AllOrNothing(Guard):
    """Raises the first refusal, and writes down what it is asked."""

    def __init__(self):
        self.asked = []

    def check_refusals(self, refused):
        raise refused[0][1]

    def check_new_resources(self, type, resources):
        self.asked.append(("resources", type, [each.original_resource_id for each in resources]))

    def check_new_metrics(self, resources, metrics):
        self.asked.append(("metrics", [each.original_resource_id for each in resources], [m.name for m in metrics]))

    def check_posting(self, found, made):
        self.asked.append(("posting", sorted(row.name for row in found), sorted(each.name for each in made)))


class Ingest:
    def __init__(self, indexer):
        self.indexer = indexer
        self.incoming = MemoryDriver(1)
        self.backends = types.SimpleNamespace(indexer=indexer, incoming=self.incoming)
        self.finder = MetricFinder(self.backends)

    def write(self, *measures, type="server", guard=None, finder=None, attributes=None, owner=(None, None),
              **options):
        """Write (resource, name, value) each; return name -> refusal."""
        resources = {
            make_id(text): WantedResource(text, type, {"host": text} if attributes is None else attributes, *owner)
            for text, _, _ in measures}
        batch = NamedBatch(resources, [WantedMetric(make_id(text), name) for text, name, _ in measures],
                           numpy.ones(len(measures), numpy.int64), numpy.arange(len(measures)).view("M8[ns]"),
                           numpy.array([value for _, _, value in measures], numpy.float64))
        refused = (finder or self.finder).write_measures(batch, "me", guard or AllOrNothing(), **options)
        return {measures[row][1]: error for row, error in refused.items()}

    def list_waiting(self):
        """Return {metric id: values} of what was written."""
        found = {}
        backlog = self.incoming.read_backlog(0, {}, 1 << 20)
        if backlog is not None:
            values = numpy.split(backlog.batch.values, numpy.cumsum(backlog.batch.counts)[:-1])
            for id, its_values in zip(metric_ids.unpack_ids(backlog.batch.metric_ids), values, strict=True):
                found.setdefault(id, []).extend(its_values.tolist())
        return found

    def get(self, text):
        return self.indexer.get_resource("generic", make_id(text))


def make_id(text):
    return uuid.uuid5(uuid.NAMESPACE_URL, text)


@pytest.fixture
def ingest(indexer):
    indexer.create_sacks(1)
    indexer.create_archive_policy(make_policy("low", [(60, 60)], ["mean"]))
    indexer.create_archive_policy_rule(ArchivePolicyRule("all", "low", "[!-]*"))
    indexer.create_resource_type("server", HOST)
    return Ingest(indexer)


def test_resources_and_metrics_are_made(ingest):
    """Those that are missing, after asking; measures of all are written in one batch."""
    guard = AllOrNothing()
    ingest.write(("a", "x", 1), ("b", "x", 2), guard=guard)
    ingest.write(("a", "x", 3), ("a", "y", 4), ("c", "x", 5), ("a", "x", 6), guard=guard)
    ingest.write(("a", "y", 7), ("c", "x", 8), guard=guard)
    first, second, third = guard.asked[:3], guard.asked[3:6], guard.asked[6:]
    assert [("resources", "server"), ("metrics", [])] == [asked[:2] for asked in first[:2]]
    assert ["a", "b"] == sorted(first[0][2])
    assert ("posting", [], ["x", "x"]) == first[2]
    assert [("resources", "server", ["c"]), ("metrics", ["a"]), ("posting", ["x"], ["x", "y"])] == [
        second[0], second[1][:2], second[2]]
    assert [("posting", ["x", "y"], [])] == third
    a, b, c = map(ingest.get, "abc")
    assert {a.metrics["x"]: [1, 3, 6], b.metrics["x"]: [2], a.metrics["y"]: [4, 7],
            c.metrics["x"]: [5, 8]} == ingest.list_waiting()
    assert [("server", "me", None, None, "b", {"host": "b"}, -1)] == [
        (b.type, b.creator, b.user_id, b.project_id, b.original_resource_id, b.attributes, b.revision)]


def test_owners_of_resources(ingest):
    """User and project, for a protocol that tells them; an existing resource keeps its own."""
    ingest.write(("a", "x", 1), owner=("u", "p"))
    ingest.write(("a", "y", 1), owner=("v", "q"))
    assert ("u", "p") == (ingest.get("a").user_id, ingest.get("a").project_id)
    refused = ingest.write(("b", "x", 1), owner=("u" * 256, None), guard=Guard())
    assert "user_id is longer than 255 characters" == str(refused["x"])


def test_number_of_statements_is_constant(ingest):
    """One for what is known, and as many for one new metric as for many of many new resources."""
    ingest.write(("z", "z", 0))
    counts = []
    for size in (1, 40):
        measures = [(f"r{size}.{i}", f"m{j}", 1) for i in range(size) for j in range(size)]
        for _ in range(2):
            with StatementCounter(ingest.indexer) as counter:
                ingest.write(*measures)
            counts.append(len([text for text in counter.statements if not text.startswith("BEGIN")]))
    assert counts[:2] == counts[2:]
    assert 1 == counts[1]
    with StatementCounter(ingest.indexer) as counter:
        ingest.write(*measures, finder=MetricFinder(ingest.backends))
    assert counter.count <= 3, "another process finds them"


def test_metric_that_was_moved_or_renamed(ingest):
    """Measures go to the metric that has the name now, whatever is remembered."""
    ingest.write(("a", "x", 1), ("b", "y", 2))
    moved = ingest.get("a").metrics["x"]
    b = ingest.get("b")
    ingest.indexer.update_resource(b, {}, metrics={"y": moved})
    ingest.write(("a", "x", 3), ("b", "y", 4))
    assert ingest.get("b").metrics == {"y": moved}
    assert {moved: [1, 4], b.metrics["y"]: [2], ingest.get("a").metrics["x"]: [3]} == ingest.list_waiting()
    ingest.indexer.update_resource(ingest.get("b"), {}, metrics={"z": moved})
    ingest.write(("b", "z", 5), ("b", "y", 6))
    assert [1, 4, 5] == ingest.list_waiting()[moved]


def test_deleted_is_made_anew(ingest):
    """Metrics, resources, and what others deleted."""
    ingest.write(("a", "x", 1), ("b", "x", 2))
    before = ingest.get("a").metrics["x"]
    ingest.indexer.delete_metrics([before])
    ingest.indexer.delete_resource("server", make_id("b"))
    ingest.write(("a", "x", 3), ("b", "x", 4))
    assert {before, ingest.get("a").metrics["x"], ingest.get("b").metrics["x"]} < set(ingest.list_waiting())
    assert [3] == ingest.list_waiting()[ingest.get("a").metrics["x"]]


def test_resource_of_another_type(ingest):
    """It is no resource of the type that is wanted, also when its metrics are known; generic takes all."""
    ingest.write(("a", "x", 1))
    ingest.indexer.create_resource_type("other", {})
    for name in ("x", "y"):
        with pytest.raises(ResourceAlreadyExists, match=str(make_id("a"))):
            ingest.write(("a", name, 2), type="other")
    ingest.write(("a", "x", 3), type="generic")
    ingest.write(("a", "x", 4), type=None)
    assert {ingest.get("a").metrics["x"]: [1, 3, 4]} == ingest.list_waiting()


def test_refused_alone(ingest):
    """Where the guard lets it pass, the rest is made and written; nothing is left of what is refused."""
    ingest.indexer.create_resource_type("other", {})
    ingest.indexer.create_resource("other", make_id("o"), "me")
    refused = ingest.write(("a", "x", 1), ("a", "-y", 2), ("b", "-z", 3), ("o", "m", 4), ("a", "n" * 256, 5),
                           ("x" * 21, "long host", 6), ("a", "", 7), guard=Guard())
    assert {"-y": NoArchivePolicyRuleMatch, "-z": NoArchivePolicyRuleMatch, "m": ResourceAlreadyExists,
            "n" * 256: InvalidInput, "": InvalidInput, "long host": InvalidInput} == {
        name: type(error) for name, error in refused.items()}
    assert "Attribute host: length of value must be at most 20" == str(refused["long host"])
    assert {ingest.get("a").metrics["x"]: [1]} == ingest.list_waiting()
    for text in ("b", "x" * 21):
        with pytest.raises(NoSuchResource):
            ingest.get(text)
    with pytest.raises(NoArchivePolicyRuleMatch):
        ingest.write(("a", "x", 7), ("a", "-y", 8))
    assert 1 == sum(map(len, ingest.list_waiting().values()))


@pytest.mark.parametrize(("options", "error", "reason"), [
    ({"type": "nope"}, NoSuchResourceType, "nope"), ({"type": None}, NoSuchResource, "a"),
    ({"create": False}, NoSuchMetric, f"{make_id('a')}/x"),
    ({"attributes": {}}, InvalidInput, "Attribute host is required and has no value"),
    ({"attributes": {"host": 5}}, InvalidInput, "Attribute host: expected str"),
])
def test_what_cannot_be_made(ingest, options, error, reason):
    """The reason names what is wrong; nothing is made."""
    with pytest.raises(error, match=reason):
        ingest.write(("a", "x", 1), **options)
    assert {} == ingest.list_waiting()
    with pytest.raises(NoSuchResource):
        ingest.get("a")


def test_many_senders_of_the_same(ingest):
    """Each resource and each metric is made once, and no measure is lost."""
    measures = [(f"r{i % 4}", f"m{i}", i) for i in range(24)]
    errors = []

    def run(number):
        try:
            ingest.write(*measures[number:], *measures[:number], finder=MetricFinder(ingest.backends))
        except Exception as e:
            errors.append(e)

    threads = [threading.Thread(target=run, args=(3 * number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [] == errors
    assert {ingest.get(text).metrics[name]: [value] * 6 for text, name, value in measures} == ingest.list_waiting()
