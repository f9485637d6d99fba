"""Thousands of short lives of metricd in simulated time, each under a seed of its own.

Workers (the real Processor with its Schedule and Membership), janitors and readers share a catalogue, a store
and a coordination service, all of which fail; processes freeze and die.  Then faults stop: every sack must be
drained in time, what was acknowledged must be there once, and no object may stay that nothing refers to.

A seed that fails is named; GNOCCHI_TEST_SEED=<seed> runs it alone.
"""

import datetime
import logging
import os
import pathlib
import random
import shutil
import types
import uuid
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

from gnocchi import metricd
from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import memory as memory_incoming
from gnocchi.indexer import packs as indexer_packs
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing import janitor, orphans, schedule, statistics
from gnocchi.processing.life_cycle import NEVER, Activity
from gnocchi.storage import merge
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.crash.ledger import MINUTE, POLICY, START, Ledger
from gnocchi.tests.crash.machine import INDEX, METRICS, SACKS, make_disk
from gnocchi.tests.crash.memory_index import MemoryIndex
from gnocchi.tests.crash.simulation import (
    FREEZE_S_MAX,
    LEASE_S,
    CoordinationService,
    SimulatedCoordinator,
    Simulation,
    Task,
)
from gnocchi.tests.engine import Engine, make_measures

SEEDS = 2000
#: Seeds that are run on SQLite, to see that the catalogue in memory is like the real one.
SEEDS_ON_SQLITE = 12

FAULTY_S = 22.0
POST_S = 2.0
READ_S = 3.0
CLEANUP_S = 10.0
GRACE_S = 20.0
#: From the end of the faults until nothing may be left: sleepers wake, leases end, starving sacks are taken over.
DRAIN_S = FREEZE_S_MAX + LEASE_S + 60.0

#: Deleted on the way.
DOOMED = METRICS[4]


