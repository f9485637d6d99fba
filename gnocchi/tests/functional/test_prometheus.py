"""A real Prometheus scrapes a real exporter and writes to us."""

import concurrent.futures
import contextlib
import http.server
import json
import re
import shutil
import signal
import subprocess
import threading
import types
import urllib.error
import urllib.parse
import urllib.request

import pytest

from gnocchi.tests.databases import die_with_parent, find_free_port, need
from gnocchi.tests.functional.daemons import TIMEOUT_S, wait_until
from gnocchi.tests.functional.service import ApiService
from gnocchi.tests.remote_write import compress, encode_request

ADMIN = {"Authorization": "basic YWRtaW46", "Content-Type": "application/json", "Accept": "application/json"}

#: As doc/source/prometheus.rst has it, but for the intervals.
CONFIG = """
global:
  scrape_interval: 200ms
scrape_configs:
  - job_name: shop/web
    static_configs:
      - targets: ['127.0.0.1:{exporter}']
remote_write:
  - url: http://127.0.0.1:{api}/v1/prometheus/write
    basic_auth:
      username: admin
      password: none
    queue_config:
      batch_send_deadline: 100ms
      max_shards: 1
      max_backoff: 100ms
"""


class Exporter:
    """Serves a counter in two series, and remembers what it told."""

    def __init__(self):
        self.scrapes = 0
        exporter = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                exporter.scrapes += 1
                text = "# TYPE requests_total counter\n" + "".join(
                    f'requests_total{{code="{code}",path="/"}} {factor * exporter.scrapes}\n'
                    for code, factor in (("200", 1), ("500", 1000)))
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format, *args):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Prometheus:
    """The server, in a directory of its own."""

    def __init__(self, directory, config):
        self._program = need(shutil.which("prometheus"), "prometheus")
        self._directory = directory
        self.configure(config)
        self._process = None

    def configure(self, config):
        (self._directory / "prometheus.yml").write_text(config)

    @property
    def log(self):
        return (self._directory / "prometheus.log").read_text()

    def __enter__(self):
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, f"--config.file={self._directory}/prometheus.yml",
                 f"--storage.tsdb.path={self._directory}/data", f"--web.listen-address=127.0.0.1:{find_free_port()}"],
                stdout=log, stderr=log, preexec_fn=die_with_parent)
        return self

    def reload(self):
        self._process.send_signal(signal.SIGHUP)

    def stop(self):
        """What waits to be written is written first."""
        self._process.terminate()
        assert 0 == self._process.wait(TIMEOUT_S)

    def __exit__(self, *exc_info):
        self._process.kill()
        self._process.wait()


def ask(api, path, body=None, headers=ADMIN):
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    with urllib.request.urlopen(urllib.request.Request(api.url + path, data, headers), timeout=TIMEOUT_S) as reply:
        return reply.status, reply.read()


def set_up(api):
    ask(api, "/v1/archive_policy", {"name": "all", "aggregation_methods": ["sum", "count"],
                                    "definition": [{"granularity": 0.001, "points": 1_000_000}]})
    ask(api, "/v1/archive_policy_rule", {"name": "all", "metric_pattern": "*", "archive_policy_name": "all"})


@contextlib.contextmanager
def serve_api(**options):
    api = ApiService(options)
    api.start()
    try:
        set_up(api)
        yield api
    finally:
        api.stop()


def read(api, resource, metric, method="sum"):
    """Return {timestamp: value}."""
    path = f"/v1/resource/prometheus/{resource}/metric/{urllib.parse.quote(metric)}/measures"
    _, body = ask(api, f"{path}?aggregation={method}&refresh=true")
    return {timestamp: value for timestamp, _, value in json.loads(body)}


def check_values(api, resource, metric, factors, exporter):
    """Each scrape that succeeded has a value that the exporter told then; a busy machine may let some fail.

    Returns how many scrapes there were.
    """
    ups, values = read(api, resource, "up"), read(api, resource, metric)
    assert [timestamp for timestamp, up in ups.items() if up] == list(values)
    assert {1.0} == set(read(api, resource, metric, "count").values())
    told = 0
    for value in values.values():
        told = next(scrape for scrape in range(told + 1, exporter.scrapes + 1)
                    if value in [factor * scrape for factor in factors])
    return len(ups)


def count_ends(api):
    """How many series have ended, as the API processes tell it."""
    _, body = ask(api, "/v1/status")
    return sum(counters.get("ends of series", 0) for counters in json.loads(body)["api"]["statistics"].values())


