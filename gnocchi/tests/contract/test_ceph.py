"""What only Ceph does: objects in pieces, keys of users, outages of the monitor and of the OSD."""

import itertools
import threading

import pytest

from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration, ObjectNotFound
from gnocchi.incoming.keyed_store import KeyRange
from gnocchi.storage.drivers import ByteRange
from gnocchi.tests.ceph import need_rados, serve_ceph
from gnocchi.tests.functional.daemons import wait_until

#: Seconds until an OSD that does not answer is away; tests that have one stop wait for it.
TIMEOUT = "2"


@pytest.fixture(scope="module")
def cephx():
    """A cluster of the module's own, whose clients have keys."""
    yield from serve_ceph(cephx=True)


@pytest.fixture(scope="module")
def user(cephx):
    """Arguments of a driver: pool, user, key, keyring, timeout, conffile."""
    pool = cephx.create_pool()
    key = cephx.create_user("gnocchi", mon="allow r", osd=f"allow rw pool={pool}")
    return {"pool": pool, "username": "gnocchi", "secret": key, "keyring": "", "timeout": TIMEOUT,
            "conffile": str(cephx.client_config)}


@pytest.fixture
def make_driver(user):
    """Return a function that makes drivers of the user, with some arguments changed."""
    need_rados()
    from gnocchi.storage.drivers.ceph import CephDriver
    made = []

    def make(**changed):
        made.append(CephDriver(**user | changed))
        return made[-1]

    yield make
    for driver in made:
        driver.close()


@pytest.fixture
def driver(make_driver):
    driver = make_driver()
    driver.upgrade()
    yield driver
    driver.delete_many(list(driver.list("")))


def list_names(driver):
    """Return the names of all RADOS objects that hold objects."""
    return {found.key for found in driver._pool._connect().list_objects() if found.key.startswith("object/")}


