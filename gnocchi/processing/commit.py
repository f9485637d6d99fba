"""One commit of a sack: objects first, then one transaction makes them count."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy

from gnocchi.carbonara.grouping import span_ns
from gnocchi.carbonara.series import Buckets
from gnocchi.catalogue import Block, Pack, Sack, SackCommit, SackContents
from gnocchi.exceptions import CommitLost, CorruptedData, ObjectNotFound
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.block import encode_block
from gnocchi.storage.head import Head, encode_head, encoded_size, select_metrics
from gnocchi.storage.sections import KIND_BASE, KIND_BLOCK, KIND_DELTA, Section
from gnocchi.storage.store import Store

#: A delta is written while it takes less than a base's bytes divided by this.
DELTA_SHARE_MAX = 4


@contextlib.contextmanager
def snapshot(indexer: Indexer, sack: Sack) -> Iterator[None]:
    """Explain an object that is missing while a sack is worked on as it was when it was read.

    Raises CommitLost when somebody has committed since (it was replaced, long ago), else CorruptedData.
    """
    try:
        yield
    except ObjectNotFound as e:
        if indexer.get_sack(sack.number).sequence != sack.sequence:
            raise CommitLost(sack.number, sack.sequence) from e
        raise CorruptedData(e.key, 0, "the index names this object, and it is missing from storage") from e


class PackPlan(NamedTuple):
    """What a pack shall become.

    head : Head; without metrics the pack goes, and its blocks with it.  Its `changed` tells what a delta must hold;
        all of it where metrics went, for a delta cannot take any away
    sealed : dict of granularity (timedelta64[ns]) -> Buckets of the head's metrics, in their order
    """

    pack: Pack
    head: Head
    sealed: dict[numpy.timedelta64, Buckets]


class Prepared(NamedTuple):
    """A commit whose objects are written, and the heads to remember once it has happened."""

    commit: SackCommit
    heads: list[tuple[Pack, Head]]


def prepare_commit(store: Store, list_pack_blocks: Callable[[Sequence[UUID]], list[Block]], contents: SackContents,
                   checkpoint: dict[str, Any] | None, plans: Sequence[PackPlan]) -> Prepared:
    """Write the objects of a commit and return what the index has to record.

    Until that is done nothing of it is visible, and nothing of it is ever deleted by this process:
    the commit may have happened although its answer was lost.
    """
    sack, sack_bits = contents.sack, contents.sack_bits
    kept: list[tuple[Pack, Head]] = []
    removed: list[Pack] = []
    owners: dict[UUID, list[Pack]] = {}
    for plan in plans:
        successors = _succeed(plan)
        owners[plan.pack.id] = [pack for pack, _ in successors]
        kept += successors
        if plan.pack.id not in {pack.id for pack, _ in successors}:
            removed.append(plan.pack)
    blocks = _write_blocks(store, sack, sack_bits, plans, owners)
    heads = _write_heads(store, sack, sack_bits, kept)
    garbage = _replaced_keys([plan.pack for plan in plans], [pack for pack, _ in heads])
    for pack in removed:
        stored = list_pack_blocks([pack.id]) if pack.base is not None else []
        garbage.update(block.section.key for block in stored)
        blocks += [replace(block, id=uuid4(), pack_id=heir.id) for block in stored for heir in owners[pack.id]]
    commit = SackCommit(
        sack=sack.number, sequence=sack.sequence, checkpoint=checkpoint,
        packs=tuple(pack for pack, _ in heads),
        packs_removed=tuple(pack.id for pack in removed if pack.base is not None),
        blocks=tuple(blocks), blocks_removed=(), garbage=tuple(sorted(garbage)))
    return Prepared(commit, heads)


def _succeed(plan: PackPlan) -> list[tuple[Pack, Head]]:
    """Return the packs, with their heads, that take a pack's place: none, itself, or its halves."""
    if not len(plan.head.ids):
        return []
    if not pack_rules.needs_split(plan.pack, plan.head):
        return [(plan.pack, plan.head)]
    return [(pack, head) for pack, head in pack_rules.split(plan.pack, plan.head) if len(head.ids)]


