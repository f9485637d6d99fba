"""Writing journals, under faults of the disk: what is refused is never read, what is acknowledged always."""

import errno
import os
import pathlib
import resource
import threading
import time

import pytest

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import journal
from gnocchi.tests.backlog import drain, drain_all
from gnocchi.tests.crash.journals import SACKS, System, error, list_journals, request, series
from gnocchi.tests.databases import DEADLINE_S


@pytest.mark.parametrize(("name", "number"), [
    ("pwritev", errno.ENOSPC), ("pwritev", errno.EIO), ("fdatasync", errno.EIO), ("fdatasync", errno.ENOSPC),
    ("pwrite", errno.EIO), ("stat", errno.EIO)])
def test_failed_write(make_driver, name, number):
    """The request is refused with the reason, nothing of it is ever read; the next one begins a new journal."""
    system = System()
    writer, reader = make_driver(system=system), make_driver()
    writer.write_measures(request(1))
    system.faults[name] = [error(number), None]
    with pytest.raises(BackendUnavailable, match=os.strerror(number)):
        writer.write_measures(request(2))
    assert series(1) == drain(reader, 0)[0]
    writer.write_measures(request(3))
    assert len(list_journals(reader)) == 2
    assert series(1, 3) == drain(reader, 0)[0]
    writer.close()
    assert series(1, 3) == drain(make_driver(), 0)[0]


def test_failed_first_write_leaves_no_journal(make_driver):
    """A full disk does not fill up with empty journals."""
    writer = make_driver(system=System(fdatasync=[error(errno.ENOSPC)]))
    for _ in range(3):
        with pytest.raises(BackendUnavailable, match="No space left"):
            writer.write_measures(request(1))
    assert [] == os.listdir(writer.directory)


@pytest.mark.parametrize("name", ["open", "pwritev", "fsync", "rename"])
def test_failed_creation(make_driver, name):
    """No journal, no leftover; and once the fault is gone, business as usual."""
    system = System(**{name: [error(errno.ENOSPC), None]})
    writer = make_driver(system=system)
    with pytest.raises(BackendUnavailable, match="No space left"):
        writer.write_measures(request(1))
    assert [] == os.listdir(writer.directory)
    writer.write_measures(request(2))
    assert series(2) == drain(writer, 0)[0]


def test_directory_of_a_new_journal_cannot_be_synced(make_driver):
    """A journal whose name may vanish in a crash acknowledges nothing."""
    writer = make_driver(system=System(fsync=[None, error(errno.EIO), None]))
    with pytest.raises(BackendUnavailable, match="Input/output error"):
        writer.write_measures(request(1))
    assert [] == os.listdir(writer.directory)


def test_short_writes_are_continued(make_driver):
    """A write that stops half-way goes on; the frame is whole."""

    def write_some(fd, buffers, offset):
        return os.pwrite(fd, b"".join(buffers)[:50], offset)

    writer = make_driver(system=System(pwritev=[write_some]))
    for i in range(3):
        writer.write_measures(request(i))
    assert series(0, 1, 2) == drain(writer, 0)[0]


def test_short_write_then_no_space(make_driver):
    """The half frame is cut off."""
    system = System()
    writer = make_driver(system=system)
    writer.write_measures(request(1))
    [name] = list_journals(writer)
    path = pathlib.Path(writer.directory) / name
    size = path.stat().st_size
    system.faults["pwritev"] = [lambda fd, buffers, offset: os.pwrite(fd, bytes(buffers[0][:40]), offset),
                                error(errno.ENOSPC), None]
    with pytest.raises(BackendUnavailable, match="No space left"):
        writer.write_measures(request(2))
    assert size == path.stat().st_size
    writer.write_measures(request(3))
    assert series(1, 3) == drain(writer, 0)[0]


def test_file_size_limit(make_driver):
    """A real limit of the kernel: whatever fits is acknowledged and read, the rest is refused."""
    writer = make_driver()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    accepted = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.PAGE_BYTES + 500, limits[1]))
    try:
        for i in range(10):
            try:
                writer.write_measures(request(i))
                accepted.append(i)
            except BackendUnavailable as e:
                assert "too large" in str(e)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 0 < len(accepted) < 10
    assert series(*accepted) == drain(writer, 0)[0]


def test_cut_fails_too(make_driver):
    """The refused frame stays in the file: as long as the process lives, readers stop before it."""
    system = System()
    writer, reader = make_driver(system=system), make_driver()
    writer.write_measures(request(1))
    system.faults = {"fdatasync": [error(errno.EIO), None], "ftruncate": [error(errno.EIO)]}
    with pytest.raises(BackendUnavailable):
        writer.write_measures(request(2))
    writer.write_measures(request(3))
    assert series(1, 3) == drain(reader, 0)[0]
    assert series(1, 3) == drain(make_driver(), 0)[0]


