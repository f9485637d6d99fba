"""The format of journals: a page at the start, then one frame per request, each cut into slices by sack.

    page | frame | frame | ...          frame = fixed header, table of slices, slice, slice, ...

Pure: bytes in, bytes out.  Format: doc/source/format/journal.rst.
"""

import re
import struct
from typing import NamedTuple

import numpy
import xxhash

from gnocchi import metric_ids
from gnocchi.incoming.batch import MeasureBatch, body_bytes, concat_ranges, encode_body

SUFFIX = ".journal"
#: A second name for a journal in which damage was found: its bytes outlive the journal, for the operator to see.
DAMAGED_SUFFIX = ".damaged"
#: Names of journals that nobody may read yet.
TEMPORARY_SUFFIX = ".new"
_NAME = re.compile(r"([0-9]{20})-([0-9a-f]{16})")

#: The first page: its fixed fields at 0, the published end at 64.  Frames begin after it.
PAGE_BYTES = 4096
#: Magic, checksum of the fields that follow, version, reserved, creation stamp, seed.
_PAGE = struct.Struct("<8sQIIQQ")
_PAGE_MAGIC = b"GNOJOURN"
VERSION = 1

PUBLISHED_AT = 64
#: The published end and its complement, so that a torn read is noticed.
_PUBLISHED = struct.Struct("<QQ")
PUBLISHED_BYTES = _PUBLISHED.size

#: Magic, checksum of the rest of the header and the table, version, slices, stamp, sacks, reserved, length.
FRAME = struct.Struct("<8sQIIQIIQ")
FRAME_MAGIC = b"\xf7GNFRAME"
#: Bytes of a frame's header that its checksum does not cover: the magic and itself.
_UNCHECKED_BYTES = 16
#: One row of a frame's table.
ROW = numpy.dtype([("sack", "<u4"), ("metrics", "<u4"), ("measures", "<u8"), ("checksum", "<u8")])
_ROW = struct.Struct("<IIQQ")
_U64_MAX = 2 ** 64 - 1


class Slices(NamedTuple):
    """One request, cut by sack, ready to be put into a frame.

    slices : int;  table : bytes, slices x ROW;  body : bytes-like, the slices one after the other
    """

    slices: int
    table: bytes
    body: bytes | memoryview

    @property
    def frame_bytes(self) -> int:
        return FRAME.size + len(self.table) + len(self.body)


class Frame(NamedTuple):
    """The header of a frame.  head_bytes : int, header and table;  length : int, the whole frame."""

    stamp: int
    sacks: int
    slices: int
    head_bytes: int
    length: int


class JournalName(NamedTuple):
    """stamp : int, ns, of the journal's creation;  seed : int, 64 random bits, mixed into its frames' checksums."""

    stamp: int
    seed: int


def format_name(name: JournalName) -> str:
    return f"{name.stamp:020d}-{name.seed:016x}"


def parse_name(file_name: str) -> JournalName | None:
    """Return what a journal's file name says, or None when the file is not a journal."""
    stem, suffix = file_name[:-len(SUFFIX)], file_name[-len(SUFFIX):]
    match = _NAME.fullmatch(stem) if suffix == SUFFIX else None
    return JournalName(int(match[1]), int(match[2], 16)) if match else None


def encode_page(name: JournalName) -> bytes:
    fields = _PAGE.pack(_PAGE_MAGIC, 0, VERSION, 0, name.stamp, name.seed)[_UNCHECKED_BYTES:]
    page = _PAGE_MAGIC + xxhash.xxh3_64_intdigest(fields).to_bytes(8, "little") + fields
    return (page.ljust(PUBLISHED_AT, b"\0") + encode_published(PAGE_BYTES)).ljust(PAGE_BYTES, b"\0")


def decode_page_version(page: bytes) -> int | None:
    """Return the format version of a journal, or None when its page is damaged (the name tells the rest)."""
    if len(page) < _PAGE.size:
        return None
    magic, checksum, version, _reserved, _stamp, _seed = _PAGE.unpack_from(page)
    if magic != _PAGE_MAGIC or xxhash.xxh3_64_intdigest(page[_UNCHECKED_BYTES:_PAGE.size]) != checksum:
        return None
    return version


def encode_published(end: int) -> bytes:
    return _PUBLISHED.pack(end, end ^ _U64_MAX)


def decode_published(data: bytes) -> int | None:
    """Return the end up to which the writer's frames are durable, or None when it was caught half written."""
    if len(data) != _PUBLISHED.size:
        return None
    end, complement = _PUBLISHED.unpack(data)
    return end if end == complement ^ _U64_MAX else None


