"""Aggregates as published clients ask for them: what they send, byte for byte, and what they take from the answer."""

import json
import time
import urllib.parse
import uuid

import pytest

from gnocchi.tests.functional.service import ApiService
from gnocchi.tests.functional.test_aggregates import Client

HOUR = 3600.0
VMS = {"vm-1": ("p1", "small", [1, 2, 3]), "vm-2": ("p1", "large", [10, 20, None]), "vm-3": ("p2", "small", [7, 7, 7])}
NOON, PERIODS = "2026-01-01T12:00:00", ("2026-01-01T12:00:00", "2026-01-01T13:00:00", "2026-01-01T14:00:00")
#: As Angular sends it.
GRAFANA = {"Accept": "application/json, text/plain, */*"}


@pytest.fixture(scope="module")
def client():
    service = ApiService()
    service.start()
    try:
        made = Client(service.url)
        load(made)
        yield made
    finally:
        service.stop()


def load(client):
    """Machines in two projects that measured `cpu` around noon, and `up` in the minutes before now."""
    minute = int(time.time()) // 60 * 60
    methods = ["mean", "sum", "count", "rate:mean", "last"]
    for name, seconds in (("hours", [3600]), ("both", [60, 3600])):
        assert 201 == client.call("POST", "archive_policy", {
            "name": name, "aggregation_methods": methods, "back_window": 24,
            "definition": [{"granularity": each, "points": 10_000} for each in seconds]})[0]
    assert 201 == client.call("POST", "resource_type", {
        "name": "instance", "attributes": {"flavor": {"type": "string", "required": False}}})[0]
    for name, (project, flavor, values) in VMS.items():
        status, text = client.call("POST", "resource/instance", {
            "id": name, "project_id": project, "flavor": flavor, "started_at": "2025-12-01T00:00:00", "metrics": {
                "cpu": {"archive_policy_name": "hours"}, "up": {"archive_policy_name": "both"}}})
        assert 201 == status, text
        resource = json.loads(text)
        client.ids[name] = resource["id"]
        measures = {"cpu": [{"timestamp": period, "value": value} for period, value in zip(PERIODS, values, strict=True)
                            if value is not None],
                    "up": [{"timestamp": minute - 60 * ago, "value": values[0]} for ago in (1, 2, 3, 4)]}
        for metric, posted in measures.items():
            client.ids[f"{name}/{metric}"] = id = resource["metrics"][metric]
            assert 202 == client.call("POST", f"metric/{id}/measures", posted)[0]
            assert 200 == client.call("GET", f"metric/{id}/measures?refresh=true")[0]


def ask(client, query, body, headers=None):
    """`query` as pairs; values are encoded as `requests` does."""
    status, text = client.call("POST", f"aggregates?{urllib.parse.urlencode(query)}", body, headers)
    return status, json.loads(text)


def at(*values):
    """Measures of successive hours."""
    return [[f"{period}+00:00", HOUR, float(value)] for period, value in zip(PERIODS, values, strict=False)
            if value is not None]


AODH = [("details", "False"), ("needed_overlap", "0"), ("start", "-1 day"), ("stop", "now"), ("use_history", "False")]


def wrap_for_user(search, project, aodh_project):
    """What Aodh makes of the query of a user who is no administrator."""
    return {"and": [{"or": [{"=": {"created_by_project_id": project}}, {"and": [
        {"=": {"created_by_project_id": aodh_project}}, {"=": {"project_id": project}}]}]}, search]}


def test_aodh_makes_an_alarm_by_resources(client):
    """Any answer with 200 will do; so do 404 and a cause, since the metric may come later."""
    body = {"operations": ["aggregate", "mean", ["metric", "up", "mean"]], "resource_type": "instance",
            "search": {"=": {"project_id": "p1"}}}
    assert 200 == ask(client, AODH, body)[0]
    status, answer = ask(client, AODH, body | {"search": wrap_for_user(body["search"], "p1", "service")})
    assert (404, "Metric ['up'] does not exist") == (status, answer["description"])
    status, answer = ask(client, AODH, body | {"operations": ["aggregate", "mean", ["metric", "new", "mean"]]})
    assert (404, "Metric ['new'] does not exist") == (status, answer["description"])


def test_aodh_evaluates_by_resources(client):
    """It keeps the points of the alarm's granularity, the newest ones last."""
    status, answer = ask(client, [*AODH, ("granularity", "60")], {
        "operations": ["aggregate", "mean", ["metric", "up", "mean"]], "resource_type": "instance",
        "search": {"=": {"project_id": "p1"}}})
    assert 200 == status
    assert [(60.0, 5.5)] * 4 == [(granularity, value) for _, granularity, value in answer["measures"]["aggregated"]]


