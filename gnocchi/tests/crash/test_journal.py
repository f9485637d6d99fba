"""Journals under faults of processes and of operators: what was acknowledged is read exactly once."""

import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import journal
from gnocchi.incoming.file import FileDriver
from gnocchi.tests.backlog import drain, drain_all, make_batch, make_id
from gnocchi.tests.crash import journal_killer
from gnocchi.tests.crash.journals import SACKS, System, list_journals, request, series


def test_deletion_of_journals(make_driver):
    """A journal goes when its writer is gone and every sack has committed it, not before."""
    writer, reader = make_driver(), make_driver()
    writer.write_measures(make_batch(*series(1), *series(1, sack=1)))
    _, checkpoints = drain_all(reader, SACKS)
    reader.acknowledge(checkpoints)
    assert len(list_journals(reader)) == 1    # Its writer lives.
    writer.write_measures(make_batch(*series(2), *series(2, sack=1)))
    writer.close()
    reader.acknowledge(checkpoints)
    assert len(list_journals(reader)) == 1    # The second request waits.
    _, checkpoints[0] = drain(reader, 0, checkpoints[0])
    reader.acknowledge(checkpoints)
    assert len(list_journals(reader)) == 1    # In one sack it still does.
    assert series(2, sack=1) == drain(reader, 1, checkpoints[1])[0]
    _, checkpoints[1] = drain(reader, 1, checkpoints[1])
    reader.acknowledge(checkpoints)
    assert [] == list_journals(reader)
    writer.write_measures(request(3))
    _, checkpoint = drain(reader, 0, checkpoints[0])
    assert list(checkpoint["journals"]) == [name.removesuffix(".journal") for name in list_journals(reader)]


def test_journal_deleted_by_another_process(make_driver):
    """A process that still has its index finds nothing, rather than failing."""
    writer, slow, fast = make_driver(), make_driver(), make_driver()
    writer.write_measures(request(1))
    writer.close()
    assert {0} == set(slow.list_backlogs({0: {}, 1: {}}))
    _, checkpoints = drain_all(fast, SACKS)
    fast.acknowledge(checkpoints)
    assert drain(slow, 0)[0] == []
    assert (0, 0, None) == slow.report_backlog({0: {}, 1: {}}, details=False)
    slow.acknowledge(checkpoints)


def test_reading_again_what_was_forgotten(make_driver):
    """Whoever comes with an older checkpoint than was acknowledged gets everything after it."""
    writer = make_driver()
    writer.write_measures(request(1))
    first = drain(writer, 0)[1]
    writer.write_measures(request(2))
    _, checkpoint = drain(writer, 0)
    writer.acknowledge({0: checkpoint, 1: {}})
    assert series(2) == drain(writer, 0, first)[0]
    assert series(1, 2) == drain(writer, 0)[0]


def test_leftover_of_a_creation(make_driver):
    """What a writer that died while creating a journal left behind goes after a while."""
    driver = make_driver()
    old = journal.format_name(journal.JournalName(time.time_ns() - 2 * 3600 * 10**9, 1)) + journal.TEMPORARY_SUFFIX
    new = journal.format_name(journal.JournalName(time.time_ns(), 2)) + journal.TEMPORARY_SUFFIX
    for name in (old, new):
        (pathlib.Path(driver.directory) / name).touch()
    assert {} == driver.list_backlogs({0: {}})
    driver.acknowledge({0: {}, 1: {}})
    assert [new] == os.listdir(driver.directory)


def test_directory_missing_at_start(tmp_path):
    """Every call says so, and works once the directory is there."""
    driver = FileDriver(str(tmp_path / "later"), SACKS)
    for call in (lambda: driver.write_measures(request(1)), lambda: driver.read_backlog(0, {}, 1),
                 lambda: driver.list_backlogs({0: {}}), lambda: driver.report_backlog({0: {}}, False),
                 lambda: driver.acknowledge({0: {}}), driver.get_position):
        with pytest.raises(BackendUnavailable, match="later/incoming.*No such file or directory"):
            call()
    driver.upgrade()
    driver.write_measures(request(2))
    assert series(2) == drain(driver, 0)[0]
    driver.close()


