"""Groups of resources whose attributes change (contract, aggregates 2.11): who counts when, and for how much."""

import datetime
import re
import types
import uuid

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi.indexer import Resource
from gnocchi.query import align, expression
from gnocchi.query.aggregates import MetricsCannotBeAggregated, Selection, Terms, compute_points
from gnocchi.query.align import Points
from gnocchi.query.fetch import Window
from gnocchi.query.history import Pool, Stay, compute_group, list_stays, sort_by_time
from gnocchi.query.series import Series

MINUTE, HOUR = 60 * 10**9, 3600 * 10**9
SPAN = numpy.timedelta64(HOUR, "ns")
BIRTH = datetime.datetime(1970, 1, 1, 9)
A, B = uuid.UUID(int=1), uuid.UUID(int=2)
OPEN = Window(None, None)


def at(text):
    """Nanoseconds of a time of the first day."""
    hours, minutes = text.split(":")
    return int(hours) * HOUR + int(minutes) * MINUTE


def instant(text):
    return None if text is None else numpy.datetime64(at(text), "ns")


def moment(text):
    return None if text is None else datetime.datetime(1970, 1, 1) + datetime.timedelta(minutes=at(text) // MINUTE)


def revision(id, start, end, flavor):
    return Resource(id, "instance", None, None, None, str(id), BIRTH, None, moment(start), moment(end),
                    {"flavor": flavor}, {})


def revisions_of(id, *changes):
    """Revisions that begin at times and have flavors."""
    return [revision(id, start, end, flavor) for (start, flavor), end in zip(
        changes, [start for start, _ in changes[1:]] + [None], strict=True)]


def firsts_of(revisions):
    firsts = {}
    for each in revisions:
        firsts[each.id] = min(each.revision_start, firsts.get(each.id, each.revision_start))
    return firsts


def make_selection(owners):
    names = "abcdef"[:len(owners)]
    columns = {expression.Reference(name, "mean"): [row] for row, name in enumerate(names)}
    columns[expression.Reference("cpu", "mean")] = list(range(len(owners)))
    metrics = [types.SimpleNamespace(id=uuid.uuid4()) for _ in owners]
    return Selection([Series(metric, "mean") for metric in metrics], list(names), owners, columns)


def make_points(series, step=HOUR):
    """Points of {period: value} of each series."""
    rows = [row for row, points in enumerate(series) for _ in points]
    times = [period * step for points in series for period in points]
    values = [value for points in series for value in points.values()]
    return sort_by_time(Points(numpy.array(rows, numpy.int64), numpy.array(times, numpy.int64).view("M8[ns]"),
                               numpy.array(values, float)))


def terms_of(window, fill=None):
    return Terms(None, window, fill, None, 10**6)


def by_flavor(revisions, series, window, text="(aggregate mean (metric cpu mean))", owners=(A, B)):
    """Return {flavor: {time: value}}."""
    selection = make_selection(list(owners[:len(series)]))
    stays = list_stays(revisions, firsts_of(revisions), window)
    answer = {}
    for flavor in sorted({stay.resource.attributes["flavor"] for stay in stays}):
        mine = [stay for stay in stays if stay.resource.attributes["flavor"] == flavor]
        found = compute_group(expression.parse(text), selection, mine, terms_of(window), [SPAN], [make_points(series)])
        if found:
            (parts,) = found.values()
            answer[flavor] = {time // HOUR: value for part in parts for time, value in zip(
                part.timestamps.astype(int).tolist(), part.values.tolist(), strict=True)}
    return answer


HUNDREDS = dict.fromkeys(range(9, 13), 100.0)
THREE = revisions_of(A, ("09:00", "small"), ("10:30", "big"), ("11:15", "small"))


@pytest.mark.parametrize(("window", "expected"), [
    (("10:00", "12:00"), {"big": {10: 50, 11: 25}, "small": {10: 50, 11: 75}}),
    (("10:20", "11:45"), {"big": {10: 50, 11: 25}, "small": {10: 50 / 3, 11: 50}}),
    ((None, None), {"big": {10: 50, 11: 25}, "small": {9: 100, 10: 50, 11: 75, 12: 100}}),
    ((None, "10:10"), {"small": {9: 100, 10: 50 / 3}}),
    (("11:30", None), {"small": {11: 50, 12: 100}}),
])
def test_worked_example(window, expected):
    """The last period is whole without `stop`, the first is without `start`."""
    found = by_flavor(THREE, [HUNDREDS], Window(*map(instant, window)))
    assert {flavor: pytest.approx(values) for flavor, values in expected.items()} == found


