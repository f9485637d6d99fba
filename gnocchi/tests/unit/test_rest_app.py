"""The WSGI pipeline: what no client sends through a well-behaved HTTP library."""

import base64
import configparser
import gc
import io
import json
import pickle
import sys
import weakref

import pytest
import webob
from oslo_config import cfg

from gnocchi import opts
from gnocchi.backends import Backends
from gnocchi.cli import api
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration
from gnocchi.indexer import migration
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.rest import app as rest_app
from gnocchi.rest import errors, routing
from gnocchi.rest.request import Request

ADMIN = {"Authorization": "basic " + base64.b64encode(b"admin:").decode()}
JSON = ADMIN | {"Accept": "application/json", "Content-Type": "application/json"}
POLICY = {"name": "a", "definition": [{"granularity": 1}]}


@pytest.fixture
def make_conf(tmp_path):
    """Make a configuration with the options given, as text of sections."""

    def make(**sections):
        parser = configparser.ConfigParser()
        parser.read_dict({"indexer": {"url": f"sqlite:///{tmp_path}/index.sqlite"},
                          "storage": {"file_basepath": str(tmp_path / "data")}})
        for name, options in sections.items():
            parser.read_dict({name: options})
        path = tmp_path / "gnocchi.conf"
        with path.open("w") as f:
            parser.write(f)
        conf = cfg.ConfigOpts()
        opts.set_defaults()
        opts.register_opts(conf)
        conf(["--config-file", str(path)], project="gnocchi")
        return conf

    return make


@pytest.fixture
def make_app(make_conf):
    """Make the application on an empty index."""

    def make(**sections):
        conf = make_conf(**sections)
        migration.upgrade(Indexer(conf.indexer.url))
        return rest_app.load_app(conf)

    return make


def send(app, path, method="GET", headers=ADMIN, body=b"", **environ):
    request = webob.Request.blank(path, method=method, headers=headers, environ=environ)
    request.environ["wsgi.input"] = io.BytesIO(body)
    if body and "CONTENT_LENGTH" not in environ:
        request.environ["CONTENT_LENGTH"] = str(len(body))
    return request.get_response(app)


def test_error_is_text_without_accept_header(make_app):
    """Clients of old match this text."""
    response = send(make_app(), "/v1/archive_policy/nope")
    assert (404, "text/plain", "UTF-8") == (response.status_int, response.content_type, response.charset)
    assert response.text.startswith("404 Not Found\n\nThe resource could not be found.\n\n")


@pytest.mark.parametrize("path", ["//v1/archive_policy", "/v1//archive_policy", "///v1///archive_policy///"])
def test_doubled_slashes_do_not_count(make_app, path):
    """gnocchiclient joins paths carelessly."""
    request = webob.Request.blank("/", headers=ADMIN)
    request.environ["PATH_INFO"] = path
    assert 200 == request.get_response(make_app()).status_int


@pytest.mark.parametrize("body, reason", [
    (b"", "Expected object or value"),
    (b"  ", "Expected object or value"),
    (b"{", "Expected object or value"),
    (b'{"a": [1, ', "Expected object or value"),
    (b'{"a": "\xff"}', None),
    (b"\xff\xfe{", None),
    (b"[" * 100_000, None),
    (b"1" * 5000, None),
    (b"{'a': 1}", None),
    (b'{"a": "\\ud800"}', None),
    (b'{"a": "\xed\xa0\x80"}', None),
    ('{"a": "\\ud800"}'.encode("utf-16"), None),
    (b"[" + b"[]," * 400_000 + b"[]]", "a list or object for less than each 24 bytes"),
])
def test_body_that_is_not_json_is_400(make_app, body, reason):
    """Never a 500, whatever the bytes."""
    response = send(make_app(), "/v1/archive_policy", "POST", JSON, body)
    assert 400 == response.status_int
    description = response.json["description"]
    assert ("Unable to decode body", []) == (description["cause"], description["detail"])
    assert description["reason"] == reason if reason else description["reason"]


