"""Small objects of several sacks are stored as one, which goes when nobody needs it and not before."""

import uuid

import numpy
import pytest

from gnocchi.catalogue import find_object
from gnocchi.exceptions import BackendUnavailable, CommitLost
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.indexer import SackCommit
from gnocchi.processing.aggregate import Processed, process_sacks
from gnocchi.processing.orphans import collect_orphans
from gnocchi.processing.rebuild import rebuild_catalogue
from gnocchi.processing.repair import check_sack
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, make_policy

SACKS = 4
MINUTE = 60 * 10**9
START = 1_700_000_040 * 10**9
POLICY = make_policy("guests", [(60, 100)], ("mean", "count"))
#: Twelve in each sack: a delta of one of them is small enough to be written.
METRICS = [uuid.UUID(int=number) for number in range(12 * SACKS)]


@pytest.fixture
def engine(indexer):
    indexer.create_sacks(SACKS)
    made = Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=0), SACKS)
    made.create_metrics(POLICY, ids=METRICS)
    return made


def post(engine, minute, ids=METRICS):
    engine.post(ids, [([START + MINUTE * minute], [float(minute)])] * len(ids))


def process(engine, numbers=range(SACKS)):
    return process_sacks(list(numbers), engine.incoming, engine.indexer, engine.store)


def aggregate(engine, minute, ids=METRICS):
    """Make one commit of every sack, together."""
    post(engine, minute, ids)
    assert all(isinstance(outcome, Processed) for outcome in process(engine).values())


def read_all(engine):
    return [engine.read(metric, "mean")[60.0] for metric in METRICS]


def list_stored(engine):
    return set(engine.store.driver.list(""))


def list_free(engine):
    return set(engine.indexer.list_collectable_garbage(-1, 100))


def hold_commits(engine):
    """Have the next commits fail as if the index were away; return what was to be committed."""
    kept = []

    def fail(commits):
        kept.extend(commits)
        raise BackendUnavailable("index: away")

    commit_sacks, engine.indexer.commit_sacks = engine.indexer.commit_sacks, fail
    with pytest.raises(BackendUnavailable):
        process(engine)
    engine.indexer.commit_sacks = commit_sacks
    return kept


def test_one_object_for_all(engine):
    """Bases, deltas and blocks of all sacks are one object of each kind; all is read, and found sound."""
    for minute in range(3):
        aggregate(engine, minute)
    aggregate(engine, 3, METRICS[:SACKS])
    kinds = {name.split("-")[2] for name in list_stored(engine) - list_free(engine)}
    assert {"base", "delta", "block"} == kinds
    expected = [(START + MINUTE * minute, float(minute)) for minute in range(4)]
    assert [expected] * SACKS + [expected[:3]] * (len(METRICS) - SACKS) == read_all(engine)
    for number in range(SACKS):
        assert [] == check_sack(number, engine.indexer, engine.store).findings


def test_garbage(engine):
    """An object is deleted when the last of its sacks has replaced what it has there, whether host or guest."""
    aggregate(engine, 0)
    [old] = list_stored(engine)
    for number in (2, 0, 3, 1):
        assert set() == list_free(engine)
        post(engine, 1, METRICS[number::SACKS])
        process(engine)
    assert {old} == list_free(engine)
    assert old in list_stored(engine)
    engine.store.driver.delete_many(list_free(engine))
    engine.indexer.delete_garbage_rows([old])
    assert set() == list_free(engine)
    assert list_stored(engine) == engine.indexer.list_known_objects(sorted(list_stored(engine)))
    assert [[(START, 0.0), (START + MINUTE, 1.0)]] * len(METRICS) == read_all(engine)


def test_object_is_known_by_its_guests(engine):
    """It is no orphan as long as any sack has anything in it."""
    aggregate(engine, 0)
    [old] = list_stored(engine)
    for number in range(SACKS - 1):
        post(engine, 1, METRICS[number::SACKS])
        process(engine)
    for key in list(engine.indexer.list_collectable_garbage(-1, 10)):
        assert key != old
    engine.indexer.delete_garbage_rows([old])       # so that only the guest tells
    for number in range(SACKS):
        assert 0 == collect_orphans(number, engine.indexer, engine.store, 0, {})
    assert {old} == engine.indexer.list_known_objects([old])


def test_failed_commit_leaves_nothing(engine):
    """The object of a commit that failed goes with its host; the guests' commits are lost, though nobody moved them."""
    post(engine, 0)
    commits = hold_commits(engine)
    [name] = list_stored(engine)
    host = int(name.split("/")[2].split("-")[0])
    for number in set(range(SACKS)) - {host}:
        assert 0 == collect_orphans(number, engine.indexer, engine.store, 0, {})
    assert 1 == collect_orphans(host, engine.indexer, engine.store, 0, {})
    assert set() == list_stored(engine)
    assert set(range(SACKS)) == engine.indexer.commit_sacks(commits)
    assert [0] * SACKS == [sack.sequence - (sack.number == host) for sack in engine.indexer.list_sacks()]
    process(engine)
    assert [[(START, 0.0)]] * len(METRICS) == read_all(engine)


