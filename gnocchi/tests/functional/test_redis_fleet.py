"""Redis for everything: measures that wait, aggregates, and coordination."""

import base64
import http.client
import json
import uuid

import pytest

from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.functional.daemons import Deployment, wait_until

AUTHORIZATION = {"Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Content-Type": "application/json"}


@pytest.fixture
def redis_server():
    yield from serve(lambda: make_redis(durable=True))


@pytest.fixture
def deployment(tmp_path, redis_server):
    made = Deployment(tmp_path, {
        "storage": {"driver": "redis", "redis_url": f"redis://127.0.0.1:{redis_server.port}?socket_timeout=20"},
        # What is processed was told of, or seen because its place in the backlog changed: nobody looks by himself.
        "metricd": {"metric_processing_delay": 3600, "metric_cleanup_delay": 3600}})
    made.upgrade("--sacks-number", "16")
    yield made
    made.remove()


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
    metricd, api = deployment.start("gnocchi-metricd"), deployment.start("gnocchi-api")
    api.wait_for("ready")
    metricd.wait_for("Joined coordination group", 2)
    for minute in range(3):
        status, text = post(deployment, ids, minute)
        assert 202 == status, text
        wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
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
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    assert {4} == {count_points(deployment, id) for id in ids}
    status, text = call(deployment, "GET", "/v1/status")
    assert {"metrics": 0, "measures": 0} == json.loads(text)["storage"]["summary"]
    for daemon in (metricd, api):
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop()
