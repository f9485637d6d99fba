"""What is particular to Swift: tokens, containers, deleting many at once, and its absence."""

import pytest

from gnocchi.common import objects as objects_module
from gnocchi.common import swift as swift_module
from gnocchi.common.swift import Container
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration, ObjectNotFound
from gnocchi.incoming.swift import SwiftDriver as IncomingDriver
from gnocchi.storage.drivers import ByteRange
from gnocchi.storage.drivers.swift import SwiftDriver
from gnocchi.tests.backlog import drain, make_batch, make_id
from gnocchi.tests.broken_connections import check_broken_connections
from gnocchi.tests.faulty import faulty
from gnocchi.tests.functional.keystone import Keystone
from gnocchi.tests.functional.keystone_server import PASSWORD
from gnocchi.tests.swift import serve_swift

BATCH = make_batch((make_id(0), [(1, 1.0)]))


@pytest.fixture
def driver(swift):
    driver = SwiftDriver("special", 3, **swift.arguments)
    driver.upgrade()
    yield driver
    driver.delete_many(list(driver.list("")))
    driver.close()


def spoil_tokens(driver):
    """Have all tokens be what a server has never given."""
    container = driver._objects
    container._token = (container._token[0], "spoilt")
    for connection in container._idle:
        connection.token = "spoilt"


def test_tokens_expire(driver):
    """Nobody notices: another one is had, and what was asked is asked again."""
    driver.put("a/1", b"x")
    for call in (lambda: driver.put("a/2", b"y" * 100_000), lambda: driver.get("a/1"), lambda: list(driver.list("")),
                 lambda: driver.delete_many(["a/7", "a/8"]), lambda: driver.delete_many(["a/9"]), driver.upgrade):
        spoil_tokens(driver)
        call()
    assert b"y" * 100_000 == driver.get("a/2")


def test_wrong_key(swift):
    """The text says so, and not what was tried."""
    driver = SwiftDriver("special", **(swift.arguments | {"key": "hush-hush"}))
    with pytest.raises(BackendUnavailable, match="^swift: cannot read a/1: 401") as e:
        driver.get("a/1")
    assert "hush" not in f"{e.value}{e.value.__cause__}"


def test_token_of_the_configuration(swift, driver):
    """It is used as it is, with the URL that it needs."""
    driver.put("a/1", b"x")
    url, token = driver._objects._token
    other = SwiftDriver("special", **(swift.arguments | {"preauthtoken": token, "url": url, "key": "wrong"}))
    assert b"x" == other.get("a/1")
    with pytest.raises(InvalidConfiguration, match="swift_url"):
        SwiftDriver("special", **swift.arguments, preauthtoken=token)


def test_no_container(swift):
    """That is no missing object; the text says what to run."""
    storage = SwiftDriver("nowhere", **swift.arguments)
    incoming = IncomingDriver(4, "nowhere", True, **swift.arguments)
    for call in (lambda: storage.get("a/1"), lambda: storage.put("a/1", b"x"), lambda: list(storage.list("")),
                 lambda: incoming.write_measures(BATCH), lambda: incoming.list_backlogs({0: {}}), incoming.check):
        with pytest.raises(BackendUnavailable, match=r"there is no nowhere\..*; gnocchi-upgrade has to"):
            call()


def test_names_of_containers(swift):
    """Both prefixes count as the options say."""
    names = [IncomingDriver(4, "p", all_too, **swift.arguments)._store._objects.name for all_too in (False, True)]
    assert ["gnocchi-incoming", "p.gnocchi-incoming"] == names
    assert "p.objects" == SwiftDriver("p", container_prefix_all=False, **swift.arguments)._objects.name


def test_storage_policy(swift):
    """It goes to the server, which knows no such one here; a container that is there stays as it is."""
    container = Container("with-policy", storage_policy="gold", **swift.arguments)
    with pytest.raises(BackendUnavailable, match="cannot create container with-policy of policy gold: 400"):
        container.create()
    Container("with-policy", storage_policy="Policy-0", **swift.arguments).create()
    container.create()


def test_pieces(driver, monkeypatch):
    """More than one call lists or deletes."""
    monkeypatch.setattr(swift_module, "KEYS_LISTED", 7)
    monkeypatch.setattr(swift_module, "KEYS_DELETED", 7)
    keys = [f"a b/{number:03d}/ü%" for number in range(30)]
    driver.put_many([(key, b"x") for key in keys])
    assert keys == list(driver.list("a b/"))
    assert keys[11:] == list(driver._objects.list("a b/", keys[10]))
    driver.delete_many([*keys[1:], "a b/nowhere"])
    assert keys[:1] == list(driver.list(""))


def test_without_bulk_middleware():
    """Objects are deleted one by one."""
    for server in serve_swift("bulk"):
        driver = SwiftDriver("special", 3, **server.arguments)
        driver.upgrade()
        driver.put_many([(f"a/{number}", b"x") for number in range(10)])
        driver.delete_many([f"a/{number}" for number in range(2, 12)])
        assert ["a/0", "a/1"] == sorted(driver.list(""))
        assert not driver._objects._bulk
        driver.close()


