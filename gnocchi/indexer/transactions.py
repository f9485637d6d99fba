"""Connections to the database: the two ways in, what is retried, and which errors come out.

Every method of the index opens one of `reading()` and `writing()` and leaves nothing open behind it; `fetch` is for
those that read with one statement and are called often.
"""

import contextlib
import functools
import logging
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

import orjson
import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer import types
from gnocchi.indexer.prepared import PreparedSelect
from gnocchi.indexer.time_limits import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, limit_answers

LOG = logging.getLogger(__name__)


def _shorten(record: logging.LogRecord) -> bool:
    """Have the pool tell without a traceback of a connection that broke while it was given back: it makes another."""
    if record.exc_info and isinstance(record.exc_info[1], Exception):
        record.msg, record.args = "A connection to the index broke: %s: %s", (record.getMessage(), record.exc_info[1])
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


logging.getLogger("sqlalchemy.pool.impl.QueuePool").addFilter(_shorten)

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="Connections")

#: Seconds that SQLite waits for another writer.
BUSY_TIMEOUT_S = 10

#: How often a whole write is tried when the database undoes it (deadlock, lost connection), and the
#: longest pause in between in seconds: three seconds in all, well inside a client's patience.
TRIES_MAX = 8
PAUSE_S_MAX = 0.8

#: No try begins later than this many seconds after the first one.
TRIES_S_MAX = 10.0

#: Connections that are kept for `fetch`, on SQLite: as many as threads that seldom read at the same moment.
READERS_MAX = 5

#: Schemes of URLs that deployments use -> the driver we use.
DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
    "postgresql+psycopg2": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mysql+pymysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "mariadb+pymysql": "mysql+pymysql",
}

#: Deadlock or lock wait ended by the server, which has undone the transaction: PostgreSQL's SQLSTATE, MySQL's number.
UNDONE_SQLSTATES = {"40001", "40P01", "55P03"}
UNDONE_ERRNOS = {1205, 1213}

#: A table or column is missing: PostgreSQL's SQLSTATE, MySQL's number.
MISSING_SQLSTATES = {"42P01", "42703"}
MISSING_ERRNOS = {1146, 1054}


class Undone(exceptions.BackendUnavailable):
    """The database undid the transaction before its commit: it may be run again from its beginning."""


#: What our drivers take in the query of a URL.
_SECONDS = {"connect_timeout", "read_timeout", "write_timeout"}


def parse_url(url: str) -> sa.URL:
    """Return the URL with the driver and character set that we use.

    Raises
    ------
    ValueError
        Not a URL, or of a database that is not supported; the text does not hold the URL.
    """
    try:
        parsed = sa.make_url(url)
    except exc.ArgumentError as e:
        raise ValueError("indexer.url is not a database URL") from e
    except ValueError:      # whose text is a part of the URL
        raise ValueError("indexer.url: the port is not a number") from None
    if parsed.drivername not in DRIVERS:
        raise ValueError(f"indexer.url: `{parsed.drivername}' is none of {', '.join(sorted(DRIVERS))}")
    parsed = parsed.set(drivername=DRIVERS[parsed.drivername])
    if parsed.drivername == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ValueError("indexer.url: SQLite needs the path of a file, as in sqlite:////var/lib/gnocchi/gnocchi.db")
    if parsed.drivername == "mysql+pymysql":
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    if parsed.drivername == "postgresql+psycopg" and "connect_timeout" not in parsed.query:
        parsed = parsed.update_query_dict({"connect_timeout": str(CONNECT_TIMEOUT_S)})
    for name in _SECONDS & parsed.query.keys():
        if not str(parsed.query[name]).isdecimal():
            raise ValueError(f"indexer.url: {name} is not a whole number of seconds")
    return parsed


def make_engine(url: sa.URL, answer_timeout_s: float | None = None, **pool_options: Any) -> sa.Engine:
    """Return an engine, which connects at its first use.  Raises ValueError when the driver is not installed.

    answer_timeout_s : see gnocchi.indexer.time_limits
    """
    options: dict[str, Any] = {}
    if url.drivername == "sqlite":
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
    else:
        options["isolation_level"] = "READ COMMITTED"
    try:
        engine = sa.create_engine(url, json_serializer=types.encode_json, json_deserializer=orjson.loads,
                                  poolclass=sa.pool.QueuePool, pool_use_lifo=True, hide_parameters=True,
                                  **options, **pool_options)
    except ImportError as e:
        raise ValueError(f"indexer.url: the driver of {url.drivername} cannot be loaded: {e}; "
                         f"pip install 'gnocchi[{url.get_backend_name()}]' brings it") from e
    if url.drivername == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif url.drivername == "mysql+pymysql":
        sa.event.listen(engine, "connect", _set_up_mysql)
    limit_answers(engine, answer_timeout_s)
    return engine


