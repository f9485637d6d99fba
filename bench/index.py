"""The resource index at size: lists, searches, history and batches by resource, through the API in this process.

    python bench/index.py [--indexer URL | --start postgresql | --start mariadb] [--resources 100000] [only ...]

Without `--indexer` or `--start`, SQLite in a temporary directory.  `--start` starts a server for the time of the run.
A database given by URL is filled if it is empty, and left behind.

100,000 resources of one type with five attributes, one of each kind, with three revisions each, of 100 projects, and
500,000 metrics.  Of pages and single resources, the best time of a few is told, and the CPU time of the API and of a
database server on this machine, which is what the time would be on an idle machine: budgets are compared with that.
Batches are counted per CPU-second of the API (and of the database, if that is SQLite).  `only` names beginnings of
lines to measure.
"""

import argparse
import contextlib
import datetime
import itertools
import json
import pathlib
import random
import sys
import tempfile
import time
import uuid

import psutil
import sqlalchemy as sa
import webob
from oslo_config import cfg

from gnocchi import opts
from gnocchi.cli.manage import upgrade_all
from gnocchi.indexer.models import metric, resource, resource_history
from gnocchi.indexer.resource_attributes import encode_attributes
from gnocchi.rest import app as rest_app
from gnocchi.rest.auth import AuthHelper, Identity
from gnocchi.tests.databases import MariadbServer, PostgresqlServer

ATTRIBUTES = {"flavor": {"type": "string"}, "host": {"type": "uuid"}, "vcpus": {"type": "number"},
              "shared": {"type": "bool"}, "since": {"type": "datetime"}}
REVISIONS = 3
METRICS = 5
PROJECTS = 100
PAGE = 1000
START = datetime.datetime(2026, 1, 1)
ROWS = 5_000

BATCH_RESOURCES, BATCH_METRICS = 500, 4
SERVERS = {"postgresql": PostgresqlServer, "mariadb": MariadbServer}

#: Milliseconds for a page, by kind of database; for one resource; and measures per CPU-second.
PAGE_MS = {"postgresql": 100, "sqlite": 400, "mysql": 400}
SHOW_MS = 2
BATCH_KNOWN, BATCH_NEW = 30_000, 5_000

HOST = str(uuid.UUID(int=7))
FILTERS = {
    "no filter": None,
    "one in 10, string": {"=": {"flavor": "m1.7"}},
    "one in 1,000, uuid": {"=": {"host": HOST}},
    "one in 1,000, uuid in": {"in": {"host": [HOST, str(uuid.UUID(int=8))]}},
    "none, string": {"=": {"flavor": "m1.none"}},
    "half, number": {">": {"vcpus": 16}},
    "one in 100, number": {"=": {"vcpus": 31.25}},
    "none, number": {">": {"vcpus": 1000}},
    "half, bool": {"=": {"shared": True}},
    "one in 10, datetime": {">=": {"since": "2026-04-01"}},
    "like": {"like": {"flavor": "%.9"}},
    "and, or, not": {"and": [{"=": {"flavor": "m1.3"}}, {"or": [{"<": {"vcpus": 4}}, {"=": {"shared": False}}]},
                             {"not": {"=": {"host": HOST}}}]},
    "original id": {"=": {"original_resource_id": "r77"}},
    "project": {"=": {"project_id": "p7"}},
    "creator's project": {"=": {"created_by_project_id": "p7"}},
    "lifespan": {">": {"lifespan": "1 day"}},
    "ended or not": {"or": [{"=": {"ended_at": None}}, {">": {"ended_at": "2026-03-01"}}]},
}


class Callers(AuthHelper):
    """Believes headers, as they come from Keystone's middleware."""

    hides_rows = True

    def identify(self, environ):
        user, project = environ["HTTP_X_USER_ID"], environ["HTTP_X_PROJECT_ID"]
        return Identity(f"{user}:{project}", {"user": f"{user}:{project}", "user_id": user, "project_id": project,
                                              "roles": [environ["HTTP_X_ROLES"]]})


