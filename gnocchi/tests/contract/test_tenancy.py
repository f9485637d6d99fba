"""Lists, searches and bulk deletion reach exactly what the policy allows, on every database.

The API runs in a mode that hides rows, with random callers, rows and rules; the model is the policy itself, asked about
each row.
"""

import json
import random
import uuid

import pytest
import webob
from oslo_config import cfg

from gnocchi import opts
from gnocchi.exceptions import NoSuchResource
from gnocchi.indexer import MetricDefinition, sampling
from gnocchi.rest import app as rest_app
from gnocchi.rest import formats
from gnocchi.rest.auth import AuthHelper, Identity
from gnocchi.tests.engine import make_policy

USERS, PROJECTS, ROLES = ("u1", "u2"), ("p1", "p2", "p3"), ("member", "reader", "service", "admin")
CREATORS = [None, "u1", "u1:", "u2:p1", *(f"{user}:{project}" for user in USERS for project in PROJECTS)]

#: Shares below which what is visible counts as few, and is looked for in another way.
ALWAYS_RARE, NEVER_RARE = 2, 0

#: Leaves of random rules.
LEAVES = ["role:admin", "role:READER", "user:%(creator)s", "user_id:%(user_id)s", "user_id:%(created_by_user_id)s",
          "'vm':%(type)s", "rule:creator", "rule:nope", "@", "!", "'p1':%(project_id)s", "roles:%(project_id)s",
          "nothing:%(creator)s", "project_id:%(project_id)s", "project_id:%(created_by_project_id)s"]
METRIC_LEAVES = ["role:admin", "rule:creator", "rule:metric_owner", "user_id:%(resource.user_id)s", "'m':%(name)s",
                 "'vm':%(resource.type)s", "project_id:%(resource.created_by_project_id)s", "role:reader"]
RULES = ("list resource", "search resource", "get resource", "delete resources", "list metric", "update resource",
         "delete resource")


class CallerInHeader(AuthHelper):
    """`user/project/role`, as Keystone's middleware would tell it."""

    hides_rows = True

    def identify(self, environ):
        user, project, role = environ["HTTP_X_CALLER"].split("/")
        name = f"{user}:{project}"
        return Identity(name, {"user": name, "user_id": user, "project_id": project, "roles": [role]})


class Service:
    """The API in this process."""

    def __init__(self, indexer, url, directory, monkeypatch, rules):
        (directory / "policy.yaml").write_text(json.dumps(rules))
        (directory / "gnocchi.conf").write_text(
            f"[indexer]\nurl = {url}\n[storage]\nfile_basepath = {directory}\n[api]\nmax_limit = 4\n"
            f"[oslo_policy]\npolicy_file = {directory}/policy.yaml\n")
        conf = cfg.ConfigOpts()
        opts.set_defaults()
        opts.register_opts(conf)
        conf(["--config-file", str(directory / "gnocchi.conf")], project="gnocchi")
        load_driver = rest_app.drivers.load_driver
        monkeypatch.setattr(rest_app.drivers, "load_driver", lambda namespace, name: (
            CallerInHeader if namespace == "gnocchi.rest.auth_helper" else load_driver(namespace, name)))
        self.indexer = indexer
        self._app = rest_app.load_app(conf)

    def send(self, caller, method, path, body=None):
        request = webob.Request.blank(path, method=method, headers={"Accept": "application/json", "X-Caller": caller})
        if body is not None:
            request.body, request.content_type = json.dumps(body).encode(), "application/json"
        response = request.get_response(self._app)
        self._services = request.environ["gnocchi.services"]
        return response

    def list_all(self, caller, method, path, body=None):
        """Return all pages; nothing, when the caller may never see anything."""
        found = []
        while path:
            response = self.send(caller, method, path, body)
            if response.status_int == 403:
                return []
            assert 200 == response.status_int, response.text
            found += response.json
            path = response.headers.get("Link", "").split(">")[0].partition("localhost")[2]
        return found

    def allows(self, caller, rule, target):
        """Ask the policy itself."""
        identity = CallerInHeader().identify({"HTTP_X_CALLER": caller})
        return self._services.policy.allows(rule, target, identity.credentials)

    def visible(self, caller, rule, rows):
        return [row for row in rows if self.allows(caller, rule, formats.format_resource(row))]


def make_rule(rng, leaves):
    def grow(depth):
        kind = rng.random()
        if depth == 0 or kind < 0.4:
            return rng.choice(leaves)
        if kind < 0.6:
            return f"not {grow(depth - 1)}"
        return f"({grow(depth - 1)} {'and' if kind < 0.75 else 'or'} {grow(depth - 1)})"

    return grow(3)


def make_rules(rng):
    """Random ones of some rules; the default of the others."""
    return {rule: make_rule(rng, METRIC_LEAVES if rule == "list metric" else LEAVES)
            for rule in RULES if rng.random() < 0.6}


def populate(indexer, rng):
    indexer.create_archive_policy(make_policy("low", [(60, 60)], ["mean"]))
    indexer.create_resource_type("vm", {"size": {"type": "number", "required": False}})
    for _ in range(14):
        creator = rng.choice(CREATORS)
        made = indexer.create_resource(
            rng.choice(("generic", "vm")), uuid.uuid4(), creator, user_id=rng.choice((None, *USERS)),
            project_id=rng.choice((None, *PROJECTS)),
            metrics={name: MetricDefinition(uuid.uuid4(), "low") for name in ("m", "n") if rng.random() < 0.3})
        if rng.random() < 0.5:
            indexer.update_resource(made, {"project_id": rng.choice((None, *PROJECTS))})
        if rng.random() < 0.3:
            indexer.create_metrics([MetricDefinition(uuid.uuid4(), "low", name=rng.choice((None, "m")))], creator)


