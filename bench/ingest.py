"""What agents' samples take of the API: `python bench/ingest.py [--work NAME ...] [--profile ORDER]`.

A real gnocchi-api with one process on SQLite and files in a temporary directory (`--start postgresql` for that), whose
CPU seconds are counted, over HTTP.  Series are known: each was sent before.  Figures are the best of many short
batches, for the speed of machines swings.  `--profile` asks an API in this process instead, and shows where time goes.

prometheus: remote write, 500 series of one sample in a request;  many: the same from 20 jobs;
lines: 500 lines of one field;  fields: 100 lines of five fields;  otlp: 500 data points in protobuf.  For statsd see
bench_statsd.py.
"""

import argparse
import base64
import contextlib
import cProfile
import http.client
import io
import itertools
import json
import os
import pstats
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import psutil
import pytest  # noqa: F401, before the API: that hides a module which pytest wants

from gnocchi import service
from gnocchi.cli import manage
from gnocchi.ingest.otlp_messages import WHOLE
from gnocchi.rest.app import load_app
from gnocchi.tests.databases import PostgresqlServer
from gnocchi.tests.functional.service import ApiService
from gnocchi.tests.remote_write import compress, encode_request

AUTHORIZATION = "Basic " + base64.b64encode(b"admin:").decode()
SERIES = 500
T0_MS = 1_700_000_000_000
SCRAPE_MS = 15_000

#: Samples per CPU-second of the API that are to be reached.
BUDGET = 100_000

#: Bodies that are sent in turn, each with later timestamps; requests of one batch, and batches.
BODIES, REQUESTS, BATCHES = 200, 50, 20


def make_samples(number: int, jobs: int) -> bytes:
    """A request of Prometheus with labels as Kubernetes gives them; a tenth of the values are zero."""
    return compress(encode_request(*[
        ({"__name__": f"http_request_duration_seconds_{i}", "instance": f"10.0.0.{i % jobs}:9090",
          "job": f"job-{i % jobs}", "code": "200", "handler": "/api/v1/query", "namespace": "monitoring",
          "pod": f"prometheus-k8s-{i % jobs}"}, [(i % 10 * 1.25, T0_MS + number * SCRAPE_MS)]) for i in range(SERIES)]))


