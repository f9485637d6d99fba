"""Objects of any size in a pool of Ceph, cut into pieces.

    <name>        first piece: with it the object is there
    <name>#<n>    piece n = 1, 2, ...; written before the first one and removed after it
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gnocchi.common.ceph import NamedRange, Pool

#: Where larger objects are cut: OSDs refuse writes above 90 MB and objects above 128 MB, and like smaller ones.
PIECE_BYTES = 16 << 20


class PartOf(NamedTuple):
    """Bytes `start` to `stop` (exclusive) of an object."""

    name: str
    start: int
    stop: int


class Pieces:
    """Reads and writes objects; how many pieces one has is for its owner to remember.

    Parameters
    ----------
    pool : Pool
    piece_bytes : int
        Never to be changed once there are objects.
    """

    def __init__(self, pool: Pool, piece_bytes: int = PIECE_BYTES) -> None:
        self._pool = pool
        self.piece_bytes = piece_bytes

    def count(self, size: int) -> int:
        """Return the pieces of an object of so many bytes."""
        return max(1, -(-size // self.piece_bytes))

    def write(self, objects: Sequence[tuple[str, bytes]]) -> None:
        """Store objects under names that have none."""
        size = self.piece_bytes
        later = [(_piece_name(name, number), data[number * size:(number + 1) * size])
                 for name, data in objects if len(data) > size for number in range(1, self.count(len(data)))]
        if later:
            self._pool.write(later)
        self._pool.write((name, data if len(data) <= size else data[:size]) for name, data in objects)

    def read(self, ranges: Sequence[PartOf]) -> list[bytes | None]:
        """Return the bytes of each range, in order, short where the object ends; None where there is no object."""
        parts = [list(self._cut(*part)) for part in ranges]
        found = self._pool.read([part for several in parts for part in several])
        results: list[bytes | None] = []
        doubtful: dict[int, NamedRange] = {}
        end = 0
        for place, ((name, _, _), several) in enumerate(zip(ranges, parts, strict=True)):
            first, end = end, end + len(several)
            missing = [part.name for number, part in enumerate(several, first) if number not in found]
            if name in missing:
                results.append(None)
                continue
            if missing or not several:
                doubtful[place] = NamedRange(name, 0, 1)
            results.append(found[first] if end - first == 1 and not missing
                           else b"".join([found.get(number, b"") for number in range(first, end)]))
        # A later piece that is missing is behind the end of the object, if the object is still there now: the first
        # piece is removed before the others are.
        there = self._pool.read(list(doubtful.values())) if doubtful else {}
        for number, place in enumerate(doubtful):
            if number not in there:
                results[place] = None
        return results

    def remove(self, counts: Mapping[str, int]) -> None:
        """Remove objects of so many pieces, what there is of them."""
        self._pool.remove(counts)
        self._pool.remove(_piece_name(name, number) for name, count in counts.items() for number in range(1, count))

    def _cut(self, name: str, start: int, stop: int) -> Iterator[NamedRange]:
        """Yield the parts of the pieces that make a range."""
        size = self.piece_bytes
        for number in range(start // size, -(-stop // size)):
            begin = max(start - number * size, 0)
            length = min(stop - number * size, size) - begin
            if length > 0:
                yield NamedRange(_piece_name(name, number), begin, length)


def _piece_name(name: str, number: int) -> str:
    return f"{name}#{number}" if number else name
