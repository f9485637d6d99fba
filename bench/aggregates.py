"""Benchmark of aggregates across metrics: `python bench/aggregates.py [--work NAME ...] [--profile ORDER]`.

An API without its server, on SQLite and files in a temporary directory, asked in this process; the measures are made
and aggregated in another one, so that memory here is the API's own.  Figures are the best of several runs after a first
one, which finds nothing in memory.

hour: mean across 1,000 metrics, 63 minutes at 1 minute;  groups: mean of 10,000 metrics, 24 hours at 1 minute, in 100
groups of resources;  year: mean across 100 metrics of 365 days at 1 day, which hold a measure of each minute.
"""

import argparse
import base64
import cProfile
import gc
import io
import json
import multiprocessing
import os
import pstats
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple

import numpy
from oslo_config import cfg

from gnocchi import metric_ids, opts
from gnocchi.backends import Backends
from gnocchi.cli.api import GC_THRESHOLDS
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import migration
from gnocchi.metricd import Processor
from gnocchi.processing.merge import merge_sack
from gnocchi.rest.app import load_app

SACKS = 128
START = 1_700_006_400   # a midnight
HEADERS = {"HTTP_AUTHORIZATION": "Basic " + base64.b64encode(b"admin:").decode(), "HTTP_ACCEPT": "application/json"}
METHODS = ["mean", "sum", "min", "max", "count", "std"]
WEEK = [{"granularity": "1m", "timespan": "7 days"}, {"granularity": "1h", "timespan": "365 days"}]
YEARS = [{"granularity": "1m", "timespan": "365 days"}, {"granularity": "1d", "timespan": "1095 days"}]
#: Posted at once, as by requests of many clients.
MEASURES_AT_ONCE = 4_000_000


class Work(NamedTuple):
    """metrics, minutes: what is stored;  groups: of resources that own them (0: none);  query: its arguments
    limit: of a figure: CPU seconds, or wall seconds for `groups`;  runs: after the first
    """

    metrics: int
    minutes: int
    definition: list[dict[str, str]]
    groups: int
    query: str
    limit: float
    runs: int


WORKS = {
    "hour": Work(1_000, 63, WEEK, 0, "granularity=60", 63_000 / 1.5e6, 30),
    "groups": Work(10_000, 1440, WEEK, 100, "granularity=60&groupby=rack", 8.0, 2),
    "year": Work(100, 365 * 1440, YEARS, 0, "granularity=86400", 0.05, 30),
}


class Api:
    """The WSGI application on back ends below a directory."""

    def __init__(self, directory: str) -> None:
        self.conf = cfg.ConfigOpts()
        opts.register_opts(self.conf)
        for name, value, group in (("url", f"sqlite:///{directory}/index.db", "indexer"),
                                   ("file_basepath", directory, "storage"), ("file_basepath", directory, "incoming")):
            self.conf.set_override(name, value, group)
        self.conf([], project="gnocchi", default_config_files=[])
        self.app = load_app(self.conf)

    def call(self, method: str, path: str, body: object = None, query: str = "") -> bytes:
        """Return the body of a successful answer."""
        data = b"" if body is None else json.dumps(body).encode()
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "bench",
                   "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "SCRIPT_NAME": "", "wsgi.url_scheme": "http",
                   "wsgi.input": io.BytesIO(data), "wsgi.errors": sys.stderr, "wsgi.version": (1, 0),
                   "CONTENT_LENGTH": str(len(data)), "CONTENT_TYPE": "application/json", **HEADERS}
        told: list[str] = []
        answer = b"".join(self.app(environ, lambda status, headers, exc_info=None: told.append(status)))
        if not told[0].startswith("2"):
            sys.exit(f"{method} {path}: {told[0]} {answer[:500]!r}")
        return answer


