"""Filters as trees of JSON -> conditions whose values have the kind of what they are compared with."""

import math
import uuid
from collections.abc import Mapping
from typing import Any

import voluptuous

from gnocchi import times
from gnocchi.exceptions import InvalidInput
from gnocchi.indexer.filters import AllOf, AnyOf, Comparison, Constant, Filter, Kind, Membership, Not
from gnocchi.resource_ids import parse_uuid, resource_id
from gnocchi.rest import schemas
from gnocchi.rest.filters import CONDITIONS_MAX, LEVELS_MAX, PATTERN_LENGTH_MAX, VALUES_MAX

COMPARISONS = {
    "=": "=", "==": "=", "eq": "=", "<": "<", "lt": "<", ">": ">", "gt": ">", "<=": "<=", "≤": "<=", "le": "<=",
    ">=": ">=", "≥": ">=", "ge": ">=", "!=": "!=", "≠": "!=", "ne": "!=", "like": "like",
}
CONNECTIVES = {"and": "and", "∧": "and", "or": "or", "∨": "or"}

_EQUAL = frozenset(("=", "!="))
_ORDERED = _EQUAL | {"<", "<=", ">", ">="}
_TEXT = _ORDERED | {"like"}

#: What a kind can be asked, besides `in`.
OPERATORS = {
    Kind.STRING: _TEXT, Kind.UUID: _TEXT, Kind.NUMBER: _ORDERED, Kind.BOOL: _EQUAL, Kind.DATETIME: _ORDERED,
    Kind.INTEGER: _ORDERED, Kind.LIFESPAN: _ORDERED, Kind.CREATOR_USER: _EQUAL | {"like"},
    Kind.CREATOR_PROJECT: _EQUAL | {"like"},
}

Path = tuple[str | int, ...]

_INTEGER_MAX = 2**63 - 1


class FilterReader:
    """Reads trees.

    Parameters
    ----------
    kinds : what can be named, and what it is compared with
    type_name : the resource type, for messages
    creator : the caller, whose text ids are hashed
    """

    def __init__(self, kinds: Mapping[str, Kind], type_name: str, creator: str) -> None:
        self._kinds = kinds
        self._type_name = type_name
        self._creator = creator
        self._conditions = 0
        self._values = 0

    def read(self, tree: Any) -> Filter | None:
        """Return the conditions, or None if there are none.

        Raises
        ------
        errors.RequestError
            400 `Invalid input`: the tree has not the right shape.
        InvalidInput
            An attribute is unknown, or a value cannot be what it is compared with.
        """
        if tree == {}:
            return None
        try:
            return self._read(tree, (), 1)
        except voluptuous.Invalid as e:
            raise schemas.invalid_input(e) from e

    def _read(self, tree: Any, path: Path, level: int) -> Filter:
        if level > LEVELS_MAX:
            raise InvalidInput(f"Invalid query: nested deeper than {LEVELS_MAX} levels")
        if tree == {}:
            raise InvalidInput("Unable to parse this query")
        operator, operand = self._single(tree, path)
        path = (*path, operator)
        if operator in CONNECTIVES:
            operands = tuple(self._read(each, (*path, i), level + 1)
                             for i, each in enumerate(self._list(operand, path)))
            return AllOf(operands) if CONNECTIVES[operator] == "and" else AnyOf(operands)
        if operator == "not":
            _check_dictionary(operand, path)
            return Not(self._read(operand, path, level + 1))
        if operator not in COMPARISONS and operator != "in":
            raise voluptuous.Invalid("not a valid value", list(path))
        self._conditions += 1
        if self._conditions > CONDITIONS_MAX:
            raise InvalidInput(f"Invalid query: more than {CONDITIONS_MAX} conditions")
        field, value = self._single(operand, path)
        path = (*path, field)
        return self._membership(field, value, path) if operator == "in" else self._comparison(
            field, COMPARISONS[operator], value, path)

    def _comparison(self, field: str, operator: str, value: Any, path: Path) -> Filter:
        _check_scalar(value, path)
        if operator == "like" and field == "id":
            raise voluptuous.Invalid("value must not be one of ['id']", list(path))
        kind = self._kind_of(field)
        if operator not in OPERATORS[kind] or (value is None and operator not in _EQUAL):
            raise _invalid_value(value, field)
        if operator == "like":
            return Comparison(field, operator, _read_text(value, field))
        return Comparison(field, operator, None if value is None else self._convert(kind, field, value, path))

    def _membership(self, field: str, values: Any, path: Path) -> Filter:
        values = self._list(values, path)
        for i, value in enumerate(values):
            _check_scalar(value, (*path, i))
        kind = self._kind_of(field)
        if kind in (Kind.CREATOR_USER, Kind.CREATOR_PROJECT):
            raise _invalid_value(values, field)
        self._values += len(values)
        if self._values > VALUES_MAX:
            raise InvalidInput(f"Invalid query: more than {VALUES_MAX} values in lists")
        converted = dict.fromkeys(self._convert(kind, field, value, path) for value in values if value is not None)
        return Membership(field, tuple(converted)) if converted else Constant(False)

    def _kind_of(self, field: str) -> Kind:
        try:
            return self._kinds[field]
        except KeyError:
            raise InvalidInput(f"Resource type {self._type_name} has no {field} attribute") from None

    def _convert(self, kind: Kind, field: str, value: Any, path: Path) -> Any:
        if field == "id":
            if not isinstance(value, str):
                raise _invalid_value(value, field)
            return self._read_id(value, path)
        try:
            return _CONVERTERS[kind](value)
        except (ValueError, TypeError, OverflowError):
            raise _invalid_value(value, field) from None

    def _read_id(self, value: str, path: Path) -> uuid.UUID:
        try:
            return resource_id(value, self._creator)
        except InvalidInput as e:
            raise voluptuous.Invalid(str(e), list(path), error_type="dictionary value") from None

    @staticmethod
    def _single(value: Any, path: Path) -> tuple[str, Any]:
        """The one item of an object."""
        _check_dictionary(value, path)
        if len(value) != 1:
            bound = "at most 1" if value else "at least 1"
            raise _wrong(f"length of value must be {bound}", path)
        (item,) = value.items()
        return item

    @staticmethod
    def _list(value: Any, path: Path) -> list[Any]:
        if not isinstance(value, list):
            raise _wrong("expected a list", path)
        if not value:
            raise _wrong("length of value must be at least 1", path)
        return value


