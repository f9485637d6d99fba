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
from gnocchi.storage.head import (
    Head,
    HeadParts,
    apply_delta,
    count_metrics,
    encode_head,
    encoded_size,
    size_of,
    view_head,
)
from gnocchi.storage.object_batch import ObjectBatch
from gnocchi.storage.sections import KIND_BASE, KIND_BLOCK, KIND_DELTA, Section, name_heads
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

    parts : HeadParts; without metrics the pack goes, and its blocks with it.  The base is as it is stored, if
        `keeps_base`: then only the delta may have to be written
    ids : ndarray, shape (m,), `S16`, ascending;  sealed : dict of granularity (timedelta64[ns]) -> Buckets of these
        metrics, in their order
    """

    pack: Pack
    parts: HeadParts
    ids: numpy.ndarray
    sealed: dict[numpy.timedelta64, Buckets]
    keeps_base: bool = True


class Heir(NamedTuple):
    """A pack that takes a pack's place, and the section that is written of it, which is a delta or a base.

    metrics, bytes : of its whole head
    """

    pack: Pack
    section: Section
    metrics: int
    bytes: int


class EncodedPlan(NamedTuple):
    """A pack, those that take its place, and its blocks of level 0: one for each granularity with sealed buckets."""

    pack: Pack
    heirs: list[Heir]
    blocks: list[Section]


class Prepared(NamedTuple):
    """A commit, and of the packs it changes what is written: the pack as it will be, and the section."""

    commit: SackCommit
    written: list[tuple[Pack, Section]]


def encode_plan(plan: PackPlan) -> EncodedPlan:
    """Turn a plan into sections.  Pure: what fails here is this pack's fault alone."""
    blocks = [make_block_section(plan.pack, plan.ids, buckets, granularity, level=0)
              for granularity, buckets in plan.sealed.items()]
    return EncodedPlan(plan.pack, _encode_heads(plan), blocks)


def _encode_heads(plan: PackPlan) -> list[Heir]:
    """Return what takes a pack's place: nothing, itself, or its halves."""
    pack, (base, delta) = plan.pack, plan.parts
    # A delta must cost enough less than the whole head.
    if plan.keeps_base and pack.base is not None and encoded_size(delta) * DELTA_SHARE_MAX < pack.base.length:
        metrics, points = count_metrics(base, delta)
        size = size_of(metrics, points)
        if not pack_rules.needs_split(pack, metrics, size):
            return [Heir(pack, make_head_section(KIND_DELTA, pack, delta), metrics, size)]
    whole = apply_delta(base, delta)
    if not len(whole.ids):
        return []
    if pack_rules.needs_split(pack, len(whole.ids), encoded_size(whole)):
        return [_make_heir(KIND_BASE, half, head) for half, head in pack_rules.split(pack, whole) if len(head.ids)]
    return [_make_heir(KIND_BASE, pack, whole)]


def _make_heir(kind: int, pack: Pack, head: Head) -> Heir:
    section = make_head_section(kind, pack, head)
    return Heir(pack, section, len(head.ids), len(section.data))


def prepare_commit(objects: ObjectBatch, list_pack_blocks: Callable[[Sequence[UUID]], list[Block]],
                   contents: SackContents, checkpoint: dict[str, Any] | None,
                   plans: Sequence[EncodedPlan]) -> Prepared:
    """Add the objects of a commit to those that are to be written, and return what the index has to record then.

    Until it has recorded that nothing of it is visible, and nothing of it is ever deleted by this process:
    the commit may have happened although its answer was lost.
    """
    sack = contents.sack
    blocks = _add_blocks(objects, contents, plans)
    written = _add_heads(objects, contents, plans)
    garbage = _replaced_keys([plan.pack for plan in plans], [pack for pack, _ in written])
    heirs = {plan.pack.id: [heir.pack for heir in plan.heirs] for plan in plans
             if all(heir.pack is not plan.pack for heir in plan.heirs)}
    removed = [pack for pack in contents.packs if pack.id in heirs] if heirs else []
    for block in list_pack_blocks([pack.id for pack in removed]) if removed else []:
        garbage.add(block.section.key)
        blocks += [block._replace(id=uuid4(), pack_id=heir.id) for heir in heirs[block.pack_id]]
    gone = {pack.id for pack in removed}
    # Whoever has no heirs has no live metrics, and its parked measures are nobody's.
    orphaned = [row for row in contents.parked if row.pack_id in gone]
    garbage.update(row.section.key for row in orphaned)
    commit = SackCommit(
        sack=sack.number, sequence=sack.sequence, checkpoint=checkpoint,
        packs=tuple(pack for pack, _ in written), packs_removed=tuple(pack.id for pack in removed),
        blocks=tuple(blocks), blocks_removed=(), garbage=tuple(sorted(garbage)),
        parked=tuple(replace(row, id=uuid4(), pack_id=heir.id) for row in orphaned for heir in heirs[row.pack_id]),
        parked_removed=tuple(row.id for row in orphaned))
    return Prepared(commit, written)


