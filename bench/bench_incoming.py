"""What accepting and reading back measures costs with the file driver.

Usage: bench_incoming.py [directory [slices]]     (on the file system to be measured; default: the current one)

CPU figures are the process's own, the kernel's share included.  `slices`, 64 bytes of disk each, is the length of the
backlog that memory is measured with; the promise is about 50,000,000.
"""

import os
import shutil
import sys
import tempfile
import threading
import time

import numpy

from gnocchi import metric_ids
from gnocchi.incoming import journal
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.incoming.file import FileDriver

SACKS = 128


class CountingSystem:
    """The functions of `os`; counts the syncs."""

    def __init__(self):
        self.syncs = 0

    def __getattr__(self, name):
        return getattr(os, name)

    def fdatasync(self, fd):
        self.syncs += 1
        os.fdatasync(fd)


def make_batch(metrics, measures, seed=0):
    """Return a request with `measures` measures for each of `metrics` random metrics."""
    generator = numpy.random.default_rng(seed)
    ids = numpy.frombuffer(generator.bytes(16 * metrics), metric_ids.DTYPE)
    times = numpy.int64(1_700_000_000_000_000_000) + numpy.arange(metrics * measures) * 1_000_000_000
    return MeasureBatch(ids, numpy.full(metrics, measures, numpy.int64), times.view("M8[ns]"),
                        generator.random(metrics * measures))


def measure(function, repeat):
    """Return CPU and wall time of one call in microseconds."""
    function()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(repeat):
        function()
    return (time.process_time() - cpu) / repeat * 1e6, (time.perf_counter() - wall) / repeat * 1e6


def report_writing(directory):
    print("request (metrics x measures)    encode CPU   write, os: CPU   write, fsync: CPU      wall")
    for metrics, measures, repeat in ((1, 1, 3000), (500, 1, 1000), (500, 60, 200), (1, 5000, 1000)):
        batch = make_batch(metrics, measures)
        encode, _ = measure(lambda batch=batch: journal.encode_slices(batch, SACKS), repeat)
        figures = []
        for durability in ("os", "fsync"):
            driver = open_driver(directory, SACKS, durability)
            figures.append(measure(lambda driver=driver, batch=batch: driver.write_measures(batch), repeat))
            remove(driver)
        print(f"{metrics:12} x {measures:<12} {encode:12.1f} us {figures[0][0]:12.1f} us {figures[1][0]:15.1f} us "
              f"{figures[1][1]:8.0f} us")


