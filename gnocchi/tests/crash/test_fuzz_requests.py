"""Malformed requests of every kind against a real API: never a 5xx, never silence, and always a reason."""

import itertools
import math
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnocchi.tests.crash.service import ANSWER_S, Reply, Service
from gnocchi.tests.remote_write import compress, encode_request

AT = "2025-06-15T12:00:00"
EXAMPLES = 300


class Endpoint(NamedTuple):
    """A request that succeeds, to be spoilt.

    path : with {names} that `World` fills in;  arguments : names of query arguments;  body : None if it takes none
    """

    method: str
    path: str
    arguments: tuple[str, ...] = ()
    body: Any = None


PAGE = ("limit", "marker", "sort")
READ = ("start", "stop", "granularity", "resample", "aggregation", "refresh")
MEASURES = [{"timestamp": AT, "value": 1.5}]
NEW_METRIC = {"name": "m", "unit": "B", "archive_policy_name": "{policy}", "resource_id": "{resource}"}

ENDPOINTS = [
    Endpoint("GET", "/"),
    Endpoint("GET", "/healthcheck", ("detailed",)),
    Endpoint("GET", "/v1/"),
    Endpoint("GET", "/v1/capabilities"),
    Endpoint("GET", "/v1/status", ("details",)),
    Endpoint("GET", "/v1/archive_policy"),
    Endpoint("POST", "/v1/archive_policy", (), {
        "name": "p", "back_window": 1, "aggregation_methods": ["mean", "-max"],
        "definition": [{"granularity": "1s", "timespan": 60}, {"granularity": 60, "points": 10}]}),
    Endpoint("GET", "/v1/archive_policy/{policy}"),
    Endpoint("PATCH", "/v1/archive_policy/{policy}", (), {
        "definition": [{"granularity": 1, "points": 10_000}, {"granularity": 60, "points": 999}], "back_window": 1}),
    Endpoint("DELETE", "/v1/archive_policy/{policy}"),
    Endpoint("GET", "/v1/archive_policy_rule"),
    Endpoint("POST", "/v1/archive_policy_rule", (), {
        "name": "r", "metric_pattern": "x.*", "archive_policy_name": "{policy}"}),
    Endpoint("GET", "/v1/archive_policy_rule/{rule}"),
    Endpoint("PATCH", "/v1/archive_policy_rule/{rule}", (), {"name": "{rule}"}),
    Endpoint("GET", "/v1/metric", ("id", "name", "unit", "archive_policy_name", "creator", "user_id", "project_id",
                                   "status", *PAGE)),
    Endpoint("POST", "/v1/metric", (), NEW_METRIC),
    Endpoint("GET", "/v1/metric/{metric}"),
    Endpoint("DELETE", "/v1/metric/{missing}"),
    Endpoint("GET", "/v1/metric/{metric}/measures", READ),
    Endpoint("POST", "/v1/metric/{metric}/measures", (), MEASURES),
    Endpoint("POST", "/v1/batch/metrics/measures", (), {"{metric}": MEASURES}),
    Endpoint("GET", "/v1/resource"),
    Endpoint("GET", "/v1/resource/generic", ("details", "attrs", "history", *PAGE)),
    Endpoint("POST", "/v1/resource/generic", (), {
        "id": "r", "started_at": AT, "ended_at": AT, "user_id": "u", "project_id": "p",
        "metrics": {"cpu": {"archive_policy_name": "{policy}", "unit": "%"}, "given": "{metric}"}}),
    Endpoint("GET", "/v1/resource/generic/{resource}"),
    Endpoint("DELETE", "/v1/resource/generic/{missing}"),
    Endpoint("GET", "/v1/resource/generic/{resource}/metric"),
    Endpoint("POST", "/v1/resource/generic/{resource}/metric", (), {"more": {"archive_policy_name": "{policy}"}}),
    Endpoint("GET", "/v1/resource/generic/{resource}/metric/cpu"),
    Endpoint("GET", "/v1/resource/generic/{resource}/metric/cpu/measures", READ),
    Endpoint("POST", "/v1/resource/generic/{resource}/metric/cpu/measures", (), MEASURES),
    Endpoint("GET", "/v1/resource_type"),
    Endpoint("GET", "/v1/resource_type/generic"),
    Endpoint("GET", "/v1/influxdb/ping", ("verbose",)),
    Endpoint("POST", "/v1/influxdb/write", ("db", "precision", "u", "rp"), b"fuzz,host=fuzzed f=1.5 1700000000000000"),
    Endpoint("POST", "/v1/prometheus/write", (), compress(encode_request(
        ({"__name__": "fuzz.a", "job": "fuzz", "instance": "a"}, [(1.5, 1_700_000_000_000)])))),
]
WITH_BODY = [endpoint for endpoint in ENDPOINTS if endpoint.body is not None]
WITH_ARGUMENTS = [endpoint for endpoint in ENDPOINTS if endpoint.arguments]


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.path}"


