"""Blocks: sealed buckets of one pack and granularity (doc/source/format/block.rst)."""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import lz4.block
import numpy
import xxhash

from gnocchi import metric_ids
from gnocchi.carbonara.grouping import span_ns
from gnocchi.carbonara.series import Buckets, Column
from gnocchi.exceptions import CorruptedData, UnknownFormat
from gnocchi.storage import frames
from gnocchi.storage.frames import ROWS_PER_FRAME, Frame

MAGIC = b"GNOCBLCK"
VERSION = 1
#: magic, version, columns, metrics, rows, granularity ns, first bucket ns, directory length, section length, checksum
HEADER = struct.Struct("<8sHHIQqqQQQ")
#: Method names, NUL padded.
NAME = numpy.dtype("S16")
FRAME = numpy.dtype([("offset", "<u4"), ("length", "<u4"), ("checksum", "<u8"), ("encoding", "u1"),
                     ("decimals", "u1"), ("width", "u1"), ("presence", "u1"), ("reserved", "<u4")])
#: Rows of one block: offsets within it are 32 bits wide.
ROWS_MAX = 1 << 28


#: What bytes raise whose checksum is right and that no encoder wrote.
UNDECODABLE = (ValueError, lz4.block.LZ4BlockError)


class Directory(NamedTuple):
    """Everything of a block but its columns.

    ids : ndarray, shape (m,), `S16`, ascending;  offsets : shape (m + 1,), uint32; rows of each metric
    methods : one name per column;  frames : ndarray, shape (1 + columns, frames), FRAME; row 0 is the bucket index
    granularity, first : int ns;  rows : int;  length : bytes of header and directory
    section_length : bytes of the block
    """

    ids: numpy.ndarray
    offsets: numpy.ndarray
    methods: list[str]
    frames: numpy.ndarray
    granularity: int
    first: int
    rows: int
    length: int
    section_length: int


