"""Texts and numbers that stand for instants and spans."""

import datetime
import math

import numpy
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gnocchi import times

NOW = numpy.datetime64("2020-01-01T12:00:00.000000000")


def instant(text):
    return numpy.datetime64(text, "ns")


@pytest.mark.parametrize(("value", "expected"), [
    (0, "1970-01-01T00:00:00"),
    (1425652437.5, "2015-03-06T14:33:57.5"),
    ("1425652437.5", "2015-03-06T14:33:57.5"),
    ("1e9", "2001-09-09T01:46:40"),
    ("2015", "1970-01-01T00:33:35"),
    (1577880000.123456, "2020-01-01T12:00:00.123456"),
    (1577880000.001, "2020-01-01T12:00:00.001"),
    (1577880000.9999999, "2020-01-01T12:00:01"),
    (0.000000001, "1970-01-01T00:00:00.000000001"),
    (9223372036, "2262-04-11T23:47:16"),
    ("2015-01", "2015-01-01"),
    ("2015-01-01", "2015-01-01"),
    ("2015-03-06T14", "2015-03-06T14:00"),
    ("2015-03-06T14:34", "2015-03-06T14:34"),
    ("2015-03-06 14:34:01", "2015-03-06T14:34:01"),
    ("2015-03-06T14:34:01.123456789", "2015-03-06T14:34:01.123456789"),
    ("2015-03-06T14:34:01.1234567899", "2015-03-06T14:34:01.123456789"),
    ("2015-03-06T14:34:01Z", "2015-03-06T14:34:01"),
    ("2015-03-06T14:34:01+01:00", "2015-03-06T13:34:01"),
    ("2015-03-06T14:34:01.5-0130", "2015-03-06T16:04:01.5"),
    ("2015-03-06T14:34:01 +00:00", "2015-03-06T14:34:01"),
    ("1970-01-01T01:00:00+01:00", "1970-01-01"),
    ("2262-04-11T23:47:16.854775807", "2262-04-11T23:47:16.854775807"),
    ("now", "2020-01-01T12:00:00"),
    ("today", "2020-01-01"),
    ("-5 minutes", "2020-01-01T11:55:00"),
    ("10 minutes", "2020-01-01T12:10:00"),
    ("-5minutes", "2020-01-01T11:55:00"),
    ("-1 day", "2019-12-31T12:00:00"),
    ("-0:30:00", "2020-01-01T11:30:00"),
    ("0s", "2020-01-01T12:00:00"),
])
def test_parse_timestamp(value, expected):
    """Numbers are seconds, then ISO 8601, then durations relative to now."""
    assert instant(expected) == times.parse_timestamp(value, NOW)


@pytest.mark.parametrize("value", [
    "", "  ", "NaT", "nan", "inf", "-inf", math.nan, math.inf, 9223372037, 10**400, 1e300, "foobar", "2015-13-01",
    "2015-02-30", "2600-01-01", "2262-04-11T23:47:16.854775808", "9999-12-31T23:59:59", "2015-01-01T25:00:00",
    "2015-01-01T00:00:00+24:00", "2015-01T10", "2015-01-01T10.5", "1 month", "300 years", "9" * 30 + " weeks",
    "2020-01-01T12:00:0Z", "２０１５-01-01", "9" * 1_100_000 + " s", "1 w" + " " * 100_000 + "x", None, True, [],
    {}, b"2015-01-01"])
def test_parse_timestamp_unreadable(value):
    """What cannot be an instant is refused; nothing becomes NaT or wraps."""
    with pytest.raises(ValueError, match="^Unable to convert timestamps$"):
        times.parse_timestamp(value, NOW)
    with pytest.raises(ValueError, match="^Unable to convert timestamps$"):
        times.parse_timestamps([value], NOW)


@pytest.mark.parametrize("value", [-1, -0.001, "-5", "1969-12-31T23:59:59", "0001-01-01", "1970-01-01T00:00:00+01:00",
                                   "1600-01-01T00:00:00", "-5000 weeks"])