def report_threads(directory, frames=12_000):
    print("\nthreads    frames/s, os    frames/s, fsync    frames per fsync    CPU per frame")
    batch = make_batch(1, 1)
    for count in (1, 4, 16):
        rates = []
        for durability in ("os", "fsync"):
            system = CountingSystem()
            driver = open_driver(directory, SACKS, durability, system=system)
            threads = [threading.Thread(target=lambda driver=driver, count=count: [
                driver.write_measures(batch) for _ in range(frames // count)]) for _ in range(count)]
            started, cpu = time.perf_counter(), time.process_time()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates.append(frames / (time.perf_counter() - started))
            cpu = (time.process_time() - cpu) / frames * 1e6
            remove(driver)
        print(f"{count:7} {rates[0]:15.0f} {rates[1]:18.0f} {frames / system.syncs:19.1f} {cpu:13.1f} us")


def report_reading(directory):
    driver = open_driver(directory, 16, "os")
    for i in range(200):
        driver.write_measures(make_batch(500, 10, i))
    started = time.perf_counter()
    driver.list_backlogs({sack: {} for sack in range(16)})
    indexed = time.perf_counter()
    count = sum(len(driver.read_backlog(sack, {}, 4_000_000).batch.values) for sack in range(16))
    print(f"\n{count} measures over 16 sacks in 200 requests: index {(indexed - started) * 1e3:.1f} ms, "
          f"read {(time.perf_counter() - indexed) * 1e3:.1f} ms")
    remove(driver)
    for metrics, requests in ((1, 100_000), (500, 1000)):
        report_small_requests(directory, metrics, requests)


def report_small_requests(directory, metrics, requests):
    driver = open_driver(directory, SACKS, "os")
    batches = [make_batch(metrics, 1, i) for i in range(5000 // metrics)]
    for i in range(requests):
        driver.write_measures(batches[i % len(batches)])
    checkpoints = {sack: {} for sack in range(SACKS)}
    times = [time.perf_counter()]
    driver.list_backlogs(checkpoints)
    times.append(time.perf_counter())
    driver.list_backlogs(checkpoints)
    times.append(time.perf_counter())
    driver.report_backlog(checkpoints, details=True)
    times.append(time.perf_counter())
    backlogs = [driver.read_backlog(sack, {}, 4_000_000) for sack in range(SACKS)]
    times.append(time.perf_counter())
    driver.get_position()
    times.append(time.perf_counter())
    bundles = sum(backlog.bundles for backlog in backlogs if backlog is not None)
    index, figures, details, read, position = numpy.diff(times) * 1e6
    print(f"{requests} requests of {metrics} x 1 over {SACKS} sacks: index {index / requests:.1f} us per request, "
          f"read {read / requests:.1f} us per request ({read / bundles:.2f} us per bundle); "
          f"figures {figures / 1e3:.1f} ms, with details {details / 1e3:.1f} ms; position {position:.0f} us")
    remove(driver)


def report_long_backlog(directory, slices):
    """Memory of a reader with a backlog of one measure per slice, the shape that makes the longest index."""
    driver = open_driver(directory, SACKS, "os")
    ids = numpy.array([bytes(15) + bytes([sack]) for sack in range(SACKS)], metric_ids.DTYPE)
    times = numpy.full(SACKS, 1_700_000_000_000_000_000).view("M8[ns]")
    batch = MeasureBatch(ids, numpy.ones(SACKS, numpy.int64), times, numpy.ones(SACKS))
    for _ in range(slices // SACKS):
        driver.write_measures(batch)
    driver.close()
    print(f"\n{slices // SACKS * SACKS} slices of one measure in {len(os.listdir(driver.directory))} journals: "
          "peak of memory above the start, wall")
    for turn in ("first look", "another process"):
        child = os.fork()
        if not child:
            read_long_backlog(os.path.dirname(driver.directory), turn)
            os._exit(0)
        os.waitpid(child, 0)
    remove(driver)


def read_long_backlog(directory, turn):
    base = read_status("VmRSS")
    driver = FileDriver(directory, SACKS, "os")
    empty = {sack: {} for sack in range(SACKS)}
    for what, work in (("figures by sack", lambda: driver.list_backlogs(empty)),
                       ("a slice of 8 sacks", lambda: all(driver.read_backlog(s, {}, 1_000_000) for s in range(8))),
                       ("figures by metric", lambda: driver.report_backlog(empty, details=True))):
        with open("/proc/self/clear_refs", "w") as f:
            f.write("5")    # forget the peak
        started = time.perf_counter()
        work()
        peak, wall = (read_status("VmHWM") - base) / 1e3, time.perf_counter() - started
        print(f"{turn:16} {what:24} {peak:8.0f} MB {wall:8.1f} s", flush=True)


def read_status(field):
    """Return a size from /proc, in kB."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field))


def open_driver(directory, sacks, durability, **options):
    driver = FileDriver(tempfile.mkdtemp(dir=directory), sacks, durability, **options)
    driver.upgrade()
    return driver


def remove(driver):
    driver.close()
    shutil.rmtree(os.path.dirname(driver.directory))


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "."
    report_writing(where)
    report_threads(where)
    report_reading(where)
    report_long_backlog(where, int(sys.argv[2]) if len(sys.argv) > 2 else 2_000_000)
