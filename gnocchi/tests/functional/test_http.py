"""What gabbi cannot send, and what gnocchiclient sends, over real HTTP."""

import http.client
import json
import socket

import gnocchiclient.auth
import gnocchiclient.exceptions
import gnocchiclient.v1.client
import pytest

from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.functional.service import ApiService

MAX_BODY_SIZE = 1024
ADMIN = {"Authorization": "basic YWRtaW46"}
BOB = {"Authorization": "basic Ym9iOg=="}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service():
    service = ApiService({"api": {"max_body_size": MAX_BODY_SIZE}})
    service.start()
    yield service
    service.stop()


@pytest.fixture
def connection(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=DEADLINE_S)
    yield connection
    connection.close()


def send(connection, method, path, headers, body=None, chunked=False):
    connection.request(method, path, body, headers, encode_chunked=chunked)
    response = connection.getresponse()
    return response, response.read()


def policy(name, size=0):
    body = json.dumps({"name": name, "definition": [{"granularity": 1}]}).encode()
    return body + b" " * (size - len(body))


def pieces(body, size=100):
    return [body[start:start + size] for start in range(0, len(body), size)]


def test_error_is_text_without_accept_header(connection):
    """http.client sends none."""
    response, body = send(connection, "GET", "/v1/archive_policy/%E2%9C%94", ADMIN)
    assert (404, "text/plain; charset=UTF-8") == (response.status, response.headers["Content-Type"])
    assert "Archive policy ✔ does not exist" in body.decode()


def test_body_in_chunks_is_read(connection):
    """Without a length, up to the limit."""
    response, body = send(connection, "POST", "/v1/archive_policy", ADMIN | JSON | {"Transfer-Encoding": "chunked"},
                          iter(pieces(policy("chunks", MAX_BODY_SIZE))), chunked=True)
    assert 201 == response.status, body


def test_body_in_too_many_chunks_is_refused(service, connection):
    """The limit holds although nobody said how long it will be."""
    response, _ = send(connection, "POST", "/v1/archive_policy", ADMIN | JSON | {"Transfer-Encoding": "chunked"},
                       iter(pieces(policy("toolarge", MAX_BODY_SIZE + 1))), chunked=True)
    assert 413 == response.status
    again = http.client.HTTPConnection("127.0.0.1", service.port, timeout=DEADLINE_S)
    response, _ = send(again, "GET", "/v1/archive_policy/toolarge", ADMIN)
    again.close()
    assert 404 == response.status


def test_connection_goes_on_after_a_body_that_nobody_read(connection):
    """A refusal leaves the body unread; the next request on the connection is not taken from its rest."""
    for _ in range(3):
        response, _ = send(connection, "POST", "/v1/archive_policy", BOB | JSON, policy("unread", 900))
        assert 403 == response.status
    response, body = send(connection, "GET", "/v1/archive_policy/unread", ADMIN)
    assert (404, True) == (response.status, b"does not exist" in body)


@pytest.mark.parametrize("path", ["/", "/healthcheck"])
def test_body_that_nobody_wants_is_awaited(service, path):
    """A reply before it has arrived would end the connection, on which the next request may be on its way."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE_S) as client:
        for _ in range(3):
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: me\r\nContent-Length: 2\r\n\r\n".encode())
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
            client.settimeout(DEADLINE_S)
            client.sendall(b"{}")
            assert client.recv(1 << 16).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", ["/v1/archive_policy/a%2Fb", "/v1%2Farchive_policy%2Fa"])
def test_encoded_slash_is_a_slash(connection, path):
    """So it never is part of a name."""
    response, _ = send(connection, "GET", path, ADMIN)
    assert 404 == response.status


def make_client(service, user="admin"):
    plugin = gnocchiclient.auth.GnocchiBasicPlugin(user=user, endpoint=service.url)
    return gnocchiclient.v1.client.Client(session_options={"auth": plugin})


def test_gnocchiclient_manages_archive_policies(service):
    """It joins paths with double slashes and sends numbers as text."""
    client = make_client(service)
    created = client.archive_policy.create({
        "name": "client", "back_window": 1, "definition": [{"granularity": "1s", "points": "60"}]})
    assert "0:01:00" == created["definition"][0]["timespan"]
    changed = client.archive_policy.update("client", {"definition": [{"granularity": "1s", "points": "120"}]})
    assert (120, 1) == (changed["definition"][0]["points"], changed["back_window"])
    assert "client" in [found["name"] for found in client.archive_policy.list()]

    client.archive_policy_rule.create({"name": "rule", "metric_pattern": "cpu.*", "archive_policy_name": "client"})
    assert "other" == client.archive_policy_rule.update("rule", "other")["name"]
    with pytest.raises(gnocchiclient.exceptions.BadRequest, match="is still in use"):
        client.archive_policy.delete("client")
    client.archive_policy_rule.delete("other")
    client.archive_policy.delete("client")
    with pytest.raises(gnocchiclient.exceptions.ArchivePolicyNotFound):
        client.archive_policy.get("client")


def test_gnocchiclient_tells_errors_apart(service):
    """It matches the beginning of the description."""
    client = make_client(service)
    client.archive_policy.create({"name": "taken", "definition": [{"granularity": "1s"}]})
    with pytest.raises(gnocchiclient.exceptions.ArchivePolicyAlreadyExists):
        client.archive_policy.create({"name": "taken", "definition": [{"granularity": "1s"}]})
    with pytest.raises(gnocchiclient.exceptions.ArchivePolicyRuleNotFound):
        client.archive_policy_rule.get("nope")
    with pytest.raises(gnocchiclient.exceptions.Forbidden):
        make_client(service, "bob").archive_policy.delete("taken")


def test_gnocchiclient_reads_capabilities_and_build(service):
    """Aodh and the command line ask for these."""
    client = make_client(service)
    assert 216 == len(client.capabilities.list()["aggregation_methods"])
    assert client.build.get() != "unknown"