ODD_TEXTS = ["", " ", "\0", "a\0b", "x" * 300, "x" * 9_000, "é", "\U0001f4a9", "\u2028", "\ud800", "\udfff\ud800",
             "%", "%00", "../etc/passwd", "/", "a/b", "'; DROP TABLE metric; --", "\\", "*", "[", "(", "None", "null",
             "true", "0", "-0", "-1", "1e400", "-1e400", "nan", "inf", "1_000", "\u0661", "0x10", "1e308", "1e-308",
             "9223372036854775807", "9223372036854775808", "18446744073709551616", "1" * 400, "1 hour", "-5 days",
             "99999999999 weeks", "0.0000000001s", "now", "1969-12-31T23:59:59", "2262-04-11T23:47:16.854775808",
             "9999-12-31T23:59:59", "10000-01-01", "2025-02-30", "2025-06-15T25:00:00", "2025-06-15T12:00:60",
             "2025-06-15T12:00:00+99:99", "Y", "M", "Z", "rate:", "rate:rate:mean", "101pct", "0pct", "1.5pct",
             "id:asc:nullsfirst", "id:up", ":asc", "-id", "00000000-0000-0000-0000-000000000000",
             "urn:uuid:" + "f" * 32, "{metric}"]

ODD_VALUES = [None, True, False, 0, -1, 1, 0.5, -0.0, 1e308, 1e-320, 2**31, 2**63, -2**63 - 1, 2**64, 10**400,
              math.nan, math.inf, -math.inf, [], [[]], {}, {"": None}, [None], [{}], ["mean"], {"a": {"b": {}}},
              *ODD_TEXTS]

RAW_BODIES = [b"", b" ", b"{", b"[", b"]", b"nul", b"null", b"true", b"NaN", b'"', b'"x"', b"0", b"{}", b"[]", b"[[]]",
              b"\xff\xfe", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a": \xff}', b'{"a": 1,}', b'{"a": 1} x',
              b"{'a': 1}",
              b'{"name": "\\ud800"}', b'{"\\udfff": []}', b"[" * 100_000, b'{"a":' * 50_000, b"[" * 500 + b"]" * 500,
              b'{"a": 1, "a": 2}', b"1" * 5000, b"-", b"1e99999", b"\0" * 10, b'[{"timestamp": 1e999, "value": 1}]',
              b'{"timestamp": 0, "value": 0}', b"<xml/>", b"a=1&b=2"]

#: Sent in place of, or beside, what a request should have.
ODD_HEADERS = [
    {"Content-Type": ""}, {"Content-Type": "text/plain"}, {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "application/json;"}, {"Content-Type": "\xff"}, {"Content-Type": "multipart/form-data; boundary="},
    {"Content-Encoding": "gzip"}, {"Accept-Encoding": "identity;q=0, *;q=0"}, {"Accept-Language": "\xe9"},
    {"Accept": "application/json, */*"}, {"Accept": "application/json;q=nonsense, application/json"},
    {"Authorization": ""}, {"Authorization": "Basic"}, {"Authorization": "Basic !!!"}, {"Authorization": "Basic /w=="},
    {"Authorization": "Basic " + "YWRtaW46" * 500}, {"Authorization": "Bearer x"}, {"Authorization": "\xff\xfe"},
    {"If-Match": "x"}, {"If-Match": '"'}, {"If-None-Match": "*"}, {"If-None-Match": 'W/"'},
    {"If-Modified-Since": "yesterday"}, {"If-Unmodified-Since": "Mon, 99 Foo 99999 99:99:99 GMT"},
    {"Range": "bytes=a-b"}, {"Expect": "the unexpected"}, {"Host": "\xff"}, {"Host": "a b"}, {"Cookie": "=;=;"},
    {"X-HTTP-Method-Override": "DELETE"}, {"X-Forwarded-For": "x"}, {"X-Forwarded-Proto": "gopher"},
    {"Forwarded": "for=;;;="}, {"Origin": "null"}, {"Origin": "x" * 3000}, {"X-Roles": "admin"}, {"X-Long": "x" * 6000},
]