def test_server_gone(swift, driver):
    """A server that is away is no missing object, and needs no new driver when it is back."""
    incoming = IncomingDriver(4, "special", True, **swift.arguments)
    incoming.upgrade()
    swift.kill()
    for call in (lambda: driver.get("a/1"), lambda: driver.put("a/1", b"x"), lambda: list(driver.list("a/")),
                 lambda: driver.delete_many(["a/1"]), driver.upgrade, lambda: incoming.write_measures(BATCH),
                 lambda: incoming.read_backlog(0, {}, 10), incoming.check):
        with pytest.raises(BackendUnavailable, match="^swift: cannot .*: Connection refused$"):
            call()
    swift.start()
    driver.put("a/1", b"x")
    assert b"x" == driver.get("a/1")
    incoming.write_measures(BATCH)
    series, checkpoint = drain(incoming, 0)
    assert 1 == len(series)
    incoming.acknowledge({0: checkpoint})
    incoming.close()


@pytest.mark.parametrize("connected", [False, True])
def test_server_that_does_not_answer(swift, connected):
    """It is given up after the time that is configured; 30 seconds, if that is longer."""
    driver = SwiftDriver("special", **swift.arguments, timeout=1)
    if connected:
        driver.upgrade()
    swift.pause()
    try:
        with pytest.raises(BackendUnavailable, match="swift: cannot read a/1: no answer in time"):
            driver.get("a/1")
    finally:
        swift.resume()
    driver.upgrade()
    with pytest.raises(ObjectNotFound):
        driver.get("a/1")
    assert (5.0, 30.0) == SwiftDriver("special", **swift.arguments, timeout=300)._objects._options["timeouts"]


def test_keystone():
    """A token of version 3, for the account that the catalogue tells."""
    keystone = Keystone()
    try:
        keystone.start()
        # Without anybody to look at the token.
        for server in serve_swift("tempauth"):
            keystone.create("project", "metering")
            keystone.create_user("gnocchi")
            keystone.grant("gnocchi", "member", "metering")
            for kind, account in (("object-store", "AUTH_right"), ("other-store", "AUTH_other")):
                keystone.register(kind, kind, f"http://127.0.0.1:{server.port}/v1/{account}")
            options = {"auth_version": "3", "authurl": keystone.url, "user": "gnocchi", "key": PASSWORD,
                       "project_name": "metering", "user_domain_name": "Default", "project_domain_name": "Default",
                       "region": "R1"}
            driver = SwiftDriver("special", 2, **options)
            driver.upgrade()
            driver.put_many([("a/1", b"x"), ("a/2", b"y")])
            assert [b"x", b"y"] == driver.get_many([ByteRange("a/1"), ByteRange("a/2")])
            assert driver._objects._token[0].endswith("/v1/AUTH_right")
            other = SwiftDriver("special", **options, service_type="other-store")
            with pytest.raises(BackendUnavailable, match="gnocchi-upgrade"):
                other.get("a/1")
            for wrong in ({"key": "hush"}, {"region": "R2"}, {"project_name": "nowhere"}):
                with pytest.raises(BackendUnavailable, match="^swift: cannot read a/1: ") as e:
                    SwiftDriver("special", **(options | wrong)).get("a/1")
                assert "hush" not in str(e.value)
    finally:
        keystone.stop()


def test_connections_that_break(driver, swift, monkeypatch, caplog):
    """Each answer that breaks off is told for what it is, and nothing else is logged."""
    monkeypatch.setattr(objects_module, "PAUSE_S", 0.0)
    with faulty(swift.port) as proxy:
        url = swift.arguments["authurl"].replace(f":{swift.port}/", f":{proxy.port}/")
        other = SwiftDriver("special", **(swift.arguments | {"authurl": url}))
        check_broken_connections(other, proxy)
        assert "" == caplog.text
        other.close()


@pytest.mark.parametrize("count", [0, 2, 3, 4, 6, 7])
def test_listing_in_pages(driver, monkeypatch, count):
    """All pages are read, also where the last one is as long as a page can be."""
    monkeypatch.setattr(swift_module, "KEYS_LISTED", 3)
    keys = [f"pages/{number}" for number in range(count)]
    driver.put_many([(key, b"x") for key in keys])
    assert keys == list(driver.list("pages/"))


@pytest.mark.parametrize(("insecure", "cacert", "verify"), [
    (False, None, "/etc/own.pem"), (False, "/etc/given.pem", "/etc/given.pem"), (True, None, False)])
def test_environment_of_connections(monkeypatch, insecure, cacert, verify):
    """Proxies and authorities of the environment count, as with all that uses `requests`; the options go first."""
    monkeypatch.setenv("http_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "near.example")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/own.pem")
    connection = swift_module._Connection((1, 1), insecure=insecure, cacert=cacert)
    for host, proxy in (("far.example", "http://proxy.example:3128"), ("near.example", None)):
        _, made = connection.http_connection(f"http://{host}/v1/account")
        assert (proxy, verify) == (made.requests_args["proxies"].get("http"), made.requests_args["verify"])
        assert not made.request_session.trust_env
        made.close()
