"""Sacks, packs, blocks and commits in the index, on every database."""

import concurrent.futures
import dataclasses
import datetime
import random
import uuid

import pytest

from gnocchi import exceptions
from gnocchi.indexer import Block, Pack, Parked, Sack, SackCommit, SectionRef
from gnocchi.indexer import packs as packs_module
from gnocchi.indexer.models import garbage, parked
from gnocchi.tests.databases import StatementCounter

POLICY = uuid.UUID(int=77)
MINUTE, HOUR = 60 * 10**9, 3600 * 10**9


def make_pack(low=0, bits=2, sacks=4, key="base", **fields):
    return Pack(uuid.uuid4(), low & (sacks - 1), POLICY, bits, low, SectionRef(key, 7, 2**40), None, 512, 4096,
                **fields)


def make_block(pack, key="block", granularity=MINUTE, first=0, last=0):
    return Block(uuid.uuid4(), pack.id, SectionRef(key, 2**40, 9), granularity, 1, first, last, 2**40)


@pytest.fixture
def sacks(indexer):
    assert indexer.create_sacks(4)


def commit(indexer, number=0, **changes):
    """Commit on top of what is there."""
    sequence = indexer.get_sack(number).sequence
    indexer.commit_sack(SackCommit(number, sequence, changes.pop("checkpoint", None), **{
        name: tuple(values) for name, values in changes.items()}))


def list_garbage(indexer):
    with indexer.reading() as connection:
        return sorted(connection.execute(garbage.select()).scalars())


def park(indexer, pack_id, sack, key="parked"):
    with indexer.writing() as connection:
        connection.execute(parked.insert(), {
            "id": uuid.uuid4(), "sack": sack, "pack_id": pack_id, "policy_id": POLICY, "object_key": key, "offset": 0,
            "length": 1, "measures": 1, "reason": "damaged ☃", "parked_at": datetime.datetime(2024, 1, 1),
            "attempts": 0})


def test_create_sacks(indexer):
    """Sacks are made once; another number later is ignored."""
    assert 0 == indexer.count_sacks()
    assert indexer.create_sacks(4)
    assert not indexer.create_sacks(8)
    assert [Sack(number, 0, {}) for number in range(4)] == indexer.list_sacks()
    assert Sack(3, 0, {}) == indexer.get_sack(3)
    assert 4 == indexer.count_sacks()
    with pytest.raises(exceptions.BackendUnavailable, match="there is no sack 4"):
        indexer.get_sack(4)


def test_create_sacks_at_once(indexer):
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert 1 == sum(threads.map(indexer.create_sacks, [2, 4, 8, 16]))
    assert indexer.count_sacks() in (2, 4, 8, 16)


@pytest.mark.parametrize("count", [0, -1, 3, 100])
def test_sacks_not_a_power_of_two(indexer, sacks, count):
    for method in (indexer.create_sacks, indexer.change_sacks):
        with pytest.raises(exceptions.InvalidInput, match="must be a power of two"):
            method(count)
    assert 4 == indexer.count_sacks()


def test_commit(indexer, sacks):
    """Everything of a commit shows, the sequence moves by one, other sacks stay."""
    first, second = make_pack(low=1), make_pack(low=5, bits=3)
    blocks = [make_block(first, first=-5, last=2**62), make_block(second, granularity=HOUR)]
    checkpoint = {"journal-☃": [2**53, None, "x"]}
    commit(indexer, 1, checkpoint=checkpoint, packs=[first, second], blocks=blocks, garbage=["old", "old", "older"])
    assert Sack(1, 1, checkpoint) == indexer.get_sack(1)
    assert Sack(2, 0, {}) == indexer.get_sack(2)
    assert {first, second} == set(indexer.list_packs(1))
    assert [] == indexer.list_packs(0)
    assert set(blocks) == set(indexer.list_sack_blocks(1)) == set(indexer.list_pack_blocks([first.id, second.id]))
    assert [] == indexer.list_pack_blocks([])
    assert ["old", "older"] == list_garbage(indexer)


