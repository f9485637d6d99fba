"""Requests take as many SQL statements for many resources and metrics as for a few, on every database."""

import json

import pytest
import webob

from gnocchi.tests.contract.test_named_batch import MEASURES, Service
from gnocchi.tests.contract.test_tenancy import CallerInHeader
from gnocchi.tests.databases import StatementCounter

FEW, MANY = 3, 40
ADMIN, MEMBER = "root/p0/admin", "u1/p1/member"
TYPE = {"name": "server", "attributes": {"size": {"type": "number", "required": False}}}
BATCH = "/v1/batch/resources/metrics/measures"


class Client:
    """Sends requests as somebody, in a mode in which lists hide rows."""

    def __init__(self, service):
        self._app = service._app
        self._services = service.services
        self._services.auth = CallerInHeader()

    def send(self, method, path, body=None, caller=MEMBER):
        request = webob.Request.blank(path, method=method, headers={"Accept": "application/json", "X-Caller": caller})
        if body is not None:
            request.body, request.content_type = json.dumps(body).encode(), "application/json"
        response = request.get_response(self._app)
        assert response.status_int < 300, (path, response.text)
        return response.json_body if response.body else None

    def count(self, *request, **caller):
        """Send a request and return how many statements it took, and what it answered."""
        with StatementCounter(self._services.indexer) as counter:
            reply = self.send(*request, **caller)
        return counter.count, reply

    def create(self, size):
        """Make resources of two types and two owners, each with revisions and two metrics; return their ids."""
        ids = []
        for number in range(size):
            type, caller = ("server", MEMBER) if number % 3 else ("generic", ADMIN)
            made = self.send("POST", f"/v1/resource/{type}", {
                "id": f"r{size}.{number}", "user_id": f"size{size}", "project_id": "p1",
                "metrics": {"a": {"archive_policy_name": "low"}, "b": {"archive_policy_name": "low"}}}, caller)
            self.send("PATCH", f"/v1/resource/{type}/{made['id']}", {"user_id": f"size{size}."}, caller)
            ids.append(made["id"])
        return ids


@pytest.fixture
def client(database_url, tmp_path):
    service = Service(database_url, tmp_path)
    service.post("/v1/resource_type", TYPE)
    return Client(service)


def list_requests(ids, size, sent):
    """Return requests that name or find many things, in an order that leaves them there for the next."""
    chosen = {"in": {"id": ids}}
    mine = {"and": [chosen, {"=": {"type": "server"}}]}
    metrics = [metric for found in sent["resources"] for metric in found["metrics"].values()]
    own = [metric for found in sent["resources"] if found["type"] == "server" for metric in found["metrics"].values()]
    definitions = {f"n{i}": {"archive_policy_name": "low"} for i in range(size)}
    values = "&".join(f"metric_id={metric}" for metric in metrics)
    owned = [found["id"] for found in sent["resources"] if found["type"] == "server"]
    return {
        "search": ("POST", "/v1/search/resource/generic?details=true", chosen),
        "search of a type": ("POST", "/v1/search/resource/server?sort=size:desc", chosen),
        "search history": ("POST", "/v1/search/resource/generic?history=true&details=true", chosen),
        "search by text": ("POST", "/v1/search/resource/generic?filter=user_id%20like%20%22size%25%22", None),
        "list": ("GET", "/v1/resource/generic", None),
        "list metrics": ("GET", "/v1/metric", None),
        "values": ("POST", f"/v1/search/metric?{values}", {">": 0}),
        "batch": ("POST", "/v1/batch/metrics/measures", dict.fromkeys(own, MEASURES)),
        "named batch": ("POST", BATCH, {id: {"a": MEASURES, "b": MEASURES} for id in owned}),
        "new named batch": ("POST", f"{BATCH}?create_metrics=true", {id: {f"c{size}": MEASURES} for id in owned}),
        "add metrics": ("POST", f"/v1/resource/server/{owned[0]}/metric", definitions),
        "its metrics": ("GET", f"/v1/resource/server/{owned[0]}/metric", None),
        "attach": ("PATCH", f"/v1/resource/server/{owned[0]}", {
            "metrics": {f"x{i}": metric for i, metric in enumerate(own)}}),
        "create": ("POST", "/v1/resource/server", {"id": f"new{size}", "metrics": definitions}),
        "create and attach": ("POST", "/v1/resource/server", {
            "id": f"newer{size}", "metrics": {f"y{i}": metric for i, metric in enumerate(own)}}),
        "detach": ("PATCH", f"/v1/resource/server/newer{size}", {"metrics": {}}),
        "bulk delete": ("DELETE", "/v1/resource/server", mine),
        "bulk delete of others": ("DELETE", "/v1/resource/generic", chosen),
    }


def test_statements_are_constant(client):
    """Each kind of request, for few and for many, by somebody who sees only a part."""
    client.send("POST", BATCH, {})      # the number of sacks is asked for once
    counts, replies = {}, {}
    for size in (2, FEW, MANY):         # the first time, something may be asked for that is kept
        ids = client.create(size)
        sent = {"resources": client.send("POST", "/v1/search/resource/generic?details=true", {"in": {"id": ids}})}
        assert size == len(sent["resources"])
        for name, request in list_requests(ids, size, sent).items():
            counts.setdefault(name, {})[size], replies[name] = client.count(*request)
    assert {} == {name: count for name, count in counts.items() if count[FEW] != count[MANY]}
    assert MANY <= len(replies["search"]) < len(replies["search history"])
    assert MANY * 2 <= len(replies["list metrics"])
    assert MANY * 2 == len(replies["values"])
    owned = MANY - len(range(0, MANY, 3))
    assert ({"deleted": owned}, {"deleted": 0}) == (replies["bulk delete"], replies["bulk delete of others"])
