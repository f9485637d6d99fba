"""Redis for everything: measures that wait, aggregates, and coordination."""

import base64
import contextlib
import http.client
import json
import os
import signal
import uuid

import pytest

from gnocchi.exceptions import BackendUnavailable
from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.functional.daemons import Deployment, wait_until
from gnocchi.tests.redis import PASSWORD, QUOTED_PASSWORD, make_certificate, make_tls_redis, watched_redis

#: Locks that a worker held when Redis went are free after so many seconds.
EXPIRY = "timeout=6"
AUTHORIZATION = {"Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Content-Type": "application/json"}


@pytest.fixture
def redis_server():
    yield from serve(lambda: make_redis(durable=True))


@contextlib.contextmanager
def deployed(directory, url):
    made = Deployment(directory, {
        "storage": {"driver": "redis", "redis_url": url},
        # What is processed was told of, or seen because its place in the backlog changed: nobody looks by himself.
        "metricd": {"metric_processing_delay": 3600, "metric_cleanup_delay": 3600}})
    try:
        made.upgrade("--sacks-number", "16")
        yield made
    finally:
        made.remove()


@pytest.fixture
def deployment(tmp_path, redis_server):
    with deployed(tmp_path, f"redis://127.0.0.1:{redis_server.port}?socket_timeout=20&{EXPIRY}") as made:
        yield made


def start(deployment):
    """Start both daemons and wait for them."""
    metricd, api = deployment.start("gnocchi-metricd"), deployment.start("gnocchi-api")
    api.wait_for("ready")
    metricd.wait_for("Joined coordination group", 2)
    return metricd, api


def wait_until_empty(deployment, metricd):
    """Wait until nothing waits; Redis may be away."""
    def is_empty():
        with contextlib.suppress(BackendUnavailable):
            return deployment.count_backlog() == 0
        return False

    wait_until(is_empty, lambda: metricd.output)


def stop(*daemons):
    for daemon in daemons:
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop()


def call(deployment, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", deployment.port, timeout=60)
    connection.request(method, path, None if body is None else json.dumps(body), AUTHORIZATION)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def post(deployment, ids, minute):
    return call(deployment, "POST", "/v1/batch/metrics/measures", {
        str(id): [{"timestamp": f"2026-01-01T00:{minute:02}:00", "value": 1.0}] for id in ids})


def count_points(deployment, id):
    status, text = call(deployment, "GET", f"/v1/metric/{id}/measures?granularity=60&aggregation=count")
    assert 200 == status, text
    return len(json.loads(text))


def test_measures_are_aggregated_at_once_and_after_an_outage(deployment, redis_server):
    """Without a full look at all sacks; while Redis is away clients are told, and nothing accepted is lost."""
    ids = sorted(deployment.create_metrics(40), key=uuid.UUID.hex.fget)
    metricd, api = start(deployment)
    for minute in range(3):
        status, text = post(deployment, ids, minute)
        assert 202 == status, text
        wait_until_empty(deployment, metricd)
    assert {3} == {count_points(deployment, id) for id in ids}
    redis_server.kill()
    for _ in range(2):
        status, text = post(deployment, ids, 3)
        assert 503 == status, text
        assert "redis: cannot store measures" in text
    metricd.wait_for("redis: cannot")
    redis_server.start()
    status, text = post(deployment, ids, 4)
    assert 202 == status, text
    wait_until_empty(deployment, metricd)
    assert {4} == {count_points(deployment, id) for id in ids}
    status, text = call(deployment, "GET", "/v1/status")
    assert {"metrics": 0, "measures": 0} == json.loads(text)["storage"]["summary"]
    stop(metricd, api)


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_tls_and_password(tmp_path, scheme):
    """For all three: measures, aggregates and locks; the password is in no log."""
    certificate, key = make_certificate(tmp_path)
    query = f"ssl_ca_certs={certificate}" + ("&ssl=true" if scheme == "redis" else "")
    for server in serve(lambda: make_tls_redis(certificate, key)):
        url = f"{scheme}://:{QUOTED_PASSWORD}@127.0.0.1:{server.port}?{query}&{EXPIRY}"
        with deployed(tmp_path, url) as deployment:
            daemons = metricd, _ = start(deployment)
            ids = deployment.create_metrics(20)
            assert 202 == post(deployment, ids, 1)[0]
            wait_until_empty(deployment, metricd)
            assert {1} == {count_points(deployment, id) for id in ids}
            server.kill()
            assert 503 == post(deployment, ids, 2)[0]
            metricd.wait_for("redis: cannot")
            server.start()
            assert 202 == post(deployment, ids, 3)[0]
            wait_until_empty(deployment, metricd)
            stop(*daemons)
            for daemon in daemons:
                assert PASSWORD not in daemon.output
                assert QUOTED_PASSWORD not in daemon.output


def test_replica_takes_the_place_of_the_master(tmp_path):
    """Sentinels say so; the daemons go on with it, and what it had is there."""
    with watched_redis() as servers, deployed(tmp_path, servers.url(socket_timeout=20, timeout=6)) as deployment:
        metricd, api = start(deployment)
        ids = deployment.create_metrics(20)
        assert 202 == post(deployment, ids, 1)[0]
        wait_until_empty(deployment, metricd)
        metricd.send(signal.SIGSTOP)
        for child in metricd.children().values():
            os.kill(child, signal.SIGSTOP)
        assert 202 == post(deployment, ids, 2)[0]
        wait_until(servers.replicate)
        servers.master.kill()
        metricd.send(signal.SIGCONT)
        for child in metricd.children().values():
            os.kill(child, signal.SIGCONT)
        wait_until(lambda: post(deployment, ids, 3)[0] == 202)
        wait_until_empty(deployment, metricd)
        assert {3} == {count_points(deployment, id) for id in ids}
        stop(metricd, api)


def test_change_of_sacks(deployment):
    """It needs an empty backlog, and then all goes on in the new sacks."""
    ids = deployment.create_metrics(20)
    deployment.post(ids)
    assert 1 == deployment.run("gnocchi-change-sack-size", "32").returncode
    metricd, api = start(deployment)
    wait_until_empty(deployment, metricd)
    stop(metricd, api)
    done = deployment.run("gnocchi-change-sack-size", "32")
    assert 0 == done.returncode, done.stdout
    deployment.close_backends()
    metricd, api = start(deployment)
    assert 202 == post(deployment, ids, 1)[0]
    wait_until_empty(deployment, metricd)
    assert {2} == {count_points(deployment, id) for id in ids}
    stop(metricd, api)
