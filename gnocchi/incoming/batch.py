"""Measures on their way in: one request's worth, or a slice of a sack's backlog; and their one encoding.

Format: doc/source/format/batch.rst.
"""

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy
import xxhash

from gnocchi import metric_ids
from gnocchi.exceptions import CorruptedData, UnknownFormat

#: Magic, checksum of all that follows it, version, sacks, stamp, metrics, measures.
_HEADER = struct.Struct("<8sQIIQQQ")
_MAGIC = b"GNOBATCH"
_VERSION = 1
#: Bytes of the header that the checksum does not cover: the magic and itself.
_UNCHECKED_BYTES = 16

_INT64 = numpy.dtype("<i8")
_FLOAT64 = numpy.dtype("<f8")
_TIMESTAMP = numpy.dtype("<M8[ns]")

#: Mean length above which a Python loop over ranges is faster than an index per element (bench_incoming.py).
_LONG_RANGE = 100

_Count = TypeVar("_Count", int, numpy.ndarray)


class MeasureBatch(NamedTuple):
    """m metrics (the same one may come more than once) and n measures, grouped by metric.

    metric_ids : ndarray, shape (m,), `S16` (see gnocchi.metric_ids)
    counts : ndarray, shape (m,), int64; measures of each metric, in posted order; 0 is allowed
    timestamps : ndarray, shape (n,), datetime64[ns]; n == counts.sum()
    values : ndarray, shape (n,), float64
    """

    metric_ids: numpy.ndarray
    counts: numpy.ndarray
    timestamps: numpy.ndarray
    values: numpy.ndarray


class StampedBatch(NamedTuple):
    """A decoded batch with its header.

    stamp : int; the writer's max(wall-clock ns, last stamp + 1)
    sacks : int; the number of sacks it was cut for
    """

    stamp: int
    sacks: int
    batch: MeasureBatch


def concat_ranges(starts: numpy.ndarray, counts: numpy.ndarray) -> numpy.ndarray:
    """Return the indices start ... start + count - 1 of each range, one range after the other.

    starts, counts : ndarray, shape (k,), int64.  Returns shape (counts.sum(),), int64.
    """
    ends = numpy.cumsum(counts)
    indices = numpy.arange(ends[-1] if len(ends) else 0, dtype=numpy.int64)
    indices += numpy.repeat(starts - (ends - counts), counts)
    return indices


def take_ranges(array: numpy.ndarray, starts: numpy.ndarray, counts: numpy.ndarray) -> numpy.ndarray:
    """Return array[start:start + count] of each range, one after the other, copied."""
    if len(array) > _LONG_RANGE * len(starts) > 0:
        return numpy.concatenate([array[a:b] for a, b in zip(starts.tolist(), (starts + counts).tolist(), strict=True)])
    return array[concat_ranges(starts, counts)]


def take_metrics(batch: MeasureBatch, rows: numpy.ndarray) -> MeasureBatch:
    """Return the metrics at the indices `rows`, in that order, with their measures."""
    counts = batch.counts[rows]
    starts = numpy.cumsum(batch.counts) - batch.counts
    points = concat_ranges(starts[rows], counts)
    return MeasureBatch(batch.metric_ids[rows], counts, batch.timestamps[points], batch.values[points])


def select_metrics(batch: MeasureBatch, mask: numpy.ndarray) -> MeasureBatch:
    """Return the metrics where `mask`, shape (m,), bool, is true, in their order, with their measures."""
    points = numpy.repeat(mask, batch.counts)
    return MeasureBatch(batch.metric_ids[mask], batch.counts[mask], batch.timestamps[points], batch.values[points])


def concat_batches(batches: Sequence[MeasureBatch]) -> MeasureBatch:
    """Return the metrics and measures of several batches one after the other; none gives an empty batch."""
    if not batches:
        return MeasureBatch(numpy.empty(0, metric_ids.DTYPE), numpy.empty(0, numpy.int64),
                            numpy.empty(0, "datetime64[ns]"), numpy.empty(0, numpy.float64))
    if len(batches) == 1:
        return batches[0]
    return MeasureBatch(*(numpy.concatenate(arrays) for arrays in zip(*batches, strict=True)))