class Life:
    """One service under one seed."""

    def __init__(self, seed: int, index: Any) -> None:
        self.simulation = simulation = Simulation(seed)
        self._rng = simulation.rng
        for module in (metricd, memory_incoming, orphans, statistics):
            module.time = simulation.clock
        self._index = index(simulation)
        self._incoming = memory_incoming.MemoryDriver(SACKS)
        self._driver = MemoryDriver()
        self._service = CoordinationService(simulation, self._rng.choice(CoordinationService.KINDS))
        self._conf = types.SimpleNamespace(metricd=types.SimpleNamespace(
            metric_processing_delay=self._rng.choice((1.0, 4.0)), greedy=self._rng.random() < 0.5,
            processing_replicas=self._rng.choice((1, 2, 3))))
        self.ledger = Ledger(METRICS)
        self._versions: dict[tuple, list[float]] = {}
        self._done = 0
        self.posters = 0

    def start(self) -> None:
        simulation = self.simulation
        if self._service.kind == "files" and self._rng.random() < 0.5:
            self._add_ghost()
        for number in range(self._rng.choice((1, 2, 3))):
            simulation.start(f"worker-{number}", self._work)
        for number in range(self._rng.choice((1, 2))):
            simulation.start(f"janitor-{number}", self._clean_up)
        for number, metrics in enumerate((METRICS[:3], METRICS[3:])):
            self.posters += 1
            simulation.start(f"poster-{number}", lambda task, metrics=metrics: self._post(metrics), mortal=False)
        simulation.start("reader", self._read, mortal=False)

    def _add_ghost(self) -> None:
        """A member that hangs for ever: it keeps its place in the ring, and does nothing."""
        task = Task("ghost", lambda task: None, mortal=False)
        ghost = SimulatedCoordinator(self._service, task)
        self._service.members[ghost.member_id] = task.session
        self._service.holders[b"member-" + ghost.member_id] = task.session

    def _connect(self, task: Task) -> types.SimpleNamespace:
        """Return a new process's back ends."""
        wrap = self.simulation.wrap
        return types.SimpleNamespace(
            incoming=wrap(self._incoming), indexer=wrap(self._index), store=Store(wrap(self._driver), 1 << 20),
            coordinator=SimulatedCoordinator(self._service, task), activity=Activity(NEVER))

    def _work(self, task: Task) -> None:
        worker = metricd.Processor(0, self._conf)
        worker._backends = self._connect(task)
        self._repeat(worker.run_round, lambda: worker.delay_s, lambda: worker.errors)

    def _clean_up(self, task: Task) -> None:
        backends = self._connect(task)
        cleaner = janitor.Janitor(backends.incoming, backends.indexer, backends.store, backends.coordinator, 10,
                                  lambda: False)
        self._repeat(cleaner.clean_up, lambda: CLEANUP_S, lambda: cleaner.counters["errors"])

    def _repeat(self, run_round, get_delay, count_errors) -> None:
        """Do as metricd.Job.run does."""
        while True:
            try:
                run_round()
                delay = get_delay()
            except BackendUnavailable:
                delay = metricd.RETRY_S
            assert not count_errors(), "an unexpected exception, see the log"
            self.simulation.sleep(delay)

    def _post(self, metrics: list[uuid.UUID]) -> None:
        """Post new measures, and sometimes the last ones again with other values, until faults stop."""
        incoming = self.simulation.wrap(self._incoming)
        minute, value = 0, 1000.0 * (1 + METRICS.index(metrics[0]))
        while self.simulation.faulty:
            if DOOMED in metrics and minute > 8:
                self._delete_doomed()
                metrics = [metric for metric in metrics if metric != DOOMED]
            first = minute - (minute > 0 and self._rng.random() < 0.3)
            minute += self._rng.choice((1, 1, 1, 7))
            series: dict[uuid.UUID, dict[int, float]] = {}
            for metric in self._rng.sample(metrics, self._rng.randint(1, len(metrics))):
                points = series[metric] = {}
                for i in range(first, minute):
                    value += 1.0
                    points[START + i * MINUTE] = value
                    self._versions.setdefault((metric, START + i * MINUTE), []).append(value)
            batch = make_measures(series, [(list(points), list(points.values())) for points in series.values()])
            self._insist(lambda batch=batch: incoming.write_measures(batch))
            self.ledger.add(series)
            self.simulation.sleep(self._rng.random() * 2 * POST_S)
        self.posters -= 1

    def _delete_doomed(self) -> None:
        if DOOMED in self.ledger.ids:
            self.ledger.ids.remove(DOOMED)
            self._index.delete_metrics([DOOMED])

    def _insist(self, action) -> None:
        """Do as a client does: the same again, until it is acknowledged."""
        while True:
            try:
                action()
                return
            except BackendUnavailable:
                self.simulation.sleep(0.1)

    def _read(self, task: Task) -> None:
        """Look at metrics: values that were posted, and never older ones than seen before."""
        index, store = self.simulation.wrap(self._index), Store(self.simulation.wrap(self._driver), 1 << 16)
        engine = Engine(index, None, store, SACKS)
        seen: dict[tuple, int] = {}
        while self.simulation.faulty:
            metric = self._rng.choice([metric for metric in METRICS if metric != DOOMED])
            try:
                found = dict(engine.read(metric, "sum", granularities=(numpy.timedelta64(60, "s"),))[60.0])
            except BackendUnavailable:
                found = {}
            for when, value in found.items():
                place = (metric, when)
                version = self._versions[place].index(value)    # else it is invented
                assert version >= seen.get(place, 0), f"{place}: {value} after a later one"
                seen[place] = version
            newest = max((when for m, when in seen if m == metric), default=0)
            missing = [when for m, when in seen if m == metric and when not in found and when > newest - 30 * MINUTE]
            assert not found or not missing, f"{metric}: {missing} were there before"
            self.simulation.sleep(self._rng.random() * 2 * READ_S)

    def run(self) -> None:
        simulation = self.simulation
        end = simulation.now + FAULTY_S
        self.start()
        simulation.run(lambda: simulation.now >= end, end + FREEZE_S_MAX)
        simulation.faulty = False
        simulation.run(lambda: not self.posters, simulation.now + FREEZE_S_MAX)
        simulation.run(self._is_drained, simulation.now + DRAIN_S)
        engine = Engine(self._index, self._incoming, Store(self._driver, 0), SACKS)
        self.ledger.verify(engine, methods=("count",))
        simulation.run(self._is_clean, simulation.now + FREEZE_S_MAX + LEASE_S + GRACE_S + 8 * CLEANUP_S)
        engine.store = Store(self._driver, 0)
        self.ledger.verify(engine)
        assert [] == self._index.list_parked()

    def _is_drained(self) -> bool:
        return not self._incoming.list_backlogs({sack.number: sack.checkpoint for sack in self._index.list_sacks()})

    def _is_clean(self) -> bool:
        """Whether there is nothing left for a janitor to do."""
        stored = list(self._driver.list(""))
        named = self._index.list_known_objects(stored)
        garbage = self._index.list_collectable_garbage(0, 1000)
        return len(stored) == len(named) and not garbage and not self._index.list_deleted_metrics(10)


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    """Short grace periods, small hash rings, merges of two blocks."""
    for name, value in (("GARBAGE_GRACE_S", GRACE_S), ("ORPHAN_GRACE_S", GRACE_S), ("ROUNDS_PER_SEARCH", 2)):
        monkeypatch.setattr(janitor, name, value)
    monkeypatch.setattr(merge, "FAN_IN", 2)
    monkeypatch.setattr(schedule, "RING_PARTITIONS", 8)
    for module in (metricd, memory_incoming, orphans, statistics):
        monkeypatch.setattr(module, "time", module.time)    # each life sets its own
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)


def choose_seeds(count: int) -> Iterator[int]:
    chosen = os.environ.get("GNOCCHI_TEST_SEED")
    if chosen is not None:
        return iter([int(chosen)])
    return iter(random.sample(range(2**32), count))


def run_life(seed: int, index: Any) -> None:
    life = Life(seed, index)
    state = random.getstate()
    random.seed(seed)    # whatever draws from the module's own generator is told by the seed, too
    try:
        life.run()
    except BaseException as e:
        e.add_note(f"GNOCCHI_TEST_SEED={seed}\n" + "\n".join(life.simulation.events[-30:]))
        raise
    finally:
        random.setstate(state)


def test_in_memory():
    """2,000 lives, on a catalogue in memory."""
    def make_index(simulation: Simulation) -> MemoryIndex:
        index = MemoryIndex(SACKS, simulation.clock)
        index.add_metrics(POLICY, METRICS)
        return index

    for seed in choose_seeds(SEEDS):
        run_life(seed, make_index)


@pytest.fixture
def disk() -> Iterator[pathlib.Path]:
    with make_disk() as disk:
        yield disk


def test_on_sqlite(disk, monkeypatch):
    """Some lives on the real index."""
    indexer = Indexer(f"sqlite:///{disk}/data/{INDEX}")

    def make_index(simulation: Simulation) -> Indexer:
        indexer.close()
        shutil.copytree(disk / "template", disk / "data", dirs_exist_ok=True)
        epoch = datetime.datetime(2026, 1, 1)
        monkeypatch.setattr(indexer_packs, "utcnow", lambda: epoch + datetime.timedelta(seconds=simulation.now))
        return indexer

    for seed in choose_seeds(SEEDS_ON_SQLITE):
        run_life(seed, make_index)
    indexer.close()
