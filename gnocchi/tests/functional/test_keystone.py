"""The API in mode `keystone`, with a real Keystone, and the published client that logs in there."""

import contextlib
import http.server
import io
import json
import sys
import threading
import unittest.mock
import urllib.error
import urllib.parse
import urllib.request
import uuid

import gnocchiclient.exceptions
import pytest
from gnocchiclient import shell
from gnocchiclient.v1 import client
from keystoneauth1 import session
from keystoneauth1.identity import v3

from gnocchi.tests.databases import DEADLINE_S, find_free_port
from gnocchi.tests.functional import keystone_server
from gnocchi.tests.functional.keystone import DOMAIN, Keystone
from gnocchi.tests.functional.service import ApiService

#: user: (project, role)
USERS = {
    "ann": ("alpha", "member"),
    "adam": ("alpha", "member"),
    "ben": ("beta", "member"),
    "root": ("beta", "admin"),
    "ceilometer": ("service", "service"),
    "gnocchi": ("service", "service"),
}


@pytest.fixture(scope="module")
def keystone():
    keystone = Keystone()
    try:
        keystone.start()
        for project in ("alpha", "beta", "service"):
            keystone.create("project", project)
        for user, (project, role) in USERS.items():
            keystone.create_user(user)
            keystone.grant(user, role, project)
        for user, role in (("dora", "admin"), ("dan", "member")):
            keystone.create_user(user)
            keystone.grant_in_domain(user, role)
        keystone.create_user("sue")
        keystone.grant_in_system("sue", "member")
        yield keystone
    finally:
        keystone.stop()


def make_service(keystone_url, **options):
    return ApiService({
        "api": {"auth_mode": "keystone", "max_limit": 3},
        "keystone_authtoken": {
            "www_authenticate_uri": keystone_url, "auth_type": "password", "auth_url": keystone_url,
            "interface": "public", "username": "gnocchi", "password": keystone_server.PASSWORD,
            "user_domain_id": DOMAIN, "project_name": "service", "project_domain_id": DOMAIN, **options}})


@pytest.fixture(scope="module")
def service(keystone):
    service = make_service(keystone.url)
    service.start()
    keystone.register("metric", "gnocchi", service.url)
    with connect(keystone, "root") as root:
        root.archive_policy.create({"name": "low", "definition": [{"granularity": "1m", "points": 60}]})
        root.archive_policy_rule.create({"name": "all", "metric_pattern": "*", "archive_policy_name": "low"})
        yield service
    service.stop()


def scope_of(user):
    return {"project_name": USERS[user][0], "project_domain_id": DOMAIN}


@contextlib.contextmanager
def connect(keystone, user):
    """The client's Python interface, for a user in his project; it finds the API in the catalogue."""
    opened = session.Session(auth=keystone.login(user, **scope_of(user)))
    yield client.Client(session=opened, adapter_options={"interface": "public"})
    opened.session.close()


def send(service, path, headers=None, method="GET", body=None):
    """Return status, headers and body."""
    request = urllib.request.Request(
        service.url + path, json.dumps(body).encode() if body is not None else None,
        {"Accept": "application/json", "Content-Type": "application/json", **(headers or {})}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as reply:
            return reply.status, reply.headers, reply.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers, e.read()


def run_command(keystone, user, *arguments):
    """Run a command of `gnocchi`; return its exit code and what it prints."""
    printed, errors = io.StringIO(), io.StringIO()
    login = ["--os-auth-type", "password", "--os-auth-url", keystone.url, "--os-username", user, "--os-password",
             keystone_server.PASSWORD, "--os-project-name", USERS[user][0], "--os-user-domain-id", DOMAIN,
             "--os-project-domain-id", DOMAIN]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors), \
            unittest.mock.patch.object(sys, "argv", ["gnocchi", *login, *arguments]):   # where it looks for its plug-in
        code = shell.GnocchiShell().run(sys.argv[1:])
    return code, printed.getvalue() or errors.getvalue()


