"""What metricd costs on each storage driver: operations, CPU and memory of steady-state rounds, against real servers.

    python bench/backends.py [--metrics N] [--rounds N] [file | redis | ceph ...]

A worker, in a process of its own per row, aggregates one new measure of each metric in every round: of 100,000 metrics
on one policy, and of 1,000 metrics on 5 policies.  Measures wait in the same back end where that keeps them, else in
files; the index is SQLite, and the servers are those of the tests.  Figures are of the worker alone: objects written,
read (ranges) and deleted for 1,000 metrics, and for each sack that had something; the best CPU time of all rounds; the
most memory in any round.
"""

import argparse
import contextlib
import functools
import gc
import multiprocessing
import pathlib
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy
from oslo_config import cfg

from gnocchi import metric_ids, opts
from gnocchi.archive_policy import ArchivePolicy, complete_item
from gnocchi.backends import Backends
from gnocchi.carbonara.series import cumulate
from gnocchi.common import drivers
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition, migration
from gnocchi.metricd import Processor
from gnocchi.storage.drivers import ByteRange, StorageDriver
from gnocchi.tests.ceph import Gateway, serve_ceph
from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.swift import serve_swift

START_S = 1_700_000_040    # a whole minute
ITEMS = ((60, 7 * 86400), (3600, 365 * 86400))
METHODS = ("mean", "sum", "min", "max", "count", "std")
METRICS_PER_REQUEST = 500
FIRST_MINUTES = 5
SACKS = 128
RANDOM = numpy.random.default_rng(7)

#: What issue 6 asks for.
OPERATIONS_PER_1000_MAX, OPERATIONS_PER_SACK_MAX, METRICS_PER_CPU_S_MIN = 20, 3, 10_000


class Shape(NamedTuple):
    metrics: int
    policies: int


