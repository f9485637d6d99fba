"""Changes of resources and their history, on every database."""

import concurrent.futures
import datetime
import itertools
import uuid

import pytest

from gnocchi import exceptions
from gnocchi.indexer import CURRENT_REVISION, MetricDefinition
from gnocchi.tests.contract.test_indexer_archive_policies import make_policy
from gnocchi.tests.databases import StatementCounter

START = datetime.datetime(2024, 2, 29, 23, 59, 59, 999999)
END = datetime.datetime(2024, 3, 1, 0, 0, 0, 1)
ATTRIBUTES = {"flavor": {"type": "string", "required": False}, "size": {"type": "number", "required": False}}


@pytest.fixture
def policy(indexer):
    indexer.create_archive_policy(make_policy())


@pytest.fixture
def instance(indexer):
    return indexer.create_resource_type("instance", ATTRIBUTES)


def create(indexer, type="generic", creator="me", **fields):
    return indexer.create_resource(type, uuid.uuid4(), creator, **fields)


def define(policy="low"):
    return MetricDefinition(uuid.uuid4(), policy)


def read_history(indexer, resource, **arguments):
    return indexer.list_resources(resource.type, history=True, id=resource.id, **arguments)


def test_revision(indexer, instance):
    """The former state is kept as it was, and ends when the next one begins."""
    first = create(indexer, "instance", user_id="a", started_at=START, attributes={"flavor": "small", "size": 1.0})
    second = indexer.update_resource(first, {"user_id": "b", "ended_at": END}, attributes={"size": 2.0})
    third = indexer.update_resource(second, {"project_id": "p", "user_id": None, "started_at": END})
    assert ("b", None, START, END, {"flavor": "small", "size": 2.0}) == (
        second.user_id, second.project_id, second.started_at, second.ended_at, second.attributes)
    assert (None, "p", END, END, {"flavor": "small", "size": 2.0}) == (
        third.user_id, third.project_id, third.started_at, third.ended_at, third.attributes)
    assert first.revision_start < second.revision_start < third.revision_start
    history = read_history(indexer, first)
    assert third == history[-1] == indexer.get_resource("instance", first.id)
    assert [second.revision_start, third.revision_start, None] == [found.revision_end for found in history]
    old = [found.of_revision(CURRENT_REVISION, None) for found in history]
    assert [first, second, third] == old
    assert history[0].revision < history[1].revision
    assert CURRENT_REVISION == history[2].revision


def test_revision_numbers_start_at_one(indexer):
    resource = create(indexer)
    indexer.update_resource(resource, {"user_id": "a"})
    assert [1, CURRENT_REVISION] == [found.revision for found in read_history(indexer, resource)]


@pytest.mark.parametrize("values", [{}, {"user_id": "a"}, {"started_at": START, "project_id": None}])
def test_unchanged(indexer, instance, values):
    """Values that are there already make no revision."""
    resource = create(indexer, "instance", user_id="a", started_at=START, attributes={"flavor": "x", "size": 1e22})
    assert resource == indexer.update_resource(resource, values, attributes={"size": 1e22, "flavor": "x"})
    assert [resource] == read_history(indexer, resource)


def test_metrics_replaced(indexer, policy):
    """The metrics named are the ones it has from now on; others live on without it.  No revision is made."""
    loose, = indexer.create_metrics([define()], "me")
    resource = create(indexer, metrics={"a": define(), "b": define()})
    changed = indexer.update_resource(resource, {}, metrics={"a": define(), "c": resource.metrics["b"], "d": loose.id})
    assert {"a", "c", "d"} == set(changed.metrics)
    assert (resource.metrics["b"], loose.id) == (changed.metrics["c"], changed.metrics["d"])
    assert resource.metrics["a"] != changed.metrics["a"]
    assert indexer.get_metric(resource.metrics["a"]).resource_id is None
    assert resource.revision_start == changed.revision_start
    assert changed == indexer.update_resource(changed, {})
    assert {} == indexer.update_resource(changed, {}, metrics={}).metrics
    assert [changed.revision_start] == [found.revision_start for found in read_history(indexer, resource)]