@pytest.mark.parametrize(("operations", "expected"), [
    (["aggregate", "mean", ["metric", "vm-1/up", "mean"], ["metric", "vm-2/up", "mean"]], [5.5] * 4),
    (["aggregate", "mean", ["metric", "vm-1/up", "mean"]], [1.0] * 4),
    (["aggregate", "rate:mean", ["metric", "vm-1/up", "mean"], ["metric", "vm-3/up", "mean"]], [0.0] * 3),
    (["aggregate", "count", ["metric", "vm-1/up", "mean"], ["metric", "vm-2/up", "mean"],
      ["metric", "vm-3/up", "mean"], ["metric", "vm-1/up", "mean"]], [3.0] * 4)])
def test_aodh_evaluates_by_metrics(client, operations, expected):
    """Each metric stands for itself beside the others."""
    operations = [[part[0], client.ids[part[1]], part[2]] if isinstance(part, list) else part for part in operations]
    status, answer = ask(client, [*AODH, ("granularity", "60")], {"operations": operations})
    assert 200 == status, answer
    assert expected == [value for _, _, value in answer["measures"]["aggregated"]]


def ask_as_cloudkitty(client, start, stop, groupby, operations, project="p1"):
    """Return status, and what it bills: the first value of each group that has any, by the group's attributes."""
    query = [("details", "False"), ("granularity", "3600"), *(("groupby", name) for name in groupby),
             ("start", start), ("stop", stop), ("use_history", "True")]
    status, answer = ask(client, query, {
        "operations": operations, "resource_type": "instance",
        "search": {"and": [{"=": {"type": "instance"}}, {"=": {"project_id": project}}]}})
    if status != 200:
        return status, answer["description"]
    return status, {tuple(group["group"][name] for name in groupby): group["measures"]["measures"]["aggregated"][0][2]
                    for group in answer if group["measures"]["measures"]["aggregated"]}


#: The resources were made now; so periods must end after that to have a revision.
FROM, UNTIL = "2026-01-01T12:00:00+00:00", "2099-01-01T00:00:00+00:00"


@pytest.mark.parametrize(("groupby", "operations", "expected"), [
    (["project_id"], ["aggregate", "sum", ["metric", "cpu", "sum"]], {("p1",): 11.0}),
    (["project_id", "flavor"], ["aggregate", "max", ["metric", "cpu", "mean"]],
     {("p1", "small"): 1.0, ("p1", "large"): 10.0}),
    (["flavor", "project_id"], "(aggregate max (metric cpu mean))", {("small", "p1"): 1.0, ("large", "p1"): 10.0}),
    (["project_id"], ["aggregate", "count", ["metric", "cpu", "last"]], {("p1",): 2.0}),
])
def test_cloudkitty(client, groupby, operations, expected):
    assert (200, expected) == ask_as_cloudkitty(client, FROM, UNTIL, groupby, operations)


def test_cloudkitty_of_each_machine(client):
    """By id and by when its revision began; with a rate it asks for a period more, which comes out as one value."""
    status, found = ask_as_cloudkitty(client, FROM, UNTIL, ["id", "revision_start"],
                                      ["aggregate", "mean", ["metric", "cpu", "mean"]])
    assert (200, {client.ids["vm-1"]: 1.0, client.ids["vm-2"]: 10.0}) == (
        status, {id: value for (id, _), value in found.items()})
    status, found = ask_as_cloudkitty(client, FROM, UNTIL, ["id"],
                                      ["aggregate", "rate:mean", ["metric", "cpu", "mean"]])
    assert (200, {(client.ids["vm-1"],): 1.0, (client.ids["vm-2"],): 10.0}) == (status, found)


@pytest.mark.parametrize(("metric", "project", "start"), [
    ("cpu", "nobody", "2026-01-01"), ("nosuch", "p1", "2026-01-01"), ("cpu", "p1", "2098-01-01")])
def test_cloudkitty_without_data(client, metric, project, start):
    """404 with these words is no data; any other error stops the rating."""
    assert (404, f"Metric ['{metric}'] does not exist") == ask_as_cloudkitty(
        client, start, "2099-01-01", ["project_id"], ["aggregate", "sum", ["metric", metric, "mean"]], project)


DASHBOARD = [("granularity", "3600"), ("start", "2026-01-01T12:00:00.000Z"), ("stop", "2026-01-01T15:00:00.000Z"),
             ("end", "2026-01-01T15:00:00.000Z")]


