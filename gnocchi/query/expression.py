"""Expressions of the aggregates API: JSON lists or Lisp text to a checked tree (contract, aggregates 2.3 to 2.5)."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy

from gnocchi import times
from gnocchi.carbonara import methods
from gnocchi.exceptions import InvalidInput

#: Operations within operations.  Nobody writes so many; a body of brackets alone would exhaust the stack.
DEPTH_MAX = 100
#: Characters of an expression written as text, each word and parenthesis of which takes 60 bytes; 150,000 ids fit in.
TEXT_LENGTH_MAX = 8 << 20
#: Operations and numbers in all; a body full of them would be minutes of work even for a single point.
NODES_MAX = 1000

_AGGREGATIONS = ("mean", "median", "std", "min", "max", "sum", "var", "count")
#: What `aggregate` and `rolling` can do.
AGGREGATIONS = frozenset(prefix + name for prefix in ("", methods.RATE) for name in _AGGREGATIONS)
#: What `resample` can do.
RESAMPLINGS = (frozenset(name for name in methods.METHODS if not name.startswith(methods.RATE))
               | {methods.RATE + name for name in _AGGREGATIONS})

#: Names of metrics of resources, and how many of them may be shell patterns, of how many characters: each name of each
#: resource is looked at with each pattern.
NAMES_MAX, PATTERNS_MAX, PATTERN_LENGTH_MAX = 1000, 100, 1000
_WILDCARDS = frozenset("*?[")

#: Every spelling of an arithmetic operation of two operands, and of one.
BINARY = {spelling: name for name, spellings in {
    "eq": "= == eq", "lt": "< lt", "gt": "> gt", "le": "<= ≤ le", "ge": ">= ≥ ge", "ne": "!= ≠ ne", "mod": "% mod",
    "add": "+ add", "sub": "- sub", "mul": "* × mul", "div": "/ ÷ div", "pow": "** ^ pow", "clip_min": "clip_min",
    "clip_max": "clip_max", "max": "max"}.items() for spelling in spellings.split()}
UNARY = {spelling: name for name, spellings in {
    "abs": "abs absolute", "neg": "neg negative", "cos": "cos", "sin": "sin", "tan": "tan", "floor": "floor",
    "ceil": "ceil"}.items() for spelling in spellings.split()}

#: Operations that only make sense of series.
OF_SERIES = frozenset(("aggregate", "resample", "rolling", "rateofchange", "rateofchangesec"))

_TOKEN = re.compile(r"""\s*("[^"]*"|'[^']*'|[()]|[^\s()]+)""")


class InvalidExpression(InvalidInput):
    """An expression that cannot be computed.

    cause, reason, detail : what the contract tells clients
    explanation : what is wrong, and where; or None when the reason says it all
    """

    def __init__(self, cause: str, reason: str, detail: Any, explanation: str | None = None) -> None:
        super().__init__(f"{cause}: {explanation or reason}")
        self.cause = cause
        self.reason = reason
        self.detail = detail
        self.explanation = explanation


class Reference(NamedTuple):
    """name : id of a metric; or, among metrics of resources, a name or shell pattern;  method : as stored"""

    name: str
    method: str


@dataclasses.dataclass(frozen=True)
class Node:
    """source : what the client wrote, as lists"""

    source: Any = dataclasses.field(repr=False)

    @property
    def operands(self) -> "Sequence[Node]":
        return ()


@dataclasses.dataclass(frozen=True)
class Number(Node):
    value: float


@dataclasses.dataclass(frozen=True)
class Metric(Node):
    references: tuple[Reference, ...]


@dataclasses.dataclass(frozen=True)
class _OfOne(Node):
    operand: Node

    @property
    def operands(self) -> Sequence[Node]:
        return (self.operand,)


@dataclasses.dataclass(frozen=True)
class Aggregate(_OfOne):
    """Many series to one.  method : one of AGGREGATIONS"""

    method: str


@dataclasses.dataclass(frozen=True)
class Rolling(_OfOne):
    """method : one of AGGREGATIONS;  window : rows, 1 or more"""

    method: str
    window: int


@dataclasses.dataclass(frozen=True)
class Resample(_OfOne):
    """method : one of RESAMPLINGS;  span : timedelta64[ns] above zero, or a calendar letter"""

    method: str
    span: numpy.timedelta64 | str


@dataclasses.dataclass(frozen=True)
class RateOfChange(_OfOne):
    per_second: bool


@dataclasses.dataclass(frozen=True)
class Arithmetic(Node):
    """name : a value of BINARY or UNARY, or `clip`"""

    name: str
    arguments: tuple[Node, ...]

    @property
    def operands(self) -> Sequence[Node]:
        return self.arguments


