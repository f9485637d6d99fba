"""Damage is found, named and never taken for a value; what is given up is said; the catalogue can be made anew."""

import random
import uuid

import numpy
import pytest
import sqlalchemy as sa

from gnocchi.exceptions import BackendUnavailable, CorruptedData, ObjectNotFound
from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.indexer import models
from gnocchi.processing.aggregate import process_sack
from gnocchi.processing.merge import merge_sack
from gnocchi.processing.rebuild import rebuild_catalogue
from gnocchi.processing.repair import Refused, abandon_block, abandon_head, abandon_parked, check_sack
from gnocchi.processing.replay import replay_pack
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.sections import KIND_BASE, KIND_BLOCK, KIND_DELTA
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, make_policy

SACKS = 2
MINUTE = 60 * 10**9
START = 1_700_000_040 * 10**9
HOUR_OF_START = START // (60 * MINUTE) * 60 * MINUTE
METHODS = ("sum", "count")
POLICY = make_policy("damaged", [(60, 10000), (3600, None)], METHODS)


class EditableDriver(MemoryDriver):
    """Objects can be replaced."""

    def replace(self, key, data):
        self._objects[key] = data

    def export(self):
        return dict(self._objects)


@pytest.fixture
def engine(tmp_path, make_index):
    indexer = make_index(tmp_path / "index.db", SACKS)
    yield Engine(indexer, MemoryIncoming(SACKS), Store(EditableDriver(), cache_bytes=0), SACKS)
    indexer.close()


def ids_in_sack_0(count, first=1):
    return [uuid.UUID(int=SACKS * n) for n in range(first, first + count)]


def post_minutes(engine, ids, begin, end, value=1.0):
    minutes = numpy.arange(begin, end)
    engine.post(ids, [(HOUR_OF_START + MINUTE * minutes, minutes * value)] * len(ids))


def read_all(engine, ids, methods=METHODS):
    return {(i, method): engine.read(i, method) for i in ids for method in methods}


# ---- every byte


@pytest.fixture
def small(engine):
    """One metric with a base, a delta on it, and blocks of both granularities; another in a pack of its own."""
    [metric_id] = engine.create_metrics(POLICY, ids=ids_in_sack_0(1))
    twin = make_policy("twin", [(60, 100)], ("sum",))
    [other] = engine.create_metrics(twin, ids=ids_in_sack_0(1, first=5))
    padding = engine.create_metrics(POLICY, ids=ids_in_sack_0(8, first=10))
    post_minutes(engine, [metric_id, other], 0, 5)
    engine.process()
    post_minutes(engine, [metric_id, *padding], 58, 63)
    engine.process()
    post_minutes(engine, [metric_id], 63, 64)
    engine.process()
    pack = next(pack for pack in engine.indexer.list_packs(0) if pack.metrics > 1)
    assert pack.delta is not None
    return metric_id, other, pack


class Abort(Exception):
    pass


def try_to_process(engine):
    """Process sack 0 up to the commit, which is returned and does not happen."""
    commits = []

    def keep(group):
        commits.extend(group)
        raise Abort

    commit_sacks, engine.indexer.commit_sacks = engine.indexer.commit_sacks, keep
    try:
        process_sack(0, engine.incoming, engine.indexer, engine.store)
    except Abort:
        return commits[0]
    finally:
        engine.indexer.commit_sacks = commit_sacks


def list_damages(data, rng):
    """Yield an object with each of its bytes changed, and cut at each byte."""
    for place in range(len(data)):
        yield data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1:]
        yield data[:place]


