"""A long backlog: the index of journals goes to tables beside them, and reading it is as if it were in memory."""

import os
import random

import numpy
import pytest

from gnocchi.incoming import IncomingDriver, slice_table
from gnocchi.incoming import file as incoming_file
from gnocchi.incoming.file import FileDriver
from gnocchi.tests.backlog import drain_all, list_series, make_batch, make_id

SACKS = 4
EMPTY = {sack: {} for sack in range(SACKS)}


@pytest.fixture
def make_driver(tmp_path):
    drivers = []

    def make(**options):
        driver = FileDriver(str(tmp_path), options.pop("sacks", SACKS), "os", **options)
        driver.upgrade()
        drivers.append(driver)
        return driver

    yield make
    for driver in drivers:
        driver.close()


def list_files(driver, suffix):
    return sorted(name for name in os.listdir(driver.directory) if name.endswith(suffix))


def list_tables(driver):
    return list_files(driver, slice_table.TABLE_SUFFIX)


def write_some(driver, requests, sacks=range(SACKS), first=0):
    for i in range(first, first + requests):
        driver.write_measures(make_batch(*[(make_id(sack, 1), [(i, float(i))]) for sack in sacks]))


def count_index_bytes(driver):
    """Return the memory that the arrays of all indexes take, each counted once."""
    arrays = {}
    for index in driver._indexes.values():
        for parts in index._entries.values():
            for part in parts:
                base = part if part.base is None else part.base
                arrays[id(base)] = base
        if index._table is not None:
            arrays[id(index._table._rows)] = index._table._rows
    return sum(array.nbytes for array in arrays.values())


def same_backlog(a, b):
    if a is None or b is None:
        return a is b
    return list_series(a.batch) == list_series(b.batch) and a[1:] == b[1:]


def test_memory_of_the_index_is_bounded(make_driver):
    """Of 12,000 slices no more than 200 are in memory, beside a directory for each journal; all are read."""
    writer = make_driver(journal_bytes_max=20_000)
    batch = make_batch(*[(make_id(sack, 1), [(1, 1.0)]) for sack in range(SACKS)])
    for _ in range(3000):
        writer.write_measures(batch)
    writer.close()
    reader = make_driver(entries_max=200)
    backlogs = reader.list_backlogs(EMPTY)
    assert [(3000, 3000)] * SACKS == [backlogs[sack][:2] for sack in range(SACKS)]
    journals = len(list_files(reader, ".journal"))
    assert journals > 20
    most = 200 * slice_table.ENTRY.itemsize + journals * SACKS * slice_table._ROW.itemsize
    assert 0 < count_index_bytes(reader) <= most
    read, checkpoints = drain_all(reader, SACKS)
    assert [3000] * SACKS == [len(read[sack]) for sack in range(SACKS)]
    assert count_index_bytes(reader) <= most
    reader.acknowledge(checkpoints)
    assert [] == os.listdir(reader.directory)


def test_growing_journal_is_bounded(make_driver):
    """What a living writer adds goes to its journal's table again and again."""
    writer, reader = make_driver(), make_driver(entries_max=100)
    for i in range(50):
        write_some(writer, 10, first=10 * i)
        assert (10 * (i + 1),) * 2 == reader.list_backlogs(EMPTY)[0][:2]
        assert sum(index.kept for index in reader._indexes.values()) <= 100
    assert 1 == len(list_tables(reader))
    read, _ = drain_all(reader, SACKS)
    assert list(range(500)) == [points[0][0] for _, points in read[3]]


def test_slices_have_few_bundles(make_driver, monkeypatch):
    """Requests without measures fill a slice too."""
    monkeypatch.setattr(incoming_file, "BUNDLES_PER_SLICE", 10)
    driver = make_driver(journal_bytes_max=5000)
    for _ in range(35):
        driver.write_measures(make_batch((make_id(0), [])))
    sizes, checkpoint = [], {}
    while (backlog := driver.read_backlog(0, checkpoint, 1000)) is not None:
        sizes.append((backlog.bundles, backlog.complete))
        checkpoint = backlog.checkpoint
    assert [(10, False), (10, False), (10, False), (5, True)] == sizes


