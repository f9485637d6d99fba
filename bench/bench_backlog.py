"""Memory of gnocchi-metricd with a long backlog: what each process takes at its highest, until nothing waits any more.

    python bench/bench_backlog.py [--measures 2000000] [--seconds 600] [--workers 2] [DIR] [slices | bodies ...]

`slices`: requests with one measure for each of 128 metrics, one in each sack: the longest index, for each measure is a
slice of its own.  `bodies`: requests with 5,000 measures of one of 20 metrics.  Promised are under 400 MB for a worker
with 50,000,000 measures, which want 4 GB of disk; files go to a temporary directory below DIR.
"""

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import uuid

import numpy
import psutil
from oslo_config import cfg

from gnocchi import metric_ids, opts
from gnocchi.archive_policy import ArchivePolicy, complete_item
from gnocchi.backends import Backends, open_indexer, open_storage
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition, migration

SACKS = 128
#: Seconds between two looks at the backlog, which take time from metricd.
LOOK_S = 3.0
START_S = 1_700_000_040
METHODS = ("mean", "sum", "min", "max", "count", "std")

#: Metrics, metrics in a request, and measures of each of these.
SHAPES = {"slices": (SACKS, SACKS, 1), "bodies": (20, 1, 5000)}


def write_configuration(directory, workers):
    path = directory / "gnocchi.conf"
    path.write_text(f"""[indexer]
url = sqlite:///{directory}/gnocchi.sqlite
[storage]
file_basepath = {directory}/data
[incoming]
durability = os
[metricd]
workers = {workers}
metric_processing_delay = 1
""")
    return path


def open_backends(path):
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf(["--config-file", str(path)], project="gnocchi")
    return Backends(conf)


def prepare(backends, metrics):
    """Make everything that a backlog needs; return the metrics' ids, one in each sack after the other."""
    indexer = open_indexer(backends.conf)
    migration.upgrade(indexer)
    indexer.create_sacks(SACKS)
    open_storage(backends.conf).upgrade()
    backends.incoming.upgrade()
    items = tuple(complete_item(numpy.timedelta64(granularity, "s"), timespan=numpy.timedelta64(days, "D"))
                  for granularity, days in ((60, 7), (3600, 365)))
    indexer.create_archive_policy(ArchivePolicy(uuid.uuid4(), "bench", 0, items, METHODS))
    ids = [uuid.UUID(int=uuid.uuid4().int // SACKS * SACKS + number % SACKS) for number in range(metrics)]
    indexer.create_metrics([MetricDefinition(i, "bench") for i in ids], "admin")
    return metric_ids.pack_ids(ids)


def post(backends, ids, measures, together, of_each):
    """Fill the backlog; measures of a metric are a second apart."""
    values = numpy.random.default_rng(7).random(together * of_each)
    for request in range(measures // (together * of_each)):
        first = request * together % len(ids)
        seconds = START_S + request * together // len(ids) * of_each + numpy.arange(of_each)
        backends.incoming.write_measures(MeasureBatch(
            ids[first:first + together], numpy.full(together, of_each, numpy.int64),
            numpy.tile(seconds * 10 ** 9, together).view("M8[ns]"), values))
    backends.incoming.close()


def measure(directory, path, backends, seconds):
    """Run metricd until nothing waits; print what its processes took."""
    command = [os.path.join(os.path.dirname(sys.executable), "gnocchi-metricd"), "--config-file", str(path)]
    with open(directory / "metricd.log", "w") as log:
        metricd = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    started, peaks, left, cpu_s = time.monotonic(), {}, None, 0.0
    next_look = started + LOOK_S
    try:
        while left != 0 and time.monotonic() < started + seconds and metricd.poll() is None:
            time.sleep(0.2)
            cpu_s = note_peaks(metricd.pid, peaks)
            if time.monotonic() > next_look:
                next_look += LOOK_S
                checkpoints = {sack.number: sack.checkpoint for sack in backends.indexer.list_sacks()}
                left = sum(backlog.measures for backlog in backends.incoming.list_backlogs(checkpoints).values())
    finally:
        os.killpg(metricd.pid, signal.SIGTERM)
        metricd.wait()
    wall_s = time.monotonic() - started
    print(f"  {'all of it' if left == 0 else f'{left} left'} after {wall_s:.0f} s, {cpu_s:.0f} s of CPU; peaks: "
          + ", ".join(f"{title} {peak / 1e6:.0f} MB" for title, peak in sorted(peaks.items())), flush=True)


def note_peaks(pid, peaks):
    """Raise the peaks of proportional set sizes by title of process; return the CPU seconds of all so far."""
    cpu_s = 0.0
    for process in (root := psutil.Process(pid), *root.children()):
        try:
            title = " ".join(process.cmdline()).partition(": ")[2].partition("[")[0].strip() or "start"
            peaks[title] = max(peaks.get(title, 0), process.memory_full_info().pss)
            times = process.cpu_times()
            cpu_s += times.user + times.system
        except psutil.NoSuchProcess:
            continue
    return cpu_s


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", default=".")
    parser.add_argument("shapes", nargs="*", help="slices, bodies; both if left out")
    parser.add_argument("--measures", type=int, default=2_000_000)
    parser.add_argument("--seconds", type=float, default=600, help="stop waiting after this time")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if unknown := set(args.shapes) - set(SHAPES):
        parser.error(f"no such shape: {', '.join(sorted(unknown))}")
    for shape in args.shapes or SHAPES:
        metrics, together, of_each = SHAPES[shape]
        with tempfile.TemporaryDirectory(dir=args.directory) as name:
            directory = pathlib.Path(name).absolute()
            path = write_configuration(directory, args.workers)
            backends = open_backends(path)
            ids = prepare(backends, metrics)
            started = time.monotonic()
            post(backends, ids, args.measures, together, of_each)
            print(f"{args.measures:,} measures, {together} metrics x {of_each} in a request "
                  f"(written in {time.monotonic() - started:.0f} s)", flush=True)
            measure(directory, path, open_backends(path), args.seconds)


if __name__ == "__main__":
    main()
