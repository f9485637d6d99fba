"""Keeping blocks few and free of dead rows, one sack at a time."""

import contextlib
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID, uuid4

import numpy

from gnocchi.carbonara.grouping import span_ns
from gnocchi.catalogue import Block, Pack, Sack, SackCommit, SackContents
from gnocchi.exceptions import CorruptedData
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.commit import make_block_section, snapshot
from gnocchi.storage.head import Head
from gnocchi.storage.merge import DEAD_SHARE_MAX, MergePlan, Rows, count_dead, find_alive, join_rows, plan_levels
from gnocchi.storage.sections import Section
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

#: Rows read for one commit, unless a single merge has more: a lock is held for so long.
ROWS_PER_COMMIT = 1 << 20


class Merged(NamedTuple):
    """What one commit of merges did: blocks that went (none: there is nothing left to do) and blocks that came."""

    removed: int
    written: int


class _Group(NamedTuple):
    """The blocks of one pack and granularity, and what tells which of their rows are alive."""

    pack: Pack
    granularity: int
    timespan: int | None
    blocks: list[Block]


def merge_sack(number: int, indexer: Indexer, store: Store, suspects: Collection[UUID] | None = (),
               damaged: set[UUID] | None = None) -> Merged:
    """Merge small blocks of a sack, drop rows that nobody can read, and commit; at most `ROWS_PER_COMMIT` rows.

    Parameters
    ----------
    suspects : ids of packs some of whose metrics were deleted, None: any may be one
        Of other packs, only blocks with rows past their timespan are looked at: opening all of them costs.
    damaged : set of ids of blocks, and of packs whose head it is, that are left alone
        Those found damaged are added, and logged then.  A block that cannot be read stays as it is.

    To be called under the sack's lock.  Raises CommitLost, BackendUnavailable: then nothing has changed.
    """
    damaged = set() if damaged is None else damaged
    while True:
        known = len(damaged)
        merged = _merge_once(number, indexer, store, suspects, damaged)
        if merged.removed or len(damaged) == known:
            return merged


def _merge_once(number: int, indexer: Indexer, store: Store, suspects: Collection[UUID] | None,
                damaged: set[UUID]) -> Merged:
    contents = indexer.get_sack_contents(number)
    sack = contents.sack
    removed: list[Block] = []
    sections: list[tuple[Section, UUID]] = []
    rows = 0
    reading = functools.partial(_reading, indexer, sack)
    groups = _list_groups(contents, indexer.list_sack_blocks(number), damaged)
    for group, head, plan in _plan_groups(groups, store, suspects, damaged, reading):
        if rows and rows + sum(block.rows for block in plan.blocks) > ROWS_PER_COMMIT:
            break
        with _leaving_alone(damaged):
            section = _merge(store, group, head, plan, reading)
            rows += sum(block.rows for block in plan.blocks)
            removed += plan.blocks
            if section is not None:
                sections.append((section, group.pack.id))
    if not removed:
        return Merged(0, 0)
    blocks = _write(store, contents.sack_bits, number, sack.sequence + 1, sections)
    indexer.commit_sack(SackCommit(
        sack=number, sequence=sack.sequence, checkpoint=None, blocks=tuple(blocks),
        blocks_removed=tuple(block.id for block in removed),
        garbage=tuple(sorted({block.section.key for block in removed}))))
    return Merged(len(removed), len(blocks))


def list_idle_sacks(numbers: Sequence[int], indexer: Indexer, suspects: Mapping[int, Collection[UUID]]
                    ) -> dict[int, int]:
    """Return the sacks in which there is nothing to merge, as the index alone tells, and at which sequence.

    Parameters
    ----------
    suspects : by sack, as of `merge_sack`

    Needs no lock and few statements, whatever the number of sacks.
    """
    idle = {}
    # Sequences first: what is committed in between is looked at again.
    sacks = indexer.list_sack_contents(numbers)
    stored = indexer.list_blocks(numbers)
    for contents in sacks:
        number = contents.sack.number
        groups = _list_groups(contents, stored[number], set())
        if not suspects.get(number) and not any(
                plan_levels(group.blocks) or any(_may_be_aged(block, group) for block in group.blocks)
                for group in groups):
            idle[number] = contents.sack.sequence
    return idle


class _Damaged(Exception):
    """A head or block cannot be read."""

    def __init__(self, id: UUID, what: str, error: Exception) -> None:
        super().__init__(f"{what} {id} cannot be read: {error}")
        self.id = id


