"""What was posted, what of it was acknowledged, and what a reader must therefore find."""

import itertools
from typing import NamedTuple

from gnocchi.tests.engine import make_policy

SECOND = 10**9
MINUTE = 60 * SECOND
START = 1_700_000_400 * SECOND    # a whole ten minutes
#: Fine buckets age, coarse ones do not.
POLICY = make_policy("crash", [(60, 30), (600, None)], ("count", "mean", "sum"))


class Post(NamedTuple):
    """A request: (ns, value) points of each metric.  certain : bool; False: it may be there, whole, or not at all"""

    series: dict
    certain: bool


class Ledger:
    """Posts in the order of their arrival."""

    def __init__(self, ids):
        self.ids = list(ids)
        self.posts = []

    def add(self, series, certain=True):
        """Note a request that was acknowledged, or (not certain) one whose answer was lost."""
        self.posts.append(Post(series, certain))

    def list_outcomes(self):
        """Yield what may be stored, {id: {ns: value}}: each uncertain request is there as a whole or not at all."""
        doubtful = sum(not post.certain for post in self.posts)
        for choice in itertools.product((True, False), repeat=doubtful):
            chosen = iter(choice)
            kept = {i: {} for i in self.ids}
            for post in self.posts:
                if post.certain or next(chosen):
                    for metric, points in post.series.items():
                        if metric in kept:
                            kept[metric].update(points)
            yield kept

    def verify(self, engine, methods=("sum", "count")):
        """Compare all that can be read with all that may be stored."""
        found = {i: {method: engine.read(i, method) for method in methods} for i in self.ids}
        outcomes = [{i: aggregate(points, methods) for i, points in kept.items()} for kept in self.list_outcomes()]
        if found not in outcomes:
            raise AssertionError(describe(found, outcomes[0]))


def aggregate(points, methods):
    """Return what a reader shall see of one metric, as `Engine.read` does."""
    series = {method: {} for method in methods}
    for seconds, span in ((600, None), (60, 30 * MINUTE)):
        sums, counts = {}, {}
        for when, value in sorted(points.items()):
            bucket = when - when % (seconds * SECOND)
            sums[bucket] = sums.get(bucket, 0.0) + value
            counts[bucket] = counts.get(bucket, 0.0) + 1.0
        oldest = max(sums) - span if sums and span is not None else 0
        for method, values in (("sum", sums), ("count", counts)):
            if method in series:
                series[method][float(seconds)] = [(bucket, v) for bucket, v in values.items() if bucket > oldest]
    return series


def describe(found, expected):
    """Tell where two states differ."""
    lines = []
    for metric, methods in found.items():
        for method, series in methods.items():
            for granularity, points in series.items():
                right = expected[metric][method][granularity]
                if points != right:
                    lines.append(f"{metric}, {method}, {granularity} s: found\n  {points}\ninstead of\n  {right}")
    return "\n".join(lines)
