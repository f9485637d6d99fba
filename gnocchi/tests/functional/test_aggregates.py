"""`/v1/aggregates` and `/v1/aggregation/metric` over HTTP: the 56 golden examples of the contract and their borders.

`expect` is what the original answers.  Where that is a defect or debatable, `right` is what a user expects, and `why`
says so.
"""

import json
import math
import pathlib
import urllib.error
import urllib.parse
import urllib.request
import uuid

import pytest

from gnocchi.tests.functional.service import ApiService

EXAMPLES = json.loads(pathlib.Path(__file__).with_name("golden_aggregates.json").read_text())

DAY, PREFIX = "2015-03-06T14:", "2015-03-06T14:"
SERIES = {
    "M1": (DAY, {"33:57": 43.1, "34:12": 12, "34:15": -16, "35:12": 9, "35:15": 11}),
    "M2": (DAY, {"33:57": 2, "34:12": 4, "34:16": 5, "35:12": 10, "35:15": 15}),
    "M3": (DAY, {"33:57": 2}),
    "M4": ("2017-04-06T14:", {"33:57": 20, "34:12": 10}),
    "M5": (DAY, {}),
}
POINTS_MAX = 1000
HEADERS = {"Authorization": "basic YWRtaW46", "Content-Type": "application/json", "Accept": "application/json"}


class Client:
    """A service with the metrics of the contract; their ids and names stand for each other."""

    def __init__(self, url):
        self._url = url
        self.ids = {}

    def call(self, method, path, body=None, headers=None):
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._url}/v1/{path}", data, HEADERS | (headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def load(self):
        for name, seconds in {"fine": (1, 60), "odd": (5,)}.items():
            definition = [{"granularity": granularity, "points": 100_000} for granularity in seconds]
            assert self.call("POST", "archive_policy", {"name": name, "definition": definition})[0] == 201
        for name, (day, points) in SERIES.items():
            status, text = self.call("POST", "metric", {"archive_policy_name": "odd" if name == "M3" else "fine"})
            assert status == 201
            self.ids[name] = json.loads(text)["id"]
            measures = [{"timestamp": day + time, "value": value} for time, value in points.items()]
            assert self.call("POST", f"metric/{self.ids[name]}/measures", measures)[0] == 202
            assert self.call("GET", f"metric/{self.ids[name]}/measures?refresh=true")[0] == 200

    def named(self, text):
        """Put ids in the place of names."""
        for name, id in self.ids.items():
            text = text.replace(name, id)
        return text

    def ask(self, operations, query="", **body):
        """Return status and answer of the aggregates API, with names in the place of ids."""
        operations = json.loads(self.named(json.dumps(operations)))
        status, text = self.call("POST", f"aggregates?{query}", {"operations": operations, **body})
        for name, id in self.ids.items():
            text = text.replace(id, name)
        return status, json.loads(text)


@pytest.fixture(scope="module")
def client():
    service = ApiService({"api": {"aggregates_max_points": POINTS_MAX}})
    service.start()
    try:
        made = Client(service.url)
        made.load()
        yield made
    finally:
        service.stop()


def shorten(value):
    """Return an answer as the examples write it."""
    if isinstance(value, dict):
        return {key: shorten(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shorten(item) for item in value]
    if isinstance(value, str):
        return value.removeprefix(PREFIX).removesuffix("+00:00")
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    return value


def expected_of(example):
    expected = example.get("right") or example["expect"]
    return expected.get("status", 200), expected.get("description", expected)


def approximately(value):
    """Return an expectation that tolerates the last bit of floats, whose additions have no order."""
    if isinstance(value, dict):
        return {key: approximately(item) for key, item in value.items()}
    if isinstance(value, list):
        return [approximately(item) for item in value]
    return pytest.approx(value, rel=1e-14) if isinstance(value, float) else value


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["id"])
def test_golden(client, example):
    status, answer = client.ask(example["operations"], example["query"])
    wanted, expected = expected_of(example)
    assert wanted == status, answer
    assert approximately(expected) == shorten(answer.get("description", answer))