@pytest.mark.parametrize("kind", ["base", "delta", "block"])
def test_every_byte(engine, small, kind):
    """Of each object: found by `list`; a reader gets the right values or the name; so does metricd; others nothing."""
    metric_id, other, pack = small
    rng = random.Random(7)
    methods = METHODS if kind == "block" else ["sum"]     # a head is read whole, whatever is asked for
    expected, beside = read_all(engine, [metric_id], methods), read_all(engine, [other], ["sum"])
    post_minutes(engine, [metric_id, other], 64, 65)
    sound = try_to_process(engine)
    blocks = [block for block in engine.indexer.list_sack_blocks(0) if block.pack_id == pack.id]
    key = {"base": pack.base, "delta": pack.delta, "block": blocks[-1].section}[kind].key
    data = engine.store.driver.get(key)
    shares = [p for p in engine.indexer.list_packs(0) if p.base.key == key or p.delta and p.delta.key == key]
    damaged = 0
    for number, broken in enumerate(list_damages(data, rng)):
        engine.store.driver.replace(key, broken)
        findings = check_sack(0, engine.indexer, engine.store, prefix=key).findings
        assert findings
        assert all(key in finding.problem for finding in findings)
        try:
            assert expected == read_all(engine, [metric_id], methods)
        except CorruptedData as e:
            assert key == e.key
            damaged += 1
            if kind != "block" and number % 8 < 2:     # each change and cut of every fourth byte
                commit = try_to_process(engine)
                assert [pack.id] == [row.pack_id for row in commit.parked]
                assert key in commit.parked[0].reason
                assert len(sound.packs) - 1 == len(commit.packs)
        if len(shares) < 2 and number % 8 < 2:
            assert beside == read_all(engine, [other], ["sum"])
    # Whatever is not seen by a reader lies outside of what it needs: in the table, or in padding.
    assert damaged > len(data) / 2
    engine.store.driver.replace(key, data)
    assert expected == read_all(engine, [metric_id], methods)
    assert [] == check_sack(0, engine.indexer, engine.store).findings


def test_every_byte_of_parked_measures(engine, small):
    """They are never taken if anything of them is wrong."""
    metric_id, _, pack = small
    sound = engine.store.driver.get(pack.base.key)
    engine.store.driver.replace(pack.base.key, sound[:-9])
    post_minutes(engine, [metric_id], 64, 66)
    engine.process()
    engine.store.driver.replace(pack.base.key, sound)
    [row] = engine.indexer.list_parked()
    data = engine.store.driver.get(row.section.key)
    for broken in list_damages(data, random.Random(8)):
        engine.store.driver.replace(row.section.key, broken)
        findings = check_sack(0, engine.indexer, engine.store, prefix=row.section.key).findings
        assert findings
        assert all(row.section.key in finding.problem for finding in findings)
        if "parked" in {finding.what for finding in findings}:
            assert row.section.key in str(abandon_parked(0, row.id, engine.indexer, engine.store, sure=False).section)
    assert [row] == engine.indexer.list_parked()


def test_missing_objects_are_found(engine, small):
    """Each row that names the object is told."""
    _, _, pack = small
    engine.store.driver.delete_many([pack.base.key])
    findings = check_sack(0, engine.indexer, engine.store).findings
    assert pack.id in {finding.id for finding in findings}
    assert all("does not exist" in finding.problem for finding in findings)
    checked = check_sack(0, engine.indexer, engine.store, prefix="sack/1-0/0-block-")
    assert (2, []) == checked


def test_object_replaced_while_it_is_checked(engine, small, monkeypatch):
    """What somebody else has just replaced is no damage."""
    metric_id, _, pack = small
    get, calls = engine.store.driver.get, []

    def overtaken(key, *args):
        if not calls:
            calls.append(key)
            post_minutes(engine, [metric_id], 64, 65)
            engine.process()
            engine.store.driver.delete_many(engine.indexer.list_collectable_garbage(-1, 100))
        return get(key, *args)

    monkeypatch.setattr(engine.store.driver, "get", overtaken)
    assert [] == check_sack(0, engine.indexer, engine.store).findings


# ---- giving up


def break_object(engine, section, place=-1):
    """Change a byte of a section, the last one if not told."""
    data = bytearray(engine.store.driver.get(section.key))
    data[section.offset + place % section.length] ^= 1
    engine.store.driver.replace(section.key, bytes(data))