def test_table_of_another_process_is_used(make_driver):
    """Who finds a table does not look at the frames before its end."""
    writer, first = make_driver(), make_driver(entries_max=0)
    write_some(writer, 100)
    first.list_backlogs(EMPTY)
    second = make_driver()
    write_some(writer, 7, first=100)
    assert (107,) * 2 == second.list_backlogs(EMPTY)[2][:2]
    assert [7 * SACKS] == [index.kept for index in second._indexes.values()]
    read, _ = drain_all(second, SACKS)
    assert list(range(107)) == [points[0][0] for _, points in read[2]]


def test_longer_table_of_another_process_is_used(make_driver):
    """A process that keeps a shorter one goes on with the one in its place, also in the middle of reading."""
    writer, first, second = make_driver(), make_driver(entries_max=0), make_driver(entries_max=0)
    write_some(writer, 10)
    second.list_backlogs(EMPTY)
    write_some(writer, 10, first=10)
    first.list_backlogs(EMPTY)
    half = second.read_backlog(1, {}, 5)
    assert list(range(5)) == [points[0][0] for _, points in list_series(half.batch)]
    write_some(writer, 10, first=20)
    first.list_backlogs(EMPTY)
    read, _ = drain_all(second, SACKS)
    assert list(range(30)) == [points[0][0] for _, points in read[1]]


@pytest.mark.parametrize("table_gone", [False, True])
def test_going_back_behind_what_was_forgotten(make_driver, table_gone):
    """An index restored from a backup gets everything again, whatever tables were written meanwhile."""
    writer, driver = make_driver(), make_driver(entries_max=30)
    write_some(writer, 5)
    _, checkpoints = drain_all(driver, SACKS)
    driver.acknowledge(checkpoints)
    write_some(writer, 20, first=5)
    driver.list_backlogs(checkpoints)
    [table] = list_tables(driver)
    if table_gone:
        os.unlink(os.path.join(driver.directory, table))
    for reader in (driver, make_driver()):
        read, _ = drain_all(reader, SACKS)
        assert list(range(25)) == [points[0][0] for _, points in read[0]]


def test_each_byte_of_a_table_damaged(make_driver):
    """The journal tells what a damaged table does not; never is anything lost or wrong."""
    writer = make_driver()
    write_some(writer, 6, sacks=(0, 3))
    writer.close()
    make_driver(entries_max=0).list_backlogs(EMPTY)
    [name] = list_tables(writer)
    path = os.path.join(writer.directory, name)
    with open(path, "rb") as f:
        whole = f.read()
    expected, _ = drain_all(writer, SACKS)
    for data in ([whole[:i] + bytes([whole[i] ^ 0x41]) + whole[i + 1:] for i in range(len(whole))]
                 + [whole[:size] for size in range(0, len(whole), 8)]):
        with open(path, "wb") as f:
            f.write(data)
        with_table = FileDriver(os.path.dirname(writer.directory), SACKS)
        assert expected == drain_all(with_table, SACKS)[0]
        assert (6, 6) == with_table.list_backlogs(EMPTY)[3][:2]
        with_table.close()


def test_table_cut_for_other_sacks(make_driver):
    """It is left aside."""
    writer = make_driver()
    write_some(writer, 10)
    make_driver(entries_max=0).list_backlogs(EMPTY)
    read, _ = drain_all(make_driver(sacks=2 * SACKS), 2 * SACKS)
    assert [10] * SACKS + [0] * SACKS == [len(series) for series in read.values()]


