"""Evaluation of expressions over tables (contract, aggregates 2.8); numpy's IEEE arithmetic, so nothing ever traps."""

from collections.abc import Callable, Mapping, Sequence

import numpy

from gnocchi.carbonara import grouping, methods
from gnocchi.carbonara.series import SeriesBatch, cumulate
from gnocchi.query import rolling
from gnocchi.query.align import Points, Table, align
from gnocchi.query.expression import (
    Aggregate,
    Arithmetic,
    Metric,
    Node,
    Number,
    RateOfChange,
    Reference,
    Resample,
    Rolling,
)

_RATE = methods.RATE


class CannotAggregate(Exception):
    """The tables do not fit the operation; the text says why."""


class Work:
    """What a request may compute, in values: so none takes minutes, nor memory for tables without end."""

    def __init__(self, values_max: int) -> None:
        self._values_max = values_max
        self._left = values_max

    def spend(self, values: int) -> None:
        """Raises CannotAggregate when there is nothing left."""
        self._left -= values
        if self._left < 0:
            raise CannotAggregate(f"The operations take more than {self._values_max} values in all: ask for a shorter "
                                  "time, a coarser granularity or fewer metrics, aggregate first, or write less")


def evaluate(root: Node, table: Table, columns: Mapping[Reference, Sequence[int]],
             owners: Sequence[object] | None = None, work: Work | None = None) -> Table:
    """Compute an expression at one granularity.

    Parameters
    ----------
    root : Node, not a Number
    table : Table of all series
    columns : for each reference, the rows of `table` that it means
    owners : of each series, whose it is (its resource); series of one owner go together in arithmetic of two tables.
        None: the first goes with the first, and so on
    work : what may be computed; None: without limit

    Raises
    ------
    CannotAggregate
    """
    with numpy.errstate(all="ignore"):
        result = _Evaluation(table, columns, owners, work).compute(root)
    assert isinstance(result, Table), "BUG: an expression without a series"
    return result


class _Evaluation:
    def __init__(self, table: Table, columns: Mapping[Reference, Sequence[int]],
                 owners: Sequence[object] | None, work: Work | None) -> None:
        self._table = table
        self._columns = columns
        self._owners = owners
        self._work = work

    def _spend(self, table: Table, times: int = 1) -> None:
        if self._work is not None:
            # A table without series still has its timestamps.
            self._work.spend(times * max(1, len(table.values)) * len(table.timestamps))

    def compute(self, node: Node) -> Table | float:
        if isinstance(node, Number):
            return node.value
        if isinstance(node, Metric):
            return self._select(node)
        if isinstance(node, Arithmetic):
            return self._calculate(node)
        operand = self.compute(node.operands[0])
        assert isinstance(operand, Table), f"BUG: {node} of a number"
        self._spend(operand, _effort(node))
        if isinstance(node, Aggregate):
            return _aggregate(operand, node.method)
        if isinstance(node, Rolling):
            return _roll(operand, node.method, node.window)
        if isinstance(node, Resample):
            return _resample(operand, node.method, node.span)
        assert isinstance(node, RateOfChange), f"BUG: unknown node {node}"
        return _rate(operand, node.per_second)

    def _select(self, node: Metric) -> Table:
        chosen = list(dict.fromkeys(column for reference in node.references for column in self._columns[reference]))
        if self._owners is not None:
            chosen.sort()   # by resource; else as they were written
        if chosen == list(range(len(self._table.values))):
            return self._table
        found = self._table._replace(values=self._table.values[chosen], columns=tuple(chosen))
        self._spend(found)
        return found

    def _calculate(self, node: Arithmetic) -> Table | float:
        operands = [self.compute(argument) for argument in node.arguments]
        tables = [(argument, operand) for argument, operand in zip(node.arguments, operands, strict=True)
                  if isinstance(operand, Table)]
        function = _FUNCTIONS[node.name]
        if not tables:
            return float(function(*[numpy.float64(operand) for operand in operands if isinstance(operand, float)]))
        widest = max((table for _, table in tables), key=lambda table: len(table.values))
        self._spend(widest)
        for argument, table in tables[1:]:
            _require_same_grid(tables[0], (argument, table))
        values = [self._broadcast(operand, widest) if isinstance(operand, Table) else operand for operand in operands]
        if node.name not in _LOGICAL or not all(_is_bool(value) for value in values):
            values = [value if isinstance(value, float) else value.astype(numpy.float64, copy=False)
                      for value in values]
        made_of_several = len(tables) > 1 and len(widest.values) == 1
        return widest._replace(values=function(*values), columns=None if made_of_several else widest.columns)

    def _broadcast(self, table: Table, widest: Table) -> numpy.ndarray:
        """Return the values of a table in the order of the widest one's series; a single series goes with each."""
        if len(table.values) == 1 or table is widest:
            return table.values
        if len(table.values) != len(widest.values):
            raise CannotAggregate(f"Can't compute {len(table.values)} series with {len(widest.values)} series: "
                                  "there must be as many on both sides, or one on one side")
        if self._owners is None or table.columns is None or widest.columns is None:
            return table.values
        rows = {self._owners[column]: row for row, column in enumerate(table.columns)}
        wanted = [self._owners[column] for column in widest.columns]
        if len(rows) < len(table.values) or rows.keys() != set(wanted):
            raise CannotAggregate("Can't compute series of different resources: each must have one series on each side")
        return table.values[[rows[owner] for owner in wanted]]


def _effort(node: Node) -> int:
    """Return how many times as much as an addition an operation takes, roughly: what sorts takes more."""
    if isinstance(node, Rolling):
        return 2 + node.window.bit_length()
    return {Resample: 8, Aggregate: 2}.get(type(node), 1)


