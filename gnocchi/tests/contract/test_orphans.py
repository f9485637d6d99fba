"""Objects of failed commits go, and nothing else does."""

import os
import shutil
import uuid

import numpy
import pytest

from gnocchi.exceptions import BackendUnavailable, CommitLost
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.processing.aggregate import process_sack
from gnocchi.processing.orphans import collect_old_orphans, collect_orphans
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

    def fail(commits):
        kept.extend(commits)
        raise BackendUnavailable("index: away")

    commit_sacks, engine.indexer.commit_sacks = engine.indexer.commit_sacks, fail
    with pytest.raises(BackendUnavailable):
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    engine.indexer.commit_sacks = commit_sacks
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


def collect_old(engine, grace_s=0, unnamed=None):
    return collect_old_orphans(engine.indexer.list_sacks(), engine.indexer, engine.store, grace_s,
                               {} if unnamed is None else unnamed)


def change_sacks(engine, count):
    engine.indexer.change_sacks(count)
    engine.sacks, engine.incoming = count, MemoryIncoming(count)


@pytest.mark.parametrize("counts", [(4,), (4, 1), (4, 16, 2)])
def test_orphans_of_another_number_of_sacks(engine, counts):
    """They go once; blocks and heads that packs, whole or split, still refer to stay, as do their aggregates."""
    metrics = engine.create_metrics(POLICY, count=8)
    for hour in range(4):
        engine.post(metrics, [(START + 60 * 10**9 * numpy.arange(20 * hour, 20 * hour + 20), numpy.ones(20))] * 8)
        engine.process()
    before = [engine.read(i, "mean") for i in metrics]
    named = list_objects(engine)
    fail_a_commit(engine, metrics[0], START + 60 * 10**9 * 80)
    orphans = list_objects(engine) - named
    for count in counts:
        change_sacks(engine, count)
    unnamed = {}
    assert 0 == collect_old(engine, 1000, unnamed)
    if counts[-1] == 1:
        # The same number of sacks again: one of these is found in the usual way.
        assert (orphans, {}) == (list_objects(engine) - named, unnamed)
        assert len(orphans) == collect_orphans(0, engine.indexer, engine.store, 0, {})
    else:
        assert orphans == set(unnamed)
        assert len(orphans) == collect_old(engine)
    assert named == list_objects(engine)
    assert before == [engine.read(i, "mean") for i in metrics]
    assert 0 == collect_old(engine)


def test_replaced_objects_of_another_number_of_sacks(engine):
    """What the halves of a pack share stays until both have replaced it, and is garbage from then on."""
    metrics = engine.create_metrics(POLICY, ids=[uuid.UUID(int=2), uuid.UUID(int=3)])
    engine.post(metrics, [([START], [1.0])] * 2)
    engine.process()
    change_sacks(engine, 2)
    old = list_objects(engine)
    for metric in metrics:
        assert [] == engine.indexer.list_collectable_garbage(-1, 10)
        engine.post([metric], [([START], [2.0])])
        engine.process()
        assert 0 == collect_old(engine)
        assert old < list_objects(engine)
    assert old == set(engine.indexer.list_collectable_garbage(-1, 10))


def test_sleeper_of_another_number_of_sacks(engine, metric):
    """Whoever read his sack before the change loses his commit, whether his objects are there or not."""
    commit = fail_a_commit(engine, metric)
    change_sacks(engine, 2)
    assert 1 == collect_old(engine)
    with pytest.raises(CommitLost):
        engine.indexer.commit_sack(commit)
    change_sacks(engine, 1)
    with pytest.raises(CommitLost):
        engine.indexer.commit_sack(commit)


def test_index_restored_from_before_another_number_of_sacks(engine, metric, caplog):
    """Objects of commits after a change that the index does not know of may be all there is of them."""
    backup = [sack.sequence for sack in engine.indexer.list_sacks()]
    change_sacks(engine, 2)
    engine.indexer.change_sacks(1)
    key = make_key(1, 0, "base", max(backup) + 2)
    engine.store.driver.put(key, b"of the future")
    with engine.indexer.writing() as connection:
        connection.exec_driver_sql("UPDATE sack SET sequence = 0")
    assert 0 == collect_old(engine)
    assert {key} == list_objects(engine)
    assert "gnocchi-repair" in caplog.text


def test_foreign_files_stay(engine, metric):
    """What no commit can have written is not ours to delete."""
    engine.store.driver.put("sack/0-0/notes", b"of the operator")
    engine.store.driver.put("sack/7-0/notes", b"of the operator")
    assert 0 == collect_orphans(0, engine.indexer, engine.store, 0, {})
    assert 0 == collect_old(engine)
    assert {"sack/0-0/notes", "sack/7-0/notes"} == list_objects(engine)


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