def test_commit_replaces(indexer, sacks):
    """A pack with a known id is replaced; a checkpoint of None stays as it was; blocks can go."""
    pack, empty = make_pack(), make_pack(low=4, bits=3)
    empty = empty._replace(base=None)
    old, kept = make_block(pack, "old"), make_block(pack, "kept")
    commit(indexer, checkpoint={"a": 1}, packs=[pack, empty], blocks=[old, kept])
    changed = pack._replace(base=SectionRef("new", 0, 1), delta=SectionRef("d", 3, 4), metrics=1, bytes=0)
    new = make_block(pack, "new")
    commit(indexer, packs=[changed], blocks=[new], blocks_removed=[old.id])
    assert Sack(0, 2, {"a": 1}) == indexer.get_sack(0)
    assert {changed, empty} == set(indexer.list_packs(0))
    assert {kept, new} == set(indexer.list_sack_blocks(0))


def make_parked(pack, number=0, key="parked", **fields):
    return Parked(uuid.uuid4(), number, pack.id, POLICY, SectionRef(key, 7, 2**40), 2**40, "damaged ☃",
                  datetime.datetime(2024, 1, 1, 12, 0, 0, 123456), **fields)


def test_commit_parked(indexer, sacks):
    """Parked measures come and go with commits, and are part of what processing knows of a sack."""
    damaged, sound = make_pack(), make_pack(low=4, bits=3)._replace(base=None)
    first, second = make_parked(damaged), make_parked(damaged, key="other", attempts=2)
    commit(indexer, packs=[damaged, sound], parked=[first])
    assert (first,) == indexer.get_sack_contents(0).parked
    assert () == indexer.get_sack_contents(1).parked
    commit(indexer, parked=[second], parked_removed=[first.id], garbage=["parked"])
    assert (second,) == indexer.get_sack_contents(0).parked
    assert {damaged, sound} == set(indexer.get_sack_contents(0).packs)
    indexer.count_parked_attempt(damaged.id)
    indexer.count_parked_attempt(sound.id)
    assert [dataclasses.replace(second, attempts=3)] == indexer.list_parked()
    with pytest.raises(exceptions.CommitLost):
        indexer.commit_sack(SackCommit(0, 0, None, parked_removed=(second.id,), parked=(first,)))
    assert 1 == len(indexer.list_parked())
    commit(indexer, parked_removed=[second.id])
    assert [] == indexer.list_parked()


def test_find_sack(indexer, sacks):
    """By the id of a pack, of a block, or of parked measures."""
    pack = make_pack(low=3)
    block, row = make_block(pack), make_parked(pack, 3)
    commit(indexer, 3, packs=[pack], blocks=[block], parked=[row])
    assert [3, 3, 3, None] == [indexer.find_sack(i) for i in (pack.id, block.id, row.id, uuid.uuid4())]


def test_raise_sequences(indexer, sacks):
    """Those below are raised, others stay; who saw a lower one loses."""
    for _ in range(3):
        commit(indexer, 2)
    indexer.raise_sequences(2)
    assert [2, 2, 3, 2] == [sack.sequence for sack in indexer.list_sacks()]
    with pytest.raises(exceptions.CommitLost):
        indexer.commit_sack(SackCommit(0, 0, None))


def test_commit_split(indexer, sacks):
    """A removed pack takes its blocks along, unless the commit holds them anew for the children."""
    parent = make_pack(low=0, bits=2)
    kept, gone = make_block(parent, "kept"), make_block(parent, "gone")
    commit(indexer, packs=[parent], blocks=[kept, gone])
    children = [make_pack(low=low, bits=3, key="base") for low in (0, 4)]
    moved = [kept._replace(pack_id=children[0].id), make_block(children[1], "kept")]
    commit(indexer, packs=children, packs_removed=[parent.id], blocks=moved, garbage=["gone"])
    assert set(children) == set(indexer.list_packs(0))
    assert set(moved) == set(indexer.list_sack_blocks(0))


