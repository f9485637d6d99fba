"""Real writers of InfluxDB's protocol, and what Telegraf sends, as it sends it."""

import datetime
import gzip
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys

import influxdb
import pytest
import requests
from influxdb import exceptions

from gnocchi.tests.databases import die_with_parent
from gnocchi.tests.functional.daemons import TIMEOUT_S, wait_until
from gnocchi.tests.functional.service import ApiService

AUTH = ("admin", "password")


@pytest.fixture(scope="module")
def api():
    service = ApiService()
    service.start()
    try:
        for path, body in (
                ("archive_policy", {"name": "all", "aggregation_methods": ["sum", "count"],
                                    "definition": [{"granularity": "1s"}]}),
                ("archive_policy_rule", {"name": "all", "metric_pattern": "*", "archive_policy_name": "all"})):
            requests.post(f"{service.url}/v1/{path}", json=body, auth=AUTH, timeout=60).raise_for_status()
        yield service
    finally:
        service.stop()


@pytest.fixture(params=[False, True], ids=["plain", "gzip"])
def client(api, request):
    """The client of InfluxDB for Python, as doc/source/influxdb.rst has it."""
    made = influxdb.InfluxDBClient("127.0.0.1", api.port, "admin", "password", "metrics", path="v1/influxdb",
                                   gzip=request.param, retries=1)
    yield made
    made.close()


def read_values(api, database, resource, metric):
    """Return {timestamp: sum}, aggregated now."""
    reply = requests.get(f"{api.url}/v1/resource/{database}/{resource}/metric/{metric}/measures", auth=AUTH, timeout=60,
                         params={"refresh": "true", "aggregation": "sum"})
    reply.raise_for_status()
    return {timestamp[:19]: value for timestamp, _, value in reply.json()}


def test_client_for_python(api, client):
    """It makes a database, lists it, and writes points in every way that it has."""
    assert client.ping().startswith("Gnocchi ")
    client.create_database("metrics")
    client.create_database("metrics")
    assert {"name": "metrics"} in client.get_list_database()
    host = f"web-{client._gzip}"
    now = datetime.datetime(2026, 1, 1, 12)
    assert client.write_points([
        {"measurement": "cpu load", "tags": {"host": host, "region": "a=b, c/d"}, "time": now,
         "fields": {"idle": 99.5, "cores": 8, "negative": -3, "up": True, "text": 'say "x", y=z'}},
        {"measurement": "cpu load", "tags": {"host": host, "region": "a=b, c/d"},
         "time": now + datetime.timedelta(seconds=1), "fields": {"idle": 98.5}}])
    end = "@region=a=b, c_d"
    assert {"2026-01-01T12:00:00": 99.5, "2026-01-01T12:00:01": 98.5} == read_values(
        api, "metrics", host, f"cpu load.idle{end}")
    for name, value in (("cores", 8.0), ("negative", -3.0), ("up", 1.0)):
        assert {"2026-01-01T12:00:00": value} == read_values(api, "metrics", host, f"cpu load.{name}{end}")
    for precision, time in (("s", 1_700_000_000), ("ms", 1_700_000_000_000), ("u", 1_700_000_000_000_000),
                            ("n", 1_700_000_000_000_000_000)):
        assert client.write_points([f"lines,host={host} {precision}=1 {time}"], protocol="line",
                                   time_precision=precision)
        assert {"2023-11-14T22:13:20": 1.0} == read_values(api, "metrics", host, f"lines.{precision}")


def test_errors_as_the_client_reads_them(api, client):
    """A database that there is not is told in InfluxDB's words; a wrong line by its number."""
    client.create_database("metrics")
    with pytest.raises(exceptions.InfluxDBClientError, match='database not found: ."nosuch') as caught:
        client.write_points(["m,host=a f=1"], protocol="line", database="nosuch")
    assert 404 == caught.value.code
    with pytest.raises(exceptions.InfluxDBClientError, match="unable to parse line 2: a field is not name=") as caught:
        client.write_points(["m,host=a f=1", "m,host=a f="], protocol="line")
    assert 400 == caught.value.code
    with pytest.raises(exceptions.InfluxDBServerError, match="Query not implemented"):
        client.query("SELECT mean(f) FROM m")