def _set_up_sqlite(connection: Any, record: object) -> None:
    connection.isolation_level = None       # we begin transactions, not the module
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            # Two processes that switch a new file at once do not wait for each other.
            if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
                connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as e:
            if "locked" not in str(e) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA case_sensitive_like = ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later fails at once when another has written meanwhile,
    # whatever the timeout: so it takes its place in the queue before anything else.
    if connection.get_execution_options().get("writing"):
        try:
            connection.connection.cursor().execute("BEGIN IMMEDIATE")       # 20 us less than through SQLAlchemy
        except sqlite3.DatabaseError as e:
            raise exc.DatabaseError("BEGIN IMMEDIATE", None, e) from e


def _set_up_mysql(connection: Any, record: object) -> None:
    with connection.cursor() as cursor:
        # Grouped ids of one statement are 80 kB; MySQL cuts them at 1 kB by default.
        cursor.execute("SET SESSION sql_mode = 'TRADITIONAL', group_concat_max_len = 1048576")


def in_ids(dialect: str, column: sa.ColumnElement[Any], name: str = "ids") -> sa.ColumnElement[bool]:
    """Return the condition that a column is one of the list bound to `name`.

    PostgreSQL takes the list as one array; the others as one parameter each, of which SQLite allows 32,766.
    """
    if dialect == "postgresql":
        return column == sa.any_(sa.bindparam(name, type_=sa.ARRAY(column.type)))
    return column.in_(sa.bindparam(name, type_=column.type, expanding=True))


