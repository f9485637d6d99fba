"""Objects of sections: one commit's heads or blocks as one immutable object (doc/source/format/object.rst).

An object repeats, in its table, all that the catalogue says of its sections, so that the catalogue
can be rebuilt from a listing.  Every section begins with its own small header and checksum, so that
a ranged read of one section verifies itself.
"""

import functools
import re
import secrets
import struct
import uuid
from typing import NamedTuple

import xxhash

from gnocchi.catalogue import GUEST_MARK
from gnocchi.exceptions import CorruptedData, UnknownFormat

MAGIC = b"GNOCOBJ1"
#: magic, version, flags, sections, sack bits, sack number, sequence, length, checksum of all else here and the table
HEADER = struct.Struct("<8sHHIIIQQQ")
#: kind, bits, level, reserved, rows, policy id, low, offset, length, granularity, first, last
ENTRY = struct.Struct("<BBBBI16sQQQqqq")
VERSION = 1
#: Sections begin on such a boundary, so that their arrays can be used in place.
ALIGNMENT = 8

#: What the keys of all objects begin with.
PREFIX = "sack/"

#: Sacks that have a directory together: a commit of many syncs as many fewer, which is dear.
SACKS_PER_DIRECTORY = 16

_KEY = re.compile(r"sack/([0-9]+)-[0-9]+/([0-9]+)-[a-z]+-([0-9]+)-([0-9a-f]{16})"
                  rf"(?:{GUEST_MARK}([0-9]+)-([0-9]+)-([0-9]+))?")

KIND_BASE = 1
KIND_BLOCK = 2
KIND_DELTA = 3
KIND_PARKED = 4


class Section(NamedTuple):
    """A section and what the catalogue will say of it.

    rows : metrics of a head, buckets of a block, measures that are parked
    granularity, first, last : of a block, int ns; of a head, what `name_heads` returns; else 0
    """

    kind: int
    policy_id: uuid.UUID
    bits: int
    low: int
    data: bytes
    rows: int = 0
    level: int = 0
    granularity: int = 0
    first: int = 0
    last: int = 0


class TableEntry(NamedTuple):
    """A row of an object's table: a Section without its bytes, and where under the object's key these lie."""

    kind: int
    policy_id: uuid.UUID
    bits: int
    low: int
    offset: int
    length: int
    rows: int
    level: int
    granularity: int
    first: int
    last: int


def pad(length: int) -> int:
    """Return how many bytes are missing to the next boundary."""
    return -length % ALIGNMENT


def make_prefix(sack_bits: int, sack: int) -> str:
    """Return what the keys of all objects of a sack begin with."""
    return f"{PREFIX}{sack_bits}-{sack // SACKS_PER_DIRECTORY}/{sack}-"


def make_nonce() -> int:
    """Return a number that nobody has ever drawn."""
    return secrets.randbits(64)


def make_key(sack_bits: int, sack: int, kind: str, sequence: int, nonce: int | None = None) -> str:
    """Return a key that was never used before, if `nonce` was not with this kind and sack: nothing is overwritten.

    The digits at its end are the nonce, which the commits of several sacks may have in common, plus the sack.
    """
    digits = ((make_nonce() if nonce is None else nonce) + sack) % (1 << 64)
    return f"{make_prefix(sack_bits, sack)}{kind}-{sequence}-{digits:016x}"


def make_guest_key(host_key: str, begin: int, sack: int, sequence: int) -> str:
    """Return the key of an object that lies in the one of another sack's commit, from byte `begin` on."""
    return f"{host_key}{GUEST_MARK}{begin}-{sack}-{sequence}"


class KeyParts(NamedTuple):
    """What a key tells.

    sack_bits : for how many sacks the object was written, as bits;  sequence : of the commit;  nonce : its digits, as a
        signed integer;  begin : where the object begins in what is stored
    """

    sack_bits: int
    sequence: int
    nonce: int
    begin: int


@functools.lru_cache(4096)
def _parse_key(key: str) -> KeyParts | None:
    """Return what a key tells, or None when no object of ours has that key."""
    match = _KEY.fullmatch(key)
    if match is None:
        return None
    sack_bits, host, sequence = map(int, match.group(1, 2, 3))
    digits, begin = int(match[4], 16), 0
    if match[5] is not None:
        begin, sack, sequence = map(int, match.group(5, 6, 7))
        digits += sack - host
    return KeyParts(sack_bits, sequence, (digits + (1 << 63)) % (1 << 64) - (1 << 63), begin)


