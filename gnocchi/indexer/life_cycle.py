"""The life of metrics and resources by themselves: who still gets measures, what ends, what comes back, what goes.

Each method takes a constant number of statements per 5,000 metrics, and locks types before resources before metrics.
"""

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import sqlalchemy as sa

from gnocchi import metric_ids
from gnocchi.indexer import MetricPolicy
from gnocchi.indexer.metrics import IDS_PER_STATEMENT, IS_ACTIVE, chunks, utcnow
from gnocchi.indexer.models import archive_policy, metric, resource, resource_type, statistics
from gnocchi.indexer.resources import Resources
from gnocchi.indexer.transactions import retried

#: When a metric is known to have been alive: a new one is, whether it has measures or not.
LAST_ALIVE = sa.func.coalesce(metric.c.last_measure_timestamp, metric.c.created_at)
# A literal, since a partial index serves only statements that prove its condition.
NEEDS_TRUNCATION = (metric.c.needs_raw_data_truncation, IS_ACTIVE)

#: Service of the rows in `statistics` that say since when somebody has watched.
WATCH = "watch"


class MetricLife(NamedTuple):
    """stale : whether its last measure is noted too long ago

    resource_id, ended_at : of its resource, if that has ended
    """

    id: uuid.UUID
    stale: bool
    resource_id: uuid.UUID | None
    ended_at: datetime.datetime | None


