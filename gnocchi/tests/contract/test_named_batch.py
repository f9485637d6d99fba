"""Batches of measures for metrics named by resource, through the API in this process, on every database."""

import base64
import concurrent.futures
import json

import pytest
import webob
from oslo_config import cfg

from gnocchi import opts
from gnocchi.cli.manage import upgrade_all
from gnocchi.rest import app as rest_app
from gnocchi.tests.databases import StatementCounter

MEASURES = [{"timestamp": "2020-01-01", "value": 1}]
PATH = "/v1/batch/resources/metrics/measures"


class Service:
    """The API with a policy `low` and a rule that gives it to all metrics."""

    def __init__(self, url, directory):
        (directory / "gnocchi.conf").write_text(
            f"[indexer]\nurl = {url}\n[storage]\nfile_basepath = {directory}\n[database]\nmax_pool_size = 10\n")
        conf = cfg.ConfigOpts()
        opts.set_defaults()
        opts.register_opts(conf)
        conf(["--config-file", str(directory / "gnocchi.conf")], project="gnocchi")
        upgrade_all(conf, 1)
        self._app = rest_app.load_app(conf)

    def post(self, path, body, user="admin"):
        request = webob.Request.blank(path, method="POST", headers={
            "Accept": "application/json", "Authorization": "basic " + base64.b64encode(f"{user}:".encode()).decode()})
        request.body, request.content_type = json.dumps(body).encode(), "application/json"
        response = request.get_response(self._app)
        self.services = request.environ["gnocchi.services"]
        return response

    def create_resources(self, *names):
        for name in names:
            assert 201 == self.post("/v1/resource/generic", {"id": name}).status_int


@pytest.fixture
def service(database_url, tmp_path):
    return Service(database_url, tmp_path)


def test_statements_are_constant(service):
    """However many resources and metrics there are, when these exist and when they are made."""
    service.create_resources("r")
    service.post(PATH + "?create_metrics=true", {"r": {"m": MEASURES}})     # the number of sacks is asked for once
    counts = []
    for size in (1, 30):
        names = [f"r{size}.{i}" for i in range(size)]
        service.create_resources(*names)
        body = {name: {f"m{i}": MEASURES for i in range(size)} for name in names}
        for query in ("?create_metrics=true", "", "?create_metrics=true"):
            with StatementCounter(service.services.indexer) as counter:
                assert 202 == service.post(PATH + query, body).status_int
            counts.append(counter.count)
    assert counts[:3] == counts[3:]
    assert 30 * 30 + 2 == len(service.services.indexer.list_metrics())


def test_created_at_once(service):
    """Clients that need the same new metrics all succeed, and each metric is made once."""
    resources = [f"r{i}" for i in range(6)]
    service.create_resources(*resources)

    def post(number):
        chosen = resources[number % 3:] + resources[:number % 3]
        body = {name: {f"m{i}": MEASURES for i in range(5)} for name in chosen[:number % 4 + 3]}
        return service.post(PATH + "?create_metrics=true", body).status_int

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        assert {202} == set(threads.map(post, range(24)))
    metrics = service.services.indexer.list_metrics()
    assert 6 * 5 == len(metrics) == len({(metric.resource_id, metric.name) for metric in metrics})


def test_one_resource_in_several_spellings(service):
    """Two names of one metric in one batch mean that metric."""
    service.create_resources("r")
    id = service.services.indexer.list_resources()[0].id
    body = {"r": {"m": MEASURES}, str(id): {"m": MEASURES, "n": MEASURES}, str(id).upper(): {"n": MEASURES}}
    assert 202 == service.post(PATH + "?create_metrics=true", body).status_int
    assert {"m", "n"} == service.services.indexer.list_resources()[0].metrics.keys()


def test_many_names(service):
    """Also more than are told to the database."""
    service.create_resources("r", "s")
    body = {"r": {f"m{i}": [] for i in range(501)}, "s": {"m1": []}}
    for query in ("?create_metrics=true", ""):
        assert 202 == service.post(PATH + query, body).status_int
    assert 400 == service.post(PATH, {**body, "s": {"m2": []}}).status_int


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_names_that_nothing_can_hold(service, name):
    assert 400 == service.post(PATH, {"r": {name: []}}).status_int
    assert 400 == service.post(PATH, {name: {"m": []}}).status_int


def test_names_that_differ_in_blanks(service):
    """They are different metrics."""
    service.create_resources("r")
    new = {"archive_policy_name": "low"}
    [id] = [resource.id for resource in service.services.indexer.list_resources()]
    requests = [
        (PATH + "?create_metrics=true", {"r": {"a": MEASURES, "a ": MEASURES}}),
        (f"/v1/resource/generic/{id}/metric", {"b": new}), (f"/v1/resource/generic/{id}/metric", {"b ": new}),
        ("/v1/metric", {"name": "c", "resource_id": "r", **new}),
        ("/v1/metric", {"name": "c ", "resource_id": "r", **new}),
        ("/v1/resource/generic", {"id": "s", "metrics": {"d": new, "d ": new}})]
    assert [202, 200, 200, 201, 201, 201] == [service.post(path, body).status_int for path, body in requests]
    attached = service.post("/v1/metric", {"name": "e", **new}).json_body["id"]
    choices = {"e": attached, "e ": service.post("/v1/metric", {"name": "f", **new}).json_body["id"]}
    assert 201 == service.post("/v1/resource/generic", {"id": "t", "metrics": choices}).status_int
