"""OTLP over real HTTP: OpenTelemetry's own exporter, what Ceilometer writes, and bodies that are wrong."""

import gzip
import json
import urllib.error
import urllib.request

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import Counter, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from gnocchi.ingest.otlp_messages import WHOLE
from gnocchi.tests.functional.daemons import READY
from gnocchi.tests.functional.service import ApiService

NOW = 1_700_000_000

PROTOBUF, JSON = "application/x-protobuf", "application/json"


@pytest.fixture(scope="module")
def api():
    service = ApiService({"api": {"max_body_size": 20_000}})
    service.start()
    try:
        put(service, "/v1/archive_policy", {"name": "low", "definition": [{"granularity": "1s"}],
                                            "aggregation_methods": ["mean"]})
        # Everything but what begins with `unruled`.
        for name in ("a", "b", "c", "d", "g", "l", "o", "t"):
            put(service, "/v1/archive_policy_rule", {"name": name, "metric_pattern": f"{name}*",
                                                     "archive_policy_name": "low"})
        yield service
    finally:
        service.stop()


def send(api, path, data, media_type=JSON, user="admin", **headers):
    """Return status, headers and body of a request."""
    credentials = {"admin": "YWRtaW46", "bob": "Ym9iOg=="}[user]
    request = urllib.request.Request(api.url + path, data, {
        "Authorization": f"basic {credentials}", "Content-Type": media_type, "Accept": JSON} | headers)
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.headers, e.read()


def put(api, path, document):
    status, _, body = send(api, path, json.dumps(document).encode())
    assert 201 == status, body


def get(api, path):
    status, _, body = send(api, path, None)
    assert 200 == status, body
    return json.loads(body)


def export(api, data, media_type=JSON, **headers):
    return send(api, "/v1/otlp/v1/metrics", data, media_type, **headers)


def read(api, type, resource, metric):
    """Return the values of a metric, aggregated now."""
    measures = get(api, f"/v1/resource/{type}/{resource}/metric/{metric}/measures?refresh=true")
    return [value for _, _, value in measures]


def make_request(*names, service="checkout", time=NOW):
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
    metrics = group.scope_metrics.add().metrics
    for name in names:
        metrics.add(name=name).gauge.data_points.add(time_unix_nano=time * 10**9, as_double=1.5)
    return request.SerializeToString()


@pytest.mark.parametrize("compression", Compression)
def test_exporter(api, compression):
    """The exporter of OpenTelemetry's SDK for Python, with counters as they are and as differences."""
    exporter = OTLPMetricExporter(
        endpoint=f"{api.url}/v1/otlp/v1/metrics", headers={"Authorization": "basic YWRtaW46"}, compression=compression,
        preferred_temporality={Counter: AggregationTemporality.DELTA})
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=3_600_000)
    instance = f"i-{compression.value}"
    provider = MeterProvider([reader], Resource.create({
        "service.name": "shop", "service.instance.id": instance, "service.version": "1.2"}))
    try:
        meter = provider.get_meter("test")
        orders = meter.create_counter("orders", unit="{order}")
        latency = meter.create_histogram("latency", unit="s", explicit_bucket_boundaries_advisory=[0.1, 1])
        meter.create_gauge("temp", unit="Cel").set(21.5)
        orders.add(3, {"kind": "a/b"})
        latency.record(0.5)
        latency.record(2)
        assert reader.force_flush()
        orders.add(1, {"kind": "a/b"})
        assert reader.force_flush()
    finally:
        provider.shutdown()
    resource = get(api, f"/v1/resource/otlp/otlp:shop@{instance}")
    assert ("shop", "1.2", instance, "admin") == tuple(
        resource[name] for name in ("service_name", "service_version", "service_instance_id", "creator"))
    assert {"orders@kind=a_b", "temp", "latency.count", "latency.sum", "latency.min", "latency.max",
            "latency.bucket@le=0.1", "latency.bucket@le=1"} == set(resource["metrics"])
    assert "{order}" == get(api, f"/v1/metric/{resource['metrics']['orders@kind=a_b']}")["unit"]
    path = f"otlp:shop@{instance}"
    assert 21.5 == read(api, "otlp", path, "temp")[0]
    assert 2.5 == read(api, "otlp", path, "latency.sum")[0]
    assert [0.0, 1.0] == [read(api, "otlp", path, f"latency.bucket@le={bound}")[0] for bound in ("0.1", "1")]


def test_all_is_well_in_protobuf(api):
    """The answer is empty, which is a message, and 200."""
    status, headers, body = export(api, make_request("a"), PROTOBUF)
    assert (200, PROTOBUF, b"") == (status, headers["Content-Type"], body)
    assert [1.5] == read(api, "otlp", "otlp:checkout", "a")


def test_all_is_well_in_json(api):
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "b", "sum": {"dataPoints": [
        {"timeUnixNano": str(NOW * 10**9), "asInt": "7"}]}}]}]}]}
    status, headers, body = export(api, json.dumps(document).encode(), JSON + "; charset=utf-8")
    assert (200, JSON, {}) == (status, headers["Content-Type"], json.loads(body))
    assert [7.0] == read(api, "otlp", "otlp:none", "b")


