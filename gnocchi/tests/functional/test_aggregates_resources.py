"""`/v1/aggregates` across the metrics of resources: searches, patterns, groups."""

import json
import uuid

import pytest

from gnocchi.tests.functional.service import ApiService
from gnocchi.tests.functional.test_aggregates import Client

R1, R2, R3, R4 = (str(uuid.UUID(int=number)) for number in (1, 2, 3, 4))
TIME = "2015-03-06T14:33:00+00:00"
RESOURCES = {   # id -> (user, project, {metric: value})
    R1: ("u1", "p1", {"cpu.util": 1, "cpu.idle": 2, "disk": 100}),
    R2: ("u1", "p1", {"cpu.util": 3, "cpu.idle": 4}),
    R3: ("u2", "p1", {"cpu.util": 5, "CPU.util": 50}),
    R4: ("u2", "p2", {"net": 7}),
}


@pytest.fixture(scope="module")
def client():
    service = ApiService()
    service.start()
    try:
        made = Client(service.url)
        definition = [{"granularity": 60, "points": 100}]
        assert made.call("POST", "archive_policy", {"name": "fine", "definition": definition})[0] == 201
        for id, (user, project, metrics) in RESOURCES.items():
            body = {"id": id, "user_id": user, "project_id": project,
                    "metrics": {name: {"archive_policy_name": "fine"} for name in metrics}}
            status, text = made.call("POST", "resource/generic", body)
            assert status == 201, text
            for name, value in metrics.items():
                path = f"resource/generic/{id}/metric/{name}/measures"
                assert made.call("POST", path, [{"timestamp": TIME, "value": value}])[0] == 202
                metric = json.loads(text)["metrics"][name]
                assert made.call("GET", f"metric/{metric}/measures?refresh=true")[0] == 200
        yield made
    finally:
        service.stop()


def ask(client, operations, search, query="", type="generic"):
    """Return status and what is said, with values in the place of lists of one measure."""
    body = {"operations": operations, "resource_type": type, "search": search}
    status, text = client.call("POST", f"aggregates?{query}", body)
    return status, simplify(json.loads(text))


def simplify(value):
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) and value[0][:2] == [TIME, 60.0]:
        return value[0][2]
    if isinstance(value, list):
        return [simplify(item) for item in value]
    if isinstance(value, dict):
        return {key: simplify(item) for key, item in value.items()}
    return value


def test_each_metric_by_itself(client):
    assert (200, {"measures": {R1: {"cpu.util": {"mean": 1.0}}, R2: {"cpu.util": {"mean": 3.0}}}}) == ask(
        client, "(metric cpu.util mean)", {"=": {"user_id": "u1"}})


def test_patterns(client):
    """Shell patterns, with regard to case; a metric that two of them match is one series."""
    expected = {R1: {"cpu.util": {"mean": 1.0}, "cpu.idle": {"mean": 2.0}},
                R2: {"cpu.util": {"mean": 3.0}, "cpu.idle": {"mean": 4.0}}, R3: {"cpu.util": {"mean": 5.0}}}
    for operations in ("(metric cpu.* mean)", "(metric (cpu.* mean) (cpu.[ui]* mean))", ["metric", "cpu.????", "mean"]):
        assert (200, {"measures": expected}) == ask(client, operations, {})
    assert (200, {"measures": {"aggregated": 15.0}}) == ask(client, "(aggregate sum (metric cpu.* mean))", {})


@pytest.mark.parametrize("search", [
    "project_id = 'p1' and user_id != 'u1'", {"and": [{"=": {"project_id": "p1"}}, {"!=": {"user_id": "u1"}}]}])
def test_searches(client, search):
    assert (200, {"measures": {"aggregated": 5.0}}) == ask(client, "(aggregate max (metric cpu.util mean))", search)


