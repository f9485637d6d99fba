"""The index: what exists and who owns it, and which stored objects count.

Plain values that cross the border of the index.  `gnocchi.indexer.sqlalchemy.Indexer` is the one
implementation; its queries live in one module per noun.
"""

import dataclasses
import datetime
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from gnocchi.archive_policy import ArchivePolicy
from gnocchi.catalogue import Block, Pack, Parked, Sack, SackCommit, SackContents, SectionRef

__all__ = [
    "CURRENT_REVISION", "ArchivePolicyRule", "Block", "Metric", "MetricDefinition", "MetricPolicy", "MetricRow",
    "Pack", "Parked", "Resource", "ResourceDefinition", "ResourceType", "Sack", "SackCommit", "SackContents",
    "SectionRef",
]


#: What stands for the number of a revision that is still the current one.
CURRENT_REVISION = -1


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
    """One revision of a resource; times are naive UTC.

    attributes : values of all attributes of its type: text (also ids), floats, booleans, naive UTC; None if not set
    metrics : name -> metric id, live ones only; the same in all revisions
    revision : its number, or CURRENT_REVISION
    """

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
    revision: int = CURRENT_REVISION

    def of_revision(self, number: int, end: datetime.datetime) -> "Resource":
        """Return it as the old revision with that number."""
        return dataclasses.replace(self, revision=number, revision_end=end)


@dataclasses.dataclass(frozen=True)
class MetricDefinition:
    """A metric to be made.  archive_policy_name None: the rules decide by name."""

    id: uuid.UUID
    archive_policy_name: str | None
    name: str | None = None
    unit: str | None = None
    resource_id: uuid.UUID | None = None


@dataclasses.dataclass(frozen=True)
class ResourceDefinition:
    """A resource to be made: values of attributes as the index takes them (`resource_type.AttributeChecks`)."""

    id: uuid.UUID
    original_resource_id: str
    attributes: Mapping[str, Any]
    user_id: str | None = None
    project_id: str | None = None


class MetricRow(NamedTuple):
    """A live metric that has a resource, as posting by name needs it; ids as their 16 bytes."""

    id: bytes
    resource_id: bytes
    name: str
    creator: str | None


class MetricPolicy(NamedTuple):
    """What processing needs to know of a metric."""

    id: uuid.UUID
    policy_id: uuid.UUID
