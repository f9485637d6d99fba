"""How far one sack has taken what each writer wrote: the checkpoint of drivers that keep groups.  Pure.

A writer's groups have rising stamps, and each slice names the one before it of the same writer and sack that the writer
knows to be stored.  So of each writer one number says what was taken, for good:

    stamps of a writer    .. 10 .. 20 ..... 40 .. 50 ..       mark 40, gap (20, 30]: the slice of 40 named 30 as the
                             v      v  (30)  v                one before, and 30 could not be found

What is at or below the mark was taken, unless it lies in a gap: what a gap holds may come to light later, and is taken
then.  A deleted group that shows again lies below the mark, and is not.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy

from gnocchi.incoming import Checkpoint

#: Writers remembered in a sack's row; each process that accepts measures is one, from its start to its end.
WRITERS_MAX = 1000

#: Gaps remembered of a writer.
GAPS_MAX = 50


class _Mark(NamedTuple):
    """gaps : list of (after, up to), ascending, apart from each other, none above `stamp`"""

    stamp: int
    gaps: list[tuple[int, int]]


_NOTHING = _Mark(0, [])


class Marks:
    """What one sack has taken.

    Parameters
    ----------
    checkpoint : Checkpoint
        `{"writers": {writer: [mark, after, up to, after, up to, ...]}}`, of which nothing is changed.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._of: dict[str, _Mark] = {
            writer: _Mark(numbers[0], list(zip(numbers[1::2], numbers[2::2], strict=True)))
            for writer, numbers in checkpoint.get("writers", {}).items()}

    def took(self, writer: str, stamp: int) -> bool:
        """Return whether a slice was taken."""
        mark, gaps = self._of.get(writer, _NOTHING)
        return stamp <= mark and not any(after < stamp <= last for after, last in gaps)

    def find_untaken(self, writers: Sequence[str], rows: numpy.ndarray) -> numpy.ndarray:
        """Return which slices were not taken, shape (k,), bool.

        rows : ndarray, shape (k,), with the fields `stamp` and `writer`, an index of `writers`
        """
        stamps, owners = rows["stamp"], rows["writer"]
        untaken = stamps > self.stamps_of(writers)[owners]
        for i, writer in enumerate(writers):
            for after, last in self._of.get(writer, _NOTHING).gaps:
                untaken |= (owners == i) & (stamps > after) & (stamps <= last)
        return untaken

    def stamps_of(self, writers: Sequence[str]) -> numpy.ndarray:
        """Return the mark of each writer, shape (w,), int64."""
        return numpy.array([self._of.get(writer, _NOTHING).stamp for writer in writers], numpy.int64)

    def take(self, writer: str, stamp: int, previous: int) -> None:
        """Note that a slice is taken, whose writer stored `previous` before it (0: none)."""
        mark, gaps = self._of.get(writer, _NOTHING)
        if stamp > mark:
            # All that is known of what lies between is that `previous` is the last of it.
            self._of[writer] = _Mark(stamp, [*gaps, (mark, previous)] if previous > mark else gaps)
            return
        left = []
        for after, last in gaps:
            if after < stamp <= last:
                left += [part for part in ((after, min(previous, last)), (stamp, last)) if part[0] < part[1]]
            else:
                left.append((after, last))
        self._of[writer] = _Mark(mark, left)

    def make_checkpoint(self, visible: Iterable[str], forget_before: int) -> Checkpoint:
        """Return what is to be committed.

        Parameters
        ----------
        visible : iterable of str
            Writers of whom groups are there; these are not forgotten.
        forget_before : int
            Writers are forgotten whose mark is below that, and gaps that end below.
        """
        there = set(visible)
        kept = [(writer in there, mark.stamp, writer) for writer, mark in self._of.items()
                if writer in there or mark.stamp >= forget_before]
        return {"writers": {writer: [stamp, *_flatten(self._of[writer].gaps, forget_before)]
                            for _, stamp, writer in sorted(kept)[-WRITERS_MAX:]}}


def _flatten(gaps: list[tuple[int, int]], forget_before: int) -> list[int]:
    left = [gap for gap in gaps if gap[1] >= forget_before]
    if len(left) > GAPS_MAX:
        # What shows again of what was taken in between would count twice; nothing is lost.
        merged = left[:-GAPS_MAX + 1]
        left = [(merged[0][0], merged[-1][1]), *left[-GAPS_MAX + 1:]]
    return [number for gap in left for number in gap]
