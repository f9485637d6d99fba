"""Journals with damaged bytes: no wrong value is ever read, and what is not damaged is."""

import os
import pathlib
import uuid

import pytest

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import journal
from gnocchi.incoming.file import FileDriver
from gnocchi.tests.backlog import drain, drain_all, make_batch, make_id

SACKS = 2
#: One request each; the last one only touches one sack.
REQUESTS = [
    [(make_id(0, 1), [(1, 1.5)]), (make_id(1, 1), [(1, 2.5), (2, 3.5)])],
    [(make_id(1, 2), [(3, -1.0)]), (make_id(0, 2), []), (make_id(0, 1), [(4, 4.5)])],
    [(make_id(0, 1), [(5, 5.5)])],
]


class Written:
    """A journal of REQUESTS whose writer is gone: its bytes, and where each piece lies."""

    def __init__(self, directory):
        driver = FileDriver(str(directory), SACKS)
        driver.upgrade()
        for request in REQUESTS:
            driver.write_measures(make_batch(*request))
        driver.close()
        [path] = (directory / "incoming").iterdir()
        self.name = path.name
        self.data = path.read_bytes()
        self.frames = []
        #: (start, stop, sack, request) of each slice.
        self.slices = []
        at = journal.PAGE_BYTES
        for number, request in enumerate(REQUESTS):
            slices = journal.encode_slices(make_batch(*request), SACKS)
            self.frames.append((at, at + slices.frame_bytes))
            start = at + journal.FRAME.size + len(slices.table)
            for sack in sorted({i.int % SACKS for i, _ in request}):
                mine = [points for i, points in request if i.int % SACKS == sack]
                stop = start + 24 * len(mine) + 16 * sum(map(len, mine))
                self.slices.append((start, stop, sack, number))
                start = stop
            at += slices.frame_bytes
        assert at == len(self.data)

    def expect(self, lost_slices=(), lost_frames=()):
        """Return {sack: series} that remain readable."""
        return {
            sack: [(i, points) for number, request in enumerate(REQUESTS) for i, points in request
                   if i.int % SACKS == sack and number not in lost_frames and (sack, number) not in lost_slices]
            for sack in range(SACKS)}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return Written(tmp_path_factory.mktemp("written"))


@pytest.fixture
def place(tmp_path, written):
    """Put a journal of these bytes in the place of the one before."""
    directory = tmp_path / "incoming"

    def place(data, name=None):
        directory.mkdir(exist_ok=True)
        for path in directory.iterdir():
            path.unlink()
        (directory / (name or written.name)).write_bytes(data)
        return FileDriver(str(tmp_path), SACKS)

    return place


def flip(data, at, mask=0xff):
    damaged = bytearray(data)
    damaged[at] ^= mask
    return bytes(damaged)


def test_undamaged(written, place):
    """The test's own idea of the journal is right."""
    driver = place(written.data)
    assert written.expect() == drain_all(driver, SACKS)[0]
    assert driver.damaged_count == 0


@pytest.mark.parametrize("mask", [0x01, 0xff])
def test_each_byte_of_the_frames_flipped(written, place, mask):
    """A flip in a header costs that frame, a flip in a slice that sack's share, and nothing else."""
    for at in range(journal.PAGE_BYTES, len(written.data)):
        driver = place(flip(written.data, at, mask))
        hit = {(sack, number) for start, stop, sack, number in written.slices if start <= at < stop}
        frames = set() if hit else {number for number, (a, b) in enumerate(written.frames) if a <= at < b}
        assert written.expect(hit, frames) == drain_all(driver, SACKS)[0], f"byte {at}"
        assert driver.damaged_count == 1, f"byte {at}"


def test_each_byte_of_the_page_flipped(written, place):
    """The page is a help, not a need: nothing is lost with it."""
    for at in [*range(128), *range(128, journal.PAGE_BYTES, 199)]:
        driver = place(flip(written.data, at))
        assert written.expect() == drain_all(driver, SACKS)[0], f"byte {at}"


def test_every_truncation(written, place):
    """What was cut off is missing, and noticed, because it had been acknowledged."""
    for length in range(len(written.data)):
        driver = place(written.data[:length])
        frames = {number for number, (_, stop) in enumerate(written.frames) if stop > length}
        assert written.expect((), frames) == drain_all(driver, SACKS)[0], f"{length} bytes"
        assert driver.damaged_count > 0, f"{length} bytes"


