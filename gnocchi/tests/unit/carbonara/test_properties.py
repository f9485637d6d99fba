"""Random series, batches and policies against an oracle that keeps all raw points for ever."""

import math

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from gnocchi.carbonara.series import make_batch
from gnocchi.carbonara.window import WindowPolicy
from gnocchi.tests.unit.carbonara.model import Model, join_arrivals
from gnocchi.tests.unit.carbonara.oracle import Oracle

MODEST = settings(max_examples=60, deadline=None)

#: ns; most do not divide each other, some are below a second, one is timespan / points cut to whole ns.
GRANULARITIES = [250_000_000, 300_000_000, 10**9, 1_500_000_000, 7 * 10**9, 8_571_428_571, 60 * 10**9, 90 * 10**9]
METHODS = ["mean", "sum", "last", "max", "min", "std", "median", "first", "count", "1pct", "37pct", "95pct"]
METHODS += [f"rate:{method}" for method in METHODS]

#: Multiples of 1/8: sums and differences are exact, so that the order of additions does not matter.
values = st.one_of(
    st.integers(-(10**6), 10**6).map(lambda number: number / 8), st.sampled_from([math.nan, math.inf, -math.inf, -0.0])
)
bases = st.sampled_from([-(10**11) - 7, 0, 1_577_880_000 * 10**9])
offsets = st.builds(
    lambda steps, extra: steps * 500_000_000 + extra,
    st.one_of(st.integers(0, 12), st.integers(0, 600)),
    st.sampled_from([0, 0, 1, 249_999_999, 499_999_999]),
)


@st.composite
def policies(draw):
    widths = draw(st.lists(st.sampled_from(GRANULARITIES), min_size=1, max_size=3, unique=True))
    items = {width: draw(st.one_of(st.none(), st.integers(1, 40).map(width.__mul__))) for width in widths}
    methods = draw(st.lists(st.sampled_from(METHODS), min_size=1, max_size=4, unique=True))
    return items, draw(st.sampled_from([0, 0, 1, 2, 5, 1000])), methods


@st.composite
def histories(draw):
    """Some series' batches: history[batch][series] = list of (time, value), in order of arrival."""
    m = draw(st.integers(1, 4))
    base = draw(bases)
    point = st.tuples(offsets.map(base.__add__), values)
    points = st.lists(point, max_size=draw(st.sampled_from([3, 25])))
    ascending = points.map(lambda some: sorted(some, key=lambda pair: pair[0]))
    series = st.one_of(points, ascending)
    return draw(st.lists(st.lists(series, min_size=m, max_size=m), min_size=1, max_size=5))


def make_window_policy(items, window_blocks, methods):
    pairs = [(span(width), None if timespan is None else span(timespan)) for width, timespan in items.items()]
    return WindowPolicy(tuple(pairs), window_blocks, tuple(methods))


def span(width):
    return numpy.timedelta64(width, "ns")


def to_batch(rows):
    times = [[time for time, _ in row] for row in rows]
    return make_batch([(numpy.array(t, "i8"), [v for _, v in row]) for t, row in zip(times, rows, strict=True)])


def read_all(model, items, methods):
    """Get every series as {(series, granularity, method): (times, values)}."""
    return {
        (row, width, method): [part.tolist() for part in read_one(model, width, method, row)]
        for row in range(len(model.refused))
        for width in items
        for method in methods
    }


def read_one(model, width, method, row):
    timestamps, found = model.read(span(width), method, row)
    return timestamps.view("i8"), found


def assert_same(expected, got):
    """Bit for bit, but for the sign of zeros; NaN equals NaN."""
    assert expected.keys() == got.keys()
    for key, (times, found) in expected.items():
        assert times == got[key][0], key
        numpy.testing.assert_array_equal(found, got[key][1], err_msg=str(key))


@MODEST
@given(policies(), histories(), st.lists(st.sampled_from([0, 1, 3, 1000]), min_size=5, max_size=5))
def test_engine_agrees_with_oracle(policy, history, later_windows):
    """Whatever the batches, late points, duplicates and changes of the back window, reads are those of the oracle."""
    items, window_blocks, methods = policy
    m = len(history[0])
    model = Model(make_window_policy(*policy), m)
    oracles = [Oracle(items, window_blocks) for _ in range(m)]
    refused = [0] * m
    for rows, later in zip(history, later_windows, strict=False):
        model.process(to_batch(rows))
        for row, oracle in enumerate(oracles):
            refused[row] += len(rows[row]) - len(oracle.process(rows[row]))
            oracle.window_blocks = later
        model.policy = model.policy._replace(window_blocks=later)
        assert refused == model.refused.tolist()
        for row, oracle in enumerate(oracles):
            for width in items:
                for method in methods:
                    expected = oracle.read(width, method)
                    times, found = read_one(model, width, method, row)
                    assert list(expected) == times.tolist(), (row, width, method)
                    numpy.testing.assert_allclose(found, list(expected.values()), rtol=1e-12, atol=1e-9)


@MODEST
@given(policies(), histories())
def test_partition_of_accepted_points_does_not_matter(policy, history):
    """All accepted points in one batch give what the batches gave; nothing refused, these are all points."""
    items, window_blocks, methods = policy
    m = len(history[0])
    oracles = [Oracle(items, window_blocks) for _ in range(m)]
    batches = [to_batch([oracle.process(row) for oracle, row in zip(oracles, rows, strict=True)]) for rows in history]
    parts, whole = Model(make_window_policy(*policy), m), Model(make_window_policy(*policy), m)
    for batch in batches:
        parts.process(batch)
    whole.process(join_arrivals(batches))
    assert parts.refused.sum() == whole.refused.sum() == 0
    assert_same(read_all(whole, items, methods), read_all(parts, items, methods))
    numpy.testing.assert_array_equal(whole.state.raw.values, parts.state.raw.values)
    numpy.testing.assert_array_equal(whole.state.accept_from, parts.state.accept_from)


@MODEST
@given(policies(), histories())
def test_repeating_changes_nothing(policy, history):
    """The last batch again, or the whole backlog again, changes no read and seals nothing."""
    items, _, methods = policy
    model = Model(make_window_policy(*policy), len(history[0]))
    batches = [to_batch(rows) for rows in history]
    for batch in batches:
        model.process(batch)
    before = read_all(model, items, methods)
    for batch in [batches[-1], *batches]:
        assert not model.process(batch).sealed
    assert_same(before, read_all(model, items, methods))
