"""A back end that says nothing holds up those only that need it, each of these for a bounded time."""

import base64
import contextlib
import http.client
import json
import threading

import pytest

from gnocchi.processing.aggregate import process_sack
from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.faulty import faulty
from gnocchi.tests.functional.daemons import Deployment, wait_until

#: Requests that work at once.
THREADS = 3

MEASURES = "/v1/metric/{}/measures"
MEASURE = [{"timestamp": 1_800_000_000, "value": 2.0}]


@pytest.fixture(scope="module")
def redis_server():
    yield from serve(lambda: make_redis(durable=True))


@pytest.fixture
def proxy(redis_server):
    with faulty(redis_server.port) as made:
        yield made


class Request(threading.Thread):
    """A request that is made in a thread of its own; `answer` is status and body, or None as long as there is none."""

    def __init__(self, port, method, path, body=None):
        super().__init__(daemon=True)
        self.answer = None
        self._port, self._arguments = port, (method, path, None if body is None else json.dumps(body))
        self.start()

    def run(self):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=2 * DEADLINE_S)) as made:
            made.request(*self._arguments, {
                "Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Accept": "application/json",
                "Content-Type": "application/json"})
            answer = made.getresponse()
            self.answer = answer.status, json.loads(answer.read() or "null")

    def wait(self):
        wait_until(lambda: self.answer is not None, lambda: f"no answer: {self._arguments}")
        return self.answer


class Silence(Deployment):
    """A deployment of which one back end is behind the proxy."""

    def __init__(self, directory, name, proxy):
        url = f"redis://127.0.0.1:{proxy.port}?socket_timeout={4 * DEADLINE_S}&db={len(name)}"
        super().__init__(directory, {
            "DEFAULT": {"coordination_url": f"file://{directory}/coordination"},
            "incoming": {"driver": "file", "file_basepath": directory / "incoming"},
            "api": {"threads": THREADS}})
        self.configure({name: {"driver": "redis", "redis_url": url}})
        self.upgrade("--sacks-number", "1")

    def begin(self, *arguments):
        return Request(self.port, *arguments)

    def ask(self, *arguments):
        return self.begin(*arguments).wait()


@pytest.fixture(params=("storage", "incoming"))
def deployment(request, tmp_path, proxy):
    made = Silence(tmp_path, request.param, proxy)
    made.name = request.param
    yield made
    proxy.pass_on()
    made.remove()


def test_others_are_served(deployment, proxy):
    """More requests wait for it than work at once; new ones that need it soon fail, and all is well when it is back."""
    metric, = deployment.create_metrics(1)
    deployment.post([metric])
    backends = deployment.backends
    process_sack(0, backends.incoming, backends.indexer, backends.store)
    api = deployment.start("gnocchi-api")
    api.wait_for("ready in")
    wait_until(lambda: 200 == deployment.ask("GET", "/healthcheck")[0], lambda: api.output)
    read, post = ("GET", MEASURES.format(metric)), ("POST", MEASURES.format(metric), MEASURE)
    stuck, free = (read, post) if deployment.name == "storage" else (post, read)

    proxy.swallow()
    waiting = [deployment.begin(*stuck) for _ in range(2 * THREADS)]
    for _ in range(3):
        assert (202 if free is post else 200) == deployment.ask(*free)[0]
        assert [str(metric)] == [found["id"] for found in deployment.ask("GET", "/v1/metric")[1]]
    assert THREADS <= [request.answer for request in waiting].count(None), "they did not wait"

    def is_refused():
        waiting.append(deployment.begin(*stuck))
        waiting[-1].join(0.1)
        return any(request.answer and request.answer[0] == 503 for request in waiting)

    wait_until(is_refused, lambda: f"{[request.answer for request in waiting]}")
    assert any("nothing came from it" in request.answer[1]["description"] for request in waiting if request.answer)
    assert None in [request.answer for request in waiting]

    proxy.pass_on()
    assert {202 if stuck is post else 200} >= {request.wait()[0] for request in waiting} - {503}
    wait_until(lambda: deployment.ask(*stuck)[0] != 503, lambda: api.output)
    assert 200 == deployment.ask("GET", "/v1/status")[0]
    assert "Traceback" not in api.output
