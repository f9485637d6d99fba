"""What an operator can do about damage: find it, and give up what cannot be had back (doc/source/repair.rst).

Every change is a commit of the sack under its lock, like any other: metricd may go on meanwhile.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from uuid import UUID

import numpy

from gnocchi import metric_ids
from gnocchi.carbonara.window import empty_state
from gnocchi.catalogue import Block, Pack, Parked, SackCommit, SackContents, SectionRef
from gnocchi.exceptions import CorruptedData, GnocchiError, ObjectNotFound
from gnocchi.incoming.batch import decode_batch
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.aggregate import read_parts
from gnocchi.processing.commit import make_head_section, snapshot
from gnocchi.processing.locks import Coordinator, lock_name, sack_name
from gnocchi.processing.parking import Unprocessable, read_parked
from gnocchi.processing.replay import replay_pack
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.check import check_block, check_object
from gnocchi.storage.head import Head, contains, decode_head
from gnocchi.storage.sections import KIND_BASE, KIND_BLOCK, KIND_DELTA, KIND_PARKED, parse_begin
from gnocchi.storage.store import Store

#: Seconds that a command waits for the lock of a sack.
LOCK_WAIT_S = 60.0

NAMES = {KIND_BASE: "head", KIND_DELTA: "head", KIND_BLOCK: "block", KIND_PARKED: "parked"}


class Refused(GnocchiError):
    """The command did nothing, for the reason given."""


class Finding(NamedTuple):
    """Something damaged.

    what : `head`, `block`, `parked`, or `object` for its table, which only rebuilding the catalogue needs
    id : of the pack, block or parked measures; None for an object
    """

    what: str
    id: UUID | None
    sack: int
    pack: Pack | None
    problem: str


class Checked(NamedTuple):
    """How many objects were read, and what is damaged in them."""

    objects: int
    findings: list[Finding]


class _Named(NamedTuple):
    """A section that the catalogue names."""

    kind: int
    id: UUID
    pack: Pack
    section: SectionRef


@contextlib.contextmanager
def locked_sack(number: int, coordinator: Coordinator, indexer: Indexer) -> Iterator[None]:
    """Hold the lock of a sack.  Raises SackLocked, BackendUnavailable."""
    name = sack_name(number, indexer.count_sacks())
    with coordinator.wait_lock(lock_name(name), time.monotonic() + LOCK_WAIT_S, name):
        yield


# ---- finding


def check_sack(number: int, indexer: Indexer, store: Store, prefix: str = "") -> Checked:
    """Read every object that a sack's rows name and whose key begins with `prefix`, and verify all of them.

    Needs no lock: what somebody replaces meanwhile is not reported.  Raises BackendUnavailable.
    """
    by_key: dict[str, list[_Named]] = {}
    for named in _list_named(number, indexer):
        if named.section.key.startswith(prefix):
            by_key.setdefault(named.section.key, []).append(named)
    findings = []
    for key, sections in sorted(by_key.items()):
        try:
            findings += _check_object(key, store.read_object(key), sections, number)
        except ObjectNotFound as e:
            findings += [_find(number, named, str(e)) for named in sections]
    if findings:
        still = {(named.id, named.section) for named in _list_named(number, indexer)}
        sections_of = {(named.id, named.section) for sections in by_key.values() for named in sections}
        gone = {id for id, _ in sections_of - still}
        findings = [finding for finding in findings if finding.id not in gone]
    return Checked(len(by_key), findings)


def _list_named(number: int, indexer: Indexer) -> list[_Named]:
    contents = indexer.get_sack_contents(number)
    packs = {pack.id: pack for pack in contents.packs}
    named = [_Named(kind, pack.id, pack, ref) for pack in contents.packs
             for kind, ref in ((KIND_BASE, pack.base), (KIND_DELTA, pack.delta)) if ref is not None]
    named += [_Named(KIND_BLOCK, block.id, packs[block.pack_id], block.section)
              for block in indexer.list_sack_blocks(number) if block.pack_id in packs]
    return named + [_Named(KIND_PARKED, row.id, packs[row.pack_id], row.section)
                    for row in contents.parked if row.pack_id in packs]


def _check_object(key: str, data: bytes, sections: Sequence[_Named], number: int) -> list[Finding]:
    findings = []
    begin = parse_begin(key)
    try:
        listed = {(e.kind, e.offset, e.length) for e in check_object(key, data).entries}
        for named in sections:
            if (named.kind, named.section.offset, named.section.length) not in listed:
                raise CorruptedData(key, named.section.offset, "the object's table does not tell of this section")
    except CorruptedData as e:
        findings.append(Finding("object", None, number, None, str(e)))
    for named in sections:
        _, offset, length = named.section
        try:
            _check_section(named.kind, data[offset - begin:offset - begin + length], key, offset)
        except CorruptedData as e:
            findings.append(_find(number, named, str(e)))
    return findings


def _check_section(kind: int, data: bytes, key: str, offset: int) -> None:
    if kind == KIND_BLOCK:
        check_block(data, key, offset)
    elif kind == KIND_PARKED:
        decode_batch(data, key, offset)
    else:
        decode_head(data, key, offset)


def _find(number: int, named: _Named, problem: str) -> Finding:
    return Finding(NAMES[named.kind], named.id, number, named.pack, problem)


# ---- giving up


class AbandonedHead(NamedTuple):
    """What became of a pack whose head was given up.

    kept : of the metrics, how many have sealed aggregates; ids : `S16`; lost_from : datetime64[ns], measures of each
        from then on that had been aggregated are lost
    others : metrics of the lost head that have none: all their measures are lost
    replayed : parked measures that were aggregated;  refused : those that were not stored, by reason
    problem : why some are parked still, or None
    """

    pack: Pack
    ids: numpy.ndarray
    lost_from: numpy.ndarray
    others: int
    replayed: int
    refused: Counter
    problem: str | None


def abandon_head(number: int, pack_id: UUID, indexer: Indexer, store: Store, sure: bool) -> AbandonedHead:
    """Give a pack whose head is damaged a new one, made of what its blocks tell, and take its parked measures.

    No sealed bucket is ever computed again: measures before the end of a metric's last one are refused.

    Parameters
    ----------
    sure : bool
        Else nothing is changed, and what would be lost is returned.

    To be called under the sack's lock.  Raises Refused, CommitLost, BackendUnavailable.
    """
    contents = indexer.get_sack_contents(number)
    pack = _get_pack(contents, pack_id)
    try:
        read_parts(pack, indexer, store, contents)
    except Unprocessable:
        pass
    else:
        raise Refused(f"The head of pack {pack_id} is sound; it is not given up")
    head = _make_head(pack, indexer.list_pack_blocks([pack_id]), indexer, store, contents)
    abandoned = AbandonedHead(pack, head.ids, head.state.accept_from, max(0, pack.metrics - len(head.ids)), 0,
                              Counter(), None)
    if not sure:
        return abandoned
    sequence = contents.sack.sequence
    [ref] = store.write_sections(contents.sack_bits, number, "base", sequence + 1,
                                 [make_head_section(KIND_BASE, pack, head)])
    garbage = {section.key for section in (pack.base, pack.delta) if section is not None}
    indexer.commit_sack(SackCommit(
        number, sequence, checkpoint=None, garbage=tuple(sorted(garbage)),
        packs=(pack._replace(base=ref, delta=None, metrics=len(head.ids), bytes=ref.length),)))
    return _replay(number, abandoned, indexer, store)


def _replay(number: int, abandoned: AbandonedHead, indexer: Indexer, store: Store) -> AbandonedHead:
    replayed, refused, complete = 0, Counter(abandoned.refused), False
    try:
        while not complete:
            measures, not_stored, complete = replay_pack(number, abandoned.pack.id, indexer, store)
            replayed += measures
            refused.update(not_stored)
    except Unprocessable as e:
        return abandoned._replace(replayed=replayed, refused=refused, problem=str(e))
    return abandoned._replace(replayed=replayed, refused=refused)


def _get_pack(contents: SackContents, pack_id: UUID) -> Pack:
    for pack in contents.packs:
        if pack.id == pack_id:
            return pack
    raise Refused(f"Sack {contents.sack.number} has no pack {pack_id}")


def _make_head(pack: Pack, blocks: Sequence[Block], indexer: Indexer, store: Store, contents: SackContents) -> Head:
    """Return a head without points of the live metrics that have sealed buckets."""
    limits = numpy.iinfo(numpy.int64)
    tables, ends = [numpy.empty(0, metric_ids.DTYPE)], [numpy.empty(0, numpy.int64)]
    sealed_until = limits.min
    for block in blocks:
        try:
            with snapshot(indexer, contents.sack):
                summary = store.summarize_block(block)
        except CorruptedData:
            # Its metrics cannot be told: none shall get a bucket again that it may hold.
            sealed_until = max(sealed_until, block.last + block.granularity)
        else:
            tables.append(summary.ids)
            ends.append(numpy.minimum(summary.times[-1], limits.max - block.granularity) + block.granularity)
    live = indexer.list_policy_metrics(pack.policy_id)
    if sealed_until > limits.min:
        tables.append(live)
        ends.append(numpy.full(len(live), sealed_until))
    ids, places = numpy.unique(numpy.concatenate(tables), return_inverse=True)
    accept_from = numpy.full(len(ids), sealed_until)
    numpy.maximum.at(accept_from, places, numpy.concatenate(ends))
    mine = contains(live, ids) & pack_rules.owns(pack, ids)
    state = empty_state(int(mine.sum()))._replace(
        newest=(accept_from[mine] - 1).view("M8[ns]"), accept_from=accept_from[mine].view("M8[ns]"))
    return Head(ids[mine], state)


def abandon_block(number: int, block_id: UUID, indexer: Indexer, store: Store, sure: bool) -> Block:
    """Take a damaged block out of the catalogue; its buckets are lost.

    Parameters and errors as of `abandon_head`.
    """
    contents = indexer.get_sack_contents(number)
    block = next((block for block in indexer.list_sack_blocks(number) if block.id == block_id), None)
    if block is None:
        raise Refused(f"Sack {number} has no block {block_id}")
    try:
        with snapshot(indexer, contents.sack):
            store.read_block(block)
    except CorruptedData:
        pass
    else:
        raise Refused(f"Block {block_id} is sound; it is not given up")
    if sure:
        indexer.commit_sack(SackCommit(number, contents.sack.sequence, checkpoint=None,
                                       blocks_removed=(block.id,), garbage=(block.section.key,)))
    return block


def abandon_parked(number: int, parked_id: UUID, indexer: Indexer, store: Store, sure: bool) -> Parked:
    """Give up parked measures that cannot be read, so that those behind them can be taken.

    Parameters and errors as of `abandon_head`.
    """
    contents = indexer.get_sack_contents(number)
    row = next((row for row in contents.parked if row.id == parked_id), None)
    if row is None:
        raise Refused(f"Sack {number} has no parked measures {parked_id}")
    try:
        with snapshot(indexer, contents.sack):
            read_parked(store, _get_pack(contents, row.pack_id), row)
    except CorruptedData:
        pass
    else:
        raise Refused(f"The parked measures {parked_id} can be read; they are not given up")
    if sure:
        indexer.commit_sack(SackCommit(number, contents.sack.sequence, checkpoint=None,
                                       parked_removed=(row.id,), garbage=(row.section.key,)))
    return row
