"""Resources, the attributes of their types, and the metrics attached to them."""

import dataclasses
import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer import Metric, MetricDefinition, Resource, ResourceType, pagination
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.metrics import (
    IS_ACTIVE,
    RESOURCE_EXISTS,
    SELECT_METRICS,
    choose_policies,
    chunks,
    decode_metrics,
    insert_metrics,
    utcnow,
)
from gnocchi.indexer.models import DELETE, ORIGINAL_RESOURCE_ID_LENGTH, metric, resource
from gnocchi.indexer.prepared import PreparedSelect
from gnocchi.indexer.resource_types import GENERIC, get_active_type, get_type
from gnocchi.indexer.transactions import Connections, retried

#: What a resource's metrics are given as: the id of one that exists, or what to make.
MetricChoices = Mapping[str, uuid.UUID | MetricDefinition]

SELECT_RESOURCES = sa.select(*resource.c)
GET_RESOURCE = PreparedSelect(SELECT_RESOURCES.where(resource.c.id == sa.bindparam("id")))
LIST_METRIC_IDS = PreparedSelect(
    sa.select(metric.c.name, metric.c.id).where(metric.c.resource_id == sa.bindparam("id"), IS_ACTIVE)
    .order_by(metric.c.name))
LOCK_RESOURCE = sa.select(resource.c.id, resource.c.type, resource.c.creator).where(
    resource.c.id == sa.bindparam("id")).with_for_update()

#: What every list can be sorted by; the attributes of the type are added.
SORT_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    column.name: column for column in (
        resource.c.id, resource.c.type, resource.c.creator, resource.c.started_at, resource.c.ended_at,
        resource.c.revision_start, resource.c.user_id, resource.c.project_id, resource.c.original_resource_id)}


def encode_attribute(value: Any) -> Any:
    """Return the value as it lies in the document: ids and times as text of fixed width, which sorts as they do."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="microseconds")
    return value


def encode_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a resource's attributes; nulls are left out."""
    return {name: encode_attribute(value) for name, value in attributes.items() if value is not None}


def attribute_column(column: sa.ColumnElement[Any], name: str, type: str, dialect: str) -> sa.ColumnElement[Any]:
    """Return the SQL value of one attribute, NULL when it is not set; `column` holds the documents."""
    value: Any = column[name]
    if type == "number":
        return value.as_float()
    text: sa.ColumnElement[Any] = value.as_string()
    if type == "bool":
        if dialect == "mysql":      # as_boolean() makes false of what is missing there
            return sa.case((text == "true", sa.true()), (text == "false", sa.false()))
        return value.as_boolean()
    return text.collate("C") if dialect == "postgresql" else text


def _decode_resource(row: Sequence[Any], metrics: dict[str, uuid.UUID]) -> Resource:
    """Return the resource in a row of SELECT_RESOURCES."""
    return Resource(**dict(zip(resource.c.keys(), row, strict=True)), revision_end=None, metrics=metrics)


