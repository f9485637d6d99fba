"""Reads groups: what they say of themselves, metric ids, and slices."""

from collections.abc import Iterator, Sequence

import numpy

from gnocchi import metric_ids
from gnocchi.common.cache import Cache
from gnocchi.exceptions import CorruptedData
from gnocchi.incoming.batch import body_bytes
from gnocchi.incoming.group import GroupHead, decode_head, head_bytes, parse_key
from gnocchi.incoming.keyed_store import KeyedStore, KeyRange

#: A slice of a group for one sack.  `stored_` is what it holds, the rest what of it belongs to the sack.  `group` and
#: `writer` are numbers that the index gives.
ENTRY = numpy.dtype([
    ("stamp", "<i8"), ("previous", "<i8"), ("group", "<i8"), ("start", "<i8"), ("checksum", "<u8"), ("writer", "<u4"),
    ("sack", "<u4"), ("metrics", "<u4"), ("measures", "<u4"), ("stored_metrics", "<u4"), ("stored_measures", "<u4")])

#: What is read of a group at first: all of it, mostly.
FIRST_BYTES = 128 << 10
#: Bytes of groups that a process keeps, to read them once only.
BYTES_KEPT = 48 << 20
#: Ranges of one group that are this near to each other are read as one.
HOLE_BYTES = 256 << 10


class GroupGone(Exception):
    """A group was deleted: every sack has committed its slices.  key : str"""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class GroupReader:
    """Reads through a store, as much as possible at once; safe to use from many threads.

    sacks : int
        The number of sacks that entries are for.
    """

    def __init__(self, store: KeyedStore, sacks: int) -> None:
        self._store = store
        self._sacks = sacks
        #: The bytes that were read last, from the beginning of each group on.
        self._kept = Cache(BYTES_KEPT)

    def drop(self, key: str) -> None:
        """Forget the bytes of a group."""
        self._kept.replace([key], ())

    def read_heads(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the first bytes of groups, up to the slices at least; None for those that are gone."""
        found: dict[str, bytes | None] = {key: data for key in keys if (data := self._kept.get(key))}
        wanted = [key for key in keys if key not in found]
        first = self._read([KeyRange(key, 0, FIRST_BYTES) for key in wanted])
        found |= {key: self._complete(key, data) for key, data in zip(wanted, first, strict=True)}
        return [found[key] for key in keys]

    def _complete(self, key: str, data: bytes | None) -> bytes | None:
        """Return the bytes of a group up to its slices at least, of which `data` are the first ones."""
        if data is not None and head_bytes(data) > len(data):
            data = self._read([KeyRange(key, 0, head_bytes(data))])[0]
        if data is not None and not _is_sound(key, data):
            # Once more, lest an answer that was torn is taken for damage.
            data = self._read([KeyRange(key, 0, max(len(data), FIRST_BYTES))])[0]
        if data is not None:
            self._kept.put(key, data, len(data))
        return data

    def read_entries(self, key: str, data: bytes) -> numpy.ndarray:
        """Return what each sack has in a group that begins with `data`, shape (k,), ENTRY.

        Raises CorruptedData, GroupGone.
        """
        head = decode_head(data, key)
        named = parse_key(key)
        assert named is not None
        entries = numpy.zeros(len(head.numbers), ENTRY)
        entries["stamp"] = named.stamp
        entries["start"], entries["checksum"], entries["sack"] = head.starts, head.checksums, head.numbers
        entries["previous"] = head.previous_of
        for name, values in (("metrics", head.metrics), ("measures", head.measures)):
            entries[name] = entries[f"stored_{name}"] = values
        return entries if head.sacks == self._sacks else self._cut_again(key, entries, head)

    def _cut_again(self, key: str, entries: numpy.ndarray, head: GroupHead) -> numpy.ndarray:
        """Return the entries of a group that was cut for another number of sacks, one for each sack of each slice."""
        # Which groups before it have something for a sack is told of other sacks only.
        entries["previous"] = head.previous
        cut = [numpy.empty(0, ENTRY)]
        for row, (ids, counts) in zip(entries, self.read_ids(key, entries), strict=True):
            numbers, places = numpy.unique(metric_ids.sack_numbers(ids, self._sacks), return_inverse=True)
            parts = numpy.repeat(row.reshape(1), len(numbers))
            parts["sack"] = numbers
            parts["metrics"] = numpy.bincount(places, minlength=len(numbers))
            parts["measures"] = numpy.bincount(places, counts, len(numbers))
            cut.append(parts)
        return numpy.concatenate(cut)

    def read_ids(self, key: str, entries: numpy.ndarray) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
        """Yield the metric ids and counts that are stored for each entry; they are not checked.

        Raises GroupGone, CorruptedData.
        """
        metrics = entries["stored_metrics"].tolist()
        pieces = self.fetch([(key, start, start + body_bytes(count, 0))
                             for start, count in zip(entries["start"].tolist(), metrics, strict=True)])
        for piece, count in zip(pieces, metrics, strict=True):
            if len(piece) < body_bytes(count, 0):
                raise CorruptedData(key, 0, "the group is too short")
            yield numpy.frombuffer(piece, metric_ids.DTYPE, count), numpy.frombuffer(piece, "<i8", count, 16 * count)

    def fetch(self, wanted: Sequence[tuple[str, int, int]]) -> list[memoryview]:
        """Return bytes `start` to `stop` of a group, for many; short where one ends before.  Raises GroupGone."""
        pieces = [memoryview(b"")] * len(wanted)
        missing: dict[str, list[int]] = {}
        for i, (key, start, stop) in enumerate(wanted):
            kept = self._kept.get(key) or b""
            if len(kept) >= stop:
                pieces[i] = memoryview(kept)[start:stop]
            else:
                missing.setdefault(key, []).append(i)
        ranges: list[KeyRange] = []
        members: list[list[int]] = []
        for key, places in missing.items():
            places.sort(key=lambda i: wanted[i][1])
            for i in places:
                _, start, stop = wanted[i]
                if not members or ranges[-1].key != key or start > ranges[-1].stop + HOLE_BYTES:
                    ranges.append(KeyRange(key, 0 if stop <= FIRST_BYTES else start, max(stop, FIRST_BYTES)))
                    members.append([])
                ranges[-1] = ranges[-1]._replace(stop=max(stop, ranges[-1].stop))
                members[-1].append(i)
        for (key, begin, _), places, data in zip(ranges, members, self._read(ranges), strict=True):
            if data is None:
                raise GroupGone(key)
            if begin == 0:
                self._kept.put(key, data, len(data))
            for i in places:
                pieces[i] = memoryview(data)[wanted[i][1] - begin:wanted[i][2] - begin]
        return pieces

    def _read(self, ranges: Sequence[KeyRange]) -> list[bytes | None]:
        return self._store.get_many(ranges) if ranges else []


def _is_sound(key: str, data: bytes) -> bool:
    try:
        decode_head(data, key)
    except CorruptedData:
        return False
    return True
