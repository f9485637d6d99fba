"""The index: what exists and who owns it, and which stored objects count.

Plain values that cross the border of the index.  `gnocchi.indexer.sqlalchemy.Indexer` is the one
implementation; its queries live in one module per noun.
"""

import dataclasses
import datetime
import uuid
from typing import Any, NamedTuple

from gnocchi.archive_policy import ArchivePolicy


@dataclasses.dataclass(frozen=True)
class ArchivePolicyRule:
    name: str
    archive_policy_name: str
    metric_pattern: str


@dataclasses.dataclass(frozen=True)
class Metric:
    """A live metric (status active)."""

    id: uuid.UUID
    archive_policy: ArchivePolicy
    creator: str | None
    name: str | None
    unit: str | None
    resource_id: uuid.UUID | None


@dataclasses.dataclass(frozen=True)
class ResourceType:
    """attributes: name -> {"type", "required", ...options}; state as in the contract, rest 12."""

    name: str
    attributes: dict[str, dict[str, Any]]
    state: str


@dataclasses.dataclass(frozen=True)
class Resource:
    """One revision of a resource; times are naive UTC.  metrics: name -> metric id, live ones only."""

    id: uuid.UUID
    type: str
    creator: str | None
    user_id: str | None
    project_id: str | None
    original_resource_id: str
    started_at: datetime.datetime
    ended_at: datetime.datetime | None
    revision_start: datetime.datetime
    revision_end: datetime.datetime | None
    attributes: dict[str, Any]
    metrics: dict[str, uuid.UUID]


@dataclasses.dataclass(frozen=True)
class MetricDefinition:
    """A metric to be made.  archive_policy_name None: the rules decide by name."""

    id: uuid.UUID
    archive_policy_name: str | None
    name: str | None = None
    unit: str | None = None
    resource_id: uuid.UUID | None = None


class MetricPolicy(NamedTuple):
    """What processing needs to know of a metric."""

    id: uuid.UUID
    policy_id: uuid.UUID


class Sack(NamedTuple):
    """sequence: number of commits so far; checkpoint: how far the backlog is committed (see incoming)."""

    number: int
    sequence: int
    checkpoint: dict[str, Any]


class SectionRef(NamedTuple):
    """Where a section of an object lies: `length` bytes from `offset` of object `key`."""

    key: str
    offset: int
    length: int


@dataclasses.dataclass(frozen=True)
class Pack:
    """The metrics of one archive policy whose id ends in the `bits` low bits `low`.

    head is None while nothing was committed.  `metrics` and `bytes` describe the head; `delta` is
    reserved for the next format (always None now).
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


@dataclasses.dataclass(frozen=True)
class Block:
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
class SackCommit:
    """Everything one commit changes; made visible in one transaction or not at all.

    sequence : the sack's sequence that was read before; the commit moves it to sequence + 1
    checkpoint : new backlog checkpoint of the sack, or None to leave it
    packs : rows to insert or (same id) replace
    packs_removed : ids of packs that were split
    blocks : rows to insert;  blocks_removed : ids
    garbage : keys of objects that lost a reference in this commit
    """

    sack: int
    sequence: int
    checkpoint: dict[str, Any] | None
    packs: tuple[Pack, ...] = ()
    packs_removed: tuple[uuid.UUID, ...] = ()
    blocks: tuple[Block, ...] = ()
    blocks_removed: tuple[uuid.UUID, ...] = ()
    garbage: tuple[str, ...] = ()