def test_six_changes():
    changes = [("08:00", "1"), ("10:10", "2"), ("10:20", "3"), ("10:30", "4"), ("10:40", "1"), ("10:45", "2"),
               ("10:55", "3")]
    found = by_flavor(revisions_of(A, *changes), [HUNDREDS], Window(instant("10:00"), instant("12:00")))
    assert {"1": {10: pytest.approx(25)}, "2": {10: pytest.approx(100 / 3)},
            "3": {10: pytest.approx(25), 11: pytest.approx(100)}, "4": {10: pytest.approx(100 / 6)}} == found


def test_measures_older_than_the_resource_count_for_its_first_revision():
    """But not for a later one, when a search matches only that."""
    found = by_flavor(revisions_of(A, ("11:00", "small")), [HUNDREDS], Window(instant("09:00"), instant("12:00")))
    assert {"small": {9: 100, 10: 100, 11: 100}} == found
    later = THREE[1:2]
    stays = list_stays(later, {A: THREE[0].revision_start}, OPEN)
    assert [(at("10:30"), at("11:15"))] == [(stay.start, stay.stop) for stay in stays]


def test_resources_of_a_group_are_aggregated_as_without_history():
    """The mean of two resources that nothing changes is their mean, not its sum; else each time has its members."""
    still = revisions_of(A, ("09:00", "x")) + revisions_of(B, ("09:00", "x"))
    series = [{10: 10.0, 11: 10.0}, {10: 30.0, 11: 30.0}]
    assert {"x": {10: 20, 11: 20}} == by_flavor(still, series, OPEN)
    moved = revisions_of(A, ("09:00", "x")) + revisions_of(B, ("09:00", "x"), ("10:30", "y"))
    assert {"x": {10: 20 / 2 + 10 / 2, 11: 10}, "y": {10: 15, 11: 30}} == by_flavor(moved, series, OPEN)
    assert {"x": {10: 40 / 2 + 10 / 2, 11: 10}, "y": {10: 15, 11: 30}} == by_flavor(
        moved, series, OPEN, "(aggregate sum (metric cpu mean))")


def test_series_that_are_not_aggregated():
    selection = make_selection([A, B])
    stays = list_stays(THREE, firsts_of(THREE), OPEN)
    points = make_points([HUNDREDS, {10: 1.0}])
    root = expression.parse("(* 2 (metric cpu mean))")
    found = compute_group(root, selection, stays, terms_of(OPEN), [SPAN], [points])
    assert [0] == list(found)       # B is not in the group
    assert [200.0] * 4 == found[0][0].values.tolist()


def test_granularities_are_kept_apart():
    """Equal times of different granularities are different periods."""
    fine = numpy.timedelta64(10 * MINUTE, "ns")
    points = [make_points([{10: 100.0}]), make_points([{60: 100.0}], 10 * MINUTE)]
    found = compute_group(expression.parse("(aggregate mean (metric cpu mean))"), make_selection([A]),
                          list_stays(THREE, firsts_of(THREE), OPEN), terms_of(OPEN), [SPAN, fine], points)
    assert [(SPAN, [100.0]), (fine, [100.0])] == [(part.granularity, part.values.tolist()) for part in found[None]]


def test_windows_that_are_empty_are_left_out():
    assert [] == list_stays(THREE[:1], firsts_of(THREE), Window(instant("10:30"), instant("12:00")))
    assert [] == list_stays(THREE[2:], firsts_of(THREE), Window(instant("10:00"), instant("11:15")))


def test_revisions_of_resources_that_were_deleted_just_now():
    assert [stay.resource.id for stay in list_stays(THREE + revisions_of(B, ("09:00", "x")), firsts_of(THREE), OPEN)
            ] == [A, A, A]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("ab"), st.dictionaries(
    st.integers(0, 9), st.floats(-9, 9), max_size=4)), max_size=9), st.sets(st.integers(0, 6)))
