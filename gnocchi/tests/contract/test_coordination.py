"""Locks and groups behave the same on every coordination service."""

import contextlib
import hashlib
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid

import pytest
import redis
import sqlalchemy as sa

from gnocchi import backends, service
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration, SackLocked
from gnocchi.processing.locks import Coordinator, lock_name, sack_name
from gnocchi.processing.members import Membership, list_members, list_processors
from gnocchi.tests.coordination import MAKERS, Server, asks, make_url, serve
from gnocchi.tests.databases import DEADLINE_S, need

LOCK = lock_name("incoming128-17")

#: A member that joins, says so, and waits to be killed.
MEMBER = """
import sys, time
from gnocchi.processing.locks import Coordinator
from gnocchi.processing.members import Membership
coordinator = Coordinator(sys.argv[1], "killed")
coordinator.start()
membership = Membership(coordinator)
assert membership.join()
print("joined", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def session(url, member=None):
    coordinator = Coordinator(url, member or str(uuid.uuid4()))
    coordinator.start()
    try:
        yield coordinator
    finally:
        coordinator.stop()


@pytest.fixture(scope="module")
def pair(coordination_url):
    with session(coordination_url, "one") as one, session(coordination_url, "two") as two:
        yield one, two


def has_groups(url):
    return not url.startswith("postgresql")


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_lock_names_are_those_of_the_contract():
    """Older workers would contend for the very same locks."""
    assert hashlib.sha1(b"gnocchi-sack-incoming128-17-lock").hexdigest().encode() == lock_name(sack_name(17, 128))


def test_password_of_the_index(mariadb_server, tmp_path):
    """The database has the locks by default; its URL may have any password, quoted or as SQLAlchemy takes it."""
    user, password = "g" + uuid.uuid4().hex[:8], "p@ss/w%rd :?"
    url = sa.make_url(mariadb_server.create_database())
    with sa.create_engine(url).begin() as connection:
        connection.exec_driver_sql("CREATE USER %s@'%%' IDENTIFIED BY %s", (user, password))
        connection.exec_driver_sql(f"GRANT ALL ON {url.database}.* TO {user}@'%%'")
    rest = f"127.0.0.1:{mariadb_server.port}/{url.database}"
    for spelt in (urllib.parse.quote(password, safe=""), "p%40ss/w%25rd :?"):
        path = tmp_path / "gnocchi.conf"
        path.write_text(f"[indexer]\nurl = mysql+pymysql://{user}:{spelt.replace('$', '$$')}@{rest}\n")
        conf = service.read_configuration(["--config-file", str(path)])
        assert backends.open_indexer(conf).url.password == password
        with session(backends.get_coordination_url(conf)) as coordinator, coordinator.try_lock(LOCK) as mine:
            assert mine


def test_lock_is_held_by_one_at_a_time(pair):
    """While one session has a lock another does not get it, and then it does."""
    one, two = pair
    with one.try_lock(LOCK) as mine:
        assert mine
        with two.try_lock(LOCK) as theirs:
            assert not theirs
    with two.try_lock(LOCK) as theirs:
        assert theirs


def test_lock_is_held_by_one_thread_at_a_time(pair):
    """Threads of one session exclude each other too: the API refreshes from many."""
    one, _ = pair
    with one.try_lock(LOCK) as mine:
        assert mine
        with one.try_lock(LOCK) as again:
            assert not again


def test_other_locks_are_free(pair):
    """Sacks do not block one another."""
    one, two = pair
    with one.try_lock(LOCK) as mine, two.try_lock(lock_name("incoming128-18")) as theirs:
        assert mine and theirs


def test_wait_ends_with_the_lock(pair):
    """Whoever waits gets the lock once it is released."""
    one, two = pair
    lock = one.acquire(LOCK)
    releaser = threading.Timer(0.2, one.release, [lock])
    releaser.start()
    with two.wait_lock(LOCK, time.monotonic() + DEADLINE_S, "s"), one.try_lock(LOCK) as again:
        assert not again
    releaser.join()


def test_wait_ends_when_time_runs_out(pair):
    """A lock that stays held is an error after the time given, whatever the driver."""
    one, two = pair
    with one.try_lock(LOCK), pytest.raises(SackLocked, match="incoming128-17"), \
            two.wait_lock(LOCK, time.monotonic() + 0.3, "incoming128-17"):
        raise AssertionError("got a lock that is held")


def test_members_join_and_leave(pair, coordination_url):
    """Each member sees who is there; where there are no groups, that is told."""
    one, two = pair
    memberships = Membership(one), Membership(two)
    if not has_groups(coordination_url):
        assert memberships[0].join() is None
        assert list_processors(one) is None
        memberships[0].leave()
        return
    assert {b"one"} == memberships[0].join()
    assert {b"one", b"two"} == memberships[1].join()
    assert {b"one", b"two"} == memberships[0].join()
    assert ["one", "two"] == list_processors(one)
    memberships[1].leave()
    assert {b"one"} == memberships[0].join()
    memberships[0].leave()
    assert [] == list_processors(two)


def test_killed_member_of_a_file_group_is_gone_at_once(tmp_path):
    """A worker that was killed has no share of the sacks: its life lock went with it."""
    url = f"file://{tmp_path}/c"
    with subprocess.Popen([sys.executable, "-c", MEMBER, url], stdout=subprocess.PIPE) as process:
        assert b"joined\n" == process.stdout.readline()
        with session(url, "one") as one:
            assert {b"killed"} == list_members(one)
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert set() == list_members(one)


def test_locks_share_a_file(tmp_path):
    """However many sacks and members there are or have been; tooz has one of its own."""
    url = f"file://{tmp_path}/c"
    with session(url, "one") as one, session(url, "two") as two:
        membership = Membership(one)
        membership.join()
        names = [lock_name(sack_name(number, 64)) for number in range(64)]
        held = [one.acquire(name) for name in names]
        assert all(held)
        assert [None] * 64 == [two.acquire(name) for name in names]
        for lock in held[::2]:
            one.release(lock)
        assert [True, False] * 32 == [two.acquire(name) is not None for name in names]
        membership.leave()
    assert {"locks", ".driver_lock"} == {path.name for path in (tmp_path / "c").iterdir() if path.is_file()}


def test_directory_of_locks_is_gone(tmp_path):
    """Nobody believes to have a lock then; it may be tried again."""
    with session(f"file://{tmp_path}/c") as one:
        shutil.rmtree(tmp_path / "c")
        with pytest.raises(BackendUnavailable, match="^Coordination service cannot lock"), one.try_lock(LOCK):
            pass


def test_service_that_cannot_be_reached():
    """A session that cannot begin is an error that may be tried again."""
    with pytest.raises(BackendUnavailable, match="^Coordination service cannot be reached"):
        Coordinator("redis://127.0.0.1:1", "one").start()


def test_member_comes_back_after_the_service_forgot_it(redis_server):
    """A service that was restarted empty is joined anew, and locks work again."""
    with session(f"redis://127.0.0.1:{redis_server.port}?timeout=2", "one") as one:
        membership = Membership(one)
        assert {b"one"} == membership.join()
        redis_server.kill()
        wait_until(lambda: one.lost)
        with pytest.raises(BackendUnavailable), one.try_lock(LOCK):
            pass
        redis_server.start()
        wait_until(lambda: not one.lost)
        assert {b"one"} == membership.join()
        assert {b"one"} == list_members(one)
        with one.try_lock(LOCK) as held:
            assert held


@pytest.mark.parametrize("service", MAKERS)
def test_locks_after_an_outage(service):
    """What was held when the service went is free again, and is not prolonged for ever by who had it."""
    for server in serve(MAKERS[service]):
        url = make_url(service, server.port) + "?timeout=6"
        with session(url, "one") as one:
            lock = one.acquire(LOCK)
            assert lock is not None
            server.kill()
            with pytest.raises(BackendUnavailable), one.try_lock(lock_name("other")):
                pass
            wait_until(lambda: one.lost)
            one.release(lock)
            server.start()
            wait_until(lambda: not one.lost)
            with session(url, "two") as two:
                wait_until(lambda: acquired(two, LOCK) and acquired(two, lock_name("other")))
                assert {b"two"} == Membership(two).join()
                wait_until(lambda: {b"one", b"two"} <= (Membership(one).join() or set()))


def acquired(coordinator, name):
    """Return whether a lock was free, which it is then again."""
    with coordinator.try_lock(name) as held:
        return held


def test_password_with_signs(tmp_path):
    """A URL of Redis means the same here as for storage."""
    program = need(shutil.which("redis-server"), "Redis")
    for server in serve(lambda: Server(
            lambda port, directory: [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
                                     "--save", "", "--requirepass", "s3cret/%"], asks(b"PING\r\n", b"-NOAUTH"))):
        with session(f"redis://:s3cret%2F%25@127.0.0.1:{server.port}?db=3", "one") as one:
            assert {b"one"} == Membership(one).join()
        with pytest.raises(BackendUnavailable) as raised:
            Coordinator(f"redis://:wr0ng@127.0.0.1:{server.port}", "one").start()
        assert "wr0ng" not in str(raised.value)


@pytest.mark.parametrize("url", ["redis://:s3cret@localhost?db=first", "nosuch://:s3cret@localhost"])
def test_wrong_url(url):
    """It is told which option is wrong, and not what the password is."""
    with pytest.raises(InvalidConfiguration, match="coordination_url") as raised:
        Coordinator(url, "one")
    assert "s3cret" not in str(raised.value)


def test_locks_are_prolonged_while_they_are_held(redis_server):
    """A thread sees to it, so that the sack may take as long as it takes."""
    with session(f"redis://127.0.0.1:{redis_server.port}?timeout=2", "one") as one, one.try_lock(LOCK) as held:
        assert held
        client = redis.Redis(port=redis_server.port)
        name, = client.keys("*lock*")
        for _ in range(2):
            seen = [client.pttl(name)]
            wait_until(lambda seen=seen: seen.append(client.pttl(name)) or seen[-1] > seen[-2])