def _add_heads(objects: ObjectBatch, contents: SackContents,
               plans: Sequence[EncodedPlan]) -> list[tuple[Pack, Section]]:
    """Add heads, and return the packs that name them.

    Bases and deltas lie in objects of their own, for a base is kept while delta follows delta.
    """
    sack, written = contents.sack, []
    for kind, name in ((KIND_BASE, "base"), (KIND_DELTA, "delta")):
        heirs = [heir for plan in plans for heir in plan.heirs if heir.section.kind == kind]
        if not heirs:
            continue
        refs = objects.add(contents.sack_bits, sack.number, name, sack.sequence + 1, [heir.section for heir in heirs])
        for (pack, section, metrics, size), ref in zip(heirs, refs, strict=True):
            refs_of: dict[str, Any] = {"base": ref, "delta": None} if kind == KIND_BASE else {"delta": ref}
            written.append((pack._replace(metrics=metrics, bytes=size, **refs_of), section))
    return written


def remember_heads(store: Store, plans: Sequence[EncodedPlan], written: Sequence[tuple[Pack, Section]]) -> None:
    """Keep heads that were just committed, and drop those in whose place they are."""
    kept = {pack.base for pack, _ in written}
    replaced = [ref for plan in plans for ref in (plan.pack.base, plan.pack.delta)
                if ref is not None and ref not in kept]
    # The bytes are there anyway; what they were made of may be part of something larger.
    store.replace_heads(replaced, [(pack, section.kind == KIND_DELTA, view_head(section.data, pack.bits))
                                   for pack, section in written])


def make_head_section(kind: int, pack: Pack, head: Head) -> Section:
    """Encode a base, or as a delta the metrics of a head that changed.

    pack : as it was before, so that the section can say what it takes the place of
    """
    newest = pack.delta or pack.base
    named = name_heads(pack.base.key if kind == KIND_DELTA and pack.base is not None else None,
                       None if newest is None else newest.key)
    return Section(kind, pack.policy_id, pack.bits, pack.low, encode_head(head), rows=len(head.ids),
                   granularity=named.replaced_sequence, first=named.base, last=named.replaced)


def _replaced_keys(before: Sequence[Pack], after: Sequence[Pack]) -> set[str]:
    """Return the keys of head objects that a commit takes a reference from."""
    refs = [ref for pack in before for ref in (pack.base, pack.delta)]
    still = {ref for pack in after for ref in (pack.base, pack.delta)}
    return {ref.key for ref in refs if ref is not None and ref not in still}


def _add_blocks(objects: ObjectBatch, contents: SackContents, plans: Sequence[EncodedPlan]) -> list[Block]:
    """Add all sealed buckets as one object: apart from heads, which are replaced much sooner."""
    sections = [(section, plan.heirs) for plan in plans for section in plan.blocks]
    if not sections:
        return []
    sack = contents.sack
    refs = objects.add(contents.sack_bits, sack.number, "block", sack.sequence + 1, [s for s, _ in sections])
    return [Block(uuid4(), heir.pack.id, ref, s.granularity, s.level, s.first, s.last, s.rows)
            for (s, heirs), ref in zip(sections, refs, strict=True) for heir in heirs]


def make_block_section(pack: Pack, ids: numpy.ndarray, buckets: Buckets, granularity: numpy.timedelta64,
                       level: int) -> Section:
    """Encode buckets of a pack's metrics (ids: `S16`, ascending; one series each) as a block."""
    times = buckets.timestamps.view(numpy.int64)
    return Section(KIND_BLOCK, pack.policy_id, pack.bits, pack.low, encode_block(ids, buckets, granularity),
                   rows=len(times), level=level, granularity=span_ns(granularity),
                   first=int(times.min()), last=int(times.max()))
