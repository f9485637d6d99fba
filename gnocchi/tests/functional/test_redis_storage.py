"""The daemons with aggregates in Redis, which goes away for a while."""

import base64
import http.client

import pytest

from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.functional.daemons import Deployment, wait_until

SACKS = 4
PATH = "/v1/metric/{}/measures?granularity=60"


@pytest.fixture
def redis_server():
    yield from serve(lambda: make_redis(durable=True))


@pytest.fixture
def deployment(tmp_path, redis_server):
    made = Deployment(tmp_path)
    made.configure({"storage": {"driver": "redis", "redis_url": f"redis://127.0.0.1:{redis_server.port}"},
                    "incoming": {"driver": "file"},
                    # Redis holds the locks, too, unless it is told otherwise; here they stay when it goes.
                    "DEFAULT": {"coordination_url": f"file://{tmp_path}/coordination"}})
    made.upgrade("--sacks-number", str(SACKS))
    yield made
    made.remove()


def get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={
        "Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Accept": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_redis_goes_and_comes_back(deployment, redis_server):
    """Meanwhile measures wait, and reads are 503, never an empty answer; then all goes on by itself."""
    ids = deployment.create_metrics(20)
    deployment.post(ids)
    metricd = deployment.start("gnocchi-metricd")
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    api = deployment.start("gnocchi-api")
    api.wait_for("ready")
    port = deployment.port
    status, text = get(port, PATH.format(ids[0]))
    assert 200 == status, text
    assert 1 == text.count("+00:00")
    redis_server.kill()
    deployment.post(ids, 1)
    metricd.wait_for("redis: cannot")
    # Of another sack than the first one, so that it was not read along with that.
    status, text = get(port, PATH.format(next(id for id in ids if id.int % SACKS != ids[0].int % SACKS)))
    assert 503 == status, text
    assert "redis" in text
    assert len(ids) == deployment.count_backlog()
    redis_server.start()
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    for id in ids:
        status, text = get(port, PATH.format(id))
        assert (200, 2) == (status, text.count("+00:00")), text
    for daemon in (metricd, api):
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop()
