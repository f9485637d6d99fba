import numpy
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnocchi.carbonara import grouping
from gnocchi.carbonara.series import Buckets, Column, empty_batch, make_batch
from gnocchi.tests.unit.carbonara.model import ns

INT64 = numpy.iinfo("i8")


@settings(max_examples=200, deadline=None)
@given(st.integers(-(2**62), 2**62), st.integers(1, 2**61))
def test_floor_is_whole_multiple(time, width):
    """Any granularity rounds down to its multiples since 1970, also before 1970 and to the nanosecond."""
    expected = time // width * width
    got = grouping.floor(numpy.array([time]).view("M8[ns]"), numpy.timedelta64(width, "ns"))
    assert [expected] == got.view("i8").tolist()


def test_floor_of_last_nanosecond():
    """The instant before a boundary is in the earlier bucket: the original's doubles had it in the next."""
    times = numpy.array(["2020-01-01T12:00:59.999999999", "2020-01-01T12:01:00"], "M8[ns]")
    expected = numpy.array(["2020-01-01T12:00", "2020-01-01T12:01"], "M8[ns]")
    numpy.testing.assert_array_equal(expected, grouping.floor(times, ns(60)))


def test_floor_takes_scalar():
    """One instant is rounded like many."""
    assert numpy.datetime64("2020-01-01T12:00", "ns") == grouping.floor(numpy.datetime64("2020-01-01T12:34"), ns(3600))


@pytest.mark.parametrize("width", [2, 60 * 10**9, 2**62, INT64.max])
def test_floor_does_not_wrap(width):
    """At the ends of int64, results are multiples inside of it."""
    times = numpy.array([INT64.min + 1, INT64.max])
    low, high = grouping.floor(times.view("M8[ns]"), numpy.timedelta64(width, "ns")).view("i8").tolist()
    assert low == -(INT64.max // width) * width
    assert high == INT64.max // width * width


@pytest.mark.parametrize(
    ("letter", "time", "expected"),
    [
        ("Y", "2016-02-29T10:00", "2016-01-01"),
        ("H", "2016-06-30T23:59:59.999999999", "2016-01-01"),
        ("H", "2016-07-01", "2016-07-01"),
        ("Q", "2016-12-31", "2016-10-01"),
        ("M", "2016-02-29T23:59", "2016-02-01"),
        ("W", "2018-01-03", "2017-12-31"),
        ("W", "2016-02-29", "2016-02-28"),
        ("W", "2017-12-31", "2017-12-31"),
        ("W", "1970-01-01", "1969-12-28"),
        ("M", "1969-12-31T23:59", "1969-12-01"),
        ("H", "1969-05-05", "1969-01-01"),
        ("Y", "1677-10-01", "1677-09-22"),
    ],
)
def test_floor_calendar(letter, time, expected):
    """Groups start at midnight UTC: of 1 January, ..., of Sunday; also before 1970, and never before int64 begins."""
    assert numpy.datetime64(expected, "ns") == grouping.floor_calendar(numpy.datetime64(time, "ns"), letter)


@pytest.mark.parametrize(("letter", "frequency"), [("Y", "YS"), ("Q", "QS"), ("M", "MS"), ("W", "W-SUN")])
def test_floor_calendar_agrees_with_pandas(letter, frequency):
    """pandas knows the calendar."""
    times = pandas.date_range("1950-01-01", "2050-01-01", freq="61h7min").as_unit("ns")
    starts = pandas.date_range("1949-01-01", "2050-02-01", freq=frequency)
    expected = starts[starts.searchsorted(times, side="right") - 1]
    numpy.testing.assert_array_equal(expected.to_numpy(), grouping.floor_calendar(times.to_numpy(), letter))


def test_floor_calendar_of_unknown_letter():
    """Other letters are refused by name."""
    with pytest.raises(ValueError, match="'X' is no calendar group"):
        grouping.floor_calendar(numpy.zeros(1, "M8[ns]"), "X")


def test_group_ends_with_series():
    """Neighbouring series do not share a bucket; empty series have none."""
    batch = make_batch([([], []), (["2020-01-01T12:00:10", "2020-01-01T12:00:50", "2020-01-01T12:01"], [1, 2, 3]),
                        ([], []), (["2020-01-01T12:01"], [4]), ([], [])])  # fmt: skip
    groups = grouping.group(batch, ns(60))
    assert [0, 2, 3] == groups.starts.tolist()
    assert [0, 0, 2, 2, 3, 3] == groups.offsets.tolist()
    assert [1, 1, 3] == groups.rows.tolist()
    assert ["2020-01-01T12:00", "2020-01-01T12:01", "2020-01-01T12:01"] == groups.timestamps.astype("M8[m]").astype(
        str
    ).tolist()


@pytest.mark.parametrize("m", [0, 3])
def test_group_of_nothing(m):
    """Series without points have no groups."""
    groups = grouping.group(empty_batch(m), ns(60))
    assert ([0] * (m + 1), [], []) == (groups.offsets.tolist(), groups.starts.tolist(), groups.rows.tolist())


def resampled(method, span, times, values, present=None):
    buckets = Buckets(
        numpy.array([0, 0, len(times)]),
        numpy.array(times, "M8[ns]"),
        {method: Column(numpy.array(values, float), None if present is None else numpy.array(present))},
    )
    result = grouping.resample(buckets, span, method)
    assert [0, 0, len(result.timestamps)] == result.offsets.tolist()
    column = result.columns[method]
    there = [True] * len(column.values) if column.present is None else column.present
    return [
        (str(time), value)
        for time, value, is_there in zip(result.timestamps.astype("M8[m]"), column.values, there, strict=True)
        if is_there
    ]


TIMES = ["2020-01-31T12:00", "2020-01-31T13:00", "2020-02-01T12:00"]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("mean", [("2020-01-31T00:00", 1.5), ("2020-02-01T00:00", 7)]),
        ("count", [("2020-01-31T00:00", 2), ("2020-02-01T00:00", 1)]),
        ("std", [("2020-01-31T00:00", 0.7071067811865476)]),
        ("rate:sum", [("2020-01-31T00:00", 3), ("2020-02-01T00:00", 7)]),
        ("95pct", [("2020-01-31T00:00", 1.95), ("2020-02-01T00:00", 7)]),
    ],
)
def test_resample_applies_method_again(method, expected):
    """The method is applied to the stored values; a rate is not differenced a second time."""
    got = resampled(method, ns(86400), TIMES, [1, 2, 7])
    assert [time for time, _ in expected] == [time for time, _ in got]
    numpy.testing.assert_allclose([value for _, value in got], [value for _, value in expected], rtol=1e-12)


def test_resample_by_calendar():
    """A letter groups by the calendar, for rates as well."""
    assert [("2020-01-01T00:00", 3.0), ("2020-02-01T00:00", 7.0)] == resampled("rate:sum", "M", TIMES, [1, 2, 7])


def test_resample_skips_absent_values():
    """Absent values neither count nor make a group."""
    assert [("2020-01-31T00:00", 1.0)] == resampled("count", ns(86400), TIMES, [1, 2, 7], [True, False, False])
