"""The decoder of remote write: contract, ingest protocols 3."""

import gc
import math
import struct

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi import times
from gnocchi.exceptions import InvalidInput
from gnocchi.ingest import prometheus
from gnocchi.ingest.batch import WantedResource
from gnocchi.resource_ids import resource_id
from gnocchi.tests.remote_write import STALE, encode_label, encode_request, encode_series, field

NOW_MS = 1506146578123
LABELS = {"__name__": "up", "job": "prometheus", "instance": "localhost:9090"}

names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,20}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), max_size=30)
labels = st.dictionaries(names, texts, max_size=6)
values = st.floats().filter(lambda value: struct.pack("<d", value) != struct.pack("<d", STALE))
samples = st.lists(st.tuples(values, st.integers(0, times.NS_MAX // 10**6)), max_size=4)
series = st.lists(st.tuples(names, labels, samples), max_size=6)


def decode(*requests, labels_in_names=False):
    """Return what becomes of requests that are sent twice, so that labels are known the second time."""
    decoder = prometheus.Decoder(labels_in_names)
    for request in requests:
        decoder.decode(request, "admin")
    decoded = [decoder.decode(request, "admin") for request in requests]
    return decoded if len(decoded) > 1 else decoded[0]


def list_measures(decoded):
    """Return (resource's id, metric's name, nanoseconds, value) of each measure."""
    batch = decoded.batch
    metrics = [metric for metric, count in zip(batch.metrics, batch.counts, strict=True) for _ in range(count)]
    return [(batch.resources[metric.resource_id].original_id, metric.name, stamp, value)
            for metric, stamp, value in zip(metrics, batch.timestamps.view(numpy.int64).tolist(),
                                            batch.values.tolist(), strict=True)]


def test_series():
    """Job and instance are the resource, __name__ is the metric, whole milliseconds are kept exactly."""
    decoded = decode(encode_request((LABELS, [(1.5, NOW_MS)])))
    (metric,) = decoded.batch.metrics
    assert resource_id("prometheus@localhost:9090", "admin") == metric.resource_id
    assert ("up", None, None) == metric[1:]
    assert {metric.resource_id: WantedResource("prometheus@localhost:9090", "prometheus", {
        "job": "prometheus", "instance": "localhost:9090"})} == decoded.batch.resources
    assert [("prometheus@localhost:9090", "up", NOW_MS * 10**6, 1.5)] == list_measures(decoded)
    assert (0, 0, None) == decoded[1:]


@given(series)
def test_round_trip(wanted):
    """Whatever is sent arrives, in order; of repeated labels, the ones that count."""
    decoder = prometheus.Decoder()
    sent = [(others | {"__name__": name}, part) for name, others, part in wanted]
    expected = [("@".join(each.get(label, "") or "none" for label in ("job", "instance")), each["__name__"],
                 ms * 10**6, value) for each, part in sent for value, ms in part]
    for _ in range(2):
        decoded = decoder.decode(encode_request(*sent), "admin")
        found = list_measures(decoded)
        assert repr(expected) == repr(found)
        assert all(decoded.batch.counts)
        assert {metric.resource_id for metric in decoded.batch.metrics} == set(decoded.batch.resources)


@pytest.mark.parametrize("value", [0.0, -0.0, 1e308, math.inf, -math.inf, math.nan, 5e-324])
@pytest.mark.parametrize("ms", [0, 1, 127, 128, 2**35, 2**42 - 1, 2**42, times.NS_MAX // 10**6])
def test_every_form_of_a_sample(value, ms):
    """A zero and the epoch are left out on the wire; timestamps have one to seven bytes."""
    decoded = decode(encode_request((LABELS, [(value, ms)]), (LABELS, [(value, ms), (2.0, NOW_MS)])))
    assert [2, 1] == sorted(decoded.batch.counts.tolist(), reverse=True)
    assert [ms, ms, NOW_MS] == (decoded.batch.timestamps.view(numpy.int64) // 10**6).tolist()
    assert struct.pack("<3d", value, value, 2.0) == decoded.batch.values.tobytes()


def test_labels_that_are_absent_or_empty():
    """Both are `none`."""
    decoded = decode(encode_request(({"__name__": "a", "job": ""}, [(1, NOW_MS)])))
    (resource,) = decoded.batch.resources.values()
    assert WantedResource("none@none", "prometheus", {"job": "none", "instance": "none"}) == resource


def test_slash_in_job():
    """In Kubernetes a job is `namespace/name`: no path could hold that."""
    decoded = decode(encode_request(({"__name__": "a", "job": "kube/x", "instance": "h"}, [(1, NOW_MS)])))
    (resource,) = decoded.batch.resources.values()
    assert WantedResource("kube_x@h", "prometheus", {"job": "kube/x", "instance": "h"}) == resource


def test_series_that_differ_in_other_labels():
    """All their samples are kept, in one metric; or in several, if the option says so."""
    request = encode_request(*[(LABELS | {"mode": mode, "path": "/a"}, [(value, NOW_MS + value)])
                               for value, mode in enumerate(("idle", "user"), 1)])
    assert [("up", 1.0), ("up", 2.0)] == [measure[1::2] for measure in list_measures(decode(request))]
    assert [("up@mode=idle,path=_a", 1.0), ("up@mode=user,path=_a", 2.0)] == [
        measure[1::2] for measure in list_measures(decode(request, labels_in_names=True))]
    plain = encode_request((LABELS, [(1, NOW_MS)]))
    assert ["up"] == [metric.name for metric in decode(plain, labels_in_names=True).batch.metrics]


def test_ends_of_series_are_left_out_and_counted():
    """Only Prometheus's own NaN is one; another NaN is a value."""
    decoded = decode(encode_request((LABELS, [(STALE, NOW_MS)]), (LABELS | {"__name__": "b"}, [
        (math.nan, NOW_MS), (STALE, NOW_MS + 1), (3.0, NOW_MS + 2)])))
    assert 2 == decoded.stale
    assert ["b"] == [metric.name for metric in decoded.batch.metrics]
    assert [2] == decoded.batch.counts.tolist()
    assert math.isnan(decoded.batch.values[0])
    assert 3.0 == decoded.batch.values[1]


def test_series_without_samples():
    """They name no metric and no resource."""
    batch = decode(encode_request((LABELS, []))).batch
    assert (0, 0, 0, 0) == (len(batch.metrics), len(batch.resources), len(batch.counts), len(batch.values))
    assert 0 == len(decode(b"").batch.metrics)


def test_fields_of_newer_senders():
    """Exemplars, histograms and metadata are skipped, wherever they stand."""
    exemplar, histogram = field(3, b"\x0a\x00"), field(4, b"")
    known = encode_series(LABELS, [(1.0, NOW_MS)])
    body = b"".join([field(1, encode_series(LABELS, [(1.0, NOW_MS)], exemplar + histogram)), field(3, b"\x08\x01"),
                     field(1, exemplar + known), field(1, known)])
    assert [1.0] * 3 == decode(body).batch.values.tolist()


@pytest.mark.parametrize(("wrong", "reason"), [
    ({"job": "a", "instance": "b"}, "A series of job 'a', instance 'b' has no label __name__"),
    ({"__name__": "", "job": "a" * 999}, f"A series of job '{'a' * 80}', instance 'none' has no label __name__"),
    ({"__name__": "a/b"}, "'/' is not supported in metric name"),
    ({"__name__": "a", "job": "j" * 300}, "transformable resource id >289 max allowed characters"),
    ({"__name__": "a", "job": "j\0"}, "text must not hold NUL characters"),
])
def test_wrong_series_are_left_out(wrong, reason):
    """Prometheus drops a request that is refused, so the rest of it is taken."""
    decoded = decode(encode_request((wrong, [(1, NOW_MS)]), (LABELS, [(2, NOW_MS)]), (wrong, [(1, NOW_MS)])))
    assert (2, reason) == (decoded.refused, str(decoded.reason))
    assert [2.0] == decoded.batch.values.tolist()


@pytest.mark.parametrize(("ms", "reason"), [
    (-1, "unexpected timestamp 'Timestamp must be after Epoch'"),
    (-2**63, "unexpected timestamp 'Timestamp must be after Epoch'"),
    (times.NS_MAX // 10**6 + 1, "unexpected timestamp 'Unable to convert timestamps'"),
    (2**63 - 1, "unexpected timestamp 'Unable to convert timestamps'"),
])
def test_wrong_timestamps_are_left_out(ms, reason):
    """And those of the same series that are right are taken."""
    decoded = decode(encode_request((LABELS, [(1, ms), (2, NOW_MS)]), (LABELS, [(3, ms)])))
    assert (2, reason) == (decoded.refused, str(decoded.reason))
    assert ([1], [2.0]) == (decoded.batch.counts.tolist(), decoded.batch.values.tolist())


@pytest.mark.parametrize("body", [
    b"garbage", field(1, b"garbage"), field(1, field(1, b"\x0a\x05ab")), field(1, field(1, b"\x0a\x01\xff")),
    field(1, field(1, encode_label("__name__", "a")) + field(2, b"\x09abc")), field(1, b"")[:-1],
    field(1, encode_series(LABELS, [(1.5, NOW_MS)]))[:-1]])
def test_what_is_no_request(body):
    """Nothing of it is taken."""
    with pytest.raises(InvalidInput, match="The body is no WriteRequest: "):
        decode(body)


def test_creators_apart():
    """The labels known for one creator do not name the resources of another."""
    decoder = prometheus.Decoder()
    request = encode_request((LABELS, [(1, NOW_MS)]))
    for creator in ("alice", "bob", "alice"):
        (metric,) = decoder.decode(request, creator).batch.metrics
        assert resource_id("prometheus@localhost:9090", creator) == metric.resource_id


def test_many_labels():
    """A series of 100,000 labels is a series."""
    many = LABELS | {f"l{i}": str(i) for i in range(100_000)}
    assert [1.0] == decode(encode_request((many, [(1, NOW_MS)]))).batch.values.tolist()


@given(st.binary(max_size=200))
def test_any_bytes(body):
    """Whatever comes is decoded or refused."""
    try:
        decode(body)
    except InvalidInput as e:
        assert str(e).startswith("The body is no WriteRequest: ")


def test_memory_is_bounded(monkeypatch):
    """Whatever clients make up, so much is remembered and no more."""
    monkeypatch.setattr(prometheus, "SERIES_REMEMBERED", 5)
    decoder = prometheus.Decoder()
    gc.collect()
    before = len([each for each in gc.get_objects() if isinstance(each, prometheus.Series)])
    for i in range(100):
        decoder.decode(encode_request((LABELS | {"i": f"{i}"}, [(1, NOW_MS)]),
                                      (LABELS | {"i": f"{i % 4}", "long": "x" * 3000}, [(1, NOW_MS)])), "admin")
    gc.collect()
    assert 5 <= len([each for each in gc.get_objects() if isinstance(each, prometheus.Series)]) - before <= 10