def parse_sequence(key: str) -> int | None:
    """Return the sequence of the commit that an object was written for, or None when no object of ours has that key."""
    parsed = _parse_key(key)
    return parsed.sequence if parsed else None


def parse_sack_bits(key: str) -> int | None:
    """Return for how many sacks, as bits, an object was written, or None when no object of ours has that key."""
    parsed = _parse_key(key)
    return parsed.sack_bits if parsed else None


def parse_nonce(key: str) -> int:
    """Return the digits of a commit, of which an object has this key, as a signed integer; 0 for no key of ours."""
    parsed = _parse_key(key)
    return parsed.nonce if parsed else 0


def parse_begin(key: str) -> int:
    """Return where an object begins in what is stored under its key; 0 when no object of ours has that key."""
    parsed = _parse_key(key)
    return parsed.begin if parsed else 0


class NamedHeads(NamedTuple):
    """Which objects a head builds on, told by its entry in the table: what was committed cannot be mistaken then.

    replaced_sequence, replaced : sequence and nonce of the object that held the pack's newest section; 0: none did
    base : nonce of the object with the base that a delta lies on; 0 for a base
    """

    replaced_sequence: int
    base: int
    replaced: int


def name_heads(base_key: str | None, replaced_key: str | None) -> NamedHeads:
    """Return what the entry of a head says, from the key of its base (of a delta) and of what it replaces."""
    return NamedHeads(0 if replaced_key is None else parse_sequence(replaced_key) or 0,
                      0 if base_key is None else parse_nonce(base_key),
                      0 if replaced_key is None else parse_nonce(replaced_key))


def encode_object(sack_bits: int, sack: int, sequence: int, sections: list[Section]) -> tuple[bytes, list[int]]:
    """Return the object's bytes and the offset of each section, in order."""
    offsets, position = [], HEADER.size + ENTRY.size * len(sections)
    position += pad(position)
    for section in sections:
        offsets.append(position)
        position += len(section.data) + pad(len(section.data))
    table = b"".join(
        ENTRY.pack(s.kind, s.bits, s.level, 0, s.rows, s.policy_id.bytes, s.low, offset, len(s.data),
                   s.granularity, s.first, s.last)
        for s, offset in zip(sections, offsets, strict=True))
    fields = (MAGIC, VERSION, 0, len(sections), sack_bits, sack, sequence, position)
    unsigned = HEADER.pack(*fields, 0)[:-8]
    header = HEADER.pack(*fields, xxhash.xxh3_64_intdigest(unsigned + table))
    parts = [header, table, bytes(pad(len(header) + len(table)))]
    for section in sections:
        parts += (section.data, bytes(pad(len(section.data))))
    return b"".join(parts), offsets


class ObjectTable(NamedTuple):
    """What an object says of itself."""

    sack_bits: int
    sack: int
    sequence: int
    length: int
    entries: list[TableEntry]


def table_length(key: str, data: bytes) -> int:
    """Return how many bytes header and table take, from (at least) the header.  Raises CorruptedData."""
    if len(data) < HEADER.size:
        raise CorruptedData(key, 0, "shorter than an object's header")
    return HEADER.size + ENTRY.size * HEADER.unpack_from(data)[3]


def decode_table(key: str, data: bytes) -> ObjectTable:
    """Decode an object's header and table from (at least) its first bytes.

    Raises CorruptedData, UnknownFormat.
    """
    if len(data) < HEADER.size:
        raise CorruptedData(key, 0, "shorter than an object's header")
    magic, version, _, count, sack_bits, sack, sequence, length, checksum = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptedData(key, 0, "not an object")
    table = data[HEADER.size:HEADER.size + ENTRY.size * count]
    if len(table) < ENTRY.size * count:
        raise CorruptedData(key, HEADER.size, "table is cut short")
    if xxhash.xxh3_64_intdigest(data[:HEADER.size - 8] + table) != checksum:
        raise CorruptedData(key, 0, "checksum of the object's table does not match")
    if version != VERSION:
        raise UnknownFormat(key, 0, "an object", version, VERSION)
    entries, begin = [], parse_begin(key)
    for kind, bits, level, _, rows, policy, low, offset, size, granularity, first, last in ENTRY.iter_unpack(table):
        entries.append(TableEntry(kind, uuid.UUID(bytes=policy), bits, low, begin + offset, size, rows, level,
                                  granularity, first, last))
    return ObjectTable(sack_bits, sack, sequence, length, entries)