def test_metrics_of_all_revisions_are_the_current_ones(indexer, policy):
    resource = create(indexer, metrics={"a": define()})
    resource = indexer.update_resource(resource, {"user_id": "x"}, metrics={"b": define()})
    assert [resource.metrics] * 2 == [found.metrics for found in read_history(indexer, resource)]


@pytest.mark.parametrize(("values", "metrics", "error", "text"), [
    ({"ended_at": START}, None, exceptions.InvalidResource,
     "^Value 2024-02-29T23:59:59.999999[+]00:00 for attribute ended_at on resource type generic is invalid$"),
    ({"started_at": END + (END - START)}, None, exceptions.InvalidResource, "for attribute started_at on resource"),
    ({"user_id": "x" * 256}, None, exceptions.InvalidInput, "user_id is longer than 255 characters"),
    ({"user_id": "new"}, {"b": uuid.UUID(int=9)}, exceptions.NoSuchMetric, f"Metric {uuid.UUID(int=9)} does not exist"),
    ({"user_id": "new"}, {"b": define("nope")}, exceptions.NoSuchArchivePolicy, "nope"),
    ({"user_id": "new"}, {"b": define(None)}, exceptions.NoArchivePolicyRuleMatch, "b$"),
])
def test_invalid(indexer, policy, values, metrics, error, text):
    """What cannot be done as a whole is not done in part."""
    resource = create(indexer, started_at=END, ended_at=END, user_id="old", metrics={"a": define()})
    with pytest.raises(error, match=text):
        indexer.update_resource(resource, values, metrics=metrics)
    assert [resource] == read_history(indexer, resource)


def test_foreign_metric_is_not_attached(indexer, policy):
    foreign, = indexer.create_metrics([define()], "you")
    resource = create(indexer)
    with pytest.raises(exceptions.NoSuchMetric):
        indexer.update_resource(resource, {}, metrics={"a": foreign.id})
    assert foreign == indexer.get_metric(foreign.id)


def test_seen(indexer):
    """A change is for the resource whose owner was seen, and for its revision if that matters."""
    resource = create(indexer, project_id="mine")
    changed = indexer.update_resource(resource, {"started_at": START})
    for call in (lambda: indexer.update_resource(resource, {"started_at": END}, same_revision=True),
                 lambda: indexer.delete_resource("generic", resource.id, resource, True)):
        with pytest.raises(exceptions.ChangedMeanwhile):
            call()
    again = indexer.update_resource(resource, {"started_at": END})
    indexer.delete_resource("generic", resource.id)
    foreign = indexer.create_resource("generic", resource.id, "you", project_id="mine")
    for call in (lambda: indexer.update_resource(again, {"user_id": "x"}),
                 lambda: indexer.add_resource_metrics(again.id, {}, again),
                 lambda: indexer.delete_resource("generic", again.id, again)):
        with pytest.raises(exceptions.ChangedMeanwhile):
            call()
    assert [foreign] == indexer.list_resources()
    assert changed.revision_start < again.revision_start
    indexer.delete_resource("generic", foreign.id, foreign, True)
    with pytest.raises(exceptions.NoSuchResource):
        indexer.update_resource(foreign, {"user_id": "x"})


def test_no_lost_revision(indexer, instance):
    """Of changes at once each makes one revision; together they tell one story without gaps."""
    resource = create(indexer, "instance", started_at=START)

    def change(number):
        for step in range(5):
            started_at = START + datetime.timedelta(number, step)
            indexer.update_resource(resource, {"started_at": started_at}, attributes={"flavor": str(started_at)})

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(change, number) for number in range(8)]:
            future.result()
    history = read_history(indexer, resource)
    assert 41 == len({found.attributes["flavor"] for found in history}) == len(history)
    assert [str(found.started_at) for found in history[1:]] == [found.attributes["flavor"] for found in history[1:]]
    for before, after in itertools.pairwise(history):
        assert before.revision_end == after.revision_start
        assert before.revision_start < after.revision_start