ODD_METHODS = ["HEAD", "OPTIONS", "TRACE", "PUT", "PATCH", "POST", "DELETE", "GET", "PROPFIND", "get", "X" * 100]


class World:
    """The API, what exists in it, and a connection."""

    def __init__(self, service: Service) -> None:
        self.port = service.port
        self._client = service.connect()
        definition = [{"granularity": 1, "points": 10_000}, {"granularity": 60, "points": 1000}]
        self._client.create_policy("fuzz", definition, ["mean", "max", "rate:mean"], 1)
        self._client.call("POST", "/v1/archive_policy_rule",
                          {"name": "fuzz", "metric_pattern": "fuzz.*", "archive_policy_name": "fuzz"})
        self._client.call("POST", "/v1/resource_type", {"name": "influxdb"})
        resource = self._client.call("POST", "/v1/resource/generic",
                                     {"id": "fuzz", "metrics": {"cpu": {"archive_policy_name": "fuzz"}}})
        self.names = {"policy": "fuzz", "rule": "fuzz", "resource": resource["id"],
                      "metric": self._client.create_metrics("fuzz", 1)[0],
                      "missing": "11111111-2222-3333-4444-555555555555"}

    def fill(self, value: Any) -> Any:
        """Replace the {names} in what an endpoint says."""
        if isinstance(value, str):
            for name, known in self.names.items():
                value = value.replace(f"{{{name}}}", known)
            return value
        if isinstance(value, list):
            return [self.fill(item) for item in value]
        if isinstance(value, dict):
            return {self.fill(key): self.fill(item) for key, item in value.items()}
        return value

    def send(self, method: str, path: str, arguments: list[tuple[str, str]] = (), body: Any = None,
             headers: dict[str, str] | None = None) -> Reply:
        """Send a request and check its reply; anything but bytes is encoded as JSON."""
        query = urllib.parse.urlencode(arguments, errors="surrogatepass")
        path = self.fill(path) + (f"?{query}" if query else "")
        reply = self._client.request(method, path, body, headers)
        check(method, reply, f"{method} {path[:300]} {headers} {str(body)[:300]}")
        return reply

    def send_apart(self, *arguments: Any) -> Reply:
        """Send a request on a connection of its own."""
        self._client.disconnect()
        return self.send(*arguments)


#: Causes of which the description of a 400 says more.
EXPLAINED = {"Invalid input", "Unable to decode body", "Argument value error", "Attribute value error"}


def check(method: str, reply: Reply, told: str) -> None:
    """Whatever was sent: no failure of the server; errors are JSON, and a 400 has a reason."""
    assert reply.status < 500, (told, reply)
    if reply.status < 400 or method == "HEAD":
        return
    assert isinstance(reply.body, dict), (told, reply)
    assert reply.status == reply.body["code"], (told, reply)
    if reply.status == 400:
        description = reply.body["description"]
        assert description, (told, reply)
        if isinstance(description, dict):
            assert description["cause"], (told, reply)
            assert description["cause"] not in EXPLAINED or description["reason"], (told, reply)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("fuzz"), {"api": {"workers": 1, "max_body_size": 1 << 20}})
    try:
        service.upgrade("--sacks-number", "4")
        api = service.start("gnocchi-api")
        service.await_answers(api)
        world = World(service)
        yield world
        assert "Traceback" not in api.output
        assert 0 == api.stop()
    finally:
        service.remove()


def spoil(value: Any, odd: Any) -> Iterator[Any]:
    """Yield copies of a body with one thing wrong: a value replaced, a key changed, added or left out."""
    yield odd
    if isinstance(value, list):
        yield [*value, odd]
        for i, item in enumerate(value):
            yield from ([*value[:i], spoilt, *value[i + 1:]] for spoilt in spoil(item, odd))
    elif isinstance(value, dict):
        if isinstance(odd, str):
            yield {**value, odd: 1}
        for key, item in value.items():
            rest = {other: kept for other, kept in value.items() if other != key}
            yield rest
            if isinstance(odd, str):
                yield {odd: item, **rest}
            yield from ({**value, key: spoilt} for spoilt in spoil(item, odd))