class _Mistake(Exception):
    """What is wrong, and the indexes that lead there from the root."""

    def __init__(self, what: str, *path: int) -> None:
        super().__init__(what)
        self.what = what
        self.path = path


def parse(operations: Any) -> Node:
    """Read an expression and check everything that can be checked without its metrics.

    Parameters
    ----------
    operations : list or str, as it came

    Raises
    ------
    InvalidExpression
    """
    tree = parse_text(operations) if isinstance(operations, str) else operations
    _check_root(tree)
    try:
        _check_nodes(tree)
        root = _build(tree, DEPTH_MAX)
        if isinstance(root, Number):
            raise _Mistake("an operation is needed, not a number")
    except _Mistake as e:
        where = "".join(f"[{index}]" for index in e.path)
        if tree[0] == "metric":
            raise InvalidExpression("Invalid input", "expected str @ data['operations'][0]", ["operations", "0"],
                                    f"{e.what}, at operations{where}") from None
        raise _invalid(f"'{tree[0]}' operation invalid", f"{e.what}, at operations{where}") from None
    if not list_references(root):
        raise InvalidExpression("Operations is invalid", "At least one 'metric' is required", tree)
    return root


def list_references(root: Node) -> list[Reference]:
    """Return the references of a tree, each once, in the order of first appearance."""
    return list(dict.fromkeys(reference for node in walk(root) if isinstance(node, Metric)
                              for reference in node.references))


def is_pattern(reference: Reference) -> bool:
    """Tell whether a name has wildcards."""
    return not _WILDCARDS.isdisjoint(reference.name)


def check_names(root: Node) -> None:
    """Check the references of an expression as names of metrics of resources.  Raises InvalidExpression."""
    names = list_references(root)
    patterns = [name for name in names if is_pattern(name)]
    if len(names) > NAMES_MAX:
        raise _invalid("Too many metrics", f"{len(names)} names, of at most {NAMES_MAX}: use wildcards")
    if len(patterns) > PATTERNS_MAX:
        raise _invalid("Too many metrics", f"{len(patterns)} names with wildcards, of at most {PATTERNS_MAX}")
    for name, _ in patterns:
        if len(name) > PATTERN_LENGTH_MAX:
            raise _invalid("Too long a pattern", f"{name[:20]}… has more than {PATTERN_LENGTH_MAX} characters")


def walk(root: Node) -> Iterator[Node]:
    """Return a node and all below it, from left to right."""
    yield root
    for operand in root.operands:
        yield from walk(operand)


def parse_text(text: str) -> list[Any]:
    """Read the first parenthesised expression of a text as nested lists of words.

    Raises
    ------
    InvalidExpression
    """
    if len(text) > TEXT_LENGTH_MAX:
        raise _unreadable(f"more than {TEXT_LENGTH_MAX} characters", text, TEXT_LENGTH_MAX)
    stack: list[list[Any]] = [[]]
    position = 0
    while match := _TOKEN.match(text, position):
        token = match[1]
        if len(stack) == 1 and token != "(":
            raise _unreadable("expected '('", text, match.start(1))
        if token == "(":
            # Within the innermost operation there may be one more list, a pair of `metric`.
            if len(stack) > DEPTH_MAX + 2:
                raise _unreadable(f"more than {DEPTH_MAX} operations within each other", text, match.start(1))
            stack.append([])
        elif token == ")":
            done = stack.pop()
            if len(stack) == 1:
                return done     # whatever follows does not count
            stack[-1].append(done)
        else:
            stack[-1].append(token)
        position = match.end()
    raise _unreadable("expected ')'" if len(stack) > 1 else "expected '('", text, len(text))


def _unreadable(what: str, text: str, position: int) -> InvalidExpression:
    found = repr(text[position:position + 20]) if position < len(text) else "end of text"
    return InvalidExpression("Invalid operations", "Fail to parse the operations string",
                             f"{what}, found {found}  (at char {position})")


def _invalid(reason: str, explanation: str | None = None) -> InvalidExpression:
    return InvalidExpression("Invalid input", f"{reason} for dictionary value @ data['operations']", ["operations"],
                             explanation)


def _check_root(tree: Any) -> None:
    if not isinstance(tree, list):
        raise _invalid(f"Expected a tuple/list, got a {type(tree)}")
    if not tree:
        raise _invalid("Operation must not be empty")
    if len(tree) == 1:
        raise _invalid("Operation need at least one argument")


