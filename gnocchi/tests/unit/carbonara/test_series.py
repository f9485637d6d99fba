import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnocchi.carbonara import series


def batch_of(*rows):
    """Make a read-only batch, as storage decodes them, of {time: value} or [(time, value), ...] for each series."""
    rows = [list(row.items()) if isinstance(row, dict) else row for row in rows]
    batch = series.make_batch(
        [(numpy.array([t for t, _ in row], "i8"), numpy.array([v for _, v in row], float)) for row in rows]
    )
    for array in batch:
        array.flags.writeable = False
    return batch


def rows_of(batch):
    times, values = batch.timestamps.view("i8").tolist(), batch.values.tolist()
    assert (batch.offsets[0], batch.offsets[-1]) == (0, len(times)) and len(times) == len(values)
    assert batch.timestamps.dtype == "M8[ns]" and batch.values.dtype == "f8" and batch.offsets.dtype == "i8"
    ranges = zip(batch.offsets[:-1], batch.offsets[1:], strict=True)
    return [list(zip(times[begin:end], values[begin:end], strict=True)) for begin, end in ranges]


def test_make_batch_from_text():
    """Timestamps may be given as text."""
    batch = series.make_batch([(["1970-01-01T00:00:01"], [5]), ([], [])])
    assert [[(10**9, 5.0)], []] == rows_of(batch)


def test_make_batch_of_no_series():
    """No series at all are a batch, too."""
    assert [] == rows_of(series.make_batch([]))


@pytest.mark.parametrize(
    ("stored", "posted", "expected"),
    [
        pytest.param({1: 1}, {2: 2}, {1: 1, 2: 2}, id="newer"),
        pytest.param({}, {2: 2, 3: 3}, {2: 2, 3: 3}, id="first"),
        pytest.param({1: 1}, {}, {1: 1}, id="nothing"),
        pytest.param({2: 2, 4: 4}, {3: 3}, {2: 2, 3: 3, 4: 4}, id="late"),
        pytest.param({2: 2}, {1: 1}, {1: 1, 2: 2}, id="before-all"),
        pytest.param({1: 1, 2: 2}, {2: 7}, {1: 1, 2: 7}, id="posted-beats-stored"),
        pytest.param({}, [(1, 5), (1, 3), (1, 9)], {1: 9}, id="last-received-wins"),
        pytest.param({1: 0}, [(3, 1), (1, 2), (3, 3), (1, 4), (2, 5)], {1: 4, 2: 5, 3: 3}, id="all-at-once"),
        pytest.param({-5: 1}, {-9: 2}, {-9: 2, -5: 1}, id="before-1970"),
        pytest.param({2**62: 1}, {-(2**62): 2}, {-(2**62): 2, 2**62: 1}, id="far-apart"),
    ],
)
def test_merge(stored, posted, expected):
    """Points are merged by time, in one series alone and between neighbours that must not change."""
    assert [list(expected.items())] == rows_of(series.merge(batch_of(stored), batch_of(posted)))
    merged = series.merge(batch_of({3: 1}, stored, {}, {1: 1}, stored), batch_of({}, posted, {}, {0: 2}, posted))
    expected = list(expected.items())
    assert [[(3, 1)], expected, [], [(0, 2), (1, 1)], expected] == rows_of(merged)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(*[st.lists(st.tuples(st.integers(-5, 30), st.integers(0, 99)), max_size=12)] * 2), max_size=5)
)
def test_merge_is_dict_update(rows):
    """Merging is what a dictionary's update does, then sorted by time."""
    stored = [dict(sorted(old)) for old, _ in rows]
    expected = [sorted({**old, **dict(new)}.items()) for old, (_, new) in zip(stored, rows, strict=True)]
    assert expected == rows_of(series.merge(batch_of(*stored), batch_of(*[new for _, new in rows])))


def test_merge_of_nothing_copies_nothing():
    """A batch without measures costs nothing."""
    stored = batch_of({1: 1})
    assert series.merge(stored, series.empty_batch(1)) is stored


@pytest.mark.parametrize(
    "rows", [numpy.array([2, 0, 0]), numpy.array([], int), numpy.array([True, False, True]), numpy.array([0, 1, 2])]
)
def test_select(rows):
    """Series come in the order asked for, also repeated; a mask keeps order."""
    given_rows = [[(1, 1), (2, 2)], [], [(3, 3)]]
    indexes = numpy.flatnonzero(rows) if rows.dtype == bool else rows
    assert [given_rows[i] for i in indexes] == rows_of(series.select(batch_of(*given_rows), rows))


@pytest.mark.parametrize("points_per_slice", [1, 1000])
def test_take_ranges(monkeypatch, points_per_slice):
    """Gathering and copying slices are the same."""
    monkeypatch.setattr(series, "_POINTS_PER_SLICE", points_per_slice)
    batch = batch_of({1: 1, 2: 2, 3: 3}, {4: 4, 5: 5})
    taken = series.take_ranges(batch, numpy.array([1, 4, 0]), numpy.array([3, 5, 1]))
    assert [[(2, 2), (3, 3)], [(5, 5)], [(1, 1)]] == rows_of(taken)


@pytest.mark.parametrize("points_compared", [0, 1000])
def test_search(monkeypatch, points_compared):
    """Comparing all points and the binary search find the same: the first point at or after the limit."""
    monkeypatch.setattr(series, "_POINTS_COMPARED", points_compared)
    times = [5, 7, 9, 11, 13]
    limits = [numpy.iinfo("i8").min, 4, 5, 6, 9, 13, 14, 2**62]
    batch = batch_of({}, *[[(t, 0) for t in times]] * len(limits), {})
    expected = [sum(t < limit for t in times) for limit in limits]
    found = series.search(batch, numpy.array([8, *limits, 8])) - batch.offsets[:-1]
    assert [0, *expected, 0] == found.tolist()
    assert series.search(series.empty_batch(2), numpy.array([1, 2])).tolist() == [0, 0]


def test_concat():
    """Series of all batches follow one another."""
    batches = [batch_of({1: 1}, {}), batch_of(), batch_of({2: 2, 3: 3})]
    assert [[(1, 1)], [], [(2, 2), (3, 3)]] == rows_of(series.concat(batches))
    assert [] == rows_of(series.concat([]))
