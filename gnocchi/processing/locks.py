"""Locks of sacks and other coordination between processes, by means of tooz.

Locks only save work: a worker that lost its lock without knowing loses the compare-and-set of its
commit (gnocchi.catalogue), so that no measure depends on them.
"""

import contextlib
import hashlib
import logging
import os
import sys
import threading
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from typing import Any

import tenacity
import tooz
from tooz import coordination
from tooz.drivers.file import FileDriver

from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration, SackLocked
from gnocchi.processing import range_locks

LOG = logging.getLogger(__name__)

# Its drivers tell, with a traceback, of each lock that they cannot prolong; we tell that the service is away.
logging.getLogger("tooz.drivers").setLevel(logging.ERROR)

#: First and longest pause between two tries of a lock that is waited for, in seconds.  Some drivers
#: open a connection for each try.
LOCK_RETRY_S = 0.01
LOCK_RETRY_MAX_S = 0.25

#: Longest pause between two signs of life, in seconds; drivers usually ask for less.
HEARTBEAT_MAX_S = 10.0
HEARTBEAT_RETRY_S = 1.0
#: A sign of life that takes longer counts as failed; locks expire after 30 seconds where they do.
HEARTBEAT_OVERDUE_S = HEARTBEAT_MAX_S + 5.0

#: Locks that a process may hold at once; and where tooz opens a connection to a database for each, of which that has
#: few (100 and 151 by default).
LOCKS_MAX = 64
LOCKS_MAX_BY_SCHEME = {"mysql": 4, "postgresql": 4}

#: Services of one host, which do not notice when a member dies.
_FORGETFUL_SCHEMES = ("file", "ipc")
_ZOOKEEPER_SCHEMES = ("zookeeper", "kazoo")
_REDIS_SCHEMES = ("redis", "rediss")

#: What libraries below tooz raise past it, by module: only named when that module is loaded.
_FOREIGN_FAILURES = (
    ("redis.exceptions", "RedisError"), ("kazoo.exceptions", "KazooException"),
    ("kazoo.handlers.threading", "KazooTimeoutError"), ("etcd3gw.exceptions", "Etcd3Exception"),
    ("pymemcache.exceptions", "MemcacheError"), ("psycopg2", "Error"), ("pymysql.err", "Error"),
    ("requests.exceptions", "RequestException"),
)


def sack_name(number: int, sacks: int) -> str:
    """Return the name of a sack, which workers hash to find its owners."""
    return f"incoming{sacks}-{number}"


def lock_name(name: str) -> bytes:
    """Return the name of the lock of a sack or task (contract, operations 7.1)."""
    return hashlib.sha1(f"gnocchi-sack-{name}-lock".encode(), usedforsecurity=False).hexdigest().encode()


def _failures() -> tuple[type[BaseException], ...]:
    """Return what a call to tooz may raise when its back end is unwell."""
    foreign = [getattr(sys.modules[module], name) for module, name in _FOREIGN_FAILURES if module in sys.modules]
    # fasteners, below tooz's file driver, reports failing system calls as ThreadError (RuntimeError).
    return (tooz.ToozError, tenacity.RetryError, OSError, threading.ThreadError, *foreign)


def _taken() -> tuple[type[BaseException], ...]:
    """Return what some drivers raise when somebody else has the lock."""
    kazoo = sys.modules.get("kazoo.exceptions")
    return (tenacity.RetryError,) if kazoo is None else (tenacity.RetryError, kazoo.LockTimeout)


@contextlib.contextmanager
def translate_failures(action: str) -> Iterator[None]:
    """Turn whatever a coordination back end raises into BackendUnavailable."""
    try:
        yield
    except tooz.NotImplemented:
        raise
    except BaseException as e:
        if isinstance(e, _failures()):
            reason = f"{type(e).__name__}: {e}".rstrip(": ")
            raise BackendUnavailable(f"Coordination service cannot {action}: {reason}") from e
        raise


def find_tooz_url(url: str) -> str:
    """Return the URL as tooz knows it."""
    return f"redis{url.removeprefix('rediss')}" if url.startswith("rediss:") else url