def encode_slices(batch: MeasureBatch, sacks: int) -> Slices:
    """Cut a request by sack; within a slice the metrics keep their order.

    No Python loop per metric; one per slice, for its checksum.
    """
    if len(batch.metric_ids) == 1:    # Fast path: one metric per request (bench_incoming.py, "1 x 1").
        sack = int.from_bytes(batch.metric_ids.tobytes()[8:], "big") & (sacks - 1)
        return _encode_one_slice(sack, batch)
    numbers = metric_ids.sack_numbers(batch.metric_ids, sacks)
    order = numpy.argsort(numbers, kind="stable")
    numbers = numbers[order]
    firsts = numpy.concatenate(([0], numpy.flatnonzero(numbers[1:] != numbers[:-1]) + 1))
    if len(firsts) == 1:
        return _encode_one_slice(int(numbers[0]), batch)
    counts = batch.counts[order]
    metrics = numpy.diff(firsts, append=len(numbers))
    measures = numpy.add.reduceat(counts, firsts)
    body = _lay_out(batch, order, counts, firsts, metrics, measures)
    table = numpy.zeros(len(firsts), ROW)
    table["sack"], table["metrics"], table["measures"] = numbers[firsts], metrics, measures
    view = body.view(numpy.uint8).data
    ends = numpy.cumsum(body_bytes(metrics, measures)).tolist()
    digest = xxhash.xxh3_64_intdigest
    table["checksum"] = [digest(view[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return Slices(len(firsts), table.tobytes(), view)


def _encode_one_slice(sack: int, batch: MeasureBatch) -> Slices:
    body = encode_body(batch)
    return Slices(1, _ROW.pack(sack, len(batch.metric_ids), len(batch.values), xxhash.xxh3_64_intdigest(body)), body)


def _lay_out(batch: MeasureBatch, order: numpy.ndarray, counts: numpy.ndarray, firsts: numpy.ndarray,
             metrics: numpy.ndarray, measures: numpy.ndarray) -> numpy.ndarray:
    """Return the bodies of all slices as 64-bit words.

    `order` sorts the metrics by sack, `counts` is in that order; slice i has metrics[i] metrics from
    firsts[i] on and measures[i] measures:

        2 x metrics[i] words of ids | metrics[i] counts | measures[i] timestamps | measures[i] values
    """
    words = body_bytes(metrics, measures) // 8
    bases = numpy.cumsum(words) - words
    body = numpy.empty(int(words.sum()), "<u8")

    ids = numpy.ascontiguousarray(batch.metric_ids).view("<u8").reshape(-1, 2)[order]
    ranks = numpy.arange(len(order)) - numpy.repeat(firsts, metrics)
    slots = numpy.repeat(bases, metrics) + 2 * ranks
    body[slots], body[slots + 1] = ids[:, 0], ids[:, 1]
    body[numpy.repeat(bases + 2 * metrics, metrics) + ranks] = counts

    starts = (numpy.cumsum(batch.counts) - batch.counts)[order]
    points = concat_ranges(starts, counts)
    slots = concat_ranges(bases + 3 * metrics, measures)
    body[slots] = batch.timestamps.view("<u8")[points]
    body[slots + numpy.repeat(measures, measures)] = batch.values.view("<u8")[points]
    return body


def encode_frame_head(slices: Slices, stamp: int, sacks: int, seed: int) -> bytes:
    """Return the header and table of a frame; the slices' body follows it in the file."""
    fields = FRAME.pack(FRAME_MAGIC, 0, VERSION, slices.slices, stamp, sacks, 0, slices.frame_bytes)[_UNCHECKED_BYTES:]
    checked = fields + slices.table
    return FRAME_MAGIC + xxhash.xxh3_64_intdigest(checked, seed).to_bytes(8, "little") + checked


def frame_head_bytes(window: bytes, at: int) -> int:
    """Return how many bytes the header and table at `at` claim to have, or 0 when no frame begins there."""
    magic, _checksum, version, slices, *_ = FRAME.unpack_from(window, at)
    return FRAME.size + slices * ROW.itemsize if magic == FRAME_MAGIC and version == VERSION and slices else 0


def parse_frame(window: bytes, at: int, head_bytes: int, seed: int) -> Frame | None:
    """Return the header at `at`, of `head_bytes` bytes, all in the window, or None when its checksum does not match."""
    _magic, checksum, _version, slices, stamp, sacks, _reserved, length = FRAME.unpack_from(window, at)
    if xxhash.xxh3_64_intdigest(window[at + _UNCHECKED_BYTES:at + head_bytes], seed) != checksum:
        return None
    return Frame(stamp, sacks, slices, head_bytes, length)