def _require_same_grid(one: tuple[Node, Table], other: tuple[Node, Table]) -> None:
    (left, first), (right, second) = one, other
    if first.granularity != second.granularity or not numpy.array_equal(first.timestamps, second.timestamps):
        raise CannotAggregate(
            f"Can't compute timeseries with different granularity {left.source} <> {right.source}")


def _is_bool(value: numpy.ndarray | float) -> bool:
    return isinstance(value, numpy.ndarray) and value.dtype == bool


#: What two truths make a truth of; all other arithmetic takes them for 0 and 1.
_LOGICAL = frozenset(("add", "mul", "eq", "ne"))

_FUNCTIONS: dict[str, Callable[..., numpy.ndarray]] = {
    "eq": numpy.equal, "ne": numpy.not_equal, "lt": numpy.less, "gt": numpy.greater, "le": numpy.less_equal,
    "ge": numpy.greater_equal, "mod": numpy.mod, "add": numpy.add, "sub": numpy.subtract, "mul": numpy.multiply,
    "div": numpy.divide, "pow": numpy.power, "clip_min": numpy.maximum, "clip_max": numpy.minimum, "max": numpy.fmax,
    "clip": lambda value, low, high=numpy.inf: numpy.minimum(numpy.maximum(value, low), high),
    "abs": numpy.absolute, "neg": numpy.negative, "cos": numpy.cos, "sin": numpy.sin, "tan": numpy.tan,
    "floor": numpy.floor, "ceil": numpy.ceil,
}


def _aggregate(table: Table, method: str) -> Table:
    values = _reduce(table.values.astype(numpy.float64, copy=False), method.removeprefix(_RATE), 0)[None, :]
    return _difference_if_rate(table._replace(values=values, columns=None), method)


def _roll(table: Table, method: str, window: int) -> Table:
    """Aggregate each run of `window` timestamps; the result stands at the run's last one."""
    count = len(table.timestamps)
    if window > count:
        raise CannotAggregate(f"Rolling window '{window}' is greater than serie length '{count}'")
    values = rolling.roll(table.values.astype(numpy.float64, copy=False), method.removeprefix(_RATE), window)
    rolled = table._replace(timestamps=table.timestamps[window - 1:], values=values)
    return _difference_if_rate(rolled, method)


def _difference_if_rate(table: Table, method: str) -> Table:
    return _rate(table, False) if method.startswith(_RATE) else table


def _rate(table: Table, per_second: bool) -> Table:
    values = table.values.astype(numpy.float64, copy=False)
    differences = values[:, 1:] - values[:, :-1]
    if not per_second:
        return table._replace(timestamps=table.timestamps[1:], values=differences)
    instants: numpy.ndarray = table.timestamps.view(numpy.int64)
    seconds = (instants[1:] - instants[:-1]) / 1e9
    first = numpy.full((len(values), min(1, values.shape[1])), numpy.nan)
    return table._replace(values=numpy.concatenate([first, differences / seconds], axis=1))


def _resample(table: Table, method: str, span: numpy.timedelta64 | str) -> Table:
    """Group each series' values by time, without its holes; `rate:var` is the square of `rate:std`."""
    values = table.values.astype(numpy.float64, copy=False)
    rows, places = numpy.nonzero(~numpy.isnan(values))
    offsets = cumulate(numpy.bincount(rows, minlength=len(values)))
    batch = SeriesBatch(offsets, table.timestamps[places], values[rows, places])
    groups = (grouping.group_calendar(batch, span) if isinstance(span, str) else grouping.group(batch, span))
    stored = method.replace("var", "std")
    column = methods.aggregate(batch, groups, (stored,))[stored]
    found = column.values if stored == method else column.values ** 2
    held = slice(None) if column.present is None else column.present
    points = Points(groups.rows[held], groups.timestamps[held], found[held])
    return align(points, len(values), span, None)._replace(columns=table.columns)


def _reduce(values: numpy.ndarray, method: str, axis: int) -> numpy.ndarray:
    """Aggregate a matrix along an axis without its NaN; of nothing at all: 0 for `sum` and `count`, else NaN."""
    if not values.shape[axis]:
        return numpy.full(values.shape[1 - axis], 0.0 if method in ("sum", "count") else numpy.nan)
    if method == "min":
        return numpy.fmin.reduce(values, axis=axis)
    if method == "max":
        return numpy.fmax.reduce(values, axis=axis)
    holes = numpy.isnan(values)
    counts = (values.shape[axis] - holes.sum(axis=axis)).astype(numpy.float64)
    if method == "count":
        return counts
    if method == "median":
        return _median(values, counts.astype(numpy.int64), axis)
    sums = numpy.where(holes, 0.0, values).sum(axis=axis)
    if method == "sum":
        return sums
    means = sums / counts       # 0 / 0 is NaN
    if method == "mean":
        return means
    deviations = numpy.where(holes, 0.0, values - numpy.expand_dims(means, axis))
    variances = (deviations * deviations).sum(axis=axis) / counts
    return variances if method == "var" else numpy.sqrt(variances)


def _median(values: numpy.ndarray, counts: numpy.ndarray, axis: int) -> numpy.ndarray:
    ranked = numpy.sort(values, axis=axis)      # NaN last
    low = numpy.maximum(counts - 1, 0) // 2
    high = numpy.minimum(counts // 2, values.shape[axis] - 1)
    pick = [numpy.take_along_axis(ranked, numpy.expand_dims(places, axis), axis).squeeze(axis)
            for places in (low, high)]
    return numpy.where(pick[0] == pick[1], pick[0], (pick[0] + pick[1]) / 2)
