"""collectd's JSON: whose values they are, and what is left out."""

import json

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi import resource_ids
from gnocchi.exceptions import InvalidInput
from gnocchi.ingest import collectd
from gnocchi.ingest.collectd import CollectdDecoder, make_batch

NOW = 1_484_056_716 * 10**9

MEMORY = {"values": [9], "dstypes": ["gauge"], "dsnames": ["value"], "interval": 10.0, "host": "www.gnocchi.test.com",
          "plugin": "memory", "plugin_instance": "", "type": "memory", "type_instance": "free"}
ERRORS = {"values": [2, 5], "dstypes": ["derive", "derive"], "dsnames": ["rx", "tx"], "time": 1480063672.419,
          "interval": 10.0, "host": "www.gnocchi.test.com", "plugin": "interface", "plugin_instance": "ens2f1",
          "type": "if_errors", "type_instance": ""}


@pytest.fixture
def decoder():
    return CollectdDecoder("collectd_amqp1d", "admin")


def decode(decoder, *elements):
    return decoder.decode(json.dumps(elements), NOW)


def test_message_of_the_contract(decoder):
    """Names and resource; an element without a time has that of arrival."""
    readings = decode(decoder, MEMORY, ERRORS)
    assert ["memory@memory-free", "interface-ens2f1@if_errors-rx", "interface-ens2f1@if_errors-tx"] == [
        metric.name for metric in readings.metrics]
    assert [9.0, 2.0, 5.0] == readings.values
    assert [NOW, 1480063672419000000, 1480063672419000000] == readings.timestamps
    original_id = "collectd_amqp1d:www.gnocchi.test.com"
    (id, resource), = readings.resources.items()
    assert resource_ids.resource_id(original_id, "admin") == id
    assert (original_id, "collectd_amqp1d", {"host": "www.gnocchi.test.com"}) == resource[:3]
    assert {id} == {metric.resource_id for metric in readings.metrics}


@pytest.mark.parametrize(("change", "names"), [
    ({"plugin": "cpu", "plugin_instance": "0", "type": "percent", "type_instance": "idle"}, ["cpu-0@percent-idle"]),
    ({"plugin_instance": None, "type_instance": None}, ["memory@memory"]),
    ({"dsnames": None}, ["memory@memory-free"]),
    ({"type_instance": "a/b"}, ["memory@memory-a_b"]),
    ({"values": [1, None, 3], "dsnames": ["x", "y", "z"]}, ["memory@memory-free-x", "memory@memory-free-z"]),
    ({"values": [], "dsnames": []}, []),
])
def test_names(decoder, change, names):
    assert names == [metric.name for metric in decode(decoder, MEMORY | change).metrics]


def test_host_with_slash(decoder):
    """The id has none; the attribute has what the host is called."""
    (resource,) = decode(decoder, MEMORY | {"host": "a/b"}).resources.values()
    assert ("collectd_amqp1d:a_b", {"host": "a/b"}) == (resource.original_id, resource.attributes)


def test_two_values_of_one_metric(decoder):
    """Both are kept: each has its own time."""
    readings = decode(decoder, MEMORY | {"time": 1.5, "values": [1]}, MEMORY | {"time": 2.5, "values": [2]})
    assert ([1_500_000_000, 2_500_000_000], [1.0, 2.0]) == (readings.timestamps, readings.values)


@pytest.mark.parametrize(("change", "reason"), [
    ({"values": [1, 2]}, "2 values and 1 names of them in dsnames"),
    ({"values": [1, 2], "dsnames": None}, "2 values and 0 names"),
    ({"values": [1, 2], "dsnames": ["a", "a"]}, "two values of the same name"),
    ({"values": "x"}, "Expected `array`, got `str`"),
    ({"values": ["x"]}, "Expected `float | null`, got `str`"),
    ({"host": 1}, "Expected `str`, got `int`"),
    ({"host": 300 * "h"}, "host is longer than 255 characters"),
    ({"host": "a\0"}, "NUL"),
    ({"plugin": 300 * "p"}, "Metric name is longer than 255 characters"),
    ({"time": -1}, "time -1.0 is out of range"),
    ({"time": 1e10}, "time 10000000000.0 is out of range"),
    ({"plugin": None}, "Expected `str`, got `null`"),
])
def test_wrong_elements(decoder, change, reason):
    """They are left out; a message of nothing else is refused."""
    readings = decode(decoder, ERRORS, MEMORY | change)
    assert [2.0, 5.0] == readings.values
    assert readings.refused[0].startswith("element 1: ")
    assert reason in readings.refused[0]
    with pytest.raises(InvalidInput) as caught:
        decode(decoder, MEMORY | change)
    assert reason in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"\xff", "[", "{}", "3", "null", "[3]", "[" * 100_000, '[{"host": "\\ud800"}]'])
def test_no_messages(decoder, body):
    with pytest.raises(InvalidInput):
        decoder.decode(body, NOW)


def test_reasons_are_bounded(decoder):
    with pytest.raises(InvalidInput) as caught:
        decoder.decode("[" + ",".join(["3"] * 1000) + "]")
    assert collectd.REASONS_MAX == str(caught.value).count("element")


def test_identifiers_are_forgotten(decoder, monkeypatch):
    """Their number is bounded; what is forgotten is the same when it comes again."""
    monkeypatch.setattr(collectd, "CACHED_IDENTIFIERS_MAX", 2)
    elements = [MEMORY | {"host": str(host)} for host in (1, 2, 3, 1)]
    readings = decode(decoder, *elements)
    assert 3 == len(readings.resources)
    assert readings.metrics[0] == readings.metrics[3]


def test_elements_with_many_values_are_not_remembered(decoder):
    names = [str(number) for number in range(1000)]
    assert names == [metric.name.rpartition("-")[2] for metric in decode(
        decoder, MEMORY | {"values": [1] * 1000, "dsnames": names}).metrics]
    assert not decoder._known


def test_batch_of_several_messages(decoder):
    batch = make_batch([decode(decoder, MEMORY), decode(decoder, ERRORS), decode(decoder)])
    assert 3 == len(batch.metrics)
    assert [1, 1, 1] == batch.counts.tolist()
    assert numpy.dtype("M8[ns]") == batch.timestamps.dtype
    assert [9.0, 2.0, 5.0] == batch.values.tolist()


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                    lambda each: st.lists(each, max_size=4) | st.dictionaries(st.text(), each, max_size=4))


@given(st.lists(st.dictionaries(st.sampled_from(sorted(ERRORS)), JSON) | JSON), st.booleans())
def test_anything_is_read_or_refused(elements, complete):
    """No JSON raises anything else, and what is returned fits together."""
    elements = [ERRORS | each if complete and isinstance(each, dict) else each for each in elements]
    try:
        readings = CollectdDecoder("c", None).decode(json.dumps(elements), NOW)
    except InvalidInput:
        return
    assert len(readings.metrics) == len(readings.timestamps) == len(readings.values)
    assert {metric.resource_id for metric in readings.metrics} == set(readings.resources)
