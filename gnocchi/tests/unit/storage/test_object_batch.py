"""Objects of several commits that are stored as one, and what their keys tell."""

import uuid

import pytest

from gnocchi.catalogue import find_object
from gnocchi.exceptions import CorruptedData
from gnocchi.storage import object_batch
from gnocchi.storage.check import check_object
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.object_batch import GUEST_ALIGNMENT, SMALL_BYTES_MAX, TOGETHER_BYTES_MAX, ObjectBatch, list_tables
from gnocchi.storage.sections import KIND_BASE, Section, parse_begin, parse_nonce, parse_sack_bits, parse_sequence
from gnocchi.storage.store import Store

POLICY = uuid.UUID(int=5)
BITS = 7


def make_section(size, sack=0):
    return Section(KIND_BASE, POLICY, BITS, sack, bytes([sack % 251]) * size, rows=1)


def make_batch(sizes, kind="base"):
    """Return a batch with an object for each size, of sacks 10, 11, ... at their commits 110, 111, ..."""
    batch = ObjectBatch()
    refs = [ref for sack, size in enumerate(sizes, 10)
            for ref in batch.add(BITS, sack, kind, 100 + sack, [make_section(size, sack)])]
    return batch, refs


def test_objects_lie_together():
    """Each section is where its reference says; a guest begins at a page, and its key tells sack and commit."""
    batch, refs = make_batch([100, 5000, 1, 8192])
    [(name, data)] = batch.list_objects()
    assert [name] * 4 == [find_object(ref.key) for ref in refs]
    assert name == refs[0].key
    for sack, ref in enumerate(refs, 10):
        assert bytes([sack]) * ref.length == data[ref.offset:ref.offset + ref.length]
        assert (BITS, 100 + sack) == (parse_sack_bits(ref.key), parse_sequence(ref.key))
        assert 0 == parse_begin(ref.key) % GUEST_ALIGNMENT
        assert table_of(ref.key, list_tables(name, data)).entries[0].offset == ref.offset
    assert ((), (10,), (10,)) == tuple(batch.list_hosts(sack) for sack in (10, 11, 12))


def table_of(key, tables):
    [table] = [table for of, table in tables if of == key]
    return table


def test_commits_have_digits_of_their_own():
    """The objects of a commit have the same ones, guest or host; those of another sack's have others."""
    batch = ObjectBatch()
    keys = {}
    for kind, sacks in (("base", (3, 4, 5)), ("delta", (5, 4, 3)), ("block", (4,))):
        for sack in sacks:
            [ref] = batch.add(BITS, sack, kind, 9, [make_section(10)])
            keys[kind, sack] = ref.key
    by_sack = {sack: {parse_nonce(key) for (_, of), key in keys.items() if of == sack} for sack in (3, 4, 5)}
    assert [1, 1, 1] == [len(digits) for digits in by_sack.values()]
    assert 3 == len(set.union(*by_sack.values()))
    assert (5,) == batch.list_hosts(3)
    assert (3, 5) == batch.list_hosts(4)
    assert (3,) == batch.list_hosts(5)


@pytest.mark.parametrize("nonce", [0, 2**64 - 4, 2**63 - 5, 2**63 - 3])
def test_digits_at_the_ends_of_their_range(monkeypatch, nonce):
    monkeypatch.setattr(object_batch, "make_nonce", lambda: nonce)
    batch, refs = make_batch([1, 1])
    alone = ObjectBatch().add(BITS, 11, "base", 1, [make_section(1)])
    assert parse_nonce(alone[0].key) == parse_nonce(refs[1].key)
    assert parse_nonce(refs[1].key) != parse_nonce(refs[0].key)
    assert all(-2**63 <= parse_nonce(ref.key) < 2**63 for ref in refs)


def test_what_is_not_stored_together():
    """Other kinds, large objects, what was cut for another number of sacks, and more than so many bytes."""
    batch, _ = make_batch([60_000] * 18)
    assert [17, 1] == [len(data) // 60_000 for _, data in batch.list_objects()]
    assert TOGETHER_BYTES_MAX >= len(batch.list_objects()[0][1])
    batch.add(BITS, 10, "delta", 1, [make_section(10)])
    batch.add(BITS, 50, "delta", 1, [make_section(SMALL_BYTES_MAX)])
    batch.add(BITS + 1, 10, "delta", 1, [make_section(10)])
    batch.add(BITS, 13, "delta", 1, [make_section(10)])
    assert 5 == len(batch.list_objects())
    assert () == batch.list_hosts(50)
    with pytest.raises(AssertionError, match="two objects delta"):
        batch.add(BITS, 10, "delta", 1, [make_section(10)])


@pytest.mark.parametrize("sizes", [[0], [10, 20], [4096 - 120] * 3, [60_000] * 17, [10] * 64, [30_000, 1], [200_000]])
def test_tables(sizes):
    """All that is stored together tells of itself, through a store that reads no more than it must."""
    batch, refs = make_batch(sizes)
    store = Store(MemoryDriver(), 0)
    store.write_objects(batch)
    [name] = store.driver.list("")
    tables = store.read_tables(name)
    assert [ref.key for ref in refs] == [key for key, _ in tables]
    assert [[ref.offset] for ref in refs] == [[entry.offset for entry in table.entries] for _, table in tables]
    for ref in refs:
        assert 1 == len(check_object(ref.key, store.read_object(ref.key)).entries)
        assert ref.length == len(store.read_section(ref))


@pytest.mark.parametrize("damaged", range(3))
def test_damage_harms_only_its_own(damaged):
    """Whichever header is damaged: those before and behind it are found."""
    batch, refs = make_batch([10, 5000, 10])
    [(name, data)] = batch.list_objects()
    place = parse_begin(refs[damaged].key)
    broken = data[:place + 20] + bytes([data[place + 20] ^ 1]) + data[place + 21:]
    tables = list_tables(name, broken)
    assert [ref.key for ref in refs if ref is not refs[damaged]] == [
        key for key, table in tables if not isinstance(table, CorruptedData)]
    assert 1 == sum(isinstance(table, CorruptedData) for _, table in tables)
    for ref in refs:
        part = broken[parse_begin(ref.key):]
        if ref is refs[damaged]:
            with pytest.raises(CorruptedData):
                check_object(ref.key, part)
        else:
            check_object(ref.key, part)


@pytest.mark.parametrize("tail", [b"\0", b"x", b"\0" * 5000, b"GNOCOBJ1"])
def test_what_follows_an_object_is_an_object(tail):
    batch, [ref] = make_batch([10])
    [(_, data)] = batch.list_objects()
    with pytest.raises(CorruptedData, match="instead of"):
        check_object(ref.key, data + tail)


def test_nothing_stored():
    [(key, error)] = list_tables("sack/7-0/3-base-1-0123456789abcdef", b"")
    assert isinstance(error, CorruptedData)
    assert key == error.key
