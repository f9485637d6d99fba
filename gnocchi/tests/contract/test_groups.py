"""Drivers that keep groups in a store of objects: each slice is taken once and in order, whatever a store shows."""

import contextlib
import json
import os
import threading
import time
import types
import unittest.mock
import uuid

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gnocchi.exceptions import BackendUnavailable, UnknownFormat
from gnocchi.incoming import group, group_index, group_reader, group_writer, keyed
from gnocchi.incoming.group import PREFIX, parse_key
from gnocchi.incoming.keyed import DAMAGED_PREFIX, KeyedDriver
from gnocchi.tests.backlog import drain, drain_all, list_series, make_batch, make_id
from gnocchi.tests.keyed import MemoryStore

SACKS = 2
#: The numbers of sacks that each writer cuts for.
WRITERS = (SACKS, SACKS, 1, 4)
READERS = 2
SOME_SACKS = st.sets(st.integers(0, SACKS - 1), min_size=1)


class Service(RuleBasedStateMachine):
    """Processes that write and read, in an order that nobody chose.

    What is posted is its number, `posted` says by whom for which sacks; a sack's `applied` lists what commits brought.
    """

    @initialize()
    def start(self):
        self.store = MemoryStore()
        self.writers = [KeyedDriver(self.store, sacks) for sacks in WRITERS]
        self.readers = [KeyedDriver(self.store, SACKS) for _ in range(READERS)]
        self.checkpoints = {sack: (0, {}) for sack in range(SACKS)}
        self.applied = {sack: [] for sack in range(SACKS)}
        self.slices = {}
        self.posted = []
        self.stored = set()
        self.hidden, self.away = set(), set()

    @rule(writer=st.sampled_from(range(len(WRITERS))), sacks=SOME_SACKS,
          fates=st.lists(st.sampled_from(["stored", "stored", "hidden", "away", "refused", "answer lost"]), min_size=1,
                         max_size=4))
    def post(self, writer, sacks, fates):
        for fate in fates:
            self.post_one(writer, sacks, fate)

    def post_one(self, writer, sacks, fate):
        number = len(self.posted)
        self.posted.append((self.writers[writer], sacks))
        before = set(self.store.objects)
        put = self.store.put

        def fail(key, data):
            if fate == "answer lost":
                put(key, data)
            raise BackendUnavailable("memory: cannot put")

        if fate in ("refused", "answer lost"):
            self.store.put = fail
        try:
            self.writers[writer].write_measures(make_batch(*[
                (make_id(sack, i), [(0, float(number))]) for sack in sorted(sacks) for i in (0, SACKS)]))
            self.stored.add(number)
        except BackendUnavailable:
            assert fate in ("refused", "answer lost")
        finally:
            self.store.put = put
        for shown_late, name in ((self.hidden, "hidden"), (self.away, "away")):
            if fate == name:
                shown_late.add(number)
                getattr(self.store, name).update(self.store.objects.keys() - before)

    @rule(reader=st.integers(0, READERS - 1), sacks=SOME_SACKS, measures_max=st.sampled_from([1, 6, 1000]))
    def read(self, reader, sacks, measures_max):
        checkpoints = {sack: self.checkpoints[sack] for sack in sorted(sacks)}
        found = self.readers[reader].read_backlogs({s: json.loads(json.dumps(c)) for s, (_, c) in checkpoints.items()},
                                                   measures_max)
        for sack, backlog in found.items():
            if backlog is not None:
                self.slices[reader, sack] = (checkpoints[sack][0], backlog)

    @rule(reader=st.integers(0, READERS - 1), sack=st.integers(0, SACKS - 1))
    def commit(self, reader, sack):
        """Of two that read from the same place one loses."""
        sequence, backlog = self.slices.pop((reader, sack), (None, None))
        if sequence == self.checkpoints[sack][0]:
            self.checkpoints[sack] = (sequence + 1, json.loads(json.dumps(backlog.checkpoint)))
            self.note(sack, backlog)

    @rule(reader=st.integers(0, READERS - 1), sacks=SOME_SACKS, measures_max=st.sampled_from([1, 6, 1000]))
    def process(self, reader, sacks, measures_max):
        self.read(reader, sacks, measures_max)
        for sack in sacks:
            self.commit(reader, sack)

    def note(self, sack, backlog):
        numbers = []
        for id, points in list_series(backlog.batch):
            assert id.int % SACKS == sack
            numbers += [int(value) for _, value in points if id == make_id(sack)]
        self.applied[sack] += numbers

    @rule(reader=st.integers(0, READERS - 1),
          deletes=st.sampled_from(["done", "listed still", "there still", "refused"]))
    def acknowledge(self, reader, deletes):
        before = dict(self.store.objects)
        if deletes == "refused":
            self.store.fail("delete")
        try:
            self.readers[reader].acknowledge({sack: c for sack, (_, c) in self.checkpoints.items()})
        except BackendUnavailable:
            assert deletes == "refused"
        finally:
            self.store.fail()
        for key in before.keys() - self.store.objects.keys():
            if deletes != "done":
                self.store.ghosts[key] = before[key] if deletes == "there still" else None

    @rule()
    def lay_ghosts(self):
        self.store.ghosts = {}

    @rule()
    def reveal(self):
        self.store.hidden, self.store.away = set(), set()

    @rule()
    def reveal_newest(self):
        """Of what cannot be read."""
        self.store.away = set(sorted(self.store.away)[:-1])

    @rule(reader=st.integers(0, READERS - 1))
    def restart_reader(self, reader):
        self.readers[reader] = KeyedDriver(self.store, SACKS)
        self.slices = {place: held for place, held in self.slices.items() if place[0] != reader}

    @rule(writer=st.sampled_from(range(len(WRITERS))))
    def restart_writer(self, writer):
        self.writers[writer] = KeyedDriver(self.store, WRITERS[writer])

    @rule(reader=st.integers(0, READERS - 1))
    def look(self, reader):
        """The figures tell of what was not applied."""
        if self.store.hidden or self.store.away or self.store.ghosts:
            return
        checkpoints = {sack: c for sack, (_, c) in self.checkpoints.items()}
        backlogs = self.readers[reader].list_backlogs(checkpoints)
        waiting = {sack: sum(sack in self.posted[n][1] and n not in self.applied[sack] for n in self.stored)
                   for sack in range(SACKS)}
        for sack, count in waiting.items():
            assert (backlogs[sack].bundles if sack in backlogs else 0) >= 2 * count
        report = self.readers[reader].report_backlog(checkpoints, details=True)
        assert report.bundles == sum(backlog.bundles for backlog in backlogs.values())
        assert sum(report.bundles_by_metric.values()) == report.bundles

    def teardown(self):
        if not hasattr(self, "store"):
            return
        self.reveal()
        driver = KeyedDriver(self.store, SACKS)
        while (waiting := driver.list_backlogs({sack: c for sack, (_, c) in self.checkpoints.items()})):
            for sack, backlog in driver.read_backlogs({s: self.checkpoints[s][1] for s in waiting}, 10).items():
                if backlog is not None:
                    self.checkpoints[sack] = (0, backlog.checkpoint)
                    self.note(sack, backlog)
        for sack in range(SACKS):
            applied = self.applied[sack]
            assert len(set(applied)) == len(applied), applied
            wanted = [n for n in sorted(self.stored) if sack in self.posted[n][1]]
            assert set(wanted) <= set(applied), (wanted, applied)
            place = {number: i for i, number in enumerate(applied)}
            for i, first in enumerate(wanted):
                for second in wanted[i + 1:]:
                    if self.is_ordered(first, second):
                        assert place[first] < place[second], (first, second, applied)
        self.store.ghosts = {}
        KeyedDriver(self.store, SACKS).acknowledge({sack: c for sack, (_, c) in self.checkpoints.items()})
        assert [] == list(self.store.list(PREFIX, ""))

    def is_ordered(self, first, second):
        """Return whether one is taken before another for sure.

        What no listing shows is looked for when the same process wrote something later, and all in between can be read.
        For each sack, that is; of groups that were cut for others it is not known which come before which.
        """
        if first not in self.away | self.hidden:
            return True
        writer = self.posted[first][0]
        between = self.away.intersection(range(first, second))
        return (first in self.hidden and writer._sacks == SACKS and self.posted[second][0] is writer
                and all(self.posted[number][0] is not writer for number in between))