def test_every_example_is_kept_or_decided():
    assert 56 == len(EXAMPLES)
    assert [] == [example["id"] for example in EXAMPLES if example["status"] != "keep" and "right" not in example]


@pytest.mark.parametrize(("operations", "reason", "detail"), [
    ([], "Operation must not be empty for dictionary value @ data['operations']", ["operations"]),
    ("()", "Operation must not be empty for dictionary value @ data['operations']", ["operations"]),
    ({}, "Expected a tuple/list, got a <class 'dict'> for dictionary value @ data['operations']", ["operations"]),
    (["metric"], "Operation need at least one argument for dictionary value @ data['operations']", ["operations"]),
    (["foo", 1], "'foo' operation invalid for dictionary value @ data['operations']", ["operations"]),
    ("(neg (aggregate wtf (metric M1 mean)))", "'neg' operation invalid for dictionary value @ data['operations']",
     ["operations"]),
    ("(rolling mean 2.5 (metric M1 mean))", "'rolling' operation invalid for dictionary value @ data['operations']",
     ["operations"]),
    ("(metric ((M1 mean)))", "expected str @ data['operations'][0]", ["operations", "0"]),
])
def test_invalid_operations(client, operations, reason, detail):
    status, answer = client.ask(operations)
    assert 400 == status
    told = answer["description"]
    assert ("Invalid input", reason, detail) == (told["cause"], told["reason"], told["detail"])


def test_invalid_operations_say_where(client):
    _, answer = client.ask("(neg (aggregate wtf (metric M1 mean)))")
    assert "`wtf' is no aggregation that `aggregate' knows, at operations[1][1]" == answer["description"]["explanation"]


@pytest.mark.parametrize(("operations", "status", "description"), [
    ("metric", 400, {"cause": "Invalid operations", "reason": "Fail to parse the operations string",
                     "detail": "expected '(', found 'metric'  (at char 0)"}),
    (["+", 1, 2], 400, {"cause": "Operations is invalid", "reason": "At least one 'metric' is required",
                        "detail": ["+", 1, 2]}),
    ("(metric foo mean)", 400, {"cause": "Invalid metric references", "detail": [["foo", "mean"]],
                                "reason": "badly formed hexadecimal UUID string"}),
    (f"(metric {uuid.UUID(int=7)} mean)", 404, {"cause": "Unknown metrics", "detail": [str(uuid.UUID(int=7))],
                                                "reason": "Provided metrics don't exists"}),
    ("(metric M1 wtf)", 404, {"cause": "Metrics with unknown aggregation", "detail": [["M1", "wtf"]]}),
    ("(metric (M1 mean) (M3 mean))", 400, {"cause": "Metrics cannot be aggregated", "reason": "No granularity match",
                                           "detail": [["M1", "mean"], ["M3", "mean"]]}),
])
def test_what_cannot_be_answered(client, operations, status, description):
    assert (status, description) == (lambda s, a: (s, a["description"]))(*client.ask(operations))


def test_missing_granularity(client):
    status, answer = client.ask("(metric (M1 mean) (M3 max))", "granularity=60")
    assert (400, [["M3", "max", 60.0]]) == (status, answer["description"]["detail"])
    assert "Granularities are missing" == answer["description"]["reason"]