def encode_block(ids: numpy.ndarray, buckets: Buckets, granularity: numpy.timedelta64) -> bytes:
    """Return the section's bytes.

    Parameters
    ----------
    ids : ndarray, shape (m,), `S16`, ascending
    buckets : Buckets of m series; at least one bucket
    granularity : timedelta64[ns]
    """
    step = span_ns(granularity)
    times = buckets.timestamps.view(numpy.int64)
    first, rows = int(times.min()), len(times)
    assert 0 < rows <= ROWS_MAX, f"BUG: a block of {rows} rows"
    counts = numpy.diff(buckets.offsets)
    held = counts > 0
    offsets = numpy.concatenate([[0], numpy.cumsum(counts[held])]).astype("<u4")
    names = sorted(buckets.columns)
    frames_per_column = -(-rows // ROWS_PER_FRAME)
    directory = numpy.zeros((1 + len(names), frames_per_column), FRAME)
    table = ids[held].tobytes() + offsets.tobytes() + bytes(-offsets.nbytes % 8) + numpy.array(names, NAME).tobytes()
    length = HEADER.size + len(table) + directory.nbytes
    body: list[bytes] = []
    position = length
    for number in range(frames_per_column):
        part = slice(number * ROWS_PER_FRAME, (number + 1) * ROWS_PER_FRAME)
        encoded = _encode_row_group((times[part] - first) // step, [buckets.columns[n] for n in names], part)
        position = _place(encoded, directory[:, number], body, position)
    tail = table + directory.tobytes()
    fields = (MAGIC, VERSION, len(names), int(held.sum()), rows, step, first, length, position)
    digest = xxhash.xxh3_64(HEADER.pack(*fields, 0))
    digest.update(tail)
    return b"".join([HEADER.pack(*fields, digest.intdigest()), tail, *body])


def _encode_row_group(indexes: numpy.ndarray, columns: list[Column], part: slice) -> list[Frame | int]:
    """Encode the frames of some rows; a column equal to an earlier one gives that one's number instead."""
    encoded: list[Frame | int] = [frames.encode_integers(indexes)]
    seen: dict[bytes, int] = {}
    for number, column in enumerate(columns, 1):
        values = column.values[part]
        present = None if column.present is None else column.present[part]
        content = values.tobytes() if present is None or present.all() else values.tobytes() + present.tobytes()
        encoded.append(seen[content] if content in seen else frames.encode_frame(values, present))
        seen.setdefault(content, number)
    return encoded


def _place(encoded: list[Frame | int], entries: numpy.ndarray, body: list[bytes], position: int) -> int:
    """Append frames to the body and note them in the directory; equal columns share one frame."""
    for number, frame in enumerate(encoded):
        if isinstance(frame, int):
            entries[number] = entries[frame]
            continue
        entries[number] = (position, len(frame.data), xxhash.xxh3_64_intdigest(frame.data), frame.encoding,
                           frame.decimals, frame.width, frame.presence, 0)
        body.append(frame.data)
        position += len(frame.data)
    return position


def directory_length(data: bytes, key: str, offset: int) -> int:
    """Return how many bytes header and directory take, from (at least) the header."""
    if len(data) < HEADER.size or data[:8] != MAGIC:
        raise CorruptedData(key, offset, "not a block")
    return HEADER.unpack_from(data)[7]


def decode_directory(data: bytes, key: str, offset: int) -> Directory:
    """Decode header and directory from (at least) their bytes.

    Raises CorruptedData, UnknownFormat, naming `key` and `offset`.
    """
    length = directory_length(data, key, offset)
    if len(data) < length:
        raise CorruptedData(key, offset, "the directory of a block is cut short")
    magic, version, columns, metrics, rows, granularity, first, _, section, checksum = HEADER.unpack_from(data)
    digest = xxhash.xxh3_64(HEADER.pack(magic, version, columns, metrics, rows, granularity, first, length, section, 0))
    digest.update(memoryview(data)[HEADER.size:length])
    if digest.intdigest() != checksum:
        raise CorruptedData(key, offset, "checksum of the block's directory does not match")
    if version != VERSION:
        raise UnknownFormat(key, offset, "a block", version, VERSION)
    frames_per_column = -(-rows // ROWS_PER_FRAME)
    names_at = HEADER.size + 16 * metrics + 4 * (metrics + 1) + (-4 * (metrics + 1)) % 8
    frames_at = names_at + NAME.itemsize * columns
    count = (1 + columns) * frames_per_column
    if length != frames_at + FRAME.itemsize * count:
        raise CorruptedData(key, offset, f"{length} bytes are no directory of {metrics} metrics and {columns} columns")
    ids = numpy.frombuffer(data, metric_ids.DTYPE, metrics, HEADER.size)
    offsets = numpy.frombuffer(data, "<u4", metrics + 1, HEADER.size + 16 * metrics)
    names = [name.decode() for name in numpy.frombuffer(data, NAME, columns, names_at).tolist()]
    entries = numpy.frombuffer(data, FRAME, count, frames_at).reshape(1 + columns, frames_per_column)
    return Directory(ids, offsets, names, entries, granularity, first, rows, length, section)


def find_rows(directory: Directory, metric_id: bytes) -> tuple[int, int]:
    """Return the first and past-the-last row of a metric; equal when the block holds none of it."""
    ids = directory.ids
    place = int(numpy.searchsorted(ids, numpy.array(metric_id, metric_ids.DTYPE)))
    if place == len(ids) or ids[place:place + 1].tobytes() != metric_id:
        return 0, 0
    return int(directory.offsets[place]), int(directory.offsets[place + 1])


class FramePlace(NamedTuple):
    """A frame to be read: bytes `offset` to `offset + length` of the section hold `rows` values of a column.

    The rest is what the directory says of them (FRAME).
    """

    column: int
    number: int
    rows: int
    offset: int
    length: int
    checksum: int
    encoding: int
    decimals: int
    width: int
    presence: int
    reserved: int


def plan_frames(directory: Directory, start: int, stop: int, method: str) -> list[FramePlace]:
    """Return the frames that hold rows `start` to `stop` of bucket indexes and of one method, in row order."""
    column = 1 + directory.methods.index(method)
    places = []
    for number in range(start // ROWS_PER_FRAME, -(-stop // ROWS_PER_FRAME)):
        places += [_place_of(directory, 0, number), _place_of(directory, column, number)]
    return places


def decode_rows(directory: Directory, start: int, stop: int, places: list[FramePlace], data: list[bytes],
                key: str, offset: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return times (int64 ns) and values of rows `start` to `stop` where the method is present.

    `places` and `data` are the plan of `plan_frames` and the bytes read for it.  Raises CorruptedData.
    """
    times, values = [], []
    for number in range(0, len(places), 2):
        begin = places[number].number * ROWS_PER_FRAME
        rows = (max(0, start - begin), min(places[number].rows, stop - begin))
        instants = _decode_times(directory, places[number], data[number], key, offset, *rows)
        column, present = _decode_values(places[number + 1], data[number + 1], key, offset, *rows)
        times.append(instants if present is None else instants[present])
        values.append(column if present is None else column[present])
    return join(times), join(values)


def join(arrays: Sequence[numpy.ndarray]) -> numpy.ndarray:
    """Return the concatenation of one or more arrays; nearly always there is one."""
    return arrays[0] if len(arrays) == 1 else numpy.concatenate(arrays)


def find_ranges(directory: Directory, ids: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return which of `ids`, shape (m,), `S16`, the block holds (indexes, ascending), and their first and
    past-the-last rows."""
    places = numpy.minimum(numpy.searchsorted(directory.ids, ids), len(directory.ids) - 1)
    held = numpy.flatnonzero(directory.ids[places] == ids)
    offsets = directory.offsets.astype(numpy.int64)
    return held, offsets[places[held]], offsets[places[held] + 1]


def plan_rows(directory: Directory, rows: numpy.ndarray, methods: Sequence[str]) -> list[list[FramePlace]]:
    """Return the frames that hold some rows (ascending), of bucket indexes and of each method: a list per row group."""
    columns = [0, *(1 + directory.methods.index(method) for method in methods)]
    return [[_place_of(directory, column, number) for column in columns]
            for number in _row_groups(rows)]


def _row_groups(rows: numpy.ndarray) -> list[int]:
    if not len(rows):
        return []
    first, last = int(rows[0]) // ROWS_PER_FRAME, int(rows[-1]) // ROWS_PER_FRAME
    return [first] if first == last else numpy.unique(rows // ROWS_PER_FRAME).tolist()


def decode_row_group(directory: Directory, places: list[FramePlace], data: list[bytes], rows: numpy.ndarray, key: str,
                     offset: int) -> tuple[numpy.ndarray, list[Column]]:
    """Return times (int64 ns) and the columns of those of `rows` that are in a row group of `plan_rows`.

    Raises CorruptedData.
    """
    begin = places[0].number * ROWS_PER_FRAME
    inside = rows[slice(*rows.searchsorted((begin, begin + ROWS_PER_FRAME)))] - begin
    start, stop = int(inside[0]), int(inside[-1]) + 1
    inside -= start
    times = _decode_times(directory, places[0], data[0], key, offset, start, stop)[inside]
    columns = [_decode_values(place, content, key, offset, start, stop)
               for place, content in zip(places[1:], data[1:], strict=True)]
    return times, [Column(values[inside], None if present is None else present[inside]) for values, present in columns]


def decode_times(directory: Directory, data: bytes, key: str, offset: int) -> numpy.ndarray:
    """Return the times (int64 ns) of all rows, from the bytes of a whole block.  Raises CorruptedData."""
    return numpy.concatenate([
        _decode_times(directory, place, data[place.offset:place.offset + place.length], key, offset)
        for place in _column_places(directory, 0)])


def decode_column(directory: Directory, method: str, data: bytes, key: str, offset: int) -> Column:
    """Return the column of a method, from the bytes of a whole block.  Raises CorruptedData."""
    return concat_columns([
        Column(*_decode_values(place, data[place.offset:place.offset + place.length], key, offset))
        for place in _column_places(directory, 1 + directory.methods.index(method))])


def concat_columns(parts: Sequence[Column]) -> Column:
    """Return one column of the values of all, one or more, in order."""
    values = join([column.values for column in parts])
    if all(column.present is None for column in parts):
        return Column(values, None)
    return Column(values, join([
        numpy.ones(len(column.values), bool) if column.present is None else column.present for column in parts]))


def _column_places(directory: Directory, column: int) -> list[FramePlace]:
    return [_place_of(directory, column, number) for number in range(directory.frames.shape[1])]


def _place_of(directory: Directory, column: int, number: int) -> FramePlace:
    rows = min(ROWS_PER_FRAME, directory.rows - number * ROWS_PER_FRAME)
    return FramePlace(column, number, rows, *directory.frames[column, number].item())


def _check_frame(place: FramePlace, content: bytes, key: str, offset: int) -> Frame:
    if len(content) != place.length or xxhash.xxh3_64_intdigest(content) != place.checksum:
        raise CorruptedData(key, offset + place.offset, "checksum of the frame does not match")
    return Frame(place.encoding, place.decimals, place.width, place.presence, content)


def _decode_times(directory: Directory, place: FramePlace, content: bytes, key: str, offset: int, start: int = 0,
                  stop: int | None = None) -> numpy.ndarray:
    frame = _check_frame(place, content, key, offset)
    try:
        return frames.decode_integers(frame, place.rows, start, stop) * directory.granularity + directory.first
    except UNDECODABLE as e:
        raise _corrupted(place, key, offset, e) from e


def _decode_values(place: FramePlace, content: bytes, key: str, offset: int, start: int = 0,
                   stop: int | None = None) -> tuple[numpy.ndarray, numpy.ndarray | None]:
    frame = _check_frame(place, content, key, offset)
    try:
        return frames.decode_frame(frame, place.rows, start, stop)
    except UNDECODABLE as e:
        raise _corrupted(place, key, offset, e) from e


def _corrupted(place: FramePlace, key: str, offset: int, reason: Exception) -> CorruptedData:
    return CorruptedData(key, offset + place.offset, f"frame cannot be decoded: {reason}")