def make_lines(number: int, fields: int) -> bytes:
    """Lines as Telegraf writes them."""
    stamp = (T0_MS + number * SCRAPE_MS) * 10**6
    return "".join(
        f"cpu,cpu=cpu{i},host=web-{i % 20},region=eu-1 " + ",".join(f"usage_{j}={i % 100}.5" for j in range(fields))
        + f" {stamp}\n" for i in range(SERIES // fields)).encode()


def make_points(number: int) -> bytes:
    """A request of OpenTelemetry's exporters: 50 metrics of ten data points."""
    request = WHOLE["Request"]()
    group = request.resource_metrics.add()
    for key in ("service.name", "service.instance.id", "host.name"):
        group.resource.attributes.add(key=key).value.string_value = "web-1"
    metrics = group.scope_metrics.add().metrics
    for i in range(SERIES // 10):
        points = metrics.add(name=f"http.server.duration.{i}", unit="s").gauge.data_points
        for j in range(10):
            point = points.add(time_unix_nano=(T0_MS + number * SCRAPE_MS) * 10**6, as_double=j * 1.25)
            for key, value in (("http.route", f"/api/v{j}"), ("http.method", "GET"), ("http.status_code", "200")):
                point.attributes.add(key=key).value.string_value = value
    return request.SerializeToString()


class Work(NamedTuple):
    path: str
    make: Callable[[int], bytes]


WORKS = {
    "prometheus": Work("/v1/prometheus/write", lambda number: make_samples(number, 1)),
    "many": Work("/v1/prometheus/write", lambda number: make_samples(number, 20)),
    "lines": Work("/v1/influxdb/write?db=bench", lambda number: make_lines(number, 1)),
    "fields": Work("/v1/influxdb/write?db=bench", lambda number: make_lines(number, 5)),
    "otlp": Work("/v1/otlp/v1/metrics", make_points),
}

SET_UP = [("/v1/archive_policy", {"name": "bench", "definition": [{"granularity": "1m", "timespan": "7 days"}]}),
          ("/v1/archive_policy_rule", {"name": "bench", "metric_pattern": "*", "archive_policy_name": "bench"}),
          ("/v1/influxdb/query?q=create%20database%20bench", None)]

Send = Callable[[str, bytes, str], None]


class Server:
    """A gnocchi-api in a process of its own."""

    def __init__(self, options: dict[str, dict[str, object]]) -> None:
        self._api = ApiService(options)
        self._api.start()
        self._connection = http.client.HTTPConnection("127.0.0.1", self._api.port, timeout=60)
        self._process = psutil.Process(self._api.pid)

    def send(self, path: str, body: bytes, media_type: str) -> None:
        self._connection.request("POST", path, body, {"Authorization": AUTHORIZATION, "Content-Type": media_type})
        reply = self._connection.getresponse()
        text = reply.read()
        assert reply.status < 300, text

    def measure_cpu(self) -> float:
        """CPU seconds of all its processes."""
        total = 0.0
        for process in [self._process, *self._process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def stop(self) -> None:
        self._connection.close()
        self._api.stop()


class InProcess:
    """The API without its server, in this process."""

    def __init__(self, options: dict[str, dict[str, object]]) -> None:
        self._directory = tempfile.TemporaryDirectory()
        path = os.path.join(self._directory.name, "gnocchi.conf")
        options = {"indexer": {"url": f"sqlite:///{self._directory.name}/index.db"},
                   "storage": {"file_basepath": self._directory.name}} | options
        with open(path, "w") as file:
            for section, values in options.items():
                file.write(f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
        conf = service.prepare_service(["--config-file", path, "--noverbose"])
        manage.upgrade_all(conf)
        self._app = load_app(conf)

    def send(self, path: str, body: bytes, media_type: str) -> None:
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path.partition("?")[0], "SCRIPT_NAME": "",
                   "QUERY_STRING": path.partition("?")[2], "SERVER_NAME": "bench", "SERVER_PORT": "80",
                   "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body),
                   "CONTENT_LENGTH": str(len(body)), "CONTENT_TYPE": media_type, "HTTP_AUTHORIZATION": AUTHORIZATION}
        statuses: list[str] = []
        text = b"".join(self._app(environ, lambda status, headers, exc_info=None: statuses.append(status)))
        assert statuses[0] < "3", text

    def measure_cpu(self) -> float:
        return time.process_time()

    def stop(self) -> None:
        self._directory.cleanup()


def set_up(server: Server | InProcess) -> None:
    for path, body in SET_UP:
        server.send(path, b"" if body is None else json.dumps(body).encode(), "application/json")


def list_batches(server: Server | InProcess, work: Work) -> Iterator[float]:
    """Yield the CPU seconds of each batch."""
    bodies = itertools.cycle([work.make(number) for number in range(BODIES)])
    for body in itertools.islice(bodies, REQUESTS):    # which make the metrics
        server.send(work.path, body, "application/x-protobuf")
    while True:
        before = server.measure_cpu()
        for body in itertools.islice(bodies, REQUESTS):
            server.send(work.path, body, "application/x-protobuf")
        yield server.measure_cpu() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--start", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--batches", type=int, default=BATCHES)
    parser.add_argument("--profile", metavar="ORDER")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        options: dict[str, dict[str, object]] = {}
        if args.start == "postgresql":
            database = PostgresqlServer()
            stack.callback(database.stop)
            database.start()
            options["indexer"] = {"url": database.create_database()}
        server = InProcess(options) if args.profile else Server(options)
        stack.callback(server.stop)
        set_up(server)
        for name in args.work:
            batches = list_batches(server, WORKS[name])
            next(batches)
            profile = cProfile.Profile()
            if args.profile:
                profile.enable()
            best = min(itertools.islice(batches, args.batches))
            profile.disable()
            rate = SERIES * REQUESTS / best
            print(f"{name:12} {rate:12,.0f} samples per CPU-second, {1e3 * best / REQUESTS:6.2f} ms for a request   "
                  f"{'kept' if rate >= BUDGET else 'MISSED'}: {BUDGET:,}")
            if args.profile:
                pstats.Stats(profile).sort_stats(args.profile).print_stats(30)


if __name__ == "__main__":
    main()