TestService = Service.TestCase
TestService.settings = settings(max_examples=150, stateful_step_count=40, phases=(Phase.generate,),
                                suppress_health_check=[HealthCheck.too_slow])

#: So small that everything comes in pieces.
SMALL_LIMITS = {group_reader: {"FIRST_BYTES": 60, "HOLE_BYTES": 20, "BYTES_KEPT": 2000},
                group_index: {"GROUPS_AT_ONCE": 2, "GROUPS_PER_PIECE": 3, "ENTRIES_MAX": 6, "KEYS_LISTED_ALWAYS": 3},
                keyed: {"_ENTRIES_LOW": 2, "GROUPS_PER_SLICE": 3, "BUNDLES_PER_SLICE": 7, "_GROUPS_PER_STEP": 2}}


@contextlib.contextmanager
def small_limits():
    with contextlib.ExitStack() as patches:
        for module, limits in SMALL_LIMITS.items():
            patches.enter_context(unittest.mock.patch.multiple(module, **limits))
        yield


class ServiceWithSmallLimits(Service):

    def __init__(self):
        super().__init__()
        self.limits = contextlib.ExitStack()
        self.limits.enter_context(small_limits())

    def look(self, reader):
        """What is not known yet is not told of."""

    def read(self, reader, sacks, measures_max):
        # Nothing but what waits in other sacks may fit into memory.
        with contextlib.suppress(BackendUnavailable):
            super().read(reader, sacks, measures_max)

    def teardown(self):
        with self.limits:
            super().teardown()


