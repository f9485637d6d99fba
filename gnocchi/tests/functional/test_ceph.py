"""The daemons with everything but the index in Ceph, whose OSD is killed for a while."""

import base64
import http.client
import json

import pytest

from gnocchi.tests.ceph import need_rados, serve_ceph
from gnocchi.tests.functional.daemons import TIMEOUT_S, Deployment, wait_until


@pytest.fixture(scope="module")
def ceph():
    """A cluster on a disk, with keys; its OSD finds all it had when it is started again."""
    need_rados()
    yield from serve_ceph("bluestore", cephx=True)


@pytest.fixture
def deployment(tmp_path, ceph, postgresql_server):
    pool = ceph.create_pool()
    key = ceph.create_user("gnocchi", mon="allow r", osd=f"allow rw pool={pool}")
    database = postgresql_server.create_database()
    made = Deployment(tmp_path, {
        "indexer": {"url": database},
        "storage": {"driver": "ceph", "ceph_pool": pool, "ceph_username": "gnocchi", "ceph_secret": key,
                    "ceph_timeout": 4, "ceph_conffile": ceph.client_config}})
    made.upgrade("--sacks-number", "4")
    yield made
    made.remove()
    postgresql_server.drop(database)


def ask(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    connection.request(method, path, body=json.dumps(body), headers={
        "Authorization": "Basic " + base64.b64encode(b"admin:").decode(), "Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_osd_is_killed_and_comes_back(deployment, ceph):
    """Meanwhile nothing is accepted, nothing read and nothing lost; then all goes on by itself."""
    key = deployment.options["storage"]["ceph_secret"]
    ids = deployment.create_metrics(20)
    metricd = deployment.start("gnocchi-metricd")
    api = deployment.start("gnocchi-api")
    api.wait_for("ready")
    port = deployment.port
    for number in range(3):
        status, text = ask(port, "POST", "/v1/batch/metrics/measures", {
            str(id): [{"timestamp": f"2026-01-01T0{number}:00:00", "value": number}] for id in ids})
        assert 202 == status, text
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    path = f"/v1/metric/{ids[0]}/measures"
    assert (200, 3) == (ask(port, "GET", f"{path}?granularity=60")[0],
                        len(json.loads(ask(port, "GET", f"{path}?granularity=60")[1])))
    deployment.post(ids, 600)
    ceph.osd.kill()
    texts = []
    for method, where, body in (("POST", path, [{"timestamp": "2026-01-01T11:00:00", "value": 1}]),
                                ("GET", f"/v1/metric/{ids[1]}/measures", None)):
        status, text = ask(port, method, where, body)
        assert (503, True) == (status, "ceph: cannot" in text), text
        texts.append(text)
    metricd.wait_for("ceph: cannot")
    ceph.start_osd()
    wait_until(lambda: ask(port, "POST", path, [{"timestamp": "2026-01-01T11:00:00", "value": 1}])[0] == 202,
               lambda: api.output)
    wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
    for id in ids:
        status, text = ask(port, "GET", f"/v1/metric/{id}/measures?granularity=60&aggregation=count")
        assert 200 == status, text
        assert [1.0] * (5 if id == ids[0] else 4) == [value for _, _, value in json.loads(text)]
    for daemon in (metricd, api):
        assert "Traceback" not in daemon.output
        assert 0 == daemon.stop()
        texts.append(daemon.output)
    assert not any(key in text for text in texts)
