"""The head of a pack: what must be kept of its metrics besides sealed buckets (doc/source/format/head.rst).

It is stored as a base, which holds all metrics, and at most one delta, which holds those that changed since.
"""

import functools
import struct
from typing import NamedTuple

import numpy
import xxhash

from gnocchi import metric_ids
from gnocchi.carbonara.series import SeriesBatch
from gnocchi.carbonara.single import SeriesWindow
from gnocchi.carbonara.window import WindowState, concat_states, empty_state, select_rows
from gnocchi.exceptions import CorruptedData, UnknownFormat

MAGIC = b"GNOCHEAD"
VERSION = 1
#: magic, version, flags, metrics, points, length of the section, checksum of all else
HEADER = struct.Struct("<8sHHIQQQ")

_TIME = numpy.dtype("<M8[ns]")
_INT = numpy.dtype("<i8")
_FLOAT = numpy.dtype("<f8")
_FLAG = numpy.dtype("?")
#: Of each array that has a value per metric, or per point.
_METRIC_BYTES = 16 + 4 * 8 + 1
_POINT_BYTES = 2 * 8


class Head(NamedTuple):
    """m metrics.

    ids : ndarray, shape (m,), `S16`, ascending, unique
    state : WindowState of m series in the same order
    bits : int; in so many low bits all ids are known to agree, namely in those of the pack that it was written for
    """

    ids: numpy.ndarray
    state: WindowState
    bits: int | None = None


class HeadParts(NamedTuple):
    """A head as it is stored: the metrics of `delta` stand in for the same ones of `base`, or come beside them."""

    base: Head
    delta: Head


@functools.cache
def empty_head() -> Head:
    """Return the head without metrics."""
    return Head(numpy.empty(0, metric_ids.DTYPE), empty_state(0))


def pick_metrics(parts: HeadParts, ids: numpy.ndarray) -> Head:
    """Return the head of some metrics (ascending, unique `S16`); those that are new have no points.

    Costs as much as is picked, however large the parts are.
    """
    for part in parts:
        # FAST PATH: all metrics of a small pack at once.
        if (part is parts.delta or not len(parts.delta.ids)) and _same(part.ids, ids):
            return part
    found = []
    left = ids
    for part in (parts.delta, parts.base):
        if len(part.ids) and len(left):
            rows, held = find_metrics(part.ids, left)
            found.append(Head(part.ids[rows], select_rows(part.state, rows)))
            left = left[~held]
    if len(left):
        found.append(Head(left, empty_state(len(left))))
    return _join([head for head in found if len(head.ids)])


def apply_delta(base: Head, delta: Head) -> Head:
    """Return the head that a base and the delta on top of it mean."""
    if not len(delta.ids):
        return base
    if not len(base.ids) or _same(base.ids, delta.ids):
        return delta
    kept = ~contains(delta.ids, base.ids)
    return _join([select_metrics(base, kept), delta]) if kept.any() else delta


def _same(some: numpy.ndarray, others: numpy.ndarray) -> bool:
    """Tell whether two arrays of ids are equal."""
    return len(some) == len(others) and some.tobytes() == others.tobytes()     # a tenth of what numpy takes


def _join(heads: list[Head]) -> Head:
    """Return the head of all metrics of heads that have none in common."""
    if len(heads) == 1:
        return heads[0]
    ids = numpy.concatenate([head.ids for head in heads])
    order = numpy.argsort(ids, kind="stable")
    return Head(ids[order], select_rows(concat_states([head.state for head in heads]), order))


def contains(sorted_ids: numpy.ndarray, ids: numpy.ndarray) -> numpy.ndarray:
    """Return, for each of `ids`, whether it is among `sorted_ids`; bool, shape of `ids`."""
    return find_metrics(sorted_ids, ids)[1]