def test_arithmetic_goes_by_resource(client):
    """Two series of each resource; what one of them lacks is said, not dropped."""
    operations = "(+ (metric cpu.util mean) (metric cpu.idle mean))"
    assert (200, {"measures": {R1: {"cpu.util": {"mean": 3.0}}, R2: {"cpu.util": {"mean": 7.0}}}}) == ask(
        client, operations, {"=": {"user_id": "u1"}})
    status, answer = ask(client, operations, {})
    assert 400 == status
    assert "Metrics cannot be aggregated" == answer["description"]["cause"]
    assert "there must be as many on both sides" in answer["description"]["reason"]


def test_groups(client):
    """Attributes once and in order; groups without such metrics are left out."""
    status, answer = ask(client, "(aggregate sum (metric cpu.util mean))", {},
                         "groupby=user_id&groupby=project_id&groupby=user_id")
    assert (200, [
        {"group": {"project_id": "p1", "user_id": "u1"}, "measures": {"measures": {"aggregated": 4.0}}},
        {"group": {"project_id": "p1", "user_id": "u2"}, "measures": {"measures": {"aggregated": 5.0}}},
    ]) == (status, answer)


@pytest.mark.parametrize("attribute", ["id", "original_resource_id", "type", "started_at", "ended_at", "creator"])
def test_groups_by_any_attribute(client, attribute):
    status, answer = ask(client, "(aggregate sum (metric cpu.util mean))", {}, f"groupby={attribute}")
    assert 200 == status
    assert 9.0 == sum(group["measures"]["measures"]["aggregated"] for group in answer)
    shown = {json.loads(client.call("GET", f"resource/generic/{id}")[1])[attribute] for id in (R1, R2, R3)}
    assert shown == {group["group"][attribute] for group in answer}


def test_details(client):
    """The resources used, each with its metrics."""
    status, answer = ask(client, "(aggregate sum (metric cpu.util mean))", {}, "details=true&groupby=user_id")
    assert 200 == status
    assert [[R1, R2], [R3]] == [[found["id"] for found in group["measures"]["references"]] for group in answer]
    alone = json.loads(client.call("GET", f"resource/generic/{R3}")[1])
    assert alone == answer[1]["measures"]["references"][0]


@pytest.mark.parametrize(("operations", "search", "query", "status", "description"), [
    ("(metric (b mean) (a* max) (b max))", {}, "", 404, "Metric ['a*', 'b'] does not exist"),
    ("(metric net mean)", {"=": {"user_id": "nobody"}}, "", 404, "Metric ['net'] does not exist"),
    ("(metric net mean)", {}, "groupby=unit", 400, "Invalid pagination: `Sort key supplied is invalid: unit'"),
    ("(metric net mean)", {}, "groupby=metrics", 400, "Invalid pagination: `Sort key supplied is invalid: metrics'"),
    ("(metric net mean)", {"=": {"nosuch": 1}}, "", 400, "Resource type generic has no nosuch attribute"),
    ("(metric net wtf)", {}, "", 404, None),
    ("(metric net mean)", None, "", 400, None),
    ("(metric net mean)", {"wtf": {}}, "", 400, None),
    ("(metric net mean)", "user_id", "", 400, None),
    (["metric", *([f"{number}?", "mean"] for number in range(101))], {}, "", 400, {
        "cause": "Invalid input", "reason": "Too many metrics for dictionary value @ data['operations']",
        "detail": ["operations"], "explanation": "101 names with wildcards, of at most 100"}),
    ("(metric)", {}, "", 400, None),
])
def test_what_cannot_be_answered(client, operations, search, query, status, description):
    found, answer = ask(client, operations, search, query)
    assert status == found
    assert description in (None, answer["description"])


def test_missing_search_and_unknown_type(client):
    body = {"operations": "(metric net mean)", "resource_type": "generic"}
    status, text = client.call("POST", "aggregates", body)
    assert (400, ["search"]) == (status, json.loads(text)["description"]["detail"])
    status, text = client.call("POST", "aggregates", body | {"resource_type": "nope", "search": {}})
    assert (400, {"cause": "Resource type does not exist", "detail": "nope"}) == (
        status, json.loads(text)["description"])