@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_directory_vanishes_under_the_writer(make_driver, durability):
    """Writes to a file without a name would succeed and be lost."""
    driver = make_driver(durability=durability)
    driver.write_measures(request(1))
    shutil.rmtree(driver.directory)
    for number in (2, 3):
        with pytest.raises(BackendUnavailable, match="No such file or directory"):
            driver.write_measures(request(number))
    driver.upgrade()
    driver.write_measures(request(4))
    assert series(4) == drain(driver, 0)[0]


def test_half_written_frame_of_a_live_writer(make_driver):
    """It is still being written: no damage, and it is read once it is whole."""
    held = {}
    system = System()
    writer, reader = make_driver(system=system), make_driver()
    writer.write_measures(request(1))

    def write_half(fd, buffers, offset):
        data = b"".join(bytes(b) for b in buffers)
        os.pwrite(fd, data[:len(data) // 2], offset)
        held["read"] = drain(reader, 0)[0]
        return os.pwrite(fd, data, offset)

    system.faults["pwritev"] = [write_half, None]
    writer.write_measures(request(2))
    assert series(1) == held["read"]
    assert series(1, 2) == drain(reader, 0)[0]
    assert reader.damaged_count == 0


@pytest.mark.parametrize(("written_for", "read_for"), [(1, 8), (2, 8), (8, 2), (16, 1), (4, 4)])
def test_other_number_of_sacks(make_driver, written_for, read_for):
    """Journals cut for more or fewer sacks are cut again by metric id: each measure once, figures exact."""
    writer = make_driver(sacks=written_for)
    generator = random.Random(1)
    expected = {sack: [] for sack in range(read_for)}
    for i in range(30):
        ids = sorted({make_id(generator.randrange(32), i) for _ in range(6)}, key=lambda m: m.int % written_for)
        posted = [(m, [(i, float(i))] * generator.randrange(3)) for m in ids]
        writer.write_measures(make_batch(*posted))
        for m, points in posted:
            expected[m.int % read_for].append((m, points))
    writer.close()
    reader = make_driver(sacks=read_for)
    empty = {sack: {} for sack in range(read_for)}
    figures = {sack: (len(s), sum(len(points) for _, points in s)) for sack, s in expected.items() if s}
    assert figures == {sack: backlog[:2] for sack, backlog in reader.list_backlogs(empty).items()}
    half, checkpoint = {}, {}
    for sack in range(read_for):
        backlog = reader.read_backlog(sack, {}, 10)
        half[sack], checkpoint[sack] = backlog.bundles, backlog.checkpoint
    report = reader.report_backlog(checkpoint, details=True)
    assert sum(map(len, expected.values())) - sum(half.values()) == report.bundles
    assert report.metrics == len(report.bundles_by_metric)
    read, checkpoints = drain_all(reader, read_for, measures_max=7)
    assert {s: sorted(v) for s, v in expected.items()} == {s: sorted(v) for s, v in read.items()}
    reader.acknowledge(checkpoints)
    assert [] == list_journals(reader)


def test_two_writers_are_read_in_stamp_order(make_driver):
    """A slice is a prefix over all writers: one writer's later points never come before another's earlier ones."""
    writers = [make_driver(), make_driver(journal_bytes_max=5000)]
    reader = make_driver()
    for number in range(100):
        writers[number % 3 % 2].write_measures(request(number))
    for measures_max in (1, 3, 1000):
        assert series(*range(100)) == drain(reader, 0, None, measures_max)[0]


def test_slice_looks_no_further_than_it_must(make_driver):
    """Journals made after all that fits into a slice are not even indexed: memory stays bounded."""
    writer = make_driver(journal_bytes_max=journal.PAGE_BYTES + 600)
    for number in range(50):
        writer.write_measures(request(number))
    reader = make_driver()
    assert not reader.read_backlog(0, {}, 2).complete
    assert sum(index._scanned > journal.PAGE_BYTES for index in reader._indexes.values()) <= 2
    assert series(*range(50)) == drain(reader, 0, None, 2)[0]


def test_finished_journals_are_not_kept_open(make_driver):
    """A backlog of many journals does not use up the descriptors of a process that looks at it."""
    writer = make_driver(journal_age_s_max=0)
    for number in range(50):
        writer.write_measures(request(number))
    reader = make_driver()
    before = len(os.listdir("/proc/self/fd"))
    position = reader.get_position()
    reader.read_backlog(0, {}, 1)
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert position == reader.get_position()
    reader.list_backlogs({0: {}})
    assert position == reader.get_position()
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_forked_child_does_not_keep_a_journal_alive(make_driver):
    """The child of a later fork has no part in the journal; it begins its own."""
    writer, reader = make_driver(), make_driver()
    writer.write_measures(make_batch(*series(1), *series(1, sack=1)))
    to_parent, to_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(to_parent[1], b"x")
        os.read(to_child[0], 1)
        writer.write_measures(request(2))
        os.write(to_parent[1], b"x")
        signal.pause()
    try:
        os.read(to_parent[0], 1)
        writer.close()
        _, checkpoints = drain_all(reader, SACKS)
        reader.acknowledge(checkpoints)
        assert [] == list_journals(reader)
        os.write(to_child[1], b"x")
        os.read(to_parent[0], 1)
        assert series(2) == drain(reader, 0, checkpoints[0])[0]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for fd in (*to_parent, *to_child):
            os.close(fd)


def test_started_program_does_not_keep_a_journal_alive(make_driver):
    """Descriptors are closed on exec."""
    writer, reader = make_driver(), make_driver()
    writer.write_measures(request(1))
    program = subprocess.Popen(["cat"], stdin=subprocess.PIPE, close_fds=False)
    try:
        writer.close()
        _, checkpoints = drain_all(reader, SACKS)
        reader.acknowledge(checkpoints)
        assert [] == list_journals(reader)
    finally:
        program.stdin.close()
        program.wait()


def test_writers_killed_under_load(tmp_path):
    """Real processes, killed at random moments while they are read: all that was acknowledged comes exactly once."""
    kills, threads = 24, 4
    reader = FileDriver(str(tmp_path), SACKS)
    reader.upgrade()
    acknowledged = tmp_path / "acknowledged"
    acknowledged.touch()
    seed = random.randrange(2**32)
    print("seed", seed)
    killer = subprocess.Popen([sys.executable, journal_killer.__file__, str(tmp_path), str(acknowledged), str(seed),
                               str(kills), str(threads)])
    read, checkpoints, finished = {0: [], 1: []}, {0: {}, 1: {}}, False
    while not finished:
        finished = killer.poll() is not None
        for sack in range(SACKS):
            more, checkpoints[sack] = drain(reader, sack, checkpoints[sack], 50)
            read[sack] += more
        reader.acknowledge(checkpoints)
    assert killer.returncode == 0
    assert reader.damaged_count == 0
    records = list(struct.iter_unpack("<QQ", acknowledged.read_bytes()))
    assert len({writer for writer, _ in records}) > kills
    for sack in range(SACKS):
        by_writer = {}
        for i, [(number, value)] in read[sack]:
            assert float(number) == value
            by_writer.setdefault(i.int >> 64, []).append(number)
        # Each once, in order, from the first on without a gap: more than what was acknowledged by one at most.
        for writer, numbers in by_writer.items():
            assert list(range(len(numbers))) == numbers, f"writer {writer:#x}"
        counts = {}
        for writer, number in records:
            counts[writer] = max(counts.get(writer, 0), number + 1)
        assert all(0 <= len(by_writer[writer]) - count <= 1 for writer, count in counts.items())
    assert [] == list_journals(reader)