TestServiceWithSmallLimits = ServiceWithSmallLimits.TestCase
TestServiceWithSmallLimits.settings = settings(TestService.settings, max_examples=100)


def process(driver, sacks, checkpoints, measures_max=1_000_000):
    """Commit a slice of each sack that waits, as workers do; return the series, by sack."""
    waiting = driver.list_backlogs(checkpoints)
    found = driver.read_backlogs({sack: checkpoints[sack] for sack in waiting}, measures_max) if waiting else {}
    taken = {sack: backlog for sack, backlog in found.items() if backlog is not None}
    checkpoints |= {sack: backlog.checkpoint for sack, backlog in taken.items()}
    driver.acknowledge(checkpoints)
    return {sack: list_series(backlog.batch) for sack, backlog in taken.items()}


def test_calls():
    """A request is one object, which is written, read and deleted once, whatever the number of its sacks."""
    store = MemoryStore()
    api, worker = KeyedDriver(store, 128), KeyedDriver(store, 128)
    checkpoints = {sack: {} for sack in range(128)}
    assert {} == process(worker, 128, checkpoints)
    assert [("list", 0)] * 2 + [("delete", 0)] == store.calls
    for request in range(3):
        api.write_measures(make_batch(*[(uuid.uuid4(), [(request, 1.0)]) for _ in range(1000)]))
    store.calls.clear()
    assert 3000 == sum(len(series) for series in process(worker, 128, checkpoints).values())
    assert {"list": 3, "get": 1, "delete": 1} == {
        name: sum(call == name for call, _ in store.calls) for name in ("list", "get", "delete")}
    assert (3, 3) == (store.count("get"), store.count("delete"))
    assert {} == store.objects


def test_long_backlog_in_pieces():
    """All of it is taken, in order, whatever is in memory."""
    store = MemoryStore()
    writer = KeyedDriver(store, 4)
    posted = {sack: [] for sack in range(4)}
    for i in range(80):
        for sack in {i % 4, 3 * i % 4}:
            posted[sack].append(i)
        writer.write_measures(make_batch(*[(make_id(sack), [(i, 1.0)]) for sack in {i % 4, 3 * i % 4}]))
    with small_limits(), unittest.mock.patch.object(group_index, "KEYS_MAX", 10):
        driver = KeyedDriver(store, 4)
        checkpoints = {sack: {} for sack in range(4)}
        read = {sack: [] for sack in range(4)}
        while store.objects:
            for sack, series in process(driver, 4, checkpoints).items():
                read[sack] += [points[0][0] for _, points in series]
    assert posted == read


def test_backlog_of_others_that_does_not_fit():
    """Who asks for a sack whose measures come behind all that fits is not told that there are none."""
    store = MemoryStore()
    driver = KeyedDriver(store, 4)
    for i in range(30):
        driver.write_measures(make_batch((make_id(3 if i > 20 else 1), [(i, 1.0)])))
    with small_limits(), pytest.raises(BackendUnavailable, match="more slices of other sacks wait"):
        driver.read_backlog(3, {}, 100)
    assert 9 == len(drain(driver, 3)[0])