def send(api, path, body, **headers):
    """Send a request as Go's library does, chunked and without Accept; return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    try:
        chunks = [body[start:start + 50] for start in range(0, len(body), 50)]
        headers |= {"Authorization": "Basic YWRtaW46", "Transfer-Encoding": "chunked"}
        connection.request("POST", path, iter(chunks), headers, encode_chunked=True)
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_telegraf(api, encoding):
    """It finds that there is no database, makes it, and writes; its chunks end in the middle of lines."""
    database, host = f"telegraf-{encoding}", f"{encoding} 1"
    escaped = host.replace(" ", "\\ ")
    lines = "".join(f"cpu,cpu=cpu{i},host={escaped} usage_idle={i}.5,usage_user=2i 1700000000000000000\n"
                    f'system,host={escaped} uptime_format=" 1:02\n, x=\\"y\\"",uptime={i}i {1700000000 + i}000000000\n'
                    for i in range(20)).encode()
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    body = lines
    if encoding == "gzip":
        headers["Content-Encoding"] = "gzip"
        body = gzip.compress(lines)
    path = f"/v1/influxdb/write?consistency=any&db={database}"
    status, reply = send(api, path, body, **headers)
    assert (404, f'database not found: "{database}"') == (status, json.loads(reply)["error"])
    status, reply = send(api, "/v1/influxdb/query", f"q=CREATE+DATABASE+%22{database}%22".encode(), **{
        "Content-Type": "application/x-www-form-urlencoded"})
    assert (200, {"results": [{"statement_id": 0}]}) == (status, json.loads(reply))
    assert (204, b"") == send(api, path, body, **headers)
    assert {"2023-11-14T22:13:20": 7.5} == read_values(api, database, host, "cpu.usage_idle@cpu=cpu7")
    values = read_values(api, database, host, "system.uptime")
    assert [float(i) for i in range(20)] == list(values.values())
    # The first two words decide that Telegraf drops what it cannot send, and says why.
    status, reply = send(api, path, b"cpu,host=a value\n")
    assert (400, "unable to parse line 1: a field is not name=value") == (status, json.loads(reply)["error"])


def test_chunks_that_break_off(api, client):
    """Nothing is stored of a line whose end may be missing."""
    client.create_database("metrics")
    host = f"broken-{client._gzip}"
    body = f"m,host={host} f=1 1700000000000000000\nm,host={host} f=12".encode()
    path = "/v1/influxdb/write?db=metrics"
    status, reply = send(api, path, body)
    assert (400, "A body in chunks has to end with a line break; this one was cut off") == (
        status, json.loads(reply)["error"])
    reply = requests.get(f"{api.url}/v1/resource/metrics/{host}", auth=AUTH, timeout=60)
    assert 404 == reply.status_code
    # What is compressed tells itself whether it is whole.
    assert (204, b"") == send(api, path, gzip.compress(body), **{"Content-Encoding": "gzip"})
    assert (204, b"") == send(api, path, body + b"\n")
    assert (204, b"") == send(api, path, b"")


#: As doc/source/influxdb.rst has it, with something to measure.
TELEGRAF = """
[agent]
  interval = "200ms"
  flush_interval = "200ms"
  hostname = "telegraf host"
[[inputs.cpu]]
[[inputs.system]]
[[outputs.influxdb]]
  urls = ["http://127.0.0.1:{port}/v1/influxdb"]
  database = "real"
  username = "admin"
  password = "none"
"""


def test_telegraf_itself(api, tmp_path):
    """It makes its database and writes, without a word of complaint."""
    directory = pathlib.Path(sys.executable).parent
    program = shutil.which("telegraf", path=f"{directory}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs Telegraf: make telegraf")
    (tmp_path / "telegraf.conf").write_text(TELEGRAF.format(port=api.port))
    log = tmp_path / "telegraf.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, "--config", str(tmp_path / "telegraf.conf")], stdout=output,
                                   stderr=output, preexec_fn=die_with_parent)
        try:
            wait_until(lambda: is_written(api), log.read_text)
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)
    assert not [line for line in log.read_text().splitlines() if " E! " in line or " W! " in line]


def is_written(api):
    """Whether there are two measures of numbers and of counters."""
    try:
        return all(len(read_values(api, "real", "telegraf host", metric)) > 1
                   for metric in ("cpu.usage_idle@cpu=cpu-total", "system.uptime"))
    except requests.HTTPError as e:
        assert 404 == e.response.status_code, e.response.text
        return False


def test_no_unexpected_errors(api):
    """Nothing of all this was one."""
    assert "Traceback" not in api.log_file.read_text()


@pytest.mark.parametrize(("query", "status"), [
    ("CREATE DATABASE foobar;", 204), ("CREATE DATABASE foobar  ;", 204), ("CREATE DATABASE foobar  ;;;", 204),
    ("CrEaTe   Database foobar", 204), ("create Database    foobar", 204),
    ("create database\tfoobar WITH DURATION 3d", 204),
    ("SELECT", 501), ("hey yo foobar;", 501), ("help database foobar;", 501), ("something weird", 501),
    ("create stuff foobar", 501), ("create database foobar withdrawn", 501), ("create database 1", 501),
    ('create database ""', 501), ('create database "a', 501), ("", 501)])
def test_queries(api, query, status):
    """What makes a database, and what does not; contract, ingest protocols 2.2."""
    reply = requests.post(f"{api.url}/v1/influxdb/query", params={"q": query}, auth=AUTH, timeout=60)
    assert status == reply.status_code, reply.text
