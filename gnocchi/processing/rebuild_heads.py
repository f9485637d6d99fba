"""Which of the heads in storage were committed, as far as they tell it of each other.

A head names the one that it takes the place of, and a delta its base.  Whoever wrote it had read what was committed
until then, whether its own commit happened or not:

    sequence    3         4          5         6
    committed   base a    delta b    (other    delta c      names a as its base, and b as what it replaces:
    lost        delta x   base y      packs)                y never counted, nor did blocks of its commit.  Of x
                                                            nothing is said; b would have told if it were there still

What a commit wrote ends in the same digits, its nonce.
"""

from collections.abc import Sequence
from typing import NamedTuple

from gnocchi.catalogue import SectionRef
from gnocchi.storage.sections import NamedHeads


class FoundHead(NamedTuple):
    """A base, or a delta and the base that it lies on, once that is known."""

    sequence: int
    bits: int
    low: int
    base: SectionRef
    delta: SectionRef | None
    nonce: int
    named: NamedHeads


def list_states(bases: Sequence[FoundHead], deltas: Sequence[FoundHead], problems: list[str]) -> list[FoundHead]:
    """Return all states of heads: the bases, and the deltas with the bases that they lie on.

    problems : what cannot be used is told there
    """
    by_nonce: dict[int, list[FoundHead]] = {}
    for base in bases:
        by_nonce.setdefault(base.nonce, []).append(base)
    states = list(bases)
    for delta in deltas:
        below = next((base for base in by_nonce.get(delta.named.base, ())
                      if base.bits <= delta.bits and _cut(delta.low, base.bits) == base.low), None)
        if below is None:
            problems.append(f"the delta {delta.delta} has no base and is left out")
        else:
            states.append(delta._replace(base=below.base))
    return states


def find_lost(heads: Sequence[FoundHead]) -> set[int]:
    """Return the nonces of commits that were lost, from all heads of one archive policy.

    They wrote a head that stands between another one and what that one replaced.
    """
    levels = sorted({head.bits for head in heads})
    #: Witnesses by their share, and by each share that theirs is part of.
    of_share: dict[tuple[int, int], list[FoundHead]] = {}
    within: dict[tuple[int, int], list[FoundHead]] = {}
    for witness in heads:
        if witness.named.replaced:
            of_share.setdefault((witness.bits, witness.low), []).append(witness)
            for bits in levels[:levels.index(witness.bits) + 1]:
                within.setdefault((bits, _cut(witness.low, bits)), []).append(witness)
    lost = set()
    for head in heads:
        witnesses = [within.get((head.bits, head.low), [])]
        witnesses += [of_share.get((bits, _cut(head.low, bits)), []) for bits in levels[:levels.index(head.bits)]]
        if any(_contradicts(witness, head) for those in witnesses for witness in those):
            lost.add(head.nonce)
    # An index that was restored from a backup, and went on from there, leaves two histories: keep both.
    return lost - {nonce for head in heads for nonce in (head.named.replaced, head.named.base)}


def _contradicts(witness: FoundHead, head: FoundHead) -> bool:
    named = witness.named
    return named.replaced_sequence <= head.sequence < witness.sequence and head.nonce != named.replaced


def _cut(low: int, bits: int) -> int:
    return low & ((1 << bits) - 1)
