"""Statements of hot paths, whose text is made once and which the driver executes itself.

FAST PATH: SQLAlchemy spends 40 to 110 us on each execution, and 10 us on each connection, where SQLite answers in 7 to
20 us.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import exc

#: How SQLAlchemy writes the place of a list in a statement's text.
_LIST = "__[POSTCOMPILE_{}]"


class _Text(NamedTuple):
    """A statement for one kind of database.

    names : parameters in the order in which the driver takes them, or None if it takes them by name
    lists : parameters that stand for a list of values, one at least
    constants : parameters that have a value of their own
    encoders, decoders : what turns values of some parameters, and of some columns by number, to the driver's and back
    """

    text: str
    names: list[str] | None
    lists: frozenset[str]
    constants: dict[str, Any]
    encoders: dict[str, Callable[[Any], Any]]
    decoders: list[tuple[int, Callable[[Any], Any]]]


class _Prepared:
    """A statement."""

    def __init__(self, statement: Any, columns: Sequence[str] | None = None) -> None:
        self.statement = statement
        self._columns = columns
        self._texts: dict[str, _Text] = {}

    def compile(self, dialect: sa.Dialect) -> _Text:
        """Make the text, which takes milliseconds, for a kind of database."""
        compiled: Any = self.statement.compile(dialect=dialect, column_keys=self._columns)
        encoders = {name: parameter.type.dialect_impl(dialect).bind_processor(dialect)
                    for name, parameter in compiled.binds.items()}
        decoders = [column.type.dialect_impl(dialect).result_processor(dialect, None)
                    for column in getattr(self.statement, "selected_columns", ())]
        made = self._texts[dialect.name] = _Text(
            str(compiled), compiled.positiontup if compiled.positional else None,
            frozenset(name for name, parameter in compiled.binds.items() if parameter.expanding),
            {name: parameter.value for name, parameter in compiled.binds.items() if not parameter.required},
            {name: encode for name, encode in encoders.items() if encode is not None},
            [(number, decode) for number, decode in enumerate(decoders) if decode is not None])
        return made

    def _get_text(self, dialect: sa.Dialect) -> _Text:
        return self._texts.get(dialect.name) or self.compile(dialect)

    @staticmethod
    def _encode(text: _Text, parameters: Mapping[str, Any]) -> Any:
        """Return the parameters as the driver takes them."""
        values = {**text.constants, **parameters}
        for name, encode in text.encoders.items():
            values[name] = list(map(encode, values[name])) if name in text.lists else encode(values[name])
        return values if text.names is None else list(map(values.__getitem__, text.names))


@contextlib.contextmanager
def _open_cursor(connection: sa.Connection, text: str) -> Iterator[Any]:
    """Give a cursor of the driver.  Its errors are raised as what SQLAlchemy would raise."""
    dialect = connection.dialect
    assert dialect.loaded_dbapi is not None
    cursor = connection.connection.cursor()
    try:
        yield cursor
    except dialect.loaded_dbapi.Error as e:
        lost = dialect.is_disconnect(e, connection.connection.dbapi_connection, cursor)
        if lost:
            connection.invalidate(e)
        raise exc.DBAPIError.instance(text, None, e, dialect.loaded_dbapi.Error, hide_parameters=True,
                                      connection_invalidated=lost, dialect=dialect) from e
    finally:
        cursor.close()


class PreparedSelect(_Prepared):
    """A SELECT.

    Parameters
    ----------
    statement : Select
    """

    def fetch(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Return all rows, as `connection.execute(statement, parameters)` gives them."""
        dialect = connection.dialect
        assert dialect.loaded_dbapi is not None
        if not connection.in_transaction():     # then an error must not happen twice: the second would hide the first
            # Else SQLAlchemy knows what an error means for the connection.
            with contextlib.suppress(dialect.loaded_dbapi.Error):
                return self.execute(connection.connection, dialect, parameters)
        return [list(row) for row in connection.execute(self.statement, parameters)]

    def execute(self, connection: Any, dialect: sa.Dialect, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Return all rows, by a connection of the driver.  Raises the driver's errors."""
        text = self._get_text(dialect)
        cursor = connection.cursor()
        try:
            cursor.execute(*self._expand(text, dialect, self._encode(text, parameters)))
            return self._decode(text, cursor)
        finally:
            cursor.close()

    def fetch_within(self, connection: sa.Connection, parameters: Mapping[str, Any]) -> list[list[Any]]:
        """Return all rows, in the transaction.  Raises what SQLAlchemy would."""
        text = self._get_text(connection.dialect)
        with _open_cursor(connection, text.text) as cursor:
            cursor.execute(*self._expand(text, connection.dialect, self._encode(text, parameters)))
            return self._decode(text, cursor)

    @staticmethod
    def _expand(text: _Text, dialect: sa.Dialect, parameters: Any) -> tuple[str, Any]:
        """Return the text with a place for each value of each list, and the parameters without lists."""
        if not text.lists:
            return text.text, parameters
        expanded = text.text
        if text.names is None:
            for name in text.lists:
                many = {f"{name}_{place}": value for place, value in enumerate(parameters.pop(name))}
                parameters.update(many)
                expanded = expanded.replace(_LIST.format(name), ", ".join(f"%({one})s" for one in many))
            return expanded, parameters
        mark = "?" if dialect.paramstyle == "qmark" else "%s"
        values: list[Any] = []
        for name, value in zip(text.names, parameters, strict=True):
            if name in text.lists:
                expanded = expanded.replace(_LIST.format(name), ", ".join([mark] * len(value)))
                values += value
            else:
                values.append(value)
        return expanded, values

    @staticmethod
    def _decode(text: _Text, cursor: Any) -> list[list[Any]]:
        rows = [list(row) for row in cursor.fetchall()]
        for number, decode in text.decoders:
            for row in rows:
                row[number] = decode(row[number])
        return rows


class PreparedWrite(_Prepared):
    """An INSERT, UPDATE or DELETE.

    Parameters
    ----------
    statement : Insert, Update or Delete
    columns : sequence of str
        Of an INSERT: those that each row names.
    """

    def execute(self, connection: sa.Connection, rows: Iterable[Mapping[str, Any]]) -> int:
        """Execute it for each of `rows`, not at all for none, in the transaction; return how many it affected.

        Raises what SQLAlchemy would.
        """
        text = self._get_text(connection.dialect)
        parameters = [self._encode(text, row) for row in rows]
        if not parameters:
            return 0
        with _open_cursor(connection, text.text) as cursor:
            if len(parameters) == 1:
                cursor.execute(text.text, parameters[0])
            else:
                cursor.executemany(text.text, parameters)
            return cursor.rowcount