def split_by_sack(batch: MeasureBatch, sacks: int) -> list[tuple[int, MeasureBatch]]:
    """Return each sack that the batch touches, ascending, with its share in the batch's order.

    The shares are views of one sorted copy.
    """
    numbers = metric_ids.sack_numbers(batch.metric_ids, sacks)
    if not len(numbers):
        return []
    if (numbers == numbers[0]).all():
        return [(int(numbers[0]), batch)]
    order = numpy.argsort(numbers, kind="stable")
    ordered = take_metrics(batch, order)
    numbers = numbers[order]
    cuts = numpy.flatnonzero(numpy.diff(numbers)) + 1
    points = numpy.concatenate(([0], numpy.cumsum(ordered.counts)))
    borders = [0, *cuts.tolist(), len(numbers)]
    return [
        (int(numbers[a]),
         MeasureBatch(ordered.metric_ids[a:b], ordered.counts[a:b],
                      ordered.timestamps[points[a]:points[b]], ordered.values[points[a]:points[b]]))
        for a, b in zip(borders[:-1], borders[1:], strict=True)
    ]


def body_bytes(metrics: _Count, measures: _Count) -> _Count:
    """Return the length of an encoded body, or of many: a multiple of 8."""
    return 24 * metrics + 16 * measures


def encode_body(batch: MeasureBatch) -> bytes:
    """Return ids, counts, timestamps and values as bytes, without any header."""
    return b"".join((
        batch.metric_ids.tobytes(),
        batch.counts.astype(_INT64, copy=False).tobytes(),
        batch.timestamps.astype(_TIMESTAMP, copy=False).tobytes(),
        batch.values.astype(_FLOAT64, copy=False).tobytes(),
    ))


def decode_body(data: bytes | memoryview, start: int, metrics: int, measures: int) -> MeasureBatch:
    """Return the batch whose body is at byte `start`; its arrays are views of `data`, of which nothing is checked."""
    counts_at = start + 16 * metrics
    timestamps_at = counts_at + 8 * metrics
    return MeasureBatch(
        numpy.frombuffer(data, metric_ids.DTYPE, metrics, start),
        numpy.frombuffer(data, _INT64, metrics, counts_at),
        numpy.frombuffer(data, _TIMESTAMP, measures, timestamps_at),
        numpy.frombuffer(data, _FLOAT64, measures, timestamps_at + 8 * measures),
    )