@pytest.mark.parametrize("value", ["null", "1", "true", '"a"', "NaN", "[1]", "[[[]]]"])
def test_body_of_another_kind_is_400(make_app, value):
    """The schema speaks."""
    response = send(make_app(), "/v1/archive_policy", "POST", JSON, value.encode())
    assert (400, "expected a dictionary") == (response.status_int, response.json["description"]["reason"])


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "\u0663"])
def test_bad_content_length_is_400(make_app, length):
    """Servers may hand it on unchecked."""
    response = send(make_app(), "/v1/archive_policy", "POST", JSON, b"{}", CONTENT_LENGTH=length)
    assert (400, "Content-Length is not a number of bytes") == (response.status_int, response.json["description"])


def test_body_that_ends_early_is_400(make_app):
    """The client has gone, and nothing half may be taken for whole."""
    body = json.dumps(POLICY).encode()
    response = send(make_app(), "/v1/archive_policy", "POST", JSON, body, CONTENT_LENGTH=str(len(body) + 1))
    assert 400 == response.status_int
    assert f"only {len(body)} of {len(body) + 1} bytes arrived" == response.json["description"]["reason"]


@pytest.mark.parametrize("surplus, status", [(0, 201), (1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_size_of_body_is_limited(make_app, chunked, surplus, status):
    """Exactly the limit is taken, with and without Content-Length."""
    body = json.dumps(POLICY).encode()
    app = make_app(api={"max_body_size": str(len(body))})
    environ = {"CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"} if chunked else {}
    response = send(app, "/v1/archive_policy", "POST", JSON, body + b" " * surplus, **environ)
    assert status == response.status_int


def test_body_without_length_is_not_waited_for(make_app):
    """Without a length and without chunks there is no body."""

    class Endless(io.RawIOBase):
        def read(self, size=-1):
            raise AssertionError("would block")

    request = webob.Request.blank("/v1/archive_policy", method="POST", headers=JSON)
    request.environ.pop("CONTENT_LENGTH", None)
    request.environ["wsgi.input"] = Endless()
    response = request.get_response(make_app())
    assert "Expected object or value" == response.json["description"]["reason"]


def test_back_end_that_is_away_is_503_and_the_rest_answers(make_conf):
    """Version documents do not need the index, and the reason is told without secrets."""
    app = rest_app.load_app(make_conf(
        indexer={"url": "postgresql://gnocchi:very-secret@127.0.0.1:1/gnocchi"}))
    assert 200 == send(app, "/", headers={}).status_int
    assert 200 == send(app, "/v1/").status_int
    assert 401 == send(app, "/v1/archive_policy", headers={}).status_int
    response = send(app, "/v1/archive_policy", headers=JSON)
    assert (503, "Service Unavailable") == (response.status_int, response.json["title"])
    assert response.json["description"]
    assert "very-secret" not in response.text


def test_back_end_that_cannot_be_opened_is_tried_again(make_conf):
    """A start without back ends must not last."""
    conf = make_conf()
    migration.upgrade(Indexer(conf.indexer.url))

    class Recovering(Backends):
        away = True

        @property
        def indexer(self):
            if self.away:
                raise BackendUnavailable("index: not yet")
            return super().indexer

    backends = Recovering(conf)
    app = rest_app.load_app(conf, backends)
    assert (503, "index: not yet") == (
        send(app, "/v1/archive_policy", headers=JSON).status_int,
        send(app, "/v1/archive_policy", headers=JSON).json["description"])
    backends.away = False
    assert 200 == send(app, "/v1/archive_policy", headers=JSON).status_int


def test_unexpected_error_is_500_in_the_usual_shape(make_conf, caplog):
    """The client gets an answer, the log the traceback."""
    conf = make_conf()

    class Broken(Backends):
        @property
        def indexer(self):
            raise RuntimeError("inner detail")

    response = send(rest_app.load_app(conf, Broken(conf)), "/v1/archive_policy", headers=JSON)
    assert (500, "Internal Server Error") == (response.status_int, response.json["title"])
    assert "inner detail" not in response.text
    assert "inner detail" in caplog.text


def test_what_a_driver_cannot_do_is_501(make_conf):
    """NotImplementedError has its own status."""
    conf = make_conf()

    class Limited(Backends):
        @property
        def indexer(self):
            raise NotImplementedError("lifespan on this database")

    response = send(rest_app.load_app(conf, Limited(conf)), "/v1/archive_policy", headers=JSON)
    assert (501, "lifespan on this database") == (response.status_int, response.json["description"])


def test_remote_user_mode(make_app):
    """The server's word counts, the Authorization header does not."""
    app = make_app(api={"auth_mode": "remoteuser"})
    assert 401 == send(app, "/v1/archive_policy").status_int
    assert 200 == send(app, "/v1/archive_policy", headers={}, REMOTE_USER="bob").status_int
    headers = {name: value for name, value in JSON.items() if name != "Authorization"}
    body = json.dumps(POLICY).encode()
    assert 403 == send(app, "/v1/archive_policy", "POST", headers, body, REMOTE_USER="bob").status_int
    assert 201 == send(app, "/v1/archive_policy", "POST", headers, body, REMOTE_USER="admin").status_int


@pytest.mark.parametrize("section", ["api", "oslo_middleware"])
def test_proxy_headers_are_believed_only_when_told(make_app, section):
    """The option is also read from its old place."""
    headers = {"Forwarded": "for=192.0.2.60;proto=https;host=foobar", "X-Forwarded-Prefix": "/g"}

    def self_link(app):
        return send(app, "/", headers=headers).json["versions"][0]["links"][0]["href"]

    assert "http://localhost/v1/" == self_link(make_app())
    assert "https://foobar/g/v1/" == self_link(make_app(**{section: {"enable_proxy_headers_parsing": "true"}}))


def test_mount_prefix_is_part_of_every_link(make_app):
    """A server may mount the application itself."""
    app = make_app()
    assert "http://localhost/mounted/v1/" == send(
        app, "/", SCRIPT_NAME="/mounted").json["versions"][0]["links"][0]["href"]
    response = send(app, "/v1/archive_policy", "POST", JSON, json.dumps(POLICY).encode(), SCRIPT_NAME="/mounted")
    assert "http://localhost/mounted/v1/archive_policy/a" == response.headers["Location"]
    response = send(app, "/v1", SCRIPT_NAME="/mounted")
    assert (302, "http://localhost/mounted/v1/") == (response.status_int, response.headers["Location"])


def test_paste_file_of_an_earlier_release_still_works(make_conf, tmp_path):
    """Customised paste files name the factory and, from older days, shorter roots."""
    paste = tmp_path / "custom-paste.ini"
    with open(rest_app.PACKAGED_PASTE_CONFIG) as f:
        text = f.read().replace("gnocchi.rest.api.", "gnocchi.rest.")
    paste.write_text(text.replace("paste.app_factory = gnocchi.rest.app:healthcheck_factory",
                                  "use = egg:oslo.middleware#healthcheck\noslo_config_project = gnocchi"))
    conf = make_conf(api={"paste_config": str(paste)})
    migration.upgrade(Indexer(conf.indexer.url))
    app = rest_app.load_app(conf)
    assert (200, 200, 200) == tuple(
        send(app, path).status_int for path in ("/", "/v1/archive_policy", "/healthcheck"))


def test_paste_file_is_found_beside_the_configuration(make_conf, tmp_path):
    """A relative name is looked up there; the packaged file is used when there is none."""
    conf = make_conf()
    assert rest_app.PACKAGED_PASTE_CONFIG == rest_app.find_paste_config(conf)
    (tmp_path / "api-paste.ini").write_text("")
    assert str(tmp_path / "api-paste.ini") == rest_app.find_paste_config(conf)


def test_health_reads_the_configuration_of_this_service(make_conf, tmp_path):
    """A file that disables the service is found through --config-file."""
    switch = tmp_path / "off"
    app = rest_app.load_app(make_conf(api={"healthcheck_backends": ""}, healthcheck={
        "backends": "disable_by_file", "disable_by_file_path": str(switch)}))
    assert 200 == send(app, "/healthcheck", headers={}).status_int
    switch.write_text("")
    assert 503 == send(app, "/healthcheck", headers={}).status_int


def test_policy_tools_find_the_rules():
    """oslo.policy's commands load this entry point."""
    assert "get status" in rest_app.get_enforcer().registered_rules


@pytest.mark.parametrize("path, method, body, status", [
    ("/v1/metric", "POST", b'{"archive_policy_name": "low"}', 201),
    ("/v1/archive_policy", "POST", b"{", 400),
    ("/v1/metric?limit=2", "GET", b"", 200),
    ("/v1/batch/metrics/measures", "POST", b'{"4b1c7a3e-8f0d-4a52-9c6e-5d2f7b90a1c3": []}', 400),
    ("/v1/batch/metrics/measures", "POST", b'{"4b1c7a3e-8f0d-4a52-9c6e-5d2f7b90a1c3": [{"timestamp": "x"}]}', 400),
    ("/v1/batch/metrics/measures", "POST", b'{"4b1c7a3e": [{"timestamp": 1, "value": 1}]}', 400),
    ("/v1/batch/metrics/measures", "POST", b"[]", 400),
    ("/v1/batch/resources/metrics/measures", "POST", b'{"a": {"b": [{"timestamp": 1, "value": 1}]}}', 400),
    ("/v1/metric/4b1c7a3e-8f0d-4a52-9c6e-5d2f7b90a1c3/measures", "POST", b"[]", 404),
    ("/v1/metric/4b1c7a3e-8f0d-4a52-9c6e-5d2f7b90a1c3/measures?start=0", "GET", b"", 404),
    ("/v1/nope", "GET", b"", 404),
    ("/v1/archive_policy", "PATCH", b"{}", 405),
])
def test_nothing_of_a_request_is_left(make_app, path, method, body, status):
    """Bodies are freed at once: garbage in cycles would wait for the collector, which is seldom called."""

    class Body(io.BytesIO):
        pass

    app = make_app()
    send(app, "/v1/archive_policy", "POST", JSON, json.dumps(POLICY | {"name": "low"}).encode())
    send(app, path, method, JSON, body)    # What is kept from a first request on has nothing to do with it.
    gc.collect()
    gc.disable()
    try:
        source = Body(body)
        environ = webob.Request.blank(path, method=method, headers=JSON).environ
        environ |= {"wsgi.input": source, "CONTENT_LENGTH": str(len(body))}
        alive = weakref.ref(source)
        statuses: list[str] = []
        b"".join(app(environ, lambda line, headers, exc_info=None: statuses.append(line)))
        del environ, source
        assert alive() is None
        assert [str(status)] == [line.split()[0] for line in statuses]
    finally:
        gc.enable()


#: What needs nobody to answer.
KEYSTONE = {"auth_type": "password", "auth_url": "http://127.0.0.1:1/v3", "www_authenticate_uri": "http://k/v3",
            "username": "gnocchi", "password": "p"}


@pytest.mark.parametrize("options, expected", [
    ({}, "[keystone_authtoken] auth_type: is not set"),
    ({"auth_type": "nonsense"}, "[keystone_authtoken]: The plugin nonsense could not be found"),
    ({"auth_type": "password"}, "[keystone_authtoken]: Auth plugin requires parameters which were not given: auth_url"),
    (KEYSTONE | {"interface": "x", "token_cache_time": "soon"}, "[keystone_authtoken]: "),
    (KEYSTONE | {"memcache_security_strategy": "MAC"}, "[keystone_authtoken]: "),
])
def test_keystone_that_is_not_configured_is_told_at_start(make_conf, options, expected):
    """Not by a 500 to whoever comes first."""
    with pytest.raises(InvalidConfiguration) as caught:
        rest_app.load_app(make_conf(api={"auth_mode": "keystone"}, keystone_authtoken=options))
    assert str(caught.value).startswith(expected)


def test_keystone_middleware_that_is_not_installed_is_told_at_start(make_conf, monkeypatch):
    """With what to install."""
    monkeypatch.delitem(sys.modules, "gnocchi.rest.keystone", raising=False)
    monkeypatch.delattr("gnocchi.rest.keystone", raising=False)
    monkeypatch.setitem(sys.modules, "keystonemiddleware", None)
    with pytest.raises(InvalidConfiguration, match=r"pip install 'gnocchi\[keystone\]'"):
        rest_app.load_app(make_conf(api={"auth_mode": "keystone"}, keystone_authtoken=KEYSTONE))


def test_keystone_refuses_in_the_client_s_shape(make_app):
    """In text without an Accept header; and a body that nobody reads is no trouble."""
    app = make_app(api={"auth_mode": "keystone"}, keystone_authtoken=KEYSTONE | {"delay_auth_decision": "true"})
    response = send(app, "/v1/archive_policy", "POST", {"Content-Type": "application/json"}, b"{}")
    assert (401, "text/plain", 'Keystone uri="http://k/v3"') == (
        response.status_int, response.content_type, response.headers["WWW-Authenticate"])
    assert 200 == send(app, "/", headers={}).status_int


PASTE = """
[composite:gnocchi+keystone]
use = egg:Paste#urlmap
/v1 = v1

[pipeline:v1]
pipeline = {} app

[filter:token]
use = egg:keystonemiddleware#auth_token
oslo_config_project = gnocchi
oslo_config_file = {}

[app:app]
paste.app_factory = gnocchi.rest.app:app_factory
root = gnocchi.rest.api.V1Controller
"""


@pytest.mark.parametrize("token, status", [("", 200), ("token", 401)])
def test_pipelines_of_deployers(make_app, make_conf, tmp_path, token, status):
    """The library's filter may stand there, or none: then headers are believed, as `gnocchi-noauth` wants."""
    paste = tmp_path / "paste.ini"
    paste.write_text(PASTE.format(token, tmp_path / "gnocchi.conf"))
    app = make_app(api={"auth_mode": "keystone", "paste_config": str(paste)}, keystone_authtoken=KEYSTONE)
    headers = JSON | {"X-User-Id": "u", "X-Project-Id": "p", "X-Roles": "admin"}
    assert status == send(app, "/v1/archive_policy", headers=headers).status_int


def test_workers_that_are_not_forked_load_for_themselves():
    """What reaches them is a copy, and an application cannot be copied."""
    loader = pickle.loads(pickle.dumps(api.Loader(("--config-file", "x"), "127.0.0.1", 1, lambda: None)))
    assert loader.application is None


def test_what_has_no_answer_is_not_negotiated():
    """A controller that answers without a body is asked for no media type."""
    class Controller:
        answers_nothing = True

        def post(self):
            return None

    request = Request.blank("/", method="POST", headers={"Accept": "application/x-msgpack"})
    assert [] == routing.dispatch(request, Controller(), [])[1]
    Controller.answers_nothing = False
    with pytest.raises(errors.RequestError, match="406"):
        routing.dispatch(request, Controller(), [])


@pytest.mark.parametrize(("path", "headers", "hidden", "named"), [
    ("/v1/prometheus/write", {}, "google.protobuf", "Remote write"),
    ("/v1/prometheus/write", {}, "cramjam", "snappy"),
    ("/v1/influxdb/write", {"Content-Encoding": "zstd"}, "cramjam", "zstd"),
])
def test_missing_extra_is_told(make_app, monkeypatch, path, headers, hidden, named):
    """What is needed for a protocol may not be installed; the rest works without it."""
    monkeypatch.delitem(sys.modules, "gnocchi.ingest.prometheus", raising=False)
    app = make_app()
    monkeypatch.setitem(sys.modules, hidden, None)
    monkeypatch.delattr("gnocchi.ingest.prometheus", raising=False)
    response = send(app, path, "POST", ADMIN | headers, b"body")
    assert (501, "application/json") == (response.status_int, response.content_type)
    assert f"{named} needs what pip install 'gnocchi[prometheus]' installs" in response.json["description"]
    assert 204 == send(app, "/v1/influxdb/ping").status_int
