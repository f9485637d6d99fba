"""A whole service under a client that notes everything, to see what it holds on to on bad days."""

import base64
import http.client
import json
import os
import pathlib
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import psutil

from gnocchi.tests.databases import DEADLINE_S, find_free_port
from gnocchi.tests.functional.daemons import Daemon, Deployment

#: What a client waits for an answer.
ANSWER_S = 60.0

POLL_S = 0.05


def await_until(condition: Callable[[], object], told: Callable[[], object] = str) -> None:
    """Return once a condition holds; `told` explains why it never does."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(POLL_S)


class Reply(NamedTuple):
    """An answer of the API; body is decoded JSON if it says so, text otherwise."""

    status: int
    headers: http.client.HTTPMessage
    body: Any


class NoAnswer(Exception):
    """What became of the request is unknown; `in_time` is whether the connection broke before the client gave up."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(repr(cause))
        self.in_time = not isinstance(cause, TimeoutError)


class Client:
    """One user's connection to the API; for one thread.

    address : str, host and port;  or int, a port of this host
    """

    def __init__(self, address: int | str, user: str = "admin") -> None:
        host = f"127.0.0.1:{address}" if isinstance(address, int) else address
        self._connection = http.client.HTTPConnection(host, timeout=ANSWER_S)
        credentials = base64.b64encode(f"{user}:".encode()).decode()
        self._headers = {"Authorization": f"Basic {credentials}", "Accept": "application/json",
                         "Content-Type": "application/json"}

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """Send a request; a body other than bytes is encoded as JSON, headers replace usual ones.  Raises NoAnswer."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            self._connection.request(method, path, data, {**self._headers, **(headers or {})})
            response = self._connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as e:
            self._connection.close()
            raise NoAnswer(e) from e
        is_json = text and response.headers.get_content_type() == "application/json"
        return Reply(response.status, response.headers, json.loads(text) if is_json else text.decode(errors="replace"))

    def disconnect(self) -> None:
        """Have the next request on a new connection."""
        self._connection.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the body of a reply that has to be a success."""
        reply = self.request(method, path, body)
        assert 200 <= reply.status < 300, f"{method} {path}: {reply.status} {reply.body}"
        return reply.body

    def create_policy(self, name: str, definition: list[dict[str, Any]], methods: list[str],
                      back_window: int = 0) -> None:
        self.call("POST", "/v1/archive_policy", {"name": name, "back_window": back_window, "definition": definition,
                                                 "aggregation_methods": methods})

    def create_metrics(self, policy: str, count: int) -> list[str]:
        return [self.call("POST", "/v1/metric", {"archive_policy_name": policy})["id"] for _ in range(count)]

    def push(self, metric: str, points: Iterable[tuple[float, float]]) -> Reply:
        """Post (seconds, value) pairs to one metric."""
        return self.request("POST", f"/v1/metric/{metric}/measures",
                            [{"timestamp": at, "value": value} for at, value in points])

    def read(self, metric: str, method: str = "mean", **arguments: Any) -> list[list[Any]]:
        query = urllib.parse.urlencode({"aggregation": method, **arguments})
        return self.call("GET", f"/v1/metric/{metric}/measures?{query}")

    def count_backlog(self) -> int:
        """Return how many bundles wait; -1 when nobody can tell at the moment."""
        try:
            reply = self.request("GET", "/v1/status?details=false")
        except NoAnswer:
            return -1
        return reply.body["storage"]["summary"]["measures"] if reply.status == 200 else -1


class Service(Deployment):
    """API and metricd on one directory for everything, as gnocchi-standalone has it; logs lie beside it."""

    def __init__(self, directory: pathlib.Path, options: dict[str, dict[str, object]] | None = None) -> None:
        super().__init__(directory)
        self.data = directory / "data"
        self.data.mkdir(exist_ok=True)
        self.port = find_free_port()
        self.configure({"indexer": {"url": f"sqlite:///{self.data}/gnocchi.db"},
                        "api": {"workers": 2, "port": self.port}})
        self.configure(options or {})

    def connect(self, user: str = "admin") -> Client:
        return Client(self.port, user)

    def start_all(self) -> tuple[Daemon, Daemon]:
        """Start both daemons, and return them once requests are answered."""
        daemons = self.start("gnocchi-api"), self.start("gnocchi-metricd")
        self.await_answers(daemons[0])
        return daemons

    def await_answers(self, daemon: Daemon) -> None:
        client = self.connect()

        def answers() -> bool:
            assert daemon.process.poll() is None, f"the API ended with {daemon.process.returncode}:\n{daemon.output}"
            try:
                return client.request("GET", "/").status == 200
            except NoAnswer:
                return False

        await_until(answers, lambda: f"the API does not answer:\n{daemon.output}")

    def await_aggregation(self) -> None:
        """Return once nothing waits to be aggregated."""
        client = self.connect()
        await_until(lambda: client.count_backlog() == 0,
                    lambda: f"backlog: {client.count_backlog()}\n{self.read_logs()}")

    def read_logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-5000:]}"
                         for path in sorted(self.directory.glob("gnocchi-*.log")))


def list_session(daemon: Daemon) -> Iterator[tuple[int, int, str]]:
    """Yield pid, parent's pid and title of every living process that a daemon is or has started, orphans too."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == daemon.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                yield process.pid, process.ppid(), " ".join(process.cmdline()).strip()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


def await_end(daemon: Daemon) -> None:
    """Return once a daemon whose master died is gone, with all its children."""
    daemon.process.wait(DEADLINE_S)
    await_until(lambda: not any(list_session(daemon)), lambda: f"orphans: {list(list_session(daemon))}")
