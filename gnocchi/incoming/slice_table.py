"""Where each sack's slices lie in a journal, written down beside it: what a long backlog's index has on the disk.

    header | directory: a row per sack | damage | entries, ascending by sack, then by place in the journal

Everything in it follows from the journal, so it may be deleted at any time and is never synced: checksums tell.
Format: doc/source/format/journal.rst.
"""

import contextlib
import os
import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy
import orjson
import xxhash

#: Follows the journal's name.
TABLE_SUFFIX = ".slices"
#: Follows that until the table is whole.
UNFINISHED_SUFFIX = ".tmp"

#: One slice: its frame's stamp, where it begins in the file, what of it belongs to the sack, and all that it holds.
ENTRY = numpy.dtype([("stamp", "<i8"), ("start", "<i8"), ("checksum", "<u8"), ("metrics", "<u4"), ("measures", "<u4"),
                     ("stored_metrics", "<u4"), ("stored_measures", "<u4")])

#: A sack's entries: how many and where they are, what they sum up to, and their checksum.
_ROW = numpy.dtype([("sack", "<u4"), ("reserved", "<u4"), ("before", "<u8"), ("count", "<u8"), ("metrics", "<u8"),
                    ("measures", "<u8"), ("stamp", "<i8"), ("first", "<i8"), ("last", "<i8"), ("checksum", "<u8")])
#: Magic, checksum of the rest of the header, the directory and the damage, version, sacks, rows, bytes of damage, end.
_HEADER = struct.Struct("<8sQIIIIQ")
_MAGIC = b"GNOSLICE"
_UNCHECKED_BYTES = 16
_VERSION = 2

#: Damaged places that a table tells of, so that whoever takes it meets them.
_PLACES_MAX = 1000


def concat_entries(parts: Sequence[numpy.ndarray]) -> numpy.ndarray:
    """Return arrays of ENTRY one after the other; numpy looks at all their fields for that, which takes 10 us."""
    return numpy.frombuffer(b"".join([part.tobytes() for part in parts]), ENTRY)


class StaleTable(Exception):
    """The file is damaged, gone, or another one than was opened."""


class Totals(NamedTuple):
    """What entries sum up to.  bundles, measures : int;  oldest_ns : int, stamp of the first"""

    bundles: int
    measures: int
    oldest_ns: int


class SliceTable:
    """A table's directory; the entries stay on the disk until they are asked for.

    end : int; slices of frames before this byte of the journal are in the table
    damage : what could not be read before that; byte -> reason
    """

    def __init__(self, path: str, seed: int, end: int, rows: numpy.ndarray, damage: Mapping[int, str],
                 entries_at: int) -> None:
        self.path = path
        self.end = end
        self.damage = damage
        self._entries_at = entries_at
        self._seed = seed
        self._rows = rows
        self._row_of = {sack: i for i, sack in enumerate(rows["sack"].tolist())}

    @property
    def sacks(self) -> list[int]:
        """The sacks that have entries, ascending."""
        return list(self._row_of)

    @property
    def counts(self) -> dict[int, int]:
        """How many entries each sack has, of those that have any."""
        return dict(zip(self._row_of, self._rows["count"].tolist(), strict=True))

    def is_same(self, other: "SliceTable | None") -> bool:
        return other is not None and self.end == other.end and bool((self._rows == other._rows).all())

    def last_start(self, sack: int) -> int:
        """Return where the last slice of a sack begins, or -1 when it has none."""
        row = self._row_of.get(sack)
        return -1 if row is None else int(self._rows["last"][row])

    def read(self, sack: int, offset: int = 0) -> numpy.ndarray:
        """Return the entries of a sack that start at or after `offset`, shape (k,), ENTRY, ascending.

        Raises StaleTable.
        """
        row = self._row_of.get(sack)
        if row is None or self._rows["last"][row] < offset:
            return numpy.empty(0, ENTRY)
        entries = numpy.empty(int(self._rows["count"][row]), ENTRY)
        try:
            with open(self.path, "rb", buffering=0) as f:
                f.seek(self._entries_at + int(self._rows["before"][row]) * ENTRY.itemsize)
                size = f.readinto(entries.view(numpy.uint8).data)
        except OSError as e:
            raise StaleTable(str(e)) from e
        if size != entries.nbytes or _checksum(entries, self._seed) != self._rows["checksum"][row]:
            raise StaleTable(f"{self.path}: entries of sack {sack} fail their checksum")
        return entries[numpy.searchsorted(entries["start"], offset):]

    def sum_up(self, sack: int, offset: int) -> Totals | None:
        """Sum up the entries of a sack that start at or after `offset`, or return None if there are none.

        Reads only if some come before.  Raises as `read` does.
        """
        row = self._row_of.get(sack)
        if row is None or self._rows["last"][row] < offset:
            return None
        if offset > self._rows["first"][row]:
            return sum_up(self.read(sack, offset))
        return Totals(*(int(self._rows[field][row]) for field in ("metrics", "measures", "stamp")))


