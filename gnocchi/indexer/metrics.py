"""Metrics: who made them, what they are called, which archive policy they follow."""

import datetime
import functools
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy
import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions, metric_ids
from gnocchi.archive_policy import ArchivePolicy
from gnocchi.indexer import ArchivePolicyRule, Metric, MetricDefinition, MetricPolicy, pagination
from gnocchi.indexer.archive_policies import (
    SELECT_RULES,
    decode_policy,
    list_policies_by_id,
    list_policies_by_name,
    match_archive_policy,
)
from gnocchi.indexer.checks import check_padding, check_text
from gnocchi.indexer.filters import Filter
from gnocchi.indexer.models import ACTIVE, DELETE, UNIT_LENGTH, archive_policy, metric, resource
from gnocchi.indexer.prepared import PreparedSelect, PreparedWrite
from gnocchi.indexer.transactions import Connections, Undone, in_ids, retried
from gnocchi.indexer.visible_metrics import WITH_RESOURCE, VisibleMetrics

T = TypeVar("T")

#: Ids named in one statement.  SQLite takes 32,766 parameters; larger statements are no faster.
IDS_PER_STATEMENT = 5_000

METRIC_COLUMNS = (metric.c.id, metric.c.archive_policy_id, metric.c.creator, metric.c.name, metric.c.unit,
                  metric.c.resource_id)
IS_ACTIVE = metric.c.status == sa.literal_column(f"'{ACTIVE}'")
# A literal, since a partial index serves only statements that prove its condition.
IS_DELETED = metric.c.status == sa.literal_column(f"'{DELETE}'")

SELECT_METRICS = sa.select(*METRIC_COLUMNS).where(IS_ACTIVE)
SELECT_METRICS_WITH_POLICY = sa.select(*METRIC_COLUMNS, *archive_policy.c).join(archive_policy).where(IS_ACTIVE)
GET_METRIC = PreparedSelect(SELECT_METRICS_WITH_POLICY.where(metric.c.id == sa.bindparam("id")))
GET_RESOURCE_METRIC = PreparedSelect(SELECT_METRICS_WITH_POLICY.where(
    metric.c.resource_id == sa.bindparam("resource_id"), metric.c.name == sa.bindparam("name")))
INSERT_METRIC = PreparedWrite(sa.insert(metric), (
    "id", "archive_policy_id", "creator", "name", "unit", "resource_id", "status", "created_at",
    "needs_raw_data_truncation"))
RESOURCE_EXISTS = sa.select(resource.c.id).where(resource.c.id == sa.bindparam("id"))

#: What a list can be sorted by.
SORT_COLUMNS: dict[str, sa.ColumnElement[Any]] = {
    "id": metric.c.id, "name": metric.c.name, "unit": metric.c.unit, "creator": metric.c.creator,
    "resource_id": metric.c.resource_id, "archive_policy_name": archive_policy.c.name, "status": metric.c.status,
    "needs_raw_data_truncation": metric.c.needs_raw_data_truncation,
    "last_measure_timestamp": metric.c.last_measure_timestamp,
}

#: What a list can be filtered by, as equal to one value.
FILTER_COLUMNS = {key: SORT_COLUMNS[key] for key in
                  ("id", "name", "unit", "creator", "resource_id", "archive_policy_name")}


@functools.cache
def prepare_list_by_id(dialect: str) -> PreparedSelect:
    """Return the statement that finds live metrics by `ids`, for a kind of database."""
    return PreparedSelect(SELECT_METRICS.where(in_ids(dialect, metric.c.id)))


def utcnow() -> datetime.datetime:
    """Return the time as the index stores it: naive UTC."""
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def chunks(values: Sequence[T], size: int = IDS_PER_STATEMENT) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), size):
        yield values[start:start + size]


def _decode_metric(row: Any) -> Metric:
    """Return the metric in a row of SELECT_METRICS_WITH_POLICY."""
    id, _, creator, name, unit, resource_id, *policy = row
    return Metric(id=id, archive_policy=decode_policy(*policy), creator=creator, name=name, unit=unit,
                  resource_id=resource_id)


def decode_metrics(connection: sa.Connection, rows: Sequence[Any]) -> list[Metric]:
    """Return the metrics in rows of SELECT_METRICS, with one statement for their policies.

    A policy is decoded once, not once per metric.
    """
    policies = list_policies_by_id(connection, {row[1] for row in rows}) if rows else {}
    return [Metric(id=id, archive_policy=policies[policy_id], creator=creator, name=name, unit=unit,
                   resource_id=resource_id)
            for id, policy_id, creator, name, unit, resource_id in rows
            if policy_id in policies]       # policy and metric may both have gone in between


