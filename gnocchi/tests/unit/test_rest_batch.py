"""Who may post a batch, under policies of deployers."""

import json
import uuid

import pytest

from gnocchi.cli.manage import upgrade_all
from gnocchi.rest.app import load_app
from gnocchi.tests.unit.test_rest_app import JSON, make_conf, send  # noqa: F401

BOB = JSON | {"Authorization": "basic Ym9iOg=="}
MEASURES = [{"timestamp": "2020-01-01", "value": 1}]


@pytest.fixture
def app(make_conf, tmp_path):  # noqa: F811
    """Nobody may post to metrics called `secret`, and bob only to his own."""
    policy = tmp_path / "policy.yaml"
    policy.write_text('"post measures": "not \'secret\':%(name)s and (role:admin or user:%(creator)s)"\n')
    conf = make_conf(oslo_policy={"policy_file": str(policy)})
    upgrade_all(conf, 1)
    app = load_app(conf)
    send(app, "/v1/archive_policy", "POST", JSON, b'{"name": "low", "definition": [{"granularity": 60}]}')
    return app


def create(app, headers, name):
    body = json.dumps({"name": name, "archive_policy_name": "low"}).encode()
    return send(app, "/v1/metric", "POST", headers, body).json["id"]


@pytest.mark.parametrize(("headers", "names", "status"), [
    (JSON, ["a", "b"], 202), (JSON, ["a", "secret"], 403), (BOB, ["b"], 202), (BOB, ["a", "b"], 403)])
def test_policy_by_name(app, headers, names, status):
    """A rule that looks at more than creators is asked about each metric."""
    ids = {"a": create(app, JSON, "a"), "b": create(app, BOB, "b"), "secret": create(app, JSON, "secret")}
    body = json.dumps({ids[name]: MEASURES for name in names}).encode()
    assert send(app, "/v1/batch/metrics/measures", "POST", headers, body).status_int == status


def test_unknown_before_policy(app):
    """Metrics that do not exist are told first, whatever the rule looks at."""
    unknown = str(uuid.uuid4())
    body = json.dumps({create(app, JSON, "secret"): MEASURES, unknown.upper(): MEASURES}).encode()
    response = send(app, "/v1/batch/metrics/measures", "POST", BOB, body)
    assert (400, f"Unknown metrics: {unknown}") == (response.status_int, response.json["description"])
