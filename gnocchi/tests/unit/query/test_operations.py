"""Expressions over tables against pandas, one series at a time: gaps, different ranges, every operation."""

import math

import numpy
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi.query import align, expression, operations
from gnocchi.query.align import NotEnoughOverlap, Points

STEP = numpy.timedelta64(60, "s").astype("m8[ns]")
NS = 60 * 10**9

values = st.one_of(st.integers(-50, 50).map(float), st.floats(-1e6, 1e6), st.sampled_from([0.0, math.inf, -math.inf]))
tame = st.one_of(st.integers(-50, 50).map(float), st.floats(-1e3, 1e3))


def series_of(elements):
    """1 to 4 series as {minute: value}; one may be empty, one may be far away."""
    near = st.dictionaries(st.integers(0, 12), elements, max_size=10)
    far = st.dictionaries(st.integers(10**6, 10**6 + 3), elements, max_size=2)
    return st.lists(st.one_of(near, near, near, far), min_size=1, max_size=4)


def make_points(series):
    rows = [row for row, points in enumerate(series) for _ in points]
    minutes = [minute for points in series for minute in points]
    return Points(numpy.array(rows, numpy.int64), (numpy.array(minutes, numpy.int64) * NS).view("M8[ns]"),
                  numpy.array([value for points in series for value in points.values()], float))


def make_frame(series):
    """One column per series, one row per minute that any has."""
    index = sorted({minute for points in series for minute in points})
    return pandas.DataFrame({row: pandas.Series(points, dtype=float) for row, points in enumerate(series)},
                            index=index, dtype=float)


def evaluate(operation, series, fill=None):
    """Return the result as a frame by minute, of an operation on all series."""
    root = expression.parse([*operation, ["metric", *([str(row), "mean"] for row in range(len(series)))]])
    return to_frame(operations.evaluate(root, align.align(make_points(series), len(series), STEP, fill),
                                        {expression.Reference(str(row), "mean"): [row] for row in range(len(series))}))