class Connections:
    """The engine and its two entry points.  Safe to share between threads; see `after_fork`.

    answer_timeout_s : seconds that a server may take for a statement, None for any time
    """

    def __init__(self, url: str, *, max_pool_size: int = 5, max_overflow: int = 50,
                 pool_timeout: float | None = None, connection_recycle_time: int = 3600,
                 answer_timeout_s: float | None = ANSWER_TIMEOUT_S) -> None:
        self.url = parse_url(url)
        self.engine = make_engine(
            self.url, answer_timeout_s,
            pool_size=max_pool_size, max_overflow=max_overflow, pool_recycle=connection_recycle_time,
            pool_timeout=30 if pool_timeout is None else pool_timeout)
        self.dialect = self.engine.dialect.name
        # Each statement sees its own snapshot everywhere, so reading needs no transaction at all:
        # on PostgreSQL that saves two of three round trips.
        self._reader = (self.engine.execution_options(isolation_level="AUTOCOMMIT")
                        if self.dialect == "postgresql" else self.engine)
        self._writer = self.engine.execution_options(writing=True)
        self._queue = threading.Lock()
        #: SQLite's connections of `fetch` that are not in use.
        self._readers: list[Any] = []

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.describe_url()}"

    def describe_url(self) -> str:
        """Return the URL for logs, without user and password."""
        scheme = self.url.get_backend_name()
        if scheme == "sqlite":
            return f"sqlite:///{self.url.database}"
        port = f":{self.url.port}" if self.url.port else ""
        return f"{scheme}://***:***@{self.url.host or ''}{port}/{self.url.database or ''}"

    @contextlib.contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a connection for statements that change nothing; each sees what is committed when it runs.

        Raises BackendUnavailable.
        """
        with self._translated(), self._reader.connect() as connection:
            yield connection

    def fetch(self, select: PreparedSelect, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Return the rows of one statement, as it does within `reading()`.  Raises BackendUnavailable."""
        # Where the driver reports an error, SQLAlchemy, which is asked again, knows what it means for the connection.
        if self.dialect == "sqlite":
            with contextlib.suppress(sqlite3.Error):
                return self._fetch_from_file(select, parameters)
        # PostgreSQL would need two more round trips for the transaction that its driver begins.
        elif self.dialect != "postgresql":
            assert self.engine.dialect.loaded_dbapi is not None
            with (self._translated(), contextlib.suppress(self.engine.dialect.loaded_dbapi.Error),
                  contextlib.closing(self.engine.raw_connection()) as raw):
                return select.execute(raw, self.engine.dialect, parameters)
        with self.reading() as connection:
            return select.fetch(connection, parameters)

    def _fetch_from_file(self, select: PreparedSelect, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """FAST PATH: the pool takes as long as SQLite, 25 us, and three times that with cold caches.

        Raises sqlite3.Error, BackendUnavailable.
        """
        try:
            connection = self._readers.pop()
        except IndexError:
            with self._translated():
                pooled = self.engine.raw_connection()
                pooled.detach()
            connection = pooled.dbapi_connection
        rows = None
        try:
            rows = select.execute(connection, self.engine.dialect, parameters)
        finally:
            if rows is not None and len(self._readers) < READERS_MAX:
                self._readers.append(connection)
            else:
                connection.close()
        return rows

    @contextlib.contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give a connection in a transaction that is committed at the end, or undone by an exception.

        Raises
        ------
        Undone
            A BackendUnavailable: nothing happened, and the same may succeed when tried again.
        BackendUnavailable
            If the connection was lost during the commit, it is unknown whether it happened.
        """
        with self._write_queue(), self._translated(), self._writer.connect() as connection:
            transaction = connection.begin()
            yield connection
            with self._committing():
                transaction.commit()

    def after_fork(self) -> None:
        """Forget the parent's connections; to be called in a child before anything else."""
        self.engine.dispose(close=False)
        self._readers = []
        self._queue = threading.Lock()

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.engine.dispose()
        while self._readers:
            self._readers.pop().close()

    def in_ids(self, column: sa.ColumnElement[Any], name: str = "ids") -> sa.ColumnElement[bool]:
        """Return the condition that a column is one of the list bound to `name`."""
        return in_ids(self.dialect, column, name)

    @contextlib.contextmanager
    def _write_queue(self) -> Iterator[None]:
        """On SQLite, let the threads of this process write in turn: its own waiting sleeps and is unfair."""
        if self.dialect != "sqlite":
            yield
            return
        queue = self._queue
        if not queue.acquire(timeout=BUSY_TIMEOUT_S):
            raise exceptions.BackendUnavailable(f"index: no turn to write to SQLite within {BUSY_TIMEOUT_S} s")
        try:
            yield
        finally:
            queue.release()

    @contextlib.contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as e:
            if e.connection_invalidated:
                raise exceptions.BackendUnavailable(
                    f"index: connection lost during a commit, which may have happened: {self._reason(e)}") from e
            raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn failures of the database into errors of ours; IntegrityError is for the caller to explain."""
        try:
            yield
        except exc.IntegrityError:
            raise
        except exc.DataError as e:
            raise exceptions.InvalidInput(f"Value cannot be stored: {self._reason(e)}") from e
        except UnicodeEncodeError as e:
            raise exceptions.InvalidInput(f"Value cannot be stored: {e}") from e
        except exc.TimeoutError as e:
            raise exceptions.BackendUnavailable(f"index: no free connection: {e}") from e
        except exc.DBAPIError as e:
            raise self._explain(e) from e

    def _explain(self, e: exc.DBAPIError) -> Exception:
        sqlstate = getattr(e.orig, "sqlstate", None)
        arguments: tuple[Any, ...] = getattr(e.orig, "args", ())
        errno = arguments[0] if arguments and isinstance(arguments[0], int) else None
        reason = self._reason(e)
        if sqlstate in UNDONE_SQLSTATES or errno in UNDONE_ERRNOS or e.connection_invalidated:
            return Undone(f"index: {reason}")
        if sqlstate in MISSING_SQLSTATES or errno in MISSING_ERRNOS or reason.startswith("no such table"):
            return exceptions.BackendUnavailable(f"index: {reason}; gnocchi-upgrade has to be run")
        if isinstance(e, exc.ProgrammingError | exc.NotSupportedError):
            return e                        # a statement of ours is wrong
        return exceptions.BackendUnavailable(f"index: {reason}")

    def _reason(self, e: exc.DBAPIError) -> str:
        """Return the first line of the driver's text: no statement, no values, no password."""
        arguments: tuple[Any, ...] = getattr(e.orig, "args", ())
        message = str(arguments[1] if len(arguments) > 1 and isinstance(arguments[0], int) else e.orig).strip()
        lines = message.splitlines()
        reason = lines[0] if lines else type(e.orig).__name__
        password = self.url.password
        return reason.replace(str(password), "***") if password else reason


def retried(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """Run a whole method again when the database undid it, after a random and growing pause."""

    @functools.wraps(method)
    def run(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        begun = time.monotonic()
        for attempt in range(1, TRIES_MAX):
            try:
                return method(self, *args, **kwargs)
            except Undone as e:
                if time.monotonic() - begun > TRIES_S_MAX:
                    raise
                LOG.debug("%s: attempt %d: %s", method.__name__, attempt, e)
                time.sleep(random.uniform(0, min(PAUSE_S_MAX, 0.02 * 2 ** attempt)))
        return method(self, *args, **kwargs)

    return run
