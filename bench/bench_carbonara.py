"""Micro benchmark of the numeric engine: `python bench/bench_carbonara.py`, best of several runs on one core."""

import timeit

import numpy

from gnocchi.carbonara import series, window

METHODS = ("mean", "min", "max", "sum", "std", "count")
MINUTE, HOUR = numpy.timedelta64(60 * 10**9, "ns"), numpy.timedelta64(3600 * 10**9, "ns")
MEDIUM = window.WindowPolicy(((MINUTE, 7 * 1440 * MINUTE), (HOUR, 365 * 24 * HOUR)), 0, METHODS)
NOON = numpy.datetime64("2020-01-01T12:00:00", "ns")


def make_points(m, n, begin, step=MINUTE):
    """Get m series of n points, one per step, ascending."""
    rng = numpy.random.default_rng(1)
    times = begin + numpy.arange(n) * step
    return series.make_batch([(times, numpy.round(rng.normal(50, 20, n), 3)) for _ in range(m)])


def advanced(state, *batches, policy=MEDIUM):
    for batch in batches:
        state = window.advance(state, batch, policy).state
    return state


def report(title, run, units, unit, target=None):
    """Print the time per unit (us) of the best of 7 runs."""
    number = max(1, int(0.1 / min(timeit.repeat(run, number=1, repeat=2))))
    seconds = min(timeit.repeat(run, number=number, repeat=7)) / number
    per_unit = seconds * 1e6 / units
    note = "" if target is None else f"  (target {target:g})"
    print(f"{title:66} {seconds * 1e3:9.3f} ms {per_unit:9.3f} us per {unit}{note}")


def bench_metrics(m):
    hour = make_points(m, 60, NOON)
    open_hour = advanced(window.empty_state(m), hour)
    one_more = make_points(m, 1, NOON + 59 * MINUTE + MINUTE // 2)
    next_hour = make_points(m, 1, NOON + HOUR)
    report(f"{m} metrics x 60 raw points, 1 new measure each",
           lambda: window.advance(open_hour, one_more, MEDIUM), m, "metric", 3)  # fmt: skip
    late = make_points(m, 1, NOON + 20 * MINUTE + MINUTE // 2)
    report(f"{m} metrics x 60 raw points, 1 late measure each",
           lambda: window.advance(open_hour, late, MEDIUM), m, "metric")  # fmt: skip
    report(f"{m} metrics: seal an hour, 6 methods x (1 min, 1 h)",
           lambda: window.advance(open_hour, next_hour, MEDIUM), m, "metric", 15)  # fmt: skip
    dense = advanced(window.empty_state(m), make_points(m, 360, NOON, MINUTE // 6))
    report(f"{m} metrics: seal an hour of 360 points each",
           lambda: window.advance(dense, next_hour, MEDIUM), m, "metric")  # fmt: skip
    ranks = MEDIUM._replace(methods=("median", "95pct", "99pct"))
    report(f"{m} metrics: seal an hour, median and 2 percentiles",
           lambda: window.advance(open_hour, next_hour, ranks), m, "metric")  # fmt: skip
    rates = MEDIUM._replace(methods=("rate:mean", "rate:max"))
    report(f"{m} metrics: seal an hour, 2 rates",
           lambda: window.advance(open_hour, next_hour, rates), m, "metric")  # fmt: skip
    report(f"{m} metrics: open minutes, mean",
           lambda: window.open_buckets(open_hour, MINUTE, ("mean",), MEDIUM), m, "metric")  # fmt: skip
    report(f"{m} metrics: open hour, 6 methods",
           lambda: window.open_buckets(open_hour, HOUR, METHODS, MEDIUM), m, "metric")  # fmt: skip


def bench_bulk():
    for title, step in (("1 per minute", MINUTE), ("6 per minute", MINUTE // 6)):
        bulk = make_points(20, 105_000, NOON, step)
        report(f"20 new metrics x 105,000 measures, {title}",
               lambda bulk=bulk: window.advance(window.empty_state(20), bulk, MEDIUM),
               2_100_000, "measure", 0.1)  # fmt: skip
    order = numpy.random.default_rng(2).permutation(105_000)
    shuffled = series.SeriesBatch(bulk.offsets, bulk.timestamps[shuffled_index(20, order)], bulk.values)
    report("20 new metrics x 105,000 measures, shuffled",
           lambda: window.advance(window.empty_state(20), shuffled, MEDIUM), 2_100_000, "measure")  # fmt: skip


def shuffled_index(m, order):
    return (order + numpy.arange(m)[:, None] * len(order)).ravel()


if __name__ == "__main__":
    bench_metrics(512)
    bench_metrics(8)
    bench_metrics(1)
    bench_bulk()
