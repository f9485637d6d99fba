"""OTLP: whose measures data points have, what they are made into, and what is left out."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1 import metrics_pb2 as proto

from gnocchi import resource_ids
from gnocchi.exceptions import InvalidInput
from gnocchi.ingest import otlp
from gnocchi.ingest.batch import WantedResource
from gnocchi.ingest.otlp import Decoder
from gnocchi.ingest.otlp_messages import FAST, WHOLE
from gnocchi.resource_type import AttributeChecks

NOW = 1_700_000_000 * 10**9

TEXTS = {"service.name": "shop"}


def pairs(**texts):
    return [KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in texts.items()]


def make_request(*metrics, resource=TEXTS, scope="x"):
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    for key, value in resource.items():
        value = value if isinstance(value, AnyValue) else AnyValue(string_value=value)
        group.resource.attributes.add(key=key).value.CopyFrom(value)
    group.scope_metrics.add(metrics=metrics).scope.name = scope
    return request


def gauge(name="temp", value=1.5, attributes=(), time=NOW, unit="Cel", **fields):
    point = proto.NumberDataPoint(time_unix_nano=time, attributes=attributes, as_double=value, **fields)
    return proto.Metric(name=name, unit=unit, gauge=proto.Gauge(data_points=[point]))


def decode(request):
    return Decoder().decode(request.SerializeToString(), "admin")


def list_values(decoded):
    return {(metric.name, metric.unit): value
            for metric, value in zip(decoded.batch.metrics, decoded.batch.values.tolist(), strict=True)}


def test_schema_is_that_of_the_protocol():
    """Every field has the number and type of the official one."""
    official = {"Request": ExportMetricsServiceRequest, "Response": ExportMetricsServiceResponse,
                "ResourceMetrics": proto.ResourceMetrics, "ScopeMetrics": proto.ScopeMetrics, "Metric": proto.Metric,
                "Histogram": proto.Histogram, "ExponentialHistogram": proto.ExponentialHistogram,
                "Summary": proto.Summary, "Numbers": proto.Sum, "NumberPoint": proto.NumberDataPoint,
                "HistogramPoint": proto.HistogramDataPoint, "SummaryPoint": proto.SummaryDataPoint,
                "ExponentialHistogramPoint": proto.ExponentialHistogramDataPoint,
                "Quantile": proto.SummaryDataPoint.ValueAtQuantile, "KeyValue": KeyValue, "AnyValue": AnyValue,
                "ArrayValue": ArrayValue, "KeyValueList": KeyValueList}
    for name, message in official.items():
        for field in WHOLE[name].DESCRIPTOR.fields:
            if field.name != "counter":
                theirs = message.DESCRIPTOR.fields_by_name[field.name]
                assert (theirs.number, theirs.type, theirs.has_presence) == (
                    field.number, field.type, field.has_presence), f"{name}.{field.name}"
    assert {name: [field.number for field in message.DESCRIPTOR.fields] for name, message in WHOLE.items()} == {
        name: [field.number for field in message.DESCRIPTOR.fields] for name, message in FAST.items()}


def test_gauge_and_sums():
    """Values as they are, whatever their temporality."""
    points = [proto.NumberDataPoint(time_unix_nano=NOW, as_int=-7)]
    decoded = decode(make_request(gauge(), *[
        proto.Metric(name=f"sum{temporality}", unit="By",
                     sum=proto.Sum(data_points=points, aggregation_temporality=temporality, is_monotonic=True))
        for temporality in (1, 2)]))
    assert {("temp", "Cel"): 1.5, ("sum1", "By"): -7.0, ("sum2", "By"): -7.0} == list_values(decoded)
    assert [NOW] * 3 == decoded.batch.timestamps.astype("int64").tolist()
    assert 0 == decoded.refusals.count


def test_histogram():
    """Count, sum, least and largest, and for each bound how many values there are up to it."""
    points = [proto.HistogramDataPoint(time_unix_nano=NOW, count=6, sum=12.5, min=0.25, max=9,
                                       bucket_counts=[1, 2, 0, 3], explicit_bounds=[0.5, 1, 5])]
    decoded = decode(make_request(proto.Metric(name="t", unit="s", histogram=proto.Histogram(data_points=points))))
    assert {("t.count", None): 6.0, ("t.sum", "s"): 12.5, ("t.min", "s"): 0.25, ("t.max", "s"): 9.0,
            ("t.bucket@le=0.5", None): 1.0, ("t.bucket@le=1", None): 3.0,
            ("t.bucket@le=5", None): 3.0} == list_values(decoded)
    assert [0] * 7 == decoded.points


def test_histogram_without_what_is_optional():
    points = [proto.HistogramDataPoint(time_unix_nano=NOW, count=2)]
    decoded = decode(make_request(proto.Metric(name="t", histogram=proto.Histogram(data_points=points))))
    assert {("t.count", None): 2.0} == list_values(decoded)


def test_exponential_histogram():
    """Its buckets change their bounds, so there are no metrics for them."""
    point = proto.ExponentialHistogramDataPoint(time_unix_nano=NOW, count=3, sum=0, scale=2, zero_count=1)
    point.positive.bucket_counts.extend([1, 1])
    decoded = decode(make_request(proto.Metric(
        name="t", unit="s", exponential_histogram=proto.ExponentialHistogram(data_points=[point]))))
    assert {("t.count", None): 3.0, ("t.sum", "s"): 0.0} == list_values(decoded)


def test_summary():
    point = proto.SummaryDataPoint(time_unix_nano=NOW, count=3, sum=6, attributes=pairs(path="/x"))
    point.quantile_values.add(quantile=0.5, value=2)
    point.quantile_values.add(quantile=1, value=3)
    decoded = decode(make_request(proto.Metric(name="t", unit="s", summary=proto.Summary(data_points=[point]))))
    assert {("t.count@path=_x", None): 3.0, ("t.sum@path=_x", "s"): 6.0, ("t@path=_x,quantile=0.5", "s"): 2.0,
            ("t@path=_x,quantile=1", "s"): 3.0} == list_values(decoded)


@pytest.mark.parametrize(("value", "text"), [
    (AnyValue(string_value="a/b"), "a_b"),
    (AnyValue(bool_value=True), "true"),
    (AnyValue(int_value=-3), "-3"),
    (AnyValue(double_value=2.0), "2"),
    (AnyValue(double_value=0.1), "0.1"),
    (AnyValue(bytes_value=b"\x00\xff"), "00ff"),
    (AnyValue(array_value=ArrayValue(values=[AnyValue(int_value=1), AnyValue(string_value="x")])), "[1,x]"),
    (AnyValue(kvlist_value=KeyValueList(values=pairs(a="1", b="2"))), "{a=1,b=2}"),
    (AnyValue(), ""),
])
def test_attributes_in_names(value, text):
    """Sorted by key, with the text of every kind of value."""
    attributes = [KeyValue(key="z", value=value), *pairs(b="1")]
    decoded = decode(make_request(gauge(attributes=attributes)))
    assert f"temp@b=1,z={text}" == decoded.batch.metrics[0].name


@pytest.mark.parametrize(("attributes", "expected"), [
    ({"service.name": "shop"}, "otlp:shop"),
    ({"service.name": "shop", "service.namespace": "eu"}, "otlp:eu.shop"),
    ({"service.name": "shop", "host.name": "h", "service.instance.id": "i"}, "otlp:shop@i"),
    ({"service.name": "shop", "host.name": "h"}, "otlp:shop@h"),
    ({"service.name": "a/b", "container.id": "c/d"}, "otlp:a_b@c_d"),
    ({"host.name": "h", "host.id": "x"}, "otlp:none@x"),
    ({"service.namespace": "eu"}, "otlp:none"),
    ({}, "otlp:none"),
])
def test_resource(attributes, expected):
    """The service and the instance name it."""
    decoded = decode(make_request(gauge(), resource=attributes))
    (id, resource), = decoded.batch.resources.items()
    assert (expected, "otlp") == (resource.original_id, resource.type)
    assert resource_ids.resource_id(expected, "admin") == id == decoded.batch.metrics[0].resource_id


def test_resource_attributes():
    """Kept under names without dots; those that the type has are texts of bounded length."""
    decoded = decode(make_request(gauge(), resource={
        "os.type": 300 * "n", "service.version": AnyValue(int_value=3), "my.size": AnyValue(int_value=4),
        "host.name": "", "process.command_args": AnyValue(array_value=ArrayValue())}))
    (resource,) = decoded.batch.resources.values()
    assert {"os_type": 255 * "n", "service_version": "3", "my_size": 4, "process_command_args": "[]"} == {
        **resource.attributes}
    assert {"os_type": 255 * "n", "service_version": "3"} == AttributeChecks(otlp.ATTRIBUTES).check(
        resource.attributes)


@pytest.mark.parametrize(("metric", "reason"), [
    (gauge(time=0), "a data point has no time_unix_nano"),
    (gauge(time=2**63), "time_unix_nano 9223372036854775808 of a data point is out of range"),
    (gauge(name=""), "it has no name"),
    (proto.Metric(name="temp", gauge=proto.Gauge(data_points=[proto.NumberDataPoint(time_unix_nano=NOW)])),
     "a data point has no value"),
    (proto.Metric(name="temp", histogram=proto.Histogram(data_points=[
        proto.HistogramDataPoint(time_unix_nano=NOW, bucket_counts=[1, 2], explicit_bounds=[1, 2])])),
     "a data point has 2 buckets and 2 bounds of them"),
])
def test_wrong_data_points(metric, reason):
    """They are left out and counted; the others are not."""
    decoded = decode(make_request(metric, gauge("good"), metric))
    assert ["good"] == [metric.name for metric in decoded.batch.metrics]
    assert (2, [f"metric {metric.name}: {reason}"]) == (decoded.refusals.count, decoded.refusals.reasons)


def test_resource_name_too_long():
    decoded = decode(make_request(gauge(), resource={"service.name": 300 * "n"}))
    assert 1 == decoded.refusals.count
    assert "289" in decoded.refusals.reasons[0]


def test_many_attributes():
    """Names have a limit, and what is large is not remembered."""
    many = {f"k{number}": "v" for number in range(100_000)}
    decoder = Decoder()
    decoded = decoder.decode(make_request(gauge(attributes=pairs(**many)), gauge("good"),
                                          resource=many).SerializeToString(), "admin")
    assert ["good"] == [metric.name for metric in decoded.batch.metrics]
    assert ["metric temp: Metric name is longer than 255 characters"] == decoded.refusals.reasons
    assert {"good"} == {metric.name for metric in decoder._metrics._young.values()}
    assert not decoder._resources._young


def test_large_units_and_attributes_are_not_remembered():
    """A unit is remembered as it is stored; of attributes, more may come than is seen in the name."""
    decoder = Decoder()
    long = gauge("long")
    long.unit = 100_000 * "u"
    odd = gauge("odd")
    unknown = b"\x9a\x06\xa0\x8d\x06" + 100_000 * b"x"      # field 99, of so many bytes
    attribute = KeyValue.FromString(pairs(a="b")[0].SerializeToString() + unknown)
    odd.gauge.data_points[0].attributes.append(attribute)
    decoded = decoder.decode(make_request(long, odd).SerializeToString(), "admin")
    assert [("long", 31 * "u"), ("odd@a=b", "Cel")] == [(metric.name, metric.unit) for metric in decoded.batch.metrics]
    (key,) = decoder._metrics._young
    assert (31 * "u") == key[-1]


def test_nothing_recorded():
    """Such data points are neither stored nor refused; NaN is a value."""
    decoded = decode(make_request(gauge(flags=1), gauge("nan", math.nan), proto.Metric(name="empty")))
    assert ["nan"] == [metric.name for metric in decoded.batch.metrics]
    assert 0 == decoded.refusals.count


def test_refused_rows_are_counted_as_data_points():
    """The metrics of a histogram are of one data point."""
    histogram = proto.Histogram(data_points=[proto.HistogramDataPoint(time_unix_nano=NOW, count=1, sum=2)])
    decoded = decode(make_request(gauge(), proto.Metric(name="t", histogram=histogram)))
    decoded.refuse({1: InvalidInput("a"), 2: InvalidInput("b")})
    assert (1, ["metric t.count: a", "metric t.sum: b"]) == (decoded.refusals.count, decoded.refusals.reasons)


def test_remembered_metrics_are_told_apart():
    """By resource, name, unit and attributes; a decoder gives the same for the same."""
    decoder = Decoder()
    requests = [make_request(gauge()), make_request(gauge(), resource={"service.name": "b"}), make_request(gauge("b")),
                make_request(gauge(unit="K")), make_request(gauge(attributes=pairs(a="1")))]
    first, second = ([decoder.decode(each.SerializeToString(), "admin").batch.metrics[0] for each in requests]
                     for _ in range(2))
    assert first == second
    assert len(requests) == len(set(first))
    other = decoder.decode(requests[0].SerializeToString(), "other").batch.metrics[0]
    assert other.resource_id != first[0].resource_id


def number(**fields):
    return proto.NumberDataPoint(**{"time_unix_nano": NOW} | fields)


@pytest.mark.parametrize(("wrong", "refused"), [
    (number(as_int=3, time_unix_nano=0), 1),
    (number(as_int=3, time_unix_nano=2**64 - 1), 1),
    (number(), 1),
    (number(as_int=3, flags=1), 0),
])
def test_known_metrics_are_read_alike(wrong, refused):
    """Integers, zeros and what is wrong, whether the metrics are known or not."""
    points = [number(as_int=0, attributes=pairs(n="a")), number(as_int=7), wrong, number(as_double=0.0),
              number(as_int=-2**62, attributes=pairs(n="b"))]
    data = make_request(proto.Metric(name="m", unit="s", gauge=proto.Gauge(data_points=points))).SerializeToString()
    decoder = Decoder()
    for decoded in (decoder.decode(data, "admin") for _ in range(2)):
        assert ["m@n=a", "m", "m", "m@n=b"] == [metric.name for metric in decoded.batch.metrics]
        assert [0.0, 7.0, 0.0, -2.0**62] == decoded.batch.values.tolist()
        assert [0, 1, 2, 3] == decoded.points
        assert refused == decoded.refusals.count == len(decoded.refusals.reasons)


def camel(**changes):
    point = {"timeUnixNano": str(NOW), "asDouble": 1.5, "exemplars": [{"traceId": "5b8e"}], "news": [1]} | changes
    return {"resourceMetrics": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeMetrics": [{"scope": {"name": "x"}, "metrics": [{
            "name": "temp", "unit": "Cel", "gauge": {"dataPoints": [point]}}]}],
        "schemaUrl": "https://example.com"}]}


def test_json():
    """What exporters write: large integers as texts, members that nobody knows."""
    data = json.dumps(camel(attributes=[{"key": "a", "value": {"intValue": "3"}}])).encode()
    decoded = Decoder().decode_json(data, "admin")
    assert {("temp@a=3", "Cel"): 1.5} == list_values(decoded)
    assert [NOW] == decoded.batch.timestamps.astype("int64").tolist()


def test_enumerations_in_json():
    """By name or number."""
    for temporality in (2, "AGGREGATION_TEMPORALITY_CUMULATIVE"):
        document = camel()
        metric = document["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]
        metric["sum"] = metric.pop("gauge") | {"aggregationTemporality": temporality, "isMonotonic": True}
        assert {("temp", "Cel"): 1.5} == list_values(Decoder().decode_json(json.dumps(document).encode(), "admin"))


def ceilometer(type="gauge", attributes=(), **changes):
    """As its publisher writes it."""
    attributes = {"resource_id": "b4d568e4-7af1-5aec-ac3f-9c09fa3685a9", "user_id": "u", "project_id": "p"} | dict(
        attributes)
    return json.dumps({"resource_metrics": [{"scope_metrics": [{
        "scope": {"name": "ceilometer", "version": "v1"},
        "metrics": [{"name": "disk_device_read_bytes", "description": "disk.device.read.bytes unit:B", "unit": "B",
                     type: {"data_points": [{
                         "attributes": [{"key": key, "value": {"string_value": value}}
                                        for key, value in attributes.items()],
                         "start_time_unix_nano": 1_700_000_000, "time_unix_nano": 1_700_000_000, "as_double": 5,
                         "flags": 0}]}} | changes]}]}]}).encode()


@pytest.mark.parametrize("type", ["gauge", "counter"])
def test_ceilometer(type):
    """Its own names, resources and owners, and times that are seconds."""
    decoded = Decoder().decode_json(ceilometer(type), "admin")
    assert {("disk.device.read.bytes", "B"): 5.0} == list_values(decoded)
    assert [NOW] == decoded.batch.timestamps.astype("int64").tolist()
    (id, resource), = decoded.batch.resources.items()
    assert "b4d568e4-7af1-5aec-ac3f-9c09fa3685a9" == str(id)
    assert WantedResource(str(id), "generic", user_id="u", project_id="p") == resource


@pytest.mark.parametrize(("request_body", "name", "original_id"), [
    (ceilometer(attributes={"user_id": None, "project_id": ""}.items()), "disk.device.read.bytes", None),
    (ceilometer(description="something else"), "disk_device_read_bytes", None),
    (ceilometer(attributes={"more": "x"}.items()), "disk.device.read.bytes@more=x", None),
    (ceilometer(attributes={"resource_id": "a/b"}.items()), "disk.device.read.bytes", "a_b"),
])
def test_odd_ceilometer(request_body, name, original_id):
    decoded = Decoder().decode_json(request_body, "admin")
    (resource,) = decoded.batch.resources.values()
    assert name == decoded.batch.metrics[0].name
    assert original_id in (None, resource.original_id)


def test_ceilometer_without_resource():
    """Then it is like any other; 1970 it is, too."""
    decoded = Decoder().decode_json(ceilometer(attributes={"resource_id": None}.items()), "admin")
    assert ["otlp:none"] == [resource.original_id for resource in decoded.batch.resources.values()]


@pytest.mark.parametrize("data", [b"\xff", b"x", b"\x0a\x05abc", b"\x0a\x02\x0a\x7f"])
def test_no_protobuf(data):
    with pytest.raises(InvalidInput, match="The body is no ExportMetricsServiceRequest"):
        Decoder().decode(data, "admin")


def test_attribute_that_is_no_message():
    """Attributes are looked at later, with the same result."""
    request = FAST["Request"]()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="x")
    metric.gauge.data_points.add(time_unix_nano=1, as_int=1, attributes=[b"\xff"])
    with pytest.raises(InvalidInput, match="The body is no ExportMetricsServiceRequest"):
        Decoder().decode(request.SerializeToString(), "admin")


@pytest.mark.parametrize("data", [
    b"", b"\xff", b"[]", b"3", b"null", b'{"resourceMetrics": 3}', b'{"resourceMetrics": [3]}', b"[" * 100_000,
    b'{"resourceMetrics": [{"scopeMetrics": {}}]}', json.dumps(camel(timeUnixNano="x")).encode(),
    json.dumps(camel(timeUnixNano=-1)).encode(), json.dumps(camel(asDouble="x")).encode(),
    json.dumps(camel(asDouble=1, asInt="1")).encode(), json.dumps(camel(attributes=[{"key": 3}])).encode(),
    b'{"resource_metrics": [' + b'{"scope_metrics": [' * 5000,
])
def test_no_json(data):
    with pytest.raises(InvalidInput, match="The body is no "):
        Decoder().decode_json(data, "admin")


def check(decoded):
    batch = decoded.batch
    assert len(batch.metrics) == len(batch.timestamps) == len(batch.values) == len(decoded.points)
    assert {metric.resource_id for metric in batch.metrics} <= set(batch.resources)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_any_bytes(data, cut):
    """Bytes of every kind are read or refused, also behind a good beginning."""
    for body in (data, make_request(gauge(attributes=pairs(a="1"))).SerializeToString()[:cut] + data):
        try:
            check(Decoder().decode(body, "admin"))
        except InvalidInput:
            continue


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
NAMES = st.sampled_from([name for fields in otlp.WHOLE.values() for field in fields.DESCRIPTOR.fields
                         for name in (field.name, field.json_name)])
TREES = st.recursive(VALUES, lambda each: st.lists(each, max_size=3) | st.dictionaries(NAMES, each, max_size=4))


@given(TREES | st.fixed_dictionaries({"resourceMetrics": st.lists(st.fixed_dictionaries({
    "scopeMetrics": st.lists(st.fixed_dictionaries({"metrics": st.lists(TREES, max_size=2)}), max_size=2),
    "resource": TREES}), max_size=2)}))
def test_any_json(document):
    """So is JSON, with members of the right names in wrong places."""
    try:
        check(Decoder().decode_json(json.dumps(document).encode(), "admin"))
    except InvalidInput:
        return


@pytest.mark.parametrize(("member", "digits"), [
    ("asDouble", 400), ("asDouble", 10_000), ("asInt", 30), ("asInt", 400), ("timeUnixNano", 30)])
def test_json_integers_beyond_the_type(member, digits):
    """Python has them, protobuf has not."""
    point = {member: "digits"}
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "m", "gauge": {"dataPoints": [point]}}]}]}]}
    body = json.dumps(document).replace('"digits"', "1" + digits * "0")
    with pytest.raises(InvalidInput, match="The body is no "):
        Decoder().decode_json(body.encode(), "admin")


def test_many_points_without_anything():
    """Which take two bytes each; they are counted, and those with a value among them are kept."""
    request = WHOLE["Request"]()
    points = request.resource_metrics.add().scope_metrics.add().metrics.add(name="m").gauge.data_points
    for number in range(1000):
        points.add(**({"time_unix_nano": 10**18, "as_double": number} if number % 100 == 7 else {}))
    decoder = Decoder()
    for _ in range(2):      # when the metric is not known, and when it is
        decoded = decoder.decode(request.SerializeToString(), "me")
        assert (990, ["metric m: a data point has no time_unix_nano"]) == (
            decoded.refusals.count, decoded.refusals.reasons)
        assert [float(number) for number in range(7, 1000, 100)] == decoded.batch.values.tolist()
        assert list(range(10)) == decoded.points
