"""Resources: making, showing, changing and deleting one.  Lists of them: `resource_lists`."""

import datetime
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer import Metric, Resource, ResourceType
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.metrics import IS_ACTIVE, RESOURCE_EXISTS, chunks, utcnow
from gnocchi.indexer.models import (
    DELETE,
    ORIGINAL_RESOURCE_ID_LENGTH,
    metric,
    resource,
    resource_history,
    resource_type,
)
from gnocchi.indexer.prepared import PreparedSelect
from gnocchi.indexer.resource_attributes import decode_attributes, encode_attributes
from gnocchi.indexer.resource_metrics import MetricChoices, ResourceMetrics
from gnocchi.indexer.resource_types import GENERIC, share_type
from gnocchi.indexer.transactions import retried
from gnocchi.indexer.types import TIMESTAMP

#: Columns of a resource that its revisions keep, and those whose change makes a revision.
REVISED = [column.name for column in resource.c if column.computed is None]
CHANGEABLE = ("user_id", "project_id", "started_at", "ended_at")

GET_RESOURCE = PreparedSelect(
    sa.select(*(resource.c[name] for name in REVISED), resource_type.c.attributes.label("type_attributes"))
    .join(resource_type, resource_type.c.name == resource.c.type).where(resource.c.id == sa.bindparam("id")))
LIST_METRIC_IDS = PreparedSelect(
    sa.select(metric.c.name, metric.c.id).where(metric.c.resource_id == sa.bindparam("id"), IS_ACTIVE)
    .order_by(metric.c.name))
LOCK_RESOURCE = (sa.select(*(resource.c[name] for name in REVISED))
                 .where(resource.c.id == sa.bindparam("id")).with_for_update())

#: What decides about the rights to a resource.
OWNERS = ("type", "creator", "user_id", "project_id")

_STATE_TO_KEEP = sa.select(*[resource.c[name] for name in REVISED], sa.bindparam("revision_end", type_=TIMESTAMP))

#: Revisions of one resource begin at different times, however fast they follow each other.
TICK = datetime.timedelta(microseconds=1)


def decode_resource(row: Sequence[Any], attributes: Mapping[str, Mapping[str, Any]],
                    metrics: dict[str, uuid.UUID]) -> Resource:
    """Return the resource in the columns of `resource`, whose type has `attributes`."""
    columns = dict(zip(REVISED, row, strict=True))
    columns["attributes"] = decode_attributes(attributes, columns["attributes"])
    return Resource(**columns, revision_end=None, metrics=metrics)


