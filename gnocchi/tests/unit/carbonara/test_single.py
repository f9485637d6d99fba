"""One series in plain numbers against the same in arrays: `single` must tell what `window` tells."""

import hypothesis
import numpy
from hypothesis import strategies as st

from gnocchi.carbonara import single, window
from gnocchi.carbonara.methods import METHODS
from gnocchi.carbonara.series import make_batch
from gnocchi.tests.unit.carbonara.model import make_policy, ns, select_buckets

INT64 = numpy.iinfo("i8")
SPANS = (0.0000005, 1, 60, 90, 3600, 86400 * 365 * 29)

instants = st.one_of(st.integers(-4000, 4000).map(lambda seconds: seconds * 10**9), st.integers(-10**13, 10**13),
                     st.sampled_from((INT64.min + 1, INT64.min + 10**9, INT64.max - 10**9, INT64.max)))
values = st.one_of(st.floats(-100, 100), st.sampled_from((numpy.nan, numpy.inf, -numpy.inf, -0.0)))
limits = st.one_of(st.just(INT64.min), instants)


@st.composite
def states(draw):
    """One series anywhere, with limits that need not fit its points."""
    times = sorted(draw(st.sets(instants, max_size=12)))
    points = [draw(values) for _ in times]
    return window.WindowState(
        numpy.array([draw(limits)]).view("M8[ns]"), numpy.array([draw(limits)]).view("M8[ns]"),
        numpy.array([draw(values)]), numpy.array([draw(st.booleans())]),
        make_batch([(numpy.array(times, "i8").view("M8[ns]"), points)]))


def as_single(state):
    return single.SeriesWindow(
        int(state.newest.view("i8")[0]), int(state.accept_from.view("i8")[0]),
        float(state.predecessor[0]) if state.has_predecessor[0] else None, state.raw.timestamps.view("i8"),
        state.raw.values)


@hypothesis.given(states(), st.sampled_from(SPANS), st.sampled_from((None, 1, 2, 10)), st.sampled_from(METHODS))
def test_same_as_arrays(state, seconds, points, method):
    policy = make_policy([(seconds, points)], [method])
    (granularity, timespan), = policy.items
    oldest = single.oldest_visible(as_single(state), granularity, timespan)
    assert window.oldest_visible(state, granularity, policy).tolist() == [oldest]
    times, found = single.open_buckets(as_single(state), granularity, method, oldest)
    expected = select_buckets(window.open_buckets(state, granularity, (method,), policy), 0, method)
    assert expected[0].view("i8").tolist() == times.tolist()
    assert expected[1].tobytes() == found.tobytes()


@hypothesis.given(limits, st.sampled_from(SPANS))
def test_floor(instant, seconds):
    width = int(ns(seconds).astype("i8"))
    floored = single.floor(instant, width)
    assert INT64.min <= floored
    if instant == INT64.min:
        assert single.NAT == floored
    elif floored > instant:
        assert floored - width < INT64.min, "the first edge that int64 can tell"
    else:
        assert floored % width == 0 and instant - floored < width
