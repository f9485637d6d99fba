"""The objects of several commits, which are written together: small ones lie in those of others, which costs less.

    object of sack 3, commit 17             sack/7-0/3-delta-17-9f0c2ab4d1e85a76
    +----------------+---------------+----------------+
    | sack 3         | sack 4        | sack 7         |
    +----------------+---------------+----------------+
    host             guest           guest: ...a76@8192-7-901, byte 8192, sack 7, its commit 901

Whether a stored object may be deleted is told by its own key, the host's, and by whether any row names it or a guest in
it.  So a guest's commit must not happen without the host's (`SackCommit.hosts`).
"""

from collections.abc import Sequence

from gnocchi.catalogue import SectionRef
from gnocchi.exceptions import CorruptedData
from gnocchi.storage.sections import (
    HEADER,
    MAGIC,
    ObjectTable,
    Section,
    decode_table,
    encode_object,
    make_guest_key,
    make_key,
    make_nonce,
)

#: Size of an object that is stored with others, and of all, at most: while any of them lives it takes the space of all.
SMALL_BYTES_MAX = 64 << 10
TOGETHER_BYTES_MAX = 1 << 20
#: A guest begins at a multiple of this, a page: what tears one when the power fails leaves the others whole.
GUEST_ALIGNMENT = 4096


def find_next(begin: int, length: int) -> int:
    """Return where the guest behind an object begins, if there is one."""
    end = begin + length
    return end + -end % GUEST_ALIGNMENT


class _Stored:
    """What is stored under one key."""

    def __init__(self, host: int, key: str) -> None:
        self.host = host
        self.key = key
        self.parts: list[bytes] = []
        self.size = 0

    def append(self, data: bytes) -> None:
        padding = bytes(find_next(0, self.size) - self.size)
        self.parts += (padding, data)
        self.size += len(padding) + len(data)


class ObjectBatch:
    """Objects that are to be written together.

    Those of one sack are of one commit.  Only what lives about as long lies together: objects of one kind.
    """

    def __init__(self) -> None:
        self._stored: list[_Stored] = []
        self._nonce = make_nonce()
        #: By number of sacks and kind, what has room for guests.
        self._open: dict[tuple[int, str], _Stored] = {}
        self._hosts: dict[int, set[int]] = {}
        self._added: set[tuple[int, int, str]] = set()

    def add(self, sack_bits: int, sack: int, kind: str, sequence: int,
            sections: Sequence[Section]) -> list[SectionRef]:
        """Add an object, of another kind than the others of the sack; return where each section will lie in it."""
        assert (sack_bits, sack, kind) not in self._added, f"BUG: two objects {kind} of sack {sack}"
        self._added.add((sack_bits, sack, kind))
        data, offsets = encode_object(sack_bits, sack, sequence, list(sections))
        small = len(data) <= SMALL_BYTES_MAX
        stored = self._open.get((sack_bits, kind)) if small else None
        if stored is None or find_next(0, stored.size) + len(data) > TOGETHER_BYTES_MAX:
            begin, key = 0, make_key(sack_bits, sack, kind, sequence, self._nonce)
            stored = _Stored(sack, key)
            self._stored.append(stored)
            if small:
                self._open[sack_bits, kind] = stored
        else:
            begin = find_next(0, stored.size)
            key = make_guest_key(stored.key, begin, sack, sequence)
            self._hosts.setdefault(sack, set()).add(stored.host)
        stored.append(data)
        return [SectionRef(key, begin + offset, len(section.data))
                for section, offset in zip(sections, offsets, strict=True)]

    def list_hosts(self, sack: int) -> tuple[int, ...]:
        """Return the sacks in whose objects some of this sack's lie."""
        return tuple(sorted(self._hosts.get(sack, ())))

    def list_objects(self) -> list[tuple[str, bytes]]:
        """Return what is to be stored under which key."""
        return [(stored.key, b"".join(stored.parts)) for stored in self._stored]


def is_small(data: bytes) -> bool:
    """Return whether guests may follow the object that begins with `data`; what it says is not checked."""
    return len(data) < HEADER.size or HEADER.unpack_from(data)[7] <= SMALL_BYTES_MAX or not data.startswith(MAGIC)


def list_tables(name: str, data: bytes) -> list[tuple[str, ObjectTable | CorruptedData]]:
    """Return the tables of the objects in what is stored under a key, which begins with `data`, by their keys.

    Of one that is damaged the error is returned; it is gone on behind it.
    """
    found: list[tuple[str, ObjectTable | CorruptedData]] = []
    begin = 0
    while begin < max(1, len(data)):
        key = name
        if begin and len(data) - begin >= HEADER.size:
            key = make_guest_key(name, begin, *HEADER.unpack_from(data, begin)[5:7])
        try:
            table = decode_table(key, data[begin:])
        except CorruptedData as e:
            found.append((name, e))
            begin = _find_header(data, begin + GUEST_ALIGNMENT)
        else:
            found.append((key, table))
            begin = find_next(begin, table.length)
    return found


def _find_header(data: bytes, begin: int) -> int:
    return next((place for place in range(begin, len(data), GUEST_ALIGNMENT) if data.startswith(MAGIC, place)),
                max(begin, len(data)))