def fill(directory: str, work: Work) -> None:
    """Create metrics, and have their measures aggregated; prints how long that took."""
    api = Api(directory)
    backends = Backends(api.conf)
    migration.upgrade(backends.indexer)
    backends.indexer.create_sacks(SACKS)
    backends.storage_driver.upgrade()
    backends.incoming.upgrade()
    api.call("POST", "/v1/archive_policy",
             {"name": "bench", "definition": work.definition, "aggregation_methods": METHODS})
    chosen = {"archive_policy_name": "bench"}
    if work.groups:
        api.call("POST", "/v1/resource_type", {"name": "host", "attributes": {"rack": {"type": "string"}}})
        made = [json.loads(api.call("POST", "/v1/resource/host", {
            "id": str(uuid.uuid4()), "rack": f"rack {number % work.groups}", "metrics": {"load": chosen},
        }))["metrics"]["load"] for number in range(work.metrics)]
    else:
        made = [json.loads(api.call("POST", "/v1/metric", chosen))["id"] for _ in range(work.metrics)]
    ids = metric_ids.pack_ids(uuid.UUID(id) for id in made)
    worker = Processor(0, api.conf)
    random = numpy.random.default_rng(7)
    begin = time.perf_counter()
    step = max(1, MEASURES_AT_ONCE // work.metrics)
    for first in range(0, work.minutes, step):
        count = min(step, work.minutes - first)
        times = (START + 60 * (first + numpy.arange(count))) * 10**9
        backends.incoming.write_measures(MeasureBatch(
            ids, numpy.full(len(ids), count), numpy.tile(times, len(ids)).view("M8[ns]"),
            numpy.round(random.random(count * len(ids)) * 100, 3)))
        worker._next_scan = 0.0
        worker.run_round()
    stored = time.perf_counter()
    # What the janitor does meanwhile, in a real one's time.
    for number in range(SACKS):
        while merge_sack(number, backends.indexer, backends.store, suspects=None).removed:
            pass
    print(f"{work.metrics * work.minutes} measures of {work.metrics} metrics stored in {stored - begin:.1f} s, "
          f"blocks merged in {time.perf_counter() - stored:.1f} s", flush=True)


def make_query(api: Api, work: Work) -> dict[str, object]:
    if work.groups:
        return {"operations": ["aggregate", "mean", ["metric", "load", "mean"]], "resource_type": "host", "search": {}}
    ids: list[str] = []
    while len(ids) < work.metrics:
        marker = f"&marker={ids[-1]}" if ids else ""
        ids += [metric["id"] for metric in json.loads(api.call("GET", "/v1/metric", query=f"limit=1000{marker}"))]
    return {"operations": ["aggregate", "mean", ["metric", *([id, "mean"] for id in ids)]]}


def ask(name: str, directory: str, profile: str | None) -> None:
    """Print the figures of a query; exit with 1 if they are beyond their limits."""
    work = WORKS[name]
    api = Api(directory)
    query = make_query(api, work)
    gc.collect()
    gc.freeze()     # as the API does
    gc.set_threshold(*GC_THRESHOLDS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    runs = []
    for _ in range(1 + work.runs):
        wall, cpu = time.perf_counter(), time.process_time()
        answer = api.call("POST", "/v1/aggregates", query, work.query)
        runs.append((time.process_time() - cpu, time.perf_counter() - wall))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu, wall = min(runs[1:])
    points = work.metrics * (366 if name == "year" else work.minutes)
    figure = wall if name == "groups" else cpu
    kept = figure <= work.limit and peak < 1 << 20
    limit = f"{'wall' if name == 'groups' else 'CPU'} limit {work.limit * 1e3:.0f}"
    print(f"{name:7s} first {runs[0][0] * 1e3:7.1f} ms CPU, then {cpu * 1e3:7.1f} ms CPU, {wall * 1e3:7.1f} ms wall "
          f"({limit}), {points / cpu / 1e6:.2f} M points/CPU-s; {len(answer)} bytes; "
          f"memory {before >> 10} MB before, {peak >> 10} MB at its height (limit 1024)  {'pass' if kept else 'FAIL'}",
          flush=True)
    if profile:
        profiler = cProfile.Profile()
        profiler.runcall(api.call, "POST", "/v1/aggregates", query, work.query)
        pstats.Stats(profiler).sort_stats(profile).print_stats(45)
    sys.exit(0 if kept else 1)


def main() -> int:
    parser = argparse.ArgumentParser(description="Benchmark of aggregates across metrics.")
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS))
    parser.add_argument("--profile", metavar="ORDER", help="print where time goes, by `tottime' or `cumulative'")
    parser.add_argument("--dir", help="keep the data here, and use what is there already")
    args = parser.parse_args()
    kept = True
    with tempfile.TemporaryDirectory(prefix="gnocchi-bench-") as temporary:
        for name in args.work:
            directory = os.path.join(args.dir or temporary, name)
            if not os.path.isdir(directory):
                os.makedirs(directory)
                if not run(fill, directory, WORKS[name]):
                    return 1
            # A process for each, since its height of memory is the figure.
            kept &= run(ask, name, directory, args.profile)
    return 0 if kept else 1


def run(function: Callable[..., None], *args: object) -> bool:
    """Call a function in a process of its own; return whether that ended well."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode == 0


if __name__ == "__main__":
    sys.exit(main())