class Resources(ResourceMetrics):

    @retried
    def create_resource(self, type: str, id: uuid.UUID, creator: str | None, *, user_id: str | None = None,
                        project_id: str | None = None, started_at: datetime.datetime | None = None,
                        ended_at: datetime.datetime | None = None, original_resource_id: str | None = None,
                        attributes: Mapping[str, Any] | None = None, checked: ResourceType | None = None,
                        metrics: MetricChoices | None = None) -> Resource:
        """Create a resource with its metrics, all or nothing.

        Parameters
        ----------
        type : name of an active resource type
        started_at, ended_at : naive UTC; a start of None means now
        original_resource_id : what the client called it; None: the text of the id
        attributes : values of the type's attributes
        checked : the type that the caller has checked them against
        metrics : name -> id of a live metric of the same creator, which is moved and renamed, or definition

        Raises
        ------
        ResourceAlreadyExists, NoSuchResourceType
        NoSuchMetric
            A metric to attach does not exist or is somebody else's.
        NoSuchArchivePolicy, NoArchivePolicyRuleMatch
            For a metric to create.
        InvalidResource, InvalidInput
            It would end before it starts; a text is too long; the type is not active.
        ChangedMeanwhile
            The type is not the one `checked` any more.
        """
        now = utcnow()
        started_at = now if started_at is None else started_at
        if ended_at is not None and started_at > ended_at:
            raise exceptions.InvalidResource("Start timestamp cannot be after end timestamp")
        row: dict[str, Any] = {
            "id": id, "type": type, "creator": creator, "user_id": user_id, "project_id": project_id,
            "original_resource_id": str(id) if original_resource_id is None else original_resource_id,
            "started_at": started_at, "revision_start": now, "ended_at": ended_at,
            "attributes": encode_attributes(attributes or {})}
        for field in ("creator", "user_id", "project_id"):
            check_text(field, row[field])
        check_text("original_resource_id", row["original_resource_id"], ORIGINAL_RESOURCE_ID_LENGTH)
        with self.writing() as connection:
            share_type(connection, type, checked)
            try:
                connection.execute(sa.insert(resource), row)
            except exc.IntegrityError as e:
                raise exceptions.ResourceAlreadyExists(id) from e
            self._add_metrics(connection, id, creator, metrics or {})
            return self._get_resource(connection, type, id)

    @retried
    def get_resource(self, type: str, id: uuid.UUID) -> Resource:
        """Return a resource of a type, or of any type for `generic`.  Raises NoSuchResource."""
        with self.reading() as connection:
            return self._get_resource(connection, type, id)

    @retried
    def update_resource(self, seen: Resource, values: Mapping[str, Any], *, attributes: Mapping[str, Any] | None = None,
                        checked: ResourceType | None = None, metrics: MetricChoices | None = None,
                        same_revision: bool = False) -> Resource:
        """Change a resource, all or nothing.

        Its former state becomes a revision, if that changes anything but metrics.

        Parameters
        ----------
        seen : the resource as it was when it was decided that the caller may change it
        values : new ones of CHANGEABLE
        attributes : new values of the type's attributes; others stay
        checked : the type that the caller has checked them against
        metrics : the ones it shall have instead of those it has, as in `create_resource`; None: they stay
        same_revision : change nothing but the revision that was seen

        Raises
        ------
        NoSuchResource
        NoSuchMetric, NoSuchArchivePolicy, NoArchivePolicyRuleMatch, InvalidInput
            As in `create_resource`.
        InvalidResource
            It would end before it starts.
        ChangedMeanwhile
            Owner, type or, if asked for, revision are not what was seen.
        """
        for field in ("user_id", "project_id"):
            check_text(field, values.get(field))
        with self.writing() as connection:
            # Before the resource: who changes a type locks in this order.  A revision's foreign key needs it on MySQL.
            if attributes or self.dialect == "mysql":
                share_type(connection, seen.type, checked if attributes else None)
            row = self._lock_resource(connection, GENERIC, seen.id, seen, same_revision)
            document = {**row.attributes, **encode_attributes(attributes or {})}
            changes = {name: value for name, value in values.items() if getattr(row, name) != value}
            if document != row.attributes:
                changes["attributes"] = document
            if changes:
                self._add_revision(connection, row, changes)
            if metrics is not None:
                self._detach_metrics(connection, seen.id)
                self._add_metrics(connection, seen.id, row.creator, metrics)
            return self._get_resource(connection, GENERIC, seen.id)

    @retried
    def delete_resource(self, type: str, id: uuid.UUID, seen: Resource | None = None,
                        same_revision: bool = False) -> None:
        """Delete a resource and its history; its metrics are marked as deleted.

        Raises NoSuchResource; ChangedMeanwhile as in `update_resource`, if `seen` is given.
        """
        with self.writing() as connection:
            self._lock_resource(connection, type, id, seen, same_revision)
            self._delete_resources(connection, [id])

    @retried
    def list_resource_metrics(self, id: uuid.UUID) -> list[Metric]:
        """Return the live metrics of a resource by name.  Raises NoSuchResource."""
        with self.reading() as connection:
            if connection.execute(RESOURCE_EXISTS, {"id": id}).first() is None:
                raise exceptions.NoSuchResource(id)
            return self._list_metrics(connection, id)

    @retried
    def add_resource_metrics(self, id: uuid.UUID, metrics: MetricChoices, seen: Resource | None = None) -> list[Metric]:
        """Attach or create metrics, all or none; others of the resource stay.

        New metrics get the resource's creator, and those to attach must have it.

        Returns
        -------
        All metrics of the resource, by name.

        Raises
        ------
        NoSuchResource, NoSuchMetric, NamedMetricAlreadyExists, NoSuchArchivePolicy, NoArchivePolicyRuleMatch,
        InvalidInput
        ChangedMeanwhile
            The owner is not the one that was seen.
        """
        with self.writing() as connection:
            row = self._lock_resource(connection, GENERIC, id, seen)
            self._add_metrics(connection, id, row.creator, metrics)
            return self._list_metrics(connection, id)

    # ---- parts of transactions

    @staticmethod
    def _lock_resource(connection: sa.Connection, type: str, id: uuid.UUID, seen: Resource | None = None,
                       same_revision: bool = False) -> Any:
        """Keep others from changing a resource or its set of metrics until the transaction ends; return its row."""
        row = connection.execute(LOCK_RESOURCE, {"id": id}).first()
        if row is None or type not in (GENERIC, row.type):
            raise exceptions.NoSuchResource(id)
        if seen is not None:
            same = OWNERS + ("revision_start",) if same_revision else OWNERS
            if any(getattr(row, name) != getattr(seen, name) for name in same):
                raise exceptions.ChangedMeanwhile(f"Resource {id}")
        return row

    def _add_revision(self, connection: sa.Connection, row: Any, changes: dict[str, Any]) -> None:
        """Keep the state of a locked resource as a revision, and change it."""
        started_at = changes.get("started_at", row.started_at)
        ended_at = changes.get("ended_at", row.ended_at)
        if ended_at is not None and started_at > ended_at:
            name = "ended_at" if "ended_at" in changes else "started_at"
            raise exceptions.InvalidResource(
                f"Value {changes[name].isoformat()}+00:00 for attribute {name} on resource type {row.type} is invalid")
        self._revise_resources(connection, [row], changes)

    def _revise_resources(self, connection: sa.Connection, rows: Iterable[Any], changes: Mapping[str, Any]) -> None:
        """Keep the states of some locked resources as revisions, and change all alike."""
        now = utcnow()
        by_time: dict[datetime.datetime, list[uuid.UUID]] = {}
        for row in rows:
            # The clock of whoever changed one before may be ahead of ours.
            by_time.setdefault(max(now, row.revision_start + TICK), []).append(row.id)
        named = self.in_ids(resource.c.id)
        for time, ids in by_time.items():
            for part in chunks(ids):
                state = _STATE_TO_KEEP.where(named).order_by(resource.c.id)
                connection.execute(sa.insert(resource_history).from_select([*REVISED, "revision_end"], state),
                                   {"ids": part, "revision_end": time})
                connection.execute(sa.update(resource).where(named).values(**changes, revision_start=time),
                                   {"ids": part})

    def _delete_resources(self, connection: sa.Connection, ids: Sequence[uuid.UUID]) -> None:
        """Delete locked resources and their history; their metrics are marked as deleted."""
        for part in chunks(ids):
            connection.execute(sa.update(metric).where(self.in_ids(metric.c.resource_id))
                               .values(status=DELETE, resource_id=None), {"ids": part})
            connection.execute(sa.delete(resource).where(self.in_ids(resource.c.id)), {"ids": part})

    @staticmethod
    def _get_resource(connection: sa.Connection, type: str, id: uuid.UUID) -> Resource:
        rows = GET_RESOURCE.fetch(connection, {"id": id})
        if not rows:
            raise exceptions.NoSuchResource(id)
        *row, attributes = rows[0]
        found = decode_resource(row, attributes, dict(LIST_METRIC_IDS.fetch(connection, {"id": id})))
        if type not in (GENERIC, found.type):
            raise exceptions.NoSuchResource(id)
        return found