def test_sacks_whose_measures_come_later():
    """While others have something to take they are left out, and not said to have nothing."""
    store = MemoryStore()
    writer = KeyedDriver(store, 4)
    for sack in (0, 0, 0, 0, 1, 1, 1, 3):
        writer.write_measures(make_batch((make_id(sack), [(1, 1.0)])))
    with small_limits():
        driver = KeyedDriver(store, 4)
        found = driver.read_backlogs({sack: {} for sack in range(4)}, 100)
        assert (([0], False)) == (list(found), found[0].complete)
    found = KeyedDriver(store, 4).read_backlogs({sack: {} for sack in range(4)}, 100)
    assert ([0, 1, 2, 3], None, True) == (sorted(found), found[2], found[3].complete)


def test_sack_that_is_far_behind():
    """The others go on, and what they have committed takes no memory."""
    store = MemoryStore()
    driver = KeyedDriver(store, 4)
    with small_limits(), unittest.mock.patch.object(group_index, "ENTRIES_MAX", 40):
        checkpoints = {sack: {} for sack in range(4)}
        for i in range(30):
            driver.write_measures(make_batch(*[(make_id(sack), [(i, 1.0)]) for sack in range(4)]))
            driver.list_backlogs(checkpoints)
            for sack in range(1, 4):
                (_, points), = list_series((backlog := driver.read_backlog(sack, checkpoints[sack], 100)).batch)
                assert [(i, 1.0)] == points
                checkpoints[sack] = backlog.checkpoint
    assert driver._index.entries_waiting < 40
    assert 30 == len(drain(driver, 0)[0])


def test_slices_of_large_groups(monkeypatch):
    """What is near to each other is read by one call, what is far is not read."""
    store = MemoryStore()
    batch = make_batch(*[(make_id(sack, i), [(i, 1.0)] * 50) for sack in range(16) for i in range(20)])
    KeyedDriver(store, 16).write_measures(batch)
    monkeypatch.setattr(group_reader, "FIRST_BYTES", 2000)
    driver = KeyedDriver(store, 16)
    driver.list_backlogs({0: {}})
    sizes = []
    get_many = store.get_many

    def note_sizes(ranges):
        sizes.extend(stop - start for _, start, stop in ranges)
        return get_many(ranges)

    monkeypatch.setattr(store, "get_many", note_sizes)
    size = 24 * 20 + 16 * 50 * 20
    assert 20 == len(list_series(driver.read_backlog(7, {}, 10).batch))
    assert [size] == sizes
    sizes.clear()
    monkeypatch.setattr(group_reader, "HOLE_BYTES", 3 * size)
    found = driver.read_backlogs({sack: {} for sack in (2, 5, 15)}, 10**6)
    assert [4 * size, size] == sizes
    assert {sack: [s for s in list_series(batch) if s[0].int % 16 == sack] for sack in found} == {
        sack: list_series(backlog.batch) for sack, backlog in found.items()}


def test_requests_that_wait_are_written_together():
    """While one is written, in the order in which they came; each is answered when it is stored."""
    store = MemoryStore()
    writing, go_on = threading.Event(), threading.Event()
    put = store.put

    def put_slowly(key, data):
        writing.set()
        go_on.wait()
        put(key, data)

    store.put = put_slowly
    driver = KeyedDriver(store, 1)
    threads = [threading.Thread(target=driver.write_measures, args=(make_batch((make_id(0), [(i, 1.0)])),))
               for i in range(6)]
    threads[0].start()
    writing.wait()
    for waiting, thread in enumerate(threads[1:], 1):
        thread.start()
        while len(driver._writer._waiting) < waiting:
            time.sleep(0.001)
    assert all(thread.is_alive() for thread in threads)
    go_on.set()
    for thread in threads:
        thread.join()
    assert 2 == len(store.objects)
    assert list(range(6)) == [points[0][0] for _, points in drain(driver, 0)[0]]


def test_groups_are_bounded(monkeypatch):
    """What is too much for one goes into the next; one request is never cut."""
    monkeypatch.setattr(group_writer, "MEASURES_PER_GROUP", 10)
    store = MemoryStore()
    driver = KeyedDriver(store, 1)
    writer = driver._writer
    writer._waiting.extend(group_writer._Request(make_batch((make_id(0), [(i, 1.0)] * 6))) for i in range(3))
    driver.write_measures(make_batch((make_id(0), [(3, 1.0)] * 30)))
    assert 4 == len(store.objects)
    assert [6, 6, 6, 30] == [len(points) for _, points in drain(driver, 0)[0]]