def collect(requests: Iterator[tuple]) -> None:
    """Send all requests, and fail with the first of those that fail."""
    failures = []
    for send, *arguments in requests:
        try:
            send(*arguments)
        except AssertionError as e:
            failures.append(str(e)[:1000])
    assert not failures, f"{len(failures)} requests, such as " + "\n".join(failures[:10])


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_requests_as_they_should_be(world, endpoint):
    """What is spoilt below is sound: each request succeeds, or is refused for the state of things alone."""
    reply = world.send(endpoint.method, endpoint.path, body=world.fill(endpoint.body))
    assert reply.status in (200, 201, 202, 204) or endpoint.method == "DELETE" or reply.status == 409, reply


@pytest.mark.parametrize("endpoint", WITH_BODY, ids=name_of)
def test_odd_bodies(world, endpoint):
    """One thing wrong at a time, and bodies that are no JSON or not the JSON that was meant."""
    bodies = [*RAW_BODIES, *(body for odd in ODD_VALUES for body in spoil(world.fill(endpoint.body), odd))]
    collect((world.send, endpoint.method, endpoint.path, (), body) for body in bodies if body is not None)


@pytest.mark.parametrize("endpoint", WITH_ARGUMENTS, ids=name_of)
def test_odd_arguments(world, endpoint):
    """Each query argument with each odd text, alone and twice."""
    collect((world.send, endpoint.method, endpoint.path, arguments)
            for name in (*endpoint.arguments, "unheard-of") for odd in ODD_TEXTS
            for arguments in ([(name, odd)], [(name, "1"), (name, odd)]))


def test_odd_query_strings(world):
    """Queries that are no list of names and values."""
    queries = ["?", "?&", "?=", "?=&=", "?a", "?%", "?%zz=1", "?%ff=%fe", "?limit=%ff", "?limit=%00", "?;",
               "?limit=1;2", "?limit[]=1", "?limit=1&limit=2", "??limit=1", "?" + "a=1&" * 5000, "?sort=" + "a," * 5000,
               "#x", "?a#b"]
    collect((world.send, endpoint.method, endpoint.path + query) for endpoint in ENDPOINTS
            if endpoint.method == "GET" for query in queries)


@pytest.mark.parametrize("endpoint", [e for e in ENDPOINTS if "{" in e.path], ids=name_of)
def test_odd_paths(world, endpoint):
    """Each name in a path replaced by each odd text, and followed by more."""
    head, _, tail = endpoint.path.partition("{")
    tail = tail.partition("}")[2]
    segments = [urllib.parse.quote(odd, safe="", errors="surrogatepass") for odd in ODD_TEXTS if len(odd) < 10_000]
    segments += ["%ff", "%c3%28", "%", "%2", "%2e%2e", "..", ".", ";a=b", "a.json", "%2f", "/", "//"]
    body = world.fill(endpoint.body)
    collect((world.send, endpoint.method, path, (), body)
            for segment in segments
            for path in (head + segment + tail, f"{endpoint.path}/{segment}"))


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_odd_headers(world, endpoint):
    """Headers that contradict themselves, the body or the protocol."""
    body = world.fill(endpoint.body)
    # On a connection each: after some of them, such as an odd Expect, the server ends it.
    collect((world.send_apart, endpoint.method, endpoint.path, (), body, headers) for headers in ODD_HEADERS)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_odd_methods(world, endpoint):
    """Methods that a path does not have, with and without a body."""
    collect((world.send, method, endpoint.path, (), body)
            for method in ODD_METHODS for body in (None, b"", b"{}", b"["))


def test_connections_outlive_bodies_that_nobody_wants(world):
    """A refusal that comes before the body does not end the connection, on which the next request is on its way."""
    collect((world.send, method, path, (), b"x" * size) for size in (1, 100, 50_000) for _ in range(100)
            for method, path in (("POST", "/v1/nowhere"), ("PUT", "/v1/metric"), ("DELETE", "/v1/metric/{missing}")))


