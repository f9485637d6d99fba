"""The arithmetic of archive policies."""

import numpy
import pytest

from gnocchi import archive_policy, times
from gnocchi.carbonara.methods import METHODS
from gnocchi.exceptions import InvalidArchivePolicy

DEFAULT = ("mean", "min", "max", "sum", "std", "count")


def item(granularity=None, points=None, timespan=None):
    return archive_policy.complete_item(
        None if granularity is None else times.parse_timespan(granularity), points,
        None if timespan is None else times.parse_timespan(timespan))


@pytest.mark.parametrize(("given", "granularity", "points", "timespan"), [
    ({"granularity": "1s"}, "0:00:01", None, None),
    ({"granularity": "5m", "points": 12}, "0:05:00", 12, "1:00:00"),
    ({"granularity": "7s", "timespan": "1 hour"}, "0:00:07", 514, "0:59:58"),
    ({"granularity": "5 min", "timespan": "1h 3min"}, "0:05:00", 12, "1:00:00"),
    ({"points": 1000, "timespan": "1 hour"}, "0:00:03.600000", 1000, "1:00:00"),
    ({"granularity": "1s", "points": 60, "timespan": "1m"}, "0:00:01", 60, "0:01:00"),
    ({"granularity": 0.1, "points": 3}, "0:00:00.100000", 3, "0:00:00.300000"),
])
def test_complete_item(given, granularity, points, timespan):
    """Two of the three give the third; a timespan shrinks to whole points."""
    result = item(**given)
    assert granularity == times.format_timespan(result.granularity)
    assert points == result.points
    assert timespan == (result.timespan if result.timespan is None else times.format_timespan(result.timespan))


@pytest.mark.parametrize(("given", "text"), [
    ({}, "At least two of granularity/points/timespan must be provided"),
    ({"points": 5}, "At least two of granularity/points/timespan must be provided"),
    ({"timespan": 5}, "At least two of granularity/points/timespan must be provided"),
    ({"granularity": "1s", "points": 5, "timespan": 6}, "timespan ≠ granularity × points"),
    ({"granularity": "1 h", "timespan": "1 min"}, "Calculated number of points is < 0"),
    ({"points": 7, "timespan": "1 h"}, "timespan 1:00:00 cannot be divided into 7 points of whole nanoseconds"),
    ({"points": 7, "timespan": 1e-9},
     "timespan 0:00:00.000000001 cannot be divided into 7 points of whole nanoseconds"),
    ({"granularity": "1 w", "points": 10**6}, "timespan (granularity × points) is longer than 292 years"),
    ({"granularity": "1 w", "points": 10**30}, "timespan (granularity × points) is longer than 292 years"),
])
def test_complete_item_refused(given, text):
    """What does not fit together is refused with the reason."""
    with pytest.raises(InvalidArchivePolicy) as caught:
        item(**given)
    assert text == str(caught.value)


def test_make_definition_keeps_order():
    """The definition is shown as it was given."""
    items = [item("1h", 5), item("1s", 5), item("1m", 5)]
    assert tuple(items) == archive_policy.make_definition(items)


def test_make_definition_duplicates():
    """One granularity may be there once."""
    with pytest.raises(InvalidArchivePolicy, match=r"^More than one archive policy uses granularity `1\.0'$"):
        archive_policy.make_definition([item("1s", 5), item("1s", 6)])


@pytest.mark.parametrize(("names", "expected"), [
    (None, DEFAULT),
    ([], DEFAULT),
    (["mean"], ["mean"]),
    (["mean", "mean", "rate:95pct"], ["mean", "rate:95pct"]),
    (["-mean"], set(DEFAULT) - {"mean"}),
    (["+last", "-max"], set(DEFAULT) - {"max"} | {"last"}),
    (["*"], METHODS),
    (["*", "-mean"], set(METHODS) - {"mean"}),
    (["mean", "+max"], ["mean", "max"]),
    (["mean", "last", "-last"], ["mean"]),
])
def test_resolve_methods(names, expected):
    """Only resolved names are kept."""
    assert tuple(sorted(set(expected))) == archive_policy.resolve_methods(names, DEFAULT)


@pytest.mark.parametrize(("names", "text"), [
    (["foo"], "Unknown aggregation method foo"), (["-foo"], "Unknown aggregation method foo"),
    (["mean", "+nunique"], "Unknown aggregation method nunique"), (["--mean"], "Unknown aggregation method -mean"),
    ([""], "Unknown aggregation method "), (["rate:*"], r"Unknown aggregation method rate:\*"),
    (["mean", "-mean"], "An archive policy needs at least one aggregation method"),
])
def test_resolve_methods_refused(names, text):
    with pytest.raises(InvalidArchivePolicy, match=f"^{text}$"):
        archive_policy.resolve_methods(names, DEFAULT)


def test_resolve_methods_edited_default():
    """A configured default made of edits starts from all methods."""
    assert tuple(sorted(set(METHODS) - {"mean"})) == archive_policy.resolve_methods(None, ["-mean"])


def test_make_default_policies():
    """The four policies of a new index."""
    policies = {policy.name: policy for policy in archive_policy.make_default_policies(DEFAULT)}
    assert list(policies) == ["bool", "low", "medium", "high"]
    assert policies["bool"].aggregation_methods == ("last",)
    assert policies["bool"].back_window == 3600
    assert tuple(sorted(DEFAULT)) == policies["low"].aggregation_methods
    assert [item.points for item in policies["high"].definition] == [3600, 10080, 8760]
    assert policies["medium"].coarsest == numpy.timedelta64(1, "h")
    assert len({policy.id for policy in policies.values()}) == 4
