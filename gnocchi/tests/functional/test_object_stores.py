"""The daemons with measures that wait, and aggregates, in an object store, which goes away for a while."""

import base64
import http.client
import json

import numpy
import pytest

from gnocchi import metric_ids
from gnocchi.tests.functional.daemons import Deployment, wait_until

AUTHORIZATION = {"Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Content-Type": "application/json"}

SACKS = 8

#: Fixtures with their servers, and what [storage] says besides.
STORES = {"swift": ("swift", {"swift_container_prefix": "daemons", "swift_container_prefix_all": True}),
          "s3": ("gateway", {"s3_bucket_prefix": "daemons"})}


@pytest.fixture(params=STORES)
def store(request):
    """The kind of store, its server, and what [storage] says of it."""
    fixture, options = STORES[request.param]
    server = request.getfixturevalue(fixture)
    return request.param, server, server.options | options


@pytest.fixture
def deployment(tmp_path, store):
    kind, _, options = store
    made = Deployment(tmp_path, {"storage": {"driver": kind, **options},
                                 "DEFAULT": {"coordination_url": f"file://{tmp_path}/coordination",
                                             "parallel_operations": 4}})
    made.upgrade("--sacks-number", str(SACKS))
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


def count_points(deployment, id, refresh=False):
    status, text = call(deployment, "GET", f"/v1/metric/{id}/measures?granularity=60&aggregation=count"
                                           f"&refresh={refresh}")
    assert 200 == status, text
    return len(json.loads(text))


def test_store_goes_and_comes_back(deployment, store):
    """While it is away clients are told, and nothing accepted is lost; then all goes on by itself."""
    kind, server, _ = store
    ids = deployment.create_metrics(20)
    metricd, api = deployment.start("gnocchi-metricd"), deployment.start("gnocchi-api")
    api.wait_for("ready")
    for minute in range(3):
        status, text = post(deployment, ids, minute)
        assert 202 == status, text
    assert 3 == count_points(deployment, ids[0], refresh=True)
    sacks = metric_ids.sack_numbers(metric_ids.pack_ids(ids), SACKS)
    # Of another sack: what the API has read of the first one's it remembers.
    unread = ids[int(numpy.flatnonzero(sacks != sacks[0])[0])]
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    incoming = deployment.backends.incoming
    # Deleted soon after all sacks have committed what they had of it.
    wait_until(lambda: not list(incoming._store.list("", "")), lambda: metricd.output)
    server.kill()
    metricd.wait_for(f"{kind}: cannot")
    for status, text in (post(deployment, ids, 3), call(deployment, "GET", f"/v1/metric/{unread}/measures")):
        assert (503, True) == (status, f"{kind}: cannot" in text), text
    server.start()
    status, text = post(deployment, ids, 4)
    assert 202 == status, text
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    assert {4} == {count_points(deployment, id) for id in ids}
    for daemon in (metricd, api):
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop()
