"""Clients that send slowly, or too much, take nothing from the others."""

import contextlib
import resource
import socket
import time
import uuid

import pytest

from gnocchi import metric_ids
from gnocchi.processing.locks import lock_name, sack_name
from gnocchi.tests.crash.service import DEADLINE_S, Client, Service

SACKS = 4

#: Longer than any client waits.
REFRESH_S = 1000
SLOW_CLIENTS = 60
IDLE_CLIENTS = 1500

REQUEST = ("POST /v1/batch/metrics/measures HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YWRtaW46\r\n"
           "Content-Type: application/json\r\n")

#: Beginnings of requests that never end.
UNENDING = {
    "half a chunk": REQUEST + "Transfer-Encoding: chunked\r\n\r\n100\r\n{",
    "no last chunk": REQUEST + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "half a body": REQUEST + "Content-Length: 1000\r\n\r\n{",
    "half a large body": REQUEST + "Content-Length: 30000000\r\n\r\n" + " " * 10_000,
    "half a header": REQUEST,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Two threads in each of two processes work at once."""
    service = Service(tmp_path_factory.mktemp("slow"), {"api": {"threads": 2, "operation_timeout": REFRESH_S}})
    try:
        service.upgrade("--sacks-number", str(SACKS))
        service.start_all()
        service.connect().create_policy("plain", [{"granularity": 1, "points": 100}], ["mean"])
        yield service
    finally:
        service.remove()


@contextlib.contextmanager
def unending(service: Service, beginning: str, count: int):
    """Many connections on which a request has begun."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(beginning.encode())
        yield


def check_others(client: Client) -> None:
    metric, = client.create_metrics("plain", 1)
    assert 202 == client.push(metric, [(1, 1.0)]).status
    assert [[1.0, 1.0]] == [row[1:] for row in client.read(metric, refresh=True)]


@pytest.mark.parametrize("beginning", UNENDING.values(), ids=UNENDING)
def test_unending_requests_stall_nobody(service, beginning):
    """More of them than there are threads that work."""
    with unending(service, beginning, SLOW_CLIENTS):
        check_others(service.connect())


def test_idle_connections_stall_nobody(service):
    """Each costs a file and no thread."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE_CLIENTS + 500
    if hard != resource.RLIM_INFINITY and hard < 2 * wanted:
        pytest.skip(f"only {hard} files may be open")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        with unending(service, "", IDLE_CLIENTS):
            check_others(service.connect())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_large_bodies_are_still_taken(service):
    """One after the other, also in chunks, while others that will never end wait for theirs."""
    client = service.connect()
    metric, = client.create_metrics("plain", 1)
    body = b"[" + b",".join(b'{"timestamp": %d, "value": 1}' % i for i in range(100_000)) + b"]"
    with unending(service, UNENDING["half a large body"], 2):
        for sent in (body, iter([body[:100], body[100:2_000_000], body[2_000_000:]])):
            client._connection.request("POST", f"/v1/metric/{metric}/measures", sent, client._headers)
            reply = client._connection.getresponse()
            assert (202, b"") == (reply.status, reply.read())


def test_refreshes_of_a_locked_sack_stall_nobody(service):
    """More of them than there are threads that work."""
    client = service.connect()
    metric, = client.create_metrics("plain", 1)
    number = int(metric_ids.sack_numbers(metric_ids.pack_ids([uuid.UUID(metric)]), SACKS)[0])
    path = f"/v1/metric/{metric}/measures?refresh=true"
    begun = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic YWRtaW46\r\n\r\n"
    name = sack_name(number, SACKS)
    with service.backends.coordinator.wait_lock(lock_name(name), time.monotonic() + DEADLINE_S, name):
        assert 202 == client.push(metric, [(1, 1.0)]).status
        with unending(service, begun, SLOW_CLIENTS):
            for _ in range(20):
                client.create_metrics("plain", 1)
    assert [[1.0, 1.0]] == [row[1:] for row in client.read(metric, refresh=True)]