def test_errors_name_metrics_as_the_client_does(client):
    status, answer = ask(client, "(metric cpu.util mean)", {"=": {"user_id": "u2"}}, "granularity=1")
    assert (400, [["cpu.util", "mean", 1.0]]) == (status, answer["description"]["detail"])


def aggregate(client, name, query="", body=None, type="generic", method="POST"):
    """Return status and what is said, by the deprecated endpoint."""
    status, text = client.call(method, f"aggregation/resource/{type}/metric/{name}?{query}", body)
    answer = json.loads(text)
    return status, simplify(answer["description"] if isinstance(answer, dict) else answer)


@pytest.mark.parametrize(("name", "query", "body", "expected"), [
    ("cpu.util", "", None, 3.0), ("cpu.util", "reaggregation=sum", None, 9.0), ("cpu.util", "", {}, 3.0),
    ("cpu.util", "", {"=": {"user_id": "u1"}}, 2.0), ("cpu.util", "filter=user_id%3D%27u1%27", None, 2.0),
    ("cpu.util", "filter=user_id%3D%27u1%27", {"=": {"user_id": "u2"}}, 5.0),
    ("cpu.*", "", None, []), ("cpu.util", "", {"=": {"user_id": "nobody"}}, []),
    ("cpu.util", "groupby=user_id", None, [{"group": {"user_id": "u1"}, "measures": 2.0},
                                           {"group": {"user_id": "u2"}, "measures": 5.0}]),
    ("cpu.util", "groupby=id", None, [{"group": {"id": id}, "measures": value} for id, value in (
        (R1, 1.0), (R2, 3.0), (R3, 5.0), (R4, []))]),
    ("cpu.util", "groupby=user_id&reaggregation=count&granularity=60&resample=3600&fill=7&needed_overlap=0", None, [
        {"group": {"user_id": "u1"}, "measures": [["2015-03-06T14:00:00+00:00", 3600.0, 2.0]]},
        {"group": {"user_id": "u2"}, "measures": [["2015-03-06T14:00:00+00:00", 3600.0, 5.0]]}]),
    ("net", "groupby=user_id", None, [{"group": {"user_id": "u1"}, "measures": []},
                                      {"group": {"user_id": "u2"}, "measures": 7.0}]),
])
def test_deprecated_endpoint(client, name, query, body, expected):
    assert (200, expected) == aggregate(client, name, query, body)


@pytest.mark.parametrize(("query", "body", "type", "status", "description"), [
    ("groupby=nosuch", None, "generic", 400, "Invalid groupby attribute"),
    ("", {"=": {"nosuch": 1}}, "generic", 400, "Resource type generic has no nosuch attribute"),
    ("", None, "nope", 404, "Resource type nope does not exist"),
    ("start=x", None, "generic", 400, {"cause": "Argument value error", "detail": "start",
                                       "reason": "Must be a datetime or a timestamp"}),
])
def test_deprecated_endpoint_with_mistakes(client, query, body, type, status, description):
    assert (status, description) == aggregate(client, "cpu.util", query, body, type)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "resource/generic/metric/cpu.util", 405), ("POST", "resource/generic/metric", 405),
    ("POST", "resource/generic", 405), ("POST", "resource", 405), ("POST", "nope/generic/metric/x", 404),
    ("POST", "resource/generic/nope/x", 404), ("POST", "resource/generic/metric/cpu.util/x", 404)])
def test_paths_that_are_none(client, method, path, status):
    assert status == client.call(method, f"aggregation/{path}")[0]


