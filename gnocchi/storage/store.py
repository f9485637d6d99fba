"""Reading and writing of heads and blocks through any storage driver."""

import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy

from gnocchi.carbonara.series import Column
from gnocchi.carbonara.single import SeriesWindow
from gnocchi.carbonara.window import WindowState, select_rows
from gnocchi.catalogue import Block, Pack, SectionRef, find_object
from gnocchi.common.cache import Cache
from gnocchi.exceptions import CorruptedData, ObjectNotFound
from gnocchi.storage import block as block_format
from gnocchi.storage.drivers import ByteRange, StorageDriver
from gnocchi.storage.head import (
    Head,
    HeadParts,
    apply_delta,
    decode_head,
    empty_head,
    encoded_size,
    find_metric,
    find_metrics,
    select_low_bits,
)
from gnocchi.storage.merge import BlockSummary, Rows, summarize
from gnocchi.storage.object_batch import SMALL_BYTES_MAX, TOGETHER_BYTES_MAX, ObjectBatch, is_small, list_tables
from gnocchi.storage.sections import ObjectTable, Section, parse_begin, table_length

#: A block up to this size is read, and kept, whole; of a larger one, the directory and the frames that matter.
WHOLE_BLOCK_BYTES_MAX = 256 << 10
#: Read first of a large block: holds the directory of nearly every block.
DIRECTORY_BYTES_GUESS = 64 << 10
#: Read first of an object whose table is asked for: holds nearly every one.
TABLE_BYTES_GUESS = 16 << 10

T = TypeVar("T")
R = TypeVar("R")


class BlockReader(NamedTuple):
    """A block's directory, and all its bytes when it is small."""

    ref: SectionRef
    directory: block_format.Directory
    data: bytes | None
    size: int


#: What is kept in memory: a head, a block's directory (with its data when small), or when its rows were.
Entry = Head | BlockReader | BlockSummary


def _cached_size(entry: Entry) -> int:
    if isinstance(entry, Head):
        return encoded_size(entry)
    if isinstance(entry, BlockSummary):
        return entry.ids.nbytes + entry.counts.nbytes + entry.times.nbytes
    return entry.size


def _newest_section(pack: Pack) -> SectionRef | None:
    """Return the section that changes whenever the head does."""
    return pack.delta or pack.base


def _range(ref: SectionRef) -> ByteRange:
    return ByteRange(find_object(ref.key), ref.offset, ref.offset + ref.length)


def _frame_ranges(reader: BlockReader, places: Iterable[block_format.FramePlace]) -> list[ByteRange]:
    key, offset, _ = reader.ref
    name = find_object(key)
    return [ByteRange(name, offset + place.offset, offset + place.offset + place.length) for place in places]


def _head_refs(pack: Pack) -> Iterator[tuple[SectionRef, Hashable]]:
    """Yield the sections that the head of a pack is stored as, and as what each is kept in memory."""
    if pack.base is not None:
        yield pack.base, pack.base
    if pack.delta is not None:
        yield pack.delta, ("delta", pack.delta)


def _own(pack: Pack, heads: Mapping[SectionRef, Head]) -> HeadParts:
    """Return the parts of a pack out of the heads of its sections."""
    base, delta = (empty_head() if ref is None else select_low_bits(heads[ref], pack.bits, pack.low)
                   for ref in (pack.base, pack.delta))
    return HeadParts(base, delta)


