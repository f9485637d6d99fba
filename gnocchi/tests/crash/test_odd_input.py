"""Whatever one client sends, another client's metrics in the same sack go on, and every listing answers."""

import itertools
import random
import urllib.parse
import uuid

import pytest

from gnocchi.indexer import MetricDefinition
from gnocchi.tests.crash.service import Client, Service, await_until

EPOCH_S = 1_750_000_000
METRICS = 3000

#: Ends of what a timestamp can be, and its own end.
FIRST, LAST = "1970-01-01T00:00:00Z", "2262-04-11T23:47:16.854775807Z"
ALMOST_LAST = "2262-04-11T23:47:16.854775806Z"

ODD_VALUES = b"NaN", b"Infinity", b"-Infinity", b"-0.0", b"1e308", b"5e-324"

YEAR_S = 365 * 86400

#: Definition and back window of policies that an administrator may make and should not.
ODD_POLICIES = {
    "nanoseconds": ([{"granularity": 1e-9, "points": 1000}], 0),
    "nanosecond-to-year": ([{"granularity": 1e-9, "points": 10}, {"granularity": YEAR_S, "points": 100}], 0),
    "endless-window": ([{"granularity": 1, "points": 100}], 2**31 - 1),
    "endless-window-of-years": ([{"granularity": YEAR_S, "points": 1}], 2**31 - 1),
    "indivisible": ([{"granularity": 7, "points": 1000}, {"granularity": 60, "points": 13},
                     {"granularity": 0.3, "points": 17}], 1),
    "longest": ([{"granularity": 9_223_372_036, "points": 1}], 0),
    "unlimited": ([{"granularity": 1}], 0),
}

LISTINGS = ("/", "/v1/", "/v1/metric", "/v1/archive_policy", "/v1/archive_policy_rule", "/v1/status",
            "/v1/status?details=false", "/v1/capabilities", "/v1/resource/generic", "/v1/resource_type", "/healthcheck")


def make_odd_series() -> dict[str, bytes]:
    """Return bodies of measures by what is odd about them."""
    rng = random.Random(8041)

    def encode(points) -> bytes:
        return b"[" + b",".join(b'{"timestamp": %s, "value": %s}' % (
            (f'"{at}"' if isinstance(at, str) else repr(at)).encode(), value) for at, value in points) + b"]"

    def iso(ns: int) -> str:
        return f"2025-06-15T12:{ns // 60 // 10**9:02d}:{ns // 10**9 % 60:02d}.{ns % 10**9:09d}Z"

    borders = [iso(minute * 60 * 10**9 + off) for minute in range(1, 50) for off in (-1, 0, 1)]
    return {
        "the last instants": encode([(LAST, b"1"), (ALMOST_LAST, b"2"), (LAST, b"3")]),
        "back to the first": encode([(FIRST, b"1"), (0, b"2"), (1e-9, b"3")]),
        "from the first to the last": encode([(FIRST, b"1"), (LAST, b"2")]),
        "beside borders": encode([(at, b"1") for at in borders]),
        "no numbers": encode(zip(range(EPOCH_S, EPOCH_S + 600), itertools.cycle(ODD_VALUES), strict=False)),
        "many at once": encode([(EPOCH_S + i, b"%d" % i) for i in range(100_000)]),
        "many at one instant": encode([(EPOCH_S, b"%d" % i) for i in range(20_000)]),
        "nanosecond by nanosecond": encode([(iso(i), b"1") for i in range(20_000)]),
        "all over time": encode([(rng.randrange(9_223_372_036), b"1") for _ in range(5_000)]),
        "none": b"[]",
    }


