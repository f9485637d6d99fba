"""The metrics of resources: parts of transactions that attach, detach and make them."""

import dataclasses
import uuid
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer import Metric, MetricDefinition
from gnocchi.indexer.checks import check_padding, check_text
from gnocchi.indexer.metrics import (
    IS_ACTIVE,
    SELECT_METRICS,
    choose_policies,
    chunks,
    decode_metrics,
    insert_metrics,
)
from gnocchi.indexer.models import metric
from gnocchi.indexer.transactions import Connections, Undone

#: What a resource's metrics are given as: the id of one that exists, or what to make.
MetricChoices = Mapping[str, uuid.UUID | MetricDefinition]


#: Metrics that one statement attaches: each has two more parameters in it, and makes it slower to put together.
ATTACHED_PER_STATEMENT = 1_000


class ResourceMetrics(Connections):

    def _list_metric_ids(self, connection: sa.Connection,
                         ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, dict[str, uuid.UUID]]:
        """Return, for the resources that have any, name -> id of their live metrics."""
        statement = (sa.select(metric.c.resource_id, metric.c.name, metric.c.id)
                     .where(self.in_ids(metric.c.resource_id), IS_ACTIVE).order_by(metric.c.resource_id, metric.c.name))
        found: dict[uuid.UUID, dict[str, uuid.UUID]] = {}
        for part in chunks(ids):
            for resource_id, name, id in connection.execute(statement, {"ids": part}).all():
                found.setdefault(resource_id, {})[name] = id
        return found

    @staticmethod
    def _list_metrics(connection: sa.Connection, id: uuid.UUID) -> list[Metric]:
        return decode_metrics(connection, connection.execute(
            SELECT_METRICS.where(metric.c.resource_id == id).order_by(metric.c.name)).all())

    @staticmethod
    def _detach_metrics(connection: sa.Connection, id: uuid.UUID) -> None:
        """Take all metrics off a resource that this transaction has locked; they live on."""
        connection.execute(sa.update(metric).where(metric.c.resource_id == id).values(resource_id=None))

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
        kept = self._check_names(connection, id, metrics, set(attached.values()))
        try:
            self._attach_metrics(connection, id, creator, attached)
            policies = choose_policies(connection, definitions, creator)
            insert_metrics(connection, definitions, policies, creator)
        except exc.IntegrityError as e:
            check_padding([*kept, *metrics])
            # An archive policy has just been deleted: the next attempt says so.
            raise Undone("index: what new metrics need has gone") from e

    @staticmethod
    def _check_names(connection: sa.Connection, id: uuid.UUID, metrics: MetricChoices,
                     attached: set[uuid.UUID]) -> set[str]:
        """Return the names that metrics have and keep.  Raises NamedMetricAlreadyExists for one that is wanted."""
        statement = sa.select(metric.c.name, metric.c.id).where(metric.c.resource_id == id)
        kept = {row.name for row in connection.execute(statement) if row.id not in attached}
        for name in metrics:
            if name in kept:
                raise exceptions.NamedMetricAlreadyExists(name)
        return kept

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
        names = {metric_id: name for name, metric_id in attached.items()}
        for part in chunks(ids, ATTACHED_PER_STATEMENT):
            # Not by one UPDATE for each, of which MySQL's driver makes a statement each.
            name = sa.case(*((metric.c.id == metric_id, names[metric_id]) for metric_id in part))
            connection.execute(sa.update(metric).where(self.in_ids(metric.c.id)).values(resource_id=id, name=name),
                               {"ids": part})
