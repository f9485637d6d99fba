"""What a process knows of the groups that are there: their keys, and what each sack has in them."""

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence

import numpy

from gnocchi.exceptions import CorruptedData
from gnocchi.incoming.group import PREFIX, GroupKey, format_key, parse_key
from gnocchi.incoming.group_reader import ENTRY, GroupGone, GroupReader
from gnocchi.incoming.keyed_store import KeyedStore
from gnocchi.incoming.marks import Marks

#: Groups read at once; and how many, of how many bytes, are looked at before what they hold is processed.
GROUPS_AT_ONCE = 64
GROUPS_PER_PIECE = 2000
BYTES_PER_PIECE = 16 << 20
#: Entries in memory, 64 bytes each, of slices that wait; others are looked at when these are committed.
ENTRIES_MAX = 500_000
#: Keys in memory.
KEYS_MAX = 100_000
#: With more keys only the newest are listed; what appears late among the others is seen at the next full listing.
KEYS_LISTED_ALWAYS = 1000
FULL_LISTING_S = 60.0
#: How far the newest keys go back: more than clocks of hosts differ, and than it takes to write a group.
NEWEST_NS = 120 * 10 ** 9


class _Group:
    """key : GroupKey;  number : int;  loaded : bool, what it holds is known"""

    __slots__ = ("key", "loaded", "number", "text")

    def __init__(self, text: str, key: GroupKey, number: int) -> None:
        self.text = text
        self.key = key
        self.number = number
        self.loaded = False


