"""Limits on how long a database server may take to answer.

One that accepts connections and never answers, being frozen or behind a network that swallows packets, would else keep
a thread for ever.
"""

import functools
import time
from collections.abc import Generator
from typing import Any

import sqlalchemy as sa

#: Seconds to connect.
CONNECT_TIMEOUT_S = 10

#: Seconds to answer a statement: longer than any of ours takes, and than MySQL waits for a lock (50).
ANSWER_TIMEOUT_S = 60


def limit_answers(engine: sa.Engine, answer_timeout_s: float | None) -> None:
    """Have connections made from now on give up, and be closed, when an answer takes longer; None: never.

    The driver's OperationalError comes out, of which SQLAlchemy knows that the connection is lost.
    """
    if engine.dialect.name == "postgresql":
        sa.event.listen(engine, "do_connect", functools.partial(_connect_postgresql, answer_timeout_s))
    elif engine.dialect.name == "mysql":
        sa.event.listen(engine, "do_connect", functools.partial(_connect_mysql, answer_timeout_s))


def _connect_postgresql(answer_timeout_s: float | None, dialect: sa.Dialect, record: object, arguments: Any,
                        options: Any) -> Any:
    return _make_connection_class(answer_timeout_s).connect(*arguments, **options)


@functools.cache
def _make_connection_class(answer_timeout_s: float | None) -> Any:
    """Return psycopg's class of connections with a limit, which it has for connecting only."""
    import psycopg

    if answer_timeout_s is None:
        return psycopg.Connection
    limit_s = answer_timeout_s

    class Connection(psycopg.Connection):
        def wait(self, gen, *arguments, **options):
            return super().wait(self._watch(gen), *arguments, **options)

        def _watch(self, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """Run the steps of an exchange with the server; they are also resumed, with 0, while nothing happens."""
            deadline = time.monotonic() + limit_s
            try:
                wanted = next(steps)
                while True:
                    ready = yield wanted
                    if not ready and time.monotonic() > deadline:
                        self.pgconn.finish()
                        raise psycopg.OperationalError(f"no answer within {limit_s:g} s")
                    wanted = steps.send(ready) or wanted
            except StopIteration as e:
                return e.value

    return Connection


def _connect_mysql(answer_timeout_s: float | None, dialect: sa.Dialect, record: object, arguments: Any,
                   options: Any) -> Any:
    assert dialect.loaded_dbapi is not None
    options = dict(options)     # which are those of the next connection, too
    limits = {name: options.pop(name, answer_timeout_s) for name in ("read_timeout", "write_timeout")}
    options.setdefault("connect_timeout", CONNECT_TIMEOUT_S)
    # PyMySQL's own limit ends with TCP's part of connecting.
    connection = dialect.loaded_dbapi.connect(*arguments, **options, read_timeout=options["connect_timeout"],
                                              write_timeout=options["connect_timeout"])
    connection._read_timeout, connection._write_timeout = limits["read_timeout"], limits["write_timeout"]
    return connection