@pytest.mark.parametrize(("query", "name", "reason"), [
    ("needed_overlap=x", "needed_overlap", "Must be a number"),
    ("needed_overlap=nan", "needed_overlap", "Must be a number"),
    ("start=x", "start", "Must be a datetime or a timestamp"),
    ("stop=x", "stop", "Must be a datetime or a timestamp"),
    ("granularity=x", "granularity", "Unable to parse timespan"),
    ("granularity=-1", "granularity", "Timespan must be positive"),
    ("granularity=1&granularity=2", "granularity", "must not be given more than once"),
    ("fill=x", "fill", "Must be a float, 'dropna', 'null', 'ffill', 'bfill', 'full_ffill' or 'full_bfill'"),
])
def test_invalid_arguments_come_before_the_body(client, query, name, reason):
    status, text = client.call("POST", f"aggregates?{query}", headers={"Content-Type": "text/plain"})
    assert (400, {"cause": "Argument value error", "detail": name, "reason": reason}) == (
        status, json.loads(text)["description"])


@pytest.mark.parametrize(("body", "reason"), [
    ([], "expected a dictionary"), ({}, "required key not provided @ data['operations']"),
    ({"operations": "(metric M1 mean)", "k": 1}, "extra keys not allowed @ data['k']")])
def test_invalid_bodies(client, body, reason):
    status, text = client.call("POST", "aggregates", body)
    assert (400, reason) == (status, json.loads(text)["description"]["reason"])


def test_details(client):
    """Each metric once, as it is shown by itself."""
    status, answer = client.ask("(metric (M1 mean) (M1 max) (M2 mean))", "granularity=60&details=true")
    assert 200 == status
    assert ["M1", "M2"] == sorted(reference["id"] for reference in answer["references"])
    alone = json.loads(client.call("GET", f"metric/{client.ids['M1']}")[1])
    shown = next(reference for reference in answer["references"] if reference["id"] == "M1")
    assert alone | {"id": "M1"} == shown


def test_ids_in_any_spelling(client):
    plain = client.ids["M1"].replace("-", "").upper()
    _, answer = client.ask(["metric", [plain, "mean"], ["M1", "mean"]], "granularity=60")
    assert {"M1": {"mean": 3}} == {name: {method: len(points) for method, points in methods.items()}
                                   for name, methods in answer["measures"].items()}


def test_strict_json_on_request(client):
    """Who cannot read NaN says so."""
    body = {"operations": client.named("(rateofchangesec (metric M1 mean))")}
    bare = client.call("POST", "aggregates?granularity=1&fill=null", body)[1]
    strict = client.call("POST", "aggregates?granularity=1&fill=null", body,
                         {"Accept": "application/json; nan=null"})[1]
    assert "NaN" in bare
    assert bare.replace("NaN", "null") == strict


def test_too_many_points(client):
    """Refused from the catalogue alone, naming the limit."""
    status, text = client.call("POST", "metric", {"archive_policy_name": "fine"})
    assert 201 == status
    id = json.loads(text)["id"]
    measures = [{"timestamp": second, "value": 1} for second in range(2 * POINTS_MAX)]
    assert 202 == client.call("POST", f"metric/{id}/measures", measures)[0]
    assert 200 == client.call("GET", f"metric/{id}/measures?refresh=true&granularity=60")[0]
    status, answer = client.ask(["metric", id, "mean"], "granularity=1")
    assert 400 == status
    assert f"of at most {POINTS_MAX}" in answer["description"]
    assert 200 == client.ask(["metric", id, "mean"], "granularity=1&start=1000&stop=1100")[0]


@pytest.fixture(scope="module")
def large(client):
    """The id of a metric of a resource with more points than may be read."""
    body = {"id": "large", "metrics": {"large": {"archive_policy_name": "fine"}}}
    status, text = client.call("POST", "resource/generic", body)
    assert 201 == status
    id = json.loads(text)["metrics"]["large"]
    measures = [{"timestamp": second, "value": 1} for second in range(2 * POINTS_MAX)]
    assert 202 == client.call("POST", f"metric/{id}/measures", measures)[0]
    assert 200 == client.call("GET", f"metric/{id}/measures?refresh=true&granularity=60")[0]
    return id


