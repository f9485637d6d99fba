"""Micro-benchmarks of the storage engine: microseconds of CPU per metric, of the numeric work and of whole rounds.

    python bench/bench_engine.py [--rounds N] [--profile ORDER] [plan | steady | sparse | policies | updates ...]

`steady`, `sparse` and `policies` are rounds of a processing worker on 128 sacks, with SQLite and files in a temporary
directory: one new measure for each of 20,000 metrics, for every tenth of them, and for each of 1,000 metrics on 5
policies.  `updates` is 2,000 updates among 10,000 and among 200,000 metrics.  "cold" is a worker that has just started.
The best of N rounds is printed, for neighbours on the machine can only make one worse.
"""

import argparse
import contextlib
import cProfile
import gc
import pstats
import tempfile
import time
import uuid

import numpy
import sqlalchemy as sa
from oslo_config import cfg

from gnocchi import metric_ids, opts
from gnocchi.archive_policy import ArchivePolicy, complete_item
from gnocchi.backends import Backends
from gnocchi.carbonara.series import SeriesBatch, cumulate
from gnocchi.carbonara.window import WindowPolicy
from gnocchi.common import allocators
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition, migration
from gnocchi.metricd import Processor
from gnocchi.processing.plan import Posted, plan_packs
from gnocchi.storage import block, packs
from gnocchi.storage.head import HeadParts, apply_delta, decode_head, empty_head, encode_head

METRICS = 512
START = 1_700_000_040  # a whole minute
POLICY = WindowPolicy(
    ((numpy.timedelta64(60 * 10**9, "ns"), numpy.timedelta64(7 * 86400 * 10**9, "ns")),
     (numpy.timedelta64(3600 * 10**9, "ns"), numpy.timedelta64(365 * 86400 * 10**9, "ns"))),
    0, ("mean", "sum", "min", "max", "count", "std"))
RANDOM = numpy.random.default_rng(7)


def make_series(minute, minutes, metrics=METRICS):
    """Return `minutes` measures, one a minute, of each metric."""
    seconds = START + 60 * (minute + numpy.arange(minutes))
    times = numpy.tile(seconds * 10**9, metrics).view("M8[ns]")
    values = numpy.round(RANDOM.random(metrics * minutes) * 100, 3)
    return SeriesBatch(cumulate([minutes] * metrics), times, values)


def report(name, function, metrics=METRICS, repeat=20):
    """Print the best of `repeat` runs."""
    best = min(_time(function) for _ in range(repeat))
    print(f"{name:58s} {best * 1e3:9.3f} ms {best / metrics * 1e6:9.2f} us/metric")


def _time(function):
    begin = time.process_time()
    function()
    return time.process_time() - begin


def plan_one(pack, head, ids, series):
    """Return the plan of one pack."""
    [(plan, _)] = plan_packs([Posted(pack, HeadParts(head, empty_head()), ids, series)], POLICY)
    return plan


def bench_plan():
    ids = numpy.sort(metric_ids.pack_ids([uuid.uuid4() for _ in range(METRICS)]))
    pack = packs.make_pack(0, uuid.uuid4(), 0, 0)
    first = make_series(0, 50)
    head = apply_delta(*plan_one(pack, empty_head(), ids, first).parts)
    one = make_series(50, 1)
    hour = make_series(50, 60)
    data = encode_head(head)
    sealing = plan_one(pack, head, ids, hour)
    minutes = next(iter(sealing.sealed))
    print(f"head of {METRICS} metrics x 50 raw measures: {len(data)} bytes")
    report("plan: first 50 measures of each", lambda: plan_one(pack, empty_head(), ids, first))
    report("plan: one more measure of each", lambda: plan_one(pack, head, ids, one))
    report("plan: 60 more of each, an hour is sealed", lambda: plan_one(pack, head, ids, hour))
    report("encode head", lambda: encode_head(head))
    report("decode head", lambda: decode_head(data, "k", 0))
    for granularity, buckets in sealing.sealed.items():
        encoded = block.encode_block(ids, buckets, granularity)
        name = f"encode block {granularity.astype('m8[s]')}: {len(encoded) / len(buckets.timestamps):.2f} bytes/bucket"
        report(name, lambda b=buckets, g=granularity: block.encode_block(ids, b, g))
    encoded = block.encode_block(ids, sealing.sealed[minutes], minutes)

    def read_one():
        directory = block.decode_directory(encoded, "k", 0)
        start, stop = block.find_rows(directory, ids[7:8].tobytes())
        places = block.plan_frames(directory, start, stop, "mean")
        block.decode_rows(directory, start, stop, places, [encoded[p.offset:p.offset + p.length] for p in places],
                          "k", 0)
    report("read one metric, one method from a block", read_one, metrics=1)
    bulk = make_series(0, 105_000, 20)
    report("plan: first 105,000 measures of 20 metrics", lambda: plan_one(pack, empty_head(), ids[:20], bulk),
           metrics=20 * 105_000, repeat=3)