def is_shared(entries: numpy.ndarray) -> numpy.ndarray:
    """Return which slices also hold metrics of other sacks, shape (k,), bool: those cut for fewer sacks may."""
    return entries["stored_metrics"] != entries["metrics"]


def sum_up(entries: numpy.ndarray) -> Totals | None:
    """Sum up entries, or return None if there are none."""
    if not len(entries):
        return None
    return Totals(int(entries["metrics"].sum(dtype=numpy.int64)), int(entries["measures"].sum(dtype=numpy.int64)),
                  int(entries["stamp"][0]))


def load_table(path: str, seed: int, sacks: int) -> SliceTable | None:
    """Return the table at `path`, or None if none can be read that is whole and cut for `sacks`."""
    try:
        with open(path, "rb") as f:
            head = f.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return None
            magic, checksum, version, sacks_then, count, damage_bytes, end = _HEADER.unpack(head)
            if (magic, version, sacks_then) != (_MAGIC, _VERSION, sacks) or count > sacks:
                return None
            directory, damage = f.read(count * _ROW.itemsize), f.read(damage_bytes)
    except OSError:    # What it holds is in the journal too.
        return None
    if xxhash.xxh3_64_intdigest(head[_UNCHECKED_BYTES:] + directory + damage, seed) != checksum:
        return None
    return SliceTable(path, seed, end, numpy.frombuffer(directory, _ROW), dict(orjson.loads(damage)),
                      _HEADER.size + len(directory) + len(damage))


def write_table(path: str, seed: int, sacks: int, end: int, counts: Mapping[int, int],
                read: Callable[[int], numpy.ndarray], damage: Mapping[int, str]) -> SliceTable:
    """Put a table in place of the one at `path`, one sack's entries in memory at a time.

    Parameters
    ----------
    counts : mapping of sack to entries, above zero
    read : callable
        Returns the entries of a sack, as many as `counts` says.
    damage : byte of the journal -> what is wrong there

    Raises OSError, and what `read` does; then the one at `path` is as it was.
    """
    rows = numpy.zeros(len(counts), _ROW)
    rows["sack"] = sorted(counts)
    rows["count"] = [counts[sack] for sack in sorted(counts)]
    rows["before"] = numpy.cumsum(rows["count"]) - rows["count"]
    places = orjson.dumps(sorted(damage.items())[:_PLACES_MAX])
    entries_at = _HEADER.size + rows.nbytes + len(places)
    unfinished = f"{path}.{secrets.token_hex(4)}{UNFINISHED_SUFFIX}"
    try:
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as f:
            f.seek(entries_at)
            for row in rows:
                entries = read(int(row["sack"]))
                assert len(entries) == row["count"], f"BUG: {len(entries)} entries instead of {row['count']}"
                totals = sum_up(entries)
                assert totals is not None
                row["metrics"], row["measures"], row["stamp"] = totals
                row["first"], row["last"] = entries["start"][0], entries["start"][-1]
                row["checksum"] = _checksum(entries, seed)
                f.write(entries.view(numpy.uint8).data)
            header = _HEADER.pack(_MAGIC, 0, _VERSION, sacks, len(rows), len(places), end)
            checked = header[_UNCHECKED_BYTES:] + rows.tobytes() + places
            f.seek(0)
            f.write(_MAGIC + xxhash.xxh3_64_intdigest(checked, seed).to_bytes(8, "little") + checked)
        os.rename(unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):    # What it tells is in the first one.
            os.unlink(unfinished)
        raise
    return SliceTable(path, seed, end, rows, damage, entries_at)


def _checksum(entries: numpy.ndarray, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(numpy.ascontiguousarray(entries).view(numpy.uint8).data, seed)