def test_grafana_by_metrics(client):
    """The points, and the metrics to label them with."""
    first, second = client.ids["vm-1/cpu"], client.ids["vm-2/cpu"]
    status, answer = ask(client, [("details", "true"), *DASHBOARD, ("fill", "null"), ("needed_overlap", "0")],
                         {"operations": f"(metric ({first} mean) ({second} mean))"}, GRAFANA)
    assert 200 == status
    assert at(1, 2, 3) == answer["measures"][first]["mean"]
    assert at(10, 20) == answer["measures"][second]["mean"][:2]
    assert "nan" == str(answer["measures"][second]["mean"][2][2])
    assert {first, second} == {metric["id"] for metric in answer["references"]}
    assert {client.ids["vm-1"], client.ids["vm-2"]} == {metric["resource"]["id"] for metric in answer["references"]}


def test_grafana_by_resources(client):
    body = {"operations": "(metric cpu mean)", "resource_type": "instance", "search": "project_id = 'p1'"}
    status, answer = ask(client, [("details", "true"), *DASHBOARD], body, GRAFANA)
    first, second = client.ids["vm-1"], client.ids["vm-2"]
    assert (200, {first: {"cpu": {"mean": at(1, 2, 3)}}, second: {"cpu": {"mean": at(10, 20)}}}) == (
        status, answer["measures"])
    assert {first: "small", second: "large"} == {each["id"]: each["flavor"] for each in answer["references"]}
    status, answer = ask(client, [("details", "true"), *DASHBOARD, ("groupby", "flavor")], body | {
        "operations": "(aggregate sum (metric cpu mean))", "search": "id != null"}, GRAFANA)
    assert (200, [("large", at(10, 20)), ("small", at(8, 9, 10))]) == (
        status, [(group["group"]["flavor"], group["measures"]["measures"]["aggregated"]) for group in answer])
    assert [1, 2] == [len(group["measures"]["references"]) for group in answer]


def test_grafana_by_deprecated_endpoints(client):
    arguments = [("aggregation", "mean"), ("reaggregation", "sum"), ("fill", "0"), ("needed_overlap", "0"), *DASHBOARD]
    named = [("metric", client.ids[name]) for name in ("vm-1/cpu", "vm-2/cpu")]
    status, text = client.call("GET", f"aggregation/metric?{urllib.parse.urlencode(named + arguments)}",
                               headers=GRAFANA)
    assert (200, at(11, 22, 3)) == (status, json.loads(text))
    query = urllib.parse.urlencode([("groupby", "flavor"), ("filter", "project_id = 'p1'"), *arguments])
    status, text = client.call("POST", f"aggregation/resource/instance/metric/cpu?{query}", headers=GRAFANA)
    assert (200, [{"group": {"flavor": "large"}, "measures": at(10, 20)},
                  {"group": {"flavor": "small"}, "measures": at(1, 2, 3)}]) == (status, json.loads(text))


def test_client_library(client):
    """`gnocchi measures aggregation` and `gnocchi aggregates`, with every argument."""
    query = urllib.parse.urlencode([
        *(("metric", client.ids[name]) for name in ("vm-1/cpu", "vm-2/cpu")), ("aggregation", "mean"),
        ("reaggregation", "max"), ("granularity", "3600"), ("start", "2026-01-01T12:00:00"), ("stop", "now"),
        ("needed_overlap", "50.0"), ("fill", "ffill"), ("refresh", "False"), ("resample", "7200")])
    status, text = client.call("GET", f"aggregation/metric?{query}")
    assert (200, [["2026-01-01T12:00:00+00:00", 7200.0, 15.0], ["2026-01-01T14:00:00+00:00", 7200.0, 20.0]]) == (
        status, json.loads(text))
    status, answer = ask(client, [
        ("details", "False"), ("use_history", "False"), ("granularity", "3600"), ("start", NOON),
        ("stop", "2026-01-01T14:00:00+00:00"), ("needed_overlap", "0.0"), ("groupby", "project_id")], {
            "operations": "(/ (aggregate sum (metric cpu mean)) 2)", "search": "flavor like 's%'",
            "resource_type": "instance"})
    assert (200, [{"group": {"project_id": "p1"}, "measures": {"measures": {"aggregated": at(0.5, 1)}}},
                  {"group": {"project_id": "p2"}, "measures": {"measures": {"aggregated": at(3.5, 3.5)}}}]) == (
        status, answer)
    status, answer = ask(client, [("details", "False")], {"operations": f"(metric {uuid.uuid4()} mean)"})
    assert (404, "Unknown metrics") == (status, answer["description"]["cause"])
