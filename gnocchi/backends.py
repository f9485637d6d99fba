"""Wiring: the back ends that a configuration names, for the API, metricd and every command alike."""

import collections
import contextlib
import importlib
import inspect
import os
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy
import stevedore
from oslo_config import cfg

from gnocchi.common.drivers import driver_arguments, load_driver
from gnocchi.common.gate import Gate, Waiting
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration
from gnocchi.incoming import IncomingDriver
from gnocchi.incoming import gated as incoming_gated
from gnocchi.indexer.sqlalchemy import DATABASE_OPTS, Indexer
from gnocchi.processing.life_cycle import Activity, LifeSpans
from gnocchi.processing.locks import Coordinator, find_tooz_url
from gnocchi.storage.drivers import StorageDriver
from gnocchi.storage.drivers import gated as storage_gated
from gnocchi.storage.store import Store

#: Decoded heads and blocks that the workers of one host keep, all together.
HOST_CACHE_BYTES = 256 << 20

#: Drivers that wait for no network, and would only be slowed down by what makes that bearable.
LOCAL_DRIVERS = ("file", "memory")


class Backends:
    """The back ends of one process.  Each is opened at its first use, so that a process starts without them.

    Any attribute may raise BackendUnavailable; the next use tries again.  Safe to use from many threads; not over a
    fork once anything was used.

    Parameters
    ----------
    conf : ConfigOpts
    cache_bytes : int
        Memory for decoded heads and blocks.
    member_id : str, optional
        Name of this process in coordination; made up at the first use if left out.
    """

    def __init__(self, conf: cfg.ConfigOpts, cache_bytes: int = HOST_CACHE_BYTES, member_id: str | None = None) -> None:
        self.conf = conf
        self._member_id = member_id
        self._cache_bytes = cache_bytes
        self._opened: dict[str, Any] = {}
        #: When opening failed last (time.monotonic()), and why.
        self._failed: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()
        # One that does not answer holds up those only that want the same.
        self._locks: dict[str, threading.Lock] = collections.defaultdict(threading.Lock)
        #: Where many requests share the back ends: the context in which they wait for one.
        self._waiting: Waiting | None = None

    def share(self, waiting: Waiting) -> None:
        """Let many requests use the back ends, of which none may hold up those that need others; to be called first.

        waiting : makes the context in which a thread waits for one of them
        """
        self._waiting = waiting

    def _wait(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._waiting is None else self._waiting()

    def _get(self, name: str, opener: Callable[[], Any]) -> Any:
        try:
            return self._opened[name]
        except KeyError:
            began = time.monotonic()
        with self._lock:
            lock = self._locks[name]
        with self._wait(), lock:
            if name not in self._opened:
                failed_at, reason = self._failed.get(name, (began, ""))
                if failed_at > began:
                    # While this one waited.  Else each of many would wait for all before it, one timeout after another.
                    raise BackendUnavailable(reason)
                try:
                    self._opened[name] = opener()
                except BackendUnavailable as e:
                    self._failed[name] = time.monotonic(), str(e)
                    raise
            return self._opened[name]

    @property
    def member_id(self) -> str:
        with self._lock:
            self._member_id = self._member_id or str(uuid.uuid4())
            return self._member_id

    @property
    def indexer(self) -> Indexer:
        return self._get("indexer", lambda: open_indexer(self.conf))

    @property
    def storage_driver(self) -> StorageDriver:
        return self._get("storage_driver", self._open_storage)

    @property
    def store(self) -> Store:
        return self._get("store", lambda: Store(self.storage_driver, self._cache_bytes))

    @property
    def incoming(self) -> IncomingDriver:
        return self._get("incoming", self._open_incoming)

    @property
    def coordinator(self) -> Coordinator:
        return self._get("coordinator", self._open_coordinator)

    @property
    def activity(self) -> Activity:
        """Where to note that metrics get measures."""
        return self._get("activity", lambda: Activity(read_life_spans(self.conf)))

    def _open_storage(self) -> StorageDriver:
        driver, name = open_storage(self.conf), self.conf.storage.driver
        if self._waiting is None or name in LOCAL_DRIVERS:
            return driver
        return storage_gated.GatedDriver(driver, Gate(f"storage ({name})", self._waiting))

    def _open_incoming(self) -> IncomingDriver:
        sacks = self.indexer.count_sacks()
        if not sacks:
            raise BackendUnavailable("index: there are no sacks; gnocchi-upgrade has to be run")
        driver, name = open_incoming(self.conf, sacks), self.conf.incoming.driver
        if self._waiting is None or name in LOCAL_DRIVERS:
            return driver
        return incoming_gated.GatedDriver(driver, Gate(f"incoming storage ({name})", self._waiting))

    def _open_coordinator(self) -> Coordinator:
        url = get_coordination_url(self.conf)
        directory = os.path.abspath(self.conf.storage.file_basepath)
        if self.conf.storage.driver == "file" and url == _make_file_url(directory) and not os.path.isdir(directory):
            # A disk is not mounted, and what tooz would make in its place would be hidden once it is.
            raise BackendUnavailable(f"Coordination service cannot be reached: No such directory: {directory}")
        coordinator = Coordinator(url, self.member_id)
        coordinator.start()
        return coordinator


def read_life_spans(conf: cfg.ConfigOpts) -> LifeSpans:
    """Return when metrics are inactive and ended resources go."""
    return LifeSpans(conf.metricd.metric_inactive_after, conf.metricd.resource_cleanup_after)


def _arguments(conf: cfg.ConfigOpts, driver: type, name: str, section: cfg.ConfigOpts.GroupAttr) -> dict[str, Any]:
    """Return a driver's keyword arguments; those that make many calls at once take `parallel_operations`."""
    arguments = driver_arguments(driver, name, section)
    if "parallel_operations" in inspect.signature(driver).parameters:
        arguments["parallel_operations"] = conf.parallel_operations or len(os.sched_getaffinity(0))
    return arguments


def open_storage(conf: cfg.ConfigOpts) -> StorageDriver:
    """Return the storage driver of [storage].  Raises InvalidConfiguration, BackendUnavailable."""
    driver = load_driver("gnocchi.storage", conf.storage.driver)
    return driver(**_arguments(conf, driver, conf.storage.driver, conf.storage))


def get_coordination_url(conf: cfg.ConfigOpts) -> str:
    """Return the tooz URL: the configured one, or the one derived from the other back ends.

    Source: contract, operations 7.1; SQLite is ours.
    """
    if conf.coordination_url:
        return conf.coordination_url
    for section in (conf.storage, conf.incoming):
        if section.driver == "redis":
            return section.redis_url
    index = sqlalchemy.make_url(conf.indexer.url)
    if index.get_backend_name() == "sqlite":
        return _make_file_url(os.path.abspath(conf.storage.file_basepath))
    # Written anew: what is special in a password may stand there as it is, which nobody but SQLAlchemy understands.
    return index.set(drivername=index.get_backend_name()).render_as_string(hide_password=False)


def _make_file_url(directory: str) -> str:
    return f"file://{urllib.parse.quote(os.path.join(directory, 'coordination'))}"


def open_indexer(conf: cfg.ConfigOpts, **limits: Any) -> Indexer:
    """Return the index of [indexer] url, not connected yet; limits go to it.  Raises InvalidConfiguration."""
    options = {option.dest: conf.database[option.dest] for option in DATABASE_OPTS} | limits
    try:
        return Indexer(conf.indexer.url, **options)
    except ValueError as e:
        raise InvalidConfiguration(str(e)) from e


def open_incoming(conf: cfg.ConfigOpts, sacks: int) -> IncomingDriver:
    """Return the incoming driver of [incoming].  Raises InvalidConfiguration, BackendUnavailable."""
    driver = load_driver("gnocchi.incoming", conf.incoming.driver)
    return driver(sacks=sacks, **_arguments(conf, driver, conf.incoming.driver, conf.incoming))


def preload(conf: cfg.ConfigOpts) -> None:
    """Load and make all that the configured back ends need, so that forked processes share it.

    Connects to nothing.  Raises InvalidConfiguration when a back end cannot be what it is said to be.
    """
    importlib.import_module("numpy.ma")     # as numpy.unique() does when it is first called
    load_driver("gnocchi.storage", conf.storage.driver)
    load_driver("gnocchi.incoming", conf.incoming.driver)
    open_indexer(conf).prepare()
    scheme = urllib.parse.urlsplit(find_tooz_url(get_coordination_url(conf))).scheme
    try:
        load_driver("tooz.backends", scheme)
        stevedore.DriverManager("tooz.backends", scheme)    # as tooz looks for it, who then remembers what is installed
    except InvalidConfiguration as e:
        raise InvalidConfiguration(f"[DEFAULT] coordination_url: {e}") from e
    Coordinator(get_coordination_url(conf), "nobody")
