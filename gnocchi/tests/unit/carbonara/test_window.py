import numpy
import pytest

from gnocchi.carbonara import window
from gnocchi.carbonara.series import make_batch
from gnocchi.tests.unit.carbonara.model import Model, make_policy, ns, select_buckets

NOON = numpy.datetime64("2020-01-01T12:00:00", "ns")
INT64 = numpy.iinfo("i8")


def at(*seconds):
    return [NOON + ns(second) for second in seconds]


def read(model, seconds, method, row=0):
    """Get {seconds since noon: value}."""
    timestamps, values = model.read(ns(seconds), method, row)
    return dict(zip(((timestamps - NOON) / ns(1)).tolist(), values.tolist(), strict=True))


def test_first_batch_is_not_filtered():
    """However long the first batch spans, all of it counts, and only the open part stays raw."""
    model = Model(make_policy([60], ["sum"]))
    result = model.process_points((at(3600, 0, 30), [4, 1, 2]))
    assert [0] == result.refused.tolist()
    assert {0: 3, 3600: 4} == read(model, 60, "sum")
    assert [4] == model.state.raw.values.tolist()


def test_limit_is_from_before_the_batch():
    """What the batch itself brings does not make its other measures late; the limit itself is accepted."""
    model = Model(make_policy([60], ["sum"]), m=2)
    model.process_points((at(10), [1]), (at(10), [1]))
    result = model.process_points((at(7200, 0, -0.000000001, -1), [9, 2, 50, 50]), ([], []))
    assert [2, 0] == result.refused.tolist()
    assert {0: 3, 7200: 9} == read(model, 60, "sum")
    assert {0: 1} == read(model, 60, "sum", row=1)


def test_rows_are_independent():
    """A series that moves on does not seal its neighbours' buckets."""
    model = Model(make_policy([60, 3600], ["sum"]), m=3)
    model.process_points((at(10), [1]), (at(20), [2]), ([], []))
    result = model.process_points((at(3700), [5]), ([], []), (at(5), [7]))
    for seconds in (60, 3600):
        assert [0, 1, 1, 1] == result.sealed[ns(seconds)].offsets.tolist()
    assert [{0: 1, 3660: 5}, {0: 2}, {0: 7}] == [read(model, 60, "sum", row) for row in range(3)]


def test_sealed_leaves_out_granularities():
    """Only granularities with a bucket that closed are told."""
    model = Model(make_policy([60, 90], ["sum"]))
    assert [ns(90)] == list(model.process_points((at(70, 100), [1, 2])).sealed)
    assert [ns(60), ns(90)] == list(model.process_points((at(181), [4])).sealed)
    assert {0: 1, 90: 2, 180: 4} == read(model, 90, "sum")
    assert {60: 3, 180: 4} == read(model, 60, "sum")


def test_nothing_closed_keeps_state_cheap():
    """While accept_from stands still, nothing is sealed and the limit is the same array of values."""
    model = Model(make_policy([60, 3600], ["mean"]))
    model.process_points((at(1), [1]))
    before = model.state
    result = model.process_points((at(61), [2]))
    assert result.sealed == {}
    numpy.testing.assert_array_equal(before.accept_from, result.state.accept_from)


def test_empty_batch_changes_nothing():
    """Processing without measures leaves all as it was, for series with points and without."""
    model = Model(make_policy([60], ["mean"]), m=2)
    model.process_points((at(1), [1]), ([], []))
    before = model.state
    result = model.process_points(([], []), ([], []))
    assert result.sealed == {}
    assert result.state.raw is before.raw
    assert [False, True] == numpy.isnat(result.state.accept_from).tolist() == numpy.isnat(result.state.newest).tolist()


def test_smaller_back_window_acts_without_measures():
    """After PATCH made the window smaller, the next processing seals and cuts also what got no measure."""
    model = Model(make_policy([60], ["sum"], window_blocks=10), m=2)
    model.process_points((at(0, 60, 120), [1, 2, 3]), ([], []))
    assert not any(model.sealed.values())
    model.policy = model.policy._replace(window_blocks=0)
    result = model.process_points(([], []), (at(0), [5]))
    assert [0, 2, 2] == result.sealed[ns(60)].offsets.tolist()
    assert [3, 5] == result.state.raw.values.tolist()
    assert {0: 1, 60: 2, 120: 3} == read(model, 60, "sum")


def test_larger_back_window_reopens_nothing():
    """accept_from never falls: points of closed buckets stay refused."""
    model = Model(make_policy([60], ["sum"]))
    model.process_points((at(0, 300), [1, 2]))
    model.policy = model.policy._replace(window_blocks=10)
    assert [1] == model.process_points((at(10), [5])).refused.tolist()
    assert {0: 1, 300: 2} == read(model, 60, "sum")


def test_invisible_buckets_are_not_sealed():
    """A bucket that is past the timespan when it closes is never stored; the oldest visible one is."""
    model = Model(make_policy([(60, 3)], ["sum"]))
    result = model.process_points((at(0, 60, 120, 180, 240), [0, 1, 2, 3, 4]))
    numpy.testing.assert_array_equal(at(120, 180), result.sealed[ns(60)].timestamps)
    assert {120: 2, 180: 3, 240: 4} == read(model, 60, "sum")


def test_invisible_open_buckets_are_not_computed():
    """A back window wider than the timespan keeps raw points whose buckets no read may show."""
    model = Model(make_policy([(60, 2)], ["sum"], window_blocks=10))
    model.process_points((at(0, 60, 120), [0, 1, 2]))
    buckets = window.open_buckets(model.state, ns(60), ("sum",), model.policy)
    assert [1, 2] == buckets.columns["sum"].values.tolist()
    assert 3 == len(model.state.raw.values)