def test_guest_cannot_be_committed_alone(engine):
    post(engine, 0)
    commits = hold_commits(engine)
    [guest, *_] = [commit for commit in commits if commit.hosts]
    with pytest.raises(CommitLost):
        engine.indexer.commit_sack(guest)


@pytest.mark.parametrize("overtaken", ["host", "guest"])
def test_overtaken(engine, overtaken):
    """A lost guest costs nobody else anything; with a host, those are lost whose objects lie in its."""
    post(engine, 0)
    commits = hold_commits(engine)
    loser = next(commit.sack for commit in commits if bool(commit.hosts) == (overtaken == "guest"))
    engine.indexer.commit_sack(SackCommit(loser, 0, checkpoint=None))
    lost = {loser} if overtaken == "guest" else set(range(SACKS))
    assert lost == engine.indexer.commit_sacks(commits)
    for number in range(SACKS):
        collect_orphans(number, engine.indexer, engine.store, 0, {})
    assert (1 if overtaken == "guest" else 0) == len(list_stored(engine))
    process(engine)
    assert [[(START, 0.0)]] * len(METRICS) == read_all(engine)


def test_host_that_is_lost_with_its_own_host(engine):
    """Whoever lies in an object of a sack that lies in an object of a lost one is lost, too."""
    chain = [SackCommit(0, 0, None), SackCommit(1, 0, None, hosts=(0,)), SackCommit(2, 0, None, hosts=(1,)),
             SackCommit(3, 0, None)]
    engine.indexer.commit_sack(SackCommit(0, 0, None))
    assert {0, 1, 2} == engine.indexer.commit_sacks(chain)
    assert [1, 0, 0, 1] == [sack.sequence for sack in engine.indexer.list_sacks()]


def test_another_number_of_sacks(engine):
    """What lies together stays so whatever sacks its packs go to."""
    aggregate(engine, 0)
    [old] = list_stored(engine)
    for count in (16, 2):
        engine.indexer.change_sacks(count)
        engine.sacks, engine.incoming = count, MemoryIncoming(count)
        assert [[(START, 0.0)]] * len(METRICS) == read_all(engine)
        assert set() == list_free(engine)
    post(engine, 1)
    process(engine, range(2))
    assert {old} == list_free(engine)
    assert [[(START, 0.0), (START + MINUTE, 1.0)]] * len(METRICS) == read_all(engine)


def test_catalogue_rebuilt(engine):
    """The catalogue is made anew as it was, also where a commit was lost whose objects lie with those of others."""
    for minute in range(3):
        aggregate(engine, minute)
    aggregate(engine, 3, METRICS[:SACKS])
    post(engine, 4, METRICS[:SACKS])
    commits = hold_commits(engine)
    guest = next(commit.sack for commit in commits if commit.hosts)
    engine.indexer.commit_sack(SackCommit(guest, 4, checkpoint=None))
    assert {guest} == engine.indexer.commit_sacks(commits)
    process(engine)
    expected = read_all(engine)
    rows = [[(pack.base, pack.delta, pack.metrics) for pack in engine.indexer.list_packs(number)]
            for number in range(SACKS)]
    rebuilt = rebuild_catalogue(engine.indexer, engine.store, force=True)
    assert [] == rebuilt.problems
    assert rows == [[(pack.base, pack.delta, pack.metrics) for pack in engine.indexer.list_packs(number)]
                    for number in range(SACKS)]
    assert expected == read_all(engine)
    aggregate(engine, 5)
    assert all((START + MINUTE * 5, 5.0) in values for values in read_all(engine))


def test_damage_is_told_by_the_key(engine):
    """Damage in one sack's object is found there, named by its key, and nowhere else."""
    aggregate(engine, 0)
    refs = [engine.indexer.list_packs(number)[0].base for number in range(SACKS)]
    [name] = {find_object(ref.key) for ref in refs}
    data = bytearray(engine.store.driver.get(name))
    damaged = numpy.argmax([ref.offset for ref in refs])
    data[refs[damaged].offset + 50] ^= 1
    engine.store.driver.delete_many([name])
    engine.store.driver.put(name, bytes(data))
    for number, ref in enumerate(refs):
        problems = [finding.problem for finding in check_sack(number, engine.indexer, engine.store).findings]
        assert [number == damaged] == [any(ref.key in problem for problem in problems)]
        assert bool(problems) == (number == damaged)
