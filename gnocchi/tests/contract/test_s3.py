"""What is particular to S3: buckets, keys that are refused, calls of bounded size, and its absence."""

import contextlib

import pytest

from gnocchi.common import objects as objects_module
from gnocchi.common import s3 as s3_module
from gnocchi.common.s3 import Bucket
from gnocchi.exceptions import BackendUnavailable, ObjectNotFound
from gnocchi.incoming.s3 import S3Driver as IncomingDriver
from gnocchi.storage.drivers.s3 import S3Driver
from gnocchi.tests.backlog import drain, make_batch, make_id
from gnocchi.tests.broken_connections import check_broken_connections
from gnocchi.tests.faulty import faulty

BATCH = make_batch((make_id(0), [(1, 1.0)]))


@pytest.fixture
def driver(gateway):
    driver = S3Driver("special", 3, **gateway.arguments)
    driver.upgrade()
    yield driver
    driver.delete_many(list(driver.list("")))
    driver.close()


@pytest.mark.parametrize("wrong", [{"access_key_id": "hush-1"}, {"secret_access_key": "hush-2"}])
def test_wrong_keys(gateway, wrong):
    """The text says so, and not what was tried."""
    driver = S3Driver("special", **(gateway.arguments | wrong))
    for call in (lambda: driver.get("a/1"), lambda: driver.put("a/1", b""), lambda: list(driver.list("")),
                 driver.upgrade):
        with pytest.raises(BackendUnavailable, match=r"^s3: cannot .*: 403 \w+$") as e:
            call()
        assert "hush" not in str(e.value)


def test_no_keys(gateway, monkeypatch):
    """Who has none, and no file and no role either, is told."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    nothing = {"access_key_id": "", "secret_access_key": "", "region_name": ""}
    with pytest.raises(BackendUnavailable, match="s3: cannot read a/1: NoCredentialsError"):
        S3Driver("special", **(gateway.arguments | nothing)).get("a/1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.arguments["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.arguments["secret_access_key"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "default")
    S3Driver("special", **(gateway.arguments | nothing)).upgrade()


def test_no_bucket(gateway):
    """That is no missing object; the text says what to run."""
    storage = S3Driver("nowhere", **gateway.arguments)
    incoming = IncomingDriver(4, "nowhere", **gateway.arguments)
    for call in (lambda: storage.get("a/1"), lambda: storage.get("a/1", 3, 3), lambda: storage.put("a/1", b"x"),
                 lambda: list(storage.list("")), lambda: storage.delete_many(["a"]),
                 lambda: incoming.write_measures(BATCH), lambda: incoming.list_backlogs({0: {}}), incoming.check):
        with pytest.raises(BackendUnavailable, match="there is no nowhere-.*; gnocchi-upgrade has to"):
            call()


def test_region_of_buckets(gateway):
    """It goes to the server, which knows one only; where Amazon wants none, none is said."""
    with pytest.raises(BackendUnavailable, match="cannot create bucket elsewhere: 400 InvalidLocationConstraint"):
        Bucket("elsewhere", **(gateway.arguments | {"region_name": "eu-west-1"})).create()
    Bucket("elsewhere", **(gateway.arguments | {"region_name": "us-east-1"})).create()


def test_pieces(driver, monkeypatch):
    """More than one call lists or deletes."""
    monkeypatch.setattr(s3_module, "KEYS_AT_ONCE", 7)
    keys = [f"a b/{number:03d}/ü%+&" for number in range(30)]
    driver.put_many([(key, b"x") for key in keys])
    assert keys == list(driver.list("a b/"))
    assert keys[11:] == list(driver._objects.list("a b/", keys[10]))
    driver.delete_many([*keys[1:], "a b/nowhere"])
    assert keys[:1] == list(driver.list(""))


def test_objects_that_cannot_be_deleted(driver, monkeypatch):
    """The answer is 200, and names them."""
    client = driver._objects._client()
    refused = {"Errors": [{"Key": "a/1", "Code": "AccessDenied"}, {"Key": "a/2", "Code": "NoSuchKey"}]}
    monkeypatch.setattr(client, "delete_objects", lambda **arguments: refused)
    with pytest.raises(BackendUnavailable, match="s3: cannot delete 2 objects: AccessDenied$"):
        driver.delete_many(["a/1", "a/2"])


def test_server_gone(gateway, driver):
    """A server that is away is no missing object, and needs no new driver when it is back."""
    incoming = IncomingDriver(4, "special", **gateway.arguments)
    incoming.upgrade()
    gateway.kill()
    for call in (lambda: driver.get("a/1"), lambda: driver.put("a/1", b"x"), lambda: list(driver.list("a/")),
                 lambda: driver.delete_many(["a/1"]), driver.upgrade, lambda: incoming.write_measures(BATCH),
                 lambda: incoming.read_backlog(0, {}, 10), incoming.check):
        with pytest.raises(BackendUnavailable, match="^s3: cannot .*: Connection refused$"):
            call()
    gateway.start()
    driver.put("a/1", b"x")
    assert b"x" == driver.get("a/1")
    incoming.write_measures(BATCH)
    series, checkpoint = drain(incoming, 0)
    assert 1 == len(series)
    incoming.acknowledge({0: checkpoint})
    incoming.close()


@pytest.mark.parametrize("connected", [False, True])
def test_server_that_does_not_answer(gateway, connected):
    """It is given up in bounded time."""
    driver = S3Driver("special", **gateway.arguments, timeout_s=1)
    if connected:
        driver.upgrade()
    gateway.pause()
    try:
        with pytest.raises(BackendUnavailable, match="s3: cannot read a/1: no answer in time"):
            driver.get("a/1")
    finally:
        gateway.resume()
    driver.upgrade()
    with pytest.raises(ObjectNotFound):
        driver.get("a/1")


def test_writes_that_break(driver, gateway):
    """A connection that ends at any byte of the answer is tried again, or told; it keeps nobody for ever."""
    asked = []
    with faulty(gateway.port) as proxy:
        other = S3Driver("special", **(gateway.arguments | {"endpoint_url": f"http://127.0.0.1:{proxy.port}"}))
        other._objects._client().meta.events.register(
            "before-send.s3.PutObject", lambda request, **_: asked.append("Expect" in request.headers))
        for count in (0, 10, 12, 23, 24, 25, 26, 40, 100):
            proxy.cut_after(count)
            with contextlib.suppress(BackendUnavailable):
                other.put(f"cut/{count}", b"x")
        assert asked
        assert not any(asked)
        other.close()


def test_connections_that_break(driver, gateway, monkeypatch, caplog):
    """Each answer that breaks off is told for what it is, and nothing else is logged."""
    monkeypatch.setattr(objects_module, "PAUSE_S", 0.0)
    with faulty(gateway.port) as proxy:
        other = S3Driver("special", **(gateway.arguments | {"endpoint_url": f"http://127.0.0.1:{proxy.port}"}))
        check_broken_connections(other, proxy)
        assert "" == caplog.text
        other.close()