def choose_policies(connection: sa.Connection, definitions: Sequence[MetricDefinition],
                    creator: str | None) -> list[ArchivePolicy]:
    """Check definitions, and return the policy of each, with two statements at most, whatever their number.

    Raises InvalidInput, NamedMetricAlreadyExists, NoSuchArchivePolicy, NoArchivePolicyRuleMatch.
    """
    if not definitions:
        return []
    _check_definitions(definitions, creator)
    names = {d.archive_policy_name for d in definitions}
    rules = []
    if None in names:
        rules = [ArchivePolicyRule(*row) for row in connection.execute(SELECT_RULES)]
    chosen = [match_archive_policy(rules, d.name) if d.archive_policy_name is None else d.archive_policy_name
              for d in definitions]
    policies = list_policies_by_name(connection, set(chosen))
    for name in chosen:
        if name not in policies:
            raise exceptions.NoSuchArchivePolicy(name)
    return [policies[name] for name in chosen]


def insert_metrics(connection: sa.Connection, definitions: Sequence[MetricDefinition],
                   policies: Sequence[ArchivePolicy], creator: str | None) -> list[Metric]:
    """Insert metrics with the policies that `choose_policies` gave, with one statement, whatever their number.

    Raises IntegrityError, which `Metrics.explain_conflict` tells apart after the transaction.
    """
    if not definitions:
        return []
    now = utcnow()
    INSERT_METRIC.execute(connection, [
        {"id": d.id, "archive_policy_id": policy.id, "creator": creator, "name": d.name, "unit": d.unit,
         "resource_id": d.resource_id, "status": ACTIVE, "created_at": now, "needs_raw_data_truncation": False}
        for d, policy in zip(definitions, policies, strict=True)])
    return [Metric(id=d.id, archive_policy=policy, creator=creator, name=d.name, unit=d.unit,
                   resource_id=d.resource_id)
            for d, policy in zip(definitions, policies, strict=True)]


def _check_definitions(definitions: Sequence[MetricDefinition], creator: str | None) -> None:
    check_text("Creator", creator)
    taken = set()
    for definition in definitions:
        check_text("Metric name", definition.name)
        check_text("Unit", definition.unit, UNIT_LENGTH)
        if definition.resource_id is not None:
            if definition.name is None:
                raise exceptions.InvalidInput("A metric of a resource needs a name")
            key = (definition.resource_id, definition.name)
            if key in taken:
                raise exceptions.NamedMetricAlreadyExists(definition.name)
            taken.add(key)