def test_commit_lost(indexer, sacks):
    """Who saw an older sequence changes nothing."""
    pack = make_pack()
    commit(indexer, packs=[pack])
    with pytest.raises(exceptions.CommitLost) as e:
        indexer.commit_sack(SackCommit(0, 0, {"x": 1}, packs=(make_pack(low=4, bits=3),), packs_removed=(pack.id,),
                                       blocks=(make_block(pack),), garbage=("g",)))
    assert (0, 0) == (e.value.sack, e.value.sequence)
    assert Sack(0, 1, {}) == indexer.get_sack(0)
    assert ([pack], [], []) == (indexer.list_packs(0), indexer.list_sack_blocks(0), list_garbage(indexer))
    with pytest.raises(exceptions.CommitLost):
        indexer.commit_sack(SackCommit(9, 0, None))


def test_commits_of_several_sacks(indexer, sacks):
    """One of them that saw an older sequence changes nothing and disturbs no other; each may carry anything."""
    old, parent = make_pack(low=1), make_pack(low=2)
    commit(indexer, 1, packs=[old])
    commit(indexer, 2, packs=[parent], blocks=[make_block(parent, "gone")])
    new, child = make_pack(low=0), make_pack(low=6, bits=3)
    row, block = make_parked(new, 0), make_block(child)
    lost = indexer.commit_sacks([
        SackCommit(2, 1, None, packs=(child,), packs_removed=(parent.id,), blocks=(block,), garbage=("b", "a")),
        SackCommit(1, 0, {"x": 1}, packs=(make_pack(low=1, bits=3),), packs_removed=(old.id,), garbage=("c",)),
        SackCommit(0, 0, {"x": 2}, packs=(new,), parked=(row,), garbage=("a",)),
        SackCommit(9, 0, None)])
    assert {1, 9} == lost
    assert [Sack(0, 1, {"x": 2}), Sack(1, 1, {}), Sack(2, 2, {}), Sack(3, 0, {})] == indexer.list_sacks()
    assert [[new], [old], [child], []] == [indexer.list_packs(number) for number in range(4)]
    assert [block] == indexer.list_sack_blocks(2)
    assert [row] == indexer.list_parked()
    assert ["a", "b"] == list_garbage(indexer)
    assert set() == indexer.commit_sacks([])


def test_groups_commit_at_once(indexer, sacks):
    """Of workers with overlapping groups exactly one wins each sack, and none waits for another for ever."""
    def attempt(number):
        groups = random.Random(number).sample(range(4), 3)
        commits = [SackCommit(sack, 0, {"by": number}, packs=(make_pack(low=sack),),
                              garbage=tuple(random.Random(number).sample("abcdefgh", 5))) for sack in groups]
        return set(groups) - indexer.commit_sacks(commits)

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        won = [sack for sacks in threads.map(attempt, range(16)) for sack in sacks]
    assert [0, 1, 2, 3] == sorted(won)
    assert [1] * 4 == [sack.sequence for sack in indexer.list_sacks()]
    assert [1] * 4 == [len(indexer.list_packs(number)) for number in range(4)]


def test_contents_of_several_sacks(indexer, sacks):
    """Each with its own packs and parked measures, in the order asked for."""
    packs = [make_pack(low=number) for number in range(3)]
    for number, pack in enumerate(packs):
        commit(indexer, number, packs=[pack])
    row = make_parked(packs[1], 1)
    commit(indexer, 1, parked=[row], checkpoint={"x": 1})
    contents = indexer.list_sack_contents([2, 1, 3])
    assert [2, 1, 3] == [of_sack.sack.number for of_sack in contents]
    assert [[packs[2]], [packs[1]], []] == [of_sack.packs for of_sack in contents]
    assert [(), (row,), ()] == [of_sack.parked for of_sack in contents]
    assert contents[1] == indexer.get_sack_contents(1)
    with pytest.raises(exceptions.BackendUnavailable, match="no sack 9"):
        indexer.list_sack_contents([0, 9])