@pytest.fixture
def lost(engine):
    """Two metrics with two sealed hours and an open one, the second two hours behind, and a third without any."""
    ids = engine.create_metrics(POLICY, ids=ids_in_sack_0(3))
    post_minutes(engine, ids[:1], 0, 150)
    post_minutes(engine, ids[1:2], 0, 70)
    post_minutes(engine, ids[2:], 0, 5)
    engine.process()
    post_minutes(engine, ids[:1], 150, 155)
    engine.process()
    [pack] = engine.indexer.list_packs(0)
    break_object(engine, pack.delta or pack.base)
    return ids, pack


def read_minutes(engine, metric_id, method="sum", granularity=60.0):
    return {(t - HOUR_OF_START) // MINUTE: v for t, v in engine.read(metric_id, method)[granularity]}


def test_abandon_head(engine, lost):
    """Sealed buckets stay as they are, open ones are lost and told, parked measures are taken."""
    ids, pack = lost
    post_minutes(engine, ids, 155, 157)
    engine.process()
    engine.indexer.delete_metrics(ids[2:])
    told = abandon_head(0, pack.id, engine.indexer, engine.store, sure=False)
    assert 1 == len(engine.indexer.list_parked())
    done = abandon_head(0, pack.id, engine.indexer, engine.store, sure=True)
    assert [i.bytes for i in ids[:2]] == done.ids.tolist()
    hours = (done.lost_from.view("i8") - HOUR_OF_START) // MINUTE
    assert [120, 60] == hours.tolist() == ((told.lost_from.view("i8") - HOUR_OF_START) // MINUTE).tolist()
    assert (1, 6, 2, None) == (done.others, done.replayed, done.refused.total(), done.problem)
    assert [] == engine.indexer.list_parked()
    assert {n: float(n) for n in [*range(120), 155, 156]} == read_minutes(engine, ids[0])
    assert {n: float(n) for n in [*range(60), 155, 156]} == read_minutes(engine, ids[1])
    assert {0: 60.0, 60: 60.0, 120: 2.0} == read_minutes(engine, ids[0], "count", 3600.0)
    # Older ones than the last sealed bucket are refused, as before: nothing is computed twice.
    post_minutes(engine, ids[:1], 100, 125, value=7.0)
    assert {"too old": 20} == engine.process()
    assert {n: n * 7.0 if 120 <= n < 125 else float(n) for n in [*range(125), 155, 156]} == read_minutes(engine, ids[0])
    assert [] == check_sack(0, engine.indexer, engine.store).findings


def test_abandon_head_beside_a_damaged_block(engine, lost):
    """Nothing that the block may hold is computed again, for whichever metric."""
    ids, pack = lost
    for block in engine.indexer.list_sack_blocks(0):
        break_object(engine, block.section, place=20)
    last = max(block.last + block.granularity for block in engine.indexer.list_sack_blocks(0))
    done = abandon_head(0, pack.id, engine.indexer, engine.store, sure=True)
    assert [i.bytes for i in ids] == done.ids.tolist()
    assert [last] * 3 == done.lost_from.view("i8").tolist()
    for block in engine.indexer.list_sack_blocks(0):
        abandon_block(0, block.id, engine.indexer, engine.store, sure=True)
    post_minutes(engine, ids, 200, 201)
    engine.process()
    assert {200: 200.0} == read_minutes(engine, ids[1])


def test_abandon_head_that_is_missing(engine, lost):
    _, pack = lost
    engine.store.driver.delete_many([pack.base.key])
    assert 2 == len(abandon_head(0, pack.id, engine.indexer, engine.store, sure=True).ids)


def test_abandon_head_with_damaged_parked_measures(engine, lost):
    """What cannot be taken is told, and can be given up as well."""
    ids, pack = lost
    post_minutes(engine, ids[:1], 155, 157)
    engine.process()
    [row] = engine.indexer.list_parked()
    break_object(engine, row.section)
    done = abandon_head(0, pack.id, engine.indexer, engine.store, sure=True)
    assert row.section.key in done.problem
    abandon_parked(0, row.id, engine.indexer, engine.store, sure=False)
    assert [row] == engine.indexer.list_parked()
    abandon_parked(0, row.id, engine.indexer, engine.store, sure=True)
    assert [] == engine.indexer.list_parked()


def test_what_is_sound_is_not_given_up(engine, small):
    """A typing mistake destroys nothing."""
    metric_id, _, pack = small
    before = read_all(engine, [metric_id])
    [block, *_] = engine.indexer.list_sack_blocks(0)
    for abandon, id_ in ((abandon_head, pack.id), (abandon_block, block.id)):
        with pytest.raises(Refused, match="is sound"):
            abandon(0, id_, engine.indexer, engine.store, sure=True)
    for abandon in (abandon_head, abandon_block, abandon_parked):
        with pytest.raises(Refused, match="has no"):
            abandon(0, uuid.UUID(int=1), engine.indexer, engine.store, sure=True)
    assert before == read_all(engine, [metric_id])


def test_abandon_block(engine, small):
    """Its buckets go, everything else stays, and the range is read again."""
    metric_id, _, pack = small
    before = engine.read(metric_id, "sum")
    block = next(b for b in engine.indexer.list_sack_blocks(0) if b.pack_id == pack.id and b.granularity == MINUTE)
    break_object(engine, block.section)
    with pytest.raises(CorruptedData):
        engine.read(metric_id, "sum")
    abandon_block(0, block.id, engine.indexer, engine.store, sure=False)
    with pytest.raises(CorruptedData):
        engine.read(metric_id, "sum")
    abandon_block(0, block.id, engine.indexer, engine.store, sure=True)
    after = engine.read(metric_id, "sum")
    assert before[3600.0] == after[3600.0]
    assert [(t, v) for t, v in before[60.0] if not block.first <= t <= block.last] == after[60.0]
    assert block.id not in {other.id for other in engine.indexer.list_sack_blocks(0)}


# ---- the catalogue


def wipe(engine, *, sacks=False):
    """Lose the catalogue."""
    with engine.indexer.writing() as connection:
        for table in (models.block, models.pack, models.parked, models.garbage, *([models.sack] if sacks else [])):
            connection.execute(sa.delete(table))
    if sacks:
        engine.indexer.create_sacks(engine.sacks)


def fail_a_commit(engine, sack):
    """Write the objects of a commit that does not happen."""
    def fail(_):
        raise BackendUnavailable("index: away")

    commit_sacks, engine.indexer.commit_sacks = engine.indexer.commit_sacks, fail
    try:
        process_sack(sack, engine.incoming, engine.indexer, engine.store)
    except BackendUnavailable:
        pass
    finally:
        engine.indexer.commit_sacks = commit_sacks


def merge_all(engine):
    for number in range(engine.sacks):
        while merge_sack(number, engine.indexer, engine.store, suspects=None).removed:
            pass


class History:
    """Months of life with everything that happens to packs and blocks, none of whose objects is ever deleted."""

    def __init__(self, engine, seed):
        self.engine = engine
        self.rng = random.Random(seed)
        short = make_policy("short", [(60, 30), (600, 40)], ("sum", "count"), back_window=2)
        rates = make_policy("rates", [(60, 1000)], ("rate:mean", "last"))
        self.ids = {policy: self.create(policy, 6) for policy in (POLICY, short, rates)}
        self.now = 0

    def create(self, policy, count):
        return self.engine.create_metrics(policy, ids=[uuid.UUID(int=self.rng.getrandbits(128)) for _ in range(count)])

    def post(self, earliest=-20):
        for ids in self.ids.values():
            chosen = [i for i in ids if self.rng.random() < self.rng.choice([0.2, 1.0])]
            if not chosen:
                continue
            minutes = [self.now + self.rng.randrange(earliest, 40) for _ in range(self.rng.randrange(1, 25))]
            self.engine.post(chosen, [([HOUR_OF_START + MINUTE * m for m in minutes],
                                       [round(self.rng.random() * 9, 2) for _ in minutes])] * len(chosen))

    def step(self):
        engine, rng = self.engine, self.rng
        self.now += rng.choice([5, 20, 45])
        self.post()
        if rng.random() < 0.2:
            for sack in range(engine.sacks):
                fail_a_commit(engine, sack)
            self.now += 40
            # Nothing tells whether late measures in between were in one commit's buckets or another's.
            self.post(earliest=0)
        engine.process()
        if rng.random() < 0.15:
            merge_all(engine)
        if rng.random() < 0.08:
            policy = rng.choice(list(self.ids))
            if len(self.ids[policy]) > 2:
                engine.indexer.delete_metrics([self.ids[policy].pop()])
                engine.expunge()
        if rng.random() < 0.1:
            policy = rng.choice(list(self.ids))
            self.ids[policy] += self.create(policy, 1)
        if rng.random() < 0.08:
            sacks = rng.choice([1, 2, 4, 8])
            engine.indexer.change_sacks(sacks)
            engine.sacks, engine.incoming = sacks, MemoryIncoming(sacks)

    def read(self):
        return {(i, method): self.engine.read(i, method)
                for policy, ids in self.ids.items() for i in ids for method in policy.aggregation_methods}


@pytest.mark.parametrize("seed", range(6))
def test_rebuild_catalogue(engine, monkeypatch, seed):
    """With garbage of every kind beside: every aggregate is read as before, and life goes on as if nothing had been."""
    monkeypatch.setattr("gnocchi.storage.packs.METRICS_MAX", 4)
    history = History(engine, seed)
    for _ in range(30):
        history.step()
    before = history.read()
    rows = count_rows(engine)
    sequences = [sack.sequence for sack in engine.indexer.list_sacks()]
    wipe(engine, sacks=seed % 3 == 0)
    if seed % 3 == 0:
        engine.incoming = MemoryIncoming(engine.sacks)
    rebuilt = rebuild_catalogue(engine.indexer, engine.store, force=False)
    assert [] == rebuilt.problems
    assert before == history.read()
    assert all(sack.sequence >= old
               for sack, old in zip(engine.indexer.list_sacks(), sequences, strict=True))
    assert count_rows(engine)[0] <= rows[0]
    with pytest.raises(Refused, match="not empty"):
        rebuild_catalogue(engine.indexer, engine.store, force=False)
    rebuild_catalogue(engine.indexer, engine.store, force=True)
    assert before == history.read()
    merge_all(engine)
    assert before == history.read()
    history.step()
    history.read()
    for number in range(engine.sacks):
        assert [] == check_sack(number, engine.indexer, engine.store).findings


def count_rows(engine):
    numbers = range(engine.sacks)
    return (sum(len(engine.indexer.list_packs(number)) for number in numbers),
            sum(block.rows for number in numbers for block in engine.indexer.list_sack_blocks(number)))


def test_rebuild_ignores_the_loser(engine):
    """Of two objects of one sequence the one that was committed counts: its writer had read more of the backlog."""
    ids = engine.create_metrics(POLICY, ids=ids_in_sack_0(3))
    post_minutes(engine, ids, 0, 5)
    engine.process()
    post_minutes(engine, ids, 5, 70)
    fail_a_commit(engine, 0)
    post_minutes(engine, ids, 70, 130)
    engine.process()
    before = read_all(engine, ids)
    wipe(engine)
    assert 0 == rebuild_catalogue(engine.indexer, engine.store, force=False).blocks_rewritten
    assert before == read_all(engine, ids)


def test_rebuild_with_a_commit_that_never_came(engine):
    """Objects of an unfinished commit may count or not; its measures are still in the backlog, and nothing is lost."""
    ids = engine.create_metrics(POLICY, ids=ids_in_sack_0(3))
    post_minutes(engine, ids, 0, 5)
    engine.process()
    post_minutes(engine, ids, 5, 130)
    fail_a_commit(engine, 0)
    wipe(engine)
    rebuild_catalogue(engine.indexer, engine.store, force=False)
    engine.process()
    assert {n: float(n) for n in range(130)} == read_minutes(engine, ids[0])
    assert {0: 60.0, 60: 60.0, 120: 10.0} == read_minutes(engine, ids[1], "count", 3600.0)


def test_rebuild_keeps_open_buckets_open(engine):
    """Buckets that only a lost commit had sealed are not shown beside the open ones."""
    ids = engine.create_metrics(POLICY, ids=ids_in_sack_0(3))
    post_minutes(engine, ids, 0, 50)
    engine.process()
    post_minutes(engine, ids, 50, 70)
    fail_a_commit(engine, 0)
    for key in list(engine.store.driver.list("")):
        if "-base-2" in key or "-delta-2" in key:
            engine.store.driver.delete_many([key])
    before = read_all(engine, ids)
    wipe(engine)
    rebuild_catalogue(engine.indexer, engine.store, force=False)
    assert before == read_all(engine, ids)
    assert [] == engine.indexer.list_sack_blocks(0)


def test_rebuild_finds_parked_measures(engine, monkeypatch):
    """Also those of a pack that never had a head; in the end everything posted is there, the later one on top."""
    ids = engine.create_metrics(POLICY, ids=ids_in_sack_0(2))
    twin = make_policy("twin", [(60, 100)], ("sum",), back_window=100)
    [other] = engine.create_metrics(twin, ids=ids_in_sack_0(1, first=5))
    post_minutes(engine, ids, 0, 5)
    engine.process()
    [pack] = engine.indexer.list_packs(0)
    sound = engine.store.driver.get(pack.base.key)
    break_object(engine, pack.base)
    advance = "gnocchi.processing.plan.advance"
    with monkeypatch.context() as patch:
        patch.setattr(advance, lambda *_: 1 / 0)
        for value in (2.0, 3.0):
            post_minutes(engine, [*ids, other], 5, 8, value)
            engine.process()
    assert 2 == len({row.pack_id for row in engine.indexer.list_parked()})
    engine.store.driver.replace(pack.base.key, sound)
    wipe(engine)
    rebuild_catalogue(engine.indexer, engine.store, force=False)
    for row in engine.indexer.list_parked():
        replay_pack(0, row.pack_id, engine.indexer, engine.store)
    assert {**{n: float(n) for n in range(5)}, **{n: n * 3.0 for n in range(5, 8)}} == read_minutes(engine, ids[0])
    assert {n: n * 3.0 for n in range(5, 8)} == read_minutes(engine, other)


def test_rebuild_names_what_is_damaged(engine, small):
    """Damaged heads and blocks stay in the catalogue, so that a reader is told and does not miss them in silence."""
    metric_id, other, pack = small
    beside = read_all(engine, [other], ["sum"])
    block = next(b for b in engine.indexer.list_sack_blocks(0) if b.pack_id == pack.id and b.granularity == MINUTE)
    break_object(engine, block.section, place=20)
    break_object(engine, pack.delta)
    engine.store.driver.put("sack/1-0/0-base-3-0123456789abcdef", b"no object at all")
    engine.store.driver.put("sack/notes", b"of the operator")
    wipe(engine)
    rebuilt = rebuild_catalogue(engine.indexer, engine.store, force=False)
    assert 3 == len(rebuilt.problems), rebuilt.problems
    assert any(pack.delta.key in problem for problem in rebuilt.problems)
    assert any(block.section.key in problem for problem in rebuilt.problems)
    with pytest.raises(CorruptedData):
        engine.read(metric_id, "sum")
    assert beside == read_all(engine, [other], ["sum"])


def test_rebuild_without_policies(engine, small):
    """What belongs to nothing that the index knows is told, and left out."""
    metric_id, _, _ = small
    engine.indexer.delete_metrics([metric_id, *ids_in_sack_0(8, first=10)])
    engine.indexer.expunge_metrics([metric_id, *ids_in_sack_0(8, first=10)])
    engine.indexer.delete_archive_policy(POLICY.name)
    wipe(engine)
    rebuilt = rebuild_catalogue(engine.indexer, engine.store, force=False)
    assert ["does not exist" in problem for problem in rebuilt.problems] == [True]
    assert 1 == rebuilt.packs


def test_object_kinds_are_known(engine, small):
    """The tables tell every kind of section, and its share."""
    kinds = {entry.kind for name in engine.store.driver.list("") for _, table in engine.store.read_tables(name)
             for entry in table.entries}
    assert {KIND_BASE, KIND_BLOCK, KIND_DELTA} == kinds
    with pytest.raises(ObjectNotFound):
        engine.store.read_tables("sack/1-0/0-base-9-0123456789abcdef")
