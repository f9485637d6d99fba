"""Metric ids as arrays: one `S16` element (the UUID's big-endian bytes) per metric.

numpy compares and sorts `S16` with memcmp, which is what packs and heads need.  Never take a Python
item out of such an array: numpy strips trailing NUL bytes.  Use `unpack_ids`.
"""

import uuid
from collections.abc import Iterable
from typing import Any

import numpy

DTYPE = numpy.dtype("S16")

_class: Any = uuid.UUID     # its slots, which it does not let anybody set
_new, _set_int, _set_is_safe = _class.__new__, _class.int.__set__, _class.is_safe.__set__
_UNKNOWN = uuid.SafeUUID.unknown


def from_int(number: int) -> uuid.UUID:
    """Return the UUID of a number of 128 bits, which is not checked.

    FAST PATH: 0.55 us instead of 1.4 us, of which an answer about 1,000 metrics needs some 3,500.
    """
    made: uuid.UUID = _new(uuid.UUID)
    _set_int(made, number)
    _set_is_safe(made, _UNKNOWN)
    return made


def pack_ids(ids: Iterable[uuid.UUID]) -> numpy.ndarray:
    """Return an array, shape (m,), `S16`, of the given UUIDs in their order."""
    return numpy.frombuffer(b"".join([i.bytes for i in ids]), DTYPE)


def unpack_ids(ids: numpy.ndarray) -> list[uuid.UUID]:
    """Return the UUIDs of an `S16` array, in order."""
    data = ids.tobytes()
    return [from_int(int.from_bytes(data[i:i + 16])) for i in range(0, len(data), 16)]


def low_words(ids: numpy.ndarray) -> numpy.ndarray:
    """Return the low 64 bits of each id, shape (m,), uint64."""
    words = numpy.ascontiguousarray(ids).view(">u8").reshape(-1, 2)[:, 1]
    return words.astype(numpy.uint64)


def sack_numbers(ids: numpy.ndarray, sacks: int) -> numpy.ndarray:
    """Return the sack of each id, shape (m,), int64; `sacks` is a power of two.

    Source: `id % sacks`, which for a power of two is the low bits (contract, operations 4.1).
    """
    assert sacks & (sacks - 1) == 0, f"BUG: {sacks} sacks are not a power of two"
    return (low_words(ids) & numpy.uint64(sacks - 1)).astype(numpy.int64)