def test_commit_fails_whole(indexer, sacks):
    """When a late statement fails, the sequence and the earlier ones are undone too."""
    pack = make_pack()
    block = make_block(pack)
    commit(indexer, packs=[pack], blocks=[block])
    before = indexer.list_sacks()
    with pytest.raises(Exception, match="(?i)unique|duplicate"):
        commit(indexer, packs=[make_pack(low=4, bits=3)], blocks=[block])
    assert (before, [pack], [block]) == (indexer.list_sacks(), indexer.list_packs(0), indexer.list_sack_blocks(0))


def test_commit_at_once(indexer, sacks):
    """Of workers that saw one sequence exactly one wins; those on other sacks do not disturb each other."""
    def attempt(number):
        pack = make_pack(low=number)
        try:
            indexer.commit_sack(SackCommit(number % 4, 0, {"by": number}, packs=(pack,), blocks=(make_block(pack),),
                                           garbage=tuple(random.Random(number).sample("abcdefgh", 5))))
        except exceptions.CommitLost:
            return None
        return number

    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        won = {number for number in threads.map(attempt, range(16)) if number is not None}
    assert {0, 1, 2, 3} == {number % 4 for number in won}
    assert 4 == len(won)
    for sack in indexer.list_sacks():
        pack, = indexer.list_packs(sack.number)
        assert 1 == sack.sequence
        assert sack.checkpoint["by"] in won
        assert [pack.id] == [block.pack_id for block in indexer.list_sack_blocks(sack.number)]


def test_statements_are_constant(indexer, sacks):
    counts = []
    for size in (1, 40):
        packs = [make_pack(low=low << 2, bits=20) for low in range(size, size * 2)]
        blocks = [make_block(pack) for pack in packs]
        with StatementCounter(indexer) as counter:
            commit(indexer, checkpoint={}, packs=packs, blocks=blocks, garbage=[f"k{size}-{i}" for i in range(size)])
            assert size == len(indexer.list_pack_catalogue(POLICY, [pack.low for pack in packs]))
            commit(indexer, packs_removed=[p.id for p in packs], blocks_removed=[b.id for b in blocks])
        counts.append(counter.count)
    assert counts[0] == counts[1]
    assert [] == indexer.list_sack_blocks(0)


def test_catalogue_finds_pack(indexer, sacks):
    """Packs of any number of bits are found by the low bits of the metric's id, also with 62 of them."""
    packs = [make_pack(low=0b00, bits=2), make_pack(low=0b01, bits=3), make_pack(low=0b101, bits=5),
             make_pack(low=0b10101, bits=40), make_pack(low=2**62 - 1, bits=62),
             make_pack(low=0, bits=0)._replace(policy_id=uuid.UUID(int=78))]
    commit(indexer, packs=packs, blocks=[make_block(pack) for pack in packs])
    rest = 0xDEAD << 48
    for pack in packs[:-1]:
        low = pack.low | (rest & ~((1 << pack.bits) - 1))
        found, blocks = indexer.get_pack_catalogue(POLICY, low & (2**64 - 1))
        assert pack == found
        assert [pack.id] == [block.pack_id for block in blocks]
    for low in (0b11, 0b1101, 0b10101 | 1 << 39, 2**61 - 1):
        assert (None, []) == indexer.get_pack_catalogue(POLICY, low)
    assert packs[-1] == indexer.get_pack_catalogue(uuid.UUID(int=78), 12345)[0]
    assert (None, []) == indexer.get_pack_catalogue(uuid.UUID(int=79), 0)