@pytest.fixture(scope="module")
def moved(client):
    """A resource of a type whose flavor changed now; measures of long ago, of now and of the far future."""
    attributes = {"flavor": {"type": "string", "required": False}}
    assert client.call("POST", "resource_type", {"name": "instance", "attributes": attributes})[0] == 201
    definition = [{"granularity": 60, "points": 100_000_000}]
    assert client.call("POST", "archive_policy", {"name": "long", "definition": definition})[0] == 201
    body = {"id": str(uuid.uuid4()), "flavor": "small", "metrics": {"cpu": {"archive_policy_name": "long"}}}
    status, text = client.call("POST", "resource/instance", body)
    assert status == 201
    assert client.call("PATCH", f"resource/instance/{body['id']}", {"flavor": "big"})[0] == 200
    measures = [{"timestamp": "2015-03-06T14:33:00", "value": 3}, {"timestamp": "2015-03-06T14:34:00", "value": 4},
                {"timestamp": "2099-01-01T00:00:00", "value": 5}]
    for measure in measures:
        assert client.call("POST", f"resource/instance/{body['id']}/metric/cpu/measures", [measure])[0] == 202
        metric = json.loads(text)["metrics"]["cpu"]
        assert client.call("GET", f"metric/{metric}/measures?refresh=true")[0] == 200
    return body["id"]


def ask_by_flavor(client, query, operations="(aggregate mean (metric cpu mean))", search=None):
    status, answer = client.call("POST", f"aggregates?groupby=flavor&{query}", {
        "operations": operations, "resource_type": "instance", "search": {} if search is None else search})
    answer = json.loads(answer)
    return status, {group["group"]["flavor"]: group["measures"] for group in answer} if status == 200 else answer


def test_history(client, moved):
    """What was before the change counts for the old flavor, the rest for the new one."""
    _, without = ask_by_flavor(client, "use_history=false")
    assert {"big": 3} == {flavor: len(found["measures"]["aggregated"]) for flavor, found in without.items()}
    status, answer = ask_by_flavor(client, "use_history=true&details=true")
    assert (200, ["big", "small"]) == (status, list(answer))
    assert [["2099-01-01T00:00:00+00:00", 60.0, 5.0]] == answer["big"]["measures"]["aggregated"]
    assert [3.0, 4.0] == [value for _, _, value in answer["small"]["measures"]["aggregated"]]
    (new,), (old,) = answer["big"]["references"], answer["small"]["references"]
    assert (moved, "big", None) == (new["id"], new["flavor"], new["search_end"])
    assert (moved, "small", None) == (old["id"], old["flavor"], old["search_start"])
    assert new["search_start"] == old["search_end"]


def test_history_with_a_window(client, moved):
    """The first revision counts from `start` on, though the resource was made later; a group without points is none."""
    status, answer = ask_by_flavor(client, "use_history=true&start=2015-03-06&stop=2015-03-07")
    assert 404 == status, answer        # no revision is of that time
    status, answer = ask_by_flavor(client, "use_history=true&start=2015-03-06T14:34:00&stop=2098-01-01")
    assert (200, ["small"]) == (status, list(answer))
    assert [4.0] == [value for _, _, value in answer["small"]["measures"]["aggregated"]]


def test_history_without_aggregation(client, moved):
    """A search that matches a later revision only counts from its beginning."""
    status, answer = ask_by_flavor(client, "use_history=true", "(metric cpu mean)", {"=": {"flavor": "big"}})
    assert (200, {"big": {moved: {"cpu": {"mean": [["2099-01-01T00:00:00+00:00", 60.0, 5.0]]}}}}) == (
        status, {flavor: found["measures"] for flavor, found in answer.items()})


@pytest.mark.parametrize(("groupby", "status"), [("nosuch", 400), ("metrics", 400), ("flavor", 200)])
def test_history_by_attributes(client, moved, groupby, status):
    found, _ = client.call("POST", f"aggregates?use_history=true&groupby={groupby}", {
        "operations": "(aggregate mean (metric cpu mean))", "resource_type": "instance", "search": {}})
    assert status == found


def test_history_details_are_of_what_was_used(client, moved):
    """Not of resources of the group that have no such metric."""
    assert client.call("POST", "resource/instance", {"id": str(uuid.uuid4()), "flavor": "big"})[0] == 201
    status, answer = ask_by_flavor(client, "use_history=true&details=true")
    assert (200, [moved]) == (status, [resource["id"] for resource in answer["big"]["references"]])