def test_failure_is_told_to_all_that_wait():
    """And to nobody else."""
    store = MemoryStore()
    driver = KeyedDriver(store, 2)
    store.fail("put")
    driver._writer._waiting.append(other := group_writer._Request(make_batch((make_id(1), [(1, 1.0)]))))
    with pytest.raises(BackendUnavailable, match="cannot put"):
        driver.write_measures(make_batch((make_id(0), [(1, 1.0)])))
    assert (True, "memory: cannot put") == (other.done, other.failure)
    store.fail()
    driver.write_measures(make_batch((make_id(0), [(2, 1.0)])))
    assert [(make_id(0), [(2, 1.0)])] == drain(driver, 0)[0]


def test_mistake_of_ours_holds_up_nobody():
    """It shows where it was made, and the next request is written."""
    store = MemoryStore()
    driver = KeyedDriver(store, 2)

    def mistake(name, keys):
        raise RuntimeError("a mistake")

    store.fails = mistake
    with pytest.raises(RuntimeError):
        driver.write_measures(make_batch((make_id(0), [(1, 1.0)])))
    store.fail()
    driver.write_measures(make_batch((make_id(0), [(2, 1.0)])))
    assert 1 == len(store.objects)


def test_child_of_a_fork_is_another_writer():
    """Else each would pass for the other, and what one wrote before be taken for what was taken."""
    store = MemoryStore()
    driver = KeyedDriver(store, 1)
    batch = make_batch((make_id(0), [(1, 1.0)]))
    driver.write_measures(batch)
    with unittest.mock.patch.object(group_writer, "os", types.SimpleNamespace(getpid=lambda: os.getpid() + 1)):
        driver.write_measures(batch)
    assert 2 == len({parse_key(key).writer for key in store.objects})


def test_writer_whose_clock_is_ahead():
    """What it wrote is taken, at once and in order."""
    store = MemoryStore()
    driver = KeyedDriver(store, 1)
    ahead = types.SimpleNamespace(time_ns=lambda: time.time_ns() + 3600 * 10**9)
    with unittest.mock.patch.object(group_writer, "time", ahead):
        for i in range(3):
            driver.write_measures(make_batch((make_id(0), [(i, 1.0)])))
    assert [0, 1, 2] == [points[0][0] for _, points in drain(driver, 0)[0]]


def test_group_deleted_while_it_is_read(monkeypatch):
    """All sacks had committed it: what is left is read, and nothing is damaged."""
    store = MemoryStore()
    driver = KeyedDriver(store, 1)
    for i in range(2):
        driver.write_measures(make_batch((make_id(0), [(i, 1.0)])))
    with small_limits():
        heads = KeyedDriver(store, 1)
        heads.list_backlogs({0: {}})
        gone = min(store.objects)
        del store.objects[gone]
        store.ghosts[gone] = None
        backlog = heads.read_backlog(0, {}, 100)
    assert [1.0] == [points[0][0] for _, points in list_series(backlog.batch)]
    assert 0 == heads.damaged_count


def test_damaged_slice(caplog):
    """It is left out, logged once, and copied; other sacks have theirs, and the group goes when these are done."""
    store = MemoryStore()
    driver = KeyedDriver(store, 2)
    driver.write_measures(make_batch((make_id(0), [(1, 1.0)]), (make_id(1), [(1, 1.0)])))
    driver.write_measures(make_batch((make_id(1), [(2, 1.0)])))
    key = min(store.objects)
    store.objects[key] = store.objects[key][:-1] + b"!"
    read, checkpoints = drain_all(driver, 2)
    assert {0: [(make_id(0), [(1, 1.0)])], 1: [(make_id(1), [(2, 1.0)])]} == read
    assert read == drain_all(driver, 2)[0]
    assert (1, 1) == (driver.damaged_count, caplog.text.count("Measures are lost to damage: group/"))
    copied = DAMAGED_PREFIX + key.removeprefix(PREFIX)
    driver.acknowledge(checkpoints)
    assert [copied] == list(store.objects)