class _Address:
    """What a URL says, as a database has to get it: tooz would pass on user and password with their percent signs."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.hostname, self.port, self.path = parts.hostname, parts.port, parts.path
        self.username = None if parts.username is None else urllib.parse.unquote(parts.username)
        self.password = None if parts.password is None else urllib.parse.unquote(parts.password)


class Coordinator:
    """One process's session with the coordination service.

    A thread keeps the session, and the locks held, alive, also while a long sack is processed.

    Attributes
    ----------
    locks_max : int
        How many locks may be held at once.
    """

    def __init__(self, url: str, member_id: str) -> None:
        self.member_id = member_id.encode()
        self._scheme = urllib.parse.urlsplit(url).scheme
        self.locks_max = LOCKS_MAX_BY_SCHEME.get(self._scheme, LOCKS_MAX)
        options: dict[str, Any] = {}
        if self._scheme in _ZOOKEEPER_SCHEMES:
            from gnocchi.processing import zookeeper
            options = zookeeper.OPTIONS
        with warnings.catch_warnings():
            # tooz calls its SQL drivers deprecated; they are the default here, where nothing else is installed.
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                address = _Address(url) if self._scheme in LOCKS_MAX_BY_SCHEME else None
                self._tooz: Any = coordination.get_coordinator(find_tooz_url(url), self.member_id, **options)
            except ValueError as e:
                # The text of a port that is none may be a part of the password.
                reason = "host or port is not valid" if str(e).startswith("Port") else str(e)
                raise InvalidConfiguration(f"[DEFAULT] coordination_url: {reason}") from None
            except (RuntimeError, LookupError, ImportError) as e:
                raise InvalidConfiguration(f"[DEFAULT] coordination_url: {e}") from e
        if self._scheme in _REDIS_SCHEMES:
            self._use_own_redis(url)
        if address is not None:
            self._use_address(address)
        self._zookeeper = zookeeper.Session(self._tooz) if self._scheme in _ZOOKEEPER_SCHEMES else None
        self._locks: Any = self._tooz
        if range_locks.SUPPORTED and isinstance(self._tooz, FileDriver):
            self._locks = range_locks.RangeLocks(os.path.dirname(os.fsdecode(self._tooz.get_lock(b"any").name)))
        self._stopped = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="coordination heartbeat", daemon=True)
        self._lost = False
        self._last_beat = time.monotonic()

    def _use_own_redis(self, url: str) -> None:
        """Have Redis reached as storage and incoming measures are, by the same URL.

        tooz takes passwords as they stand in the URL, percent signs and all, and tries on for a minute.
        """
        from gnocchi.common import redis

        try:
            client = redis.make_client(url, self._tooz.timeout)
        except InvalidConfiguration as e:
            raise InvalidConfiguration(str(e).replace("redis_url", "[DEFAULT] coordination_url")) from e
        self._tooz._make_client = lambda *args: client

    def _use_address(self, address: _Address) -> None:
        self._tooz._parsed_url = address

    def start(self) -> None:
        """Connect.  Raises BackendUnavailable."""
        with translate_failures("be reached"):
            self._tooz.start(start_heart=False)
        self._last_beat = time.monotonic()
        self._heart.start()

    def stop(self) -> None:
        """Give up the session and every lock.  Raises BackendUnavailable."""
        self._stopped.set()
        with translate_failures("be left"):
            self._tooz.stop()

    @property
    def lost(self) -> bool:
        """Whether the last sign of life failed or is overdue: locks held may be somebody else's by now."""
        return self._lost or (self._heart.is_alive() and time.monotonic() - self._last_beat > HEARTBEAT_OVERDUE_S)

    @property
    def expires_members(self) -> bool:
        """Whether the service itself forgets a member that died."""
        return self._scheme not in _FORGETFUL_SCHEMES

    def _beat(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            try:
                with translate_failures("take a sign of life"):
                    # Half the time: early is better than late.
                    pause = min(((self._zookeeper or self._tooz).heartbeat() or HEARTBEAT_MAX_S) / 2, HEARTBEAT_MAX_S)
            except tooz.NotImplemented:
                return
            except BackendUnavailable as e:
                if self._stopped.is_set():
                    return
                if not self._lost:
                    LOG.warning("%s", e)
                self._lost = True
                pause = HEARTBEAT_RETRY_S
            else:
                if self._lost:
                    LOG.info("Coordination service is back")
                self._lost = False
                self._last_beat = time.monotonic()

    def call(self, method: str, *args: Any) -> Any:
        """Return the outcome of a tooz method, waiting for it if it is asynchronous.

        Raises
        ------
        BackendUnavailable
        tooz.NotImplemented
            The driver has no such ability.
        tooz.coordination.GroupNotCreated, GroupAlreadyExist, MemberAlreadyExist, MemberNotJoined
            As told by the driver.
        """
        try:
            with translate_failures(method.replace("_", " ")):
                outcome = getattr(self._tooz, method)(*args)
                return outcome.get() if isinstance(outcome, coordination.CoordAsyncResult) else outcome
        except BackendUnavailable as e:
            if isinstance(e.__cause__, (coordination.GroupNotCreated, coordination.GroupAlreadyExist,
                                        coordination.MemberAlreadyExist, coordination.MemberNotJoined)):
                raise e.__cause__ from None
            raise

    def acquire(self, name: bytes) -> Any:
        """Return a lock that was free, or None; it never waits.  `release` gives it back.

        A new lock object each time: those of tooz's file driver miscount after a failed try.
        """
        lock = self._locks.get_lock(name)
        try:
            with translate_failures("lock"):
                return lock if lock.acquire(blocking=False) else None
        except BackendUnavailable as e:
            self._disown(lock)
            if isinstance(e.__cause__, _taken()):
                return None
            raise

    def release(self, lock: Any) -> None:
        """Give a lock back; when the service is away it frees the lock by itself, once the session expires."""
        try:
            with translate_failures("unlock"):
                lock.release()
        except BackendUnavailable as e:
            LOG.warning("%s", e)
            self._disown(lock)

    def _disown(self, lock: Any) -> None:
        """Let a lock expire of which is not known whether it is held.

        With each sign of life tooz prolongs all that it believes to have, also when somebody else holds it by now.
        """
        owned: Any = getattr(self._tooz, "_acquired_locks", ())
        if lock in owned:
            owned.remove(lock)
        if self._zookeeper is not None:
            self._zookeeper.doubt()

    @contextlib.contextmanager
    def try_lock(self, name: bytes) -> Iterator[bool]:
        """Hold a lock if it is free; yields whether it is held.  Raises BackendUnavailable."""
        lock = self.acquire(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                self.release(lock)

    @contextlib.contextmanager
    def wait_lock(self, name: bytes, deadline: float, sack: object) -> Iterator[None]:
        """Hold a lock, waiting for it until `deadline` (time.monotonic()).

        Tries without waiting, over and over: what tooz's drivers do with a waiting time differs.

        Raises
        ------
        SackLocked
            Time ran out.
        BackendUnavailable
        """
        pause = LOCK_RETRY_S
        while (lock := self.acquire(name)) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise SackLocked(sack)
            time.sleep(min(pause, left))
            pause = min(pause * 2, LOCK_RETRY_MAX_S)
        try:
            yield
        finally:
            self.release(lock)
