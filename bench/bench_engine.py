"""Micro-benchmarks of the storage engine: microseconds of CPU per metric.

    python bench/bench_engine.py
"""

import time
import uuid

import numpy

from gnocchi import metric_ids
from gnocchi.carbonara.series import SeriesBatch, cumulate
from gnocchi.carbonara.window import WindowPolicy
from gnocchi.processing.aggregate import plan_pack
from gnocchi.storage import block, packs
from gnocchi.storage.head import decode_head, empty_head, encode_head

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


def main():
    ids = numpy.sort(metric_ids.pack_ids([uuid.uuid4() for _ in range(METRICS)]))
    pack = packs.make_pack(0, uuid.uuid4(), 0, 0)
    first = make_series(0, 50)
    plan, _ = plan_pack(pack, empty_head(), ids, first, POLICY)
    head = plan.head
    one = make_series(50, 1)
    hour = make_series(50, 60)
    data = encode_head(head)
    sealing, _ = plan_pack(pack, head, ids, hour, POLICY)
    minutes = next(iter(sealing.sealed))
    print(f"head of {METRICS} metrics x 50 raw measures: {len(data)} bytes")
    report("plan: first 50 measures of each", lambda: plan_pack(pack, empty_head(), ids, first, POLICY))
    report("plan: one more measure of each", lambda: plan_pack(pack, head, ids, one, POLICY))
    report("plan: 60 more of each, an hour is sealed", lambda: plan_pack(pack, head, ids, hour, POLICY))
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
    report("plan: first 105,000 measures of 20 metrics", lambda: plan_pack(pack, empty_head(), ids[:20], bulk, POLICY),
           metrics=20 * 105_000, repeat=3)


if __name__ == "__main__":
    main()
