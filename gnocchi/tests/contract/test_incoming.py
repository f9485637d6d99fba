"""What every incoming driver must do; a driver's class gives only its set-up."""

import threading
import time
import uuid

import numpy
import pytest

from gnocchi.incoming import redis_streams
from gnocchi.incoming.batch import concat_batches
from gnocchi.incoming.file import FileDriver
from gnocchi.incoming.journal_index import JournalIndex
from gnocchi.incoming.keyed import KeyedDriver
from gnocchi.incoming.memory import MemoryDriver
from gnocchi.incoming.redis import RedisDriver
from gnocchi.incoming.s3 import S3Driver
from gnocchi.incoming.swift import SwiftDriver
from gnocchi.tests.backlog import drain, drain_all, list_series, make_batch, make_id
from gnocchi.tests.ceph import need_rados
from gnocchi.tests.keyed import MemoryStore

SACKS = 4
EMPTY = {sack: {} for sack in range(SACKS)}


class IncomingDriverContract:
    """One suite for all drivers."""

    @pytest.fixture
    def driver(self, tmp_path):
        raise NotImplementedError

    def test_nothing_waits(self, driver):
        """A new driver has no backlog anywhere."""
        assert driver.read_backlog(0, {}, 100) is None
        assert {} == driver.list_backlogs(EMPTY)
        assert (0, 0, None) == driver.report_backlog(EMPTY, details=False)
        assert (0, 0, {}) == driver.report_backlog(EMPTY, details=True)
        driver.acknowledge(EMPTY)
        driver.check()

    def test_upgrade_again(self, driver):
        """Upgrading loses nothing that waits."""
        driver.write_measures(make_batch((make_id(1), [(1, 1.0)])))
        driver.upgrade()
        assert [(make_id(1), [(1, 1.0)])] == drain(driver, 1)[0]

    def test_measures_go_to_the_sacks_of_their_metrics(self, driver):
        """A request over several sacks is read back whole, each sack its own metrics in posted order."""
        series = [(uuid.uuid4(), [(i, float(i)), (i + 1, -0.5)]) for i in range(50)]
        driver.write_measures(make_batch(*series))
        read, _ = drain_all(driver, SACKS)
        for sack in range(SACKS):
            assert [s for s in series if s[0].int % SACKS == sack] == read[sack]

    def test_every_value_comes_back_bit_for_bit(self, driver):
        """NaNs with payloads, infinities, -0.0, denormals and extreme times survive."""
        bits = numpy.array([0x7ff8000000000000, 0xfff8000000000001, 0x7ff0000000000001, 0x7ff0000000000000,
                            0xfff0000000000000, 0x8000000000000000, 0, 1, 0xffffffffffffffff], numpy.uint64)
        times = numpy.array([-2**63 + 1, 2**63 - 1, 0, -1, 1, 2, 3, 4, 5], numpy.int64).view("M8[ns]")
        batch = make_batch((make_id(2), [(0, 0.0)] * len(bits)))._replace(values=bits.view(float), timestamps=times)
        driver.write_measures(batch)
        read = driver.read_backlog(2, {}, 100).batch
        assert bits.tolist() == read.values.view(numpy.uint64).tolist()
        assert times.view(numpy.int64).tolist() == read.timestamps.view(numpy.int64).tolist()

    def test_array_types(self, driver):
        """A backlog has the types that its documentation names."""
        driver.write_measures(make_batch((make_id(0), [(1, 1.0)]), (make_id(1), [(1, 1.0)])))
        batch = driver.read_backlog(0, {}, 10).batch
        assert ["S16", "int64", "datetime64[ns]", "float64"] == [
            "S16" if array.dtype == "S16" else str(array.dtype) for array in batch]

    def test_no_metrics_is_no_request(self, driver):
        """An empty batch leaves no trace."""
        driver.write_measures(concat_batches([]))
        assert {} == driver.list_backlogs(EMPTY)

    def test_metric_without_measures_and_metric_named_twice(self, driver):
        """Both are legal, and each mention is a bundle."""
        series = [(make_id(1), [(5, 1.0)]), (make_id(1, 1), []), (make_id(1), [(5, 2.0), (4, 3.0)])]
        driver.write_measures(make_batch(*series))
        assert series == drain(driver, 1)[0]
        assert (2, 3, {str(make_id(1)): 2, str(make_id(1, 1)): 1}) == driver.report_backlog(EMPTY, details=True)

    def test_ids_ending_in_zero_bytes(self, driver):
        """numpy strips NUL bytes off items; ids keep theirs."""
        batch = make_batch((uuid.UUID(int=1 << 120), [(1, 1.0)]), (uuid.UUID(int=0), [(1, 2.0)]))
        driver.write_measures(batch)
        assert list_series(batch) == drain(driver, 0)[0]
        assert set(driver.report_backlog(EMPTY, details=True).bundles_by_metric) == {
            str(uuid.UUID(int=1 << 120)), str(uuid.UUID(int=0))}

    def test_later_requests_come_later(self, driver):
        """Of two measures with one timestamp the later posted one follows."""
        for value in range(20):
            driver.write_measures(make_batch((make_id(3), [(7, float(value))])))
        assert [(make_id(3), [(7, float(value))]) for value in range(20)] == drain(driver, 3)[0]

    @pytest.mark.parametrize("measures_max", [1, 2, 3, 7, 50])
    def test_slices_are_prefixes_of_bounded_size(self, driver, measures_max):
        """Whatever the size of a slice, each measure comes once, in order, and only the last slice is complete."""
        for i in range(25):
            driver.write_measures(make_batch((make_id(1), [(i, float(i))] * 2), (make_id(2), [(i, 0.5)])))
        read, checkpoint, complete = [], {}, False
        while not complete:
            backlog = driver.read_backlog(1, checkpoint, measures_max)
            assert 0 < len(backlog.batch.values) <= max(2, measures_max)
            read += list_series(backlog.batch)
            checkpoint, complete = backlog.checkpoint, backlog.complete
            assert complete == (len(read) == 25)
        assert [(make_id(1), [(i, float(i))] * 2) for i in range(25)] == read
        assert driver.read_backlog(1, checkpoint, measures_max) is None

    def test_request_larger_than_a_slice(self, driver):
        """It is taken whole: there is always progress."""
        driver.write_measures(make_batch((make_id(0), [(i, 1.0) for i in range(100)])))
        driver.write_measures(make_batch((make_id(0), [(1, 2.0)])))
        backlog = driver.read_backlog(0, {}, 10)
        assert (100, 1, False) == (len(backlog.batch.values), backlog.bundles, backlog.complete)

    def test_read_backlogs(self, driver):
        """Several sacks at once: each gets what it would get alone; what there is no room for is left out."""
        for i in range(8):
            driver.write_measures(make_batch(*[(make_id(sack, i), [(i, sack + 0.5)] * 2) for sack in (0, 1, 3)]))
        found = driver.read_backlogs({3: {}, 2: {}, 0: {}, 1: driver.read_backlog(1, {}, 6).checkpoint}, 1000)
        assert [3, 2, 0, 1] == list(found)
        assert found[2] is None
        for sack, first in ((3, 0), (0, 0), (1, 3)):
            expected = [(make_id(sack, i), [(i, sack + 0.5)] * 2) for i in range(first, 8)]
            assert expected == list_series(found[sack].batch)
            assert (8 - first, True) == (found[sack].bundles, found[sack].complete)
            assert driver.read_backlog(sack, found[sack].checkpoint, 10) is None
        few = driver.read_backlogs({2: {}, 1: {}, 0: {}, 3: {}}, 20)
        assert [2, 1, 0] == list(few)
        assert [None, (8, True), (2, False)] == [
            backlog and (backlog.bundles, backlog.complete) for backlog in few.values()]

    def test_uncommitted_slice_is_read_again(self, driver):
        """Reading frees nothing, nor does what other sacks commit."""
        driver.write_measures(make_batch((make_id(0), [(1, 1.0)]), (make_id(1), [(1, 2.0)])))
        _, checkpoint = drain(driver, 0)
        drain(driver, 1)
        driver.acknowledge({**EMPTY, 0: checkpoint})
        assert driver.read_backlog(0, checkpoint, 10) is None
        assert [(make_id(1), [(1, 2.0)])] == drain(driver, 1)[0]

    def test_acknowledged_measures_are_gone(self, driver):
        """After every sack has committed nothing waits, and what is posted then is all there is."""
        for i in range(10):
            driver.write_measures(make_batch((make_id(i % SACKS, i), [(i, 1.0)])))
        _, checkpoints = drain_all(driver, SACKS)
        driver.acknowledge(checkpoints)
        assert {} == driver.list_backlogs(checkpoints)
        driver.write_measures(make_batch((make_id(3), [(99, 9.0)])))
        assert [[], [], [], [(make_id(3), [(99, 9.0)])]] == [
            drain(driver, sack, checkpoints[sack])[0] for sack in range(SACKS)]

    def test_list_backlogs(self, driver):
        """Bundles, measures and age of what waits, for the sacks asked for."""
        driver.write_measures(make_batch((make_id(0), [(1, 1.0)] * 3), (make_id(0, 1), [(1, 1.0)]),
                                         (make_id(2), [(1, 1.0)] * 5)))
        driver.write_measures(make_batch((make_id(2), [(1, 1.0)])))
        backlogs = driver.list_backlogs(EMPTY)
        assert {0: (2, 4), 2: (2, 6)} == {sack: backlog[:2] for sack, backlog in backlogs.items()}
        assert backlogs[0].oldest_ns == backlogs[2].oldest_ns
        assert {0} == set(driver.list_backlogs({0: {}, 1: {}}))
        first = driver.read_backlog(2, {}, 5)
        later = driver.list_backlogs({2: first.checkpoint})[2]
        assert (1, 1) == later[:2]
        assert backlogs[2].oldest_ns < later.oldest_ns

    def test_report_backlog(self, driver):
        """Distinct metrics are counted over all sacks and requests, what is committed is left out."""
        for _ in range(3):
            driver.write_measures(make_batch((make_id(0), [(1, 1.0)] * 3), (make_id(1), [(1, 1.0)])))
        driver.write_measures(make_batch((make_id(1, 1), [(1, 1.0)])))
        assert (3, 7, None) == driver.report_backlog(EMPTY, details=False)
        _, checkpoint = drain(driver, 0)
        assert (2, 4, {str(make_id(1)): 3, str(make_id(1, 1)): 1}) == driver.report_backlog(
            {**EMPTY, 0: checkpoint}, details=True)

    def test_position_changes_with_each_request(self, driver):
        """It stays while nothing happens; a driver that cannot tell it never does."""
        seen = [driver.get_position()]
        if seen[0] is None:
            driver.write_measures(make_batch((make_id(0), [(1, 1.0)])))
            assert driver.get_position() is None
            return
        assert seen[0] == driver.get_position()
        for _ in range(3):
            driver.write_measures(make_batch((make_id(0), [(1, 1.0)])))
            seen.append(driver.get_position())
            assert seen[-1] == driver.get_position()
        assert all(a != b for a, b in zip(seen, seen[1:], strict=False))

    def test_many_threads(self, driver):
        """Requests of many threads, read while they are written: each once, each thread's in its order."""
        threads, requests = 8, 40

        def write(thread):
            for i in range(requests):
                driver.write_measures(make_batch(*[(make_id(sack, thread), [(i, float(thread))])
                                                   for sack in range(SACKS)]))

        writers = [threading.Thread(target=write, args=(n,)) for n in range(threads)]
        for writer in writers:
            writer.start()
        read, checkpoints = {sack: [] for sack in range(SACKS)}, dict(EMPTY)
        while True:
            finished = not any(writer.is_alive() for writer in writers)
            for sack in range(SACKS):
                series, checkpoints[sack] = drain(driver, sack, checkpoints[sack], 10)
                read[sack] += series
            driver.acknowledge(checkpoints)
            if finished:
                break
        for sack in range(SACKS):
            for thread in range(threads):
                assert list(range(requests)) == [points[0][0] for i, points in read[sack]
                                                 if i == make_id(sack, thread)]