def test_catalogue_windows(indexer, sacks):
    """A block belongs if one of its buckets overlaps [start, stop); a pack without such blocks still shows."""
    pack = make_pack()
    early, late = make_block(pack, first=0, last=9 * MINUTE), make_block(pack, first=10 * MINUTE, last=19 * MINUTE)
    hours = make_block(pack, granularity=HOUR, first=0, last=0)
    commit(indexer, packs=[pack], blocks=[early, late, hours])
    for granularities, start, stop, expected in (
            (None, None, None, {early, late, hours}), ([MINUTE], None, None, {early, late}),
            ([HOUR, 1], None, None, {hours}), ([], None, None, set()), ([MINUTE], 10 * MINUTE, None, {late}),
            ([MINUTE], 10 * MINUTE - 1, None, {early, late}), ([MINUTE], None, 10 * MINUTE, {early}),
            ([MINUTE], None, 10 * MINUTE + 1, {early, late}), (None, 30 * MINUTE, 40 * MINUTE, {hours}),
            (None, -2**63, 2**63, {early, late, hours}), (None, 2**63 - 1, None, set())):
        found, blocks = indexer.get_pack_catalogue(POLICY, 4, granularities, start, stop)
        assert (pack, expected) == (found, set(blocks))
        [(found, blocks)] = indexer.list_pack_catalogue(POLICY, [4, 8], granularities, start, stop)
        assert (pack, expected) == (found, set(blocks))


@pytest.mark.parametrize("count", [1, 20, 300])
def test_catalogue_of_many(indexer, sacks, count):
    """The same packs as one by one, each once, in one statement."""
    packs = [make_pack(low=low, bits=6) for low in range(0, 64, 2)]
    commit(indexer, packs=packs, blocks=[make_block(pack) for pack in packs for _ in range(2)])
    lows = [random.Random(number).getrandbits(64) for number in range(count)]
    expected = {found for found, _ in (indexer.get_pack_catalogue(POLICY, low) for low in lows) if found}
    with StatementCounter(indexer) as counter:
        found = indexer.list_pack_catalogue(POLICY, lows)
    assert 1 == counter.count
    assert len(found) == len(expected)
    assert expected == {pack for pack, _ in found}
    assert {2} == {len(blocks) for _, blocks in found} or not found
    assert [] == indexer.list_pack_catalogue(POLICY, [])


def test_change_sacks_fewer(indexer, sacks):
    """Packs go to the sack that their low bits name; checkpoints are emptied, sequences go on."""
    packs = [make_pack(low=low) for low in range(4)]
    for pack in packs:
        commit(indexer, pack.sack, checkpoint={"a": 1}, packs=[pack], blocks=[make_block(pack)])
    commit(indexer, 2)
    park(indexer, packs[3].id, 3)
    indexer.change_sacks(2)
    assert [Sack(0, 3, {}), Sack(1, 3, {})] == indexer.list_sacks()
    for number in range(2):
        assert ({packs[number].id, packs[number + 2].id} == {pack.id for pack in indexer.list_packs(number)}
                == {block.pack_id for block in indexer.list_sack_blocks(number)})
    with indexer.reading() as connection:
        assert [1] == [row.sack for row in connection.execute(parked.select())]


def test_change_sacks_more(indexer, sacks):
    """A pack with too few bits becomes children that name the same sections; others stay as they are."""
    few, enough = make_pack(low=1, bits=2), make_pack(low=0b110, bits=3)
    blocks = [make_block(few, "a"), make_block(few, "b", HOUR)]
    commit(indexer, 1, packs=[few], blocks=blocks)
    commit(indexer, 2, packs=[enough], blocks=[make_block(enough)])
    park(indexer, few.id, 1)
    park(indexer, enough.id, 2)
    indexer.change_sacks(16)
    assert 16 == indexer.count_sacks()
    seen = set()
    for low in range(16):
        for pack in indexer.list_packs(low):
            assert (4, low, low) == (pack.bits, pack.low, pack.sack)
            parent = few if low & 3 == 1 else enough
            assert (parent.base, parent.metrics) == (pack.base, pack.metrics)
            seen.add(low)
            assert pack == indexer.get_pack_catalogue(POLICY, low | 0xF0)[0]
    assert {1, 5, 9, 13, 6, 14} == seen
    copies = indexer.list_sack_blocks(13)
    assert {(b.section, b.granularity) for b in blocks} == {(b.section, b.granularity) for b in copies}
    with indexer.reading() as connection:
        assert [1, 5, 6, 9, 13, 14] == sorted(row.sack for row in connection.execute(parked.select()))
    assert [] == indexer.list_collectable_garbage(0, 10)