class Bench:
    def __init__(self, url, directory, count, only):
        config = directory / "gnocchi.conf"
        config.write_text(
            f"[indexer]\nurl = {url}\n[storage]\nfile_basepath = {directory}\n[api]\nmax_limit = {PAGE}\n")
        conf = cfg.ConfigOpts()
        opts.set_defaults()
        opts.register_opts(conf)
        conf(["--config-file", str(config)], project="gnocchi")
        upgrade_all(conf, 16)
        self._app = rest_app.load_app(conf)
        self._ids = [uuid.uuid4() for _ in range(count)]
        self._only = tuple(only)
        self._missed = []

    def start(self):
        """Open the back ends, and let callers say who they are."""
        request = webob.Request.blank("/v1/capabilities")
        request.get_response(self._app)
        services = request.environ["gnocchi.services"]
        services.auth = Callers()
        self.indexer = services.indexer

    def send(self, method, path, body=None, roles="admin", project="admin"):
        request = webob.Request.blank(path, method=method, headers={
            "Accept": "application/json", "X-User-Id": "u", "X-Project-Id": project, "X-Roles": roles})
        if body is not None:
            request.body = body if isinstance(body, bytes) else json.dumps(body).encode()
            request.content_type = "application/json"
        response = request.get_response(self._app)
        assert response.status_int < 300, (path, response.status, response.text[:500])
        return response

    # ---- filling

    def count(self):
        """Find the resources that there are, and return how many."""
        with self.indexer.reading() as connection:
            found = connection.execute(sa.select(resource.c.id)).scalars().all()
        self._ids = found or self._ids
        return len(found)

    def fill(self):
        self.send("POST", "/v1/resource_type", {
            "name": "instance", "attributes": {name: {**kind, "required": False} for name, kind in ATTRIBUTES.items()}})
        rng = random.Random(7)
        policy = self.indexer.get_archive_policy("low").id
        begun = time.monotonic()
        for start in range(0, len(self._ids), ROWS):
            rows = [self._make_resource(rng, start + i, id) for i, id in enumerate(self._ids[start:start + ROWS])]
            with self.indexer.writing() as connection:
                connection.execute(sa.insert(resource), [row for row, _ in rows])
                connection.execute(sa.insert(resource_history), [old for _, revisions in rows for old in revisions])
                connection.execute(sa.insert(metric), [
                    {"id": uuid.uuid4(), "archive_policy_id": policy, "creator": row["creator"], "name": f"m{i}",
                     "resource_id": row["id"], "status": "active", "created_at": START,
                     "needs_raw_data_truncation": False} for row, _ in rows for i in range(METRICS)])
        if self.indexer.dialect != "sqlite":
            analyze = {"postgresql": "ANALYZE", "mysql": "ANALYZE TABLE resource, resource_history, metric"}
            with self.indexer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(analyze[self.indexer.dialect])
        print(f"{len(self._ids)} resources made in {time.monotonic() - begun:.0f} s")

    @staticmethod
    def _make_resource(rng, number, id):
        """Return the rows of a resource and of its old revisions."""
        made = START + datetime.timedelta(seconds=rng.randrange(86400 * 100))

        def attributes(revision):
            return encode_attributes({
                "flavor": f"m1.{(number + revision) % 10}", "host": uuid.UUID(int=number % 1000),
                "vcpus": number % 128 * 0.25, "shared": number % 2 == 0, "since": made})

        times = [made + datetime.timedelta(hours=i) for i in range(REVISIONS)]
        row = {"id": id, "type": "instance", "creator": f"u{number % 1000}:p{number % PROJECTS}",
               "user_id": f"u{number % 1000}", "project_id": f"p{number * 7 % PROJECTS}",
               "original_resource_id": f"r{number}", "started_at": made,
               "ended_at": made + datetime.timedelta(days=number % 7) if number % 3 == 0 else None}
        old = [{**row, "revision_start": begin, "revision_end": end, "attributes": attributes(i)}
               for i, (begin, end) in enumerate(zip(times, times[1:], strict=False))]
        return {**row, "revision_start": times[-1], "attributes": attributes(REVISIONS - 1)}, old

    # ---- measuring

    def time(self, name, work, budget_ms, repeat=5):
        if self._only and not name.startswith(self._only):
            return
        best = cpu = float("inf")
        server_begin = self._count_server_s()
        for _ in range(repeat):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            found = work()
            best = min(best, (time.perf_counter() - begin) * 1e3)
            cpu = min(cpu, (time.process_time() - cpu_begin) * 1e3)
        server = (self._count_server_s() - server_begin) / repeat * 1e3     # which the system counts in steps of 10 ms
        self._report(name, f"{best:9.1f} ms, CPU {cpu:7.1f} + {server:6.1f} ms", f"{budget_ms} ms",
                     min(best, cpu + server) > budget_ms, found)

    def _count_server_s(self):
        """Return the CPU seconds of the database server so far."""
        port = self.indexer.url.port
        servers = [process for process in psutil.process_iter(["cmdline"])
                   if port is not None and {str(port), f"--port={port}"} & set(process.info["cmdline"] or ())]
        total = 0.0
        for process in itertools.chain.from_iterable([server, *server.children()] for server in servers):
            with contextlib.suppress(psutil.NoSuchProcess):
                spent = process.cpu_times()
                total += spent.user + spent.system
        return total

    def _report(self, name, value, budget, missed, found=""):
        if missed:
            self._missed.append(name)
        print(f"{name:48s} {value}   budget {budget}{'   MISSED' if missed else ''}   {found}", flush=True)

    def run(self):
        # The page that begins behind two thirds of all.
        with self.indexer.reading() as connection:
            ordered = connection.execute(sa.select(resource.c.id, resource.c.revision_start).order_by(
                resource.c.revision_start, resource.c.started_at, resource.c.id)).all()
        self._marker = ordered[len(ordered) * 2 // 3].id
        budget = PAGE_MS[self.indexer.dialect]
        for name, tree in FILTERS.items():
            self._time_pages(name, tree, budget)
        for name in ("one in 10, string", "one in 1,000, uuid", "none, string", "half, number", "none, number",
                     "project"):
            self._time_pages(f"history: {name}", FILTERS[name], budget, "&history=true", "@-1")
        for sort in ("flavor:desc", "vcpus:asc-nullsfirst", "since:desc-nullslast", "ended_at", "id"):
            self._time_pages(f"sorted by {sort}", FILTERS["one in 10, string"], budget, f"&sort={sort}")
        for name in ("no filter", "one in 10, string", "none, string"):
            self._time_pages(f"a member's: {name}", FILTERS[name], budget, roles="member", project="p7")
        self.time("a member's metrics", lambda: self._count("GET", "/v1/metric", roles="member", project="p7"), budget)
        self._time_single()
        self._time_batches()
        print(f"missed: {', '.join(self._missed) or 'none'}")

    def _time_pages(self, name, tree, budget, query="", suffix="", **who):
        path = f"/v1/search/resource/instance?limit={PAGE}{query}"
        self.time(name, lambda: self._count("POST", path, tree, **who), budget)
        if not who:
            self.time(f"  later: {name}",
                      lambda: self._count("POST", f"{path}&marker={self._marker}{suffix}", tree), budget)

    def _count(self, method, path, body=None, **who):
        return len(self.send(method, path, body, **who).json)

    def _time_single(self):
        ids = iter(random.Random(3).sample(self._ids, len(self._ids) // 2))
        self.time("show", lambda: self.send("GET", f"/v1/resource/instance/{next(ids)}").status_int, SHOW_MS, 200)
        self.time("show its history",
                  lambda: self._count("GET", f"/v1/resource/instance/{next(ids)}/history"), 10 * SHOW_MS, 200)
        self.time("change one", lambda: self.send("PATCH", f"/v1/resource/instance/{next(ids)}",
                                                  {"vcpus": 3}).status_int, 10 * SHOW_MS, 50)

    def _time_batches(self):
        choose = random.Random(5)
        path = "/v1/batch/resources/metrics/measures"
        measures = [{"timestamp": "2026-01-01T00:00:00", "value": 1.5}]
        for name, query, prefix, budget in (("batch, known metrics", "", "m", BATCH_KNOWN),
                                            ("batch, new metrics", "?create_metrics=true", "n", BATCH_NEW)):
            if self._only and not name.startswith(self._only):
                continue
            best = float("inf")
            for turn in range(8):
                chosen = choose.sample(self._ids, min(BATCH_RESOURCES, len(self._ids)))
                first = "" if prefix == "m" else f"{turn}."
                body = json.dumps({str(id): {f"{prefix}{first}{i}": measures for i in range(BATCH_METRICS)}
                                   for id in chosen}).encode()
                begin = time.process_time()
                self.send("POST", path + query, body)
                best = min(best, time.process_time() - begin)
            rate = len(chosen) * BATCH_METRICS / best
            self._report(name, f"{rate:9.0f} measures per CPU-s", budget, rate < budget)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--indexer", metavar="URL")
    where.add_argument("--start", choices=sorted(SERVERS))
    parser.add_argument("--resources", type=int, default=100_000)
    parser.add_argument("only", nargs="*")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = arguments.indexer or f"sqlite:///{directory}/index.db"
        if arguments.start:
            server = SERVERS[arguments.start](memory_mb=512)
            stack.callback(server.stop)
            server.start()
            url = server.create_database()
        bench = Bench(url, directory, arguments.resources, arguments.only)
        bench.start()
        if not bench.count():
            bench.fill()
        bench.run()


if __name__ == "__main__":
    sys.exit(main())
