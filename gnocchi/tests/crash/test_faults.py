"""Every write of commit, journal and janitor fails, freezes, is torn or is the last thing a process does.

A scripted run is done once to count its steps, then a part of it for each step and kind of fault.  After
each, everything is opened anew from the disk: nothing acknowledged is lost, nothing counts twice,
nothing is there that was not posted, and the janitor leaves nothing behind.
"""

import errno
import functools
import os
import pathlib
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from gnocchi.exceptions import BackendUnavailable
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.tests.crash.ledger import Ledger
from gnocchi.tests.crash.machine import (
    INDEX,
    METRICS,
    Killed,
    Process,
    clear,
    hurry,
    list_leftovers,
    make_disk,
)
from gnocchi.tests.crash.script import DOOMED, STEPS, make_posts
from gnocchi.tests.engine import make_measures

DEADLINE_S = 120
#: Actions of the script before that of a fault, which fill caches and journals, and after it, for what was remembered
#: wrongly to show.
ACTIONS_BEFORE = 3
ACTIONS_AFTER = 4

#: What meets faults, by layer: calls that write, and calls that only read.
WRITES = {
    "storage": ("put_many", "delete_many", "delete_leftovers"),
    "incoming": ("write_measures", "acknowledge"),
    "index": ("commit_sack", "commit_sacks", "expunge_metrics", "delete_garbage_rows"),
    "system": ("open", "write", "pwrite", "pwritev", "fsync", "fdatasync", "rename", "unlink", "mkdir", "ftruncate"),
}
READS = {"storage": ("get", "get_many", "list"), "incoming": ("read_backlogs",), "index": (), "system": ()}

#: Kinds of faults, and what they can happen to.  "lost answer": it happens, and then seems to have
#: failed.  "torn": half of it happens, and the process dies.
KINDS: dict[tuple[str, str], tuple[str, ...]] = {
    **{(layer, "fail"): WRITES[layer] + READS[layer] for layer in WRITES},
    **{(layer, "freeze"): WRITES[layer] + READS[layer] for layer in ("storage", "incoming", "index")},
    **{(layer, kind): WRITES[layer] for layer in ("storage", "incoming", "index")
       for kind in ("lost answer", "kill", "kill after")},
    # Dying before a sync is the same as dying before what comes next.
    ("system", "kill"): ("write", "pwrite", "pwritev", "rename", "unlink", "mkdir", "ftruncate"),
    ("system", "torn"): ("write", "pwritev"),
    ("storage", "torn"): ("put_many", "delete_many"),
}


class Step(NamedTuple):
    """A call, the `number`th of that name."""

    layer: str
    name: str
    number: int


class Faults:
    """Notes each step, and has a fault happen at one of them."""

    def __init__(self, at: Step | None = None, kind: str | None = None) -> None:
        self.steps: list[Step] = []
        self.kind = kind
        self.happened = False
        self.frozen = threading.Event()
        self.released = threading.Event()
        self._at = at
        self._counts: Counter[tuple[str, str]] = Counter()

    def call(self, layer: str, name: str, error: Exception, function: Callable, *arguments: Any) -> Any:
        step = Step(layer, name, self._counts[layer, name])
        self._counts[layer, name] += 1
        self.steps.append(step)
        if step != self._at:
            return function(*arguments)
        self.happened = True
        if self.kind == "freeze":
            self.frozen.set()
            assert self.released.wait(DEADLINE_S)
            return function(*arguments)
        if self.kind == "torn":
            do_half(name, function, *arguments)
        elif self.kind in ("lost answer", "kill after"):
            function(*arguments)
        raise error if self.kind in ("fail", "lost answer") else Killed