@pytest.mark.parametrize(("path", "body"), [
    ("aggregates?", {"operations": "(metric LARGE mean)"}),
    ("aggregates?", {"operations": "(aggregate sum (metric (LARGE mean) (M1 mean)))"}),
    *((f"aggregates?{query}", {"operations": "(aggregate sum (metric l* mean))", "resource_type": "generic",
                               "search": {}}) for query in ("", "groupby=id", "groupby=id&use_history=true")),
    ("aggregation/metric?", ["LARGE"]), ("aggregation/metric?", ["LARGE", "M1"]),
    ("aggregation/metric?resample=100", ["LARGE"]), ("aggregation/metric?resample=100", ["LARGE", "M1"]),
    ("aggregation/resource/generic/metric/large?", None),
    ("aggregation/resource/generic/metric/large?groupby=id", None),
    ("search/metric?metric_id=LARGE&metric_id=M1", {"=": 1})])
def test_too_many_points_in_every_way(client, large, path, body):
    """And a part of it is answered."""
    path, body = (json.loads(client.named(json.dumps(part)).replace("LARGE", large)) for part in (path, body))
    for limits, status in (("", 400), ("&start=1900&needed_overlap=0", 200)):
        found, text = client.call("POST", f"{path}&granularity=1{limits}", body)
        assert status == found, text
        assert status == 200 or f"of at most {POINTS_MAX}" in json.loads(text)["description"]


def test_too_much_work(client):
    """Few points, computed with again and again."""
    def chain(length):
        operations = ["metric", ["M1", "mean"], ["M2", "mean"]]
        for _ in range(length):
            operations = ["resample", "last", 1, operations]
        return operations

    assert 200 == client.ask(["+", chain(50), chain(50)], "granularity=1")[0]
    status, answer = client.ask(["+", chain(95), chain(95)], "granularity=1")
    assert (400, "Metrics cannot be aggregated") == (status, answer["description"]["cause"])
    assert f"more than {16 * POINTS_MAX} values in all" in answer["description"]["reason"]


def test_others_metrics_are_forbidden(client):
    status, _ = client.call("POST", "aggregates", {"operations": client.named("(metric M1 mean)")},
                            {"Authorization": "basic Ym9iOg=="})
    assert 403 == status


def aggregate(client, query, method="GET", body=None):
    status, text = client.call(method, f"aggregation/metric?{client.named(query)}", body)
    for name, id in client.ids.items():
        text = text.replace(id, name)
    answer = json.loads(text)
    return status, shorten(answer["description"] if isinstance(answer, dict) else answer)


MINUTES = [["33:00", 60.0, 22.55], ["34:00", 60.0, 1.25], ["35:00", 60.0, 11.25]]


