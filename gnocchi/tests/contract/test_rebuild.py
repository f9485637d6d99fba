"""The catalogue is made anew as it was, also where commits that were lost have left objects of the same sequence."""

import uuid

import numpy
import pytest
import sqlalchemy as sa

from gnocchi.catalogue import SackCommit, SectionRef
from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.indexer import models
from gnocchi.processing.aggregate import process_sack
from gnocchi.processing.rebuild import rebuild_catalogue
from gnocchi.processing.rebuild_heads import FoundHead, find_lost
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.sections import NamedHeads
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, make_policy

MINUTE = 60 * 10**9
START = 1_700_000_000 * 10**9 // (60 * MINUTE) * 60 * MINUTE
POLICY = make_policy("rebuilt", [(60, 10000), (3600, None)], ("sum", "count"))
#: So many that a delta of one of them is small enough to be written.
METRICS = [uuid.UUID(int=n) for n in range(1, 21)]


@pytest.fixture
def engine(tmp_path, make_index):
    indexer = make_index(tmp_path / "index.db", 1)
    made = Engine(indexer, MemoryIncoming(1), Store(MemoryDriver(), cache_bytes=0), 1)
    made.create_metrics(POLICY, ids=METRICS)
    yield made
    indexer.close()


def post(engine, begin, end, ids=METRICS):
    minutes = numpy.arange(begin, end)
    engine.post(ids, [(START + MINUTE * minutes, minutes * 1.0)] * len(ids))


def process(engine, measures_max=1_000_000):
    """Make one commit."""
    process_sack(0, engine.incoming, engine.indexer, engine.store, measures_max)


def lose(engine):
    """Write the objects of a commit that does not happen."""
    def fail(*_):
        raise BackendUnavailable("index: away")

    names = [name for name in ("commit_sack", "commit_sacks") if hasattr(engine.indexer, name)]
    for name in names:
        setattr(engine.indexer, name, fail)
    with pytest.raises(BackendUnavailable):
        process(engine)
    for name in names:
        delattr(engine.indexer, name)


def read_all(engine):
    return {(i, method): engine.read(i, method) for i in METRICS for method in POLICY.aggregation_methods}


def rebuild(engine):
    """Lose the catalogue and make it anew."""
    with engine.indexer.writing() as connection:
        for table in (models.block, models.pack, models.parked, models.garbage):
            connection.execute(sa.delete(table))
    assert [] == rebuild_catalogue(engine.indexer, engine.store, force=False).problems


def list_kinds(engine, sequence):
    return sorted(key.split("/")[-1].split("-")[1] for key in engine.store.driver.list("")
                  if f"-{sequence}-" in key.split("/")[-1])


def test_delta_lies_on_the_base_that_it_names(engine):
    """A base of a commit that was lost is the newer one, and not what the delta was made for."""
    post(engine, 0, 5)
    process(engine)
    post(engine, 5, 70, METRICS[:1])
    post(engine, 5, 70, METRICS[1:])
    lose(engine)
    engine.indexer.commit_sack(SackCommit(0, 1, checkpoint=None))     # as the janitor does before it deletes those
    process(engine, measures_max=1)
    assert (["base", "block"], ["block", "delta"]) == (list_kinds(engine, 2), list_kinds(engine, 3))
    before = read_all(engine)
    rebuild(engine)
    assert before == read_all(engine)
    engine.process()
    assert [60.0, 10.0] == [value for _, value in engine.read(METRICS[7], "count")[3600.0]]


def test_delta_tells_which_of_two_bases_was_committed(engine):
    """The lost one has more measures: it was of a larger slice."""
    post(engine, 0, 5)
    process(engine)
    post(engine, 5, 70)
    post(engine, 70, 130, METRICS[:1])
    post(engine, 70, 130, METRICS[1:])
    lose(engine)
    process(engine, measures_max=65 * len(METRICS))
    process(engine, measures_max=1)
    assert ["base", "base", "block", "block"] == list_kinds(engine, 2)
    assert "delta" in list_kinds(engine, 3)
    before = read_all(engine)
    rebuild(engine)
    assert before == read_all(engine)
    engine.process()
    assert [60.0, 60.0, 10.0] == [value for _, value in engine.read(METRICS[7], "count")[3600.0]]


def test_blocks_of_a_lost_commit_do_not_count(engine):
    """Its slice was larger, so that a measure was in time for it that came too late for the one that was committed."""
    post(engine, 0, 5)
    process(engine)
    post(engine, 5, 70)
    minutes = numpy.array([10, *range(70, 130)])
    engine.post(METRICS, [(START + MINUTE * minutes, minutes * 7.0)] * len(METRICS))
    lose(engine)
    process(engine, measures_max=65 * len(METRICS))
    process(engine)
    assert 2 == list_kinds(engine, 2).count("block")
    before = read_all(engine)
    assert 10.0 == dict(before[METRICS[7], "sum"][60.0])[START + 10 * MINUTE]
    rebuild(engine)
    assert before == read_all(engine)


def test_objects_of_a_commit_share_their_digits(engine):
    """And with no other commit: by that it is known what a lost one wrote."""
    for minute in (0, 70, 140):
        post(engine, minute, minute + 70)
        process(engine)
    digits = {sequence: {key[-16:] for key in engine.store.driver.list("") if f"-{sequence}-" in key.split("/")[-1]}
              for sequence in (1, 2, 3)}
    assert [1, 1, 1] == [len(those) for those in digits.values()]
    assert 3 == len(set.union(*digits.values()))


# ---- what heads tell of each other


def found(sequence, nonce, named=(0, 0, 0), share=(0, 0), delta=False):
    ref = SectionRef(f"sack/0-0/0-base-{sequence}-{nonce:016x}", 0, 1)
    return FoundHead(sequence, *share, ref, ref if delta else None, nonce, NamedHeads(*named))


def test_nothing_is_lost_without_a_witness():
    """Of two heads of the newest sequence, and of what came before the replaced one, nothing is known."""
    assert set() == find_lost([found(3, 30), found(3, 31), found(5, 50, (4, 30, 40)), found(5, 51, (4, 30, 40))])


@pytest.mark.parametrize("sequence", [4, 5, 6])
def test_lost_between_a_head_and_what_it_replaced(sequence):
    """The sequence of the replaced one counts in, that of the witness does not; a witness may be lost itself."""
    heads = [found(3, 30), found(4, 40, (3, 30, 30)), found(sequence, 99, (3, 30, 30)), found(6, 60, (4, 30, 40))]
    assert ({99} if sequence < 6 else set()) == find_lost(heads)


@pytest.mark.parametrize(("share", "lost"), [((0, 0), True), ((1, 1), True), ((2, 3), True), ((3, 7), True),
                                             ((1, 0), False), ((2, 1), False), ((3, 5), False)])
def test_heads_testify_of_shares_that_overlap_theirs(share, lost):
    """Of a whole that would hold it, and of parts of it, and of nobody else."""
    heads = [found(4, 99, share=share), found(6, 60, (4, 30, 40), share=(2, 3))]
    assert ({99} if lost else set()) == find_lost(heads)


def test_two_histories_are_both_kept():
    """An index restored from a backup went on from there: each history calls the other one lost."""
    old = [found(1, 10), found(2, 20, (1, 10, 10)), found(3, 30, (2, 10, 20))]
    new = [found(2, 21, (1, 10, 10)), found(3, 31, (2, 10, 21))]
    assert set() == find_lost(old + new)
