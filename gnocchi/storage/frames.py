"""Frames: up to 8,192 numbers of one column, compressed (doc/source/format/block.rst).

Equal results are what matters most here: every encoding gives back the same 64 bits.
"""

from typing import NamedTuple

import lz4.block
import numpy

#: Numbers per frame: 64 KiB of float64, so that a ranged read of one metric costs little.
ROWS_PER_FRAME = 8192
#: Most decimal places that are tried.
DECIMALS_MAX = 6
#: Numbers looked at first, to give up early on columns that are no decimals.
SAMPLE = 64
#: Integers beyond this are not exact in a float64.
EXACT_MAX = float(1 << 53)
#: Numbers further apart than this leave no bit for the sign of a difference.
ZIGZAG_MAX = 1 << 62

_FLOAT = numpy.dtype("<f8")
_UNSIGNED = {width: numpy.dtype(f"<u{width}") for width in (1, 2, 4, 8)}

RAW = 0
CONSTANT = 1
#: Integers / 10^decimals: zigzag of the differences, or offsets from the smallest one.
DELTAS = 2
OFFSETS = 3

ALL_PRESENT = 0
NONE_PRESENT = 1
BITMAP = 2


class Frame(NamedTuple):
    """An encoded frame; `width` is the bytes per integer before compression."""

    encoding: int
    decimals: int
    width: int
    presence: int
    data: bytes


def _shuffle(array: numpy.ndarray) -> bytes:
    """Return the array's bytes, all first bytes first: equal high bytes then lie side by side."""
    return array.view(numpy.uint8).reshape(-1, array.itemsize).T.tobytes()


def _unshuffle(data: bytes, dtype: numpy.dtype, count: int, start: int, stop: int) -> numpy.ndarray:
    """Return numbers `start` to `stop` of `count`."""
    if dtype.itemsize == 1:
        return numpy.frombuffer(data, dtype, stop - start, start)
    rows = numpy.empty((stop - start, dtype.itemsize), numpy.uint8)
    # Plane by plane: half the time of a copy of the transposed array.
    for number in range(dtype.itemsize):
        rows[:, number] = numpy.frombuffer(data, numpy.uint8, stop - start, number * count + start)
    return rows.view(dtype).reshape(stop - start)


def _compress(array: numpy.ndarray) -> bytes:
    return lz4.block.compress(_shuffle(array), store_size=False)


def _decompress(data: bytes, dtype: numpy.dtype, count: int, start: int, stop: int) -> numpy.ndarray:
    """Return numbers `start` to `stop` of `count`."""
    size = dtype.itemsize * count
    plain = lz4.block.decompress(data, uncompressed_size=size)
    if len(plain) != size:
        raise ValueError(f"frame holds {len(plain)} bytes instead of {size}")
    return _unshuffle(plain, dtype, count, start, stop)


def _scale(values: numpy.ndarray, decimals: int) -> numpy.ndarray | None:
    """Return the integers that give exactly `values` when divided by 10^decimals, or None."""
    scaled = numpy.rint(values * 10.0 ** decimals)
    if not (numpy.abs(scaled) < EXACT_MAX).all():
        return None
    integers = scaled.astype(numpy.int64)
    if ((integers / 10.0 ** decimals).view(numpy.int64) != values.view(numpy.int64)).any():
        return None
    return integers