class GroupIndex:
    """Groups in the order of their stamps.  To be used by one thread at a time.

    Attributes
    ----------
    writers : list of str
        What the `writer` of an entry counts.
    damaged : dict of str to CorruptedData
        Groups that do not tell what they hold.
    """

    def __init__(self, store: KeyedStore, reader: GroupReader, sacks: int) -> None:
        self._store = store
        self._reader = reader
        self._sacks = sacks
        #: In the order of their keys.
        self._groups: dict[str, _Group] = {}
        self._by_number: dict[int, _Group] = {}
        self._numbers = itertools.count()
        self.writers: list[str] = []
        self.damaged: dict[str, CorruptedData] = {}
        self._next_full_listing = 0.0
        self._truncated = False
        #: The newest stamp that a listing has shown, and the newest that may be taken of the last one.
        self._newest_seen = self._newest = 0
        #: Stamp of the first group that is not loaded, if there is one.
        self._horizon: int | None = None
        self._set_entries(numpy.empty(0, ENTRY))

    # Which groups there are

    def refresh(self) -> None:
        """List the groups.

        A listing takes time: it may show a group that was written when another one had been answered, but not that one,
        because its place was listed already.  What is no newer than the listing has no such gaps.
        """
        self._newest = max(time.time_ns(), self._newest_seen)
        full = len(self._groups) <= KEYS_LISTED_ALWAYS or time.monotonic() >= self._next_full_listing
        after = "" if full else format_key(GroupKey(max(0, self._newest_seen - NEWEST_NS), ""))
        groups = {} if full else {text: group for text, group in self._groups.items() if text <= after}
        for text in itertools.islice(self._store.list(PREFIX, after), max(0, KEYS_MAX - len(groups))):
            key = parse_key(text)
            if key is not None:
                groups[text] = self._groups.get(text) or self._make(text, key)
        if full:
            self._next_full_listing = time.monotonic() + FULL_LISTING_S
        gone = [group for text, group in self._groups.items() if text not in groups]
        self._groups = groups
        self._truncated = len(groups) >= KEYS_MAX
        self._forget(gone)
        if groups:
            self._newest_seen = max(self._newest_seen, next(reversed(groups.values())).key.stamp)

    def _make(self, text: str, key: GroupKey) -> _Group:
        group = _Group(text, key, next(self._numbers))
        self._by_number[group.number] = group
        return group

    def _forget(self, gone: Sequence[_Group]) -> None:
        for group in gone:
            del self._by_number[group.number]
            self._reader.drop(group.text)
            self.damaged.pop(group.text, None)
        if gone and len(self._entries):
            self._set_entries(self._entries[~numpy.isin(self._entries["group"], [group.number for group in gone])])
        if not self._groups:
            self.writers = []
        self._find_horizon()

    def drop(self, keys: Iterable[str]) -> None:
        """Forget groups that are not there any more."""
        self._forget([group for key in keys if (group := self._groups.pop(key, None)) is not None])

    def key_of(self, number: int) -> str:
        return self._by_number[number].text

    def list_writers(self) -> set[str]:
        """Return the writers of whom there are groups."""
        return {group.key.writer for group in self._groups.values()}

    def list_waiting(self) -> list[str]:
        """Return the keys of all groups but those that nobody waits for."""
        waiting = set(self._entries["group"].tolist())
        return [text for text, group in self._groups.items() if not group.loaded or group.number in waiting]

    def list_exhausted(self) -> list[str]:
        """Return the keys of groups of which no slice waits (see `forget`)."""
        waiting = set(self._entries["group"].tolist())
        return [text for text, group in self._groups.items()
                if group.loaded and group.number not in waiting and text not in self.damaged]

    # What is in them

    def _set_entries(self, entries: numpy.ndarray) -> None:
        """Entries are kept by sack, then in the order of stamps."""
        self._entries = entries[numpy.lexsort((entries["writer"], entries["stamp"], entries["sack"]))]
        self._bounds = numpy.searchsorted(self._entries["sack"], numpy.arange(self._sacks + 1))

    def _find_horizon(self) -> None:
        self._horizon = next((group.key.stamp for group in self._groups.values() if not group.loaded), None)

    @property
    def sees_all(self) -> bool:
        """Whether it is known of every group what it holds."""
        return self._horizon is None and not self._truncated

    @property
    def has_holes(self) -> bool:
        """Whether it is known of a group, and not of one before it, what it holds."""
        if self._horizon is None:
            return False
        return any(group.loaded and group.key.stamp > self._horizon for group in self._groups.values())

    @property
    def is_full(self) -> bool:
        """Whether there is no room for what more groups hold."""
        return self._horizon is not None and len(self._entries) >= ENTRIES_MAX

    @property
    def entries_waiting(self) -> int:
        return len(self._entries)

    def load_piece(self) -> bool:
        """Get to know more groups, the oldest first; return whether there were any.

        Those that come before others which are known already find room always: these could not be taken else.
        """
        size = count = 0
        while (size < BYTES_PER_PIECE and count < GROUPS_PER_PIECE
               and (len(self._entries) < ENTRIES_MAX or self.has_holes)):
            groups = list(itertools.islice((group for group in self._groups.values() if not group.loaded),
                                           GROUPS_AT_ONCE))
            if not groups:
                break
            count += len(groups)
            size += self._load(groups)
        return count > 0

    def seek(self, keys: Iterable[GroupKey]) -> bool:
        """Look for groups that no listing shows; return whether any was found."""
        wanted = {format_key(key): key for key in keys}
        groups = [self._make(text, key) for text, key in wanted.items() if text not in self._groups]
        # In their places: a slice is a prefix.
        self._groups |= {group.text: group for group in groups}
        self._groups = {text: self._groups[text] for text in sorted(self._groups)}
        self._load(groups)
        return any(group.text in self._groups for group in groups)

    def _load(self, groups: Sequence[_Group]) -> int:
        """Read what is in groups; return how many bytes that took.  Raises BackendUnavailable: nothing has changed."""
        size = 0
        entries, loaded, gone = [self._entries], [], []
        for group, data in zip(groups, self._reader.read_heads([group.text for group in groups]), strict=True):
            if data is None:
                gone.append(group)
                continue
            size += len(data)
            try:
                found = self._reader.read_entries(group.text, data)
            except CorruptedData as e:
                self.damaged[group.text] = e
            except GroupGone:
                gone.append(group)
                continue
            else:
                found["group"], found["writer"] = group.number, self._count_writer(group.key.writer)
                entries.append(found)
            loaded.append(group)
        # All at once: one that counted as loaded without its entries would be taken for one that nobody waits for.
        self._set_entries(numpy.concatenate(entries))
        for group in loaded:
            group.loaded = True
        for group in gone:
            del self._groups[group.text]
        self._forget(gone)
        return size

    def _count_writer(self, writer: str) -> int:
        if writer not in self.writers:
            self.writers.append(writer)
        return self.writers.index(writer)

    def forget(self, marks: Mapping[int, Marks]) -> None:
        """Forget the entries that sacks have taken and committed."""
        keep = numpy.ones(len(self._entries), bool)
        for sack, of_sack in marks.items():
            first, last = self._bounds[sack], self._bounds[sack + 1]
            keep[first:last] = of_sack.find_untaken(self.writers, self._entries[first:last])
        if not keep.all():
            self._set_entries(self._entries[keep])

    def list_untaken(self, sack: int, marks: Marks) -> numpy.ndarray:
        """Return what a sack has not taken of all that is known, shape (k,), ENTRY, in the order of stamps."""
        entries = self._entries[self._bounds[sack]:self._bounds[sack + 1]]
        return entries[marks.find_untaken(self.writers, entries)] if len(entries) else entries

    def count_ready(self, entries: numpy.ndarray) -> int:
        """Return how many of a sack's entries, the first ones, may be taken by now."""
        ready = int(numpy.searchsorted(entries["stamp"], self._newest, side="right"))
        if self._horizon is not None:
            ready = min(ready, int(numpy.searchsorted(entries["stamp"], self._horizon)))
        return ready

    def list_missing(self, entries: numpy.ndarray, marks: Marks) -> list[GroupKey]:
        """Return the groups that a sack's entries name as those before them, which it neither has nor took."""
        suspects = entries[(entries["previous"] > 0) & ~numpy.isin(entries["previous"], entries["stamp"])]
        missing = [GroupKey(int(row["previous"]), self.writers[row["writer"]]) for row in suspects]
        return [key for key in missing if not marks.took(key.writer, key.stamp) and format_key(key) not in self._groups]
