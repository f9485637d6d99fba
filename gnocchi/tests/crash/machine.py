"""One machine with one disk: SQLite, journals and objects in a directory, and processes that come and go."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import uuid

from gnocchi.incoming.file import FileDriver as JournalDriver
from gnocchi.indexer import migration
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing import janitor
from gnocchi.processing.aggregate import Processed, process_sacks
from gnocchi.storage import merge
from gnocchi.storage.drivers.file import FileDriver
from gnocchi.storage.store import Store
from gnocchi.tests.crash.ledger import POLICY
from gnocchi.tests.engine import Engine

SACKS = 2
#: Most of them share a sack, so that a delta pays and a merge has something to choose from.
METRICS = [uuid.UUID(int=n * SACKS + (n == 5)) for n in range(6)]
INDEX = "index.db"
#: Fits the requests of the script so that most commits are of both sacks, and some backlogs take several.
MEASURES_PER_SLICE = 100


class Killed(BaseException):
    """The process is gone.  Nothing may catch it."""


class Granted:
    """A coordinator that lies: every lock is granted to everybody."""

    @contextlib.contextmanager
    def try_lock(self, name):
        yield True


def hurry(monkeypatch):
    """Have each round of the janitor do all that it ever does, at once: no grace, and merges of two blocks."""
    for name, value in (("GARBAGE_GRACE_S", -1), ("ORPHAN_GRACE_S", 0), ("LEFTOVER_AGE_S", -1),
                        ("ROUNDS_PER_SEARCH", 1)):
        monkeypatch.setattr(janitor, name, value)
    monkeypatch.setattr(merge, "FAN_IN", 2)
    monkeypatch.setattr(janitor.random, "randrange", lambda stop: 0)    # the same order each time


def make_template(directory):
    """Fill a directory with an index of metrics, and with what the drivers need."""
    with contextlib.closing(Indexer(f"sqlite:///{directory}/{INDEX}")) as indexer:
        migration.upgrade(indexer)
        indexer.create_sacks(SACKS)
        Engine(indexer, None, None, SACKS).create_metrics(POLICY, ids=METRICS)
        with indexer.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    FileDriver(str(directory)).upgrade()
    JournalDriver(str(directory), SACKS).upgrade()


@contextlib.contextmanager
def make_disk():
    """Give a directory in memory, with a template as `make_template` makes it and an empty folder `data`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as path:
        disk = pathlib.Path(path)
        for name in ("template", "data"):
            (disk / name).mkdir()
        make_template(disk / "template")
        yield disk


def clear(directory):
    """Delete what is in a directory."""
    for entry in os.scandir(directory):
        if entry.is_dir():
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


class Process(Engine):
    """A process on the machine, with the janitor in it.

    Parameters
    ----------
    indexer : Indexer
        May be shared by processes that live one after the other: it compiles its statements once.
    system
        Takes the place of `os` in the file drivers.
    wrap : callable
        Puts something around indexer, incoming and storage driver.
    """

    def __init__(self, directory, indexer, system=os, wrap=lambda *layers: layers):
        self.journals = JournalDriver(str(directory), SACKS, journal_bytes_max=12_000, system=system)
        # Syncs one after the other: what happened before a fault is the same each time.
        driver = FileDriver(str(directory), sync_threads=1, system=system)
        indexer, incoming, driver = wrap(indexer, self.journals, driver)
        super().__init__(indexer, incoming, Store(driver, cache_bytes=1 << 20), SACKS)
        self._janitor = janitor.Janitor(incoming, indexer, self.store, Granted(), 100, lambda: False)

    def work(self):
        """Do what a processing worker does in a round."""
        self.process_backlogs()
        self.acknowledge()

    def process_backlogs(self):
        numbers = list(range(SACKS))
        while numbers:
            outcomes = process_sacks(numbers, self.incoming, self.indexer, self.store, MEASURES_PER_SLICE)
            numbers = [n for n, done in outcomes.items() if isinstance(done, Processed) and not done.complete]

    def acknowledge(self):
        self.incoming.acknowledge({sack.number: sack.checkpoint for sack in self.indexer.list_sacks()})

    def clean_up(self):
        assert 0 == self._janitor.clean_up().errors

    def die(self):
        """Give back what the operating system takes from a dead process, and nothing else."""
        self.journals._writer.forked_in_child()
        self.journals.close()

    def list_stray_objects(self):
        """Return the keys of objects that nothing refers to."""
        stored = list(self.store.driver.list(""))
        return set(stored) - self.indexer.list_known_objects(stored)


def list_leftovers(directory):
    return os.listdir(pathlib.Path(directory) / "tmp")