def to_frame(table):
    return pandas.DataFrame(table.values.T.astype(float), index=table.timestamps.view(numpy.int64) // NS)


def assert_same(expected, found):
    assert expected.shape == found.shape
    assert list(expected.index) == list(found.index)
    numpy.testing.assert_allclose(found.to_numpy(), expected.to_numpy(dtype=float), rtol=1e-9, atol=1e-6)


def reduce_row(row, method):
    """What `aggregate` makes of the values of one row, by the definition."""
    held = [value for value in row if not math.isnan(value)]
    if method in ("sum", "count"):
        return float(len(held)) if method == "count" else float(sum(held))
    if not held:
        return math.nan
    array = numpy.array(held)
    with numpy.errstate(all="ignore"):
        return float({"mean": numpy.mean, "median": numpy.median, "min": numpy.min, "max": numpy.max,
                      "std": numpy.std, "var": numpy.var}[method](array))


@given(series_of(tame), st.sampled_from(sorted(expression.AGGREGATIONS)))
def test_aggregate(series, method):
    frame = make_frame(series)
    rows = [reduce_row(row, method.removeprefix("rate:")) for row in frame.to_numpy()]
    expected = pandas.DataFrame({0: rows}, index=frame.index, dtype=float)
    if method.startswith("rate:"):
        expected = expected.diff().iloc[1:]
    assert_same(expected, evaluate(["aggregate", method], series))


@given(series_of(tame), st.sampled_from(sorted(expression.AGGREGATIONS)), st.integers(1, 4))
def test_rolling(series, method, window):
    frame = make_frame(series)
    if window > len(frame):
        with pytest.raises(operations.CannotAggregate, match=f"'{window}' is greater than serie length '{len(frame)}'"):
            evaluate(["rolling", method, window], series)
        return
    array = frame.to_numpy()
    expected = pandas.DataFrame(
        [[reduce_row(array[end - window:end, column], method.removeprefix("rate:"))
          for column in range(array.shape[1])] for end in range(window, len(array) + 1)],
        index=frame.index[window - 1:], columns=frame.columns, dtype=float)
    if method.startswith("rate:"):
        expected = expected.diff().iloc[1:]
    assert_same(expected, evaluate(["rolling", method, window], series))


PANDAS = {"mean": "mean", "median": "median", "min": "min", "max": "max", "sum": "sum", "count": "count",
          "first": "first", "last": "last", "std": "std", "var": "var"}


@given(series_of(tame), st.sampled_from(sorted(expression.RESAMPLINGS)), st.sampled_from([30, 60, 90, 180, 600]))
def test_resample(series, method, seconds):
    """Holes are no values; groups without a value, or without a difference, are not there."""
    columns = []
    for points in series:
        column = pandas.Series(points, dtype=float).sort_index()
        name = method
        if method.startswith("rate:"):
            column, name = column.diff().iloc[1:], method.removeprefix("rate:")
        groups = column.groupby([minute * 60 // seconds * seconds for minute in column.index])
        if name.endswith("pct"):
            columns.append(groups.quantile(int(name[:-3]) / 100))
        else:
            columns.append(getattr(groups, PANDAS[name])())
    index = sorted({time for column in columns for time in column.dropna().index})
    expected = pandas.DataFrame({row: column.reindex(index) for row, column in enumerate(columns)}, index=index,
                                dtype=float)
    root = expression.parse(["resample", method, seconds,
                             ["metric", *([str(row), "mean"] for row in range(len(series)))]])
    table = operations.evaluate(root, align.align(make_points(series), len(series), STEP, None), {
        expression.Reference(str(row), "mean"): [row] for row in range(len(series))})
    assert numpy.timedelta64(seconds, "s") == table.granularity
    found = pandas.DataFrame(table.values.T, index=table.timestamps.view(numpy.int64) // 10**9)
    assert_same(expected, found)


#: What the letters mean to pandas; weeks end on Saturday, and half years are left to arithmetic.
PERIODS = {"Y": "Y", "Q": "Q", "M": "M", "W": "W-SAT"}


def begin(day, letter):
    """The timestamp (ns) of a day's calendar group."""
    time = pandas.Timestamp(day, unit="D")
    if letter == "H":
        return pandas.Timestamp(time.year, 1 if time.month < 7 else 7, 1).value
    return time.to_period(PERIODS[letter]).start_time.value


@given(st.lists(st.dictionaries(st.integers(0, 25_000), tame, max_size=12), min_size=1, max_size=3),
       st.sampled_from("YHQMW"), st.sampled_from(sorted(set(PANDAS) - {"var"})))
def test_resample_by_the_calendar(series, letter, method):
    """Days of seven decades: each series in its own groups, whatever the others have."""
    columns = []
    for points in series:
        column = pandas.Series(points, dtype=float).sort_index()
        groups = column.groupby([begin(day, letter) for day in column.index])
        columns.append(getattr(groups, method)())
    index = sorted({time for column in columns for time in column.dropna().index})
    expected = pandas.DataFrame({row: column.reindex(index) for row, column in enumerate(columns)}, index=index,
                                dtype=float)
    points = make_points([{day * 1440: value for day, value in points.items()} for points in series])
    names = tuple(expression.Reference(str(row), "mean") for row in range(len(series)))
    root = expression.Resample([], expression.Metric([], names), method, letter)
    days = align.align(points, len(series), numpy.timedelta64(1440 * NS, "ns"), None)
    table = operations.evaluate(root, days, {name: [row] for row, name in enumerate(names)})
    assert letter == table.granularity
    assert_same(expected, pandas.DataFrame(table.values.T, index=table.timestamps.view(numpy.int64)))


@given(series_of(tame), st.booleans())
def test_rate_of_change(series, per_second):
    frame = make_frame(series)
    expected = frame.diff()
    if per_second:
        seconds = pandas.Series(frame.index * 60.0, index=frame.index).diff()
        expected = expected.div(seconds, axis=0)
    else:
        expected = expected.iloc[1:]
    assert_same(expected, evaluate(["rateofchangesec" if per_second else "rateofchange"], series))


FILLS = {None: lambda frame: frame, "null": lambda frame: frame, "dropna": lambda frame: frame,
         0.5: lambda frame: frame.fillna(0.5), "ffill": lambda frame: frame.ffill(),
         "bfill": lambda frame: frame.bfill(), "full_ffill": lambda frame: frame.ffill().bfill(),
         "full_bfill": lambda frame: frame.bfill().ffill()}


@given(series_of(values), st.sampled_from(list(FILLS)))
def test_fill(series, fill):
    frame = make_frame(series)
    table = align.align(make_points(series), len(series), STEP, fill)
    assert_same(FILLS[fill](frame), to_frame(table))


@given(series_of(tame), st.floats(0, 100), st.booleans(), st.booleans())
def test_overlap(series, needed, start, stop):
    """Contract, aggregates 2.7."""
    frame = make_frame(series)
    table = align.align(make_points(series), len(series), STEP, None)
    complete = frame.notna().all(axis=1)
    if not complete.any():
        if needed > 0 and len(frame):
            with pytest.raises(NotEnoughOverlap, match="No overlap"):
                align.cut_to_overlap(table, needed, start=start, stop=stop)
        return
    whole = list(frame.index[complete])
    kept = frame[(frame.index >= (frame.index[0] if start else whole[0]))
                 & (frame.index <= (frame.index[-1] if stop else whole[-1]))]
    percent = 100.0 * len(whole) / len(kept)
    if percent < needed:
        with pytest.raises(NotEnoughOverlap, match=f"Less than {needed:f}% .*[(]{percent:.2f}%[)]"):
            align.cut_to_overlap(table, needed, start=start, stop=stop)
        return
    assert_same(kept, to_frame(align.cut_to_overlap(table, needed, start=start, stop=stop)))


ARITHMETIC = {
    "=": lambda a, b: float(a == b), "<": lambda a, b: float(a < b), ">": lambda a, b: float(a > b),
    "<=": lambda a, b: float(a <= b), ">=": lambda a, b: float(a >= b), "!=": lambda a, b: float(a != b),
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b,
    "clip_min": lambda a, b: a if math.isnan(a) else max(a, b),
    "clip_max": lambda a, b: a if math.isnan(a) else min(a, b),
    "max": lambda a, b: b if math.isnan(a) else max(a, b),
}


@given(series_of(tame), st.sampled_from(sorted(ARITHMETIC)), tame, st.booleans())
def test_arithmetic_with_a_number(series, name, number, number_first):
    """Element by element; a hole stays one in all but comparisons and `max`."""
    names = [["metric", *([str(row), "mean"] for row in range(len(series)))], number]
    root = expression.parse([name, *(reversed(names) if number_first else names)])
    table = align.align(make_points(series), len(series), STEP, None)
    columns = {expression.Reference(str(row), "mean"): [row] for row in range(len(series))}
    found = operations.evaluate(root, table, columns)
    assert tuple(range(len(series))) == found.columns
    if number_first and name in ("clip_min", "clip_max", "max"):
        return      # which of two is the bound does not matter, but for holes
    expected = [[ARITHMETIC[name](number, value) if number_first else ARITHMETIC[name](value, number)
                 for value in row] for row in table.values.tolist()]
    numpy.testing.assert_allclose(found.values.astype(float), numpy.array(expected).reshape(found.values.shape))


def compute(text, *series, owners=None):
    """Evaluate a text whose references are `a`, `b` and so on, a series each; `all` are all of them."""
    names = "abcdef"[:len(series)]
    columns = {expression.Reference(name, "mean"): [row] for row, name in enumerate(names)}
    columns[expression.Reference("all", "mean")] = list(range(len(series)))
    table = align.align(make_points([dict(enumerate(points)) for points in series]), len(series), STEP, None)
    return operations.evaluate(expression.parse(text), table, columns, owners)


def test_series_of_one_owner_go_together():
    """Whatever their order is; what cannot be paired is refused instead of dropped."""
    def pairs(owners):
        columns = {expression.Reference("left", "mean"): [0, 1], expression.Reference("right", "mean"): [2, 3]}
        table = align.align(make_points([{0: 1.0}, {0: 2.0}, {0: 10.0}, {0: 20.0}]), 4, STEP, None)
        root = expression.parse("(+ (metric left mean) (metric right mean))")
        return operations.evaluate(root, table, columns, owners)

    assert [[11.0], [22.0]] == pairs(None).values.tolist()
    assert [[21.0], [12.0]] == pairs(["x", "y", "y", "x"]).values.tolist()
    assert (0, 1) == pairs(["x", "y", "y", "x"]).columns
    for owners in (["x", "y", "y", "z"], ["x", "x", "x", "x"]):
        with pytest.raises(operations.CannotAggregate, match="different resources"):
            pairs(owners)


def test_series_go_together_as_they_are_written():
    """Also when they stand on both sides."""
    found = compute("(- (metric (a mean) (b mean)) (metric (b mean) (a mean)))", [1], [20])
    assert ([[-19.0], [19.0]], (0, 1)) == (found.values.tolist(), found.columns)
    found = compute("(neg (metric (b mean) (a mean)))", [1], [20])
    assert ([[-20.0], [-1.0]], (1, 0)) == (found.values.tolist(), found.columns)


def test_numbers_of_series_that_do_not_match():
    with pytest.raises(operations.CannotAggregate, match="3 series with 2 series|2 series with 3 series"):
        compute("(+ (metric all mean) (metric (a mean) (b mean)))", [1], [2], [3])
    found = compute("(+ (metric all mean) (metric b mean))", [1], [2], [3])
    assert ([[3.0], [4.0], [5.0]], (0, 1, 2)) == (found.values.tolist(), found.columns)
    found = compute("(+ (metric a mean) (metric b mean))", [1], [2], [3])
    assert ([[3.0]], None) == (found.values.tolist(), found.columns)


@pytest.mark.parametrize("method", sorted(expression.AGGREGATIONS))
def test_aggregate_of_no_series(method):
    """Where a pattern matches nothing: as at a time without any value."""
    columns = {expression.Reference("a", "mean"): [0], expression.Reference("none", "mean"): []}
    table = align.align(make_points([{0: 1.0, 1: 2.0}]), 1, STEP, None)
    found = operations.evaluate(expression.parse(f"(aggregate {method} (metric none mean))"), table, columns)
    nothing = 0.0 if method.removeprefix("rate:") in ("sum", "count") else math.nan
    numpy.testing.assert_array_equal(found.values, [[nothing] * len(found.timestamps)])
    with pytest.raises(operations.CannotAggregate, match="0 series with 1 series"):
        operations.evaluate(expression.parse("(+ (metric a mean) (metric none mean))"), table, columns)
    none = operations.evaluate(expression.parse("(rolling mean 2 (metric none mean))"), table, columns)
    assert ((0, 1), ()) == (none.values.shape, none.columns)


@pytest.mark.parametrize(("text", "values_max"), [
    ("(metric all mean)", 0), ("(metric a mean)", 3), ("(neg (metric all mean))", 6),
    ("(+ (metric all mean) (aggregate max (metric all mean)))", 18), ("(rolling mean 2 (metric all mean))", 24),
    ("(neg (aggregate sum (metric all mean)))", 15), ("(resample max 60 (metric all mean))", 48)])
def test_work_is_bounded(text, values_max):
    """Operations share what they may compute, those of many series as well as those of one."""
    table = align.align(make_points([{0: 1.0, 1: 2.0}, {2: 3.0}]), 2, STEP, None)
    columns = {expression.Reference("a", "mean"): [0], expression.Reference("all", "mean"): [0, 1]}
    root = expression.parse(text)
    operations.evaluate(root, table, columns, work=operations.Work(values_max))
    if values_max:
        with pytest.raises(operations.CannotAggregate, match=f"more than {values_max - 1} values in all"):
            operations.evaluate(root, table, columns, work=operations.Work(values_max - 1))


@pytest.mark.parametrize(("text", "expected"), [
    ("(/ (metric a mean) 0)", [math.inf, -math.inf, math.nan]),
    ("(% (metric a mean) -3)", [-2.0, -2.0, 0.0]),
    ("(pow (metric a mean) 0.5)", [2.0, math.nan, 0.0]),
    ("(+ (> (metric a mean) 0) (> (metric a mean) 3))", [1.0, 0.0, 0.0]),
    ("(* (>= (metric a mean) 0) (> (metric a mean) 3))", [1.0, 0.0, 0.0]),
    ("(- (> (metric a mean) 0) (>= (metric a mean) 0))", [0.0, 0.0, -1.0]),
    ("(+ (> (metric a mean) 0) 1)", [2.0, 1.0, 1.0]),
    ("(aggregate sum (> (metric a mean) 0))", [1.0, 0.0, 0.0]),
    ("(rolling count 2 (> (metric a mean) 0))", [2.0, 2.0]),
    ("(neg (> (metric a mean) 0))", [-1.0, 0.0, 0.0]),
    ("(clip (metric a mean) (metric b mean) 3)", [3.0, 1.0, 1.0]),
    ("(clip (metric a mean) -1)", [4.0, -1.0, 0.0]),
    ("(+ (metric a mean) (* 2 3))", [10.0, 1.0, 6.0]),
    ("(abs (metric a mean))", [4.0, 5.0, 0.0]),
    ("(floor (/ (metric a mean) 3))", [1.0, -2.0, 0.0]),
    ("(ceil (/ (metric a mean) 3))", [2.0, -1.0, 0.0]),
    ("(cos (* 0 (metric a mean)))", [1.0, 1.0, 1.0]),
])
def test_values(text, expected):
    numpy.testing.assert_allclose(compute(text, [4, -5, 0], [1, 1, 1]).values[0].astype(float), expected)