def test_predecessor_outlives_raw_points():
    """A difference spans any hole, also when its earlier point left the window long ago."""
    model = Model(make_policy([60], ["rate:sum", "sum"], window_blocks=1), m=2)
    model.process_points((at(0, 10), [1, 3]), (at(0), [1]))
    model.process_points((at(86400), [10]), ([], []))
    assert ([3.0], [True, False]) == (model.state.predecessor[:1].tolist(), model.state.has_predecessor.tolist())
    model.process_points((at(2 * 86400), [5]), ([], []))
    assert {0: 2, 86400: 7, 2 * 86400: -5} == read(model, 60, "rate:sum")


def test_late_point_changes_the_next_difference():
    """A point in the window between two others divides their difference."""
    model = Model(make_policy([60], ["rate:sum"], window_blocks=1))
    model.process_points((at(0, 60), [1, 5]))
    model.process_points((at(30), [2]))
    assert {0: 1, 60: 3} == read(model, 60, "rate:sum")


def test_policy_without_rates_keeps_no_predecessor():
    """Nobody needs it."""
    model = Model(make_policy([60], ["sum"]))
    model.process_points((at(0, 3600), [1, 3]))
    assert [False] == model.state.has_predecessor.tolist()


@pytest.mark.parametrize("blocks", [0, 1, 10**6, 2**62, 2**80])
@pytest.mark.parametrize("seconds", [1, 3600, 200 * 365 * 86400])
def test_ends_of_time_do_not_wrap(blocks, seconds):
    """No back window is too large, and the last instant of int64 is an instant as others."""
    model = Model(make_policy([seconds], ["sum"], window_blocks=blocks))
    times = numpy.array([INT64.max - 1, 1, INT64.max], "i8").view("M8[ns]")
    model.process_points((times, [1, 2, 4]))
    assert 7 == model.read(ns(seconds), "sum")[1].sum()
    accept_from = model.state.accept_from.view("i8")[0]
    width = seconds * 10**9
    assert max(-INT64.max, (INT64.max // width - blocks) * width) == accept_from
    model.process_points((times, [8, 16, 32]))
    assert 7 <= model.read(ns(seconds), "sum")[1].sum() <= 56
    assert accept_from == model.state.accept_from.view("i8")[0]


def test_unlimited_timespan_near_int64_does_not_wrap():
    """A timespan of the whole of int64 hides nothing."""
    model = Model(window.WindowPolicy(((numpy.timedelta64(1, "ns"), numpy.timedelta64(INT64.max, "ns")),), 0, ("sum",)))
    model.process_points((numpy.array([0, INT64.max - 1], "i8").view("M8[ns]"), [1, 2]))
    assert [1, 2] == model.read(numpy.timedelta64(1, "ns"), "sum")[1].tolist()


def test_inputs_are_not_changed():
    """States and batches come from decoded, read-only memory."""
    policy = make_policy([60], ["rate:mean", "std", "median"], window_blocks=1)
    state = window.empty_state(2)
    for seconds in (0, 100, 50, 1000):
        posted = make_batch([(at(seconds, seconds - 5, seconds), [1, 2, 3]), ([], [])])
        for array in (*state[:4], *state.raw, *posted):
            array.flags.writeable = False
        state = window.advance(state, posted, policy).state
        window.open_buckets(state, ns(60), policy.methods, policy)
    assert [2, 0] == state.raw.counts.tolist()


def test_select_and_concat_states():
    """Taking states apart and joining them again gives the same answers."""
    policy = make_policy([60], ["rate:sum"], window_blocks=1)
    model = Model(policy, m=3)
    model.process_points((at(0, 600), [1, 2]), ([], []), (at(30, 700), [5, 9]))
    parts = [
        window.select_rows(model.state, numpy.array([2])),
        window.select_rows(model.state, numpy.array([True, True, False])),
        window.empty_state(0),
    ]
    joined = window.concat_states(parts)
    for i, row in enumerate([2, 0, 1]):
        for field, given in zip(joined[:4], model.state[:4], strict=True):
            numpy.testing.assert_array_equal(field[i], given[row])
        buckets = [
            select_buckets(window.open_buckets(state, ns(60), ("rate:sum",), policy), index, "rate:sum")
            for state, index in ((joined, i), (model.state, row))
        ]
        numpy.testing.assert_array_equal(*[timestamps for timestamps, _ in buckets])
        numpy.testing.assert_array_equal(*[values for _, values in buckets])


def test_policy_properties():
    """The coarsest granularity may be anywhere; rates are known by their prefix."""
    policy = make_policy([60, 3600, 1], ["mean"])
    assert (ns(3600), False) == (policy.coarsest, policy.has_rates)
    assert make_policy([60], ["mean", "rate:mean"]).has_rates


def test_state_without_raw_points_keeps_its_limits():
    """A series rebuilt from sealed buckets has no raw points: late ones are refused, older ones do not set it back."""
    policy = make_policy([60], ["sum"], window_blocks=1)
    newest, accept_from = numpy.array(at(300)), numpy.array(at(240))
    state = window.empty_state(1)._replace(newest=newest, accept_from=accept_from)
    result = window.advance(state, make_batch([(at(250, 239), [1, 2])]), policy)
    assert ([1], {}) == (result.refused.tolist(), result.sealed)
    assert (newest, accept_from) == (result.state.newest, result.state.accept_from)
    assert [1] == result.state.raw.values.tolist()
