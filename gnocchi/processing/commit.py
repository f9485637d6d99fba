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


class EncodedPlan(NamedTuple):
    """A plan, the packs and heads that take its pack's place, and all sections to write.

    bases, deltas : one (pack, whole head, section) for each pack that takes the place
    blocks : of level 0, one for each granularity with sealed buckets
    """

    plan: PackPlan
    bases: list[tuple[Pack, Head, Section]]
    deltas: list[tuple[Pack, Head, Section]]
    blocks: list[Section]

    @property
    def heirs(self) -> list[Pack]:
        return [pack for pack, _, _ in (*self.bases, *self.deltas)]


class Prepared(NamedTuple):
    """A commit whose objects are written, and the heads to remember once it has happened."""

    commit: SackCommit
    heads: list[tuple[Pack, Head]]


def encode_plan(plan: PackPlan) -> EncodedPlan:
    """Turn a plan into sections.  Pure: what fails here is this pack's fault alone."""
    bases, deltas = [], []
    for pack, head in _succeed(plan):
        delta = select_metrics(head, head.changed)
        if _fits_delta(pack, delta):
            deltas.append((pack, head, make_head_section(KIND_DELTA, pack, delta)))
        else:
            head = head._replace(changed=numpy.zeros(len(head.ids), bool))
            bases.append((pack, head, make_head_section(KIND_BASE, pack, head)))
    blocks = [make_block_section(plan.pack, plan.head.ids, buckets, granularity, level=0)
              for granularity, buckets in plan.sealed.items()]
    return EncodedPlan(plan, bases, deltas, blocks)


def prepare_commit(store: Store, list_pack_blocks: Callable[[Sequence[UUID]], list[Block]], contents: SackContents,
                   checkpoint: dict[str, Any] | None, plans: Sequence[EncodedPlan]) -> Prepared:
    """Write the objects of a commit and return what the index has to record.

    Until that is done nothing of it is visible, and nothing of it is ever deleted by this process:
    the commit may have happened although its answer was lost.
    """
    sack, sack_bits = contents.sack, contents.sack_bits
    owners = {encoded.plan.pack.id: encoded.heirs for encoded in plans}
    blocks = _write_blocks(store, sack, sack_bits, plans)
    heads = _write_heads(store, sack, sack_bits, plans)
    packs = [encoded.plan.pack for encoded in plans]
    garbage = _replaced_keys(packs, [pack for pack, _ in heads])
    stored = {pack.id for pack in contents.packs}
    removed = [pack for pack in packs if pack.id in stored and pack.id not in {heir.id for heir in owners[pack.id]}]
    for block in list_pack_blocks([pack.id for pack in removed]) if removed else []:
        garbage.add(block.section.key)
        blocks += [replace(block, id=uuid4(), pack_id=heir.id) for heir in owners[block.pack_id]]
    gone = {pack.id for pack in removed}
    # Whoever has no heirs has no live metrics, and its parked measures are nobody's.
    orphaned = [row for row in contents.parked if row.pack_id in gone]
    garbage.update(row.section.key for row in orphaned)
    commit = SackCommit(
        sack=sack.number, sequence=sack.sequence, checkpoint=checkpoint,
        packs=tuple(pack for pack, _ in heads), packs_removed=tuple(pack.id for pack in removed),
        blocks=tuple(blocks), blocks_removed=(), garbage=tuple(sorted(garbage)),
        parked=tuple(replace(row, id=uuid4(), pack_id=heir.id) for row in orphaned for heir in owners[row.pack_id]),
        parked_removed=tuple(row.id for row in orphaned))
    return Prepared(commit, heads)


def _succeed(plan: PackPlan) -> list[tuple[Pack, Head]]:
    """Return the packs, with their heads, that take a pack's place: none, itself, or its halves."""
    if not len(plan.head.ids):
        return []
    if not pack_rules.needs_split(plan.pack, plan.head):
        return [(plan.pack, plan.head)]
    return [(pack, head) for pack, head in pack_rules.split(plan.pack, plan.head) if len(head.ids)]


def _write_heads(store: Store, sack: Sack, sack_bits: int, plans: Sequence[EncodedPlan]) -> list[tuple[Pack, Head]]:
    """Write heads, and return the packs that name them and the heads as a reader will find them.

    Bases and deltas lie in objects of their own, for a base is kept while delta follows delta.
    """
    written: list[tuple[Pack, Head]] = []
    bases = [base for encoded in plans for base in encoded.bases]
    deltas = [delta for encoded in plans for delta in encoded.deltas]
    if bases:
        refs = store.write_sections(sack_bits, sack.number, "base", sack.sequence + 1, [s for _, _, s in bases])
        written += [(replace(pack, base=ref, delta=None, metrics=len(head.ids), bytes=ref.length), head)
                    for (pack, head, _), ref in zip(bases, refs, strict=True)]
    if deltas:
        refs = store.write_sections(sack_bits, sack.number, "delta", sack.sequence + 1, [s for _, _, s in deltas])
        written += [(replace(pack, delta=ref, metrics=len(head.ids), bytes=encoded_size(head)), head)
                    for (pack, head, _), ref in zip(deltas, refs, strict=True)]
    return written


def _fits_delta(pack: Pack, delta: Head) -> bool:
    """Tell whether writing what changed costs enough less than writing the whole head."""
    return pack.base is not None and encoded_size(delta) * DELTA_SHARE_MAX < pack.base.length


def make_head_section(kind: int, pack: Pack, head: Head) -> Section:
    """Encode a base, or as a delta the metrics of a head that changed."""
    return Section(kind, pack.policy_id, pack.bits, pack.low, encode_head(head), rows=len(head.ids))


def _replaced_keys(before: Sequence[Pack], after: Sequence[Pack]) -> set[str]:
    """Return the keys of head objects that a commit takes a reference from."""
    refs = [ref for pack in before for ref in (pack.base, pack.delta)]
    still = {ref for pack in after for ref in (pack.base, pack.delta)}
    return {ref.key for ref in refs if ref is not None and ref not in still}


def _write_blocks(store: Store, sack: Sack, sack_bits: int, plans: Sequence[EncodedPlan]) -> list[Block]:
    """Write all sealed buckets as one object: apart from heads, which are replaced much sooner."""
    sections = [(section, encoded.heirs) for encoded in plans for section in encoded.blocks]
    if not sections:
        return []
    refs = store.write_sections(sack_bits, sack.number, "block", sack.sequence + 1, [s for s, _ in sections])
    return [Block(uuid4(), heir.id, ref, s.granularity, s.level, s.first, s.last, s.rows)
            for (s, heirs), ref in zip(sections, refs, strict=True) for heir in heirs]


def make_block_section(pack: Pack, ids: numpy.ndarray, buckets: Buckets, granularity: numpy.timedelta64,
                       level: int) -> Section:
    """Encode buckets of a pack's metrics (ids: `S16`, ascending; one series each) as a block."""
    times = buckets.timestamps.view(numpy.int64)
    return Section(KIND_BLOCK, pack.policy_id, pack.bits, pack.low, encode_block(ids, buckets, granularity),
                   rows=len(times), level=level, granularity=span_ns(granularity),
                   first=int(times.min()), last=int(times.max()))