# The same, at random

TEXTS = st.one_of(st.sampled_from(ODD_TEXTS), st.text(max_size=30), st.text("0123456789.:-+TZeE ", max_size=30))
NUMBERS = st.one_of(st.integers(-2**70, 2**70), st.floats())
JSON = st.recursive(st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=8)
RANDOMLY = settings(max_examples=EXAMPLES, deadline=None, database=None, print_blob=True,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@st.composite
def spoilt_bodies(draw) -> tuple[Endpoint, Any]:
    endpoint = draw(st.sampled_from(WITH_BODY))
    return endpoint, draw(st.one_of(st.binary(max_size=50), _spoilt(draw, endpoint.body)))


def _spoilt(draw, value: Any) -> st.SearchStrategy:
    """One of the ways to spoil a value, with something random."""
    ways = list(itertools.islice(spoil(value, draw(JSON)), 200))
    return st.sampled_from(ways)


@RANDOMLY
@given(request=spoilt_bodies())
def test_random_bodies(world, request):
    endpoint, body = request
    world.send(endpoint.method, endpoint.path, (), body if isinstance(body, bytes) else world.fill(body))


@RANDOMLY
@given(endpoint=st.sampled_from(WITH_ARGUMENTS), data=st.data())
def test_random_arguments(world, endpoint, data):
    names = st.sampled_from([*endpoint.arguments, "unheard-of"])
    values = st.one_of(TEXTS, NUMBERS.map(str), st.sampled_from(sorted(world.names.values())))
    world.send(endpoint.method, endpoint.path, data.draw(st.lists(st.tuples(names, values), max_size=6)))


@RANDOMLY
@given(endpoint=st.sampled_from(ENDPOINTS), segments=st.lists(TEXTS.filter(lambda text: len(text) < 1000), max_size=3),
       keep=st.integers(1, 5), method=st.sampled_from(["GET", "POST", "PATCH", "PUT"]))
def test_random_paths(world, endpoint, segments, keep, method):
    kept = endpoint.path.split("/")[:keep]
    odd = [urllib.parse.quote(segment, safe="", errors="surrogatepass") for segment in segments]
    world.send(method, "/" + "/".join([*kept, *odd]).lstrip("/"), (), world.fill(endpoint.body))


HEADER_TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)


@RANDOMLY
@given(endpoint=st.sampled_from(ENDPOINTS), name=st.sampled_from(
           ["Content-Type", "Authorization", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since",
            "Origin", "Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Roles", "Cookie", "Range"]),
       value=HEADER_TEXTS)
def test_random_headers(world, endpoint, name, value):
    world.send(endpoint.method, endpoint.path, (), world.fill(endpoint.body), {name: value})


RAW_POST = (b"POST /v1/metric HTTP/1.1\r\nHost: a\r\nAuthorization: Basic YWRtaW46\r\n"
            b"Content-Type: application/json\r\n")
RAW_REQUESTS = [
    b"", b"\r\n\r\n", b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost a\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n", b"GET /" + b"x" * 1_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 10_000 + b"\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
    RAW_POST + b"Content-Length: -1\r\n\r\n{}", RAW_POST + b"Content-Length: x\r\n\r\n{}",
    RAW_POST + b"Content-Length: 5\r\n\r\n{}", RAW_POST + b"Content-Length: 99999999999999999999\r\n\r\n{}",
    RAW_POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    RAW_POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", RAW_POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}",
    RAW_POST + b"Transfer-Encoding: nonsense\r\n\r\n{}",
    RAW_POST + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    RAW_POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
]


@pytest.mark.parametrize("number", range(len(RAW_REQUESTS)))
def test_what_is_no_http(world, number):
    """The connection ends, or tells a 4xx; the server goes on."""
    with socket.create_connection(("127.0.0.1", world.port), timeout=ANSWER_S) as connection:
        try:
            connection.sendall(RAW_REQUESTS[number])
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(1 << 16)
        except OSError as e:
            assert not isinstance(e, TimeoutError)
            answer = b""    # it was ended by the server
    assert not answer.startswith((b"HTTP/1.1 5", b"HTTP/1.0 5")), answer
    assert 200 == world.send("GET", "/v1/metric").status