def _find_decimals(values: numpy.ndarray) -> tuple[int, numpy.ndarray] | None:
    """Return the fewest decimal places that hold `values` bit for bit, and the integers; or None."""
    if not numpy.isfinite(values).all() or (numpy.abs(values) >= EXACT_MAX).any():
        return None
    sample = values[:: max(1, len(values) // SAMPLE)]
    for decimals in range(DECIMALS_MAX + 1):
        if _scale(sample, decimals) is not None:
            integers = _scale(values, decimals)
            if integers is not None:
                return decimals, integers
    return None


def _count_bits(numbers: numpy.ndarray) -> float:
    return float(numpy.log2(numbers + 1.0).sum())


def encode_integers(integers: numpy.ndarray, decimals: int = 0) -> Frame:
    """Encode int64 numbers, shape (n,), n > 0, that lie less than 2^63 apart."""
    smallest = integers.min()
    encoding, numbers = OFFSETS, (integers - smallest).astype(numpy.uint64)
    if int(numbers.max()) < ZIGZAG_MAX:
        differences = numpy.diff(integers, prepend=smallest)
        zigzag = ((differences << 1) ^ (differences >> 63)).astype(numpy.uint64)
        if _count_bits(zigzag) <= _count_bits(numbers):
            encoding, numbers = DELTAS, zigzag
    width = next(w for w in (1, 2, 4, 8) if int(numbers.max()) >> (8 * w) == 0)
    data = smallest.astype("<i8").tobytes() + _compress(numbers.astype(f"<u{width}"))
    return Frame(encoding, decimals, width, ALL_PRESENT, data)


def decode_integers(frame: Frame, count: int, start: int = 0, stop: int | None = None) -> numpy.ndarray:
    """Return the int64 numbers `start` to `stop` (None: all from there on) of a frame of `count`, of
    `encode_integers`."""
    if frame.width not in _UNSIGNED:
        raise ValueError(f"unknown width {frame.width}")
    smallest = numpy.frombuffer(frame.data, "<i8", 1)[0]
    stop = count if stop is None else stop
    skipped = start if frame.encoding == DELTAS else 0      # each difference counts for all that follow
    numbers = _decompress(frame.data[8:], _UNSIGNED[frame.width], count, start - skipped, stop).astype(numpy.int64)
    if frame.encoding == DELTAS:
        signs = numbers & 1
        numbers >>= 1
        numbers ^= numpy.negative(signs, out=signs)
        numpy.add.accumulate(numbers, out=numbers)
        numbers = numbers[skipped:]
    return numbers + smallest


def _encode_present(values: numpy.ndarray) -> Frame:
    bits = values.view(numpy.int64)
    if (bits == bits[0]).all():
        return Frame(CONSTANT, 0, 0, ALL_PRESENT, values[:1].astype("<f8").tobytes())
    found = _find_decimals(values)
    if found is not None:
        return encode_integers(found[1], found[0])
    return Frame(RAW, 0, 0, ALL_PRESENT, _compress(values.astype("<f8", copy=False)))


def encode_frame(values: numpy.ndarray, present: numpy.ndarray | None) -> Frame:
    """Encode one column's values, shape (n,), float64, of which `present` (bool, or None: all) are there."""
    if present is None or present.all():
        return _encode_present(numpy.ascontiguousarray(values))
    if not present.any():
        return Frame(CONSTANT, 0, 0, NONE_PRESENT, b"")
    frame = _encode_present(values[present])
    return frame._replace(presence=BITMAP, data=numpy.packbits(present).tobytes() + frame.data)


def _decode_present(frame: Frame, count: int, start: int, stop: int) -> numpy.ndarray:
    if frame.encoding == CONSTANT:
        return numpy.full(stop - start, numpy.frombuffer(frame.data, "<f8", 1)[0])
    if frame.encoding == RAW:
        return _decompress(frame.data, _FLOAT, count, start, stop)
    if frame.encoding in (DELTAS, OFFSETS):
        return decode_integers(frame, count, start, stop) / 10.0 ** frame.decimals
    raise ValueError(f"unknown encoding {frame.encoding}")


def decode_frame(frame: Frame, count: int, start: int = 0,
                 stop: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray | None]:
    """Return values `start` to `stop` (None: all from there on) of `count`, and which are present (bool, or None: all).

    Raises ValueError, lz4.block.LZ4BlockError on bytes that no encoder wrote.
    """
    stop = count if stop is None else stop
    if frame.presence == ALL_PRESENT:
        return _decode_present(frame, count, start, stop), None
    values = numpy.zeros(stop - start)
    if frame.presence == NONE_PRESENT:
        return values, numpy.zeros(stop - start, bool)
    size = -(-count // 8)
    bits = numpy.unpackbits(numpy.frombuffer(frame.data, numpy.uint8, size), count=count).astype(bool)
    present = bits[start:stop]
    before, here, held = (int(part.sum()) for part in (bits[:start], present, bits))
    values[present] = _decode_present(frame._replace(data=frame.data[size:]), held, before, before + here)
    return values, present