@pytest.mark.parametrize("damage", [lambda data: data[:20] + b"?" + data[21:], lambda data: data[:30],
                                    lambda data: b""])
def test_damaged_head(damage, caplog):
    """Nobody can tell what was in it; it is copied, and stalls nobody."""
    store = MemoryStore()
    driver = KeyedDriver(store, 2)
    for i in range(2):
        driver.write_measures(make_batch((make_id(0), [(i, 1.0)])))
    key = min(store.objects)
    store.objects[key] = damage(store.objects[key])
    series, checkpoint = drain(driver, 0)
    assert [(make_id(0), [(1, 1.0)])] == series
    assert (1, 1) == driver.report_backlog({0: {}}, details=False)[:2]
    store.fail("put")
    driver.acknowledge({0: checkpoint, 1: {}})
    store.fail()
    driver.acknowledge({0: checkpoint, 1: {}})
    assert [DAMAGED_PREFIX + key.removeprefix(PREFIX)] == list(store.objects)
    assert 1 == driver.damaged_count


def test_group_of_a_later_release(monkeypatch, caplog):
    """It is no damage: it waits, and so does what comes after it, for a release that reads it."""
    store = MemoryStore()
    driver = KeyedDriver(store, 2)
    with monkeypatch.context() as patch:
        patch.setattr(group, "_VERSION", 2)
        driver.write_measures(make_batch((make_id(0), [(0, 1.0)])))
    driver.write_measures(make_batch((make_id(1), [(1, 1.0)])))
    written = dict(store.objects)
    for call in (lambda: drain_all(driver, 2), lambda: driver.acknowledge({0: {}, 1: {}}),
                 lambda: driver.list_backlogs({0: {}, 1: {}}), lambda: driver.report_backlog({0: {}, 1: {}}, False)):
        with pytest.raises(UnknownFormat, match=f"{min(written)} at byte 0: a group of format 2"):
            call()
    assert (written, 0, "") == (store.objects, driver.damaged_count, caplog.text)
    monkeypatch.setattr(group, "_VERSION", 2)
    del store.objects[max(written)]
    assert [(make_id(0), [(0, 1.0)])] == drain(KeyedDriver(store, 2), 0)[0]


def test_store_that_goes_while_groups_are_cut_again():
    """Those that were looked at before it went are not taken for such that nobody waits for, and deleted."""
    store = MemoryStore()
    writer = KeyedDriver(store, 1)
    posted = [(make_id(number % 2, number), [(number, 1.0)] * 9) for number in range(4)]
    for series in posted:
        writer.write_measures(make_batch(series))
    empty = {0: {}, 1: {}}
    with small_limits():
        for calls in range(1, 12):
            driver = KeyedDriver(store, 2)
            left = iter(range(calls))

            def fail(name, keys, left=left):
                if name == "get" and next(left, None) is None:
                    raise BackendUnavailable("memory: cannot get")

            store.fails = fail
            with contextlib.suppress(BackendUnavailable):
                driver.list_backlogs(empty)
            store.fails = lambda name, keys: None
            driver.acknowledge(empty)
            assert 4 == len(store.objects), f"after {calls} reads"
            read, _ = drain_all(driver, 2)
            assert sorted(posted) == sorted(series for sack in read.values() for series in sack)


@pytest.mark.parametrize("then", [1, 4, 16])
def test_groups_cut_for_another_number_of_sacks(then):
    """They are cut again by metric id; the figures are those of the sacks there are."""
    store = MemoryStore()
    series = [(make_id(sack, i), [(i, float(i))]) for i in range(3) for sack in range(16)]
    KeyedDriver(store, then).write_measures(make_batch(*series))
    driver = KeyedDriver(store, 4)
    empty = {sack: {} for sack in range(4)}
    assert dict.fromkeys(range(4), (12, 12)) == {
        sack: backlog[:2] for sack, backlog in driver.list_backlogs(empty).items()}
    assert (48, 48) == driver.report_backlog(empty, details=False)[:2]
    read, checkpoints = drain_all(driver, 4, 1)
    for sack in range(4):
        assert sorted(s for s in series if s[0].int % 4 == sack) == sorted(read[sack])
    driver.acknowledge({**checkpoints, 3: {}})
    assert 1 == len(store.objects)
    driver.acknowledge(checkpoints)
    assert {} == store.objects
