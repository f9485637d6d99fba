"""Aggregation methods: mean, sum, ... 95pct, and `rate:` in front of each (contract, timeseries 4)."""

import functools
from collections.abc import Callable, Sequence

import numpy

from gnocchi.carbonara.series import Column, Groups, SeriesBatch

RATE = "rate:"

_PLAIN = ("mean", "sum", "last", "max", "min", "std", "median", "first", "count")
#: Methods that make of one value this value.
IDENTITIES = frozenset(("mean", "sum", "last", "max", "min", "median", "first"))
_PERCENTILES = {f"{percent}pct": percent for percent in range(1, 100)}

#: All 216 names that an archive policy may hold.
METHODS: tuple[str, ...] = tuple(prefix + name for prefix in ("", RATE) for name in (*_PLAIN, *_PERCENTILES))


def aggregate(
    batch: SeriesBatch,
    groups: Groups,
    methods: Sequence[str],
    predecessors: numpy.ndarray | None = None,
    has_predecessor: numpy.ndarray | None = None,
) -> dict[str, Column]:
    """Aggregate the points of each group with several methods.

    Parameters
    ----------
    batch : SeriesBatch of m series, ascending and unique in a series
    groups : Groups
        g groups that cover the batch's points.
    methods : names, some of METHODS
    predecessors : ndarray, shape (m,), float64, or None
        Value of the point before each series' first one: what its difference is taken to.
    has_predecessor : ndarray, shape (m,), bool, or None for none at all

    Returns
    -------
    dict of method -> Column of g values.  `std` is absent for groups of one value, `rate:` methods are for groups
    without any difference.  Columns with equal values may share arrays.

    Raises
    ------
    KeyError
        There is no such method.
    """
    columns = {}
    # NaN and infinities are values like others: what IEEE makes of them is the result, and no warning is due.
    with numpy.errstate(over="ignore", invalid="ignore"):
        plain = _Groups(batch.values, groups.starts)
        rates = None
        for method in methods:
            if not method.startswith(RATE):
                columns[method] = _compute(plain, method)
                continue
            if rates is None:
                rates = _differences(batch, groups.starts, predecessors, has_predecessor)
            columns[method] = _spread(_compute(rates[0], method.removeprefix(RATE)), rates[1], len(groups.starts))
    return columns


