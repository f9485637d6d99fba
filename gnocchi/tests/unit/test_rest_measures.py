"""Measures on the wire."""

import json
import uuid

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnocchi import metric_ids, times
from gnocchi.query.fetch import MeasuresAtGranularity
from gnocchi.rest import errors, measures
from gnocchi.rest import json as rest_json

METRIC = uuid.UUID("9eee0b25-0dcc-4f2b-b2ea-10c0b6b6d6a0")


def decode(body, metric=METRIC):
    return measures.decode_measures(json.dumps(body).encode(), metric)


def refused(function, body):
    """Return the error that a body meets."""
    with pytest.raises(errors.RequestError) as caught:
        function(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value.detail


def refused_list(body):
    return refused(lambda data: measures.decode_measures(data, METRIC), body)


def refused_batch(body):
    return refused(measures.decode_batch, body)


def test_decode_measures():
    """Ids, counts, timestamps and values of one metric."""
    batch = decode([{"timestamp": "2020-01-01T12:00:00+01:00", "value": 1}, {"timestamp": "2020-01-01", "value": 2.5}])
    assert [METRIC] == metric_ids.unpack_ids(batch.metric_ids)
    assert batch.counts.tolist() == [2]
    assert numpy.array(["2020-01-01T11", "2020-01-01"], "datetime64[ns]").tolist() == batch.timestamps.tolist()
    assert batch.values.tolist() == [1.0, 2.5]
    assert ("int64", "datetime64[ns]", "float64") == (batch.counts.dtype, batch.timestamps.dtype, batch.values.dtype)


def test_decode_measures_empty():
    """An empty list is well formed."""
    batch = decode([])
    assert batch.counts.tolist() == [0]
    assert (len(batch.timestamps), len(batch.values)) == (0, 0)
    assert batch.timestamps.dtype == "datetime64[ns]"


def test_decode_measures_value_forms():
    """Whatever float() takes is a value; further keys do not matter."""
    given = ["1.5", True, 9007199254740993, "1e3", "Infinity", float("nan"), float("-inf"), "nan", 10**300, " 5 "]
    batch = decode([{"timestamp": 1e9, "value": value, "more": None} for value in given])
    expected = [1.5, 1.0, 9007199254740992.0, 1000.0, numpy.inf, numpy.nan, -numpy.inf, numpy.nan, 1e300, 5.0]
    numpy.testing.assert_array_equal(expected, batch.values)


@pytest.mark.parametrize("body", [
    {}, 5, "x", None, {"timestamp": 1, "value": 1}, [5], [None], [["2020-01-01", 1]], [{"value": 1}],
    [{"timestamp": None, "value": 1}], [{"timestamp": [1], "value": 1}], [{"timestamp": {}, "value": 1}],
    [{"timestamp": "foo", "value": "foo"}, 5]])
def test_decode_measures_format(body):
    """Only a list of objects with a timestamp is a list of measures."""
    assert {"cause": "Invalid input", "reason": "unexpected measures format", "detail": []} == refused_list(body)


@pytest.mark.parametrize("value", ["foobar", None, [], {}, [1], 10**400, "", "1,5"])
def test_decode_measures_value(value):
    """What float() refuses is refused."""
    expected = {"cause": "Invalid input", "reason": "unexpected measures value", "detail": []}
    assert expected == refused_list([{"timestamp": 5, "value": 1}, {"timestamp": 5, "value": value}])


def test_decode_measures_without_value():
    assert refused_list([{"timestamp": 5}])["reason"] == "unexpected measures value"


@pytest.mark.parametrize(("stamps", "why"), [
    (["foobar"], "Unable to convert timestamps"), ([""], "Unable to convert timestamps"),
    (["NaT"], "Unable to convert timestamps"), ([1e300], "Unable to convert timestamps"),
    ([float("nan")], "Unable to convert timestamps"), ([True], "Unable to convert timestamps"),
    ([1577880000, "-5 minutes"], "Unable to convert timestamps"),
    (["2600-01-01T00:00:00"], "Unable to convert timestamps"),
    ([-5], "Timestamp must be after Epoch"), (["1900-01-01T00:00:00"] * 9, "Timestamp must be after Epoch"),
])
def test_decode_measures_timestamp(stamps, why):
    """The reason says what is wrong with a timestamp."""
    expected = {"cause": "Invalid input", "reason": f"unexpected timestamp '{why}'", "detail": []}
    assert expected == refused_list([{"timestamp": stamp, "value": 1} for stamp in stamps])


@pytest.mark.parametrize("function", [refused_list, refused_batch])
@pytest.mark.parametrize("body", [
    b"", b"[", b'{"a": ', b"\xff", b"[1]x", b'[{"timestamp": 1, "value": 1, "ignored": ' + b"[" * 100_000,
    b'{"e0b2b2a8-9a35-4c4b-b3a5-6f5e6d1d5a3e": [{"timestamp": 1, "value": 1, "ignored": ' + b'{"a":' * 100_000])
def test_decode_undecodable(function, body):
    """What is no JSON has its own error."""
    detail = function(body)
    assert (detail["cause"], detail["detail"]) == ("Unable to decode body", [])
    if body in (b"", b"["):
        assert detail["reason"] == "Expected object or value"


def test_decode_batch():
    """Measures stay grouped by metric in posted order."""
    ids = [uuid.uuid4() for _ in range(3)]
    batch = measures.decode_batch(json.dumps({
        str(ids[0]): [{"timestamp": 5, "value": 1}, {"timestamp": 4, "value": 2}],
        str(ids[1]): [],
        str(ids[2]): [{"timestamp": 3, "value": 3}]}).encode())
    assert ids == metric_ids.unpack_ids(batch.metric_ids)
    assert batch.counts.tolist() == [2, 0, 1]
    assert batch.values.tolist() == [1, 2, 3]
    assert batch.timestamps.astype(int).tolist() == [5 * 10**9, 4 * 10**9, 3 * 10**9]


def test_decode_batch_empty():
    batch = measures.decode_batch(b"{}")
    assert (len(batch.metric_ids), len(batch.counts), len(batch.timestamps), len(batch.values)) == (0, 0, 0, 0)


def test_decode_batch_spellings():
    """A UUID may be spelled in any way, and the same metric may come twice."""
    text = str(METRIC)
    spellings = [text, text.upper(), text.replace("-", ""), "{%s}" % text, "urn:uuid:" + text]  # noqa: UP031
    batch = measures.decode_batch(json.dumps({key: [{"timestamp": 1, "value": 1}] for key in spellings}).encode())
    assert [METRIC] * 5 == metric_ids.unpack_ids(batch.metric_ids)
    assert batch.counts.tolist() == [1] * 5


def test_decode_batch_kinds_by_list():
    """Each metric's list has its own kind of timestamps."""
    batch = measures.decode_batch(json.dumps({
        str(uuid.uuid4()): [{"timestamp": "1577880000", "value": 1}],
        str(uuid.uuid4()): [{"timestamp": "2020-01-01T12:00:00", "value": 1}],
        str(uuid.uuid4()): [{"timestamp": 1577880000, "value": 1}]}).encode())
    assert [numpy.datetime64("2020-01-01T12:00:00", "ns")] * 3 == list(batch.timestamps)


@pytest.mark.parametrize("key", ["foo", "", str(METRIC)[:-1], str(METRIC)[:-2] + "  ", str(METRIC)[:-1] + "é"])
def test_decode_batch_key(key):
    """Keys are metric ids."""
    assert {"cause": "Invalid input", "reason": f"not a valid value @ data[{key!r}]",
            "detail": [key]} == refused_batch({key: []})


@pytest.mark.parametrize(("content", "reason"), [
    ([{"timestamp": "foo", "value": 1}], "unexpected timestamp 'Unable to convert timestamps'"),
    ([{"timestamp": 1, "value": "foo"}], "unexpected measures value"),
    ([1], "unexpected measures format"), ({}, "unexpected measures format"), (None, "unexpected measures format")])
def test_decode_batch_measures(content, reason):
    """Errors of a list name its metric."""
    body = {str(uuid.uuid4()): [{"timestamp": 1, "value": 1}], str(METRIC): content}
    assert {"cause": "Invalid input", "reason": f"{reason} for dictionary value @ data['{METRIC}']",
            "detail": [str(METRIC)]} == refused_batch(body)


def test_decode_batch_not_a_dictionary():
    assert refused_batch([]) == {"cause": "Invalid input", "reason": "expected a dictionary", "detail": []}


stamps = st.one_of(
    st.floats(-10, 1e10), st.integers(-10, 10**10), st.sampled_from(["foo", "", "5", None, True, [], "9999-01-01"]),
    st.datetimes().map(str), st.datetimes().map(lambda value: value.isoformat() + "Z"))
numbers = st.one_of(st.floats(), st.integers(), st.sampled_from(["1.5", "x", None, False, [], "-inf", 10**400]))
measure = st.one_of(
    st.fixed_dictionaries({"timestamp": stamps, "value": numbers}),
    st.fixed_dictionaries({"timestamp": st.floats(0, 9e9), "value": st.floats(-5, 5)}, optional={"x": st.none()}),
    st.sampled_from([{}, {"value": 1}, None, [1, 2]]))


def same_or_refused(fast, slow):
    """Run both; they give the same arrays or the same error."""
    try:
        expected = slow()
    except errors.RequestError as error:
        with pytest.raises(errors.RequestError) as caught:
            fast()
        assert (error.status, error.detail) == (caught.value.status, caught.value.detail)
    else:
        for left, right in zip(expected, fast(), strict=True):
            numpy.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype


@settings(max_examples=300)
@given(st.one_of(st.lists(measure, max_size=8), measure))
def test_decode_measures_fast_and_slow_agree(body):
    """The fast decoder takes nothing that the slow one would read in another way."""
    data = json.dumps(body).encode()
    same_or_refused(lambda: measures.decode_measures(data, METRIC)[2:],
                    lambda: measures.read_measures(rest_json.loads(data), ()))


@settings(max_examples=300)
@given(st.dictionaries(st.one_of(st.uuids().map(str), st.sampled_from(["foo", str(METRIC).upper()])),
                       st.lists(measure, max_size=4), max_size=4))
def test_decode_batch_fast_and_slow_agree(body):
    """The fast decoder takes nothing that the slow one would read in another way."""
    data = json.dumps(body).encode()
    same_or_refused(lambda: measures.decode_batch(data), lambda: measures._read_batch(rest_json.loads(data)))


def part(granularity, stamps, values):
    return MeasuresAtGranularity(granularity, numpy.array(stamps, "datetime64[ns]"), numpy.array(values, "float64"))


MINUTE = numpy.timedelta64(60, "s")


def test_encode_measures():
    """Rows of several granularities, spaced like all replies, floats with a point."""
    parts = [part(numpy.timedelta64(1, "h"), ["2020-01-01T12"], [3]), part("M", [], []),
             part(MINUTE, ["2020-01-01T12:00:00", "2020-01-02T23:59:59"], [1.5, -0.0])]
    expected = ('[["2020-01-01T12:00:00+00:00", 3600.0, 3.0], ["2020-01-01T12:00:00+00:00", 60.0, 1.5], '
                '["2020-01-02T23:59:59+00:00", 60.0, -0.0]]')
    assert expected == measures.encode_measures(parts).decode()


def test_encode_measures_empty():
    assert measures.encode_measures([]) == b"[]"
    assert measures.encode_measures([part(MINUTE, [], [])]) == b"[]"


def test_encode_measures_letter():
    """Calendar granularities are letters."""
    assert measures.encode_measures([part("Q", ["2020-01-01"], [1])]) == b'[["2020-01-01T00:00:00+00:00", "Q", 1.0]]'


def test_encode_measures_not_finite():
    """What JSON has no number for is written bare."""
    encoded = measures.encode_measures([part(MINUTE, [0, 1, 2, 3], [numpy.nan, 1, numpy.inf, -numpy.inf])])
    assert [row.split(b", ")[2] for row in encoded[2:-2].split(b"], [")] == [b"NaN", b"1.0", b"Infinity", b"-Infinity"]


def test_encode_measures_fractions():
    """Sub-second granularities show which point is which."""
    assert (b'[["1970-01-01T00:00:00+00:00", 0.5, 1.0], ["1970-01-01T00:00:00.500000+00:00", 0.5, 2.0]]'
            == measures.encode_measures([part(numpy.timedelta64(500, "ms"), [0, 5 * 10**8], [1, 2])]))


@given(st.lists(st.tuples(st.integers(0, times.NS_MAX), st.floats())), st.sampled_from((7, 1000, 10**9, 60 * 10**9)))
def test_encode_measures_like_the_standard_library(rows, width):
    """Reading the reply gives the rows back, and the text is laid out as in all other replies."""
    stamps = numpy.array([stamp // width * width for stamp, _ in rows], "datetime64[ns]")
    text = measures.encode_measures([part(numpy.timedelta64(width, "ns"), stamps, [value for _, value in rows])])
    expected = [[stamp, width / 1e9, value]
                for stamp, (_, value) in zip(times.format_timestamps(stamps), rows, strict=True)]
    assert json.dumps(expected) == json.dumps(json.loads(text))
    assert json.dumps(expected).count(" ") == text.count(b" ")