class Engine:
    """A worker, its back ends in a directory, and metrics that have an hour of measures.

    Parameters
    ----------
    policies : int
        The metrics are spread evenly over so many.
    """

    def __init__(self, directory, metrics, policies, sacks=128):
        self._conf = cfg.ConfigOpts()
        opts.register_opts(self._conf)
        for name, value, group in (("url", f"sqlite:///{directory}/index.db", "indexer"),
                                   ("file_basepath", directory, "storage"), ("file_basepath", directory, "incoming")):
            self._conf.set_override(name, value, group)
        self._conf([], project="gnocchi", default_config_files=[])
        backends = Backends(self._conf)
        migration.upgrade(backends.indexer)
        backends.indexer.create_sacks(sacks)
        backends.storage_driver.upgrade()
        backends.incoming.upgrade()
        self.sacks = sacks
        self.ids = []
        for number in range(policies):
            items = tuple(complete_item(granularity, timespan=timespan) for granularity, timespan in POLICY.items)
            policy = ArchivePolicy(uuid.uuid4(), f"policy {number}", 0, items, POLICY.methods)
            backends.indexer.create_archive_policy(policy)
            ids = [uuid.uuid4() for _ in range(metrics // policies)]
            for start in range(0, len(ids), 5000):
                backends.indexer.create_metrics(
                    [MetricDefinition(i, policy.name) for i in ids[start:start + 5000]], "bench")
            self.ids += ids
        self.ids.sort()
        self._incoming = backends.incoming
        self._minute = 0
        self.statements = 0
        self.restart()
        for start in range(0, len(self.ids), 10_000):   # a round takes a million measures at once
            self.post(self.ids[start:start + 10_000], 60)
        self._minute += 60
        self.work()

    def restart(self):
        """Begin with a new worker, which is connected and knows nothing."""
        self._worker = Processor(0, self._conf)
        backends = self._worker._backends
        sa.event.listen(backends.indexer.engine, "connect",
                        lambda connection, _: connection.set_trace_callback(self._count))
        _ = backends.incoming, backends.coordinator
        gc.collect()
        allocators.collect_seldom()     # as metricd does before it forks

    def _count(self, statement):
        self.statements += 1

    def post(self, ids, minutes):
        """Post measures in requests of 500 metrics."""
        for start in range(0, len(ids), 500):
            part = ids[start:start + 500]
            series = make_series(self._minute, minutes, len(part))
            self._incoming.write_measures(MeasureBatch(metric_ids.pack_ids(part), series.counts, *series[1:]))

    def work(self):
        """Return the CPU seconds of a round."""
        self._worker._next_scan = 0.0
        return _time(self._worker.run_round)

    def update(self, ids, profile=None):
        """Return CPU seconds and statements of a round that finds a new measure of each metric."""
        self.post(ids, 1)
        self._minute += 1
        self.statements = 0
        with profile or contextlib.nullcontext():
            return self.work(), self.statements


def bench_rounds(name, metrics, policies, every, args):
    with tempfile.TemporaryDirectory(prefix="gnocchi-bench-") as directory:
        engine = Engine(directory, metrics, policies)
        chosen = engine.ids[::every]
        engine.update(chosen)
        profile = cProfile.Profile() if args.profile else None
        for state in ("warm", "cold"):
            rounds = []
            for _ in range(args.rounds):
                if state == "cold":
                    engine.restart()
                rounds.append(engine.update(chosen, profile))
            best, statements = min(rounds)
            print(f"{name:8s} {state}: {len(chosen)} of {metrics} metrics, {policies} policies: "
                  f"{best / engine.sacks * 1e6:6.0f} us/sack {best / len(chosen) * 1e6:6.1f} us/metric "
                  f"{len(chosen) / best:7.0f} metrics/CPU-s {statements / engine.sacks:.2f} statements/sack")
        if profile:
            pstats.Stats(profile).sort_stats(args.profile).print_stats(60)


ROUNDS = {"steady": [(20_000, 1, 1)], "sparse": [(20_000, 1, 10)], "policies": [(1_000, 5, 1)],
          "updates": [(10_000, 1, 5), (200_000, 1, 100)]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", nargs="*", choices=["plan", *ROUNDS], default=["plan", *ROUNDS])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--profile", metavar="ORDER", help="print where time goes, by `tottime' or `cumulative'")
    args = parser.parse_args()
    for name in args.what:
        if name == "plan":
            bench_plan()
        for shape in ROUNDS.get(name, ()):
            bench_rounds(name, *shape, args)


if __name__ == "__main__":
    main()