def _check_nodes(tree: list[Any]) -> None:
    """Count what `_build` would build, before it does."""
    count, left = 0, [tree]
    while left:
        source = left.pop()
        if source[:1] == ["metric"]:
            continue    # may name as many metrics as it likes
        count += len(source)
        if count > NODES_MAX:
            raise _Mistake(f"more than {NODES_MAX} operations and numbers")
        left += [part for part in source if isinstance(part, list)]


def _build(source: Any, depth: int) -> Node:
    if not isinstance(source, list):
        return Number(source, _read_number(source))
    if not depth:
        raise _Mistake(f"more than {DEPTH_MAX} operations within each other")
    if len(source) < 2 or not isinstance(source[0], str):
        raise _Mistake("an operation is a list of a name and at least one argument")
    name = source[0]
    if name == "metric":
        return Metric(source, _read_references(source))
    if name in OF_SERIES:
        return _build_of_series(name, source, depth)
    if name == "clip":
        _check_length(source, 3, 4)
    elif name in BINARY:
        _check_length(source, 3)
    elif name in UNARY:
        _check_length(source, 2)
    else:
        raise _Mistake(f"unknown operation `{name}'", 0)
    arguments = tuple(_build_at(source, index, depth) for index in range(1, len(source)))
    return Arithmetic(source, BINARY.get(name) or UNARY.get(name) or name, arguments)


def _build_of_series(name: str, source: list[Any], depth: int) -> Node:
    """Build an operation that only makes sense of series, which are its last argument."""
    if name == "aggregate" and len(source) > 3:
        return Aggregate(source, _read_metrics(source), _read_name(source, AGGREGATIONS))
    _check_length(source, {"aggregate": 3, "resample": 4, "rolling": 4}.get(name, 2))
    operand = _build_at(source, len(source) - 1, depth)
    if not any(isinstance(node, Metric) for node in walk(operand)):
        raise _Mistake(f"`{name}' needs a series, not a number", len(source) - 1)
    if name == "aggregate":
        return Aggregate(source, operand, _read_name(source, AGGREGATIONS))
    if name == "rolling":
        return Rolling(source, operand, _read_name(source, AGGREGATIONS), _read_window(source[2]))
    if name == "resample":
        return Resample(source, operand, _read_name(source, RESAMPLINGS), _read_span(source[2]))
    return RateOfChange(source, operand, name == "rateofchangesec")


def _read_metrics(source: list[Any]) -> Metric:
    """Read `["aggregate", AGG, ["metric", …], ["metric", …], …]`, which Aodh writes, as if it were one `metric`."""
    if not all(isinstance(part, list) and len(part) > 1 and part[0] == "metric" for part in source[2:]):
        raise _Mistake(f"`aggregate' takes 2 arguments, or several `metric', not {len(source) - 1}")
    found = [_build_at(source, index, 2) for index in range(2, len(source))]
    references = dict.fromkeys(reference for node in found if isinstance(node, Metric) for reference in node.references)
    return Metric(["metric", *map(list, references)], tuple(references))


def _build_at(source: list[Any], index: int, depth: int) -> Node:
    try:
        return _build(source[index], depth - 1)
    except _Mistake as e:
        raise _Mistake(e.what, index, *e.path) from None


def _check_length(source: list[Any], *lengths: int) -> None:
    if len(source) not in lengths:
        wanted = " or ".join(str(length - 1) for length in lengths)
        raise _Mistake(f"`{source[0]}' takes {wanted} arguments, not {len(source) - 1}")


def _read_number(source: Any) -> float:
    try:
        return float(source)
    except (TypeError, ValueError, OverflowError):
        raise _Mistake(f"`{source}' is neither a number nor an operation") from None


def _read_references(source: list[Any]) -> tuple[Reference, ...]:
    pairs = [(source[1:], 0)] if isinstance(source[1], str) else [(pair, at) for at, pair in enumerate(source) if at]
    for pair, at in pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(word, str) for word in pair)):
            raise _Mistake("`metric' takes a metric and an aggregation method, or pairs of them", *([at] if at else []))
    return tuple(dict.fromkeys(Reference(*pair) for pair, _ in pairs))


def _read_name(source: list[Any], known: frozenset[str]) -> str:
    name = source[1]
    if not isinstance(name, str) or name not in known:
        raise _Mistake(f"`{name}' is no aggregation that `{source[0]}' knows", 1)
    return name


def _read_window(source: Any) -> int:
    try:
        window = int(source)
    except (TypeError, ValueError, OverflowError):
        window = 0
    if window < 1:
        raise _Mistake(f"a window is a whole number of rows, 1 or more, not `{source}'", 2)
    return window


def _read_span(source: Any) -> numpy.timedelta64:
    try:
        return times.parse_timespan(source)
    except ValueError as e:
        raise _Mistake(f"`{source}': {e}", 2) from None
