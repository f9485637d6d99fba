"""Aggregates of groups of stored series against pandas: gaps, different ranges, several policies and granularities."""

import random

import numpy
import pandas
import pytest

from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.query import aggregates, expression
from gnocchi.query.aggregates import MetricsCannotBeAggregated, Selection, Terms
from gnocchi.query.expression import Reference
from gnocchi.query.fetch import Window, read_measures
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.contract.test_query_series import HOUR, MINUTE, fill, instant, span
from gnocchi.tests.databases import StatementCounter
from gnocchi.tests.engine import Engine

SACKS = 4
ALL = Reference("*", "mean")

#: What each expression makes of a frame with a row per time and a column per series: a frame again.
ORACLES = {
    "(metric * mean)": lambda frame: frame,
    "(aggregate mean (metric * mean))": lambda frame: frame.mean(axis=1).to_frame(),
    "(aggregate max (metric * mean))": lambda frame: frame.max(axis=1).to_frame(),
    "(aggregate sum (metric * mean))": lambda frame: frame.sum(axis=1).to_frame(),
    "(aggregate median (metric * mean))": lambda frame: frame.median(axis=1).to_frame(),
    "(aggregate var (metric * mean))": lambda frame: frame.var(axis=1, ddof=0).to_frame(),
    "(aggregate rate:mean (metric * mean))": lambda frame: frame.mean(axis=1).diff().iloc[1:].to_frame(),
    "(clip (metric * mean) 5 15)": lambda frame: frame.clip(5, 15),
    "(resample sum 7200 (metric * mean))": lambda frame: regroup(frame, 2 * HOUR, "sum"),
    "(aggregate max (resample last 900 (metric * mean)))": lambda frame: regroup(
        frame, 15 * MINUTE, "last").max(axis=1).to_frame(),
    "(* 2 (rateofchange (metric * mean)))": lambda frame: 2 * frame.diff().iloc[1:],
    "(- (metric * mean) (aggregate min (metric * mean)))": lambda frame: frame.sub(frame.min(axis=1), axis=0),
    "(> (metric * mean) 10)": lambda frame: (frame > 10).astype(float),
}
FILLS = {"dropna": lambda frame: frame, "null": lambda frame: frame, 0.5: lambda frame: frame.fillna(0.5),
         "ffill": lambda frame: frame.ffill(), "full_bfill": lambda frame: frame.bfill().ffill()}


def regroup(frame, length, method):
    """Holes are no values, and what has none is none."""
    columns = {name: getattr(column.dropna().groupby(lambda time: time // length * length), method)()
               for name, column in frame.items()}
    return pandas.DataFrame(columns, index=sorted({time for column in columns.values() for time in column.index}),
                            dtype=float)


@pytest.fixture
def engine(indexer):
    indexer.create_sacks(SACKS)
    return Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=1 << 24), SACKS)


def select(series):
    return Selection(series, [str(number) for number in range(len(series))], None, {ALL: range(len(series))})


def read_frame(engine, series, granularity, window):
    """Return what each series holds by itself, as a column."""
    found = [read_measures(engine.store, engine.indexer, one.metric, "mean", (granularity,), *window)[0]
             for one in series]
    columns = {number: pandas.Series(part.values, index=part.timestamps.astype(numpy.int64))
               for number, part in enumerate(found)}
    return pandas.DataFrame(columns, index=sorted({time for column in columns.values() for time in column.index}),
                            dtype=float)


def to_columns(frame, dropping):
    columns = [column[numpy.isfinite(column)] if dropping else column for _, column in frame.items()]
    return [(column.index.tolist(), pytest.approx(column.tolist(), nan_ok=True)) for column in columns]


@pytest.mark.parametrize("seed", range(3))
def test_groups_against_pandas(engine, seed):
    """Each group by itself, though all are read together."""
    dice = random.Random(seed)
    series = [one for one in fill(engine, seed) if one.method == "mean"]
    groups = [[] for _ in range(4)]
    for one in series:
        dice.choice(groups).append(one)
    groups = [group for group in groups if group]
    for text, oracle in ORACLES.items():
        mode, granularity = dice.choice(list(FILLS)), span(dice.choice([MINUTE, HOUR]))
        window = Window(*dice.choice([(None, None), (instant(35 * MINUTE + 7), None), (None, instant(5 * HOUR)),
                                      (instant(2 * HOUR + 1), instant(4 * HOUR - 1))]))
        results = aggregates.compute(engine.store, engine.indexer, expression.parse(text), list(map(select, groups)),
                                     Terms(granularity, window, mode, None, 10**6))
        for group, result in zip(groups, results, strict=True):
            expected = oracle(FILLS[mode](read_frame(engine, group, granularity, window)))
            found = [(part.timestamps.astype(numpy.int64).tolist(), part.values.tolist())
                     for (part,) in result.measures]
            assert to_columns(expected, mode not in ("null", 0.5)) == found, (text, mode)


@pytest.mark.parametrize("seed", range(3))
def test_overlap_against_pandas(engine, seed):
    """Times at which all have a value, among those that are left when both ends were cut."""
    dice = random.Random(seed)
    series = dice.sample([one for one in fill(engine, seed) if one.method == "mean"], 3)
    root = expression.parse("(aggregate sum (metric * mean))")
    for needed in (0, 20, 50, 80, 100):
        frame = read_frame(engine, series, span(HOUR), Window(None, None))
        whole = frame.index[frame.notna().all(axis=1)]
        kept = frame[(frame.index >= min(whole, default=0)) & (frame.index <= max(whole, default=2**62))]
        percent = 100 * len(whole) / len(kept)
        terms = Terms(span(HOUR), Window(None, None), None, float(needed), 10**6)
        if percent < needed:
            reason = f"Less than {needed:f}% .*{percent:.2f}%" if len(whole) else "No overlap"
            with pytest.raises(MetricsCannotBeAggregated, match=reason):
                aggregates.compute(engine.store, engine.indexer, root, [select(series)], terms)
            continue
        result, = aggregates.compute(engine.store, engine.indexer, root, [select(series)], terms)
        (part,), = result.measures
        assert kept.index.tolist() == part.timestamps.astype(numpy.int64).tolist()
        assert kept.sum(axis=1).tolist() == pytest.approx(part.values.tolist())


def test_statements_do_not_grow_with_groups(engine):
    series = [one for one in fill(engine, 1) if one.method == "mean"]
    root = expression.parse("(aggregate sum (metric * mean))")
    terms = Terms(None, Window(None, None), None, None, 10**6)
    counts = []
    for groups in ([series], [[one] for one in series]):
        with StatementCounter(engine.indexer) as counter:
            aggregates.compute(engine.store, engine.indexer, root, list(map(select, groups)), terms)
        counts.append(counter.count)
    assert counts[0] == counts[1]
