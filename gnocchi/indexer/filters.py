"""Filters: conditions on rows as a tree of plain values, and the SQL of them on each database.

The tree comes from a client's filter or from a policy rule; its values have the kind of what they are compared with
(`Field.kind`) already.  The SQL has SQL's three truth values: a comparison with what is not set is neither true nor
false, so neither it nor its negation lets a row in.  Only `!=` holds for what is not set.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from gnocchi.indexer.resource_attributes import encode_attribute

#: Up to this many values of an attribute are looked up in PostgreSQL's index one by one.
INDEXED_VALUES_MAX = 100

#: Stands before `%`, `_` and itself in patterns of ours.
ESCAPE = "/"


class Kind(enum.Enum):
    """What the values of a field are."""

    STRING = "string"
    UUID = "uuid"
    NUMBER = "number"
    BOOL = "bool"
    DATETIME = "datetime"
    INTEGER = "integer"
    #: Microseconds between start and end.
    LIFESPAN = "lifespan"
    #: The two halves of `creator`; what has no colon has none.
    CREATOR_USER = "creator user"
    CREATOR_PROJECT = "creator project"


@dataclasses.dataclass(frozen=True)
class Field:
    """What a filter can name: SQL value, and for typed attributes the documents that it is taken from.

    indexed : column with an index that is equal to texts, the empty one excepted, where `column` is
    """

    kind: Kind
    column: sa.ColumnElement[Any]
    documents: sa.ColumnElement[Any] | None = None
    indexed: sa.ColumnElement[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """operator : one of = != < <= > >= like;  value : None means "not set" and goes with = and != only"""

    field: str
    operator: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Membership:
    field: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class AllOf:
    operands: "tuple[Filter, ...]"


@dataclasses.dataclass(frozen=True)
class AnyOf:
    operands: "tuple[Filter, ...]"


@dataclasses.dataclass(frozen=True)
class Not:
    operand: "Filter"


@dataclasses.dataclass(frozen=True)
class Constant:
    value: bool


#: Names of fields for rights; no filter of a client can name them.
SHOWN_USER, SHOWN_PROJECT = "shown created_by_user_id", "shown created_by_project_id"

Filter = Comparison | Membership | AllOf | AnyOf | Not | Constant

_OPERATORS: dict[str, Callable[[Any, Any], sa.ColumnElement[bool]]] = {
    "=": lambda column, value: column == value,
    "!=": lambda column, value: sa.or_(column != value, column.is_(None)),
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
}


class Compiler:
    """Makes SQL of filters, for one kind of database and the fields of one source of rows."""

    def __init__(self, fields: Mapping[str, Field], dialect: str) -> None:
        self._fields = fields
        self._dialect = dialect

    def compile(self, tree: Filter, positive: bool = True) -> sa.ColumnElement[bool]:
        """Return the condition.

        positive : whether an even number of negations surround it.  There, false may stand for "not set".
        """
        if isinstance(tree, AllOf):
            return sa.and_(sa.true(), *(self.compile(operand, positive) for operand in tree.operands))
        if isinstance(tree, AnyOf):
            return sa.or_(sa.false(), *(self.compile(operand, positive) for operand in tree.operands))
        if isinstance(tree, Not):
            return sa.not_(self.compile(tree.operand, not positive).self_group())
        if isinstance(tree, Constant):
            return sa.true() if tree.value else sa.false()
        field = self._fields[tree.field]
        if isinstance(tree, Membership):
            return self._membership(field, tree, positive)
        return self._comparison(field, tree, positive)

    def _comparison(self, field: Field, tree: Comparison, positive: bool) -> sa.ColumnElement[bool]:
        column, operator, value = field.column, tree.operator, tree.value
        if value is None:
            assert operator in ("=", "!="), f"BUG: {tree}"
            return column.is_(None) if operator == "=" else column.is_not(None)
        if operator == "like":
            # Doubled, it is an ordinary character: patterns of clients know `%` and `_` only.
            return column.like(value.replace(ESCAPE, ESCAPE * 2), escape=ESCAPE)
        if operator == "=":
            return self._membership(field, Membership(tree.field, (value,)), positive)
        if operator == "!=" and self._compares_padded(field):
            return sa.or_(sa.not_(self._membership(field, Membership(tree.field, (value,)), False).self_group()),
                          column.is_(None))
        if self._compares_padded(field):
            return _OPERATORS[operator](sa.cast(column, sa.LargeBinary), value.encode())
        return _OPERATORS[operator](column, self._bind(field, value))

    def _membership(self, field: Field, tree: Membership, positive: bool) -> sa.ColumnElement[bool]:
        column, values = field.column, tree.values
        if field.indexed is not None and positive and all(values):
            field = dataclasses.replace(field, column=field.indexed)
            column = field.column
        if field.documents is not None and self._dialect == "postgresql" and positive \
                and len(values) <= INDEXED_VALUES_MAX:
            return sa.or_(*(self._contains(field.documents, tree.field, value) for value in values))
        if len(values) == 1:
            found = column == self._bind(field, values[0])
        else:
            found = column.in_(sa.bindparam(None, [self._encode(field, value) for value in values],
                                            type_=column.type, expanding=True, unique=True))
        if self._compares_padded(field):
            # MariaDB finds `a` equal to `a `; the column as it is uses an index, its bytes decide.
            return sa.and_(found, sa.cast(column, sa.LargeBinary).in_([value.encode() for value in values]))
        return found

    @staticmethod
    def _contains(documents: sa.ColumnElement[Any], name: str, value: Any) -> sa.ColumnElement[bool]:
        fragment = sa.cast(sa.bindparam(None, {name: encode_attribute(value)}, type_=postgresql.JSONB(), unique=True),
                           postgresql.JSONB)
        return documents.op("@>", is_comparison=True)(fragment)

    def _compares_padded(self, field: Field) -> bool:
        return self._dialect == "mysql" and field.kind in (Kind.STRING, Kind.CREATOR_USER, Kind.CREATOR_PROJECT)

    def _bind(self, field: Field, value: Any) -> sa.BindParameter[Any]:
        # By hand, since SQLAlchemy takes a bare True or False for a keyword, which cannot be compared.
        return sa.bindparam(None, self._encode(field, value), type_=field.column.type, unique=True)

    @staticmethod
    def _encode(field: Field, value: Any) -> Any:
        return value if field.documents is None else encode_attribute(value)


def creator_fields(creator: sa.ColumnElement[Any], dialect: str,
                   project_of: sa.ColumnElement[Any] | None = None) -> dict[str, Field]:
    """Return the fields made of a column of creators, `<user>:<project>`.

    project_of : column that is `types.ProjectOf` these, if there is one
    """
    find = {"sqlite": sa.func.instr, "postgresql": sa.func.strpos, "mysql": sa.func.instr}[dialect]
    colon = find(creator, ":")

    def half(value: sa.ColumnElement[Any], otherwise: Any) -> sa.ColumnElement[Any]:
        return sa.type_coerce(sa.case((colon > 0, value), else_=otherwise), sa.String())

    user, project = sa.func.substr(creator, 1, colon - 1), sa.func.substr(creator, colon + 1)
    return {
        "creator": Field(Kind.STRING, creator),
        "created_by_user_id": Field(Kind.CREATOR_USER, half(user, sa.null())),
        "created_by_project_id": Field(Kind.CREATOR_PROJECT, half(project, sa.null()), indexed=project_of),
        # As replies show them: who has no colon is a user without a project.
        SHOWN_USER: Field(Kind.CREATOR_USER, half(user, creator)),
        SHOWN_PROJECT: Field(Kind.CREATOR_PROJECT, sa.case((creator.is_not(None), half(project, "")))
                             if project_of is None else project_of),
    }


def lifespan_field(start: sa.ColumnElement[Any], end: sa.ColumnElement[Any], dialect: str) -> Field:
    """Return the microseconds from one time to another."""
    if dialect == "postgresql":
        value: sa.ColumnElement[Any] = sa.cast(sa.extract("epoch", end - start) * 1_000_000, sa.BigInteger)
    elif dialect == "mysql":
        value = sa.func.timestampdiff(sa.text("MICROSECOND"), start, end)
    else:                   # 2024-02-29 23:59:59.999999
        value = _sqlite_microseconds(end) - _sqlite_microseconds(start)
    return Field(Kind.LIFESPAN, sa.type_coerce(value, sa.BigInteger))


def _sqlite_microseconds(column: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    # Without the fraction, which it would round.
    seconds = sa.cast(sa.func.strftime("%s", sa.func.substr(column, 1, 19)), sa.BigInteger)
    return seconds * 1_000_000 + sa.cast(sa.func.substr(column, 21, 6), sa.BigInteger)


def all_of(filters: Sequence[Filter | None]) -> Filter | None:
    """Return the conjunction of those that are given, or None."""
    given = tuple(each for each in filters if each is not None)
    return None if not given else given[0] if len(given) == 1 else AllOf(given)