def _write_heads(store: Store, sack: Sack, sack_bits: int, kept: list[tuple[Pack, Head]]) -> list[tuple[Pack, Head]]:
    """Write heads, and return the packs that name them and the heads as a reader will find them.

    Bases and deltas lie in objects of their own, for a base is kept while delta follows delta.
    """
    written: list[tuple[Pack, Head]] = []
    bases, deltas = [], []
    for pack, head in kept:
        delta = select_metrics(head, head.changed)
        if _fits_delta(pack, delta):
            deltas.append((pack, head, delta))
        else:
            bases.append((pack, head._replace(changed=numpy.zeros(len(head.ids), bool))))
    if bases:
        refs = store.write_sections(sack_bits, sack.number, "base", sack.sequence + 1,
                                    [_make_section(KIND_BASE, pack, head) for pack, head in bases])
        written += [(replace(pack, base=ref, delta=None, metrics=len(head.ids), bytes=ref.length), head)
                    for (pack, head), ref in zip(bases, refs, strict=True)]
    if deltas:
        refs = store.write_sections(sack_bits, sack.number, "delta", sack.sequence + 1,
                                    [_make_section(KIND_DELTA, pack, delta) for pack, _, delta in deltas])
        written += [(replace(pack, delta=ref, metrics=len(head.ids), bytes=encoded_size(head)), head)
                    for (pack, head, _), ref in zip(deltas, refs, strict=True)]
    return written


def _fits_delta(pack: Pack, delta: Head) -> bool:
    """Tell whether writing what changed costs enough less than writing the whole head."""
    return pack.base is not None and encoded_size(delta) * DELTA_SHARE_MAX < pack.base.length


def _make_section(kind: int, pack: Pack, head: Head) -> Section:
    return Section(kind, pack.policy_id, pack.bits, pack.low, encode_head(head), rows=len(head.ids))


def _replaced_keys(before: Sequence[Pack], after: Sequence[Pack]) -> set[str]:
    """Return the keys of head objects that a commit takes a reference from."""
    refs = [ref for pack in before for ref in (pack.base, pack.delta)]
    still = {ref for pack in after for ref in (pack.base, pack.delta)}
    return {ref.key for ref in refs if ref is not None and ref not in still}


def _write_blocks(store: Store, sack: Sack, sack_bits: int, plans: Sequence[PackPlan],
                  owners: dict[UUID, list[Pack]]) -> list[Block]:
    """Write all sealed buckets as one object: apart from heads, which are replaced much sooner."""
    sections, parents = [], []
    for plan in plans:
        for granularity, buckets in plan.sealed.items():
            sections.append(make_block_section(plan.pack, plan.head.ids, buckets, granularity, level=0))
            parents.append(plan.pack.id)
    if not sections:
        return []
    refs = store.write_sections(sack_bits, sack.number, "block", sack.sequence + 1, sections)
    return [Block(uuid4(), pack.id, ref, s.granularity, s.level, s.first, s.last, s.rows)
            for s, ref, parent in zip(sections, refs, parents, strict=True) for pack in owners[parent]]


def make_block_section(pack: Pack, ids: numpy.ndarray, buckets: Buckets, granularity: numpy.timedelta64,
                       level: int) -> Section:
    """Encode buckets of a pack's metrics (ids: `S16`, ascending; one series each) as a block."""
    times = buckets.timestamps.view(numpy.int64)
    return Section(KIND_BLOCK, pack.policy_id, pack.bits, pack.low, encode_block(ids, buckets, granularity),
                   rows=len(times), level=level, granularity=span_ns(granularity),
                   first=int(times.min()), last=int(times.max()))