def test_everything_at_once(indexer, instance, policy):
    """Resources and metrics that are made, changed and deleted at once end in a state that some order explains."""
    shared = [uuid.UUID(int=i) for i in range(3)]

    def work(number):
        for step, id in enumerate(shared * 3):
            try:
                created = indexer.create_resource("instance", id, "me", metrics={"m": define()}, started_at=START,
                                                  attributes={"size": float(number)})
                indexer.add_resource_metrics(id, {f"n{number}": define()}, created)
            except (exceptions.ResourceAlreadyExists, exceptions.NoSuchResource, exceptions.ChangedMeanwhile):
                pass
            try:
                seen = indexer.get_resource("generic", id)
                metrics = {"m": define(), "kept": seen.metrics["m"]} if "m" in seen.metrics else {}
                indexer.update_resource(seen, {"ended_at": seen.started_at + (END - START) * number},
                                        attributes={"flavor": str(step)}, metrics=metrics)
                if step % 3 == number % 3:
                    indexer.delete_resource("instance", id, seen)
            except (exceptions.NoSuchResource, exceptions.NoSuchMetric, exceptions.ChangedMeanwhile):
                continue

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        for future in [threads.submit(work, number) for number in range(8)]:
            future.result()
    alive = {found.id: found for found in indexer.list_resources()}
    for found in indexer.list_metrics():
        assert found.resource_id is None or alive[found.resource_id].metrics[found.name] == found.id
    for resource in alive.values():
        for before, after in itertools.pairwise(read_history(indexer, resource)):
            assert before.revision_end == after.revision_start


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
@pytest.mark.parametrize("sorts", [[], ["id:desc"], ["revision:desc"], ["revision_end:asc-nullsfirst", "size:desc"],
                                   ["size:desc-nullslast", "type"]], ids=" ".join)
def test_history_pages(indexer, instance, sorts, limit):
    """Pages of revisions, one after the other, give each once and in order."""
    for size in (None, 1.0, 2.0, 1.0):
        resource = create(indexer, "instance", attributes={"size": size})
        for flavor in ("a", "b")[:int(size or 0)]:
            resource = indexer.update_resource(resource, {}, attributes={"flavor": flavor})
    whole = indexer.list_resources("instance", history=True, sorts=sorts)
    seen, marker, revision = [], None, CURRENT_REVISION
    while True:
        page = indexer.list_resources("instance", history=True, sorts=sorts, limit=limit, marker=marker,
                                      marker_revision=revision)
        seen += page
        if len(page) < limit:
            break
        marker, revision = page[-1].id, page[-1].revision
    assert whole == seen
    assert 8 == len({(found.id, found.revision) for found in seen}) == len(seen)


def test_marker_of_another_list(indexer):
    """Old revisions mark places in lists of revisions only, and a current one never has a number."""
    resource = indexer.update_resource(create(indexer), {"user_id": "a"})
    for arguments in ({"marker_revision": 1}, {"history": True, "marker_revision": 99}):
        with pytest.raises(exceptions.InvalidPagination, match="Invalid marker"):
            indexer.list_resources(marker=resource.id, **arguments)


def test_statements_are_constant(indexer, instance, policy):
    """A change of 30 metrics costs as many statements as one of a single metric."""
    counts = []
    for size in (1, 30):
        resource = create(indexer, "instance", metrics={f"o{i}": define() for i in range(size)})
        with StatementCounter(indexer) as counter:
            choices = {f"n{i}": define() for i in range(size)}
            choices |= {f"r{i}": id for i, id in enumerate(resource.metrics.values())}
            indexer.update_resource(resource, {"user_id": "x"}, attributes={"flavor": "y"}, metrics=choices)
            read_history(indexer, resource)
            indexer.delete_resource("generic", resource.id)
        counts.append(counter.count)
    assert counts[0] == counts[1]