def find_metrics(sorted_ids: numpy.ndarray, ids: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the places in `sorted_ids` of those of `ids` that it has, and which these are (bool, shape of `ids`)."""
    if not len(sorted_ids) or not len(ids):
        return numpy.empty(0, numpy.int64), numpy.zeros(len(ids), bool)
    places = numpy.minimum(sorted_ids.searchsorted(ids), len(sorted_ids) - 1)
    held = sorted_ids[places] == ids
    return places[held], held


def find_metric(head: Head, metric_id: bytes) -> SeriesWindow | None:
    """Return what a head holds of a metric, or None."""
    place = int(head.ids.searchsorted(numpy.array(metric_id, metric_ids.DTYPE)))
    if head.ids[place:place + 1].tobytes() != metric_id:
        return None
    state, raw = head.state, head.state.raw
    begin, end = raw.offsets[place:place + 2].tolist()
    return SeriesWindow(
        int(state.newest.view(numpy.int64)[place]), int(state.accept_from.view(numpy.int64)[place]),
        float(state.predecessor[place]) if state.has_predecessor[place] else None,
        raw.timestamps[begin:end].view(numpy.int64), raw.values[begin:end])


def select_metrics(head: Head, keep: numpy.ndarray) -> Head:
    """Return the head of the metrics that the bool array `keep` names."""
    if keep.all():
        return head
    rows = numpy.flatnonzero(keep)
    return Head(head.ids[rows], select_rows(head.state, rows))


def select_low_bits(head: Head, bits: int, low: int) -> Head:
    """Return the head of the metrics whose id ends in the `bits` low bits `low`.

    A pack that was split by a change of the number of sacks still shares its parent's section.
    """
    if head.bits == bits or not len(head.ids):      # of all packs that ever shared a section, one has so few bits
        return head
    mask = numpy.uint64((1 << bits) - 1)
    return select_metrics(head, metric_ids.low_words(head.ids) & mask == numpy.uint64(low))


#: Type of each array, in the order in which they lie.
_TYPES = (metric_ids.DTYPE, _TIME, _TIME, _FLOAT, _INT, _TIME, _FLOAT, _FLAG)
_WIDTHS = tuple(dtype.itemsize for dtype in _TYPES)


def encoded_size(head: Head) -> int:
    """Return the bytes that `encode_head` makes."""
    return size_of(len(head.ids), len(head.state.raw.values))


def size_of(metrics: int, points: int) -> int:
    """Return the bytes that `encode_head` makes of so many metrics and points."""
    return HEADER.size + _INT.itemsize + _METRIC_BYTES * metrics + _POINT_BYTES * points


def count_metrics(base: Head, delta: Head) -> tuple[int, int]:
    """Return how many metrics and points the head has that base and delta mean."""
    metrics, points = len(delta.ids), len(delta.state.raw.values)
    if len(base.ids):
        places = numpy.minimum(numpy.searchsorted(base.ids, delta.ids), len(base.ids) - 1)
        replaced = places[base.ids[places] == delta.ids]
        offsets = base.state.raw.offsets
        metrics += len(base.ids) - len(replaced)
        points += len(base.state.raw.values) - int((offsets[replaced + 1] - offsets[replaced]).sum())
    return metrics, points


def encode_head(head: Head) -> bytes:
    """Return the section's bytes, of a base or a delta alike."""
    state, raw = head.state, head.state.raw
    arrays = (head.ids, state.newest, state.accept_from, state.predecessor,
              raw.offsets, raw.timestamps, raw.values, state.has_predecessor)
    body = [(array if array.dtype == dtype else array.astype(dtype)).tobytes()
            for array, dtype in zip(arrays, _TYPES, strict=True)]
    size = encoded_size(head)
    fields = (MAGIC, VERSION, 0, len(head.ids), len(raw.values), size)
    digest = xxhash.xxh3_64(HEADER.pack(*fields, 0))
    for part in body:
        digest.update(part)
    data = b"".join([HEADER.pack(*fields, digest.intdigest()), *body])
    assert len(data) == size, f"BUG: head of {len(data)} bytes instead of {size}"
    return data


def decode_head(data: bytes, key: str, offset: int) -> Head:
    """Decode a section; its arrays are read-only views of `data`.

    Raises CorruptedData, UnknownFormat, naming `key` and `offset`.
    """
    if len(data) < HEADER.size:
        raise CorruptedData(key, offset, "shorter than the header of a head")
    magic, version, flags, metrics, points, size, checksum = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise CorruptedData(key, offset, "not a head")
    digest = xxhash.xxh3_64(HEADER.pack(magic, version, flags, metrics, points, size, 0))
    digest.update(memoryview(data)[HEADER.size:])
    if digest.intdigest() != checksum:
        raise CorruptedData(key, offset, "checksum of the head does not match")
    if version != VERSION or flags:
        raise UnknownFormat(key, offset, "a head", f"{version}.{flags}", f"{VERSION}.0")
    if size != len(data) or size != size_of(metrics, points):
        raise CorruptedData(key, offset, f"{len(data)} bytes do not hold a head of {metrics} metrics, {points} points")
    return view_head(data)


def view_head(data: bytes, bits: int | None = None) -> Head:
    """Return the head in a section that is known to be sound, as views of its bytes.

    bits : as in Head
    """
    metrics, points = HEADER.unpack_from(data)[3:5]
    arrays, position = [], HEADER.size
    lengths = (metrics, metrics, metrics, metrics, metrics + 1, points, points, metrics)
    for dtype, width, length in zip(_TYPES, _WIDTHS, lengths, strict=True):
        arrays.append(numpy.frombuffer(data, dtype, length, position))
        position += width * length
    ids, newest, accept_from, predecessor, offsets, timestamps, values, has_predecessor = arrays
    return Head(ids, WindowState(newest, accept_from, predecessor, has_predecessor,
                                 SeriesBatch(offsets, timestamps, values)), bits)