class _Groups:
    """Values in groups, none empty; what several methods need is computed once.

    values : ndarray, shape (n,), float64
    starts : ndarray, shape (g,), int64; index of each group's first value
    """

    def __init__(self, values: numpy.ndarray, starts: numpy.ndarray) -> None:
        self.values = values
        self.starts = starts
        #: One value in each group, as with one measure per finest period: most methods then are the identity.
        self.single = len(values) == len(starts)

    def reduce(self, ufunc: numpy.ufunc) -> numpy.ndarray:
        return self.values if self.single else ufunc.reduceat(self.values, self.starts)

    def add_up(self, values: numpy.ndarray) -> numpy.ndarray:
        """Add in time order, one by one: `add.reduceat` adds in pairs, which rounds and overflows otherwise."""
        return numpy.bincount(self.labels, values, minlength=len(self.starts))

    @functools.cached_property
    def labels(self) -> numpy.ndarray:
        """Group of each value, shape (n,), int64."""
        return numpy.arange(len(self.starts)).repeat(self.sizes)

    @functools.cached_property
    def sizes(self) -> numpy.ndarray:
        sizes = numpy.empty_like(self.starts)
        sizes[:-1] = self.starts[1:] - self.starts[:-1]
        sizes[-1:] = len(self.values) - self.starts[-1:]
        return sizes

    @functools.cached_property
    def counts(self) -> numpy.ndarray:
        return self.sizes.astype(numpy.float64)

    @functools.cached_property
    def sums(self) -> numpy.ndarray:
        return self.values if self.single else self.add_up(self.values)

    @functools.cached_property
    def means(self) -> numpy.ndarray:
        return self.values if self.single else self.sums / self.counts

    @functools.cached_property
    def ranked(self) -> numpy.ndarray:
        """The values, sorted in each group, NaN last: all groups of one size at once."""
        if self.single:
            return self.values
        ranked = numpy.empty_like(self.values)
        for size in numpy.unique(self.sizes).tolist():
            places = self.starts[self.sizes == size][:, None] + numpy.arange(size)
            ranked[places] = numpy.sort(self.values[places], axis=1)
        return ranked

    def last(self) -> numpy.ndarray:
        return self.values if self.single else self.values[self.starts + (self.sizes - 1)]

    def first(self) -> numpy.ndarray:
        return self.values if self.single else self.values[self.starts]

    def median(self) -> numpy.ndarray:
        if self.single:
            return self.values
        low = self.ranked[self.starts + (self.sizes - 1) // 2]
        high = self.ranked[self.starts + self.sizes // 2]
        return numpy.where(self.sizes % 2, low, (low + high) / 2)

    def percentile(self, percent: int) -> numpy.ndarray:
        """Interpolate linearly at position (size - 1) x percent / 100; whole positions are exact."""
        if self.single:
            return self.values
        low, rest = numpy.divmod((self.sizes - 1) * percent, 100)
        places = self.starts + low
        weights = rest / 100
        low_values = self.ranked[places]
        high_values = self.ranked[numpy.minimum(places + 1, len(self.values) - 1)]
        return numpy.where(rest == 0, low_values, low_values * (1 - weights) + high_values * weights)

    def std(self) -> Column:
        """Sample deviation in two passes; absent for groups of one value."""
        if self.single:
            return Column(numpy.zeros(len(self.starts)), numpy.zeros(len(self.starts), bool))
        deviations = self.values - self.means.repeat(self.sizes)
        squares = self.add_up(deviations * deviations)
        values = numpy.sqrt(squares / numpy.maximum(self.counts - 1, 1))
        present = self.sizes > 1
        return Column(values, None if present.all() else present)


_FUNCTIONS: dict[str, Callable[[_Groups], numpy.ndarray]] = {
    "mean": lambda groups: groups.means,
    "sum": lambda groups: groups.sums,
    "count": lambda groups: groups.counts,
    "min": lambda groups: groups.reduce(numpy.fmin),  # NaN only if all are
    "max": lambda groups: groups.reduce(numpy.maximum),  # NaN if any is
    "first": _Groups.first,
    "last": _Groups.last,
    "median": _Groups.median,
}


def _compute(groups: _Groups, method: str) -> Column:
    if method == "std":
        return groups.std()
    if method in _PERCENTILES:
        return Column(groups.percentile(_PERCENTILES[method]), None)
    return Column(_FUNCTIONS[method](groups), None)


def _differences(
    batch: SeriesBatch,
    starts: numpy.ndarray,
    predecessors: numpy.ndarray | None,
    has_predecessor: numpy.ndarray | None,
) -> tuple[_Groups, numpy.ndarray | None]:
    """Get the differences of consecutive values, in groups, and which of the groups have any (None: all)."""
    filled = batch.offsets[1:] > batch.offsets[:-1]
    firsts = batch.offsets[:-1][filled]
    differences = numpy.diff(batch.values, prepend=0.0)
    exists = numpy.ones(len(differences), bool)
    if predecessors is None or has_predecessor is None:
        exists[firsts] = False
    else:
        differences[firsts] = batch.values[firsts] - predecessors[filled]
        exists[firsts] = has_predecessor[filled]
    if exists.all():
        return _Groups(differences, starts), None
    # Only a series' first point can lack its difference, so that a group loses at most one value.
    before = numpy.concatenate(([0], numpy.cumsum(exists)))
    starts, ends = before[starts], before[numpy.append(starts[1:], len(exists))]
    present = ends > starts
    return _Groups(differences[exists], starts[present]), present


def _spread(column: Column, present: numpy.ndarray | None, count: int) -> Column:
    """Put a column of the present groups back into one of all."""
    if present is None:
        return column
    values, there = numpy.zeros(count), present.copy()
    values[present] = column.values
    if column.present is not None:
        there[present] = column.present
    return Column(values, there)