@pytest.mark.parametrize(("query", "status", "expected"), [
    ("", 200, []),
    ("metric=M1&metric=M2&granularity=60", 200, MINUTES),
    ("metric=M1&metric=M2&metric=M1&granularity=60", 200, MINUTES),
    ("metric=M1&granularity=60&reaggregation=wtf", 200,
     [["33:00", 60.0, 43.1], ["34:00", 60.0, -2.0], ["35:00", 60.0, 10.0]]),
    ("metric=M5", 200, []),
    ("metric=M1&metric=M2&granularity=60&aggregation=max&reaggregation=sum", 200,
     [["33:00", 60.0, 45.1], ["34:00", 60.0, 17.0], ["35:00", 60.0, 26.0]]),
    ("metric=M1&metric=M2&granularity=1&resample=60&fill=null", 200, MINUTES),
    ("metric=M1&metric=M2&granularity=60&resample=Y", 200, [["2015-01-01T00:00:00", "Y", 11.683333333333334]]),
    ("metric=M1&metric=M2&granularity=60&resample=Y&start=2015-03-06T14:34:30&stop=2015-03-06T14:34:40", 200,
     [["2015-01-01T00:00:00", "Y", 11.683333333333334]]),
    ("metric=M1&metric=M4&granularity=60&resample=Y&start=2015-06-01&fill=0", 200,
     [["2015-01-01T00:00:00", "Y", 8.516666666666667], ["2017-01-01T00:00:00", "Y", 7.5]]),
    ("metric=M1&metric=M2&granularity=60&resample=3600&start=2015-03-06T14:34&reaggregation=max", 200,
     [["00:00", 3600.0, 17.033333333333335]]),
    ("metric=M1&granularity=60&resample=90&start=2015-03-06T14:34:30", 200, [["34:30", 90.0, 10.0]]),
    ("metric=M1&metric=M1&granularity=60&resample=90&stop=2015-03-06T14:34:31", 200,
     [["33:00", 90.0, 20.55], ["34:30", 90.0, 10.0]]),
    ("metric=M1&metric=M2&granularity=60&resample=90&start=2015-03-06T14:34:30", 200, [["34:30", 90.0, 11.25]]),
    ("metric=M1&metric=M2&granularity=1", 400, {
        "cause": "Metrics cannot be aggregated", "detail": [["M1", "mean"], ["M2", "mean"]],
        "reason": "Less than 100.000000% of datapoints overlap in this timespan (66.67%)"}),
    ("metric=M1&metric=x", 400, "Invalid input: not a valid value @ data[1]"),
    (f"metric=M1&metric={uuid.UUID(int=7)}", 404, f"Metric {uuid.UUID(int=7)} does not exist"),
    ("metric=M1&metric=M2&resample=60", 400, "A granularity must be specified to resample"),
    ("metric=M1&metric=M2&resample=x&granularity=1", 400, "Unable to parse timespan"),
    ("metric=M1&metric=M2&granularity=42", 404,
     "Aggregation method 'mean' at granularity '42.0' for metric M1 does not exist"),
    ("metric=M1&metric=M2&aggregation=wtf&granularity=60", 404,
     "Aggregation method 'wtf' at granularity '1.0' for metric M1 does not exist"),
    ("metric=M1&aggregation=wtf", 404, {"cause": "Aggregation method does not exist for this metric",
                                        "detail": {"metric": "M1", "aggregation_method": "wtf"}}),
    ("metric=M1&metric=M2&granularity=60&reaggregation=last", 400, {
        "cause": "Argument value error", "detail": "reaggregation",
        "reason": "Must be one of count, max, mean, median, min, rate:count, rate:max, rate:mean, rate:median, "
                  "rate:min, rate:std, rate:sum, rate:var, std, sum, var"}),
])
def test_aggregation_of_metrics(client, query, status, expected):
    assert (status, approximately(expected)) == aggregate(client, query)


def test_aggregation_of_a_posted_list(client):
    ids = [client.ids["M1"], client.ids["M2"]]
    assert (200, approximately(MINUTES)) == aggregate(client, "granularity=60", "POST", ids)
    assert (400, {"cause": "Invalid input", "reason": "not a valid value @ data[1]", "detail": ["1"]}) == aggregate(
        client, "", "POST", [ids[0], 7])
    assert (400, {"cause": "Invalid input", "reason": "expected a list", "detail": []}) == aggregate(
        client, "", "POST", {})


def test_aggregation_after_refresh(client):
    """What is pending is processed first."""
    status, text = client.call("POST", "metric", {"archive_policy_name": "fine"})
    assert 201 == status
    id = json.loads(text)["id"]
    assert 202 == client.call("POST", f"metric/{id}/measures", [{"timestamp": DAY + "33:57", "value": 7}])[0]
    query = f"metric={id}&metric=M1&granularity=60&needed_overlap=0&refresh="
    assert (200, ["33:00", 60.0, 43.1]) == (lambda s, a: (s, a[0]))(*aggregate(client, query + "false"))
    assert (200, ["33:00", 60.0, 25.05]) == (lambda s, a: (s, a[0]))(*aggregate(client, query + "true"))