def test_damaged_journal(make_driver):
    """Its table tells of the damage, so that every process comes across it, and its index is as short as any other."""
    writer = make_driver()
    write_some(writer, 1000)
    writer.close()
    [name] = list_files(writer, ".journal")
    path = os.path.join(writer.directory, name)
    with open(path, "r+b") as f:
        for at in (4096 + 20, os.path.getsize(path) // 2):
            f.seek(at)
            f.write(b"\xff" * 8)
    expected, _ = drain_all(writer, SACKS)
    assert [998] * SACKS == [len(series) for series in expected.values()]
    for _ in range(3):
        driver = make_driver(entries_max=50)
        assert (998,) * 2 == driver.list_backlogs(EMPTY)[0][:2]
        assert 2 == driver.damaged_count
        assert sum(index.kept for index in driver._indexes.values()) <= 50
        assert expected == drain_all(driver, SACKS)[0]
        assert [name.replace(".journal", ".slices")] == list_tables(driver)
    with open(path.replace(".journal", ".slices"), "rb") as f:    # The last one has not looked at the journal.
        assert b"no frame can be read" in f.read(1000)


def test_damage_everywhere(make_driver):
    """A table tells of so many places only; what is read does not depend on it."""
    writer = make_driver()
    write_some(writer, 60)
    writer.close()
    [name] = list_files(writer, ".journal")
    path = os.path.join(writer.directory, name)
    size = (os.path.getsize(path) - 4096) // 60
    with open(path, "r+b") as f:
        for number in range(0, 60, 2):
            f.seek(4096 + size * number + 20)
            f.write(b"\xff")
    expected, _ = drain_all(writer, SACKS)
    assert [30] * SACKS == [len(series) for series in expected.values()]
    first = make_driver(entries_max=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slice_table, "_PLACES_MAX", 7)
        assert (30, 30) == first.list_backlogs(EMPTY)[0][:2]
    second = make_driver(entries_max=0)
    assert expected == drain_all(second, SACKS)[0]
    assert (30, 7) == (first.damaged_count, second.damaged_count)


def test_slices_of_several_sacks(make_driver):
    """What was cut for fewer sacks is read sack by sack, each measure once, with few entries in memory."""
    writer = make_driver(sacks=SACKS // 2)
    write_some(writer, 500)
    remembering, reader = make_driver(), make_driver(entries_max=50)
    for driver in (remembering, reader, make_driver(entries_max=0)):
        assert [(500, 500)] * SACKS == [driver.list_backlogs(EMPTY)[sack][:2] for sack in range(SACKS)]
        assert (SACKS, 500 * SACKS) == driver.report_backlog(EMPTY, details=False)[:2]
        read, _ = drain_all(driver, SACKS)
        assert [list(range(500))] * SACKS == [[points[0][0] for _, points in read[sack]] for sack in range(SACKS)]
    assert sum(index.kept for index in reader._indexes.values()) <= 50 < sum(
        index.kept for index in remembering._indexes.values())


def test_full_disk(make_driver, monkeypatch, caplog):
    """Without room for tables the index stays in memory, with one warning, and nothing else is left behind."""
    def fail(*args):
        raise OSError(28, "No space left on device")

    writer, driver = make_driver(), make_driver(entries_max=0)
    write_some(writer, 10)
    monkeypatch.setattr(slice_table.os, "rename", fail)
    for _ in range(2):
        assert (10, 10) == driver.list_backlogs(EMPTY)[0][:2]
    assert 1 == len([r for r in caplog.records if "No space left" in r.getMessage()])
    assert 1 == len(os.listdir(driver.directory))
    monkeypatch.undo()
    read, _ = drain_all(driver, SACKS)
    assert [10] * SACKS == [len(series) for series in read.values()]


def test_tables_without_journal_are_deleted(make_driver):
    """Also those that a process was killed over."""
    writer = make_driver()
    write_some(writer, 10)
    writer.close()
    driver = make_driver(entries_max=0)
    _, checkpoints = drain_all(driver, SACKS)
    [name] = list_tables(driver)
    for kept in (name, name + ".0123abcd.tmp"):
        with open(os.path.join(driver.directory, kept), "ab"):
            pass
    driver.acknowledge(checkpoints)
    assert [] == os.listdir(driver.directory)


def test_journal_and_table_deleted_by_another_process(make_driver):
    """Who has the directory of the table only takes it as it is: nothing waits any more."""
    writer, slow, fast = make_driver(), make_driver(entries_max=0), make_driver(entries_max=0)
    write_some(writer, 10)
    writer.close()
    slow.list_backlogs(EMPTY)
    half = {sack: slow.read_backlog(sack, {}, 5).checkpoint for sack in range(SACKS)}
    _, checkpoints = drain_all(fast, SACKS)
    fast.acknowledge(checkpoints)
    names = os.listdir
    slow._list_indexes = lambda: sorted(slow._indexes.items())    # as if both came in the middle of the call
    assert [] == names(slow.directory)
    assert {} == slow.list_backlogs(half)
    assert (0, 0, {}) == slow.report_backlog(half, details=True)
    assert slow.read_backlog(1, half[1], 5) is None


class Run:
    """Two readers with short memories beside one that remembers everything, and writers that come and go."""

    def __init__(self, seed, make_driver):
        self.random = random.Random(seed)
        self.make_driver = make_driver
        self.writers = [self.make_writer() for _ in range(3)]
        self.readers = [self.make_reader() for _ in range(2)]
        self.all_seeing = make_driver()
        self.checkpoints = dict(EMPTY)
        self.numbers = iter(range(10**9))

    def make_writer(self):
        return self.make_driver(journal_bytes_max=self.random.choice([4500, 6000, 20_000]),
                                sacks=self.random.choice([SACKS, SACKS, SACKS // 2, 2 * SACKS]))

    def make_reader(self):
        return self.make_driver(entries_max=self.random.choice([0, 1, 5, 40]))

    def write(self):
        writer = self.random.choice(self.writers)
        for _ in range(self.random.randrange(12)):
            writer.write_measures(make_batch(*[
                (make_id(self.random.choice([0, 0, 0, 1, 2]), self.random.randrange(3)),
                 [(next(self.numbers), 1.0)] * self.random.randrange(4)) for _ in range(self.random.randint(1, 5))]))

    def replace_writer(self):
        i = self.random.randrange(len(self.writers))
        self.writers[i].close()
        self.writers[i] = self.make_writer()

    def restart_reader(self):
        i = self.random.randrange(len(self.readers))
        self.readers[i].close()
        self.readers[i] = self.make_reader()

    def read(self):
        """Read some slices of one sack; commit those that are not lost."""
        sack, most = self.random.choice([0, 0, 1, 1, 1, 2, 3]), self.random.choice([1, 5, 30, 1000])
        for _ in range(self.random.randint(1, 3)):
            backlog = self.random.choice(self.readers).read_backlog(sack, self.checkpoints[sack], most)
            assert same_backlog(self.all_seeing.read_backlog(sack, self.checkpoints[sack], most), backlog)
            if backlog is None or self.random.random() < 0.2:
                return
            self.checkpoints[sack] = backlog.checkpoint

    def read_together(self):
        """Read a slice of each of some sacks; commit those that are not lost."""
        sacks = self.random.sample(range(SACKS), self.random.randint(1, SACKS))
        asked = {sack: self.checkpoints[sack] for sack in sacks}
        most = self.random.choice([1, 30, 1000, 1000])
        found = self.random.choice(self.readers).read_backlogs(asked, most)
        expected = IncomingDriver.read_backlogs(self.all_seeing, asked, most)     # one by one
        assert list(expected) == list(found)
        for sack, backlog in found.items():
            assert same_backlog(expected[sack], backlog)
            if backlog is not None and self.random.random() < 0.8:
                self.checkpoints[sack] = backlog.checkpoint

    def compare_figures(self):
        reader = self.random.choice(self.readers)
        assert self.all_seeing.list_backlogs(self.checkpoints) == reader.list_backlogs(self.checkpoints)
        assert (self.all_seeing.report_backlog(self.checkpoints, True)
                == reader.report_backlog(self.checkpoints, True))

    def acknowledge(self):
        self.random.choice(self.readers).acknowledge(self.checkpoints)

    def harm_table(self):
        tables = list_tables(self.all_seeing)
        if tables:
            path = os.path.join(self.all_seeing.directory, self.random.choice(tables))
            size = os.path.getsize(path)
            if self.random.random() < 0.5:
                os.unlink(path)
            elif size:
                with open(path, "r+b") as f:
                    f.seek(self.random.randrange(size))
                    f.write(b"\x5a")


@pytest.mark.parametrize("seed", range(12))
def test_as_if_all_were_in_memory(seed, make_driver):
    """Whatever happens, each slice, checkpoint and figure is that of a reader with everything in memory."""
    run = Run(seed, make_driver)
    for _ in range(120):
        run.random.choices([run.write, run.read, run.read_together, run.compare_figures, run.acknowledge,
                            run.replace_writer, run.restart_reader, run.harm_table], [8, 8, 4, 4, 2, 1, 1, 1])[0]()
    run.compare_figures()
    for writer in run.writers:
        writer.close()
    for sack in range(SACKS):
        while (backlog := run.readers[0].read_backlog(sack, run.checkpoints[sack], 100)) is not None:
            assert same_backlog(run.all_seeing.read_backlog(sack, run.checkpoints[sack], 100), backlog)
            run.checkpoints[sack] = backlog.checkpoint
    run.acknowledge()
    assert {} == run.readers[1].list_backlogs(run.checkpoints)
    assert [] == list_files(run.all_seeing, ".journal") + list_tables(run.all_seeing)


def test_one_sack_far_behind(make_driver):
    """What one sack has left waiting keeps nothing of the others from being read, in order."""
    writers = [make_driver(journal_bytes_max=5000) for _ in range(2)]
    driver = make_driver(entries_max=20)
    checkpoints, seen = dict(EMPTY), []
    for turn in range(60):
        for i, writer in enumerate(writers):
            writer.write_measures(make_batch((make_id(0), [(2 * turn + i, 0.0)]), (make_id(1), [(2 * turn + i, 1.0)])))
        backlog = driver.read_backlog(1, checkpoints[1], 100)
        seen += [points[0][0] for _, points in list_series(backlog.batch)]
        checkpoints[1] = backlog.checkpoint
        driver.acknowledge(checkpoints)
        assert sum(index.kept for index in driver._indexes.values()) <= 20
    assert list(range(120)) == seen
    assert list(range(120)) == [points[0][0] for _, points in drain_all(driver, SACKS)[0][0]]


def test_read_returns_what_was_written(tmp_path):
    """Entries come back sack by sack, from an offset on, with their sums."""
    entries = {sack: numpy.array([(10 * i + sack, 1000 * i + sack, i, 1, i, 2, i) for i in range(1, count + 1)],
                                 slice_table.ENTRY) for sack, count in ((1, 3), (7, 1))}
    counts = {sack: len(rows) for sack, rows in entries.items()}
    path = str(tmp_path / "x.slices")
    slice_table.write_table(path, 5, 8, 4242, counts, entries.__getitem__, {9: "x", 4: "y"})
    table = slice_table.load_table(path, 5, 8)
    assert (4242, [1, 7], counts) == (table.end, table.sacks, table.counts)
    assert {4: "y", 9: "x"} == table.damage
    assert entries[1].tolist() == table.read(1).tolist()
    assert entries[1][1:].tolist() == table.read(1, 1002).tolist()
    assert [] == table.read(1, 3002).tolist() == table.read(2).tolist()
    assert (3, 6, 11) == table.sum_up(1, 0)
    assert (2, 5, 21) == table.sum_up(1, 1002)
    assert table.sum_up(7, 1008) is None
    assert (3001, -1) == (table.last_start(1), table.last_start(0))
    assert slice_table.load_table(path, 6, 8) is None
    assert slice_table.load_table(path, 5, 16) is None