def identify(row):
    return str(row.id), row.revision_start.isoformat()


def identify_reply(row):
    return row["id"], row["revision_start"].removesuffix("+00:00")


def check_lists(service, caller):
    indexer = service.indexer
    for rule, method, base in (("list resource", "GET", "/v1/resource"),
                               ("search resource", "POST", "/v1/search/resource")):
        for type in ("generic", "vm"):
            for history in (False, True):
                found = service.list_all(caller, method, f"{base}/{type}?history={history}")
                rows = indexer.list_resources(type, history=history)
                assert list(map(identify, service.visible(caller, rule, rows))) == list(map(identify_reply, found))
    resources = {row.id: row for row in indexer.list_resources()}
    found = {row["id"] for row in service.list_all(caller, "GET", "/v1/metric")}
    assert found == {str(metric.id) for metric in indexer.list_metrics() if service.allows(
        caller, "list metric", formats.metric_target(metric, resources.get(metric.resource_id)))}


def check_single(service, caller, row):
    """What is refused is not shown, and where it is denied to exist nothing of it is told."""
    path = f"/v1/resource/generic/{row.id}"
    target = formats.format_resource(row)
    shown = service.allows(caller, "get resource", target)
    for part in ("", "/history", "/metric"):
        response = service.send(caller, "GET", path + part)
        assert (response.status_int == 200) == shown
        if not shown:
            assert response.status_int in (403, 404)
            assert response.json["description"] in ("", "Insufficient privileges", f"Resource {row.id} does not exist")
    updated = service.send(caller, "PATCH", path, {"user_id": "new"}).status_int
    assert (200 if service.allows(caller, "update resource", target) else 403) == updated
    now = service.indexer.get_resource("generic", row.id)
    assert (now.user_id == "new") == (updated == 200)
    deleted = service.send(caller, "DELETE", path).status_int
    assert (204 if service.allows(caller, "delete resource", formats.format_resource(now)) else 403) == deleted
    if deleted == 204:
        with pytest.raises(NoSuchResource):
            service.indexer.get_resource("generic", row.id)


def check_bulk_deletion(service, caller, rng):
    type, wanted = rng.choice(("generic", "vm")), rng.choice(PROJECTS)
    before = service.indexer.list_resources()
    doomed = {row.id for row in service.visible(caller, "delete resources", before)
              if row.project_id == wanted and type in ("generic", row.type)}
    response = service.send(caller, "DELETE", f"/v1/resource/{type}", {"=": {"project_id": wanted}})
    if response.status_int == 403:
        assert not doomed
    else:
        assert {"deleted": len(doomed)} == response.json
    after = service.indexer.list_resources()
    assert [row for row in before if row.id not in doomed] == after
    assert {id for row in after for id in row.metrics.values()} == {
        metric.id for metric in service.indexer.list_metrics() if metric.resource_id is not None}


@pytest.mark.parametrize(("seed", "plan"), [(0, ALWAYS_RARE), (0, NEVER_RARE), (1, ALWAYS_RARE), (2, NEVER_RARE),
                                            (3, ALWAYS_RARE)])
def test_visible_is_what_the_policy_allows(indexer, database_url, tmp_path, monkeypatch, seed, plan):
    """For every list, search, reading and deleting endpoint; with the default rules in the first round."""
    monkeypatch.setattr(sampling, "RARE_SHARE", plan)
    rng = random.Random(seed)
    rules = make_rules(rng) if seed else {}
    populate(indexer, rng)
    service = Service(indexer, database_url, tmp_path, monkeypatch, rules)
    callers = [f"{rng.choice(USERS)}/{rng.choice(PROJECTS)}/{role}" for role in ROLES]
    service.send(callers[0], "GET", "/v1/")
    for caller in callers:
        check_lists(service, caller)
    for row in rng.sample(indexer.list_resources(), 3):
        check_single(service, rng.choice(callers), row)
    for caller in callers:
        check_bulk_deletion(service, caller, rng)


def test_hidden_marker(indexer, database_url, tmp_path, monkeypatch):
    """What a caller may not see is no place to begin a page after."""
    foreign = indexer.create_resource("generic", uuid.uuid4(), "u1:p1")
    service = Service(indexer, database_url, tmp_path, monkeypatch, {})
    for marker in (foreign.id, uuid.uuid4()):
        response = service.send("u2/p2/member", "GET", f"/v1/resource/generic?marker={marker}")
        assert 400 == response.status_int
        assert f"Invalid pagination: `Invalid marker: `{marker}''" == response.json["description"]


def test_filters_do_not_widen(indexer, database_url, tmp_path, monkeypatch):
    """Whatever a member asks for, also by `or` and `not`, it is searched and deleted among what he may reach."""
    for project in PROJECTS:
        indexer.create_resource("generic", uuid.uuid4(), f"u1:{project}", project_id=project)
    service = Service(indexer, database_url, tmp_path, monkeypatch, {})
    everything = {"or": [{"=": {"project_id": "p1"}}, {"not": {"=": {"project_id": "p1"}}}]}
    found = service.list_all("u2/p2/member", "POST", "/v1/search/resource/generic", everything)
    assert ["p2"] == [row["project_id"] for row in found]
    assert {"deleted": 1} == service.send("u2/p2/member", "DELETE", "/v1/resource/generic", everything).json
    assert ["p1", "p3"] == [row.project_id for row in indexer.list_resources()]