def _wrong(message: str, path: Path) -> voluptuous.Invalid:
    in_dictionary = path and isinstance(path[-1], str)
    return voluptuous.Invalid(message, list(path), error_type="dictionary value" if in_dictionary else None)


def _check_dictionary(value: Any, path: Path) -> None:
    if not isinstance(value, dict):
        raise _wrong("expected a dictionary", path)


def _check_scalar(value: Any, path: Path) -> None:
    if isinstance(value, (list, dict)):
        raise _wrong("expected str", path)


def _invalid_value(value: Any, field: str) -> InvalidInput:
    return InvalidInput(f"Invalid value: `{value}' for field `{field}'")


def _read_text(value: Any, field: str) -> str:
    try:
        text = _to_text(value)
    except ValueError:
        raise _invalid_value(value, field) from None
    if len(text) > PATTERN_LENGTH_MAX:
        raise InvalidInput(f"Invalid value: a pattern of more than {PATTERN_LENGTH_MAX} characters for field `{field}'")
    return text


def _to_text(value: Any) -> str:
    text = str(value)
    if "\0" in text:
        raise ValueError("no database stores that")
    return text


def _to_number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("no number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("no finite number")
    return number + 0.0


def _to_integer(value: Any) -> int:
    number = _to_number(value)
    if number != int(number) or abs(number) > _INTEGER_MAX / 2:
        raise ValueError("no whole number")
    return int(number)


def _to_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _to_datetime(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("no time")
    return times.parse_timestamp(value).astype("datetime64[us]").item()


def _to_microseconds(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError("no duration")
    if value in (0, "0"):
        return 0
    return int(times.parse_timespan(value).astype("timedelta64[us]").astype("int64"))


_CONVERTERS = {
    Kind.STRING: _to_text, Kind.UUID: lambda value: str(parse_uuid(str(value))), Kind.NUMBER: _to_number,
    Kind.BOOL: _to_bool, Kind.DATETIME: _to_datetime, Kind.INTEGER: _to_integer, Kind.LIFESPAN: _to_microseconds,
    Kind.CREATOR_USER: _to_text, Kind.CREATOR_PROJECT: _to_text,
}