class LifeCycle(Resources):

    # ---- measures come

    @retried
    def list_metrics_to_note(self, ids: numpy.ndarray, noted_before: datetime.datetime | None) -> list[MetricLife]:
        """Return those live metrics of many that are stale, or whose resource has ended.

        Parameters
        ----------
        ids : ndarray, shape (m,), S16; distinct metric ids (`metric_ids`)
        noted_before : stale are those whose last measure is noted before that; None: none is
        """
        stale = sa.false() if noted_before is None else LAST_ALIVE < sa.bindparam("before")
        statement = (sa.select(metric.c.id, sa.case((stale, 1), else_=0), resource.c.id, resource.c.ended_at)
                     .outerjoin(resource, sa.and_(resource.c.id == metric.c.resource_id,
                                                  resource.c.ended_at.is_not(None)))
                     .where(self.in_ids(metric.c.id), IS_ACTIVE, sa.or_(stale, resource.c.id.is_not(None))))
        parameters = {} if noted_before is None else {"before": noted_before}
        with self.reading() as connection:
            return [MetricLife(id, bool(is_stale), resource_id, ended_at)
                    for start in range(0, len(ids), IDS_PER_STATEMENT)
                    for id, is_stale, resource_id, ended_at in connection.execute(
                        statement, parameters | {"ids": metric_ids.unpack_ids(ids[start:start + IDS_PER_STATEMENT])})]

    @retried
    def note_measures(self, ids: Sequence[uuid.UUID]) -> None:
        """Note that metrics get measures now."""
        with self.writing() as connection:
            for part in chunks(sorted(ids)):
                connection.execute(sa.update(metric).where(self.in_ids(metric.c.id))
                                   .values(last_measure_timestamp=utcnow()), {"ids": part})

    @retried
    def reopen_resources(self, newest: Mapping[uuid.UUID, datetime.datetime]) -> int:
        """Take `ended_at` from resources that ended before their newest measure, and return how many did.

        Their former states become revisions.
        """
        reopened = 0
        with self.writing() as connection:
            for part in chunks(sorted(newest)):
                rows = self._lock_resources(connection, part, resource.c.ended_at.is_not(None))
                ended = [row for row in rows if row.ended_at <= newest[row.id]]
                self._revise_resources(connection, ended, {"ended_at": None})
                reopened += len(ended)
        return reopened

    # ---- no measures come

    @retried
    def keep_watch(self, name: str, gap_max_s: float) -> datetime.datetime:
        """Note that somebody watches now, and return since when that was done without a gap longer than that."""
        now = utcnow()
        row = statistics.c.process == name
        with self.writing() as connection:
            found = connection.execute(sa.select(statistics.c.counters, statistics.c.updated_at).where(row)
                                       .with_for_update()).first()
            since = now
            if found is not None and abs((now - found.updated_at).total_seconds()) <= gap_max_s:
                since = datetime.datetime.fromtimestamp(found.counters["since"], datetime.UTC).replace(tzinfo=None)
            values = {"counters": {"since": since.replace(tzinfo=datetime.UTC).timestamp()}, "updated_at": now}
            if found is None:
                connection.execute(sa.insert(statistics), {"process": name, "service": WATCH, **values})
            else:
                connection.execute(sa.update(statistics).where(row).values(**values))
        return since

    @retried
    def end_inactive_resources(self, inactive_since: datetime.datetime, limit: int) -> int:
        """Set `ended_at` of resources all of whose metrics got no measures since then, and return how many they were.

        Left alone are those without metrics, those that changed since then themselves, and those not yet started.
        """
        now = utcnow()
        has_metrics = sa.exists().where(metric.c.resource_id == resource.c.id)
        condition = sa.and_(
            resource.c.ended_at.is_(None), resource.c.revision_start < inactive_since, resource.c.started_at <= now,
            has_metrics, sa.not_(has_metrics.where(LAST_ALIVE >= inactive_since)))
        with self.reading() as connection:
            ids = connection.execute(sa.select(resource.c.id).where(condition).limit(limit)).scalars().all()
        if not ids:
            return 0
        with self.writing() as connection:
            rows = [row for part in chunks(sorted(ids)) for row in self._lock_resources(connection, part, condition)]
            self._revise_resources(connection, rows, {"ended_at": now})
        return len(rows)

    @retried
    def delete_ended_resources(self, ended_before: datetime.datetime, limit: int) -> int:
        """Delete resources that ended before some time, with history and metrics; return how many they were."""
        condition = resource.c.ended_at < ended_before
        with self.reading() as connection:
            ids = connection.execute(sa.select(resource.c.id).where(condition).order_by(resource.c.ended_at)
                                     .limit(limit)).scalars().all()
        if not ids:
            return 0
        with self.writing() as connection:
            found = [row.id for part in chunks(sorted(ids))
                     for row in self._lock_resources(connection, part, condition)]
            self._delete_resources(connection, found)
        return len(found)

    # ---- the back window shrinks

    @retried
    def list_metrics_to_truncate(self, limit: int, after: uuid.UUID | None = None) -> list[MetricPolicy]:
        """Return metrics that may have more raw measures than their policy wants, by id, beginning after one."""
        statement = sa.select(metric.c.id, metric.c.archive_policy_id).where(*NEEDS_TRUNCATION)
        if after is not None:
            statement = statement.where(metric.c.id > after)
        with self.reading() as connection:
            return [MetricPolicy(*row) for row in connection.execute(statement.order_by(metric.c.id).limit(limit))]

    @retried
    def clear_truncation(self, policy_id: uuid.UUID, back_window: int, ids: Sequence[uuid.UUID]) -> None:
        """Note that metrics of a policy are truncated to a back window, unless that is not the policy's any more."""
        current = sa.select(archive_policy.c.back_window).where(archive_policy.c.id == policy_id)
        with self.writing() as connection:
            if connection.execute(current.with_for_update(read=True)).scalar() != back_window:
                return
            for part in chunks(sorted(ids)):
                connection.execute(
                    sa.update(metric).where(self.in_ids(metric.c.id), metric.c.archive_policy_id == policy_id)
                    .values(needs_raw_data_truncation=False), {"ids": part})

    # ---- parts of transactions

    def _lock_resources(self, connection: sa.Connection, ids: Sequence[uuid.UUID],
                        condition: sa.ColumnElement[bool]) -> Sequence[Any]:
        """Return those of the resources that meet a condition, and keep others from changing them."""
        named = self.in_ids(resource.c.id)
        if self.dialect == "mysql":     # as in `update_resource`
            types = connection.execute(sa.select(resource.c.type).distinct().where(named), {"ids": ids}).scalars().all()
            connection.execute(sa.select(resource_type.c.name).where(resource_type.c.name.in_(types))
                               .order_by(resource_type.c.name).with_for_update(read=True))
        return connection.execute(
            sa.select(resource.c.id, resource.c.revision_start, resource.c.ended_at).where(named, condition)
            .order_by(resource.c.id).with_for_update(), {"ids": ids}).all()