#: Makes the context in which a head or block, named by what and which it is, is read.
_Reading = Callable[[str, UUID], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _reading(indexer: Indexer, sack: Sack, what: str, id: UUID) -> Iterator[None]:
    try:
        with snapshot(indexer, sack):
            yield
    except CorruptedData as e:
        raise _Damaged(id, what, e) from e


@contextlib.contextmanager
def _leaving_alone(damaged: set[UUID]) -> Iterator[None]:
    """Note what turns out to be damaged, and go on behind: nothing of the work inside has happened."""
    try:
        yield
    except _Damaged as e:
        damaged.add(e.id)
        LOG.error("%s; it is not merged", e)


def _plan_groups(groups: Sequence[_Group], store: Store, suspects: Collection[UUID] | None, damaged: set[UUID],
                 reading: _Reading) -> Iterator[tuple[_Group, Head, MergePlan]]:
    for group in groups:
        if group.pack.id in damaged:
            continue
        suspected = suspects is None or group.pack.id in suspects
        aged = [block for block in group.blocks if suspected or _may_be_aged(block, group)]
        dying = []
        with _leaving_alone(damaged), reading("The head of pack", group.pack.id):
            head = store.read_head(group.pack)
            for block in aged:
                with _leaving_alone(damaged), reading("Block", block.id):
                    if _is_dying(store, group, head, block):
                        dying.append(block)
        if group.pack.id in damaged:
            continue
        for block in dying:
            yield group, head, MergePlan((block,), block.level)
        gone = damaged | {block.id for block in dying}
        for plan in plan_levels([block for block in group.blocks if block.id not in gone]):
            yield group, head, plan


def _list_groups(contents: SackContents, stored: Sequence[Block], damaged: set[UUID]) -> list[_Group]:
    packs = {pack.id: pack for pack in contents.packs}
    by_group: dict[tuple[UUID, int], list[Block]] = {}
    for block in stored:
        if block.id not in damaged:
            by_group.setdefault((block.pack_id, block.granularity), []).append(block)
    groups = []
    for (pack_id, granularity), blocks in by_group.items():
        if pack_id in packs:    # Else somebody commits without our lock: ours will be lost.
            policy = contents.policies[packs[pack_id].policy_id]
            timespan = dict(policy.window_policy.items)[numpy.timedelta64(granularity, "ns")]
            groups.append(_Group(packs[pack_id], granularity, None if timespan is None else span_ns(timespan), blocks))
    return groups


def _may_be_aged(block: Block, group: _Group) -> bool:
    """Tell whether any row can be past the timespan of a metric that still gets measures."""
    newest = max(other.last for other in group.blocks)
    return group.timespan is not None and block.first <= newest - group.timespan


def _is_dying(store: Store, group: _Group, head: Head, block: Block) -> bool:
    dead = count_dead(store.summarize_block(block), head, group.granularity, group.timespan)
    return dead > block.rows * DEAD_SHARE_MAX


def _merge(store: Store, group: _Group, head: Head, plan: MergePlan, reading: _Reading) -> Section | None:
    """Read the blocks of a plan and return what is alive of them, as one block; None if nothing is."""
    tables, parts = [], []
    for block in plan.blocks:
        with reading("Block", block.id):
            directory, rows = store.read_block(block)
        alive = find_alive(head, directory.ids, rows.metrics, rows.times, group.granularity, group.timespan)
        tables.append(directory.ids)
        parts.append(select_rows(rows, alive))
    ids, places = numpy.unique(numpy.concatenate(tables), return_inverse=True)
    starts = numpy.cumsum([0, *map(len, tables)])
    parts = [part._replace(metrics=places[start:][part.metrics])
             for part, start in zip(parts, starts[:-1].tolist(), strict=True)]
    buckets = join_rows(parts, len(ids))
    if not len(buckets.timestamps):
        return None
    return make_block_section(group.pack, ids, buckets, numpy.timedelta64(group.granularity, "ns"), plan.level)


def select_rows(rows: Rows, keep: numpy.ndarray) -> Rows:
    """Return the rows that the bool array `keep` names."""
    if keep.all():
        return rows
    columns = {method: column._replace(
        values=column.values[keep], present=None if column.present is None else column.present[keep])
        for method, column in rows.columns.items()}
    return Rows(rows.metrics[keep], rows.times[keep], columns)


def _write(store: Store, sack_bits: int, number: int, sequence: int,
           sections: Sequence[tuple[Section, UUID]]) -> list[Block]:
    """Write merged blocks, those of each level as one object: they live about as long."""
    blocks = []
    for level in sorted({section.level for section, _ in sections}):
        those = [(section, pack_id) for section, pack_id in sections if section.level == level]
        refs = store.write_sections(sack_bits, number, "block", sequence, [section for section, _ in those])
        blocks += [Block(uuid4(), pack_id, ref, s.granularity, s.level, s.first, s.last, s.rows)
                   for (s, pack_id), ref in zip(those, refs, strict=True)]
    return blocks
