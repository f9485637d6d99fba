"""Black-box benchmark of a Gnocchi-compatible server: the same work for any build of it.

    python bench/blackbox.py [--bin BIN_DIR] [--indexer URL] [--tmp DIR] [--metrics 2000] [--out result.json]

BIN_DIR (default: where this interpreter lives) holds gnocchi-upgrade, gnocchi-api and gnocchi-metricd.
The server is started fresh in DIR (file storage, basic auth, SQLite unless told otherwise), driven over
HTTP from this process, and stopped.  Figures are wall seconds and CPU seconds of the server's own process
trees (API and metricd apart), so that two builds run one after the other can be compared on a noisy
machine.  The budgets printed at the end were set at --metrics 20000; less work means more overhead per
metric, so a pass with 2000 is a pass.

Steps and names are those of the script that measured the original: rows of both can be laid side by side.
"""

import argparse
import http.client
import itertools
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

HEADERS = {"Authorization": "Basic YWRtaW46", "Content-Type": "application/json"}    # user admin
T0 = 1700000040    # a whole minute
PUSHES = ((1, 2000), (10, 10000), (100, 100000), (1000, 1000000), (5000, 1000000))    # (measures/request, measures)
METRICS_PER_BATCH = 500
MONTH_MINUTES = 43200
IDLE_S = 20.0
LOOP_TURNS = 300_000
METRICS_OF_BUDGETS = 20000

POLICY = {"name": "bench", "back_window": 0,
          "definition": [{"granularity": "1m", "timespan": "7 days"}, {"granularity": "1h", "timespan": "365 days"}],
          "aggregation_methods": ["mean", "sum", "min", "max", "count", "std"]}


class Job(NamedTuple):
    """One HTTP request; body is JSON text."""

    method: str
    path: str
    body: str | None = None


class Budget(NamedTuple):
    """A row of design.md's table: `budget` is to be reached, `stretch` hoped for."""

    title: str
    row: str
    figure: str
    budget: float
    stretch: float | None
    at_most: bool = False


BUDGETS = (
    Budget("one new measure for each metric", "metricd steady state x 1", "per_cpu_s", 20_000, 50_000),
    Budget("first 60 measures of each metric", "metricd fresh metrics x 60", "per_cpu_s", 15_000, 40_000),
    Budget("bulk backlog on 20 metrics", "metricd drain pushes (20 metrics)", "per_cpu_s", 1.5e6, 4e6),
    Budget("1 of 10 metrics updated", "metricd 1 of 10 metrics x 1", "per_cpu_s", 15_000, None),
    Budget("batch of 500 metrics x 1", "batch 500 metrics x 1", "per_cpu_s", 60_000, 150_000),
    Budget("batch of 500 metrics x 60", "batch 500 metrics x 60", "per_cpu_s", 700_000, 1.5e6),
    Budget("push 1 measure per request", "push 1/request", "per_cpu_s", 1_500, 2_500),
    Budget("push 5,000 measures per request", "push 5000/request", "per_cpu_s", 1.2e6, 2e6),
    Budget("create metric", "create metric", "per_cpu_s", 1_000, 2_000),
    Budget("show metric", "show metric", "per_cpu_s", 1_500, 3_000),
    Budget("get one hour of minutes", "get 1h of minutes", "per_cpu_s", 1_000, 2_000),
    Budget("get a month of minutes", f"get month of minutes ({MONTH_MINUTES})", "per_cpu_s", 2e6, 4e6),
    Budget("mean across 1,000 metrics", "aggregate mean of 1000 metrics", "per_cpu_s", 1.5e6, 5e6),
    Budget("bare start of metricd, CPU s", "metricd bare start", "cpu_s", 1.5, 0.8, at_most=True),
    Budget("idle metricd, cores", "metricd idle", "cores", 0.01, None, at_most=True),
    Budget("memory (PSS), API + metricd, MB", "memory", "pss_mb", 450, 300, at_most=True),
    Budget("files stored (set for 500 metrics)", "data", "files", 600, None, at_most=True),
)


def measure_loop() -> float:
    """Return the CPU milliseconds of a million turns of an empty loop: how fast the machine is just now."""
    started = time.process_time()
    for _ in range(LOOP_TURNS):
        pass
    return (time.process_time() - started) * 1e3 * 1e6 / LOOP_TURNS


class NotServed(Exception):
    """This build has no such endpoint."""