def test_series_of_a_group(series, owners):
    """Of each resource its series, their points in order, and the references that mean them; nothing of others."""
    references = {name: expression.Reference(name, "mean") for name in "ab"}
    columns = {reference: [row for row, (_, other, _) in enumerate(series) if other == name]
               for name, reference in references.items()}
    selection = Selection(list(range(len(series))), [name for _, name, _ in series],
                          [owner for owner, _, _ in series], columns)
    points = make_points([hours for _, _, hours in series])
    mine, (found,) = Pool(selection, [points]).take(owners)
    kept = [row for row, (owner, _, _) in enumerate(series) if owner in owners]
    assert (kept, [series[row][1] for row in kept], [series[row][0] for row in kept]) == mine[:3]
    assert {reference: [place for place, row in enumerate(kept) if series[row][1] == name]
            for name, reference in references.items()} == mine.columns
    assert sorted((hour * HOUR, place, value) for place, row in enumerate(kept)
                  for hour, value in series[row][2].items()) == sorted(zip(
                      found.timestamps.astype(int).tolist(), found.rows.tolist(), found.values.tolist(), strict=True))
    assert sorted(found.timestamps.tolist()) == found.timestamps.tolist()


#: Half hours at which a resource gets flavors.
changes_of_flavor = st.lists(st.tuples(st.integers(0, 23), st.sampled_from("xyz")), min_size=1, max_size=6,
                             unique_by=lambda change: change[0])


@given(changes_of_flavor, changes_of_flavor, st.integers(0, 12), st.integers(13, 24))
def test_groups_share_what_there_is(first, second, start, stop):
    """Over all groups, a sum adds up to the sum without groups, whatever changes when."""
    half = [f"{number // 2:02d}:{number % 2 * 30:02d}" for number in range(48)]
    revisions = [each for id, changes in ((A, first), (B, second)) for each in revisions_of(
        id, *[(half[at_], flavor) for at_, flavor in sorted(changes)])]
    series = [{hour: float(hour + 1) for hour in range(24)}, dict.fromkeys(range(0, 24, 2), 100.0)]
    window = Window(instant(half[start]), instant(f"{stop // 2:02d}:{stop % 2 * 30:02d}"))
    found = by_flavor(revisions, series, window, "(aggregate sum (metric cpu mean))")
    totals = {}
    for values in found.values():
        for hour, value in values.items():
            totals[hour] = totals.get(hour, 0.0) + value
    begin, end = start / 2, stop / 2
    expected = {}
    for hour in range(24):
        share = min(end, hour + 1) - max(begin, hour)
        if share > 0:
            expected[hour] = share * sum(points.get(hour, 0.0) for points in series)
    assert expected == pytest.approx(totals)


@given(st.dictionaries(st.integers(0, 12), st.floats(-100, 100), max_size=8),
       st.dictionaries(st.integers(0, 12), st.floats(-100, 100), max_size=8),
       st.sampled_from(["(aggregate mean (metric cpu mean))", "(rolling max 2 (metric cpu mean))",
                        "(rateofchange (aggregate sum (metric cpu mean)))", "(resample sum 7200 (metric cpu mean))",
                        "(> (metric a mean) (metric b mean))"]))
def test_without_changes_it_is_what_it_is_without_history(one, other, text):
    selection, points, root = make_selection([A, B]), make_points([one, other]), expression.parse(text)
    stays = [Stay(revision(id, "00:00", None, "x"), numpy.iinfo(numpy.int64).min, numpy.iinfo(numpy.int64).max)
             for id in (A, B)]
    terms = terms_of(OPEN, align.DROP)
    try:
        result = compute_points(root, selection, terms, [SPAN], [points])
    except MetricsCannotBeAggregated as e:
        with pytest.raises(MetricsCannotBeAggregated, match=re.escape(e.reason)):
            compute_group(root, selection, stays, terms, [SPAN], [points])
        return
    found = compute_group(root, selection, stays, terms, [SPAN], [points])
    columns = [None] if result.columns is None else result.columns
    for column, parts in zip(columns, result.measures, strict=True):
        (part,) = parts
        if len(part.values):
            assert part.timestamps.tolist() == found[column][0].timestamps.tolist()
            assert part.values.tolist() == pytest.approx(found[column][0].values.tolist())
        else:
            assert column not in found