class TestMemoryDriver(IncomingDriverContract):

    @pytest.fixture
    def driver(self, tmp_path):
        return MemoryDriver(SACKS)

    def test_checkpoint_of_another_process(self, driver):
        """It names measures that are gone; what waits here is not skipped."""
        other = MemoryDriver(SACKS)
        for _ in range(5):
            other.write_measures(make_batch((make_id(0), [(1, 1.0)])))
        _, checkpoint = drain(other, 0)
        driver.write_measures(make_batch((make_id(0), [(2, 2.0)])))
        assert [(make_id(0), [(2, 2.0)])] == drain(driver, 0, checkpoint)[0]


class TestFileDriver(IncomingDriverContract):

    @pytest.fixture
    def driver(self, tmp_path):
        driver = FileDriver(str(tmp_path), SACKS)
        driver.upgrade()
        yield driver
        driver.close()


class TestFileDriverWithoutSync(TestFileDriver):

    @pytest.fixture
    def driver(self, tmp_path):
        driver = FileDriver(str(tmp_path), SACKS, "os")
        driver.upgrade()
        yield driver
        driver.close()


class TestFileDriverWithSmallJournals(TestFileDriver):
    """Nearly every request begins a journal."""

    @pytest.fixture
    def driver(self, tmp_path):
        driver = FileDriver(str(tmp_path), SACKS, journal_bytes_max=4500)
        driver.upgrade()
        yield driver
        driver.close()


