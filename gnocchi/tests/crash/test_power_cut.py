"""Power fails at any moment: whatever a disk may then hold, everything acknowledged is recovered from it.

A scripted run of posts, commits, the janitor and rotated journals is recorded write by write (disk.py).
At each write some of the states that POSIX permits are made real in another directory, opened by the real
code, processed to the end, and compared with what had been acknowledged by then.
"""

import contextlib
import hashlib
import os
import pathlib
import random
import shutil
from collections.abc import Iterator

import pytest

from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.tests.crash.disk import Index, Recorder
from gnocchi.tests.crash.ledger import MINUTE, START, Ledger, Post
from gnocchi.tests.crash.machine import INDEX, METRICS, Process, clear, hurry, make_disk
from gnocchi.tests.crash.script import DOOMED, STEPS, make_posts
from gnocchi.tests.engine import make_measures

STATES_MIN = 5000
#: Tries to find a state that was not looked at yet, at each write.
GUESSES = 37
#: States after whose recovery the janitor is let loose, too: one in so many.
CLEANED_UP = 10


class PowerCuts:
    """Looks at the states that a run may leave behind at each of its writes.

    Parameters
    ----------
    disk : directory with `template`, `data` (of the run) and `found` (made anew for each state)
    """

    def __init__(self, disk: pathlib.Path, seed: int) -> None:
        self._disk = disk
        self._rng = random.Random(seed)
        self._seen: set[bytes] = set()
        self.ledger = Ledger(METRICS)
        self.doomed_since: int | None = None
        self.recorder = Recorder(disk / "data", self.look)
        self._indexer = Indexer(f"sqlite:///{disk}/found/{INDEX}")

    @property
    def count(self) -> int:
        """How many different states were looked at."""
        return len(self._seen)

    def close(self) -> None:
        self._indexer.close()

    def look(self) -> None:
        for guess in range(GUESSES):
            mood = ("nothing unsynced", "everything")[guess] if guess < 2 else "anything"
            files = self.recorder.root.guess(self._rng, mood)
            log = self.recorder.index.guess(self._rng, mood)
            digest = hashlib.blake2b(repr(len(self.ledger.posts)).encode() + log)
            for path, content in sorted(files.items()):
                digest.update(f"{path} {len(content or b'')} ".encode() + (content or b""))
            if digest.digest() not in self._seen:
                self._seen.add(digest.digest())
                self._restore(files, log)
                self._check(mood)

    def _restore(self, files: dict[str, bytes | None], log: bytes) -> None:
        found = self._disk / "found"
        self._indexer.close()
        clear(found)
        shutil.copyfile(self._disk / "template" / INDEX, found / INDEX)
        (found / f"{INDEX}-wal").write_bytes(log)
        for path, content in files.items():
            if content is None:
                (found / path).mkdir()
            else:
                (found / path).write_bytes(content)

    def _check(self, mood: str) -> None:
        process = Process(self._disk / "found", self._indexer)
        try:
            process.work()
            self.ledger.verify(process, methods=("sum",))
            if self.count % CLEANED_UP == 0:
                process.clean_up()
                self.ledger.verify(process, methods=("sum",))
                assert set() == process.list_stray_objects()
        except BaseException as e:
            e.add_note(f"state {self.count}, {mood}, after {len(self.ledger.posts)} posts")
            raise
        finally:
            process.die()


class Run:
    """The script, while power cuts are looked at."""

    def __init__(self, disk: pathlib.Path, indexer: Indexer, cuts: PowerCuts) -> None:
        self._log = disk / "data" / f"{INDEX}-wal"
        self._cuts = cuts
        self._posts = make_posts()
        self._writing = indexer.writing
        indexer.writing = self._write
        self.process = Process(disk / "data", indexer, cuts.recorder)

    def replace_process(self) -> None:
        self.process.die()
        self.process = Process(self._log.parent, self.process.indexer, self._cuts.recorder)

    @contextlib.contextmanager
    def _write(self) -> Iterator:
        """A transaction: while it is committed, any part of what it adds may be on the disk."""
        recorder = self._cuts.recorder
        with self._writing() as connection:
            before = self._log.read_bytes()
            yield connection
        after = self._log.read_bytes()
        assert after.startswith(before), "SQLite began its log anew"
        recorder.index = Index(before, after[len(before):])
        self._cuts.look()
        recorder.index = Index(after, b"")
        self._cuts.look()

    def play(self) -> None:
        for step in STEPS:
            if isinstance(step, int):
                self.post(self._posts[step])
            elif step == "work":
                self.process.work()
            elif step == "clean up":
                self.process.clean_up()
            else:
                self._cuts.ledger.ids.remove(DOOMED)    # whether it is gone is not looked at
                self.process.indexer.delete_metrics([DOOMED])

    def end(self) -> None:
        self.process.die()

    def post(self, series) -> None:
        batch = make_measures(series, [(list(points), list(points.values())) for points in series.values()])
        posts = self._cuts.ledger.posts
        posts.append(Post(series, certain=False))
        self.process.incoming.write_measures(batch)
        posts[-1] = Post(series, certain=True)
        self._cuts.look()


@pytest.fixture
def seed():
    seed = int(os.environ.get("GNOCCHI_TEST_SEED", random.randrange(2**32)))
    print(f"GNOCCHI_TEST_SEED={seed}")
    return seed


@pytest.fixture
def disk() -> Iterator[pathlib.Path]:
    with make_disk() as disk:
        shutil.copytree(disk / "template", disk / "data", dirs_exist_ok=True)
        (disk / "found").mkdir()
        yield disk


@pytest.fixture
def indexer(disk) -> Iterator[Indexer]:
    with contextlib.closing(Indexer(f"sqlite:///{disk}/data/{INDEX}")) as indexer:
        yield indexer


@pytest.fixture
def cuts(disk, seed, monkeypatch) -> Iterator[PowerCuts]:
    hurry(monkeypatch)
    with contextlib.closing(PowerCuts(disk, seed)) as cuts:
        yield cuts


def test_power_cuts(disk, indexer, cuts):
    """At least 5,000 states: what was acknowledged is there, once, whatever of the rest the disk holds."""
    run = Run(disk, indexer, cuts)
    run.play()
    run.end()
    print(f"{cuts.count} states")
    assert cuts.count >= STATES_MIN


def test_journal_comes_back(disk, indexer, cuts):
    """A journal was deleted, not yet durably, and a commit came in between: it is not read again when it is back."""
    run = Run(disk, indexer, cuts)
    journals = disk / "data" / "incoming"
    run.post({METRICS[0]: {START: 1.0}})
    [first] = os.listdir(journals)
    run.process.work()
    run.replace_process()
    run.post({METRICS[0]: {START: 2.0}})
    run.process.process_backlogs()
    on_change = cuts.recorder.on_change

    def commit_in_between() -> None:
        if first not in os.listdir(journals):
            cuts.recorder.on_change = on_change
            run.post({METRICS[0]: {START + MINUTE: 3.0}})
            run.process.process_backlogs()
            cuts.look()

    cuts.recorder.on_change = commit_in_between
    cleaner = Process(disk / "data", indexer, cuts.recorder)
    cleaner.acknowledge()
    cleaner.die()
    assert cuts.recorder.on_change == on_change
    cuts.look()
    run.end()
