"""The catalogue made anew from the stored objects, when the rows of packs and blocks are lost.

Objects repeat in their tables what the catalogue says of their sections, but not which of them counted: heads
that were replaced, blocks that were merged, and what was written for commits that never came lie beside them.

    heads    of each share of the ids the newest counts; what it leaves of an older, wider one counts too
    blocks   newest first.  Rows do not count that a newer block has, that the head keeps open, or that nobody can
             read; where a part of a block counts that part is written anew
    parked   all count: to take measures twice changes nothing, unless later ones stand in their place

Which of two objects of one sequence was committed is told by later heads (rebuild_heads.py).  Where there are none,
nothing tells for sure: the one whose writer had read more of the backlog is taken.  Both differ in sealed buckets at
most, and only by late measures that came in between.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID, uuid4

import numpy

from gnocchi.archive_policy import ArchivePolicy
from gnocchi.catalogue import Block, Pack, Parked, SackCommit, SectionRef
from gnocchi.exceptions import CorruptedData, ObjectNotFound
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.parking import utcnow
from gnocchi.processing.rebuild_blocks import BlockChooser, FoundBlock
from gnocchi.processing.rebuild_heads import FoundHead, find_lost, list_states
from gnocchi.processing.repair import Refused
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import Head, contains, encoded_size
from gnocchi.storage.sections import (
    KIND_BASE,
    KIND_BLOCK,
    KIND_DELTA,
    KIND_PARKED,
    PREFIX,
    NamedHeads,
    ObjectTable,
    Section,
    parse_nonce,
    parse_sequence,
)
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)


class FoundParked(NamedTuple):
    nonce: int
    bits: int
    low: int
    section: SectionRef
    measures: int


@dataclass
class Sections:
    """What storage holds of one archive policy."""

    bases: list[FoundHead] = field(default_factory=list)
    deltas: list[FoundHead] = field(default_factory=list)
    blocks: list[FoundBlock] = field(default_factory=list)
    parked: list[FoundParked] = field(default_factory=list)

    def without(self, lost: set[int]) -> "Sections":
        """Return what is left when nothing counts that commits with these nonces wrote."""
        return Sections([found for found in self.bases if found.nonce not in lost],
                        [found for found in self.deltas if found.nonce not in lost],
                        [found for found in self.blocks if found.nonce not in lost],
                        [found for found in self.parked if found.nonce not in lost])


@dataclass
class Rebuilt:
    """What the new catalogue holds; `problems` tells people what could not be used."""

    objects: int = 0
    packs: int = 0
    blocks: int = 0
    blocks_rewritten: int = 0
    parked: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass
class _SackRows:
    """New rows of one sack; blocks that are still to be written come with the pack they belong to."""

    packs: list[Pack] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    sections: list[tuple[Section, Pack]] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)


def rebuild_catalogue(indexer: Indexer, store: Store, force: bool) -> Rebuilt:
    """Fill the catalogue from what is stored.  Archive policies, metrics and sacks must be in the index.

    Parameters
    ----------
    force : bool
        Replace what the catalogue holds; else it has to be empty.

    To be called under the locks of all sacks.  Raises Refused, CommitLost, BackendUnavailable: then it may be run
    again, with `force` if some sacks were done.
    """
    sacks = indexer.count_sacks()
    if not sacks:
        raise Refused("There are no sacks. Run gnocchi-upgrade first")
    if not force and any(indexer.list_packs(number) for number in range(sacks)):
        raise Refused("The catalogue is not empty. With --force, what it holds is replaced")
    rebuilt = Rebuilt()
    by_policy, newest = _scan(store, rebuilt)
    policies = indexer.get_sack_contents(0).policies
    lost = {nonce for sections in by_policy.values() for nonce in find_lost([*sections.bases, *sections.deltas])}
    rows = [_SackRows() for _ in range(sacks)]
    for policy_id, sections in by_policy.items():
        if policy_id not in policies:
            rebuilt.problems.append(f"archive policy {policy_id} does not exist: what is stored of it is left out")
            continue
        _PolicyRebuilder(policies[policy_id], sections.without(lost), indexer, store, rebuilt).fill(rows)
    # Nothing that is found may ever seem to be of a commit that is still to come.
    indexer.raise_sequences(newest)
    for number, sack_rows in enumerate(rows):
        _commit(number, sack_rows, indexer, store)
        rebuilt.packs += len(sack_rows.packs)
        rebuilt.blocks += len(sack_rows.blocks) + len(sack_rows.sections)
        rebuilt.blocks_rewritten += len(sack_rows.sections)
        rebuilt.parked += len(sack_rows.parked)
    return rebuilt


def _scan(store: Store, rebuilt: Rebuilt) -> tuple[dict[UUID, Sections], int]:
    """Read the tables of all objects; return their sections by policy, and the highest sequence."""
    by_policy: dict[UUID, Sections] = {}
    newest = 0
    for key in store.driver.list(PREFIX):
        sequence = parse_sequence(key)
        if sequence is None:
            continue
        rebuilt.objects += 1
        newest = max(newest, sequence)
        for member, table in _read_tables(store, key):
            if isinstance(table, ObjectTable):
                newest = max(newest, table.sequence)
                _note_sections(by_policy, member, table)
            else:
                rebuilt.problems.append(f"object left out: {table}")
    return by_policy, newest


def _read_tables(store: Store, key: str) -> list[tuple[str, ObjectTable | CorruptedData]] | list[
        tuple[str, ObjectNotFound]]:
    try:
        return store.read_tables(key)
    except ObjectNotFound as e:
        return [(key, e)]


def _note_sections(by_policy: dict[UUID, Sections], key: str, table: ObjectTable) -> None:
    sequence, nonce = table.sequence, parse_nonce(key)
    for entry in table.entries:
        ref = SectionRef(key, entry.offset, entry.length)
        named = NamedHeads(entry.granularity, entry.first, entry.last)
        sections = by_policy.setdefault(entry.policy_id, Sections())
        if entry.kind == KIND_BASE:
            sections.bases.append(FoundHead(sequence, entry.bits, entry.low, ref, None, nonce, named))
        elif entry.kind == KIND_DELTA:
            sections.deltas.append(FoundHead(sequence, entry.bits, entry.low, ref, ref, nonce, named))
        elif entry.kind == KIND_BLOCK:
            sections.blocks.append(FoundBlock(sequence, nonce, entry.bits, entry.low, ref, entry.granularity,
                                              entry.level, entry.first, entry.last, entry.rows))
        elif entry.kind == KIND_PARKED:
            sections.parked.append(FoundParked(nonce, entry.bits, entry.low, ref, entry.rows))


def _commit(number: int, rows: _SackRows, indexer: Indexer, store: Store) -> None:
    contents = indexer.get_sack_contents(number)
    blocks = list(rows.blocks)
    if rows.sections:
        refs = store.write_sections(contents.sack_bits, number, "block", contents.sack.sequence + 1,
                                    [section for section, _ in rows.sections])
        blocks += [Block(uuid4(), pack.id, ref, s.granularity, s.level, s.first, s.last, s.rows)
                   for (s, pack), ref in zip(rows.sections, refs, strict=True)]
    indexer.commit_sack(SackCommit(
        number, contents.sack.sequence, checkpoint=None, packs=tuple(rows.packs),
        packs_removed=tuple(pack.id for pack in contents.packs), blocks=tuple(blocks), parked=tuple(rows.parked),
        parked_removed=tuple(row.id for row in contents.parked)))


class _PolicyRebuilder:
    """Makes the rows of one archive policy."""

    def __init__(self, policy: ArchivePolicy, sections: Sections, indexer: Indexer, store: Store,
                 rebuilt: Rebuilt) -> None:
        self._policy = policy
        self._sections = sections
        self._store = store
        self._problems = rebuilt.problems
        self._live = indexer.list_policy_metrics(policy.id)
        self._chooser = BlockChooser(policy, sections.blocks, store, rebuilt.problems)

    def fill(self, rows: Sequence[_SackRows]) -> None:
        """Add what was found to the rows of each sack."""
        sack_bits = len(rows).bit_length() - 1
        taken: list[tuple[int, int]] = []
        packs: list[Pack] = []
        for found in self._sort(list_states(self._sections.bases, self._sections.deltas, self._problems)):
            for share in _list_shares(taken, found.bits, found.low, sack_bits):
                pack = self._make_pack(share, sack_bits)._replace(base=found.base, delta=found.delta)
                pack, head = self._read(pack)
                # What is left of a pack after a split may be without metrics, as the packs of deleted metrics are.
                if not (contains(self._live, head.ids) if head else pack_rules.owns(pack, self._live)).any():
                    continue
                packs.append(pack)
                taken.append((pack.bits, pack.low))
                its_rows = rows[pack.sack]
                its_rows.packs.append(pack)
                blocks, sections = self._chooser.choose(pack, head)
                its_rows.blocks += blocks
                its_rows.sections += [(section, pack) for section in sections]
            # Also where nothing was alive: what is older than that is dead, too.
            taken.append((found.bits, found.low))
        self._fill_parked(rows, packs, sack_bits)

    def _make_pack(self, share: tuple[int, int], sack_bits: int) -> Pack:
        bits, low = share
        return pack_rules.make_pack(low & ((1 << sack_bits) - 1), self._policy.id, bits, low)

    def _read(self, pack: Pack) -> tuple[Pack, Head | None]:
        """Return the pack as the catalogue shall have it, and its head unless it is damaged."""
        try:
            head = self._store.read_head(pack)
        except (CorruptedData, ObjectNotFound) as e:
            self._problems.append(f"the head of pack {pack.id} is damaged: {e}")
            return pack, None
        return pack._replace(metrics=len(head.ids), bytes=encoded_size(head)), head

    def _sort(self, heads: Sequence[FoundHead]) -> list[FoundHead]:
        # Of a share's heads of one sequence at most one was committed: that of more measures, for whoever loses a
        # commit has read less of the backlog.  For the same reason halves come before the whole.
        twins = Counter(head[:3] for head in heads)
        return sorted(heads, key=lambda head: (head.sequence, head.bits, head.low,
                                               self._weigh(head) if twins[head[:3]] > 1 else ()), reverse=True)

    def _weigh(self, found: FoundHead) -> tuple[int, ...]:
        try:
            head = self._store.read_head(pack_rules.make_pack(0, self._policy.id, found.bits, found.low)._replace(
                base=found.base, delta=found.delta))
        except (CorruptedData, ObjectNotFound):
            return ()
        return len(head.ids), sum(head.state.newest.view(numpy.int64).tolist()), len(head.state.raw.values)

    def _fill_parked(self, rows: Sequence[_SackRows], packs: list[Pack], sack_bits: int) -> None:
        for found in self._sections.parked:
            # Of a pack that never had a head there is nothing else.
            taken = [(pack.bits, pack.low) for pack in packs]
            for share in _list_shares(taken, found.bits, found.low, sack_bits):
                pack = self._make_pack(share, sack_bits)
                if pack_rules.owns(pack, self._live).any():
                    packs.append(pack)
                    rows[pack.sack].packs.append(pack)
            for pack in packs:
                common = (1 << min(pack.bits, found.bits)) - 1
                if pack.low & common == found.low & common:
                    rows[pack.sack].parked.append(Parked(
                        uuid4(), pack.sack, pack.id, pack.policy_id, found.section, found.measures,
                        "found when the catalogue was rebuilt", utcnow()))


def _list_shares(taken: Sequence[tuple[int, int]], bits: int, low: int, bits_min: int) -> Iterator[tuple[int, int]]:
    """Yield the largest shares of at least `bits_min` bits, within the given one, that none of those taken touches."""
    for free_bits, free_low in pack_rules.list_free_shares(taken, bits, low):
        more = max(0, bits_min - free_bits)
        for high in range(1 << more):
            yield free_bits + more, free_low | high << free_bits
