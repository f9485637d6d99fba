"""Reading many series at once gives what reading each alone gives, for whatever state the packs are in."""

import random
import threading

import numpy
import pytest

from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.query.align import Points
from gnocchi.query.fetch import Window, read_measures
from gnocchi.query.series import Series, TooManyPoints, check_size, read_points
from gnocchi.query.several import read_several
from gnocchi.storage.drivers import StorageDriver
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.databases import DEADLINE_S, StatementCounter
from gnocchi.tests.engine import Engine, make_policy

SACKS = 4
MINUTE, HOUR = 60 * 10**9, 3600 * 10**9
METHODS = ("mean", "max", "std", "count", "rate:last")
POLICIES = {"rates": make_policy("rates", [(60, 90), (3600, 30)], METHODS, back_window=1),
            "plain": make_policy("plain", [(60, 200), (3600, None)], METHODS[:4])}


def span(ns):
    return numpy.timedelta64(ns, "ns")


def instant(ns):
    return None if ns is None else numpy.datetime64(ns, "ns")


class CountingDriver(MemoryDriver):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[object] = []

    def get(self, key, start=0, stop=None):
        self.ranges.append((key, start))
        return super().get(key, start, stop)

    def get_many(self, ranges):
        self.ranges += [(r.key, r.start) for r in ranges]
        return [MemoryDriver.get(self, *r) for r in ranges]


@pytest.fixture
def engine(indexer):
    indexer.create_sacks(SACKS)
    return Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=1 << 24), SACKS)


def fill(engine, seed, rounds=6):
    """Metrics of two policies with gaps, late measures and different starts, in several commits; returns all series."""
    dice = random.Random(seed)
    ids = {name: engine.create_metrics(policy, 12) for name, policy in POLICIES.items()}
    clock = 0
    for _ in range(rounds):
        for metrics in ids.values():
            chosen = dice.sample(metrics, dice.randint(1, len(metrics) - 1))
            engine.post(chosen, [
                (lambda times: (times, [dice.randint(0, 99) / 4 for _ in times]))(
                    [clock + dice.randint(-30, 60) * MINUTE + dice.randint(0, 3) * 10**9
                     for _ in range(dice.randint(1, 60))]) for _ in chosen])
        engine.process()
        clock += dice.choice([1, 40, 300]) * MINUTE
    return [Series(engine.indexer.get_metric(id), method) for name, metrics in ids.items() for id in metrics
            for method in POLICIES[name].aggregation_methods]


def read_alone(engine, series, granularity, window):
    found, = read_measures(engine.store, engine.indexer, series.metric, series.method, (granularity,), *window)
    return list(zip(found.timestamps.tolist(), found.values.tolist(), strict=True))


def split(points, count):
    """Return the points of each series, ascending."""
    order = numpy.lexsort((points.timestamps, points.rows))
    series = [[] for _ in range(count)]
    for row, time, value in zip(points.rows[order].tolist(), points.timestamps[order].tolist(),
                                points.values[order].tolist(), strict=True):
        series[row].append((time, value))
    return series


@pytest.mark.parametrize("seed", range(4))
def test_same_as_one_by_one(engine, seed):
    series = fill(engine, seed)
    random.Random(seed).shuffle(series)
    granularities, seen = [span(HOUR), span(MINUTE)], 0
    for start, stop in ((None, None), (35 * MINUTE + 7, None), (None, 5 * HOUR), (2 * HOUR + 1, 4 * HOUR - 1)):
        window = Window(instant(start), instant(stop))
        found = read_points(engine.store, engine.indexer, series, granularities, window, 10**6)
        for granularity, points in zip(granularities, found, strict=True):
            expected = [read_alone(engine, one, granularity, window) for one in series]
            assert expected == split(points, len(series))
            seen += sum(map(len, expected))
    assert seen > 100


def test_split_packs_and_metrics_without_data(engine):
    """After a change of the number of sacks packs share sections; new metrics have no pack, or are not in its head."""
    series = fill(engine, 7)
    engine.indexer.change_sacks(4 * SACKS)
    fresh = engine.create_metrics(POLICIES["plain"], 3)
    series += [Series(engine.indexer.get_metric(id), "mean") for id in fresh]
    for cached in (1 << 24, 0):
        store = Store(engine.store.driver, cache_bytes=cached)
        points, = read_points(store, engine.indexer, series, [span(MINUTE)], Window(None, None), 10**6)
        expected = [read_alone(engine, one, span(MINUTE), Window(None, None)) for one in series]
        assert expected == split(points, len(series))
    assert [[], [], []] == expected[-3:]