def decode_heads(heads: Sequence[bytes]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return metric ids and counts, as in MeasureBatch, from the first part of several encoded bodies.

    heads : 24 bytes for each metric: all ids, then all counts
    """
    words = numpy.frombuffer(b"".join(heads), numpy.dtype("V8"))
    metrics = numpy.array([len(head) // 24 for head in heads], numpy.int64)
    starts = 3 * (numpy.cumsum(metrics) - metrics)
    return (take_ranges(words, starts, 2 * metrics).view(metric_ids.DTYPE),
            take_ranges(words, starts + 2 * metrics, metrics).view(_INT64))


def count_ids(arrays: Iterable[numpy.ndarray]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the distinct ids of many arrays, ascending, and how often each came, int64."""
    ids, counts = numpy.empty(0, metric_ids.DTYPE), numpy.empty(0, numpy.int64)
    for more in arrays:
        more_ids, more_counts = numpy.unique(more, return_counts=True)
        ids, inverse = numpy.unique(numpy.concatenate((ids, more_ids)), return_inverse=True)
        counts = numpy.bincount(inverse, numpy.concatenate((counts, more_counts)), len(ids)).astype(numpy.int64)
    return ids, counts


def gather_slices(words: numpy.ndarray, bases: numpy.ndarray, metrics: numpy.ndarray,
                  measures: numpy.ndarray) -> MeasureBatch:
    """Return the slices (bodies) that begin at the words `bases`, in the order given, as one batch.

    words : ndarray, uint64;  bases, metrics, measures : ndarray, shape (k,), int64.  No Python loop at all.
    """
    timestamps = bases + 3 * metrics
    return MeasureBatch(
        take_ranges(words, bases, 2 * metrics).view(metric_ids.DTYPE),
        take_ranges(words, bases + 2 * metrics, metrics).view(numpy.int64),
        take_ranges(words, timestamps, measures).view("datetime64[ns]"),
        take_ranges(words, timestamps + measures, measures).view(numpy.float64),
    )


def encode_batch(batch: MeasureBatch, stamp: int, sacks: int) -> bytes:
    """Return a batch as bytes: what every driver but `file` stores for one request and one sack."""
    metrics, measures = len(batch.metric_ids), len(batch.values)
    assert int(batch.counts.sum()) == measures == len(batch.timestamps), f"BUG: counts do not add up to {measures}"
    checked = _HEADER.pack(_MAGIC, 0, _VERSION, sacks, stamp, metrics, measures)[_UNCHECKED_BYTES:] + encode_body(batch)
    return _MAGIC + xxhash.xxh3_64_intdigest(checked).to_bytes(8, "little") + checked


def decode_batch(data: bytes, key: str, offset: int = 0) -> StampedBatch:
    """Return what `encode_batch` was given; the arrays are read-only views of `data`.

    Parameters
    ----------
    data : bytes
        One whole encoded batch.
    key : str
        Where it was read, for the error.
    offset : int
        Byte of `key` at which `data` begins, for the error.

    Raises
    ------
    CorruptedData
        Any byte differs from what was encoded.
    UnknownFormat
        The batch is sound, and of another version.
    """
    if len(data) < _HEADER.size:
        raise CorruptedData(key, offset, f"{len(data)} bytes are no batch")
    magic, checksum, version, sacks, stamp, metrics, measures = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptedData(key, offset, "no batch begins here")
    if xxhash.xxh3_64_intdigest(memoryview(data)[_UNCHECKED_BYTES:]) != checksum:
        raise CorruptedData(key, offset, "the checksum of a batch does not match")
    if version != _VERSION:
        raise UnknownFormat(key, offset, "a batch", version, _VERSION)
    if len(data) != _HEADER.size + body_bytes(metrics, measures):
        raise CorruptedData(key, offset, f"{len(data)} bytes do not hold {metrics} metrics and {measures} measures")
    batch = decode_body(data, _HEADER.size, metrics, measures)
    if (batch.counts < 0).any() or int(batch.counts.sum()) != measures:
        raise CorruptedData(key, offset, f"counts do not add up to {measures} measures")
    return StampedBatch(stamp, sacks, batch)


def decode_batches(data: bytes, metrics: numpy.ndarray, measures: numpy.ndarray) -> MeasureBatch | None:
    """Return encoded batches that follow on one another as one, copied; None unless all are whole, and of that size.

    metrics, measures : ndarray, shape (k,), int64; of each batch

    `decode_batch` says what is wrong.  No Python loop but for checksums.
    """
    sizes = _HEADER.size + body_bytes(metrics, measures)
    ends = numpy.cumsum(sizes)
    if len(data) != (ends[-1] if len(ends) else 0):
        return None
    words = numpy.frombuffer(data, numpy.dtype("<u8"))
    bases = (ends - sizes) // 8
    magic, checksums, versions, _, *counts = words[bases + numpy.arange(_HEADER.size // 8)[:, None]]
    expected = numpy.frombuffer(_MAGIC, words.dtype)[0], metrics, measures
    if not all((found == known).all() for found, known in zip((magic, *counts), expected, strict=True)):
        return None
    if (versions & 0xffffffff != _VERSION).any():
        return None
    digest, view = xxhash.xxh3_64_intdigest, memoryview(data)
    places = zip(checksums.tolist(), (ends - sizes + _UNCHECKED_BYTES).tolist(), ends.tolist(), strict=True)
    if any(digest(view[start:end]) != checksum for checksum, start, end in places):
        return None
    return gather_slices(words, bases + _HEADER.size // 8, metrics, measures)