class Resources(Connections):

    @retried
    def create_resource(self, type: str, id: uuid.UUID, creator: str | None, *, user_id: str | None = None,
                        project_id: str | None = None, started_at: datetime.datetime | None = None,
                        ended_at: datetime.datetime | None = None, original_resource_id: str | None = None,
                        attributes: Mapping[str, Any] | None = None,
                        metrics: MetricChoices | None = None) -> Resource:
        """Create a resource with its metrics, all or nothing.

        Parameters
        ----------
        type : name of an active resource type
        started_at, ended_at : naive UTC; a start of None means now
        original_resource_id : what the client called it; None: the text of the id
        attributes : values of the type's attributes, checked by the caller
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
            get_active_type(connection, type)
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
    def list_resources(self, type: str = GENERIC, *, limit: int | None = None, marker: uuid.UUID | None = None,
                       sorts: Sequence[str] = ()) -> list[Resource]:
        """Return a page of the resources of a type, or of all types for `generic`.

        Parameters
        ----------
        limit : most resources to return; None: all
        marker : id of the last resource already seen
        sorts : `key[:direction]` each; empty: RESOURCE_SORTS

        Raises
        ------
        NoSuchResourceType
        InvalidPagination
            Unknown key, direction or marker.
        """
        sorts = pagination.effective_sorts(sorts, pagination.RESOURCE_SORTS, ("id",))
        with self.reading() as connection:
            found_type = get_type(connection, type)
            orders = pagination.orders(sorts, self._sort_columns(found_type))
            statement = SELECT_RESOURCES if type == GENERIC else SELECT_RESOURCES.where(resource.c.type == type)
            if marker is not None:
                last = connection.execute(sa.select(*[order.column for order in orders])
                                          .where(resource.c.id == marker)).first()
                if last is None:
                    raise pagination.invalid_marker(marker)
                statement = statement.where(pagination.after(orders, last))
            rows = connection.execute(statement.order_by(*pagination.order_by(orders)).limit(limit)).all()
            metrics = self._list_metric_ids(connection, [row.id for row in rows])
        return [_decode_resource(row, metrics.get(row.id, {})) for row in rows]

    @retried
    def delete_resource(self, type: str, id: uuid.UUID) -> None:
        """Delete a resource and its history; its metrics are marked as deleted.  Raises NoSuchResource."""
        with self.writing() as connection:
            self._lock_resource(connection, type, id)
            connection.execute(sa.update(metric).where(metric.c.resource_id == id)
                               .values(status=DELETE, resource_id=None))
            connection.execute(sa.delete(resource).where(resource.c.id == id))

    @retried
    def list_resource_metrics(self, id: uuid.UUID) -> list[Metric]:
        """Return the live metrics of a resource by name.  Raises NoSuchResource."""
        with self.reading() as connection:
            if connection.execute(RESOURCE_EXISTS, {"id": id}).first() is None:
                raise exceptions.NoSuchResource(id)
            return self._list_metrics(connection, id)

    @retried
    def add_resource_metrics(self, id: uuid.UUID, metrics: MetricChoices) -> list[Metric]:
        """Attach or create metrics, all or none; others of the resource stay.

        New metrics get the resource's creator, and those to attach must have it.

        Returns
        -------
        All metrics of the resource, by name.

        Raises
        ------
        NoSuchResource, NoSuchMetric, NamedMetricAlreadyExists, NoSuchArchivePolicy, NoArchivePolicyRuleMatch,
        InvalidInput
        """
        with self.writing() as connection:
            row = self._lock_resource(connection, GENERIC, id)
            self._add_metrics(connection, id, row.creator, metrics)
            return self._list_metrics(connection, id)

    # ---- parts of transactions

    def _sort_columns(self, type: ResourceType) -> dict[str, sa.ColumnElement[Any]]:
        return SORT_COLUMNS | {
            name: attribute_column(resource.c.attributes, name, options["type"], self.dialect)
            for name, options in type.attributes.items()}

    @staticmethod
    def _lock_resource(connection: sa.Connection, type: str, id: uuid.UUID) -> Any:
        """Keep others from changing a resource or its set of metrics until the transaction ends."""
        row = connection.execute(LOCK_RESOURCE, {"id": id}).first()
        if row is None or type not in (GENERIC, row.type):
            raise exceptions.NoSuchResource(id)
        return row

    def _get_resource(self, connection: sa.Connection, type: str, id: uuid.UUID) -> Resource:
        rows = GET_RESOURCE.fetch(connection, {"id": id})
        if not rows:
            raise exceptions.NoSuchResource(id)
        found = _decode_resource(rows[0], dict(LIST_METRIC_IDS.fetch(connection, {"id": id})))
        if type not in (GENERIC, found.type):
            raise exceptions.NoSuchResource(id)
        return found

    def _list_metric_ids(self, connection: sa.Connection,
                         ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, uuid.UUID]]:
        """Return, for the resources that have any, name -> id of their live metrics."""
        statement = (sa.select(metric.c.resource_id, metric.c.name, metric.c.id)
                     .where(self.in_ids(metric.c.resource_id), IS_ACTIVE).order_by(metric.c.resource_id, metric.c.name))
        found: dict[uuid.UUID, dict[str, uuid.UUID]] = {}
        for part in chunks(ids):
            for resource_id, name, id in connection.execute(statement, {"ids": part}):
                found.setdefault(resource_id, {})[name] = id
        return found

    @staticmethod
    def _list_metrics(connection: sa.Connection, id: uuid.UUID) -> list[Metric]:
        return decode_metrics(connection, connection.execute(
            SELECT_METRICS.where(metric.c.resource_id == id).order_by(metric.c.name)).all())

    def _add_metrics(self, connection: sa.Connection, id: uuid.UUID, creator: str | None,
                     metrics: MetricChoices) -> None:
        """Attach and create metrics on a resource that this transaction has made or locked."""
        if not metrics:
            return
        for name in metrics:
            check_text("Metric name", name)
        attached = {name: choice for name, choice in metrics.items() if isinstance(choice, uuid.UUID)}
        definitions = [dataclasses.replace(choice, name=name, resource_id=id)
                       for name, choice in metrics.items() if isinstance(choice, MetricDefinition)]
        self._check_names(connection, id, metrics, set(attached.values()))
        self._attach_metrics(connection, id, creator, attached)
        insert_metrics(connection, definitions, choose_policies(connection, definitions, creator), creator)

    @staticmethod
    def _check_names(connection: sa.Connection, id: uuid.UUID, metrics: MetricChoices,
                     attached: set[uuid.UUID]) -> None:
        """Raise NamedMetricAlreadyExists for a name that a metric has and keeps."""
        statement = sa.select(metric.c.name, metric.c.id).where(metric.c.resource_id == id)
        taken = {row.name: row.id for row in connection.execute(statement)}
        for name in metrics:
            if name in taken and taken[name] not in attached:
                raise exceptions.NamedMetricAlreadyExists(name)

    def _attach_metrics(self, connection: sa.Connection, id: uuid.UUID, creator: str | None,
                        attached: Mapping[str, uuid.UUID]) -> None:
        ids = sorted(set(attached.values()))
        if len(ids) != len(attached):
            raise exceptions.InvalidInput("A metric is given more than one name")
        same_creator = metric.c.creator.is_(None) if creator is None else metric.c.creator == creator
        for part in chunks(ids):
            found = set(connection.execute(sa.select(metric.c.id).where(
                self.in_ids(metric.c.id), IS_ACTIVE, same_creator).with_for_update(), {"ids": part}).scalars())
            for metric_id in part:
                if metric_id not in found:
                    raise exceptions.NoSuchMetric(metric_id)
            # Off their resources first, so that metrics of one resource can exchange names.
            connection.execute(sa.update(metric).where(self.in_ids(metric.c.id)).values(resource_id=None),
                               {"ids": part})
        if ids:
            connection.execute(
                sa.update(metric).where(metric.c.id == sa.bindparam("metric_id")).values(
                    resource_id=id, name=sa.bindparam("new_name")),
                [{"metric_id": metric_id, "new_name": name} for name, metric_id in attached.items()])