def list_tree(process: subprocess.Popen) -> list[psutil.Process]:
    """Return a process and its descendants, or nothing if it is gone."""
    try:
        root = psutil.Process(process.pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def measure_cpu(process: subprocess.Popen) -> float:
    """Return the CPU seconds of a process tree so far."""
    total = 0.0
    for member in list_tree(process):
        try:
            times = member.cpu_times()
            total += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return total


def measure_pss(process: subprocess.Popen) -> float:
    """Return the resident megabytes of a process tree, shared pages counted once."""
    total = 0
    for member in list_tree(process):
        try:
            total += member.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def measure_files(path: pathlib.Path) -> tuple[int, int, int]:
    """Return the number of files below a directory, that of their names, and their bytes; one may have many names."""
    found = [(pathlib.Path(root) / name).stat() for root, _, names in os.walk(path) for name in names]
    sizes = {(stat.st_dev, stat.st_ino): stat.st_size for stat in found}
    return len(sizes), len(found), sum(sizes.values())


class Drained(NamedTuple):
    """wall_s, cpu_s: of metricd, less a bare start.  pss_mb: its peak.  left: bundles still waiting."""

    wall_s: float
    cpu_s: float
    pss_mb: float
    left: int


class Server:
    """The daemons under test, in a directory of their own."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.bin = pathlib.Path(args.bin).absolute()
        self.directory = pathlib.Path(args.tmp).absolute()
        self.data = self.directory / "data"
        self.data.mkdir(parents=True)
        self.port = args.port
        self.bare_start_s = 0.0
        self.configuration = self.directory / "gnocchi.conf"
        self.configuration.write_text(f"""[DEFAULT]
[indexer]
url = {args.indexer or f"sqlite:///{self.directory}/gnocchi.sqlite"}
[storage]
driver = file
file_basepath = {self.data}
[incoming]
driver = file
file_basepath = {self.data}
[api]
auth_mode = basic
host = 127.0.0.1
port = {args.port}
workers = {args.api_workers}
[metricd]
workers = {args.workers}
metric_processing_delay = 1
""")
        self.environment = dict(os.environ, PATH=f"{self.bin}:{os.environ['PATH']}")
        with open(self.directory / "gnocchi-upgrade.log", "w") as log:
            subprocess.run(self._command("gnocchi-upgrade"), check=True, env=self.environment, stdout=log, stderr=log)
        self.api = self.start("gnocchi-api")

    def _command(self, name: str) -> list[str]:
        return [str(self.bin / name), "--config-file", str(self.configuration)]

    def start(self, name: str) -> subprocess.Popen:
        with open(self.directory / f"{name}.log", "a") as log:
            return subprocess.Popen(self._command(name), env=self.environment, stdout=log, stderr=log,
                                    start_new_session=True)

    def wait_for_api(self, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.request(Job("GET", "/v1/capabilities"))
                return
            except OSError:
                if self.api.poll() is not None or time.monotonic() > deadline:
                    sys.exit("gnocchi-api does not serve:\n" + (self.directory / "gnocchi-api.log").read_text()[-2000:])
                time.sleep(0.1)

    def stop(self, process: subprocess.Popen) -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)

    def request(self, job: Job, connection: http.client.HTTPConnection | None = None) -> bytes:
        """Return the body of a 2xx answer.  Raises NotServed (404, 405), RuntimeError (other status), OSError."""
        connection = connection or self.connect()
        connection.request(job.method, job.path, body=job.body, headers=HEADERS)
        response = connection.getresponse()
        data = response.read()
        if response.status in (404, 405):
            raise NotServed(f"{job.method} {job.path}: {response.status}")
        if response.status >= 300:
            raise RuntimeError(f"{job.method} {job.path}: {response.status} {data[:300]!r}")
        return data

    def run(self, jobs: Iterable[Job], threads: int, use: Callable[[bytes], object] | None = None
            ) -> tuple[float, float]:
        """Send jobs over `threads` connections; return wall seconds and CPU seconds of the API.

        Answers are given to `use`, one at a time.  Stops the benchmark after the first error.
        """
        queue, lock, errors = iter(jobs), threading.Lock(), []

        def work() -> None:
            connection = self.connect()
            while not errors:
                with lock:
                    job = next(queue, None)
                if job is None:
                    return
                try:
                    answer = self.request(job, connection)
                except (OSError, http.client.HTTPException, RuntimeError, NotServed) as e:
                    errors.append(e)
                    return
                if use:
                    with lock:
                        use(answer)

        cpu, started = measure_cpu(self.api), time.perf_counter()
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        wall = time.perf_counter() - started
        if errors:
            raise errors[0]
        return wall, measure_cpu(self.api) - cpu

    def read_backlog(self) -> int:
        return json.loads(self.request(Job("GET", "/v1/status?details=false")))["storage"]["summary"]["measures"]

    def measure_bare_start(self) -> float:
        """Return the CPU seconds of a metricd in its first three seconds with nothing to do; drains deduct it."""
        metricd = self.start("gnocchi-metricd")
        time.sleep(3.0)
        self.bare_start_s = measure_cpu(metricd)
        self.stop(metricd)
        return self.bare_start_s

    def measure_idle(self) -> float:
        """Return the cores a started metricd uses with nothing to do."""
        metricd = self.start("gnocchi-metricd")
        time.sleep(5.0)
        cpu = measure_cpu(metricd)
        time.sleep(IDLE_S)
        cores = (measure_cpu(metricd) - cpu) / IDLE_S
        self.stop(metricd)
        return cores

    def drain(self, timeout_s: float = 900.0) -> Drained:
        """Start metricd, wait until nothing is pending, stop it."""
        metricd, started, peak = self.start("gnocchi-metricd"), time.perf_counter(), 0.0
        for turn in itertools.count(1):
            time.sleep(0.25)
            if turn % 4 == 0:
                peak = max(peak, measure_pss(metricd))
            if self.read_backlog() == 0 or time.perf_counter() - started > timeout_s:
                break
        wall = time.perf_counter() - started
        time.sleep(1.0)
        peak = max(peak, measure_pss(metricd))
        cpu = max(measure_cpu(metricd) - self.bare_start_s, 0.01)
        left = self.read_backlog()
        self.stop(metricd)
        return Drained(wall, cpu, peak, left)


class Bench:
    """The work, step by step, and its figures."""

    def __init__(self, server: Server, args: argparse.Namespace) -> None:
        self.server = server
        self.args = args
        self.random = random.Random(7)
        self.metrics: list[str] = []
        self.figures: dict[str, dict] = {}

    def record(self, name: str, count: int, wall_s: float, cpu_s: float, unit: str) -> None:
        cpu_s = max(cpu_s, 0.01)    # the clock ticks at 100 Hz
        # The speed of a virtual machine may change from one step to the next.
        loop = measure_loop()
        self.figures[name] = {"n": count, "wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3),
                              "per_wall_s": round(count / wall_s, 1), "per_cpu_s": round(count / cpu_s, 1),
                              "unit": unit, "loop_ms": round(loop, 1)}
        print(f"{name:36s}{count:>9} {unit:9s} wall {wall_s:8.2f} s  cpu {cpu_s:8.2f} s"
              f"{count / wall_s:12.0f}/s wall{count / cpu_s:12.0f}/cpu-s  loop {loop:5.1f} ms", flush=True)

    def _measure(self, name: str, count: int, unit: str, jobs: Iterable[Job],
                 use: Callable[[bytes], object] | None = None) -> None:
        self.record(name, count, *self.server.run(jobs, self.args.threads, use), unit)

    def _format_measures(self, start_s: int, step_s: int, count: int) -> str:
        return "[" + ",".join(
            '{{"timestamp": "{}", "value": {:.3f}}}'.format(
                time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(start_s + step_s * i)), self.random.random() * 100)
            for i in range(count)) + "]"

    def _list_batches(self, metrics: list[str], first_minute: int, points: int) -> list[Job]:
        jobs = []
        for i in range(0, len(metrics), METRICS_PER_BATCH):
            parts = [f'"{metric}": {self._format_measures(T0 + 60 * first_minute, 60, points)}'
                     for metric in metrics[i:i + METRICS_PER_BATCH]]
            jobs.append(Job("POST", "/v1/batch/metrics/measures", "{" + ",".join(parts) + "}"))
        return jobs

    def run(self) -> None:
        bare = self.server.measure_bare_start()
        self.figures["metricd bare start"] = {"cpu_s": round(bare, 3)}
        print(f"metricd bare start: {bare:.2f} cpu-s", flush=True)
        self.create_metrics()
        bulk = self.push()
        fresh = self.first_hour()
        self.steady_state()
        files, names, size = measure_files(self.server.data)
        self.figures["data"] = {"files": files, "names": names, "bytes": size}
        self.read()
        self.aggregate()
        api = measure_pss(self.server.api)
        self.figures["memory"] = {"pss_mb": round(api + max(bulk.pss_mb, fresh.pss_mb), 1), "api_pss_mb": round(api, 1),
                                  "bulk_pss_mb": round(bulk.pss_mb, 1), "fresh_pss_mb": round(fresh.pss_mb, 1)}
        print(f"memory (PSS): API {api:.0f} MB, "
              f"metricd peak {bulk.pss_mb:.0f} MB (bulk), {fresh.pss_mb:.0f} MB (fresh)")
        print(f"data: {files} files with {names} names, {size} bytes", flush=True)
        self.update_some()
        cores = self.server.measure_idle()
        self.figures["metricd idle"] = {"cores": round(cores, 4)}
        print(f"metricd idle: {cores:.4f} cores", flush=True)

    def create_metrics(self) -> None:
        self.server.request(Job("POST", "/v1/archive_policy", json.dumps(POLICY)))
        self._measure("create metric", self.args.metrics, "metrics",
                      [Job("POST", "/v1/metric", '{"archive_policy_name": "bench"}')] * self.args.metrics,
                      lambda answer: self.metrics.append(json.loads(answer)["id"]))
        self.metrics.sort()

    def push(self) -> Drained:
        """Single-metric pushes by size: the table of the original's own benchmark."""
        for size, total in PUSHES:
            jobs = [Job("POST", f"/v1/metric/{self.metrics[k % 20]}/measures",
                        self._format_measures(T0 - 86400 * 30 + k * size, 1, size)) for k in range(total // size)]
            self._measure(f"push {size}/request", total, "measures", jobs)
        drained = self.server.drain()
        self.record("metricd drain pushes (20 metrics)", sum(total for _, total in PUSHES),
                    drained.wall_s, drained.cpu_s, "measures")
        return drained

    def first_hour(self) -> Drained:
        points, count = self.args.points, len(self.metrics)
        self._measure(f"batch 500 metrics x {points}", count * points, "measures",
                      self._list_batches(self.metrics, 0, points))
        drained = self.server.drain()
        self.record(f"metricd fresh metrics x {points}", count, drained.wall_s, drained.cpu_s, "metrics")
        if drained.left:
            print(f"  {drained.left} bundles were left waiting", flush=True)
        return drained

    def steady_state(self) -> None:
        """One more measure per metric, three rounds."""
        sent, drained = [0.0, 0.0], [0.0, 0.0]
        for turn in range(3):
            jobs = self._list_batches(self.metrics, self.args.points + turn, 1)
            for totals, (wall, cpu) in ((sent, self.server.run(jobs, self.args.threads)),
                                        (drained, self.server.drain()[:2])):
                totals[0] += wall
                totals[1] += cpu
        self.record("batch 500 metrics x 1", 3 * len(self.metrics), *sent, "measures")
        self.record("metricd steady state x 1", 3 * len(self.metrics), *drained, "metrics")

    def read(self) -> None:
        request = self.server.request
        policy = {"name": "month", "definition": [{"granularity": "1m", "points": 50000}],
                  "aggregation_methods": ["mean"]}
        request(Job("POST", "/v1/archive_policy", json.dumps(policy)))
        metric = json.loads(request(Job("POST", "/v1/metric", '{"archive_policy_name": "month"}')))["id"]
        request(Job("POST", f"/v1/metric/{metric}/measures", json.dumps(
            [{"timestamp": T0 + 60 * i, "value": self.random.random() * 100} for i in range(MONTH_MINUTES)])))
        self.server.drain()
        month = Job("GET", f"/v1/metric/{metric}/measures?granularity=60")
        points = len(json.loads(request(month)))
        self._measure(f"get month of minutes ({points})", 20 * points, "points", [month] * 20)
        hours = [Job("GET", f"/v1/metric/{metric}/measures?granularity=60") for metric in self.metrics[30:430]]
        self._measure("get 1h of minutes", len(hours), "requests", hours)
        shows = [Job("GET", f"/v1/metric/{metric}") for metric in self.metrics[:1000]]
        self._measure("show metric", len(shows), "requests", shows)

    def aggregate(self) -> None:
        """Aggregates across metrics, where they are served."""
        for count in (100, 1000):
            chosen = self.metrics[30:30 + count]
            body = json.dumps({"operations": ["aggregate", "mean", ["metric", *([m, "mean"] for m in chosen)]]})
            try:
                self._measure(f"aggregate mean of {len(chosen)} metrics", 5 * len(chosen) * (self.args.points + 3),
                              "points", [Job("POST", "/v1/aggregates?granularity=60", body)] * 5)
            except NotServed as e:
                print(f"aggregate mean of metrics: skipped, this build does not serve it ({e})", flush=True)
                return

    def update_some(self) -> None:
        """One measure for every tenth metric (ids are random: one of ten in each pack), three rounds.

        So few measures take less CPU than a bare start differs from another at another time: each round deducts its
        own.
        """
        chosen, wall, cpu = self.metrics[::10], 0.0, 0.0
        for turn in range(3):
            self.server.measure_bare_start()
            self.server.run(self._list_batches(chosen, self.args.points + 3 + turn, 1), self.args.threads)
            drained = self.server.drain()
            wall += drained.wall_s
            cpu += drained.cpu_s
        self.record("metricd 1 of 10 metrics x 1", 3 * len(chosen), wall, cpu, "metrics")


def format_figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def print_budgets(figures: dict[str, dict], metrics: int) -> bool:
    """Print design.md's table with our figures; return whether all measured budgets are kept."""
    print(f"\n{'per CPU-second unless said':38s}{'measured':>12s}{'budget':>12s}{'stretch':>12s}")
    kept_all = True
    for budget in BUDGETS:
        value = figures.get(budget.row, {}).get(budget.figure)
        if value is None:
            verdict = "not measured"
        else:
            def reaches(goal: float | None, value: float = value, at_most: bool = budget.at_most) -> bool:
                return goal is not None and (value <= goal if at_most else value >= goal)
            verdict = "stretch" if reaches(budget.stretch) else "pass" if reaches(budget.budget) else "FAIL"
            kept_all &= verdict != "FAIL"
        print(f"{budget.title:38s}{format_figure(value):>12s}{format_figure(budget.budget):>12s}"
              f"{format_figure(budget.stretch):>12s}  {verdict}")
    if metrics < METRICS_OF_BUDGETS:
        print(f"The budgets were set at {METRICS_OF_BUDGETS} metrics. With {metrics} the fixed cost of a sack weighs "
              "more, so a failure here need not be one there.")
    return kept_all


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Black-box benchmark of a Gnocchi-compatible server.")
    parser.add_argument("--bin", default=os.path.dirname(sys.executable),
                        help="directory of the commands (%(default)s)")
    parser.add_argument("--indexer", help="URL of an empty index database (SQLite in DIR)")
    parser.add_argument("--tmp", metavar="DIR", help="empty or new directory, kept afterwards (a temporary one)")
    parser.add_argument("--port", type=int, default=18141)
    parser.add_argument("--metrics", type=int, default=2000, help="%(default)s; the budgets are set for 20000")
    parser.add_argument("--workers", type=int, default=2, help="metricd processes (%(default)s)")
    parser.add_argument("--api-workers", type=int, default=4, help="API processes (%(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="connections of this client (%(default)s)")
    parser.add_argument("--points", type=int, default=60, help="first measures of each metric (%(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--label", default="", help="name of this run in FILE")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a budget is not kept")
    args = parser.parse_args()
    if args.metrics < 30:
        parser.error("--metrics must be at least 30")
    if args.tmp and os.path.isdir(args.tmp) and os.listdir(args.tmp):
        parser.error(f"{args.tmp} is not empty")
    return args


def main() -> int:
    args = parse_arguments()
    temporary = None if args.tmp else tempfile.mkdtemp(prefix="gnocchi-bench-")
    args.tmp = args.tmp or temporary
    try:
        server = Server(args)
        bench = Bench(server, args)
        try:
            server.wait_for_api()
            bench.run()
        finally:
            server.stop(server.api)
        kept = print_budgets(bench.figures, args.metrics)
    finally:
        if temporary:
            shutil.rmtree(temporary)
    if args.out:
        with open(args.out, "w") as f:
            json.dump({"label": args.label, "metrics": args.metrics, **bench.figures}, f, indent=1)
    return 0 if kept or not args.strict else 1


if __name__ == "__main__":
    sys.exit(main())