def test_each_aligned_range_zeroed(written, place):
    """A range of zeros, as a disk leaves it, costs the frames that it touches at most."""
    for start in range(journal.PAGE_BYTES, len(written.data), 8):
        for size in (8, 256):
            stop = min(start + size, len(written.data))
            driver = place(written.data[:start] + bytes(stop - start) + written.data[stop:])
            read = drain_all(driver, SACKS)[0]
            touched = {number for number, (a, b) in enumerate(written.frames) if a < stop and b > start}
            for sack in range(SACKS):
                assert set(map(str, written.expect((), touched)[sack])) <= set(map(str, read[sack]))
                assert set(map(str, read[sack])) <= set(map(str, written.expect()[sack]))


def test_garbage_between_frames(written, place):
    """Reading finds its way back to the next frame, over any distance."""
    start = written.frames[1][0]
    for garbage in (b"\0" * 8, bytes(range(256)), journal.FRAME_MAGIC * 100, b"\xf7" * 200_000):
        driver = place(written.data[:start] + garbage + written.data[start:])
        assert written.expect() == drain_all(driver, SACKS)[0]
        assert driver.damaged_count == 1


def test_magic_across_two_windows(written, place):
    """The search does not miss a magic that lies on the border of what is read at once."""
    start = written.frames[1][0]
    for shift in range(-16, 17, 8):
        driver = place(written.data[:start] + b"\1" * (64 * 1024 + shift) + written.data[start:])
        assert written.expect() == drain_all(driver, SACKS)[0]


def test_frame_posted_as_values_is_not_believed(tmp_path, written, place):
    """Values may look like a frame: after damage the search must not take them for one."""
    forged = journal.encode_slices(make_batch((make_id(0, 9), [(9, 666.0)])), SACKS)
    frame = journal.encode_frame_head(forged, 1, SACKS, seed=123) + bytes(forged.body)
    driver = FileDriver(str(tmp_path), SACKS)
    driver.upgrade()
    words = memoryview(frame).cast("d").tolist()
    driver.write_measures(make_batch((make_id(0, 1), [(i, word) for i, word in enumerate(words)])))
    driver.write_measures(make_batch((make_id(0, 2), [(1, 1.0)])))
    driver.close()
    [path] = pathlib.Path(driver.directory).iterdir()
    data = path.read_bytes()
    assert frame in data
    driver = place(flip(data, journal.PAGE_BYTES + 20), path.name)
    assert [(make_id(0, 2), [(1, 1.0)])] == drain(driver, 0)[0]


def test_damage_is_logged_once_and_kept(written, place, caplog):
    """The log names journal and offset; the bytes outlive the journal under another name."""
    damaged = flip(written.data, written.frames[1][0])
    driver = place(damaged)
    for _ in range(3):
        _, checkpoints = drain_all(driver, SACKS)
    [record] = [r for r in caplog.records if r.levelname == "ERROR"]
    assert f"{written.name} at byte {written.frames[1][0]}" in record.getMessage()
    driver.acknowledge(checkpoints)
    [kept] = os.listdir(driver.directory)
    assert written.name.replace(".journal", ".damaged") == kept
    assert damaged == (pathlib.Path(driver.directory) / kept).read_bytes()


def test_torn_last_frame_of_a_dead_writer(written, place, caplog):
    """It was never acknowledged: it is left out without alarm."""
    start = written.frames[2][0]
    published = journal.encode_published(start)
    data = written.data[:64] + published + written.data[64 + len(published):]
    for length in range(start, len(written.data), 7):
        driver = place(data[:length])
        assert written.expect((), {2}) == drain_all(driver, SACKS)[0]
        assert driver.damaged_count == 0
    # Whole, it may be read: the writer died between write and answer.
    assert written.expect() == drain_all(place(data), SACKS)[0]


def test_format_of_a_later_release(written, place):
    """Nothing is skipped, let alone deleted, by a release that cannot read it."""
    page = journal.encode_page(journal.parse_name(written.name))
    page = page[:8] + bytes(8) + (journal.VERSION + 1).to_bytes(4, "little") + page[20:]
    checksum = journal.xxhash.xxh3_64_intdigest(page[16:40]).to_bytes(8, "little")
    driver = place(page[:8] + checksum + page[16:] + written.data[journal.PAGE_BYTES:])
    for call in (lambda: drain(driver, 0), lambda: driver.acknowledge({})):
        with pytest.raises(BackendUnavailable, match="format 2"):
            call()
    assert [written.name] == os.listdir(driver.directory)


def test_other_files_are_left_alone(written, place):
    """Files that are no journals are neither read nor deleted."""
    driver = place(written.data)
    others = ["README", "x.journal", f"{uuid.uuid4().hex}.damaged", written.name + "~"]
    for name in others:
        (pathlib.Path(driver.directory) / name).write_bytes(b"x")
    read, checkpoints = drain_all(driver, SACKS)
    assert written.expect() == read
    driver.acknowledge(checkpoints)
    assert sorted(others) == sorted(os.listdir(driver.directory))