def test_parse_timestamp_before_epoch(value):
    """Instants before 1970 have their own text."""
    expected = "^Timestamp must be after Epoch$"
    with pytest.raises(ValueError, match=expected):
        times.parse_timestamp(value, NOW)
    with pytest.raises(ValueError, match=expected):
        times.parse_timestamps([value], NOW)


@pytest.mark.parametrize("values", [
    [],
    [1577880000.5, 1577880002],
    ["1577880000.5", 1577880002, "1e9"],
    ["2020-01-01T13:00:05+01:00", "2020-01-01T12:00:06Z"],
    ["2020-01-01T12:00:00", "2020-01-01T12:00:01", "2020-01-01 12:00:02"],
    ["2020-01-01T12:00:00", "2020-01-01T12:00:0 "],
    ["2020-01-01T12:00:00", "-5 minutes", "now"],
    ["-5 minutes", "2020-01-01"],
    ["1970-01-01T00:00:00", "1970-01-01T00:00:01"],
    ["1969-12-31T23:00:00-05:00"],
    [f"2020-01-01T12:00:0{i}" for i in range(9)] + ["2020-01-01T12:00:00.5Z", "-5 minutes"],
    [f"2020-01-01T12:00:0{i}" for i in range(9)] + ["2020-01-01T12:00:0Z"],
    [f"2020-01-01T12:00:00.12{i}" for i in range(9)] + ["2020-01-01T12:00:00.1+1"],
    [f"2020-01-01T12:0{i}:00Z" for i in range(9)] + ["2020-01-01T12:00:60Z"],
])
def test_parse_timestamps_agrees_with_one_by_one(values):
    """A list is read like its elements."""
    try:
        expected = [times.parse_timestamp(value, NOW) for value in values]
    except ValueError as error:
        with pytest.raises(ValueError, match=str(error)):
            times.parse_timestamps(values, NOW)
    else:
        result = times.parse_timestamps(values, NOW)
        assert numpy.dtype("datetime64[ns]") == result.dtype
        assert expected == list(result)


@pytest.mark.parametrize("values", [
    [1577880000, "-5 minutes"], [1577880000, "2020-01-01"], ["1577880000", "2020-01-01"],
    ["2020-01-01", 1577880000], ["-5 minutes", 5], ["2020-01-01T12:00:00"] * 9 + ["1577880000"]])
def test_parse_timestamps_numbers_and_text(values):
    """Numbers and other text in one list are refused as a whole."""
    with pytest.raises(ValueError, match="^Unable to convert timestamps$"):
        times.parse_timestamps(values, NOW)


zones = st.sampled_from(["", "Z", "z", "+00:00", "+05:30", "-0800", "+01", " Z"])


@given(st.lists(st.tuples(
    st.datetimes(datetime.datetime(1965, 1, 1), datetime.datetime(2300, 1, 1)),
    st.sampled_from("T "), zones, st.integers(0, 10)), min_size=1, max_size=20), st.booleans())
@example([(datetime.datetime(2020, 1, 1), "T", "", 0)], True)
def test_parse_timestamps_fast_path(rows, uniform):
    """The vectorised path for texts of one layout gives what reading them one by one gives."""
    if uniform:
        rows = [(row[0], *rows[0][1:]) for row in rows]
    texts = []
    for moment, separator, zone, digits in rows:
        fraction = f"{moment.microsecond:06d}1234"[:digits]
        texts.append(moment.strftime("%Y-%m-%d") + separator + moment.strftime("%H:%M:%S")
                     + ("." + fraction if fraction else "") + zone)
    try:
        expected = [times.parse_timestamp(text, NOW) for text in texts]
    except ValueError:
        with pytest.raises(ValueError, match="^(Unable to convert timestamps|Timestamp must be after Epoch)$"):
            times.parse_timestamps(texts, NOW)
    else:
        assert expected == list(times.parse_timestamps(texts, NOW))


@given(st.lists(st.integers(0, times.NS_MAX)))
def test_timestamps_round_trip(ns):
    """What is written can be read again, to the nanosecond."""
    timestamps = numpy.array(ns, "datetime64[ns]")
    texts = times.format_timestamps(timestamps)
    numpy.testing.assert_array_equal(timestamps, times.parse_timestamps(texts, NOW))