class CountingDriver(StorageDriver):
    """Counts what is asked of a driver: objects stored, ranges read, objects deleted, listings."""

    def __init__(self, driver: StorageDriver) -> None:
        self._driver = driver
        self.reads_at_once = driver.reads_at_once
        self.counts: Counter[str] = Counter()

    def upgrade(self) -> None:
        self._driver.upgrade()

    def put(self, key: str, data: bytes) -> None:
        self.counts["put"] += 1
        self._driver.put(key, data)

    def put_many(self, objects: Sequence[tuple[str, bytes]]) -> None:
        self.counts["put"] += len(objects)
        self._driver.put_many(objects)

    def get(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        self.counts["get"] += 1
        return self._driver.get(key, start, stop)

    def get_many(self, ranges: Sequence[ByteRange]) -> list[bytes]:
        self.counts["get"] += len(ranges)
        return self._driver.get_many(ranges)

    def delete_many(self, keys: Iterable[str]) -> None:
        names = list(keys)
        self.counts["delete"] += len(names)
        self._driver.delete_many(names)

    def list(self, prefix: str) -> Iterator[str]:
        self.counts["list"] += 1
        return self._driver.list(prefix)

    def close(self) -> None:
        self._driver.close()


@contextlib.contextmanager
def use_file() -> Iterator[dict[str, object]]:
    yield {}


@contextlib.contextmanager
def use_redis() -> Iterator[dict[str, object]]:
    with contextlib.contextmanager(serve)(functools.partial(make_redis, durable=True)) as server:
        yield {"redis_url": f"redis://127.0.0.1:{server.port}"}


@contextlib.contextmanager
def use_ceph() -> Iterator[dict[str, object]]:
    with contextlib.contextmanager(serve_ceph)() as cluster:
        yield {"ceph_pool": cluster.create_pool(), "ceph_conffile": str(cluster.client_config)}


@contextlib.contextmanager
def use_swift() -> Iterator[dict[str, object]]:
    with contextlib.contextmanager(serve_swift)() as server:
        yield {**server.options}


@contextlib.contextmanager
def use_s3() -> Iterator[dict[str, object]]:
    with contextlib.contextmanager(serve_ceph)() as cluster:
        server = Gateway(cluster)
        try:
            server.create_users()
            server.start()
            yield {**server.options}
        finally:
            server.remove()


SERVERS: dict[str, Callable[[], Any]] = {
    "file": use_file, "redis": use_redis, "ceph": use_ceph, "swift": use_swift, "s3": use_s3}


class Worker:
    """A processing worker and its metrics, which have a few minutes of measures."""

    def __init__(self, directory: str, driver: str, options: dict[str, object], shape: Shape) -> None:
        conf = cfg.ConfigOpts()
        opts.register_opts(conf)
        incoming = driver if driver in drivers.list_drivers("gnocchi.incoming") else "file"
        for name, value, section in (
                ("url", f"sqlite:///{directory}/index.db", "indexer"), ("driver", driver, "storage"),
                ("driver", incoming, "incoming"), ("file_basepath", directory, "storage"),
                ("file_basepath", directory, "incoming"), *((*option, "storage") for option in options.items())):
            conf.set_override(name, value, section)
        conf.set_override("coordination_url", f"file://{directory}/coordination")
        conf([], project="gnocchi", default_config_files=[])
        backends = Backends(conf)
        migration.upgrade(backends.indexer)
        backends.indexer.create_sacks(SACKS)
        backends.storage_driver.upgrade()
        backends.incoming.upgrade()
        self._incoming = backends.incoming
        self._worker = Processor(0, conf)
        self.driver = CountingDriver(self._worker._backends.storage_driver)
        self._worker._backends._opened["storage_driver"] = self.driver
        self.ids = self._create_metrics(backends, shape)
        self._minute = 0
        for start in range(0, len(self.ids), 20_000):
            self._post(self.ids[start:start + 20_000], FIRST_MINUTES)
            self._work()
        self._minute += FIRST_MINUTES
        gc.collect()
        gc.freeze()     # as metricd does before it forks

    @staticmethod
    def _create_metrics(backends: Backends, shape: Shape) -> list[uuid.UUID]:
        ids = []
        for number in range(shape.policies):
            items = tuple(complete_item(numpy.timedelta64(width * 10**9, "ns"),
                                        timespan=numpy.timedelta64(span * 10**9, "ns")) for width, span in ITEMS)
            policy = ArchivePolicy(uuid.uuid4(), f"policy {number}", 0, items, METHODS)
            backends.indexer.create_archive_policy(policy)
            mine = [uuid.uuid4() for _ in range(shape.metrics // shape.policies)]
            for start in range(0, len(mine), 5000):
                backends.indexer.create_metrics(
                    [MetricDefinition(i, policy.name) for i in mine[start:start + 5000]], "bench")
            ids += mine
        return sorted(ids)

    def _post(self, ids: list[uuid.UUID], minutes: int) -> None:
        for start in range(0, len(ids), METRICS_PER_REQUEST):
            part = ids[start:start + METRICS_PER_REQUEST]
            seconds = START_S + 60 * (self._minute + numpy.arange(minutes))
            self._incoming.write_measures(MeasureBatch(
                metric_ids.pack_ids(part), numpy.diff(cumulate([minutes] * len(part))),
                numpy.tile(seconds * 10**9, len(part)).view("M8[ns]"),
                numpy.round(RANDOM.random(len(part) * minutes) * 100, 3)))

    def _work(self) -> float:
        self._worker._next_scan = 0.0
        begin = time.process_time()
        self._worker.run_round()
        return time.process_time() - begin

    def run_round(self) -> float:
        """Return the CPU seconds of a round that finds one new measure of each metric."""
        self._post(self.ids, 1)
        self._minute += 1
        return self._work()


def read_peak_mb() -> float:
    """Return the most resident memory of this process since `clear_peak`."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1000


def clear_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def measure(driver: str, shape: Shape, rounds: int) -> None:
    """Print the row of a driver and a shape."""
    with tempfile.TemporaryDirectory(prefix="gnocchi-bench-") as directory, SERVERS[driver]() as options:
        worker = Worker(directory, driver, options, shape)
        worker.driver.counts.clear()
        clear_peak()
        best = min(worker.run_round() for _ in range(rounds))
        counts = {name: worker.driver.counts[name] / rounds for name in ("put", "get", "delete", "list")}
        total = sum(counts.values())
        sacks = len(set(metric_ids.sack_numbers(metric_ids.pack_ids(worker.ids), SACKS).tolist()))
        print(f"{driver:6s} {shape.metrics:7d} metrics, {shape.policies} policies: "
              f"{counts['put']:6.1f} put {counts['get']:6.1f} get {counts['delete']:5.1f} delete: "
              f"{total / shape.metrics * 1000:5.1f} /1000 metrics {total / sacks:5.2f} /sack; "
              f"{shape.metrics / best:7.0f} metrics/CPU-s; peak {read_peak_mb():4.0f} MB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("driver", nargs="*", help=f"of {', '.join(SERVERS)} (all)")
    parser.add_argument("--metrics", type=int, default=100_000, help="of the large shape (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if set(args.driver) - set(SERVERS):
        parser.error(f"a driver is one of {', '.join(SERVERS)}")
    print(f"asked: at most {OPERATIONS_PER_1000_MAX} operations per 1,000 metrics of 100,000 and "
          f"{OPERATIONS_PER_SACK_MAX} per sack of 1,000 metrics on 5 policies; "
          f"{METRICS_PER_CPU_S_MIN} metrics per CPU-s")
    for driver in args.driver or list(SERVERS):
        for shape in (Shape(args.metrics, 1), Shape(1000, 5)):
            process = multiprocessing.get_context("spawn").Process(target=measure, args=(driver, shape, args.rounds))
            process.start()
            process.join()


if __name__ == "__main__":
    main()