class Neighbour:
    """The second client: posts, and sees its measures aggregated."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._client = service.connect("neighbour")
        self._admin = service.connect()
        self._metric, = self._client.create_metrics("plain", 1)
        self._number = 0

    def check(self, what: object) -> None:
        """Post, see the result, and every listing."""
        self._number += 1
        assert 202 == self._client.push(self._metric, [(EPOCH_S + self._number, self._number)]).status
        await_until(lambda: self._number == len(self._client.read(self._metric)),
                    lambda: f"{what} keeps the neighbour waiting\n{self._service.read_logs()}")
        for path in LISTINGS:
            reply = self._admin.request("GET", path)
            assert 200 == reply.status, (what, path, reply)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """All metrics of everybody share one sack."""
    service = Service(tmp_path_factory.mktemp("odd"), {"metricd": {"metric_cleanup_delay": 1}})
    try:
        service.upgrade("--sacks-number", "1")
        service.start_all()
        service.connect().create_policy("plain", [{"granularity": 1, "points": 10_000}], ["mean"], 100)
        yield service
    finally:
        service.remove()


@pytest.fixture
def client(service):
    return service.connect("odd")


@pytest.fixture(scope="module")
def neighbour(service):
    return Neighbour(service)


def read_everything(client: Client, metric: str, policy: dict[str, object]) -> None:
    """Read all that a metric has, and around the ends of time; odd bounds may be refused, nothing may fail."""
    for method in policy["aggregation_methods"]:
        client.read(metric, method)
    for arguments in ({"start": FIRST}, {"stop": LAST}, {"start": LAST}, {"start": ALMOST_LAST, "stop": LAST},
                      {"granularity": policy["definition"][-1]["granularity"], "resample": "Y"},
                      {"granularity": policy["definition"][0]["granularity"], "resample": "1ns"},
                      {"granularity": policy["definition"][0]["granularity"], "resample": 9_223_372_036,
                       "start": FIRST, "stop": LAST}):
        reply = client.request("GET", f"/v1/metric/{metric}/measures?{urllib.parse.urlencode(arguments)}")
        assert reply.status in (200, 400, 404), (metric, arguments, reply)


@pytest.mark.parametrize("name", ODD_POLICIES)
def test_odd_policies_and_series_harm_nobody_else(service, client, neighbour, name):
    """Every odd series on every odd policy is aggregated, or refused with a reason."""
    definition, back_window = ODD_POLICIES[name]
    methods = ["mean", "std", "95pct", "rate:mean"]
    body = {"name": name, "definition": definition, "back_window": back_window, "aggregation_methods": methods}
    admin = service.connect()
    reply = admin.request("POST", "/v1/archive_policy", body)
    assert reply.status in (201, 400), reply
    if reply.status == 400:
        assert reply.body["description"]
        return
    policy = admin.call("GET", f"/v1/archive_policy/{name}")
    metrics = client.create_metrics(name, len(make_odd_series()))
    for metric, (what, series) in zip(metrics, make_odd_series().items(), strict=True):
        reply = client.request("POST", f"/v1/metric/{metric}/measures", series)
        assert reply.status in (202, 400), (what, reply)
        neighbour.check((name, what))
    service.await_aggregation()
    assert "Error processing" not in service.read_logs()
    for metric in metrics:
        read_everything(client, metric, policy)


def test_every_method_at_once_harms_nobody_else(service, client, neighbour):
    """A policy of all 216 methods, and 100,000 measures that seal as many buckets."""
    service.connect().create_policy("everything", [{"granularity": 1, "points": 1_000_000}], ["*"])
    metric, = client.create_metrics("everything", 1)
    assert 202 == client.push(metric, [(EPOCH_S + i, i) for i in range(100_000)]).status
    neighbour.check("every method")
    service.await_aggregation()
    assert 100_000 == len(client.read(metric, "95pct"))


def test_thousands_of_metrics_harm_nobody_else(service, client, neighbour):
    """Measures for all of them in one request, then some are deleted with measures waiting."""
    definitions = [MetricDefinition(uuid.uuid4(), "plain") for _ in range(METRICS)]
    service.backends.indexer.create_metrics(definitions, "odd")
    ids = [str(definition.id) for definition in definitions]
    for start in (0, 100):
        body = {metric: [{"timestamp": EPOCH_S + start + i, "value": i} for i in range(3)] for metric in ids}
        assert 202 == client.request("POST", "/v1/batch/metrics/measures", body).status
        for metric in ids[:20]:
            client.call("DELETE", f"/v1/metric/{metric}")
        del ids[:20]
        neighbour.check("thousands of metrics")
    service.await_aggregation()
    assert 6 == len(client.read(ids[-1]))