@pytest.mark.parametrize("size", [0, 9, 10, 11, 20, 25])
def test_object_in_pieces(make_driver, driver, size):
    """Every range of it is what it is in the object whole, and no piece stays when it is deleted."""
    cutting = make_driver(piece_bytes=10)
    data = bytes(range(size))
    cutting.put("a/b", data)
    assert ["a/b"] == list(cutting.list(""))
    assert max(1, -(-size // 10)) == len(list_names(driver))
    ranges = [ByteRange("a/b", start, stop) for start in range(0, 35, 3) for stop in (None, *range(0, 45, 4))]
    assert [data[part.start:part.stop] if part.stop is None or part.start <= part.stop else b"" for part in ranges] == \
        cutting.get_many(ranges)
    cutting.delete_many(["a/b"])
    assert set() == list_names(driver)
    for start, stop in ((0, None), (0, 5), (3, 3), (12, 15), (5, 25), (90, 99)):
        with pytest.raises(ObjectNotFound):
            cutting.get("a/b", start, stop)


def test_object_of_default_pieces(driver):
    """One that no OSD would take whole."""
    data = b"0123456789abcdef" * (6 << 20)
    driver.put("a/b", data)
    assert data == driver.get("a/b")
    assert data[(16 << 20) - 3:(48 << 20) + 3] == driver.get("a/b", (16 << 20) - 3, (48 << 20) + 3)


@pytest.mark.parametrize("calls", [0, 1])
def test_interrupted_write(make_driver, driver, monkeypatch, calls):
    """It is listed, so that it is deleted, but not there; nothing of it stays."""
    cutting = make_driver(piece_bytes=10)
    write = cutting._pool.write

    def fail(objects):
        nonlocal calls
        if not calls:
            raise BackendUnavailable("ceph: cannot write")
        calls -= 1
        write(objects)

    monkeypatch.setattr(cutting._pool, "write", fail)
    with pytest.raises(BackendUnavailable):
        cutting.put("a/b", b"x" * 25)
    assert ["a/b"] == list(driver.list("a/"))
    for start, stop in ((0, 10), (0, None)):
        with pytest.raises(ObjectNotFound):
            cutting.get("a/b", start, stop)
    cutting.delete_many(["a/b"])
    assert (set(), []) == (list_names(driver), list(driver.list("")))


def test_interrupted_deletion(make_driver, driver, monkeypatch):
    """The object is gone at once, and what stays of it goes when it is deleted again."""
    cutting = make_driver(piece_bytes=10)
    cutting.put("a/b", b"x" * 25)
    remove, calls = cutting._pool.remove, []

    def fail(names):
        calls.append(names)
        if len(calls) == 2:
            raise BackendUnavailable("ceph: cannot remove")
        remove(names)

    monkeypatch.setattr(cutting._pool, "remove", fail)
    with pytest.raises(BackendUnavailable):
        cutting.delete_many(["a/b"])
    assert {"object/a/b#1", "object/a/b#2"} == list_names(driver)
    with pytest.raises(ObjectNotFound):
        cutting.get("a/b", 8, 14)
    cutting.delete_many(driver.list("a/"))
    assert (set(), []) == (list_names(driver), list(driver.list("")))


def test_user_with_a_keyring(make_driver, user, tmp_path):
    """A file may hold the key."""
    (tmp_path / "keyring").write_text(f"[client.gnocchi]\nkey = {user['secret']}\n")
    driver = make_driver(secret="", keyring=str(tmp_path / "keyring"))
    driver.put("a/1", b"x")
    assert b"x" == driver.get("a/1")
    driver.delete_many(["a/1"])


@pytest.mark.parametrize("changed", [
    {"secret": "AQBRDgJrdP/vJRAAnD836/iFAGGDFEdHGCN4gg=="}, {"secret": "no key at all"}, {"username": "nobody"},
    {"secret": "", "keyring": "/nonexistent"}], ids=lambda changed: "-".join(changed))
def test_wrong_user(make_driver, user, changed):
    """Who is refused is told so, as often as he tries, and no key."""
    driver = make_driver(**changed)
    for _ in range(2):
        for call in (driver.upgrade, lambda: driver.get("a/1")):
            with pytest.raises(BackendUnavailable, match="^ceph: cannot connect: [PIn]") as caught:
                call()
            error = caught.value
            while error is not None:
                assert changed.get("secret", user["secret"]) not in str(error) or not changed.get("secret", "x")
                error = error.__cause__


def test_no_such_pool(make_driver):
    """The pool is named."""
    with pytest.raises(BackendUnavailable, match="no pool nowhere"):
        make_driver(pool="nowhere").upgrade()


def test_user_who_may_not_write(make_driver, cephx, user):
    """An upgrade tells it, before anything else is tried."""
    key = cephx.create_user("reader", mon="allow r", osd=f"allow r pool={user['pool']}")
    with pytest.raises(BackendUnavailable, match="ceph: cannot write in pool .*: Operation not permitted"):
        make_driver(username="reader", secret=key).upgrade()


@pytest.mark.parametrize(("changed", "message"), [
    ({"conffile": "/nonexistent"}, "ceph_conffile: cannot read /nonexistent: No such file"),
    ({"timeout": "soon"}, "ceph_timeout: 'soon'"), ({"timeout": "-1"}, "ceph_timeout: '-1'")])
def test_wrong_options(make_driver, changed, message):
    """They are told when the driver is made."""
    with pytest.raises(InvalidConfiguration, match=message):
        make_driver(**changed)


def test_osd_stops_answering(driver, cephx):
    """It is no missing object; when the OSD answers again all goes on with the same driver."""
    driver.put("a/1", b"x")
    cephx.osd.pause()
    try:
        for call in (lambda: driver.get("a/1"), lambda: driver.put("a/2", b"x"), lambda: list(driver.list("a/")),
                     lambda: driver.delete_many(["a/1"]), driver.upgrade):
            with pytest.raises(BackendUnavailable, match="ceph: cannot .*: Connection timed out"):
                call()
    finally:
        cephx.osd.resume()
    driver.put("a/3", b"x")
    assert b"x" == driver.get("a/1")


def test_monitor_stops_answering(make_driver, driver, cephx):
    """Who is connected needs no monitor; of those who wait to connect at the same time only one tries."""
    driver.put("a/1", b"x")
    other = make_driver()
    errors = []

    def read():
        try:
            other.get("a/1")
        except BackendUnavailable as e:
            errors.append(str(e))

    cephx.monitor.pause()
    try:
        readers = [threading.Thread(target=read) for _ in range(4)]
        with other._pool._lock:     # as if the first one were trying for long
            for reader in readers:
                reader.start()
        for reader in readers:
            reader.join()
        assert b"x" == driver.get("a/1")
    finally:
        cephx.monitor.resume()
    assert ["ceph: cannot connect: Connection timed out"] * 4 == errors
    assert b"x" == other.get("a/1")


def test_client_shut_out(driver, cephx):
    """Who was shut out connects anew."""
    driver.put("a/1", b"x")
    address = driver._pool._cluster.get_addrs()
    cephx.ask("osd blacklist", blacklistop="add", addr=address.removeprefix("v2:"))

    def is_refused():
        try:
            driver.put("a/2", b"x")
        except BackendUnavailable as e:
            return "shutdown" in str(e)
        return False

    wait_until(is_refused)      # the OSD is told a little later
    assert b"x" == driver.get("a/1")
    assert address != driver._pool._cluster.get_addrs()


def test_no_space_left(driver, cephx):
    """A write is refused at once; what is there can be read, and deleted to make room."""
    names = ("nearfull", "backfillfull", "full")

    def set_ratios(*ratios):
        for name, ratio in zip(names, ratios, strict=True):
            cephx.ask(f"osd set-{name}-ratio", ratio=ratio)

    numbers = itertools.count(1)

    def is_refused():
        try:
            driver.put(f"a/{next(numbers)}", b"x")      # to write one anew takes no space
        except BackendUnavailable as e:
            assert "No space left" in str(e)
            return True
        return False

    driver.put("a/0", b"x" * (1 << 20))
    set_ratios(0.00001, 0.00002, 0.00003)
    try:
        wait_until(is_refused)
        assert 1 << 20 == len(driver.get("a/0"))
        driver.delete_many(["a/0"])
        assert "object/a/0" not in list_names(driver)
    finally:
        set_ratios(0.94, 0.95, 0.96)
    wait_until(lambda: not is_refused())


@pytest.fixture
def make_store(user):
    """Return a function that makes stores of groups."""
    need_rados()
    from gnocchi.common.ceph import Pool
    from gnocchi.incoming.ceph import NAMESPACE, CephStore
    pool = Pool(NAMESPACE, **user)
    yield lambda **arguments: CephStore(pool, **arguments)
    store = CephStore(pool, abandoned_s=0)
    store.delete_many(list(store.list("", "")))
    assert {"index"} >= {found.key for found in pool._connect().list_objects()}
    pool.close()


def test_groups(make_store):
    """Groups in pieces or not: each is listed in order, read by range, and gone when it is deleted."""
    store = make_store(piece_bytes=10)
    store.upgrade()
    groups = {f"group/{number:04}": bytes(range(number)) for number in range(30)}
    for key in sorted(groups, reverse=True):
        store.put(key, groups[key])
    assert sorted(groups) == list(store.list("group/", ""))
    assert sorted(groups)[11:] == list(store.list("group/", "group/0010"))
    assert [] == list(store.list("damaged/", ""))
    ranges = [KeyRange(key, start, start + 7) for key in (*groups, "group/none") for start in (0, 5, 9, 15, 40)]
    assert [groups[key][start:stop] if key in groups else None for key, start, stop in ranges] == store.get_many(ranges)
    store.delete_many(["group/0025", "group/0003", "group/none"])
    assert [None, None, groups["group/0024"]] == store.get_many(
        [KeyRange(f"group/{number}", 0, 30) for number in ("0025", "0003", "0024")])
    assert sorted(groups.keys() - {"group/0025", "group/0003"}) == list(store.list("", ""))


@pytest.mark.parametrize("method", ["set_entries", "write", "replace_entries"])
def test_unfinished_group(make_store, monkeypatch, method):
    """It is not listed; it may be stored again, or goes some time after it was seen."""
    store = make_store(piece_bytes=10)
    store.upgrade()

    def fail(*arguments):
        raise BackendUnavailable("ceph: cannot")

    with monkeypatch.context() as patch:
        patch.setattr(store._pool, method, fail)
        for key in ("group/1", "group/2"):
            with pytest.raises(BackendUnavailable):
                store.put(key, b"x" * 25)
    assert [] == list(store.list("", ""))
    store.put("group/1", b"x" * 25)
    assert b"group/1" == store.get_position()
    patient = make_store(piece_bytes=10)
    patient._swept_at = float("-inf")
    patient.delete_many([])
    assert {"set_entries": set(), "write": {"group/2"}, "replace_entries": {"group/2"}}[method] == set(patient._seen)
    make_store(piece_bytes=10, abandoned_s=0).delete_many([])
    assert ["group/1"] == list(store.list("", ""))
    names = {found.key for found in store._pool._connect().list_objects()}
    assert {"index", "object/group/1", "object/group/1#1", "object/group/1#2"} == names
