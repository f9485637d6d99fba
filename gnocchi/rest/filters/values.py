"""Filters on measured values, `{"and": [{">=": 50}, {"=": [{"%": 5}, 0]}]}`, on arrays (contract, rest 13.4)."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import voluptuous

from gnocchi.exceptions import InvalidInput
from gnocchi.rest.filters import CONDITIONS_MAX, LEVELS_MAX

Array = numpy.ndarray

#: shape (n,) float64 -> the same shape, or one number.
Term = Callable[[Array], Any]

_COMPARISONS = {
    ("=", "==", "eq"): numpy.equal, ("<", "lt"): numpy.less, (">", "gt"): numpy.greater,
    ("<=", "≤", "le"): numpy.less_equal, (">=", "≥", "ge"): numpy.greater_equal, ("!=", "≠", "ne"): numpy.not_equal,
}
_ARITHMETIC = {
    ("%", "mod"): numpy.mod, ("+", "add"): numpy.add, ("-", "sub"): numpy.subtract,
    ("*", "×", "mul"): numpy.multiply, ("/", "÷", "div"): numpy.true_divide, ("**", "^", "pow"): numpy.power,
}
_CONNECTIVES = {("and", "∧"): numpy.logical_and, ("or", "∨"): numpy.logical_or}


def _by_name(table: Mapping[Any, numpy.ufunc]) -> dict[str, numpy.ufunc]:
    return {name: function for names, function in table.items() for name in names}


OPERATORS = _by_name(_COMPARISONS) | _by_name(_ARITHMETIC)
CONNECTIVES = _by_name(_CONNECTIVES)


class ValueFilter:
    """Reads a filter, and finds the values that it holds for.

    Raises voluptuous.Invalid, InvalidInput: the filter has not the right shape.
    """

    def __init__(self, tree: Any) -> None:
        self._conditions = 0
        self._term = self._read(tree, (), 1)

    def __call__(self, values: Array) -> Array:
        """Return which of the values match, shape (n,), bool."""
        with numpy.errstate(all="ignore"):
            found = numpy.broadcast_to(numpy.asarray(self._term(values)), values.shape)
        # A number that comes out holds unless it is zero, or none at all.
        return found if found.dtype == bool else (found != 0) & ~numpy.isnan(found)

    def _read(self, tree: Any, path: tuple[str | int, ...], level: int) -> Term:
        operator, operand = self._single(tree, path)
        path = (*path, operator)
        if level > LEVELS_MAX or self._conditions > CONDITIONS_MAX:
            raise InvalidInput(f"Invalid query: more than {LEVELS_MAX} levels or {CONDITIONS_MAX} conditions")
        if operator == "not":
            raise InvalidInput("Unknown operator not")
        if operator in CONNECTIVES:
            parts = [self._read(each, (*path, i), level + 1) for i, each in enumerate(_check_list(operand, path, 1))]
            return _connect(CONNECTIVES[operator], parts)
        if operator not in OPERATORS:
            raise voluptuous.Invalid("not a valid value", list(path))
        function = OPERATORS[operator]
        if not isinstance(operand, list):
            return _apply(function, lambda values: values, _constant(operand, path))
        one, other = (self._operand(each, (*path, i), level + 1)
                      for i, each in enumerate(_check_list(operand, path, 2, 2)))
        return _apply(function, one, other)

    def _operand(self, tree: Any, path: tuple[str | int, ...], level: int) -> Term:
        return self._read(tree, path, level) if isinstance(tree, dict) else _constant(tree, path)

    def _single(self, tree: Any, path: tuple[str | int, ...]) -> tuple[str, Any]:
        self._conditions += 1
        if not isinstance(tree, dict):
            raise _wrong("expected a dictionary", path)
        if len(tree) != 1:
            raise _wrong("length of value must be at most 1" if tree else "length of value must be at least 1", path)
        (item,) = tree.items()
        return item


def _apply(function: numpy.ufunc, one: Term, other: Term) -> Term:
    return lambda values: function(one(values), other(values))


def _connect(function: numpy.ufunc, parts: list[Term]) -> Term:
    # One after the other, so that only two are held however many there are.
    return lambda values: functools.reduce(function, (numpy.asarray(part(values), bool) for part in parts))


def _constant(value: Any, path: tuple[str | int, ...]) -> Term:
    if isinstance(value, (bool, list, dict)) or value is None:
        raise _wrong("expected float", path)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _wrong("expected float", path) from None
    return lambda values: number


def _check_list(value: Any, path: tuple[str | int, ...], least: int, most: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        raise _wrong("expected a list", path)
    if len(value) < least:
        raise _wrong(f"length of value must be at least {least}", path)
    if most is not None and len(value) > most:
        raise _wrong(f"length of value must be at most {most}", path)
    return value


def _wrong(message: str, path: tuple[str | int, ...]) -> voluptuous.Invalid:
    in_dictionary = path and isinstance(path[-1], str)
    return voluptuous.Invalid(message, list(path), error_type="dictionary value" if in_dictionary else None)
