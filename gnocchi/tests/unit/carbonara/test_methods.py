import math
import warnings

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnocchi.carbonara import grouping, methods
from gnocchi.carbonara.series import make_batch
from gnocchi.tests.unit.carbonara.model import ns

NAN, INF = math.nan, math.inf


def aggregate_groups(names, *groups, **kwargs):
    """Aggregate lists of values, one for each minute of one series."""
    times = [minute * 60 * 10**9 + i for minute, values in enumerate(groups) for i in range(len(values))]
    batch = make_batch([(numpy.array(times, "i8"), [value for values in groups for value in values])])
    return methods.aggregate(batch, grouping.group(batch, ns(60)), names, **kwargs)


def listed(column):
    """Get a column's values, None where absent."""
    present = numpy.ones(len(column.values), bool) if column.present is None else column.present
    return [value if there else None for value, there in zip(column.values.tolist(), present, strict=True)]


def test_all_names():
    """There are 216 methods, and each of them can be computed."""
    assert len(set(methods.METHODS)) == len(methods.METHODS) == 216
    assert {"mean", "1pct", "99pct", "rate:std", "rate:50pct"} <= set(methods.METHODS)
    columns = aggregate_groups(methods.METHODS, [1, 4, 2], [3])
    assert list(methods.METHODS) == list(columns)


@pytest.mark.parametrize("name", ["100pct", "0pct", "rate:", "nunique", "+max", "rate:rate:mean"])
def test_unknown_method(name):
    """Other names are errors, not empty columns."""
    with pytest.raises(KeyError):
        aggregate_groups((name,), [1, 2])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", [NAN, NAN, INF, NAN, 2]),
        ("sum", [NAN, NAN, INF, NAN, 4]),
        ("min", [1, NAN, 1, -INF, 1]),
        ("max", [NAN, NAN, INF, INF, 3]),
        ("std", [NAN, NAN, NAN, NAN, math.sqrt(2)]),
        ("count", [3, 2, 2, 2, 2]),
        ("median", [5, NAN, INF, NAN, 2]),
        ("first", [NAN, NAN, INF, -INF, 1]),
        ("last", [1, NAN, 1, INF, 3]),
        ("10pct", [1.8, NAN, INF, NAN, 1.2]),
        ("50pct", [5, NAN, INF, NAN, 2]),
        ("95pct", [NAN, NAN, INF, NAN, 2.9]),
    ],
)
def test_non_finite_values(name, expected):
    """NaN and infinities follow IEEE; NaN is last by value; no warning is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns = aggregate_groups((name,), [NAN, 5, 1], [NAN, NAN], [INF, 1], [-INF, INF], [1, 3])
    numpy.testing.assert_allclose(listed(columns[name]), expected, rtol=1e-15)


def test_overflow_does_not_warn():
    """Sums beyond the range of doubles are infinite, also within rates."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns = aggregate_groups(methods.METHODS, [1e308, 1e308, -1e308, -1e308], [1e308, -1e308])
    assert [INF, 0] == columns["sum"].values.tolist()
    assert -INF == columns["rate:min"].values[0]


def test_sum_is_in_time_order():
    """Values are added one by one, oldest first."""
    values = [1e16, 1.0, 1.0, -1e16, 0.1, 0.2, 0.3]
    expected = 0.0
    for value in values:
        expected += value
    columns = aggregate_groups(("sum", "mean"), values, [1, 2])
    assert [expected, 3] == listed(columns["sum"])
    assert [expected / 7, 1.5] == listed(columns["mean"])


def test_std_of_one_value_is_absent():
    """A deviation needs two values; others of the same batch are not affected."""
    assert [None, math.sqrt(2), None] == listed(aggregate_groups(("std",), [1], [1, 3], [5])["std"])
    assert [None, None] == listed(aggregate_groups(("std",), [1], [5])["std"])
    assert aggregate_groups(("std",), [1, 2], [5, 6])["std"].present is None


def test_std_of_close_values():
    """Two passes: large values that differ little keep their deviation."""
    assert [1.0] == listed(aggregate_groups(("std",), [1e9, 1e9 + 1, 1e9 + 2])["std"])


def test_one_value_in_each_group_shares_arrays():
    """With one measure per bucket most methods are the values themselves, which storage keeps once."""
    columns = aggregate_groups(("mean", "min", "max", "sum", "median", "95pct", "count"), [1], [4], [NAN])
    for name in ("min", "max", "sum", "median", "95pct"):
        assert columns[name].values is columns["mean"].values, name
    assert [1, 1, 1] == listed(columns["count"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 99))
def test_percentiles_agree_with_numpy(groups, percent):
    """Percentiles are numpy's linear ones, the median the middle."""
    columns = aggregate_groups((f"{percent}pct", "median"), *groups)
    expected = [numpy.percentile(values, percent) for values in groups]
    numpy.testing.assert_allclose(listed(columns[f"{percent}pct"]), expected, rtol=1e-12, atol=1e-9)
    numpy.testing.assert_allclose(listed(columns["median"]), [numpy.median(values) for values in groups], rtol=1e-15)


RATES = ("rate:count", "rate:sum", "rate:last", "rate:std", "count")


def test_rates_without_predecessor():
    """A series' first point has no difference; a group of it alone has no rate at all."""
    columns = aggregate_groups(RATES, [10], [13, 11], [12])
    assert [[None, 2, 1], [None, 1, 1], [None, -2, 1], [None, math.sqrt(12.5), None], [1, 2, 1]] == [
        listed(columns[name]) for name in RATES
    ]


def test_rates_with_predecessor():
    """The first difference is to the point before the batch."""
    known = {"predecessors": numpy.array([4.0]), "has_predecessor": numpy.array([True])}
    columns = aggregate_groups(RATES, [10], [13, 11], [12], **known)
    assert [[1, 2, 1], [6, 1, 1], [6, -2, 1]] == [listed(columns[name]) for name in RATES[:3]]


def test_rates_do_not_cross_series():
    """Each series starts with its own predecessor, or with none; empty series do not disturb."""
    times = numpy.arange(2) * 60 * 10**9
    rows = [([], []), (times, [1, 2]), ([], []), (times, [10, 20]), (times[:1], [100])]
    batch = make_batch(rows)
    columns = methods.aggregate(
        batch,
        grouping.group(batch, ns(60)),
        ("rate:sum",),
        numpy.array([7.0, 7, 7, NAN, 7]),
        numpy.array([True, False, True, True, True]),
    )
    numpy.testing.assert_equal(listed(columns["rate:sum"]), [None, 1.0, NAN, 10.0, 93.0])


def test_rate_of_nan_is_a_value():
    """A difference with NaN is NaN, which is not absence."""
    numpy.testing.assert_equal(listed(aggregate_groups(("rate:sum",), [1], [NAN], [2])["rate:sum"]), [None, NAN, NAN])


@pytest.mark.parametrize("m", [0, 2])
def test_nothing_to_aggregate(m):
    """No points give columns without values, for every method."""
    batch = make_batch([([], [])] * m)
    columns = methods.aggregate(batch, grouping.group(batch, ns(60)), methods.METHODS)
    assert all(len(column.values) == 0 for column in columns.values())