@pytest.mark.parametrize("in_names", [False, True])
def test_prometheus_writes(tmp_path, in_names):
    """All scrapes arrive, once, under the names that the option gives them; the end of a series is no measure."""
    with serve_api(prometheus={"labels_in_names": in_names}) as api, Exporter() as exporter:
        config = CONFIG.format(exporter=exporter.port, api=api.port)
        with Prometheus(tmp_path, config) as prometheus:
            wait_until(lambda: exporter.scrapes >= 10, lambda: prometheus.log)
            if not in_names:
                prometheus.configure(re.sub(r"targets: \[.*\]", "targets: []", config))
                prometheus.reload()
                wait_until(lambda: count_ends(api), lambda: prometheus.log)
            prometheus.stop()
        resource = f"shop_web@127.0.0.1:{exporter.port}"
        _, body = ask(api, f"/v1/resource/prometheus/{resource}")
        found = json.loads(body)
        assert ("shop/web", f"127.0.0.1:{exporter.port}", "admin") == (
            found["job"], found["instance"], found["creator"])
        assert {"up", "scrape_duration_seconds"} < set(found["metrics"])
        if in_names:
            names = ["requests_total@code=200,path=_", "requests_total@code=500,path=_"]
            assert set(names) < set(found["metrics"])
            for name, factor in zip(names, (1, 1000), strict=True):
                assert check_values(api, resource, name, [factor], exporter) >= 9
        else:
            # Both series have one timestamp in a scrape, and a metric has one value at a time.
            assert check_values(api, resource, "requests_total", [1, 1000], exporter) >= 9
        assert "Traceback" not in api.log_file.read_text()


def test_prometheus_waits(upgraded, tmp_path):
    """What it scraped while the API was away comes when that is back: nothing is missing."""
    api = types.SimpleNamespace(url=f"http://127.0.0.1:{upgraded.port}")

    def start():
        daemon = upgraded.start("gnocchi-api")
        daemon.wait_for("ready in")
        return daemon

    upgraded.backends.indexer.delete_archive_policy_rule("default")
    daemon = start()
    set_up(api)
    daemon.stop()
    with (Exporter() as exporter,
          Prometheus(tmp_path, CONFIG.format(exporter=exporter.port, api=upgraded.port)) as prometheus):
        wait_until(lambda: "Failed to send batch, retrying" in prometheus.log, lambda: prometheus.log)
        away = exporter.scrapes
        daemon = start()
        wait_until(lambda: exporter.scrapes >= away + 10, lambda: prometheus.log)
        prometheus.stop()
        resource = f"shop_web@127.0.0.1:{exporter.port}"
        assert check_values(api, resource, "requests_total", [1, 1000], exporter) >= exporter.scrapes - 1
    assert 0 == daemon.stop()
    assert "Traceback" not in daemon.output


@pytest.fixture(scope="module")
def shared():
    """An API of two processes."""
    with serve_api(api={"workers": 2, "max_body_size": 1_000_000}) as api:
        yield api


def test_clients_at_once(shared):
    """Whoever is first makes the type, resources and metrics; all measures of the others are stored, too."""
    bodies = [compress(encode_request(*[
        ({"__name__": f"m{metric}", "job": "j", "instance": f"i{metric % 3}"}, [(client, 16 * 10**11 + client)])
        for metric in range(30)])) for client in range(8)]
    with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
        replies = list(pool.map(
            lambda body: ask(shared, "/v1/prometheus/write", body, {"Authorization": "basic YWRtaW46"}), bodies))
    assert [(202, b"")] * len(bodies) == replies
    for metric in (0, 29):
        assert list(map(float, range(8))) == list(read(shared, f"j@i{metric % 3}", f"m{metric}").values())
    assert "Traceback" not in shared.log_file.read_text()


def test_what_can_be_stored_is_stored(shared):
    """Prometheus drops a request that is refused, so only what is wrong of it is left out; the reply says what."""
    labels = {"__name__": "a", "job": "j", "instance": "i"}
    body = encode_request((labels, [(1.5, 1_600_000_000_123)]), (labels | {"__name__": ""}, [(1, 1)]),
                          (labels | {"__name__": "n" * 256}, [(1, 1)]), (labels | {"job": "x" * 290}, [(1, 1)]))
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(shared, "/v1/prometheus/write", compress(body), {"Authorization": "basic YWRtaW46"})
    reply = caught.value.read()
    assert (400, "application/json") == (caught.value.status, caught.value.headers["Content-Type"])
    assert {"code": 400, "title": "Bad Request",
            "description": "A series of job 'j', instance 'i' has no label __name__ "
                           "(and 2 more of the request; the rest of it is stored)"} == json.loads(reply)
    assert b"\n" not in reply
    assert [1.5] == list(read(shared, "j@i", "a").values())


def test_resource_of_another_type(shared):
    """The reply says that it is in the way; the other series are stored."""
    ask(shared, "/v1/resource/generic", {"id": "taken@i"})
    labels = {"__name__": "a", "job": "free", "instance": "i"}
    body = encode_request((labels, [(2.5, 1_600_000_000_123)]), (labels | {"job": "taken"}, [(1, 1_600_000_000_123)]))
    with pytest.raises(urllib.error.HTTPError, match="409") as caught:
        ask(shared, "/v1/prometheus/write", compress(body), {"Authorization": "basic YWRtaW46"})
    assert json.loads(caught.value.read())["description"].endswith("exists, and its type is another")
    assert [2.5] == list(read(shared, "free@i", "a").values())


def test_bomb(shared):
    """What would be larger than a body may be is not decompressed."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(shared, "/v1/prometheus/write", compress(bytes(1_000_001)), {"Authorization": "basic YWRtaW46"})
    assert 413 == caught.value.status
    assert "larger than 1000000 bytes when decompressed" in json.loads(caught.value.read())["description"]
