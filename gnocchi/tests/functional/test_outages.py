"""The API and metricd while a server is killed, breaks connections or falls silent, and when it is back.

Aggregates are in one Redis, locks in another, the index in PostgreSQL, each behind a proxy; measures wait in files.
"""

import base64
import contextlib
import http.client
import json
import time

import pytest

from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.databases import DEADLINE_S, PostgresqlServer
from gnocchi.tests.faulty import faulty
from gnocchi.tests.functional.daemons import Deployment, wait_until

BACK_ENDS = ("index", "storage", "coordination")

MEASURES = "/v1/metric/{}/measures"

#: No answer may take longer: a client gives up then.  Far more than any limit of ours.
ANSWER_S = DEADLINE_S


@pytest.fixture(scope="module")
def servers():
    """A server of its own for each back end."""
    postgresql = PostgresqlServer(durable=True)
    with contextlib.ExitStack() as started:
        started.callback(postgresql.stop)
        postgresql.start()
        redises = {name: started.enter_context(contextlib.contextmanager(serve)(lambda: make_redis(durable=True)))
                   for name in ("storage", "coordination")}
        yield {"index": postgresql, **redises}


class Outages(Deployment):
    """A deployment whose back ends are each behind a proxy."""

    def __init__(self, directory, servers, proxies):
        super().__init__(directory)
        self.servers = servers
        self.proxies = proxies
        self.database = servers["index"].create_database()
        self.configure({
            "DEFAULT": {"coordination_url": f"redis://127.0.0.1:{proxies['coordination'].port}?timeout=5"},
            "indexer": {"url": self.database.replace(f":{servers['index'].port}/", f":{proxies['index'].port}/")},
            "storage": {"driver": "redis",
                        "redis_url": f"redis://127.0.0.1:{proxies['storage'].port}?socket_timeout=2&db=1"},
            "incoming": {"driver": "file", "file_basepath": directory / "data"},
            "api": {"operation_timeout": 2}})
        self.upgrade("--sacks-number", "4")

    def ask(self, method, path, body=None):
        """Return status and body; an answer has to come."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), {
                "Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Accept": "application/json",
                "Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or "null")

    def tell_health(self):
        status, body = self.ask("GET", "/healthcheck")
        assert (200 if body["reasons"] == [] else 503) == status
        return body["reasons"]

    def await_health(self, *reasons):
        wait_until(lambda: self.tell_health() == [f"{name} is not available" for name in reasons],
                   lambda: f"{self.tell_health()}")


@pytest.fixture
def proxies(servers):
    with contextlib.ExitStack() as started:
        yield {name: started.enter_context(faulty(servers[name].port)) for name in BACK_ENDS}


@pytest.fixture
def deployment(tmp_path, servers, proxies):
    made = Outages(tmp_path, servers, proxies)
    yield made
    for proxy in proxies.values():
        proxy.pass_on()
    made.remove()


@pytest.mark.parametrize("name", BACK_ENDS)
def test_api_starts_without(deployment, name):
    """It says what is away and, once that is back, works without being started anew."""
    metric, = deployment.create_metrics(1)
    deployment.proxies[name].reset()
    api = deployment.start("gnocchi-api")
    api.wait_for("ready in")
    api.wait_for(rf"The {name}.* is not available")
    expected = [name, "incoming"] if name == "index" else [name]    # which is opened once the index tells the sacks
    deployment.await_health(*expected)
    status, body = deployment.ask("GET", "/v1/status")
    if name == "index":
        assert 503 == status
        assert "index: " in body["description"]
        assert 503 == deployment.ask("POST", MEASURES.format(metric), [{"timestamp": 60, "value": 1}])[0]
    else:
        assert 200 == status
        assert {other: other != name for other in (*BACK_ENDS, "incoming")} == {
            other: told["available"] for other, told in body["backends"].items()}
        assert body["backends"][name]["reason"]
    assert 1 == len([line for line in api.output.splitlines() if f"The {name}" in line])
    deployment.proxies[name].pass_on()
    deployment.await_health()
    assert 202 == deployment.ask("POST", MEASURES.format(metric), [{"timestamp": 60, "value": 1}])[0]
    status, body = deployment.ask("GET", MEASURES.format(metric) + "?refresh=true")
    assert (200, 1.0) == (status, body[0][2])
    api.wait_for(rf"The {name}.* is available again")
    assert "Traceback" not in api.output
    assert 0 == api.stop()


def begin(deployment, *names):
    """Start daemons and have one measure aggregated; return metric and daemons."""
    metric, = deployment.create_metrics(1)
    daemons = [deployment.start(name) for name in names]
    daemons[0].wait_for("ready in")
    assert 202 == deployment.ask("POST", MEASURES.format(metric), [{"timestamp": 60, "value": 1.0}])[0]
    wait_until(lambda: deployment.count_backlog() == 0, lambda: daemons[-1].output)
    return metric, daemons


def check_outage(deployment, name, metric):
    """What the API answers while a back end is away: never an empty series, and measures if these need it not."""
    deployment.await_health(name)
    path = MEASURES.format(metric)
    for _ in range(2):
        status, body = deployment.ask("GET", path)
        assert (503 if name in ("index", "storage") else 200) == status, body
        assert 503 == status or 1 <= len(body)
        posted, _ = deployment.ask("POST", path, [{"timestamp": 120, "value": 2.0}])
        assert (503 if name == "index" else 202) == posted
    if name == "coordination":
        assert 503 == deployment.ask("GET", path + "?refresh=true")[0]
    assert (503 if name == "index" else 200) == deployment.ask("GET", "/v1/status")[0]


def check_recovery(deployment, metric, daemons):
    """All goes on by itself, and what was accepted is there."""
    deployment.await_health()
    path = MEASURES.format(metric)
    assert 202 == deployment.ask("POST", path, [{"timestamp": 180, "value": 3.0}])[0]
    wait_until(lambda: [1.0, 3.0] == [value for at, _, value in deployment.ask("GET", path + "?granularity=60")[1]
                                      if value != 2.0], lambda: "".join(daemon.output for daemon in daemons))
    for daemon in daemons:
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop(), daemon.output


@pytest.mark.parametrize("name", BACK_ENDS)
def test_server_is_killed_and_started_again(deployment, name):
    metric, daemons = begin(deployment, "gnocchi-api", "gnocchi-metricd")
    server = deployment.servers[name]
    server.kill()
    try:
        check_outage(deployment, name, metric)
    finally:
        getattr(server, "start_again", server.start)()
    check_recovery(deployment, metric, daemons)


@pytest.mark.parametrize("name", ("storage", "coordination"))
def test_server_falls_silent(deployment, name):
    """Nobody hangs: each request is answered once the back end's time is over."""
    metric, daemons = begin(deployment, "gnocchi-api", "gnocchi-metricd")
    deployment.proxies[name].swallow()
    begun = time.monotonic()
    check_outage(deployment, name, metric)
    print(f"{name} silent: {time.monotonic() - begun:.1f} s for all requests")
    deployment.proxies[name].pass_on()
    check_recovery(deployment, metric, daemons)