class Store:
    """Heads and blocks behind a driver.  Objects never change, so what was read is kept while it fits.

    Parameters
    ----------
    driver : StorageDriver
    cache_bytes : int
        Decoded heads and blocks kept in this process.
    """

    def __init__(self, driver: StorageDriver, cache_bytes: int) -> None:
        self.driver = driver
        self._cache = Cache(cache_bytes)
        self._lock = threading.Lock()
        self._readers: ThreadPoolExecutor | None = None

    def read_each(self, read: Callable[[T], R], items: Sequence[T]) -> Iterable[R]:
        """Return what a function that reads gives for each of `items`, in order; several at once where that pays."""
        if self.driver.reads_at_once == 1 or len(items) < 2:
            return map(read, items)
        with self._lock:
            if self._readers is None:
                self._readers = ThreadPoolExecutor(self.driver.reads_at_once, "read")
        return self._await_each(self._readers.map(read, items))

    def _await_each(self, outcomes: Iterator[R]) -> Iterator[R]:
        while True:
            with self.driver.waiting():
                try:
                    outcome = next(outcomes)
                except StopIteration:
                    return
            yield outcome

    def _remember(self, ref: Hashable, entry: Entry) -> None:
        self._cache.put(ref, entry, _cached_size(entry))

    def _recall(self, ref: Hashable) -> Entry | None:
        return self._cache.get(ref)

    def read_head(self, pack: Pack) -> Head:
        """Return the head of a pack; without metrics when nothing was committed yet.

        Raises ObjectNotFound when the pack was committed anew meanwhile, CorruptedData,
        BackendUnavailable.
        """
        if pack.base is None:
            return empty_head()
        head = self._recall(_newest_section(pack))
        if not isinstance(head, Head):
            heads = self._load_heads([pack.base] if pack.delta is None else [pack.base, pack.delta])
            head = heads[0] if pack.delta is None else apply_delta(*heads)
            self._remember(_newest_section(pack), head)
        return select_low_bits(head, pack.bits, pack.low)

    def read_window(self, pack: Pack, metric_id: bytes) -> SeriesWindow | None:
        """Return what the head of a pack holds of one metric; None: nothing.

        Base and delta are not made one for that, which would take longer than all the rest.

        Raises as `read_head` does.
        """
        if pack.base is None:
            return None
        head = self._recall(_newest_section(pack))
        heads = [head] if isinstance(head, Head) else self._read_parts(pack)
        return next((state for head in heads if (state := find_metric(head, metric_id)) is not None), None)

    def read_windows(self, pack: Pack, ids: numpy.ndarray) -> list[tuple[numpy.ndarray, WindowState]]:
        """Return what the head of a pack holds of `ids`, shape (m,), `S16`: indexes and their states, in parts.

        Raises as `read_head` does.
        """
        left, found = numpy.arange(len(ids)), []
        for head in self._read_parts(pack):
            rows, held = find_metrics(head.ids, ids[left])
            if len(rows):
                found.append((left[held], select_rows(head.state, rows)))
                left = left[~held]
        return found

    def _read_parts(self, pack: Pack) -> list[Head]:
        """Return delta, if any, and base."""
        keys = dict(reversed(list(_head_refs(pack))))
        found = {ref: head for ref, key in keys.items() if isinstance(head := self._recall(key), Head)}
        missing = [ref for ref in keys if ref not in found]
        if missing:
            for ref, head in zip(missing, self._load_heads(missing), strict=True):
                found[ref] = head
                self._remember(keys[ref], head)
        return [found[ref] for ref in keys]

    def _load_heads(self, refs: Sequence[SectionRef]) -> list[Head]:
        data = self.driver.get_many([_range(ref) for ref in refs])
        return [decode_head(part, ref.key, ref.offset) for part, ref in zip(data, refs, strict=True)]

    def read_parts_of(self, packs: Sequence[Pack]) -> list[HeadParts | ObjectNotFound | CorruptedData]:
        """Return the heads of packs as they are stored, or why one cannot be had; all that is not kept is read at once.

        Raises BackendUnavailable.
        """
        found = {ref: head for pack in packs for ref, key in _head_refs(pack)
                 if isinstance(head := self._recall(key), Head)}
        missing = {ref: key for pack in packs for ref, key in _head_refs(pack) if ref not in found}
        failed: dict[SectionRef, ObjectNotFound | CorruptedData] = {}
        for ref, data in self._get_each(list(missing)):
            try:
                if isinstance(data, ObjectNotFound):
                    raise data
                found[ref] = decode_head(data, ref.key, ref.offset)
                self._remember(missing[ref], found[ref])
            except (ObjectNotFound, CorruptedData) as e:
                failed[ref] = e
        return [next((failed[ref] for ref, _ in _head_refs(pack) if ref in failed), None) or _own(pack, found)
                for pack in packs]

    def _get_each(self, refs: Sequence[SectionRef]) -> Iterable[tuple[SectionRef, bytes | ObjectNotFound]]:
        """Return the bytes of sections, or the error in place of one whose object is missing."""
        try:
            return zip(refs, self.driver.get_many([_range(ref) for ref in refs]), strict=True)
        except ObjectNotFound as e:
            if len(refs) == 1:
                return [(refs[0], e)]
            return [each for ref in refs for each in self._get_each([ref])]

    def replace_heads(self, replaced: Sequence[SectionRef], written: Sequence[tuple[Pack, bool, Head]]) -> None:
        """Drop what was kept of some bases and deltas; keep heads that were just written, to spare reading them back.

        written : packs, whether it is the delta of the pack that was written or the base, and that
        """
        self._cache.replace(
            (key for ref in replaced for key in (ref, ("delta", ref))),
            ((("delta", pack.delta) if is_delta else pack.base, head, encoded_size(head))
             for pack, is_delta, head in written))

    def read_rows(self, block: Block, metric_id: bytes, method: str) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the sealed buckets that a block holds of one metric and method.

        Returns
        -------
        timestamps : ndarray, shape (n,), int64 ns, ascending
        values : ndarray, shape (n,), float64

        Raises ObjectNotFound, CorruptedData, BackendUnavailable.
        """
        reader = self._open_block(block.section)
        key, offset, _ = block.section
        start, stop = block_format.find_rows(reader.directory, metric_id)
        if start == stop:
            return numpy.empty(0, numpy.int64), numpy.empty(0)
        places = block_format.plan_frames(reader.directory, start, stop, method)
        if reader.data is None:
            data = self.driver.get_many(_frame_ranges(reader, places))
        else:
            data = [reader.data[p.offset:p.offset + p.length] for p in places]
        return block_format.decode_rows(reader.directory, start, stop, places, data, key, offset)

    def count_rows(self, block: Block, ids: numpy.ndarray) -> int:
        """Return how many rows a block holds of several metrics, from its directory.

        ids : ndarray, shape (m,), `S16`, ascending, unique.  Raises as `read_columns` does.
        """
        _, starts, stops = block_format.find_ranges(self._open_block(block.section).directory, ids)
        return int((stops - starts).sum())

    def read_columns(self, block: Block, ids: numpy.ndarray, methods: Sequence[str]) -> Rows:
        """Return what a block holds of several metrics.

        Parameters
        ----------
        ids : ndarray, shape (m,), `S16`, ascending, unique
        methods : columns to read

        Returns
        -------
        Rows; `metrics` are indexes into `ids`

        Raises ObjectNotFound, CorruptedData, BackendUnavailable.
        """
        reader = self._open_block(block.section)
        key, offset, _ = block.section
        held, starts, stops = block_format.find_ranges(reader.directory, ids)
        ends = numpy.cumsum(stops - starts)
        rows = numpy.arange(ends[-1] if len(ends) else 0) + (stops - ends).repeat(stops - starts)
        plan = block_format.plan_rows(reader.directory, rows, methods)
        data = self._read_frames(reader, [place for places in plan for place in places])
        if not len(rows):
            return Rows(rows, rows, {method: Column(numpy.empty(0), None) for method in methods})
        times = []
        columns: dict[str, list[Column]] = {method: [] for method in methods}
        for places in plan:
            contents = [data[place] for place in places]
            part, found = block_format.decode_row_group(reader.directory, places, contents, rows, key, offset)
            times.append(part)
            for method, column in zip(methods, found, strict=True):
                columns[method].append(column)
        return Rows(held.repeat(stops - starts), block_format.join(times),
                    {method: block_format.concat_columns(parts) for method, parts in columns.items()})

    def _read_frames(self, reader: BlockReader,
                     places: list[block_format.FramePlace]) -> dict[block_format.FramePlace, bytes]:
        if reader.data is not None:
            return {place: reader.data[place.offset:place.offset + place.length] for place in places}
        return dict(zip(places, self.driver.get_many(_frame_ranges(reader, places)), strict=True))

    def read_block(self, block: Block) -> tuple[block_format.Directory, Rows]:
        """Return all rows of a block, which is not kept.

        Raises as `read_rows` does.
        """
        key, offset, _ = block.section
        data = self.read_section(block.section)
        directory = block_format.decode_directory(data, key, offset)
        counts: numpy.ndarray = numpy.diff(directory.offsets.astype(numpy.int64))
        columns = {method: block_format.decode_column(directory, method, data, key, offset)
                   for method in directory.methods}
        return directory, Rows(numpy.repeat(numpy.arange(len(counts)), counts),
                               block_format.decode_times(directory, data, key, offset), columns)

    def summarize_block(self, block: Block) -> BlockSummary:
        """Return when the rows of a block were.  Raises as `read_rows` does."""
        summary = self._recall(("summary", block.section))
        if not isinstance(summary, BlockSummary):
            directory, times = self.read_times(block.section)
            summary = summarize(directory.ids.copy(), directory.offsets, times)
            self._remember(("summary", block.section), summary)
        return summary

    def read_times(self, ref: SectionRef) -> tuple[block_format.Directory, numpy.ndarray]:
        """Return the times (int64 ns) of all rows of a block.  Raises as `read_rows` does."""
        key, offset, _ = ref
        data = self.read_section(ref)
        directory = block_format.decode_directory(data, key, offset)
        return directory, block_format.decode_times(directory, data, key, offset)

    def _open_block(self, ref: SectionRef) -> BlockReader:
        reader = self._recall(ref)
        if isinstance(reader, BlockReader):
            return reader
        key, offset, length = ref
        whole = length <= WHOLE_BLOCK_BYTES_MAX
        name = find_object(key)
        data = self.driver.get(name, offset, offset + (length if whole else DIRECTORY_BYTES_GUESS))
        needed = block_format.directory_length(data, key, offset)
        if needed > length:
            raise CorruptedData(key, offset, f"directory of {needed} bytes in a block of {length}")
        if needed > len(data):
            data = self.driver.get(name, offset, offset + needed)
        directory = block_format.decode_directory(data, key, offset)
        reader = BlockReader(ref, directory, data if whole else None, length if whole else needed)
        self._remember(ref, reader)
        return reader

    def read_section(self, ref: SectionRef) -> bytes:
        """Return the bytes of a section; they are not checked.  Raises ObjectNotFound, BackendUnavailable."""
        return self.driver.get(*_range(ref))

    def read_object(self, key: str) -> bytes:
        """Return what is stored from the beginning of an object on: all of it at least.

        Raises ObjectNotFound, BackendUnavailable.
        """
        begin = parse_begin(key)
        return self.driver.get(find_object(key), begin, begin + SMALL_BYTES_MAX if begin else None)

    def read_tables(self, name: str) -> list[tuple[str, ObjectTable | CorruptedData]]:
        """Return what the objects stored under one key say of themselves, or why one cannot be read, by their keys.

        Raises ObjectNotFound, BackendUnavailable.
        """
        data = self.driver.get(name, 0, TABLE_BYTES_GUESS)
        if len(data) == TABLE_BYTES_GUESS:
            # There are guests in small objects only.
            stop = TOGETHER_BYTES_MAX if is_small(data) else table_length(name, data)
            if stop > len(data):
                data = self.driver.get(name, 0, stop)
        return list_tables(name, data)

    def write_sections(self, sack_bits: int, sack: int, kind: str, sequence: int,
                       sections: Sequence[Section]) -> list[SectionRef]:
        """Write one object, and return where each section lies in it.

        Raises BackendUnavailable.
        """
        objects = ObjectBatch()
        refs = objects.add(sack_bits, sack, kind, sequence, sections)
        self.write_objects(objects)
        return refs

    def write_objects(self, objects: ObjectBatch) -> None:
        """Write objects; on return all of them survive a crash.  Raises BackendUnavailable."""
        encoded = objects.list_objects()
        if encoded:
            self.driver.put_many(encoded)