@pytest.mark.parametrize("resample", [None, span(7 * MINUTE), span(2 * HOUR), "M", "W"])
def test_several_by_themselves(engine, resample):
    """Of different policies, with and without resampling: groups are whole whatever the window."""
    series = fill(engine, 5)
    granularities = None if resample is None else [span(MINUTE)]
    seen = 0
    for start, stop in ((None, None), (35 * MINUTE + 7, None), (None, 5 * HOUR), (2 * HOUR + 1, 4 * HOUR - 1)):
        window = Window(instant(start), instant(stop))
        found = read_several(engine.store, engine.indexer, series, granularities, window, 10**6, resample)
        alone = [read_measures(engine.store, engine.indexer, one.metric, one.method, granularities, *window, resample)
                 for one in series]
        whole = [read_measures(engine.store, engine.indexer, one.metric, one.method, granularities, None, None,
                               resample) for one in series]
        for parts, expected, all_ in zip(found, alone, whole, strict=True):
            assert list(map(to_lists, expected)) == list(map(to_lists, parts))
            if resample is not None:
                (_, times, values), (_, all_times, all_values) = to_lists(parts[0]), to_lists(all_[0])
                assert set(zip(times, values, strict=True)) <= set(zip(all_times, all_values, strict=True))
                seen += len(times)
    assert seen > 20 or resample is None


def to_lists(part):
    return part.granularity, part.timestamps.tolist(), part.values.tolist()


