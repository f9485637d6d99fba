"""Objects of failed commits go, and nothing else does."""

import os
import shutil

import numpy
import pytest

from gnocchi.exceptions import BackendUnavailable, CommitLost
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.processing.aggregate import process_sack
from gnocchi.processing.orphans import collect_orphans
from gnocchi.storage.drivers.file import FileDriver
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.sections import make_key
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, make_policy

SACKS = 1
START = 1_700_000_040 * 10**9
POLICY = make_policy("orphans", [(60, 100)], ("mean", "count"))


@pytest.fixture(params=["memory", "file"])
def engine(request, tmp_path, indexer):
    driver = MemoryDriver() if request.param == "memory" else FileDriver(str(tmp_path / "data"))
    driver.upgrade()
    indexer.create_sacks(SACKS)
    return Engine(indexer, MemoryIncoming(SACKS), Store(driver, cache_bytes=0), SACKS)


@pytest.fixture
def metric(engine):
    [metric_id] = engine.create_metrics(POLICY)
    return metric_id


def list_objects(engine):
    return set(engine.store.driver.list(""))


def fail_a_commit(engine, metric, when=START):
    """Leave an object behind that was written for a commit which did not come; return it as the commit."""
    engine.post([metric], [([when], [1.0])])
    kept = []

    def fail(commit):
        kept.append(commit)
        raise BackendUnavailable("index: away")

    commit_sack, engine.indexer.commit_sack = engine.indexer.commit_sack, fail
    with pytest.raises(BackendUnavailable):
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    engine.indexer.commit_sack = commit_sack
    return kept[0]


def test_failed_commit_leaves_nothing(engine, metric):
    """The object goes although nothing was committed since; whoever still meant to commit it loses."""
    commit = fail_a_commit(engine, metric)
    assert 1 == len(list_objects(engine))
    assert 1 == collect_orphans(0, engine.indexer, engine.store, 0, {})
    assert set() == list_objects(engine)
    with pytest.raises(CommitLost):
        engine.indexer.commit_sack(commit)
    engine.process()
    assert [(START, 1.0)] == engine.read(metric, "mean")[60.0]


def test_grace(engine, metric):
    """An object is left alone until it was known without a name for long enough, and no commit is disturbed."""
    commit = fail_a_commit(engine, metric)
    unnamed = {}
    assert 0 == collect_orphans(0, engine.indexer, engine.store, 1000, unnamed)
    assert list_objects(engine) == set(unnamed)
    engine.indexer.commit_sack(commit)
    assert 0 == collect_orphans(0, engine.indexer, engine.store, 0, unnamed)
    assert {} == unnamed
    assert [(START, 1.0)] == engine.read(metric, "mean")[60.0]


def test_first_sight_counts(engine, metric):
    """The grace period begins when the object is first found, not at each look."""
    fail_a_commit(engine, metric)
    unnamed = {}
    collect_orphans(0, engine.indexer, engine.store, 1000, unnamed)
    [key] = unnamed
    unnamed[key] -= 1000
    assert 1 == collect_orphans(0, engine.indexer, engine.store, 1000, unnamed)
    assert {} == unnamed


def test_named_objects_stay(engine, metric):
    """Bases, deltas, blocks, and garbage in its own grace period are no orphans; an old orphan beside them is."""
    for minute in range(4):
        engine.post([metric], [(START + 60 * 10**9 * numpy.arange(20 * minute, 20 * minute + 20), numpy.ones(20))])
        engine.process()
    named = list_objects(engine)
    fail_a_commit(engine, metric, START + 60 * 10**9 * 80)
    orphans = list_objects(engine) - named
    engine.process()
    named = list_objects(engine) - orphans
    sequence = engine.indexer.get_sack(0).sequence
    assert len(orphans) == collect_orphans(0, engine.indexer, engine.store, 0, {})
    assert named == list_objects(engine)
    assert sequence == engine.indexer.get_sack(0).sequence    # no need to disturb anybody


def test_index_restored_from_a_backup(engine, metric, caplog):
    """Objects of commits that the index does not know of may be all there is of them: all are kept."""
    keys = {make_key(0, 0, "base", sequence) for sequence in (1, 2)}
    for key in keys:
        engine.store.driver.put(key, b"of the future")
    for _ in range(3):
        assert 0 == collect_orphans(0, engine.indexer, engine.store, 0, {})
    assert keys == list_objects(engine)
    assert 0 == engine.indexer.get_sack(0).sequence
    assert "gnocchi-repair" in caplog.text


def test_foreign_files_stay(engine, metric):
    """What no commit can have written is not ours to delete."""
    engine.store.driver.put("sack/0-0/notes", b"of the operator")
    assert 0 == collect_orphans(0, engine.indexer, engine.store, 0, {})
    assert {"sack/0-0/notes"} == list_objects(engine)


def test_overtaken_collector_deletes_nothing(engine, metric):
    """A janitor that lost its lock without knowing loses the bump, and what it took for orphans stays."""
    commit = fail_a_commit(engine, metric)
    bump = engine.indexer.commit_sack

    def overtaken(mine):
        engine.indexer.commit_sack = bump
        bump(commit)
        bump(mine)

    engine.indexer.commit_sack = overtaken
    with pytest.raises(CommitLost):
        collect_orphans(0, engine.indexer, engine.store, 0, {})
    assert [(START, 1.0)] == engine.read(metric, "mean")[60.0]


def test_leftovers_of_the_file_driver(tmp_path):
    """Unfinished objects go when they are old; objects and what is being written stay."""
    driver = FileDriver(str(tmp_path))
    driver.upgrade()
    driver.put("sack/0-0/base", b"x")
    shutil.copy(tmp_path / "objects" / "sack/0-0/base", tmp_path / "tmp" / "old")
    shutil.copy(tmp_path / "objects" / "sack/0-0/base", tmp_path / "tmp" / "young")
    os.utime(tmp_path / "tmp" / "old", (0, 0))
    assert 1 == driver.delete_leftovers(3600)
    assert ["young"] == os.listdir(tmp_path / "tmp")
    assert ["sack/0-0/base"] == list(driver.list(""))
