"""One commit of a sack: objects first, then one transaction makes them count."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import numpy

from gnocchi.carbonara.series import Buckets
from gnocchi.catalogue import Block, Pack, Sack, SackCommit, SectionRef
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.block import encode_block
from gnocchi.storage.head import Head, encode_head
from gnocchi.storage.sections import KIND_BLOCK, KIND_HEAD, Section
from gnocchi.storage.store import Store


class PackPlan(NamedTuple):
    """What a pack shall become.

    head : Head; without metrics the pack goes, and its blocks with it
    sealed : dict of granularity (timedelta64[ns]) -> Buckets of the head's metrics, in their order
    """

    pack: Pack
    head: Head
    sealed: dict[numpy.timedelta64, Buckets]


class Prepared(NamedTuple):
    """A commit whose objects are written, and the heads to remember once it has happened."""

    commit: SackCommit
    heads: list[tuple[SectionRef, Head]]


def prepare_commit(store: Store, list_pack_blocks: Callable[[Sequence[UUID]], list[Block]], sack: Sack, sack_bits: int,
                   checkpoint: dict[str, Any] | None, plans: Sequence[PackPlan]) -> Prepared:
    """Write the objects of a commit and return what the index has to record.

    Until that is done nothing of it is visible, and nothing of it is ever deleted by this process:
    the commit may have happened although its answer was lost.
    """
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
    garbage = {plan.pack.base.key for plan in plans if plan.pack.base is not None}
    for pack in removed:
        stored = list_pack_blocks([pack.id]) if pack.base is not None else []
        garbage.update(block.section.key for block in stored)
        blocks += [replace(block, id=uuid4(), pack_id=heir.id) for block in stored for heir in owners[pack.id]]
    heads = _write_heads(store, sack, sack_bits, kept)
    commit = SackCommit(
        sack=sack.number, sequence=sack.sequence, checkpoint=checkpoint,
        packs=tuple(pack for pack, _ in heads),
        packs_removed=tuple(pack.id for pack in removed if pack.base is not None),
        blocks=tuple(blocks), blocks_removed=(), garbage=tuple(sorted(garbage)))
    return Prepared(commit, [(pack.base, head) for pack, head in heads if pack.base is not None])


def _succeed(plan: PackPlan) -> list[tuple[Pack, Head]]:
    """Return the packs, with their heads, that take a pack's place: none, itself, or its halves."""
    if not len(plan.head.ids):
        return []
    if not pack_rules.needs_split(plan.pack, plan.head):
        return [(plan.pack, plan.head)]
    return [(pack, head) for pack, head in pack_rules.split(plan.pack, plan.head) if len(head.ids)]


def _write_heads(store: Store, sack: Sack, sack_bits: int, kept: list[tuple[Pack, Head]]) -> list[tuple[Pack, Head]]:
    """Write all heads as one object and return the packs that name their part of it."""
    if not kept:
        return []
    sections = [Section(KIND_HEAD, pack.policy_id, pack.bits, pack.low, encode_head(head), rows=len(head.ids))
                for pack, head in kept]
    refs = store.write_sections(sack_bits, sack.number, "head", sack.sequence + 1, sections)
    return [(replace(pack, base=ref, metrics=len(head.ids), bytes=ref.length), head)
            for (pack, head), ref in zip(kept, refs, strict=True)]


def _write_blocks(store: Store, sack: Sack, sack_bits: int, plans: Sequence[PackPlan],
                  owners: dict[UUID, list[Pack]]) -> list[Block]:
    """Write all sealed buckets as one object: apart from heads, which are replaced much sooner."""
    sections, parents = [], []
    for plan in plans:
        for granularity, buckets in plan.sealed.items():
            times = buckets.timestamps.view(numpy.int64)
            sections.append(Section(
                KIND_BLOCK, plan.pack.policy_id, plan.pack.bits, plan.pack.low,
                encode_block(plan.head.ids, buckets, granularity), rows=len(times), level=0,
                granularity=int(granularity.astype("m8[ns]").astype(numpy.int64)),
                first=int(times.min()), last=int(times.max())))
            parents.append(plan.pack.id)
    if not sections:
        return []
    refs = store.write_sections(sack_bits, sack.number, "block", sack.sequence + 1, sections)
    return [Block(uuid4(), pack.id, ref, s.granularity, s.level, s.first, s.last, s.rows)
            for s, ref, parent in zip(sections, refs, parents, strict=True) for pack in owners[parent]]