class Metrics(Connections):

    @retried
    def create_metrics(self, definitions: Sequence[MetricDefinition], creator: str | None) -> list[Metric]:
        """Create metrics, all or none, and return them in the order given.

        Raises
        ------
        NoSuchArchivePolicy, NoArchivePolicyRuleMatch, NoSuchResource
            For the first definition that needs what does not exist.
        NamedMetricAlreadyExists
            The resource has a metric of that name, or two definitions give it one.
        InvalidInput
            A text is too long.
        """
        with self.reading() as connection:      # before the transaction, which keeps other writers waiting
            policies = choose_policies(connection, definitions, creator)
        try:
            with self.writing() as connection:
                return insert_metrics(connection, definitions, policies, creator)
        except exc.IntegrityError as e:
            raise self.explain_conflict(definitions) from e

    def explain_conflict(self, definitions: Sequence[MetricDefinition]) -> Exception:
        """Return the error to raise for definitions that broke a constraint when they were inserted."""
        wanted = {d.resource_id for d in definitions if d.resource_id is not None}
        with self.reading() as connection:
            resources = {row.id for part in chunks(sorted(wanted)) for row in connection.execute(
                sa.select(resource.c.id).where(self.in_ids(resource.c.id)), {"ids": part})}
            taken = {(row.resource_id, row.name) for part in chunks(sorted(wanted)) for row in connection.execute(
                sa.select(metric.c.resource_id, metric.c.name).where(self.in_ids(metric.c.resource_id)),
                {"ids": part})}
            ids = {row.id for part in chunks([d.id for d in definitions]) for row in connection.execute(
                sa.select(metric.c.id).where(self.in_ids(metric.c.id)), {"ids": part})}
        for definition in definitions:
            if definition.resource_id is not None and definition.resource_id not in resources:
                return exceptions.NoSuchResource(definition.resource_id)
            if (definition.resource_id, definition.name) in taken:
                return exceptions.NamedMetricAlreadyExists(definition.name)
            if definition.resource_id is not None:
                names = [name for resource_id, name in taken if resource_id == definition.resource_id]
                mine = [each.name for each in definitions if each.resource_id == definition.resource_id]
                check_padding([*names, *mine])
            if definition.id in ids:
                return exceptions.Conflict(f"Metric {definition.id} already exists")
        return Undone("index: what stood in the way of new metrics has gone again")     # so it is worth another try

    @retried
    def get_metric(self, id: uuid.UUID) -> Metric:
        """Return a live metric.  Raises NoSuchMetric."""
        rows = self.fetch(GET_METRIC, {"id": id})
        if not rows:
            raise exceptions.NoSuchMetric(id)
        return _decode_metric(rows[0])

    @retried
    def get_resource_metric(self, resource_id: uuid.UUID, name: str) -> Metric:
        """Return the live metric of that name of a resource.

        Raises NoSuchMetric with the name, or NoSuchResource when there is no such resource at all.
        """
        with self.reading() as connection:
            rows = GET_RESOURCE_METRIC.fetch(connection, {"resource_id": resource_id, "name": name})
            if not rows:
                if connection.execute(RESOURCE_EXISTS, {"id": resource_id}).first() is None:
                    raise exceptions.NoSuchResource(resource_id)
                raise exceptions.NoSuchMetric(name)
        return _decode_metric(rows[0])

    @retried
    def list_metrics_by_id(self, ids: Sequence[uuid.UUID]) -> list[Metric]:
        """Return the live metrics among those named, in no order."""
        statement = prepare_list_by_id(self.dialect)
        with self.reading() as connection:
            return decode_metrics(connection, [
                row for part in chunks(ids) for row in statement.fetch(connection, {"ids": part})])

    @retried
    def list_metrics(self, filters: Mapping[str, Any] | None = None, *, limit: int | None = None,
                     marker: uuid.UUID | None = None, sorts: Sequence[str] = (),
                     visible: Filter | None = None) -> list[Metric]:
        """Return a page of the live metrics.

        Parameters
        ----------
        filters : the keys of FILTER_COLUMNS with the value to equal; ids are UUIDs
        limit : most metrics to return; None: all
        marker : id of the last metric already seen
        sorts : `key[:direction]` each; empty: by id.  `pagination.effective_sorts(sorts, METRIC_SORTS,
            ("id",))` tells the order that results.
        visible : what the caller may see at all, of `visible_metrics.visible_fields`; a marker must be among it

        Raises
        ------
        InvalidPagination
            Unknown key, direction or marker.
        """
        orders = pagination.orders(
            pagination.effective_sorts(sorts, pagination.METRIC_SORTS, ("id",)), SORT_COLUMNS)
        statement = SELECT_METRICS
        if any(order.key == "archive_policy_name" for order in orders) or "archive_policy_name" in (filters or {}):
            statement = statement.join(archive_policy)
        for key, value in (filters or {}).items():
            column = FILTER_COLUMNS[key]
            statement = statement.where(column.is_(None) if value is None else column == value)
        seen = None if visible is None else VisibleMetrics(visible, self.dialect)
        with self.reading() as connection:
            if seen is not None:
                statement = seen.restrict(connection, statement)
            if marker is not None:
                values = sa.select(*[order.column for order in orders]).select_from(WITH_RESOURCE.join(archive_policy))
                last = connection.execute(values.where(
                    metric.c.id == marker, IS_ACTIVE, sa.true() if seen is None else seen.condition)).first()
                if last is None:
                    raise pagination.invalid_marker(marker)
                statement = statement.where(pagination.after(orders, last))
            rows = connection.execute(statement.order_by(*pagination.order_by(orders)).limit(limit)).all()
            return decode_metrics(connection, rows)

    @retried
    def delete_metrics(self, ids: Sequence[uuid.UUID]) -> None:
        """Mark live metrics as deleted, all or none, and take them off their resources; the janitor does the rest.

        Raises NoSuchMetric.
        """
        with self.writing() as connection:
            for part in chunks(sorted(set(ids))):
                live = {row.id for row in connection.execute(
                    sa.select(metric.c.id).where(self.in_ids(metric.c.id), IS_ACTIVE).with_for_update(),
                    {"ids": part})}
                for id in part:
                    if id not in live:
                        raise exceptions.NoSuchMetric(id)
                connection.execute(sa.update(metric).where(self.in_ids(metric.c.id))
                                   .values(status=DELETE, resource_id=None), {"ids": part})

    @retried
    def list_deleted_metrics(self, limit: int, after: uuid.UUID | None = None) -> list[MetricPolicy]:
        """Return metrics marked as deleted whose data may still be stored, by id, beginning after one."""
        statement = sa.select(metric.c.id, metric.c.archive_policy_id).where(IS_DELETED)
        if after is not None:
            statement = statement.where(metric.c.id > after)
        with self.reading() as connection:
            return [MetricPolicy(*row) for row in connection.execute(statement.order_by(metric.c.id).limit(limit))]

    @retried
    def expunge_metrics(self, ids: Sequence[uuid.UUID]) -> None:
        """Forget metrics that are marked as deleted; others among the ids are left alone."""
        with self.writing() as connection:
            for part in chunks(ids):
                connection.execute(sa.delete(metric).where(self.in_ids(metric.c.id), IS_DELETED), {"ids": part})

    @retried
    def list_policy_metrics(self, policy_id: uuid.UUID) -> numpy.ndarray:
        """Return the ids (`S16`, ascending) of all live metrics of an archive policy."""
        statement = sa.select(metric.c.id).where(metric.c.archive_policy_id == policy_id, IS_ACTIVE)
        with self.reading() as connection:
            return numpy.sort(metric_ids.pack_ids(connection.execute(statement).scalars()))