def do_half(name: str, function: Callable, *arguments: Any) -> None:
    if name in ("put_many", "delete_many"):
        many = list(arguments[0])
        function(many[:len(many) // 2])
    elif name == "write":
        fd, data = arguments
        function(fd, data[:len(data) // 2])
    else:
        fd, buffers, offset = arguments
        data = b"".join(buffers)
        function(fd, [data[:len(data) // 2]], offset)


class Faulty:
    """Any driver, or the index: calls of some of its methods are steps."""

    def __init__(self, faults: Faults, layer: str, target: Any) -> None:
        self._faults = faults
        self._layer = layer
        self._target = target
        self._names = WRITES[layer] + READS[layer]

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._target, name)
        if name not in self._names:
            return function
        error = BackendUnavailable(f"{self._layer}: {name} failed")
        return functools.partial(self._faults.call, self._layer, name, error, function)


class FaultySystem:
    """The functions of `os`: calls of those that write are steps."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name not in WRITES["system"]:
            return function
        error = OSError(errno.EIO, os.strerror(errno.EIO), "the file of a test")

        def call(*arguments: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return function(*arguments)    # only to sync a directory, which is a step
            return self._faults.call("system", name, error, function, *arguments)

        return call


class Run:
    """The script, from some action on, on a machine whose first process meets a fault.

    Parameters
    ----------
    indexers : two Indexers of the same file; the second one is for whoever works while somebody is frozen
    first : number of actions that are done already
    """

    def __init__(self, directory: pathlib.Path, indexers: list[Indexer], faults: Faults, first: int) -> None:
        self._directory = directory
        self._indexers = indexers
        self._faults = faults
        self._posts = make_posts()
        self.ledger = Ledger(METRICS)
        for action in STEPS[:first]:
            if isinstance(action, int):
                self.ledger.add(self._posts[action])
            elif action == "delete":
                self.ledger.ids.remove(DOOMED)
        self._actions = STEPS[first:]
        self.process = self._start(faults)

    def _start(self, faults: Faults | None = None, indexer: int = 0) -> Process:
        if faults is None:
            return Process(self._directory, self._indexers[indexer])
        return Process(self._directory, self._indexers[indexer], FaultySystem(faults),
                       lambda indexer, incoming, driver: (Faulty(faults, "index", indexer),
                                                          Faulty(faults, "incoming", incoming),
                                                          Faulty(faults, "storage", driver)))

    def play(self) -> None:
        actions_after = 0
        for action in self._actions:
            actions_after += self._faults.happened
            if actions_after > ACTIONS_AFTER:
                break
            try:
                self.act(action)
            except Killed:
                self.process.die()
                self._indexers[0].close()
                self.process = self._start()
        self.process.die()
        self.process = self._start()

    def act(self, action: str | int) -> None:
        if isinstance(action, int):
            self._post(self._posts[action])
        elif action == "delete":
            self.process.indexer.delete_metrics([DOOMED])
            self.ledger.ids.remove(DOOMED)
        else:
            round_ = "work" if action == "work" else "clean_up"
            try:
                self._do(lambda: getattr(self.process, round_)())
            except BackendUnavailable:
                getattr(self.process, round_)()    # the next one

    def _post(self, series) -> None:
        batch = make_measures(series, [(list(points), list(points.values())) for points in series.values()])
        happened = self._faults.happened
        try:
            self._do(lambda: self.process.incoming.write_measures(batch))
        except Killed:
            self.ledger.add(series, certain=False)
            raise
        except BackendUnavailable:
            assert self._faults.happened and not happened
            if self._faults.kind == "lost answer":
                self.ledger.add(series, certain=False)
        else:
            self.ledger.add(series)

    def _do(self, action) -> None:
        """Run an action; while it is frozen, another process does all the work there is."""
        if self._faults.kind != "freeze" or self._faults.happened:
            action()
            return
        outcome: list[BaseException] = []
        thread = threading.Thread(target=self._catch, args=(action, outcome))
        thread.start()
        try:
            while thread.is_alive() and not self._faults.frozen.is_set():
                thread.join(0.002)
            if self._faults.frozen.is_set():
                other = self._start(indexer=1)
                other.work()
                other.clean_up()
                other.die()
        finally:
            self._faults.released.set()
            thread.join(DEADLINE_S)
            if not self._faults.happened:
                self._faults.released.clear()
        if outcome:
            raise outcome[0]

    @staticmethod
    def _catch(action, outcome: list[BaseException]) -> None:
        try:
            action()
        except BaseException as e:
            outcome.append(e)

    def verify(self) -> None:
        self.process.work()
        self.ledger.verify(self.process)
        self.process.clean_up()
        self.ledger.verify(self.process)
        assert set() == self.process.list_stray_objects()
        assert [] == list_leftovers(self._directory)
        self.process.die()


@pytest.fixture(scope="module")
def disk() -> Iterator[pathlib.Path]:
    with make_disk() as disk:
        yield disk


@pytest.fixture(scope="module")
def indexers(disk) -> Iterator[list[Indexer]]:
    indexers = [Indexer(f"sqlite:///{disk}/data/{INDEX}") for _ in range(2)]
    yield indexers
    for indexer in indexers:
        indexer.close()


class Place(NamedTuple):
    """Where a fault may happen: at a step of a run that begins with action `first` of the script."""

    first: int
    step: Step


def make_run(disk, indexers, faults, first) -> Run:
    """Return a run on a disk as it was before an action."""
    copy_disk(indexers, disk / str(first), disk / "data")
    return Run(disk / "data", indexers, faults, first)


def copy_disk(indexers, source, target) -> None:
    for indexer in indexers:
        indexer.close()    # and SQLite merges its log into its file
    if target.exists():
        clear(target)
    shutil.copytree(source, target, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def places(disk, indexers) -> list[Place]:
    """Every step of a run without faults."""
    places = []
    with pytest.MonkeyPatch.context() as patch:
        hurry(patch)
        copy_disk(indexers, disk / "template", disk / "0")
        for number, action in enumerate(STEPS):
            first = max(0, number - ACTIONS_BEFORE)
            faults = Faults()
            run = make_run(disk, indexers, faults, first)
            for before in STEPS[first:number]:
                run.act(before)
            known = len(faults.steps)
            run.act(action)
            places += [Place(first, step) for step in faults.steps[known:]]
            run.process.die()
            copy_disk(indexers, disk / "data", disk / str(number + 1))
    return places


def test_script_takes_every_way(places):
    """The run that all others repeat has every kind of step that there is without faults."""
    names = {(place.step.layer, place.step.name) for place in places}
    assert names == {(layer, name) for calls in (WRITES, READS) for layer, names in calls.items() for name in names
                     if name != "ftruncate"}


@pytest.mark.parametrize(("layer", "kind"), KINDS)
def test_fault_at_every_step(disk, indexers, places, monkeypatch, layer, kind):
    """Wherever it happens: everything acknowledged is there once, nothing else is, and no rubbish stays."""
    hurry(monkeypatch)
    chosen = [place for place in places if place.step.layer == layer and place.step.name in KINDS[layer, kind]]
    assert chosen
    for place in chosen:
        faults = Faults(place.step, kind)
        run = make_run(disk, indexers, faults, place.first)
        try:
            run.play()
            assert faults.happened
            run.verify()
        except BaseException as e:
            e.add_note(f"{kind} at {place}")
            raise
