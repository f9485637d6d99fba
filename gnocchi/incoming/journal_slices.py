"""Reads slices of journals and puts them together, in stamp order, as one batch."""

import os
from typing import NamedTuple

import numpy
import xxhash

from gnocchi import metric_ids
from gnocchi.exceptions import CorruptedData
from gnocchi.incoming.batch import MeasureBatch, body_bytes, gather_slices, select_metrics
from gnocchi.incoming.journal_index import read_ranges

#: Checksums computed at once: as Python's numbers they take 15 times their bytes.
_DIGESTS_PER_STEP = 10_000


class JournalPart(NamedTuple):
    """Slices of one journal that are to be read for one sack: k of them, ascending.

    path : str
    stamps, starts, metrics, measures : ndarray, shape (k,), int64; what is stored
    checksums : ndarray, shape (k,), uint64
    shared : ndarray, shape (k,), bool; the slice also holds metrics of other sacks
    """

    path: str
    stamps: numpy.ndarray
    starts: numpy.ndarray
    metrics: numpy.ndarray
    measures: numpy.ndarray
    checksums: numpy.ndarray
    shared: numpy.ndarray


class IdRanges(NamedTuple):
    """Slices of one journal whose metric ids are to be read: k of them, ascending.

    starts, metrics : ndarray, shape (k,), int64
    wanted : None, or ndarray, int64, of `slice index * sacks + sack`: the only metrics that count
    """

    path: str
    starts: numpy.ndarray
    metrics: numpy.ndarray
    wanted: numpy.ndarray | None


class _Slices(NamedTuple):
    """Sound slices: the words they are in, where each begins there, and what of them is in their parts.

    parts : ndarray, shape (k,), int64;  rows : of each, its number among the slices of all parts
    """

    words: numpy.ndarray
    bases: numpy.ndarray
    metrics: numpy.ndarray
    measures: numpy.ndarray
    stamps: numpy.ndarray
    rows: numpy.ndarray

    def gather(self, order: numpy.ndarray) -> MeasureBatch:
        return gather_slices(self.words, self.bases[order], self.metrics[order], self.measures[order])


def read_slices(parts: list[JournalPart], sack: int, sacks: int) -> tuple[MeasureBatch, list[CorruptedData]]:
    """Return the measures of all slices in stamp order, and what was damaged and left out.

    Raises OSError; FileNotFoundError when a journal was deleted meanwhile.
    """
    slices, damage = _read_parts(parts)
    batch = slices.gather(numpy.argsort(slices.stamps, kind="stable"))
    if any(part.shared.any() for part in parts):
        # Only what was cut for another number of sacks can hold metrics of others.
        batch = select_metrics(batch, metric_ids.sack_numbers(batch.metric_ids, sacks) == sack)
    return batch, damage


def read_sacks(parts: list[JournalPart], owners: list[numpy.ndarray],
               count: int) -> tuple[list[MeasureBatch], list[CorruptedData]]:
    """Return what `read_slices` does for each of `count` sacks, which share no slice.

    owners : of each part's slices, shape (k,), int64, which of the sacks they are of

    Raises as `read_slices` does.
    """
    slices, damage = _read_parts(parts)
    owner = numpy.concatenate(owners)[slices.rows]
    batch = slices.gather(numpy.lexsort((slices.stamps, owner)))
    rows, points = (numpy.bincount(owner, sizes, count).astype(numpy.int64).cumsum().tolist()
                    for sizes in (slices.metrics, slices.measures))
    return [MeasureBatch(batch.metric_ids[a:b], batch.counts[a:b], batch.timestamps[c:d], batch.values[c:d])
            for a, b, c, d in zip([0, *rows], rows, [0, *points], points, strict=False)], damage


def _read_parts(parts: list[JournalPart]) -> tuple[_Slices, list[CorruptedData]]:
    damage: list[CorruptedData] = []
    stored, bases, goods = [], [], []
    words_before = 0
    for part in parts:
        words, part_bases, good = _read_part(part, damage)
        stored.append(words)
        bases.append(part_bases + words_before)
        goods.append(good)
        words_before += len(words)
    rows = numpy.flatnonzero(_join(goods))
    metrics, measures, stamps = (_join([getattr(part, name) for part in parts])[rows]
                                 for name in ("metrics", "measures", "stamps"))
    return _Slices(_join(stored), _join(bases)[rows], metrics, measures, stamps, rows), damage


def read_metric_ids(ranges: IdRanges, sacks: int) -> numpy.ndarray:
    """Return the metric ids at the head of each slice, shape (m,), `S16`.  They are not checked.  Raises OSError."""
    fd = os.open(ranges.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        words, _bases = read_ranges(fd, ranges.starts, 16 * ranges.metrics)
    finally:
        os.close(fd)
    ids = words.view(metric_ids.DTYPE)
    if ranges.wanted is None:
        return ids
    slice_of = numpy.repeat(numpy.arange(len(ranges.starts)), ranges.metrics)
    return ids[numpy.isin(slice_of * sacks + metric_ids.sack_numbers(ids, sacks), ranges.wanted)]


def _read_part(part: JournalPart, damage: list[CorruptedData]) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return the words of the part's slices, where each begins, and which are sound."""
    sizes = body_bytes(part.metrics, part.measures)
    fd = os.open(part.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        words, bases = read_ranges(fd, part.starts, sizes)
    finally:
        os.close(fd)
    good = _digest(words, bases * 8, sizes) == part.checksums
    for i in numpy.flatnonzero(~good).tolist():
        damage.append(CorruptedData(part.path, int(part.starts[i]),
                                    f"a slice of {part.measures[i]} measures fails its checksum"))
    return words, bases, good


def _digest(words: numpy.ndarray, starts: numpy.ndarray, sizes: numpy.ndarray) -> numpy.ndarray:
    """Return the checksum of each slice, uint64; starts, sizes : ndarray, shape (k,), int64, bytes."""
    view = words.view(numpy.uint8).data
    digest = xxhash.xxh3_64_intdigest
    found = numpy.empty(len(starts), numpy.uint64)
    for i in range(0, len(starts), _DIGESTS_PER_STEP):
        step = slice(i, i + _DIGESTS_PER_STEP)
        ends = starts[step] + sizes[step]
        found[step] = [digest(view[a:b]) for a, b in zip(starts[step].tolist(), ends.tolist(), strict=True)]
    return found


def _join(arrays: list[numpy.ndarray]) -> numpy.ndarray:
    return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)
