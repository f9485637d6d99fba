"""ZooKeeper without waiting: below tooz, kazoo keeps calls until its server is back, however long that takes."""

import logging
import threading
from typing import Any

from kazoo.exceptions import ConnectionLoss
from kazoo.retry import ForceRetryError, KazooRetry

# It tells of every try to connect, once a second; we tell that the service is away.
logging.getLogger("kazoo").setLevel(logging.ERROR)

#: For `get_coordinator`: commands are tried once, connections for ever and at least once a second.
OPTIONS = {"command_retry": {"max_tries": 1}, "connection_retry": {"max_tries": -1, "max_delay": 1.0}}

#: Seconds for a new session to begin.
START_S = 5.0


class Session:
    """The session of tooz's driver, made to fail at once while the server is away.

    Locks are nodes that go with the session.  When it is not known whether one was made or deleted, because the answer
    was lost, a new session is begun, so that nobody finds a lock that no one holds.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._client = driver._coord
        self._doubtful = threading.Event()
        call, make_lock = self._client._call, self._client.Lock

        def call_or_fail(request: Any, answer: Any) -> Any:
            if self._client.connected:
                return call(request, answer)
            answer.set_exception(ConnectionLoss())
            return False

        def make_lock_without_retry(*args: Any, **kwargs: Any) -> Any:
            lock = make_lock(*args, **kwargs)
            lock._retry = KazooRetry(max_tries=1)
            lock._retry.retry_exceptions = (ForceRetryError,)
            return lock

        self._client._call, self._client.Lock = call_or_fail, make_lock_without_retry

    def doubt(self) -> None:
        """Say that it is not known what became of a lock."""
        self._doubtful.set()

    def heartbeat(self) -> float:
        """Take a sign of life; returns as tooz does.  Begins a new session where that is needed."""
        if self._doubtful.is_set():
            self._client.stop()
            self._client.start(timeout=START_S)
            self._doubtful.clear()
        try:
            # A server that has forgotten everything has forgotten that, too.
            self._client.ensure_path(self._driver._base_path())
            return self._driver.heartbeat()
        except BaseException:
            # It will not have the old session if it has forgotten that.
            self._doubtful.set()
            raise
