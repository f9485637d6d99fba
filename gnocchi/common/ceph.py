"""A pool of Ceph: objects and sorted maps in one namespace, and many requests under way at once."""

import collections
import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import rados

from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration

#: Requests under way at the same time.  The library itself limits their bytes (`objecter_inflight_op_bytes`, 100 MB).
REQUESTS_AT_ONCE = 64

#: Entries of a map asked for at once; an OSD gives no more than 1024 whatever it is asked for.
ENTRIES_AT_ONCE = 1000

#: Entries of a map changed by one request.
CHANGES_AT_ONCE = 1000

_TIMEOUTS = ("rados_osd_op_timeout", "rados_mon_op_timeout", "client_mount_timeout")

#: How long a request waits before the monitor is asked whether the OSD has moved, how often that is looked at, and
#: Ceph's defaults, in seconds.  Requests that end sooner would never find an OSD that was killed and started again.
_LOOKS = {"objecter_timeout": 10.0, "objecter_tick_interval": 5.0}


class NamedRange(NamedTuple):
    """`length` bytes from `start` of an object; length is above 0."""

    name: str
    start: int
    length: int


class Pool:
    """Connected at its first use, again after Ceph has shut this client out, and not over a fork.

    Safe to use from many threads.  Every method raises BackendUnavailable, which holds no credentials; a change may
    have been made then.

    Parameters
    ----------
    namespace : str
        Of the objects in the pool.
    pool, username, secret, keyring, timeout, conffile : str or None
        As the options `ceph_*`; empty is as good as none.

    Raises
    ------
    InvalidConfiguration
        The configuration file of Ceph cannot be read, or the timeout is no number.

    Attributes
    ----------
    timeout_s : int
        No request takes longer; 0 is for ever.
    """

    def __init__(self, namespace: str, pool: str, username: str | None, secret: str | None, keyring: str | None,
                 timeout: str, conffile: str) -> None:
        self._namespace = namespace
        self._pool = pool
        self._arguments = (username, secret, keyring, timeout, conffile)
        self._cluster = make_cluster(*self._arguments)
        self.timeout_s = int(timeout)
        self._context: Any = None
        self._shut_out: list[tuple[Any, Any]] = []
        self._lock = threading.Lock()
        self._failures = 0
        self._failure: BackendUnavailable | None = None

    def write(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """Store objects, whole."""
        with self._using("write") as context:
            _finish(partial(context.aio_write_full, name, data) for name, data in objects)

    def read(self, ranges: Sequence[NamedRange]) -> dict[int, bytes]:
        """Return the bytes of each range by its place in the list; none of objects that are not there.

        Bytes are fewer where the object ends.
        """
        found: dict[int, bytes] = {}

        def start(context: Any, number: int, part: NamedRange) -> Any:
            def keep(completion: Any, data: bytes | None) -> None:
                if data is not None:    # of nothing the library makes `length` bytes of anything
                    found[number] = data[:completion.get_return_value()]

            return context.aio_read(part.name, part.length, part.start, keep)

        with self._using("read") as context:
            _finish((partial(start, context, number, part) for number, part in enumerate(ranges)), may_be_missing=True)
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, those that are there."""
        with self._using("remove") as context:
            _finish((partial(context.aio_remove, name) for name in names), may_be_missing=True)

    def set_entries(self, maps: Mapping[str, Mapping[str, bytes]]) -> None:
        """Set entries in the maps of some objects; those of one object together, if they are few."""
        def add(context: Any, operation: Any, pairs: Sequence[tuple[str, bytes]]) -> None:
            keys, values = zip(*pairs, strict=True)
            context.set_omap(operation, keys, values)

        self._change(((name, tuple(entries.items())) for name, entries in maps.items()), add)

    def remove_entries(self, maps: Mapping[str, Sequence[str]]) -> None:
        """Remove entries from the maps of some objects, those that are there."""
        self._change(maps.items(), lambda context, operation, keys: context.remove_omap_keys(operation, tuple(keys)),
                     may_be_missing=True)

    def replace_entries(self, name: str, removed: Sequence[str], entries: Mapping[str, bytes]) -> None:
        """Remove entries from an object's map and set others, all or nothing."""
        with self._using("write") as context, rados.WriteOpCtx() as operation:
            context.remove_omap_keys(operation, tuple(removed))
            context.set_omap(operation, tuple(entries), tuple(entries.values()))
            context.operate_write_op(operation, name)

    def _change(self, changes: Iterable[tuple[str, Sequence[Any]]], add: Callable[[Any, Any, Any], None], *,
                may_be_missing: bool = False) -> None:
        with self._using("write") as context:
            def start(name: str, part: Sequence[Any]) -> Any:
                # Freed once it was sent: the library has taken over what is in it.
                with rados.WriteOpCtx() as operation:
                    add(context, operation, part)
                    return context.operate_aio_write_op(operation, name)

            _finish((partial(start, name, part) for name, items in changes for part in _cut(items)),
                    may_be_missing=may_be_missing)

    def read_entries(self, name: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return those of some entries of an object's map that are there."""
        found: dict[str, bytes] = {}
        for part in _cut(keys):
            found |= self._read_map(name, "get_omap_vals_by_keys", tuple(part))
        return found

    def list_entries(self, name: str, prefix: str = "", after: str = "") -> Iterator[tuple[str, bytes]]:
        """Yield the entries of an object's map whose keys begin with `prefix` and come after another, in order."""
        while True:
            found = self._read_map(name, "get_omap_vals", after, prefix, ENTRIES_AT_ONCE)
            if not found:    # an OSD may give fewer than it was asked for, and more the next time
                return
            yield from found.items()
            after = next(reversed(found))

    def _read_map(self, name: str, method: str, *arguments: Any) -> dict[str, bytes]:
        with self._using("read") as context, rados.ReadOpCtx() as operation:
            entries, _ = getattr(context, method)(operation, *arguments)
            try:
                context.operate_read_op(operation, name)
            except rados.ObjectNotFound:
                return {}
            return {key: value or b"" for key, value in entries}

    def close(self) -> None:
        with self._lock:
            self._disconnect()
            while self._shut_out:
                _close(*self._shut_out.pop())

    @contextlib.contextmanager
    def _using(self, action: str) -> Iterator[Any]:
        """Give the connection to a block, whose failures are BackendUnavailable."""
        context = self._connect()
        try:
            yield context
        except (rados.Error, OSError) as e:
            if getattr(e, "errno", None) == errno.ESHUTDOWN:
                with self._lock:
                    if self._context is context:
                        # Other threads may be in the middle of something with it, so it is closed at the end.
                        self._shut_out.append((self._cluster, context))
                        self._cluster = self._context = None
            raise BackendUnavailable(f"ceph: cannot {action} in pool {self._pool}: {_explain(e)}") from e

    def _connect(self) -> Any:
        failures = self._failures
        with self._lock:
            if self._context is None:
                if self._failure is not None and failures != self._failures:    # who waited here need not wait again
                    raise BackendUnavailable(str(self._failure)) from self._failure
                try:
                    self._context = self._open()
                except BackendUnavailable as e:
                    self._failures, self._failure = self._failures + 1, e
                    raise
            return self._context

    def _open(self) -> Any:
        missing = "cannot connect: no key, no keyring or no monitor is known"
        try:
            self._cluster = self._cluster or make_cluster(*self._arguments)
            self._cluster.connect()
            missing = f"there is no pool {self._pool}"
            context = self._cluster.open_ioctx(self._pool)
        except InvalidConfiguration as e:    # it was all right when this object was made
            raise BackendUnavailable(f"ceph: {e}") from e
        except rados.ObjectNotFound as e:
            self._disconnect()
            raise BackendUnavailable(f"ceph: {missing}") from e
        except (rados.Error, OSError) as e:
            self._disconnect()
            raise BackendUnavailable(f"ceph: cannot connect: {_explain(e)}") from e
        context.set_namespace(self._namespace)
        # When there is no space left, writes fail and deletions do not, instead of waiting both.
        context.set_osdmap_full_try()
        return context

    def _disconnect(self) -> None:
        _close(self._cluster, self._context)
        self._cluster = self._context = None


def _close(cluster: Any, context: Any) -> None:
    if context is not None:
        context.close()
    if cluster is not None:
        cluster.shutdown()


def make_cluster(username: str | None, secret: str | None, keyring: str | None, timeout: str, conffile: str) -> Any:
    """Return a client that is not connected.  Raises InvalidConfiguration."""
    if not timeout.isdecimal():
        raise InvalidConfiguration(f"ceph_timeout: {timeout!r} is no whole number of seconds")
    timeout_s = int(timeout)
    try:
        cluster = rados.Rados(rados_id=username or None, conffile=conffile)
    except (rados.Error, OSError) as e:
        raise InvalidConfiguration(f"ceph_conffile: cannot read {conffile}: {_explain(e)}") from e
    options = {name: str(timeout_s) for name in _TIMEOUTS}
    if timeout_s:
        options |= {name: str(min(default_s, timeout_s / 4)) for name, default_s in _LOOKS.items()}
    for name, value in (("key", secret), ("keyring", keyring)):
        if value:
            options[name] = value
    for name, value in options.items():
        cluster.conf_set(name, value)
    return cluster


def _explain(error: Exception) -> str:
    """Return the reason alone: the library's texts name what we called it with."""
    number = getattr(error, "errno", None)
    return os.strerror(abs(number)) if number else str(error)


def _cut(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for first in range(0, len(items), CHANGES_AT_ONCE):
        yield items[first:first + CHANGES_AT_ONCE]


def _finish(starts: Iterable[Callable[[], Any]], *, may_be_missing: bool = False) -> None:
    """Start requests, some at a time, and wait until all have ended.  Raises OSError for the first that failed."""
    under_way: collections.deque[Any] = collections.deque()
    codes: list[int] = []

    def finish_first() -> None:
        completion = under_way.popleft()
        completion.wait_for_complete_and_cb()
        codes.append(completion.get_return_value())

    try:
        for start in starts:
            if len(under_way) >= REQUESTS_AT_ONCE:
                finish_first()
            under_way.append(start())
    finally:
        while under_way:
            finish_first()
    for code in codes:
        if code < 0 and not (may_be_missing and code == -errno.ENOENT):
            raise OSError(-code, os.strerror(-code))
