"""The format of groups: what requests that came together make in an object store, cut by sack.

    header | table of slices | previous group of each slice | slice | slice | ...

Pure: bytes in, bytes out.  Format: doc/source/format/group.rst.
"""

import re
import struct
from typing import NamedTuple

import numpy
import xxhash

from gnocchi.exceptions import CorruptedData, UnknownFormat
from gnocchi.incoming.batch import MeasureBatch, body_bytes
from gnocchi.incoming.journal import ROW, encode_slices

#: What the keys of groups begin with.
PREFIX = "group/"
_KEY = re.compile(r"group/([0-9]{20})-([0-9a-f]{16})")

#: Magic, checksum of all up to the slices, version, sacks, stamp, writer's previous stamp, slices, reserved.
_HEADER = struct.Struct("<8sQIIQQII")
_MAGIC = b"GNOGROUP"
_VERSION = 1
#: Bytes of the header that the checksum does not cover: the magic and itself.
_UNCHECKED_BYTES = 16
_PREVIOUS = numpy.dtype("<i8")


class GroupKey(NamedTuple):
    """stamp : int, the writer's max(wall-clock ns, last stamp + 1);  writer : str, 64 random bits in hexadecimal."""

    stamp: int
    writer: str


class GroupHead(NamedTuple):
    """What a group says of its k slices.

    sacks : int, the number of sacks that it was cut for;  previous : int, stamp of the last group before it that
        its writer knows to be stored, or 0
    numbers, metrics, measures, starts : ndarray, shape (k,), int64;  starts : where each slice begins in the object
    checksums : ndarray, shape (k,), uint64
    previous_of : ndarray, shape (k,), int64; as `previous`, of the groups that have a slice for the same sack
    """

    sacks: int
    previous: int
    numbers: numpy.ndarray
    metrics: numpy.ndarray
    measures: numpy.ndarray
    starts: numpy.ndarray
    checksums: numpy.ndarray
    previous_of: numpy.ndarray


def format_key(key: GroupKey) -> str:
    """Return the key, of which the order is that of stamps."""
    return f"{PREFIX}{key.stamp:020d}-{key.writer}"


def parse_key(text: str) -> GroupKey | None:
    """Return what a key says, or None when it is no group's."""
    match = _KEY.fullmatch(text)
    return GroupKey(int(match[1]), match[2]) if match else None


class EncodedGroup(NamedTuple):
    """data : bytes, the object;  numbers : the sacks that it has slices for"""

    data: bytes
    numbers: list[int]


def encode_group(batch: MeasureBatch, key: GroupKey, sacks: int, previous: int,
                 previous_of: dict[int, int]) -> EncodedGroup:
    """Cut measures by sack and return the object.  `previous_of` is by sack; those that are not in it have none."""
    slices = encode_slices(batch, sacks)
    numbers = numpy.frombuffer(slices.table, ROW)["sack"].tolist()
    chain = numpy.array([previous_of.get(number, 0) for number in numbers], _PREVIOUS)
    fields = _HEADER.pack(_MAGIC, 0, _VERSION, sacks, key.stamp, previous, len(numbers), 0)[_UNCHECKED_BYTES:]
    checked = fields + slices.table + chain.tobytes()
    checksum = xxhash.xxh3_64_intdigest(checked, int(key.writer, 16)).to_bytes(8, "little")
    return EncodedGroup(b"".join((_MAGIC, checksum, checked, slices.body)), numbers)


def head_bytes(data: bytes) -> int:
    """Return how many bytes come before the slices, from the first ones of an object; they are not checked."""
    return _HEADER.size + (ROW.itemsize + _PREVIOUS.itemsize) * (
        _HEADER.unpack_from(data)[6] if len(data) >= _HEADER.size else 0)


def decode_head(data: bytes, text: str) -> GroupHead:
    """Return what an object that begins with `data` says of itself; `text` is its key.

    Raises CorruptedData, UnknownFormat.
    """
    key = parse_key(text)
    assert key is not None, f"BUG: {text} is no group's key"
    if len(data) < _HEADER.size:
        raise CorruptedData(text, 0, f"{len(data)} bytes are no group")
    magic, checksum, version, sacks, stamp, previous, count, _reserved = _HEADER.unpack_from(data)
    size = head_bytes(data)
    if magic != _MAGIC:
        raise CorruptedData(text, 0, "no group begins here")
    if len(data) < size or xxhash.xxh3_64_intdigest(data[_UNCHECKED_BYTES:size], int(key.writer, 16)) != checksum:
        raise CorruptedData(text, 0, "the checksum of a group's header does not match")
    if version != _VERSION:
        raise UnknownFormat(text, 0, "a group", version, _VERSION)
    if stamp != key.stamp:
        raise CorruptedData(text, 0, f"the group is of {stamp}")
    table = numpy.frombuffer(data, ROW, count, _HEADER.size)
    metrics, measures = table["metrics"].astype(numpy.int64), table["measures"].astype(numpy.int64)
    sizes = body_bytes(metrics, measures)
    return GroupHead(sacks, previous, table["sack"].astype(numpy.int64), metrics, measures,
                     size + numpy.cumsum(sizes) - sizes, table["checksum"].astype(numpy.uint64),
                     numpy.frombuffer(data, _PREVIOUS, count, _HEADER.size + table.nbytes).astype(numpy.int64))