class TestFileDriverReadElsewhere(TestFileDriver):
    """One process writes, another one reads, as in production."""

    @pytest.fixture
    def driver(self, tmp_path):
        reader, writer = FileDriver(str(tmp_path), SACKS), FileDriver(str(tmp_path), SACKS)
        writer.upgrade()
        reader.write_measures = writer.write_measures
        yield reader
        reader.close()
        writer.close()


class TestRedisDriver(IncomingDriverContract):

    @pytest.fixture
    def driver(self, empty_redis):
        driver = RedisDriver(empty_redis, SACKS)
        driver.upgrade()
        yield driver
        driver.close()


class TestRedisDriverReadInPieces(TestRedisDriver):
    """No answer of the server holds more than a few entries."""

    @pytest.fixture(autouse=True)
    def pieces(self, monkeypatch):
        for name, value in {"ENTRIES_AT_ONCE": 24, "MEASURES_AT_ONCE": 4, "ENTRIES_PER_LISTING": 2,
                            "MEASURES_PER_LISTING": 3, "MEASURES_PER_ANSWER": 3}.items():
            monkeypatch.setattr(redis_streams, name, value)


def test_requests_that_follow_on_each_other_while_journals_are_looked_at(tmp_path, monkeypatch):
    """A request that was sent after another one was answered, by another process, is not read before that one."""
    reader, first, second = (FileDriver(str(tmp_path), SACKS) for _ in range(3))
    reader.upgrade()
    for driver, value in ((first, 0.0), (second, 1.0)):
        driver.write_measures(make_batch((make_id(0), [(value, value)])))
    refresh, seen = JournalIndex.refresh, []

    def write_behind(index):
        refresh(index)
        seen.append(index.path)
        if len(seen) == 1:      # the first journal was looked at, the second was not
            first.write_measures(make_batch((make_id(0), [(2.0, 2.0)])))
            second.write_measures(make_batch((make_id(0), [(3.0, 3.0)])))

    monkeypatch.setattr(JournalIndex, "refresh", write_behind)
    read, checkpoint, complete = [], {}, False
    while not complete:
        backlog = reader.read_backlog(0, checkpoint, 100)
        read += backlog.batch.values.tolist()
        checkpoint, complete = backlog.checkpoint, backlog.complete
    assert [0.0, 1.0, 2.0, 3.0] == read
    for driver in (reader, first, second):
        driver.close()