def test_change_sacks_makes_commits_lose(indexer, sacks):
    """A worker that read its sack before the change cannot commit after it, though it may bear the same number."""
    commit(indexer, 3)
    seen = indexer.get_sack(0)
    indexer.change_sacks(8)
    with pytest.raises(exceptions.CommitLost):
        indexer.commit_sack(SackCommit(0, seen.sequence, {"x": 1}))


def test_change_sacks_same_number(indexer, sacks):
    """Also for one that had the highest sequence."""
    seen = indexer.get_sack(0)
    indexer.change_sacks(4)
    with pytest.raises(exceptions.CommitLost):
        indexer.commit_sack(SackCommit(0, seen.sequence, {"x": 1}))


def test_garbage(indexer, sacks):
    """An object is collected once nothing names it, a while after it last lost a reference."""
    pack = make_pack(key="base")
    pack = pack._replace(delta=SectionRef("delta", 0, 1))
    commit(indexer, packs=[pack], blocks=[make_block(pack, "block")], garbage=["base", "delta", "block", "parked"])
    park(indexer, None, 0)
    commit(indexer, garbage=["free", "free too"])
    assert [] == indexer.list_collectable_garbage(3600, 10)
    assert ["free", "free too"] == sorted(indexer.list_collectable_garbage(0, 10))
    assert 1 == len(indexer.list_collectable_garbage(0, 1))
    indexer.delete_garbage_rows(["free", "base", "unknown"])
    assert ["free too"] == indexer.list_collectable_garbage(0, 10)
    indexer.delete_garbage_rows([])
    commit(indexer, packs_removed=[pack.id])
    assert ["block", "delta", "free too"] == sorted(indexer.list_collectable_garbage(0, 10))


def test_garbage_and_guests(indexer, sacks, monkeypatch):
    """An object is named by any guest in it, whatever the names of its neighbours, however many there are."""
    monkeypatch.setattr(packs_module, "GARBAGE_AT_ONCE", 7)
    monkeypatch.setattr(packs_module, "RANGES_AT_ONCE", 3)
    keys = [f"{letter}{rest}" for letter in "abcdefgh" for rest in ("", "-1", "0", "a", "~")]
    rng = random.Random(5)
    named = set(rng.sample(keys, 24))
    refs = [SectionRef(key if number % 3 == 0 else f"{key}@{4096 * number}-{number}-77", 0, 1)
            for number, key in enumerate(sorted(named))]
    packs = [make_pack(low=4 * number, bits=9)._replace(base=base, delta=delta)
             for number, (base, delta) in enumerate(zip(refs[:8], refs[8:16], strict=True))]
    blocks = [make_block(packs[0])._replace(section=ref) for ref in refs[16:23]]
    parked = make_parked(packs[0], key=refs[23].key)
    commit(indexer, packs=packs, blocks=blocks, parked=[parked],
           garbage=[f"{key}@4096-1-1" if rng.random() < 0.5 else key for key in keys])
    assert sorted(keys) == list_garbage(indexer)
    assert set(keys) - named == set(indexer.list_collectable_garbage(0, 100))
    assert 10 == len(indexer.list_collectable_garbage(0, 10))
    indexer.delete_garbage_rows(keys)
    assert named == indexer.list_known_objects([*keys, "a-", "zz"])
    commit(indexer, packs_removed=[pack.id for pack in packs], parked_removed=[parked.id], garbage=[
        ref.key for ref in refs])
    assert named == set(indexer.list_collectable_garbage(0, 100))


def test_garbage_waits_anew(indexer, sacks):
    """An object that loses another reference waits from then on."""
    commit(indexer, garbage=["a", "b"])
    long_ago = datetime.datetime(2020, 1, 1)
    with indexer.writing() as connection:
        connection.execute(garbage.update().values(since=long_ago))
    assert ["a", "b"] == sorted(indexer.list_collectable_garbage(3600, 10))
    commit(indexer, garbage=["a"])
    assert ["b"] == indexer.list_collectable_garbage(3600, 10)