def test_partial_success(api):
    """What can be stored is; the answer says how much of the rest there is, and why."""
    data = make_request("c", "unruled", "unruled/2") + make_request("c", time=0)
    status, _, body = export(api, data, PROTOBUF)
    answer = ExportMetricsServiceResponse.FromString(body).partial_success
    assert (200, 3) == (status, answer.rejected_data_points)
    assert ("metric c: a data point has no time_unix_nano; "
            "metric unruled: No archive policy name specified and no archive policy rule found matching the metric "
            "name unruled; metric unruled_2: No archive") in answer.error_message
    assert [1.5] == read(api, "otlp", "otlp:checkout", "c")


def test_partial_success_in_json(api):
    document = {"resourceMetrics": [{"scopeMetrics": [{"metrics": [{"name": "d", "gauge": {"dataPoints": [{}]}}]}]}]}
    status, _, body = export(api, json.dumps(document).encode())
    assert (200, {"partialSuccess": {"rejectedDataPoints": "1",
                                     "errorMessage": "metric d: a data point has no time_unix_nano"}}) == (
        status, json.loads(body))


@pytest.mark.parametrize(("data", "media_type", "headers", "status", "text"), [
    (b"\xff", PROTOBUF, {}, 400, "The body is no ExportMetricsServiceRequest"),
    (b"[]", JSON, {}, 400, "The body is no ExportMetricsServiceRequest"),
    (b"{", JSON, {}, 400, "The body is no JSON"),
    (b"{}", "text/plain", {}, 415, "Content-Type is text/plain; application/x-protobuf and application/json"),
    (b"{}", JSON, {"Content-Encoding": "gzip"}, 400, "The body is not gzip"),
    (b"{}", JSON, {"Content-Encoding": "br"}, 400, "Content-Encoding 'br' is not supported"),
    (gzip.compress(bytes(2_000_000)), PROTOBUF, {"Content-Encoding": "gzip"}, 413, "20000 bytes when decompressed"),
    (bytes(20_001), PROTOBUF, {}, 413, "The body is larger than 20000 bytes"),
])
def test_wrong_requests(api, data, media_type, headers, status, text):
    """Told in the encoding of the request, as a Status."""
    found, answered, body = export(api, data, media_type, **headers)
    message = WHOLE["Status"].FromString(body).message if media_type == PROTOBUF else json.loads(body)["message"]
    assert status == found
    assert (PROTOBUF if media_type == PROTOBUF else JSON) == answered["Content-Type"]
    assert text in message


def test_resources_of_several_users(api):
    """One service of two users is two resources, as everywhere."""
    assert 200 == export(api, make_request("a"), PROTOBUF)[0]
    assert (200, b"") == export(api, make_request("a"), PROTOBUF, user="bob")[::2]
    found = [each for each in get(api, "/v1/resource/otlp") if each["original_resource_id"] == "otlp:checkout"]
    assert {"admin", "bob"} == {each["creator"] for each in found}


def test_nobody(api):
    request = urllib.request.Request(f"{api.url}/v1/otlp/v1/metrics", make_request("a"), {"Content-Type": PROTOBUF})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as error:
        assert 401 == error.code


def test_ceilometer(api):
    """Its own names and owners, on a resource that is there already or a generic one."""
    put(api, "/v1/resource_type", {"name": "instance", "attributes": {}})
    put(api, "/v1/resource/instance", {"id": "b4d568e4-7af1-5aec-ac3f-9c09fa3685a9"})
    for resource in ("b4d568e4-7af1-5aec-ac3f-9c09fa3685a9", "instance-1/tap0"):
        body = json.dumps({"resource_metrics": [{"scope_metrics": [{
            "scope": {"name": "ceilometer", "version": "v1"},
            "metrics": [{"name": "disk_read_bytes", "description": "disk.read.bytes unit:B", "unit": "B",
                         "counter": {"data_points": [{
                             "attributes": [{"key": key, "value": {"string_value": value}} for key, value in (
                                 ("resource_id", resource), ("user_id", "u"), ("project_id", "p"))],
                             "start_time_unix_nano": NOW, "time_unix_nano": NOW, "as_double": 7.0, "flags": 0}]}}]}]}]})
        assert (200, b"{}") == export(api, body.encode())[::2]
    assert [7.0] == read(api, "instance", "b4d568e4-7af1-5aec-ac3f-9c09fa3685a9", "disk.read.bytes")
    assert [7.0] == read(api, "generic", "instance-1_tap0", "disk.read.bytes")
    made = get(api, "/v1/resource/generic/instance-1_tap0")
    assert ("generic", "u", "p") == (made["type"], made["user_id"], made["project_id"])


def test_back_end_away(deployment):
    """503, and when to try again."""
    deployment.start("gnocchi-api").wait_for(READY)
    request = urllib.request.Request(f"http://127.0.0.1:{deployment.port}/v1/otlp/v1/metrics", make_request("a"), {
        "Authorization": "basic YWRtaW46", "Content-Type": PROTOBUF})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    with caught.value as error:
        assert (503, "5") == (error.code, error.headers["Retry-After"])
        status = WHOLE["Status"].FromString(error.read())
    assert 14 == status.code
    assert status.message.endswith("gnocchi-upgrade has to be run")