def test_documents_and_health_need_no_token(service):
    """They are for load balancers and discovery."""
    assert 200 == send(service, "/")[0]
    assert (200, b"") == send(service, "/healthcheck", {"Accept": "text/plain"})[::2]


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/metric", "/v1/capabilities", "/v1/nope"])
@pytest.mark.parametrize("headers", [
    {}, {"X-Auth-Token": ""}, {"X-Auth-Token": "nonsense"}, {"Authorization": "basic YWRtaW46"},
    {"X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "admin", "X-Identity-Status": "Confirmed"}])
def test_no_token_is_401(service, keystone, path, headers):
    """Below /v1 everywhere, in the usual shape; where to get one is told."""
    status, replied, body = send(service, path, headers)
    assert (401, f'Keystone uri="{keystone.url}"') == (status, replied["WWW-Authenticate"])
    assert {"code": 401, "title": "Unauthorized", "description": ""} == json.loads(body)


def test_headers_of_the_client_do_not_count(service, keystone):
    """What the filter sets cannot be forged beside a token."""
    token = {"X-Auth-Token": keystone.get_token("ann", **scope_of("ann"))}
    forged = {"X-Roles": "admin", "X-User-Id": "someone", "X-Project-Id": "else", "OpenStack-System-Scope": "all",
              "X-Service-Roles": "service"}
    assert 403 == send(service, "/v1/status", token | forged)[0]
    status, _, body = send(service, "/v1/metric", token | forged, "POST", {})
    assert (201, keystone.get_id("user", "ann")) == (status, json.loads(body)["created_by_user_id"])


def test_preflight_needs_no_token(service):
    """Browsers send none."""
    assert 200 == send(service, "/v1/metric", {"Origin": "http://grafana", "Access-Control-Request-Method": "GET"},
                       "OPTIONS")[0]


def test_creator_is_user_and_project(service, keystone):
    """As they are called in the replies."""
    with connect(keystone, "ann") as ann:
        made = ann.resource.create("generic", {"id": "web-creator"})
    user, project = keystone.get_id("user", "ann"), keystone.get_id("project", "alpha")
    assert [f"{user}:{project}", user, project] == [
        made[name] for name in ("creator", "created_by_user_id", "created_by_project_id")]


def test_commands_of_two_tenants(service, keystone):
    """What is created with `gnocchi --os-auth-type password` is the project's, and nobody else's."""
    id = str(uuid.uuid4())
    code, text = run_command(keystone, "ann", "resource", "create", id, "-n", "cpu:low", "-f", "json")
    assert code == 0, text
    metric = json.loads(text)["metrics"]["cpu"]
    measure = ["-m", "2026-01-01T00:00:00@4"]
    assert 0 == run_command(keystone, "ann", "measures", "add", metric, *measure)[0]

    for own in ("ann", "adam"):
        code, text = run_command(keystone, own, "measures", "show", metric, "--refresh", "-f", "json")
        assert [4.0] == [row["value"] for row in json.loads(text)]
        code, text = run_command(keystone, own, "resource", "list", "-f", "json")
        assert id in [row["id"] for row in json.loads(text)]

    code, text = run_command(keystone, "ben", "resource", "list", "-f", "json")
    assert (0, []) == (code, json.loads(text))
    for arguments, expected in [
            (("resource", "show", id), f"Resource {id} does not exist (HTTP 404)"),
            (("resource", "delete", id), "Forbidden (HTTP 403)"),
            (("measures", "show", metric), "Forbidden (HTTP 403)"),
            (("measures", "add", metric, *measure), "Forbidden (HTTP 403)"),
            (("archive-policy", "create", "x", "-d", "granularity:1s,points:1"), "Forbidden (HTTP 403)")]:
        code, text = run_command(keystone, "ben", *arguments)
        assert (1, True) == (code, expected in text), text
    code, text = run_command(keystone, "ben", "resource", "batch", "delete", f"id = '{id}'", "-f", "json")
    assert (0, {"deleted": 0}) == (code, json.loads(text))
    code, text = run_command(keystone, "root", "resource", "show", id, "-f", "json")
    assert (0, metric) == (code, json.loads(text)["metrics"]["cpu"])
    assert 0 == run_command(keystone, "adam", "resource", "delete", id)[0]


def test_lists_show_what_is_the_project_s(service, keystone):
    """Metrics without a resource too; and on all pages."""
    with connect(keystone, "ann") as ann, connect(keystone, "ben") as ben, connect(keystone, "root") as root:
        made = {ann.metric.create({"archive_policy_name": "low"})["id"] for _ in range(5)}
        assert made <= {metric["id"] for metric in ann.metric.list()}
        assert not made & {metric["id"] for metric in ben.metric.list()}
        assert made <= {metric["id"] for metric in root.metric.list()}


def test_owner_reads_only(service, keystone):
    """A resource that somebody else created for a project, as Ceilometer does."""
    with connect(keystone, "ann") as ann, connect(keystone, "ben") as ben:
        resource = ann.resource.create("generic", {
            "id": str(uuid.uuid4()), "project_id": keystone.get_id("project", "beta"), "metrics": {"cpu": {}}})
        metric = resource["metrics"]["cpu"]
        assert resource == ben.resource.get("generic", resource["id"])
        found = ben.resource.search("generic", {"=": {"id": resource["id"]}})
        assert [resource["id"]] == [each["id"] for each in found]
        assert metric in [each["id"] for each in ben.metric.list()]
        assert [] == ben.metric.get_measures(metric)
        for refused in (lambda: ben.metric.add_measures(metric, [{"timestamp": 1, "value": 1}]),
                        lambda: ben.resource.update("generic", resource["id"], {"project_id": "x"}),
                        lambda: ben.resource.delete(resource["id"])):
            with pytest.raises(gnocchiclient.exceptions.Forbidden):
                refused()


def test_service_role(service, keystone):
    """It feeds every project, and deletes nothing."""
    with connect(keystone, "ann") as ann, connect(keystone, "ceilometer") as ceilometer:
        resource = ann.resource.create("generic", {"id": str(uuid.uuid4()), "metrics": {"cpu": {}}})
        metric = resource["metrics"]["cpu"]
        ceilometer.metric.batch_metrics_measures({metric: [{"timestamp": 60, "value": 3}]})
        assert [3.0] == [value for _, _, value in ceilometer.metric.get_measures(metric, refresh=True)]
        assert "u" == ceilometer.resource.update("generic", resource["id"], {"user_id": "u"})["user_id"]
        assert 1 == len(ceilometer.resource.search("generic", {"=": {"id": resource["id"]}}))
        assert [] == ceilometer.resource.list("generic")
        ceilometer.archive_policy.create({"name": "ceilometer", "definition": [{"granularity": 1}]})
        ceilometer.resource_type.create({"name": "ceilometer"})
        with pytest.raises(gnocchiclient.exceptions.ResourceNotFound):
            ceilometer.resource.get("generic", resource["id"])
        for refused in (lambda: ceilometer.resource.delete(resource["id"]),
                        lambda: ceilometer.metric.delete(metric),
                        lambda: ceilometer.resource_type.delete("ceilometer"),
                        ceilometer.status.get):
            with pytest.raises(gnocchiclient.exceptions.Forbidden):
                refused()


def test_aggregates_stay_within_the_project(service, keystone):
    """What cannot be read cannot be computed with."""
    with connect(keystone, "ann") as ann, connect(keystone, "ben") as ben:
        name = uuid.uuid4().hex
        for who, value in ((ann, 1), (ben, 2)):
            made = who.resource.create("generic", {"id": str(uuid.uuid4()), "metrics": {name: {}}})
            who.metric.add_measures(made["metrics"][name], [{"timestamp": 60, "value": value}])
            assert who.metric.get_measures(made["metrics"][name], refresh=True)
        query = {"operations": f"(aggregate sum (metric {name} mean))", "search": {}}
        assert [1.0] == [value for _, _, value in ann.aggregates.fetch(**query)["measures"]["aggregated"]]
        with pytest.raises(gnocchiclient.exceptions.Forbidden):
            ann.aggregates.fetch(f"(metric {made['metrics'][name]} mean)")


@pytest.mark.parametrize("user, scope, status_status", [
    ("dora", {"domain_id": DOMAIN}, 200), ("dan", {"domain_id": DOMAIN}, 403), ("sue", {"system_scope": "all"}, 403),
    ("ann", {}, 403), ("admin", {"system_scope": "all"}, 200)])
def test_tokens_without_a_project(service, keystone, user, scope, status_status):
    """Roles count; of an own project there is nothing, also not what belongs to none."""
    with connect(keystone, "ann") as ann:
        foreign = ann.metric.create({})["id"]
    token = {"X-Auth-Token": keystone.get_token(user, **scope)}
    status, _, body = send(service, "/v1/metric", token)
    if status_status == 403:
        assert (200, []) == (status, json.loads(body))
        assert 403 == send(service, f"/v1/metric/{foreign}", token)[0]
    else:
        assert (200, 3) == (status, len(json.loads(body)))
        assert 200 == send(service, f"/v1/metric/{foreign}", token)[0]
    assert status_status == send(service, "/v1/status", token)[0]
    status, _, body = send(service, "/v1/metric", token, "POST", {})
    assert (201, "") == (status, json.loads(body)["created_by_project_id"])
    assert 204 == send(service, f"/v1/metric/{json.loads(body)['id']}", token, "DELETE")[0]


@pytest.mark.parametrize("sender, expected", [("ceilometer", 200), ("ben", 401), (None, 401)])
def test_service_token(service, keystone, sender, expected):
    """Beside a user's token it must be one of a service; and it gives no right."""
    headers = {"X-Auth-Token": keystone.get_token("ann", **scope_of("ann")),
               "X-Service-Token": keystone.get_token(sender, **scope_of(sender)) if sender else "nonsense"}
    assert expected == send(service, "/v1/metric", headers)[0]
    assert (403 if expected == 200 else 401) == send(service, "/v1/status", headers)[0]


def test_application_credential_with_rules(service, keystone):
    """It opens what its rules name, and nothing else."""
    made = keystone.create_application_credential(
        "ann", "alpha", [{"service": "metric", "method": "GET", "path": "/v1/metric/**"},
                         {"service": "metric", "method": "GET", "path": "/v1/metric"}])
    plugin = v3.ApplicationCredential(
        auth_url=keystone.url, application_credential_id=made["id"], application_credential_secret=made["secret"])
    token = {"X-Auth-Token": session.Session(auth=plugin).get_token()}
    status, _, body = send(service, "/v1/metric?limit=1", token)
    assert 200 == status, body
    assert 401 == send(service, "/v1/metric", token, "POST", {})[0]
    assert 401 == send(service, "/v1/archive_policy", token)[0]


def test_revoked_token_without_cache(keystone):
    """Without a cache the next request is refused."""
    service = make_service(keystone.url, token_cache_time=-1)
    service.start()
    try:
        headers = {"X-Auth-Token": keystone.get_token("ann", **scope_of("ann"))}
        assert 200 == send(service, "/v1/metric", headers)[0]
        keystone.revoke(headers["X-Auth-Token"])
        assert 401 == send(service, "/v1/metric", headers)[0]
    finally:
        service.stop()


class Failing(http.server.BaseHTTPRequestHandler):
    """A proxy whose Keystone is down."""

    def do_GET(self):
        self.send_error(502)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def failing_url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v3"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("case", ["away", "wrong password", "no such project", "bad gateway"])
def test_keystone_that_does_not_serve_us_is_503(keystone, failing_url, case):
    """Nobody's token is wrong because of that; what needs none goes on."""
    url, options = keystone.url, {"http_request_max_retries": 0}
    if case == "away":
        url = f"http://127.0.0.1:{find_free_port()}/v3"
    elif case == "wrong password":
        options["password"] = "wrong"
    elif case == "no such project":
        options["project_name"] = "nope"
    else:
        url = failing_url
    service = make_service(url, **options)
    service.start()
    try:
        token = keystone.get_token("ann", **scope_of("ann"))
        status, _, body = send(service, "/v1/metric", {"X-Auth-Token": token})
        assert (503, "Keystone cannot be asked whether the token is valid") == (
            status, json.loads(body)["description"])
        assert 401 == send(service, "/v1/metric")[0]
        assert 200 == send(service, "/")[0]
        assert 200 == send(service, "/healthcheck")[0]
    finally:
        service.stop()
