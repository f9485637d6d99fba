"""The published client's commands for resource types, resources, their history and search, on a real service."""

import contextlib
import io
import json

import pytest
from gnocchiclient import shell

from gnocchi.tests.functional.service import ApiService

ID = "5a301761-aaaa-46e2-8900-8b4f6fe6675a"


@pytest.fixture(scope="module")
def service():
    service = ApiService({"api": {"max_limit": 3}})
    service.start()
    yield service
    service.stop()


@pytest.fixture
def gnocchi(service, monkeypatch):
    """Run a command of the client and return what it prints as JSON, or its error."""
    monkeypatch.setenv("OS_AUTH_TYPE", "gnocchi-basic")
    monkeypatch.setenv("GNOCCHI_USER", "admin")
    monkeypatch.setenv("GNOCCHI_ENDPOINT", service.url)

    def run(*arguments, output=True):
        printed, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
            code = shell.GnocchiShell().run([*arguments, *(("-f", "json") if output else ())])
        assert code == 0, errors.getvalue() + printed.getvalue()
        return json.loads(printed.getvalue()) if output else printed.getvalue()

    return run


def fails(gnocchi, text, *arguments):
    with pytest.raises(AssertionError, match=text):
        gnocchi(*arguments, output=False)


def test_commands(gnocchi):
    """A life of a type and its resources, as an operator leads it."""
    gnocchi("archive-policy", "create", "low", "-d", "granularity:1m,points:60")
    made = gnocchi("resource-type", "create", "server", "-a", "flavor:string:true:max_length=64",
                   "-a", "vcpus:number:false:min=1", "-a", "shared:bool:false", "-a", "host:uuid:false")
    assert ("server", "active") == (made["name"], made["state"])
    fails(gnocchi, "Resource type server already exists", "resource-type", "create", "server")
    assert ["generic", "server"] == [row["name"] for row in gnocchi("resource-type", "list")]
    shown = gnocchi("resource-type", "show", "server")
    assert "required=True" in shown["attributes/flavor"]
    changed = gnocchi("resource-type", "update", "server", "-a", "zone:string:true:fill=a", "-r", "host")
    assert "attributes/zone" in changed
    assert "attributes/host" not in changed

    made = gnocchi("resource", "create", ID, "-t", "server", "-a", "flavor:small", "-a", "vcpus:4", "-a", "shared:true",
                   "-a", "zone:b", "-a", "project_id:p", "-n", "cpu:low")
    assert (ID, 4.0, True, "b") == (made["id"], made["vcpus"], made["shared"], made["zone"])
    fails(gnocchi, f"Resource {ID} already exists", "resource", "create", ID, "-t", "server", "-a", "flavor:x",
          "-a", "zone:b")
    for number in range(4):
        gnocchi("resource", "create", f"web-{number}", "-t", "server", "-a", "flavor:large", "-a", "zone:c")
    assert made == gnocchi("resource", "show", ID, "-t", "server")
    changed = gnocchi("resource", "update", ID, "-t", "server", "-a", "flavor:huge", "-n", "disk:low")
    assert "huge" == changed["flavor"]
    assert {"cpu", "disk"} == changed["metrics"].keys()
    changed = gnocchi("resource", "update", ID, "-t", "server", "-d", "cpu")
    assert {"disk"} == changed["metrics"].keys()
    history = gnocchi("resource", "history", ID, "-t", "server")
    assert ["small", "huge"] == [row["flavor"] for row in history]
    assert 1 == len(gnocchi("resource", "history", ID, "-t", "server", "--limit", "1"))

    assert 5 == len(gnocchi("resource", "list", "-t", "server"))
    assert ["web-3"] == [row["original_resource_id"] for row in gnocchi(
        "resource", "list", "-t", "generic", "--sort", "original_resource_id:desc", "--limit", "1")]


def test_search(gnocchi):
    """Filters in text, also of history; and deletion by them."""
    def search(query, *arguments):
        return [row["original_resource_id"] for row in gnocchi("resource", "search", query, "-t", "server", *arguments)]

    assert [ID] == search("flavor = 'huge' and vcpus > 3")
    assert 4 == len(search("not (flavor = 'huge' or zone = 'b')"))
    assert ["web-0", "web-2"] == search("id in ['web-0', 'web-2']", "--sort", "original_resource_id:asc")
    assert [ID] == search("flavor = 'small'", "--history")
    assert [] == search("flavor = 'small'")
    assert 2 == len(search("flavor like 'lar%'", "--limit", "2"))
    fails(gnocchi, "Resource type server has no nope attribute", "resource", "search", "nope=1", "-t", "server")
    fails(gnocchi, "Invalid filter: Expected", "resource", "search", "flavor ==", "-t", "server")
    deleted = gnocchi("resource", "batch", "delete", "flavor = 'large' and id != 'web-1'", "-t", "server")
    assert 3 == deleted["deleted"]


def test_measures_by_resource(gnocchi, tmp_path):
    """A batch whose metrics are made on the way."""
    gnocchi("archive-policy-rule", "create", "all", "-m", "*", "-a", "low")
    body = tmp_path / "batch.json"
    body.write_text(json.dumps({"web-1": {"cpu": [{"timestamp": "2020-01-01T00:00:00", "value": 3}]}}))
    fails(gnocchi, "Unknown metrics: .*/cpu", "measures", "batch-resources-metrics", str(body))
    gnocchi("measures", "batch-resources-metrics", "--create-metrics", str(body), output=False)
    shown = gnocchi("measures", "show", "--resource-id", "web-1", "cpu", "--refresh")
    assert [3.0] == [row["value"] for row in shown]


def test_deletion(gnocchi):
    fails(gnocchi, "Resource type server is still in use", "resource-type", "delete", "server")
    for id in (ID, "web-1"):
        gnocchi("resource", "delete", id, output=False)
    fails(gnocchi, f"Resource {ID} does not exist", "resource", "show", ID)
    gnocchi("resource-type", "delete", "server", output=False)
    fails(gnocchi, "Resource type server does not exist", "resource-type", "show", "server")
