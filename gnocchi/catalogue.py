"""The catalogue: which stored objects count.  SQL keeps these rows; storage says what lies behind them."""

import dataclasses
import datetime
import uuid
from typing import Any, NamedTuple

from gnocchi.archive_policy import ArchivePolicy


class Sack(NamedTuple):
    """sequence: number of commits so far; checkpoint: how far the backlog is committed (see incoming)."""

    number: int
    sequence: int
    checkpoint: dict[str, Any]


class SackContents(NamedTuple):
    """A sack, how many there are, its packs, all archive policies by id, and its parked measures."""

    sack: Sack
    sacks: int
    packs: "list[Pack]"
    policies: dict[uuid.UUID, ArchivePolicy]
    parked: "tuple[Parked, ...]" = ()

    @property
    def sack_bits(self) -> int:
        """How many low bits of a metric's id tell its sack."""
        return self.sacks.bit_length() - 1


#: Ends, in the key of a commit's objects, the key of what they are stored in together with those of other commits.
GUEST_MARK = "@"


def find_object(key: str) -> str:
    """Return the key under which is stored what a section's key names (doc/source/format/object.rst)."""
    return key.partition(GUEST_MARK)[0]


class SectionRef(NamedTuple):
    """Where a section lies: `length` bytes from `offset` of the object that `key` names (see `find_object`)."""

    key: str
    offset: int
    length: int


class Pack(NamedTuple):
    """The metrics of one archive policy whose id ends in the `bits` low bits `low`.

    base is None while there is no head: of a pack stored all the same, measures are parked.  `metrics` and
    `bytes` describe the head.
    """

    id: uuid.UUID
    sack: int
    policy_id: uuid.UUID
    bits: int
    low: int
    base: SectionRef | None
    delta: SectionRef | None
    metrics: int
    bytes: int


class Block(NamedTuple):
    """Sealed buckets of one pack and granularity.  granularity, first, last: int64 ns; `last` is the newest bucket."""

    id: uuid.UUID
    pack_id: uuid.UUID
    section: SectionRef
    granularity: int
    level: int
    first: int
    last: int
    rows: int


@dataclasses.dataclass(frozen=True)
class Parked:
    """Measures of a pack that could not be read or processed; they wait in a section of their own.

    The sequence in the section's key tells the order in which they are to be taken.

    reason : what was wrong at first, to be read by people
    parked_at : naive UTC;  attempts : how often taking them failed since
    """

    id: uuid.UUID
    sack: int
    pack_id: uuid.UUID
    policy_id: uuid.UUID
    section: SectionRef
    measures: int
    reason: str
    parked_at: datetime.datetime
    attempts: int = 0


@dataclasses.dataclass(frozen=True)
class SackCommit:
    """Everything one commit changes; made visible in one transaction or not at all.

    sequence : the sack's sequence that was read before; the commit moves it to sequence + 1
    checkpoint : new backlog checkpoint of the sack, or None to leave it
    packs : rows to insert or (same id) replace
    packs_removed : ids of packs that were split
    blocks : rows to insert;  blocks_removed : ids
    garbage : keys of objects that lost a reference in this commit
    parked : rows to insert;  parked_removed : ids
    hosts : other sacks in whose objects some of this one's lie; without their commits this one is lost, too
    """

    sack: int
    sequence: int
    checkpoint: dict[str, Any] | None
    packs: tuple[Pack, ...] = ()
    packs_removed: tuple[uuid.UUID, ...] = ()
    blocks: tuple[Block, ...] = ()
    blocks_removed: tuple[uuid.UUID, ...] = ()
    garbage: tuple[str, ...] = ()
    parked: tuple[Parked, ...] = ()
    parked_removed: tuple[uuid.UUID, ...] = ()
    hosts: tuple[int, ...] = ()
