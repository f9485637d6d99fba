"""Filters as text, `flavor = "small" and not zone in ["a", "b"]`, by recursive descent.

    expression  := conjunction { ("or" | "∨") conjunction }
    conjunction := negation { ("and" | "∧") negation }
    negation    := "not" negation | "(" expression ")" | term operator term
    term        := null | boolean | uuid | identifier | number | quoted | "[" [ term { "," term } ] "]"
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from gnocchi.exceptions import InvalidInput
from gnocchi.rest.filters import LEVELS_MAX

_HEX = "[0-9a-fA-F]"
_TOKEN = re.compile(rf"""
    (?P<uuid>{_HEX}{{8}}-?{_HEX}{{4}}-?{_HEX}{{4}}-?{_HEX}{{4}}-?{_HEX}{{12}}(?![\w-]))
  | (?P<word>[A-Za-z][A-Za-z0-9_]*)
  | (?P<number>[+-]?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)
  | (?P<quoted>"[^"]*"|'[^']*')
  | (?P<sign>>=|<=|!=|[><=≠≥≤∧∨()\[\],])
""", re.VERBOSE | re.ASCII)
_BLANK = re.compile(r"\s*")

OPERATORS = frozenset((">=", "<=", "!=", ">", "<", "=", "≠", "≥", "≤",
                       "eq", "ne", "lt", "gt", "ge", "le", "in", "like"))
_CONSTANTS = {"None": None, "none": None, "null": None, "True": True, "true": True, "False": False, "false": False}
_KEYWORDS = {"and", "or", "not", *(word for word in OPERATORS if word.isalpha())}


class _Token(NamedTuple):
    kind: str
    text: str
    position: int


def parse_filter(text: str) -> dict[str, Any]:
    """Return the tree of a filter in text.  Raises InvalidInput: `Invalid filter: Expected ...`."""
    parser = _Parser(_tokenize(text))
    tree = parser.expression(1)
    parser.expect_end()
    return tree


def _tokenize(text: str) -> list[_Token]:
    tokens = []
    position = _match_end(_BLANK, text, 0)
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidInput(f"Invalid filter: Expected a name, value or operator, found {text[position]!r} "
                               f"(at char {position})")
        assert match.lastgroup is not None
        tokens.append(_Token(match.lastgroup, match.group(), position))
        position = _match_end(_BLANK, text, match.end())
    tokens.append(_Token("end", "end of text", len(text)))
    return tokens


def _match_end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    assert match is not None
    return match.end()


class _Parser:
    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def expression(self, level: int) -> dict[str, Any]:
        return self._chain(level, "or", "∨", self._conjunction)

    def expect_end(self) -> None:
        if self._token.kind != "end":
            raise self._expected("end of text")

    def _conjunction(self, level: int) -> dict[str, Any]:
        return self._chain(level, "and", "∧", self._negation)

    def _chain(self, level: int, word: str, sign: str, operand: Callable[[int], dict[str, Any]]) -> dict[str, Any]:
        operands = [operand(level)]
        while self._take(word, sign):
            operands.append(operand(level))
        return operands[0] if len(operands) == 1 else {word: operands}

    def _negation(self, level: int) -> dict[str, Any]:
        if level > LEVELS_MAX:
            raise self._expected(f"no more than {LEVELS_MAX} levels")
        if self._take("not"):
            return {"not": self._negation(level + 1)}
        if self._take("("):
            tree = self.expression(level + 1)
            if not self._take(")"):
                raise self._expected("')'")
            return tree
        return self._comparison()

    def _comparison(self) -> dict[str, Any]:
        name = self._token
        field = self._term(1)
        if not isinstance(field, str):
            self._next -= 1
            raise InvalidInput(f"Invalid filter: Expected the name of an attribute, found {name.text} "
                               f"(at char {name.position})")
        operator = self._token.text
        if operator not in OPERATORS or self._token.kind == "quoted":
            raise self._expected("an operator")
        self._next += 1
        return {operator: {field: self._term(1)}}

    def _term(self, level: int) -> Any:
        token = self._token
        if level > LEVELS_MAX or (token.kind == "word" and token.text in _KEYWORDS):
            raise self._expected("a value")
        if token.kind == "word":
            self._next += 1
            return _CONSTANTS.get(token.text, token.text)
        if token.kind in ("uuid", "number", "quoted"):
            self._next += 1
            if token.kind == "quoted":
                return token.text[1:-1]
            return float(token.text) if token.kind == "number" else token.text
        if not self._take("["):
            raise self._expected("a value")
        values: list[Any] = []
        if self._take("]"):
            return values
        values.append(self._term(level + 1))
        while self._take(","):
            values.append(self._term(level + 1))
        if not self._take("]"):
            raise self._expected("',' or ']'")
        return values

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> bool:
        """Go on if the next token is one of the words or signs."""
        if self._token.kind in ("word", "sign") and self._token.text in texts:
            self._next += 1
            return True
        return False

    def _expected(self, what: str) -> InvalidInput:
        return InvalidInput(f"Invalid filter: Expected {what}, found {self._token.text} "
                            f"(at char {self._token.position})")
