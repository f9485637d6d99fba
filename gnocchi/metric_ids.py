"""Metric ids as arrays: one `S16` element (the UUID's big-endian bytes) per metric.

numpy compares and sorts `S16` with memcmp, which is what packs and heads need.  Never take a Python
item out of such an array: numpy strips trailing NUL bytes.  Use `unpack_ids`.
"""

import uuid
from collections.abc import Iterable

import numpy

DTYPE = numpy.dtype("S16")


def pack_ids(ids: Iterable[uuid.UUID]) -> numpy.ndarray:
    """Return an array, shape (m,), `S16`, of the given UUIDs in their order."""
    return numpy.frombuffer(b"".join([i.bytes for i in ids]), DTYPE)


def unpack_ids(ids: numpy.ndarray) -> list[uuid.UUID]:
    """Return the UUIDs of an `S16` array, in order."""
    data = ids.tobytes()
    return [uuid.UUID(bytes=data[i:i + 16]) for i in range(0, len(data), 16)]


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
