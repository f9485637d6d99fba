"""Pages of a list: the order asked for, and where the next page begins (contract, rest 2.14).

A page is found by comparing with the values of the last item seen (keyset), so that the thousandth
page costs what the first does and items made meanwhile move nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from gnocchi import exceptions

METRIC_SORTS = ("id:asc",)
RESOURCE_SORTS = ("revision_start:asc", "started_at:asc")

DIRECTIONS = ("asc", "desc", "asc-nullsfirst", "asc-nullslast", "desc-nullsfirst", "desc-nullslast")


class Order(NamedTuple):
    """One column of an ORDER BY.  Nulls come last where ascending and first where descending, unless told else."""

    key: str
    column: sa.ColumnElement[Any]
    descending: bool
    nulls_first: bool
    nullable: bool


def effective_sorts(sorts: Sequence[str], default: Sequence[str], unique_keys: Sequence[str]) -> list[str]:
    """Return the order that a list really has, as it is repeated in links: `key:direction` each.

    Raises
    ------
    InvalidPagination
        For an unknown direction; unknown keys are found by `orders`.
    """
    effective = []
    for sort in sorts or default:
        key, _, direction = sort.partition(":")
        effective.append(f"{key}:{_check_direction(direction) if ':' in sort else 'asc'}")
    keys = {sort.partition(":")[0] for sort in effective}
    return effective + [f"{key}:asc" for key in unique_keys if key not in keys]


def _check_direction(direction: str) -> str:
    if direction not in DIRECTIONS:
        raise exceptions.InvalidPagination(
            "Unknown sort direction, must be one of: asc-nullsfirst, asc-nullslast, desc-nullsfirst, desc-nullslast")
    return direction


def orders(sorts: Sequence[str], columns: Mapping[str, sa.ColumnElement[Any]]) -> list[Order]:
    """Return the columns that effective sorts name.

    Raises InvalidPagination for a key that is not in `columns`.
    """
    found = []
    for sort in sorts:
        key, _, direction = sort.partition(":")
        if key not in columns:
            raise exceptions.InvalidPagination(f"Sort key supplied is invalid: {key}")
        column = columns[key]
        way, _, nulls = direction.partition("-")
        descending = way == "desc"
        found.append(Order(key, column, descending, nulls == "nullsfirst" if nulls else descending,
                           getattr(column, "nullable", True)))
    return found


def order_by(found: Sequence[Order]) -> list[sa.ColumnElement[Any]]:
    clauses: list[sa.ColumnElement[Any]] = []
    for order in found:
        if order.nullable:      # MySQL has no NULLS FIRST, so nulls are an order of their own
            is_null = sa.case((order.column.is_(None), 1), else_=0)
            clauses.append(is_null.desc() if order.nulls_first else is_null.asc())
        clauses.append(order.column.desc() if order.descending else order.column.asc())
    return clauses


def after(found: Sequence[Order], values: Sequence[Any]) -> sa.ColumnElement[bool]:
    """Return the condition that a row comes after the one that has `values`, one for each order."""
    alternatives: list[sa.ColumnElement[bool]] = []
    equal: list[sa.ColumnElement[bool]] = []
    for order, value in zip(found, values, strict=True):
        later = _later(order, value)
        if later is not None:
            alternatives.append(sa.and_(*equal, later))
        equal.append(order.column.is_(None) if value is None else order.column == _bind(order, value))
    condition = sa.or_(sa.false(), *alternatives)
    if not found[0].nullable and values[0] is not None:
        # Follows from the rest; but an index is entered where one range says so, and not by alternatives.
        first, bound = found[0].column, _bind(found[0], values[0])
        condition = sa.and_(first <= bound if found[0].descending else first >= bound, condition)
    return condition


def _bind(order: Order, value: Any) -> sa.BindParameter[Any]:
    # Bound by hand, since SQLAlchemy takes a bare True or False for a keyword, which cannot be compared.
    return sa.bindparam(None, value, type_=order.column.type, unique=True)


def _later(order: Order, value: Any) -> sa.ColumnElement[bool] | None:
    if value is None:
        return order.column.is_not(None) if order.nulls_first else None
    bound = _bind(order, value)
    later = order.column < bound if order.descending else order.column > bound
    if order.nullable and not order.nulls_first:
        return sa.or_(later, order.column.is_(None))
    return later


def invalid_marker(marker: object) -> exceptions.InvalidPagination:
    return exceptions.InvalidPagination(f"Invalid marker: `{marker}'")