class Gate:
    """Holds fdatasync until it is opened."""

    def __init__(self):
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)
        self.error = None

    def __call__(self, fd):
        self.entered.release()
        assert self.open.acquire(timeout=DEADLINE_S)
        if self.error is not None:
            raise self.error
        os.fdatasync(fd)


class Posting(threading.Thread):
    """Writes one request; tells how that ended."""

    def __init__(self, driver, number):
        super().__init__(daemon=True)
        self.driver, self.number, self.outcome = driver, number, None
        self.start()

    def run(self):
        try:
            self.driver.write_measures(request(self.number))
            self.outcome = "accepted"
        except BackendUnavailable as e:
            self.outcome = str(e)


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def start_postings(driver, gate, count):
    """Start one request that is in fsync and `count` more that were written meanwhile."""
    first = Posting(driver, 0)
    assert gate.entered.acquire(timeout=DEADLINE_S)
    others = [Posting(driver, number) for number in range(1, count + 1)]
    size = journal.FRAME.size + journal.ROW.itemsize + 40
    [name] = list_journals(driver)
    path = pathlib.Path(driver.directory) / name
    wait_until(lambda: path.stat().st_size == journal.PAGE_BYTES + size * (count + 1))
    return first, others


def test_concurrent_requests_share_an_fsync(make_driver):
    """Nobody is answered before an fsync that began after his write; all who wrote meanwhile share one."""
    gate = Gate()
    system = System(fdatasync=[gate])
    writer, reader = make_driver(system=system), make_driver()
    first, others = start_postings(writer, gate, 10)
    assert drain(reader, 0)[0] == []    # Not durable, so not readable.
    gate.open.release()
    first.join(30)
    assert gate.entered.acquire(timeout=DEADLINE_S)
    assert {None} == {posting.outcome for posting in others}
    assert series(0) == drain(reader, 0)[0]
    gate.open.release()
    for posting in others:
        posting.join(30)
    assert {"accepted"} == {posting.outcome for posting in [first, *others]}
    assert system.calls.count("fdatasync") == 2
    assert sorted(series(*range(11))) == sorted(drain(reader, 0)[0])


def test_failed_fsync_refuses_all_who_wait(make_driver):
    """Also those who wrote while it ran: their bytes lie behind a hole that may be lost."""
    gate = Gate()
    writer, reader = make_driver(system=System(fdatasync=[gate])), make_driver()
    first, others = start_postings(writer, gate, 5)
    gate.error = error(errno.EIO)
    gate.open.release()
    for posting in [first, *others]:
        posting.join(30)
        assert "Input/output error" in posting.outcome
    assert [] == list_journals(writer)
    assert [] == drain(reader, 0)[0]


def test_failed_write_during_an_fsync(make_driver):
    """Who is in the fsync is accepted, who came later is refused, and the file ends between them."""
    gate = Gate()
    system = System(fdatasync=[gate])
    writer, reader = make_driver(system=system), make_driver()
    first, others = start_postings(writer, gate, 3)
    system.faults["pwritev"] = [error(errno.ENOSPC), None]
    with pytest.raises(BackendUnavailable, match="No space left"):
        writer.write_measures(request(99))
    gate.open.release()
    for posting in [first, *others]:
        posting.join(30)
    assert "accepted" == first.outcome
    assert all("No space left" in posting.outcome for posting in others)
    assert series(0) == drain(reader, 0)[0]
    system.faults = {}
    writer.write_measures(request(7))
    assert series(0, 7) == drain(reader, 0)[0]


def test_rotation_during_an_fsync(make_driver):
    """A journal that is full stays open until everybody in it is answered."""
    gate = Gate()
    system = System(fdatasync=[gate])
    writer = make_driver(system=system, journal_bytes_max=journal.PAGE_BYTES + 300)
    first, others = start_postings(writer, gate, 1)
    system.faults = {}
    for number in range(2, 6):
        writer.write_measures(request(number))
    assert len(list_journals(writer)) == 3
    gate.open.release()
    for posting in [first, *others]:
        posting.join(30)
        assert "accepted" == posting.outcome
    assert series(*range(6)) == drain(writer, 0)[0]
    _, checkpoints = drain_all(writer, SACKS)
    writer.acknowledge(checkpoints)
    assert len(list_journals(writer)) == 1


def test_rotation_by_age(make_driver):
    """A journal in use does not live for ever."""
    writer = make_driver(journal_age_s_max=0)
    for number in range(3):
        writer.write_measures(request(number))
    assert len(list_journals(writer)) == 3
    assert series(0, 1, 2) == drain(writer, 0)[0]
