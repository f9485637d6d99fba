"""Which of the blocks in storage count, when nothing but the blocks and the heads can tell."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import uuid4

import numpy

from gnocchi.archive_policy import ArchivePolicy
from gnocchi.carbonara.grouping import span_ns
from gnocchi.catalogue import Block, Pack, SectionRef
from gnocchi.exceptions import CorruptedData, ObjectNotFound
from gnocchi.processing.commit import make_block_section
from gnocchi.processing.merge import select_rows
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import Head, contains
from gnocchi.storage.merge import find_alive, join_rows
from gnocchi.storage.sections import Section
from gnocchi.storage.store import Store


class FoundBlock(NamedTuple):
    """A block as an object's table tells of it."""

    sequence: int
    nonce: int
    bits: int
    low: int
    section: SectionRef
    granularity: int
    level: int
    first: int
    last: int
    rows: int


class _Rows(NamedTuple):
    """When the rows of a block are, metric by metric.

    ids : ndarray, shape (m,), `S16`, ascending;  metrics : shape (r,), places in ids;  times : shape (r,), int64 ns
    """

    ids: numpy.ndarray
    metrics: numpy.ndarray
    times: numpy.ndarray


class _Kept(NamedTuple):
    """A block that counts, and the first and last row (int64 ns) of each of its metrics."""

    found: FoundBlock
    ids: numpy.ndarray
    firsts: numpy.ndarray
    lasts: numpy.ndarray


class BlockChooser:
    """Chooses among the blocks of one archive policy.

    Parameters
    ----------
    problems : list of str
        What cannot be used is told there.
    """

    def __init__(self, policy: ArchivePolicy, blocks: Sequence[FoundBlock], store: Store, problems: list[str]) -> None:
        self._timespans = {span_ns(granularity): None if timespan is None else span_ns(timespan)
                           for granularity, timespan in policy.window_policy.items}
        # Of two of one commit, the one with more rows was written by who had read more of the backlog.
        self._blocks = sorted(blocks, key=lambda block: (block.sequence, block.rows), reverse=True)
        self._store = store
        self._problems = problems

    def choose(self, pack: Pack, head: Head | None) -> tuple[list[Block], list[Section]]:
        """Return the blocks of a pack, and those that have to be written anew, without what does not count.

        Parameters
        ----------
        head : Head of the pack; None when it is damaged: then all rows of its metrics may be readable
        """
        blocks, sections = [], []
        kept: dict[int, list[_Kept]] = {granularity: [] for granularity in self._timespans}
        for found in self._blocks:
            common = (1 << min(pack.bits, found.bits)) - 1
            if found.granularity not in kept or pack.low & common != found.low & common:
                continue
            block = Block(uuid4(), pack.id, *found[4:])
            try:
                rows = self._read_rows(found)
                section, counting = self._cut(pack, head, found, block, rows, kept[found.granularity])
            except (CorruptedData, ObjectNotFound) as e:
                # It may be needed, and must not be missed in silence.
                self._problems.append(f"block {block.id} of pack {pack.id} is damaged: {e}")
                blocks.append(block)
                continue
            if not counting.any():
                continue
            kept[found.granularity].append(_make_kept(found, rows, counting))
            if section is None:
                blocks.append(block)
            else:
                sections.append(section)
        return blocks, sections

    def _read_rows(self, found: FoundBlock) -> _Rows:
        directory, times = self._store.read_times(found.section)
        counts: numpy.ndarray = numpy.diff(directory.offsets.astype(numpy.int64))
        return _Rows(directory.ids, numpy.repeat(numpy.arange(len(counts)), counts), times)

    def _cut(self, pack: Pack, head: Head | None, found: FoundBlock, block: Block, rows: _Rows,
             kept: Sequence[_Kept]) -> tuple[Section | None, numpy.ndarray]:
        """Return which rows count, and a section of just these if the block cannot be used as it is."""
        mine = pack_rules.owns(pack, rows.ids)[rows.metrics]
        unsealed = numpy.zeros(len(mine), bool)
        if head is not None:
            mine &= find_alive(head, rows.ids, rows.metrics, rows.times, found.granularity,
                               self._timespans[found.granularity])
            unsealed = mine & (rows.times > _find_last_sealed(head, rows.ids, found.granularity)[rows.metrics])
        held = self._find_held(rows, mine, kept)
        counting = mine & ~unsealed & ~held
        if not counting.any() or (counting == mine).all():
            return None, counting
        _, content = self._store.read_block(block)
        buckets = join_rows([select_rows(content, counting)], len(rows.ids))
        return make_block_section(pack, rows.ids, buckets, numpy.timedelta64(found.granularity, "ns"),
                                  found.level), counting

    def _find_held(self, rows: _Rows, mine: numpy.ndarray, kept: Sequence[_Kept]) -> numpy.ndarray:
        """Tell which rows a block that counts has already; bool, shape (r,)."""
        held = numpy.zeros(len(mine), bool)
        if not mine.any():
            return held
        ids, firsts, lasts = _list_spans(rows, mine)
        for other in kept:
            places = numpy.flatnonzero(contains(other.ids, ids))
            theirs = numpy.searchsorted(other.ids, ids[places])
            # Spans are few and tell nearly always; rows are read only where they do not.
            if ((firsts[places] <= other.lasts[theirs]) & (other.firsts[theirs] <= lasts[places])).any():
                held |= _find_common(rows, self._read_rows(other.found))
        return held


def _make_kept(found: FoundBlock, rows: _Rows, counting: numpy.ndarray) -> _Kept:
    return _Kept(found, *_list_spans(rows, counting))


def _list_spans(rows: _Rows, chosen: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return the metrics that have any of the chosen rows, and when the first and last of these are."""
    metrics, times = rows.metrics[chosen], rows.times[chosen]
    present, begins = numpy.unique(metrics, return_index=True)     # rows are by metric and time
    ends = numpy.append(begins[1:], len(metrics)) - 1
    return rows.ids[present], times[begins], times[ends]


def _find_last_sealed(head: Head, ids: numpy.ndarray, granularity: int) -> numpy.ndarray:
    """Return the latest bucket (int64 ns) that can be sealed, for each id; of unknown ones any."""
    smallest = numpy.iinfo(numpy.int64).min
    if not len(head.ids):
        return numpy.full(len(ids), smallest)
    places = numpy.minimum(numpy.searchsorted(head.ids, ids), len(head.ids) - 1)
    accept_from = head.state.accept_from.view(numpy.int64)[places]
    return numpy.maximum(accept_from, smallest + granularity) - granularity


def _find_common(rows: _Rows, others: _Rows) -> numpy.ndarray:
    """Tell which rows are among the others, too; bool, shape (r,)."""
    known = contains(rows.ids, others.ids)
    places = numpy.searchsorted(rows.ids, others.ids)
    theirs = known[others.metrics]
    metrics = numpy.concatenate([places[others.metrics[theirs]], rows.metrics])
    times = numpy.concatenate([others.times[theirs], rows.times])
    # Stable: of two equal rows, ours comes second.
    order = numpy.lexsort((times, metrics))
    equal = (metrics[order][1:] == metrics[order][:-1]) & (times[order][1:] == times[order][:-1])
    common = numpy.zeros(len(metrics), bool)
    common[order[1:][equal]] = True
    return common[int(theirs.sum()):]