@given(st.lists(st.integers(2**30 * 10**6, 2**32 * 10**6 - 1)))
def test_parse_timestamps_microseconds(microseconds):
    """Numbers with up to six decimals are exact in our time, also in the vectorised path."""
    seconds = [value / 1e6 for value in microseconds]
    assert microseconds == times.parse_timestamps(seconds).astype("datetime64[us]").astype(int).tolist()
    assert microseconds == [int(times.parse_timestamp(value).astype("datetime64[us]").astype(int)) for value in seconds]


def test_format_timestamps():
    """A fraction is there only where it is not zero."""
    timestamps = numpy.array(["2020-01-01T12:00:00", "2020-01-01T12:00:00.5", "2020-01-01T12:00:00.000000001"],
                             "datetime64[ns]")
    assert times.format_timestamps(timestamps) == ["2020-01-01T12:00:00+00:00", "2020-01-01T12:00:00.500000+00:00",
            "2020-01-01T12:00:00.000000001+00:00"]
    assert times.format_timestamps(timestamps[:1]) == ["2020-01-01T12:00:00+00:00"]
    assert times.format_timestamps(timestamps[:0]) == []


@pytest.mark.parametrize(("value", "seconds"), [
    (1, 1), (0.5, 0.5), (3.6, 3.6), ("60", 60), ("60.5", 60.5), ("1e3", 1000),
    ("1 minute", 60), ("10s", 10), ("1.5h", 5400), ("1d 2h", 93600), ("1 hour, 30 min", 5400), ("1w", 604800),
    ("2 Weeks 1 DAY", 15 * 86400), ("5m", 300), ("5 mins", 300), ("1hr", 3600), ("+5 s", 5), ("1wk3secs", 604803),
    ("1:02:03", 3723), ("1:02:03.5", 3723.5), ("02:03", 123), (":03", 3), ("1:02:03:04", 93784),
    ("1 day, 0:00:00", 86400), ("365 days, 0:00:00", 365 * 86400), ("0:00:03.600000", 3.6), (" 5 s ", 5),
    (".5h", 1800), ("0.000000001", 1e-9)])
def test_parse_timespan(value, seconds):
    """Seconds, units and clock forms."""
    assert round(seconds * 1e9) == times.parse_timespan(value).astype("timedelta64[ns]").astype(int)


@pytest.mark.parametrize("value", ["", "foo", "1 month", "1 year", "nan", "inf", math.nan, math.inf, None, True, [],
                                   "5 s 1 h", "1:2:3", "s", "1.2.3 s", "9" * 1_100_000 + " s", "1w" + " " * 190 + "x",
                                   "1 w" + " " * 100_000 + "x", "١ s", 10**400, 1e300, "1e18", ".", "-", "+ ."])
def test_parse_timespan_unreadable(value):
    """There are no months and years, and no span beyond 292 years."""
    with pytest.raises(ValueError, match="^Unable to parse timespan$"):
        times.parse_timespan(value)


@pytest.mark.parametrize("value", [0, -1, "0", "-1", "-5 s", "0 s", "0:00:00", 1e-10, "0.0000000001",
                                   "1e-400", "1e-99999999999999999999"])
def test_parse_timespan_not_positive(value):
    """A span has at least one nanosecond."""
    with pytest.raises(ValueError, match="^Timespan must be positive$"):
        times.parse_timespan(value)


@given(st.integers(1, times.NS_MAX))
def test_timespan_round_trip(ns):
    """What is written can be read again, to the nanosecond."""
    span = numpy.timedelta64(ns, "ns")
    assert span == times.parse_timespan(times.format_timespan(span))


@given(st.timedeltas(datetime.timedelta(0), datetime.timedelta(days=100000)))
def test_format_timespan(delta):
    """Spans of whole microseconds look like Python's."""
    assert str(delta) == times.format_timespan(numpy.timedelta64(delta))


def test_to_seconds():
    assert times.to_seconds(numpy.timedelta64(3_600_000_000, "ns")) == 3.6
    assert times.to_seconds(numpy.timedelta64(1, "D")) == 86400.0
