"""How far a sack has taken what each writer wrote."""

import json
import random

import numpy
import pytest

from gnocchi.incoming import marks as marks_module
from gnocchi.incoming.marks import Marks


def take(marks, *slices, writer="a"):
    for stamp, previous in slices:
        marks.take(writer, stamp, previous)
    return marks


def list_taken(marks, stamps=range(1, 100), writer="a"):
    return [stamp for stamp in stamps if marks.took(writer, stamp)]


@pytest.mark.parametrize(("slices", "untaken"), [
    ([(10, 0), (20, 10)], []),
    ([(10, 0), (40, 30)], range(11, 31)),           # 30 is missing, and what may lie before it
    ([(40, 30)], range(1, 31)),                     # a writer of whom nothing was taken
    ([(10, 0), (40, 30), (30, 10)], []),            # 30 came to light, and followed on 10
    ([(10, 0), (40, 30), (30, 20)], range(11, 21)),     # it followed on another one that is missing
    ([(10, 0), (40, 30), (20, 10)], range(21, 31)),
    ([(10, 0), (40, 30), (20, 15)], [*range(11, 16), *range(21, 31)]),
    ([(10, 0), (40, 30), (70, 60), (60, 40)], range(11, 31)),
    ([(10, 0), (20, 5)], []),                       # whose predecessor came after all, though nobody was told
])
def test_what_may_still_come(slices, untaken):
    """Gaps are what lies between a mark and a slice that names another one before it."""
    marks = take(Marks({}), *slices)
    newest = max(stamp for stamp, _ in slices)
    assert [*untaken] == [stamp for stamp in range(1, newest + 1) if not marks.took("a", stamp)]
    again = Marks(json.loads(json.dumps(marks.make_checkpoint([], 0))))
    assert list_taken(marks) == list_taken(again)


def test_find_untaken():
    """Arrays give what single questions do."""
    marks = take(take(Marks({}), (10, 0), (40, 30)), (50, 20), writer="b")
    rows = numpy.array([(stamp, writer) for stamp in range(1, 60) for writer in (0, 1, 2)],
                       [("stamp", "<i8"), ("writer", "<u4")])
    writers = ["b", "nobody", "a"]
    assert [not marks.took(writers[writer], stamp) for stamp, writer in rows.tolist()] == marks.find_untaken(
        writers, rows).tolist()


def test_checkpoint_given_is_not_changed():
    """It may be used again, for another try."""
    checkpoint = {"writers": {"a": [40, 10, 30]}}
    take(Marks(checkpoint), (20, 10), (50, 40))
    assert {"writers": {"a": [40, 10, 30]}} == checkpoint


def test_writers_are_forgotten_once_they_are_old_and_gone():
    """Of those of whom there are groups each mark counts."""
    marks = take(take(take(Marks({}), (10, 0), (40, 30)), (50, 0), writer="b"), (90, 80), (95, 91), writer="c")
    assert {"writers": {"a": [40], "c": [95, 0, 80, 90, 91]}} == marks.make_checkpoint(["a", "nobody"], 60)


def test_bounds(monkeypatch):
    """The newest writers stay, and those of whom there are groups; of many gaps the oldest become one."""
    monkeypatch.setattr(marks_module, "WRITERS_MAX", 3)
    monkeypatch.setattr(marks_module, "GAPS_MAX", 2)
    marks = take(Marks({}), *[(10 * i, 10 * i - 5) for i in range(1, 5)])
    for i, writer in enumerate("bcde"):
        take(marks, (100 + i, 0), writer=writer)
    assert {"writers": {"d": [102], "e": [103], "a": [40, 0, 25, 30, 35]}} == marks.make_checkpoint(["a"], 0)


@pytest.mark.parametrize("seed", range(20))
def test_chains_that_are_seen_in_any_order(seed):
    """Each slice is taken once, however late those before it come to light."""
    chance = random.Random(seed)
    stamps = sorted(chance.sample(range(1, 1000), 30))
    stored = {}     # stamp -> the one before it; some were never stored
    last = 0
    for stamp in stamps:
        if chance.random() < 0.8:
            stored[stamp], last = last, stamp
    marks, taken, seen = Marks({}), [], set()
    while len(taken) < len(stored):
        seen |= set(chance.sample(sorted(stored), 3))
        for stamp in sorted(seen):
            if not marks.took("a", stamp):
                marks.take("a", stamp, stored[stamp])
                taken.append(stamp)
        marks = Marks(json.loads(json.dumps(marks.make_checkpoint([], 0))))
    assert sorted(taken) == sorted(stored)
    assert all(marks.took("a", stamp) for stamp in stored)
