"""Column types that mean the same on SQLite, PostgreSQL and MySQL.

Text compares and sorts by code points everywhere: `table_options` on MySQL, collation "C" on PostgreSQL, SQLite by
nature.  Times are naive UTC with microseconds.
"""

import uuid
from collections.abc import Callable
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from gnocchi import metric_ids


def _to_bytes(value: uuid.UUID | None) -> bytes | None:
    return None if value is None else value.bytes


def _from_bytes(value: bytes | None) -> uuid.UUID | None:
    return None if value is None else metric_ids.from_int(int.from_bytes(value))


class UUID(sa.types.TypeDecorator[uuid.UUID]):
    """Native on PostgreSQL, its 16 big-endian bytes elsewhere: both sort alike."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(sa.Uuid())
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.LargeBinary())
        return dialect.type_descriptor(sa.BINARY(16))

    def bind_processor(self, dialect: sa.Dialect) -> Callable[[Any], Any] | None:
        return None if dialect.name == "postgresql" else _to_bytes

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[Any], Any] | None:
        return None if dialect.name == "postgresql" else _from_bytes


def text(length: int) -> sa.types.TypeEngine[str]:
    """Return the type of a text of at most `length` characters."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


#: A document, decoded to Python values by orjson (see `encode_json`).
JSON: sa.types.TypeEngine[Any] = sa.JSON()

#: A document that can be searched.
SEARCHABLE_JSON: sa.types.TypeEngine[Any] = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

TIMESTAMP = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")

#: A counter that the database raises by itself; SQLite does that for INTEGER only.
SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class ProjectOf(FunctionElement[str]):
    """The project in a creator, `<user>:<project>`; empty in one that has none.  To be used in schemas."""

    inherit_cache = True


@compiles(ProjectOf)
def _compile_project_of(element: ProjectOf, compiler: Any, **arguments: Any) -> str:
    creator = compiler.process(element.clauses, **arguments)
    find = "strpos" if compiler.dialect.name == "postgresql" else "instr"
    colon = f"{find}({creator}, ':')"
    return (f"CASE WHEN {colon} > 0 THEN substr({creator}, {colon} + 1) "
            f"WHEN {creator} IS NOT NULL THEN '' END")


def table_options(dialect: sa.Dialect) -> dict[str, Any]:
    """Return how every table is made by a connected dialect.

    `utf8mb4_bin`, which every server has, takes texts that differ in trailing blanks only for equal.
    """
    version = getattr(dialect, "server_version_info", None) or ()
    collation = "utf8mb4_bin"
    if getattr(dialect, "is_mariadb", False):
        if version >= MARIADB_NOPAD:
            collation = "utf8mb4_nopad_bin"
    elif version >= MYSQL_NOPAD:
        collation = "utf8mb4_0900_bin"
    return {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": collation}


#: The first servers that have these collations.
MARIADB_NOPAD = (10, 2)
MYSQL_NOPAD = (8, 0, 17)


def encode_json(value: Any) -> str:
    return orjson.dumps(value).decode()
