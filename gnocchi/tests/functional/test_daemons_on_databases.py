"""The daemons on each database, from an empty one to an aggregate that is read back."""

import base64
import json
import urllib.request

import pytest

from gnocchi.tests.functional.daemons import TIMEOUT_S, Deployment, wait_until


@pytest.fixture
def deployment(tmp_path, empty_database_url):
    made = Deployment(tmp_path, {"indexer": {"url": empty_database_url}})
    yield made
    made.remove()


def get(port, path):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={
        "Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        return json.load(answer)


def test_measures_become_aggregates(deployment):
    """Upgrade, API and metricd are processes of their own; hours are sealed, so that every kind of row is written."""
    deployment.upgrade("--sacks-number", "4")
    ids = deployment.create_metrics(20)
    for hour in range(3):
        deployment.post(ids, 60 * hour)
    metricd = deployment.start("gnocchi-metricd")
    api = deployment.start("gnocchi-api")
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    api.wait_for(r"ready in \d+ seconds")
    for id in ids:
        measures = get(deployment.port, f"/v1/metric/{id}/measures?granularity=3600&aggregation=count")
        assert [1.0, 1.0, 1.0] == [value for _, _, value in measures]
    status = get(deployment.port, "/v1/status?details=false")
    assert 0 == status["storage"]["summary"]["measures"]
    for daemon in (metricd, api):
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop()