def test_stamps_of_a_clock_that_was_set_back(tmp_path, monkeypatch):
    """What was posted before is read all the same, and at once."""
    driver = FileDriver(str(tmp_path), SACKS)
    driver.upgrade()
    driver.write_measures(make_batch((make_id(0), [(1, 1.0)])))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    driver.write_measures(make_batch((make_id(0), [(2, 2.0)])))
    backlog = driver.read_backlog(0, {}, 100)
    assert [1.0, 2.0] == backlog.batch.values.tolist()
    driver.close()


class TestFileDriverWithLongBacklog(TestFileDriverReadElsewhere):
    """The reader keeps nothing of its index in memory."""

    @pytest.fixture
    def driver(self, tmp_path):
        reader = FileDriver(str(tmp_path), SACKS, entries_max=0)
        writer = FileDriver(str(tmp_path), SACKS, journal_bytes_max=6000)
        writer.upgrade()
        reader.write_measures = writer.write_measures
        yield reader
        reader.close()
        writer.close()


class TestKeyedDriver(IncomingDriverContract):

    @pytest.fixture
    def driver(self, tmp_path):
        return KeyedDriver(MemoryStore(), SACKS)


class TestKeyedDriverReadElsewhere(IncomingDriverContract):
    """One process writes, another one reads, as in production."""

    @pytest.fixture
    def driver(self, tmp_path):
        store = MemoryStore()
        reader, writer = KeyedDriver(store, SACKS), KeyedDriver(store, SACKS)
        reader.write_measures = writer.write_measures
        return reader


class TestCephDriver(IncomingDriverContract):
    """One process writes, another one reads, as in production."""

    @pytest.fixture
    def driver(self, ceph, ceph_pool):
        need_rados()
        from gnocchi.incoming.ceph import CephDriver
        reader, writer = (CephDriver(ceph_pool, "", "", "", "30", str(ceph.client_config), SACKS) for _ in range(2))
        writer.upgrade()
        reader.write_measures = writer.write_measures
        yield reader
        store = reader._store
        store.delete_many(list(store.list("", "")))
        reader.close()
        writer.close()


def empty(driver):
    """Delete all groups of a driver that keeps them, and close it."""
    driver._store.delete_many(list(driver._store.list("", "")))
    driver.close()


class TestSwiftDriver(IncomingDriverContract):

    @pytest.fixture
    def driver(self, swift):
        driver = SwiftDriver(SACKS, "contract", True, 4, **swift.arguments)
        driver.upgrade()
        yield driver
        empty(driver)


class TestS3Driver(IncomingDriverContract):

    @pytest.fixture
    def driver(self, gateway):
        driver = S3Driver(SACKS, "contract", 4, **gateway.arguments)
        driver.upgrade()
        yield driver
        empty(driver)
