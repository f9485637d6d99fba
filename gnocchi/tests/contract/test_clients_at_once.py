"""Clients that create, change and delete the same types and resources at once, through the API, on every database."""

import base64
import concurrent.futures
import itertools
import json
import random

import pytest
import webob

from gnocchi.tests.contract.test_named_batch import MEASURES, PATH, Service

CLIENTS = 16
JSON_PATCH = "application/json-patch+json"
SERVER = {"name": "server", "attributes": {"size": {"type": "number", "required": False}}}
NAMES = ["a", "b", "c"]


@pytest.fixture
def service(database_url, tmp_path):
    return Service(database_url, tmp_path)


def choose_request(rng):
    """Return method, path, body and media type of something that others do at the same time."""
    name, number = rng.choice(NAMES), rng.randint(0, 9)
    attribute = {"op": "add", "path": f"/attributes/x{number}",
                 "value": {"type": "number", "required": rng.random() < 0.5, "options": {"fill": number}}}
    metrics = {f"m{number % 3}": {"archive_policy_name": "low"}}
    return rng.choice([
        ("POST", "/v1/resource_type", SERVER),
        ("PATCH", "/v1/resource_type/server", [attribute]),
        ("PATCH", "/v1/resource_type/server", [{"op": "remove", "path": f"/attributes/x{number}"}]),
        ("DELETE", "/v1/resource_type/server", None),
        ("POST", "/v1/resource/server", {"id": name, "size": number, "metrics": metrics}),
        ("POST", "/v1/resource/server", {"id": name, f"x{number}": number}),
        ("PATCH", f"/v1/resource/server/{name}", {"size": number}),
        ("PATCH", f"/v1/resource/server/{name}", {f"x{number}": number, "user_id": str(number)}),
        ("PATCH", f"/v1/resource/generic/{name}", {"project_id": str(number), "metrics": metrics}),
        ("POST", f"/v1/resource/generic/{name}/metric", metrics),
        ("DELETE", f"/v1/resource/generic/{name}", None),
        ("DELETE", "/v1/resource/server?filter=size%3E7", None),
        ("GET", f"/v1/resource/server/{name}/history", None),
        ("POST", f"/v1/search/resource/server?history=true&filter=size%3C{number}", None),
        ("POST", PATH + "?create_metrics=true", {name: {f"m{number % 3}": MEASURES}}),
    ])


def send(service, method, path, body):
    request = webob.Request.blank(path, method=method, headers={
        "Accept": "application/json", "Authorization": "basic " + base64.b64encode(b"admin:").decode()})
    if body is not None:
        request.body = json.dumps(body).encode()
        request.content_type = JSON_PATCH if isinstance(body, list) else "application/json"
    return request.get_response(service._app)


def test_no_client_sees_the_others(service):
    """Each request is done or refused for a reason of its own; what is left is whole."""
    service.post("/v1/resource_type", SERVER)

    def work(number):
        rng = random.Random(number)
        return [send(service, *choose_request(rng)) for _ in range(12)]

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        replies = list(itertools.chain.from_iterable(threads.map(work, range(CLIENTS))))
    wrong = [reply.text for reply in replies if reply.status_int >= 500]
    assert not wrong, wrong
    assert {200, 201} <= {reply.status_int for reply in replies}
    indexer = service.services.indexer
    alive = {resource.id: resource for resource in indexer.list_resources()}
    for resource in alive.values():
        history = indexer.list_resources("generic", history=True, id=resource.id)
        assert all(set(indexer.get_resource_type(resource.type).attributes) == set(one.attributes) for one in history)
        for before, after in itertools.pairwise(history):
            assert before.revision_end == after.revision_start
    for metric in indexer.list_metrics():
        assert metric.resource_id is None or alive[metric.resource_id].metrics[metric.name] == metric.id


def test_every_change_of_a_type_is_kept(service):
    """Clients that each add an attribute all succeed, and all attributes are there."""
    service.post("/v1/resource_type", {"name": "server"})
    service.post("/v1/resource/server", {"id": "a"})

    def add(number):
        return send(service, "PATCH", "/v1/resource_type/server", [{
            "op": "add", "path": f"/attributes/x{number}", "value": {"type": "number", "options": {"fill": number}}}])

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        assert {200} == {reply.status_int for reply in threads.map(add, range(CLIENTS))}
    shown = send(service, "GET", "/v1/resource/server/a", None).json
    assert {f"x{i}": float(i) for i in range(CLIENTS)} == {k: v for k, v in shown.items() if k.startswith("x")}


def test_one_conditional_change_succeeds(service):
    """Of clients that change what they all have seen, one does; the others learn that it has changed."""
    created = service.post("/v1/resource/generic", {"id": "a"})

    def change(number):
        request = webob.Request.blank("/v1/resource/generic/a", method="PATCH", headers={
            "Accept": "application/json", "Authorization": "basic " + base64.b64encode(b"admin:").decode(),
            "If-Match": created.headers["ETag"]})
        request.body, request.content_type = json.dumps({"user_id": str(number)}).encode(), "application/json"
        return request.get_response(service._app).status_int

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        found = list(threads.map(change, range(CLIENTS)))
    assert [200] + [412] * (CLIENTS - 1) == sorted(found)