def test_several_share_a_limit(engine):
    """Also when their policies differ, which are read one after the other."""
    series = fill(engine, 3)
    window = Window(None, None)
    found = read_several(engine.store, engine.indexer, series, [span(HOUR)], window, 10**6)
    total = sum(len(part.values) for parts in found for part in parts)
    with pytest.raises(TooManyPoints):
        read_several(engine.store, engine.indexer, series, [span(HOUR)], window, total // 2)


def test_nothing_at_all(engine):
    id, = engine.create_metrics(POLICIES["plain"])
    points, = read_points(engine.store, engine.indexer, [Series(engine.indexer.get_metric(id), "mean")],
                          [span(MINUTE)], Window(None, None), 1)
    assert 0 == len(points.values)


@pytest.mark.parametrize("methods", [("mean",), ("mean", "max")])
def test_statements_and_reads_do_not_grow(indexer, methods):
    """One statement for each policy; each head and each block once, however many of their series are asked for."""
    indexer.create_sacks(1)
    driver: StorageDriver = CountingDriver()
    engine = Engine(indexer, MemoryIncoming(1), Store(driver, cache_bytes=1 << 24), 1)
    ids = engine.create_metrics(POLICIES["plain"], 200)
    times = [minute * MINUTE for minute in range(150)]
    engine.post(ids, [(times, [1.0] * len(times))] * len(ids))
    engine.process()
    counts = []
    for number in (2, 200):
        series = [Series(indexer.get_metric(id), method) for id in ids[:number] for method in methods]
        driver.ranges.clear()
        with StatementCounter(indexer) as counter:
            points, = read_points(Store(driver, cache_bytes=0), indexer, series, [span(MINUTE)], Window(None, None),
                                  10**6)
        assert 150 * len(series) == len(points.values)
        counts.append((counter.count, len(driver.ranges)))
        assert len(driver.ranges) == len(set(driver.ranges))
    assert counts[0] == counts[1]
    assert 1 == counts[0][0]


class TogetherDriver(MemoryDriver):
    """Answers reads of heads, and of blocks, only when two are under way."""

    reads_at_once = 2

    def __init__(self) -> None:
        super().__init__()
        self.meeting: threading.Barrier | None = None

    def get(self, key, start=0, stop=None):
        if self.meeting is not None:
            self.meeting.wait(DEADLINE_S)
        return super().get(key, start, stop)


def test_remote_objects_are_read_at_once(indexer):
    """Of a driver over a network, several packs are on their way at the same time."""
    indexer.create_sacks(2)
    driver = TogetherDriver()
    engine = Engine(indexer, MemoryIncoming(2), Store(driver, cache_bytes=1 << 24), 2)
    ids = engine.create_metrics(POLICIES["plain"], 20)
    engine.post(ids, [([minute * MINUTE for minute in range(61)], [1.0] * 61)] * len(ids))
    engine.process()
    driver.meeting = threading.Barrier(2)
    series = [Series(indexer.get_metric(id), "mean") for id in ids]
    points, = read_points(Store(driver, cache_bytes=0), indexer, series, [span(MINUTE)], Window(None, None), 10**6)
    assert 61 * 20 == len(points.values)


def test_too_many_points_are_refused_before_they_are_read(indexer):
    indexer.create_sacks(1)
    driver = CountingDriver()
    engine = Engine(indexer, MemoryIncoming(1), Store(driver, cache_bytes=0), 1)
    id, = engine.create_metrics(POLICIES["plain"])
    engine.post([id], [([minute * MINUTE for minute in range(180)], [1.0] * 180)])
    engine.process()
    series = [Series(indexer.get_metric(id), "mean")]
    driver.ranges.clear()
    with pytest.raises(TooManyPoints, match="of at most 100"):
        read_points(engine.store, indexer, series, [span(MINUTE)], Window(None, None), 100)
    assert 1 == len(driver.ranges)      # the directory of the block
    window = Window(instant(0), instant(50 * MINUTE))
    points, = read_points(engine.store, indexer, series, [span(MINUTE)], window, 100)
    assert 50 == len(points.values)


def test_what_neighbours_store_does_not_count(indexer):
    """A metric with a long past makes nobody else's answer seem large, nor does what it holds past its timespan."""
    indexer.create_sacks(1)
    engine = Engine(indexer, MemoryIncoming(1), Store(MemoryDriver(), cache_bytes=1 << 24), 1)
    ids = engine.create_metrics(POLICIES["plain"], 40)
    other, = engine.create_metrics(POLICIES["rates"])
    engine.post([other], [([minute * MINUTE for minute in range(1000)], [1.0] * 1000)])
    engine.post(ids, [([minute * MINUTE for minute in range(61)], [1.0] * 61)] * len(ids))
    engine.process()
    metrics = [*map(indexer.get_metric, ids), indexer.get_metric(other)]
    series = [Series(metric, "mean") for metric in metrics]
    points, = read_points(engine.store, indexer, series, [span(MINUTE)], Window(None, None), 61 * 40 + 90)
    assert 61 * 40 + 90 == len(points.values)


def test_points_of_others_do_not_count(indexer):
    """Metrics share blocks: neither how many rows another one has, nor how far away one lies, makes a request large."""
    indexer.create_sacks(1)
    engine = Engine(indexer, MemoryIncoming(1), Store(MemoryDriver(), cache_bytes=0), 1)
    small, large, empty = engine.create_metrics(POLICIES["plain"], 3)
    hours = [list(range(30)), [*range(150), 10**6, 10**6 + 90]]
    engine.post([small, large], [([hour * HOUR for hour in times], [1.0] * len(times)) for times in hours])
    engine.process()
    series = {id: Series(indexer.get_metric(id), "mean") for id in (small, large, empty)}
    for ids, count in (([small], 30), ([empty], 0), ([small, empty], 30)):
        points, = read_points(engine.store, indexer, [series[id] for id in ids], [span(HOUR)], Window(None, None), 60)
        assert count == len(points.values)
    with pytest.raises(TooManyPoints, match="of at most 60"):
        read_points(engine.store, indexer, [series[large]], [span(HOUR)], Window(None, None), 60)


def test_too_large_tables_are_refused():
    """Series without common timestamps take more room than their points."""
    times = numpy.arange(100).view("M8[ns]")
    points = Points(numpy.arange(100) % 10, times, numpy.ones(100))
    check_size(10, points, 1000)
    with pytest.raises(TooManyPoints, match="About 1000 points .* of at most 999"):
        check_size(10, points, 999)
    check_size(10, Points(points.rows, numpy.repeat(times[:10], 10), points.values), 999)
