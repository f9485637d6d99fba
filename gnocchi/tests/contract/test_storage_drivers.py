"""What every storage driver must do; a driver's class gives only its set-up."""

import errno
import os
import types

import pytest

from gnocchi.exceptions import BackendUnavailable, ObjectNotFound
from gnocchi.storage.drivers import ByteRange
from gnocchi.storage.drivers.file import FileDriver
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.drivers.redis import RedisDriver
from gnocchi.storage.drivers.s3 import S3Driver
from gnocchi.storage.drivers.swift import SwiftDriver
from gnocchi.tests.ceph import SWIFT_KEY, SWIFT_USER, need_rados


class StorageDriverContract:
    """One suite for all drivers."""

    @pytest.fixture
    def driver(self, tmp_path):
        raise NotImplementedError

    def test_get_returns_what_was_put(self, driver):
        """All byte values survive, in an object of any size."""
        data = bytes(range(256)) * 5000
        driver.put("sack/0-0/head-1-aa", data)
        driver.put("sack/0-0/head-2-bb", b"")
        assert data == driver.get("sack/0-0/head-1-aa")
        assert b"" == driver.get("sack/0-0/head-2-bb")

    @pytest.mark.parametrize(("start", "stop", "expected"), [
        (0, None, b"0123456789"), (3, None, b"3456789"), (3, 5, b"34"), (0, 0, b""), (8, 20, b"89"), (10, None, b""),
        (12, 20, b"")])
    def test_get_of_a_range(self, driver, start, stop, expected):
        """A range beyond the end is cut, not refused."""
        driver.put("a/b", b"0123456789")
        assert expected == driver.get("a/b", start, stop)

    def test_get_of_a_missing_object(self, driver):
        """A missing object has an error of its own: it is not a back end that is away."""
        with pytest.raises(ObjectNotFound, match="nowhere"):
            driver.get("sack/0-0/nowhere")

    def test_get_many_keeps_the_order(self, driver):
        """Ranges of several objects come back in the order asked for."""
        driver.put("a/1", b"abcdef")
        driver.put("a/2", b"ghijkl")
        ranges = [ByteRange("a/2", 1, 3), ByteRange("a/1"), ByteRange("a/2", 0, 1)]
        assert [b"hi", b"abcdef", b"g"] == driver.get_many(ranges)

    def test_get_many_with_a_missing_object(self, driver):
        """One missing object fails the call."""
        driver.put("a/1", b"abcdef")
        with pytest.raises(ObjectNotFound):
            driver.get_many([ByteRange("a/1"), ByteRange("a/2")])

    @pytest.mark.parametrize("count", [0, 1, 3, 200])
    def test_put_many(self, driver, count):
        """Every object is there as it was given, in new directories and in those that exist."""
        driver.put("a/0/0", b"x")
        objects = {f"a/{number % 7}/{number + 1}": bytes([number]) * number for number in range(count)}
        driver.put_many(list(objects.items()))
        assert {"a/0/0", *objects} == set(driver.list(""))
        assert objects == {key: driver.get(key) for key in objects}

    def test_delete_many(self, driver):
        """What is deleted is gone, the rest stays, and missing objects are no error."""
        for number in range(5):
            driver.put(f"a/{number}", b"x")
        driver.delete_many(["a/1", "a/3", "a/17", "b/1"])
        assert ["a/0", "a/2", "a/4"] == sorted(driver.list("a/"))
        driver.delete_many([])

    def test_list_by_prefix(self, driver):
        """The prefix is text, not a directory."""
        for key in ("sack/4-1/head-1-aa", "sack/4-1/block-1-aa", "sack/4-11/head-1-aa", "other"):
            driver.put(key, b"x")
        assert ["sack/4-1/block-1-aa", "sack/4-1/head-1-aa"] == sorted(driver.list("sack/4-1/"))
        assert ["sack/4-1/head-1-aa"] == sorted(driver.list("sack/4-1/head"))
        assert 3 == len(list(driver.list("sack/4-1")))
        assert 4 == len(list(driver.list("")))
        assert [] == list(driver.list("nothing/here"))

    def test_upgrade_again_keeps_objects(self, driver):
        """Upgrading any number of times loses nothing."""
        driver.put("a/1", b"x")
        driver.upgrade()
        assert b"x" == driver.get("a/1")


class TestMemoryDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self):
        driver = MemoryDriver()
        driver.upgrade()
        return driver


class TestFileDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self, tmp_path):
        driver = FileDriver(str(tmp_path / "data"))
        driver.upgrade()
        return driver

    def test_data_directory_gone(self, driver, tmp_path):
        """A disk that is not mounted is an absent back end, for reading too; when it is back all is well."""
        driver.put("a/1", b"x")
        os.rename(tmp_path / "data", tmp_path / "away")
        with pytest.raises(BackendUnavailable, match="No such file"):
            driver.get("a/1")
        with pytest.raises(BackendUnavailable):
            driver.put("a/2", b"y")
        with pytest.raises(BackendUnavailable):
            list(driver.list("a/"))
        os.rename(tmp_path / "away", tmp_path / "data")
        assert b"x" == driver.get("a/1")
        driver.put("a/2", b"y")

    def test_failed_write_leaves_nothing(self, driver, tmp_path):
        """A name that cannot be given removes the unfinished file as well."""
        (tmp_path / "data" / "objects" / "a").write_bytes(b"a file in the way")
        with pytest.raises(BackendUnavailable, match="a/1"):
            driver.put("a/1", b"x")
        assert [] == os.listdir(tmp_path / "data" / "tmp")

    def test_full_disk(self, tmp_path):
        """What the system does not tell of an error of an open file is not told either."""
        def fail(*arguments):
            raise OSError(errno.ENOSPC, "No space left on device")

        driver = FileDriver(str(tmp_path / "data"), system=types.SimpleNamespace(**{**vars(os), "fsync": fail}))
        driver.upgrade()
        with pytest.raises(BackendUnavailable, match=f"write 2 objects in {tmp_path}/.*: No space.*device$"):
            driver.put_many([("a/1", b"x"), ("b/1", b"x")])

    def test_failed_group_leaves_nothing_unfinished(self, driver, tmp_path):
        """Of objects written together those that got their names may stay; nobody was told of them."""
        (tmp_path / "data" / "objects" / "b").write_bytes(b"a file in the way")
        with pytest.raises(BackendUnavailable):
            driver.put_many([("a/1", b"x"), ("b/1", b"x"), ("c/1", b"x")])
        assert [] == os.listdir(tmp_path / "data" / "tmp")
        assert {"a/1", "b"} >= set(driver.list(""))


class TestRedisDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self, redis_server):
        driver = RedisDriver(f"redis://127.0.0.1:{redis_server.port}?socket_timeout=20")
        driver.upgrade()
        yield driver
        driver.delete_many(list(driver.list("")))
        driver.close()

    def test_many_keys(self, driver):
        """More than are listed or deleted at once, with a prefix that is another's beginning."""
        keys = {f"sack/7-{number}/base-{number}" for number in range(2500)}
        driver.put_many([(key, b"x") for key in keys] + [("sack/8-1/base-1", b"y")])
        assert keys == set(driver.list("sack/7-"))
        driver.delete_many(keys)
        assert ["sack/8-1/base-1"] == list(driver.list(""))

    def test_memory_full(self, driver):
        """What does not fit is refused whole; what is there can be read, and deleted to make room."""
        driver.put_many([("a/0", b"x"), ("a/1", b"x")])
        client = driver._client
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        with pytest.raises(BackendUnavailable, match="redis: cannot write"):
            driver.put_many([("a/2", b"x"), ("a/3", b"x")])
        assert b"x" == driver.get("a/1")
        with pytest.raises(ObjectNotFound):
            driver.get("a/2")
        driver.delete_many(["a/0"])
        assert ["a/1"] == list(driver.list(""))
        client.config_set("maxmemory", 0)
        driver.put("a/2", b"x")

    def test_server_gone(self, driver, redis_server):
        """A server that is away is no missing object, and needs no new driver when it is back."""
        redis_server.kill()
        for call in (lambda: driver.get("a/1"), lambda: driver.put("a/1", b"x"), lambda: list(driver.list("a/")),
                     lambda: driver.delete_many(["a/1"]), driver.upgrade):
            with pytest.raises(BackendUnavailable, match="redis: cannot"):
                call()
        redis_server.start()
        driver.put("a/1", b"x")
        assert b"x" == driver.get("a/1")


class TestCephDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self, ceph, ceph_pool):
        need_rados()
        from gnocchi.storage.drivers.ceph import CephDriver
        driver = CephDriver(ceph_pool, "", "", "", "30", str(ceph.client_config))
        driver.upgrade()
        yield driver
        driver.delete_many(list(driver.list("")))
        driver.close()

    def test_many_keys(self, driver):
        """More than are listed or changed at once, with a prefix that is another's beginning."""
        keys = {f"sack/7-{number % 2}/base-{number}" for number in range(4500)}
        driver.put_many([(key, b"x") for key in keys] + [("sack/8-1/base-1", b"y"), ("sack", b"z")])
        assert keys == set(driver.list("sack/7-"))
        assert {key for key in keys if "-1/" in key} == set(driver.list("sack/7-1/"))
        assert keys | {"sack/8-1/base-1"} == set(driver.list("sack/"))
        driver.delete_many(keys)
        assert ["sack", "sack/8-1/base-1"] == sorted(driver.list(""))


class TestSwiftDriver(StorageDriverContract):
    @pytest.fixture
    def driver(self, swift):
        driver = SwiftDriver("contract", 4, **swift.arguments)
        driver.upgrade()
        yield driver
        driver.delete_many(list(driver.list("")))
        driver.close()


class TestSwiftDriverOnCeph(StorageDriverContract):
    """The gateway of Ceph speaks Swift, too."""

    @pytest.fixture
    def driver(self, gateway):
        driver = SwiftDriver("contract", 4, authurl=gateway.swift_url, user=SWIFT_USER, key=SWIFT_KEY)
        driver.upgrade()
        yield driver
        driver.delete_many(list(driver.list("")))
        driver.close()


class TestS3Driver(StorageDriverContract):
    @pytest.fixture
    def driver(self, gateway):
        driver = S3Driver("contract", 4, **gateway.arguments)
        driver.upgrade()
        yield driver
        driver.delete_many(list(driver.list("")))
        driver.close()
