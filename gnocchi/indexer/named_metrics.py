"""Metrics as protocols know them, by resource and name: finding many, and making them with their resources."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer import MetricDefinition, MetricRow, ResourceDefinition, ResourceType
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.metrics import IS_ACTIVE, Metrics, choose_policies, chunks, insert_metrics, utcnow
from gnocchi.indexer.models import ORIGINAL_RESOURCE_ID_LENGTH, metric, resource
from gnocchi.indexer.resource_attributes import encode_attributes
from gnocchi.indexer.resource_lists import ResourceLists
from gnocchi.indexer.resource_types import share_type
from gnocchi.indexer.transactions import retried

#: Names of metrics told to the database; of more it gives all metrics of a resource.
NAMES_PER_STATEMENT = 500


class NamedMetrics(Metrics, ResourceLists):

    @retried
    def list_named_metrics(
            self, names: Mapping[uuid.UUID, Collection[str]]) -> dict[tuple[uuid.UUID, str], MetricRow]:
        """Find live metrics of many resources by name.

        Parameters
        ----------
        names : resource id -> names wanted; resources need not exist

        Returns
        -------
        (resource id, name) -> metric, for those that there are
        """
        statement = sa.select(metric.c.resource_id, metric.c.name, metric.c.id, metric.c.creator).where(
            self.in_ids(metric.c.resource_id), IS_ACTIVE)
        distinct = set().union(*names.values())
        if len(distinct) <= NAMES_PER_STATEMENT:
            statement = statement.where(metric.c.name.in_(sorted(distinct)))
        with self.reading() as connection:
            return {(row[0], row[1]): MetricRow(row[2].bytes, row[0].bytes, row[1], row[3])
                    for part in chunks(list(names)) for row in connection.execute(statement, {"ids": part})
                    if row[1] in names[row[0]]}

    @retried
    def create_named_metrics(self, type: ResourceType | None, resources: Sequence[ResourceDefinition],
                             metrics: Sequence[MetricDefinition], creator: str | None) -> None:
        """Create resources of one type, and metrics of these or of others, all or nothing.

        The number of statements is constant per 5,000 of either.

        Parameters
        ----------
        type : what attributes were checked against; None if there are no resources

        Raises
        ------
        ResourceAlreadyExists, NamedMetricAlreadyExists, NoSuchResource
        NoSuchResourceType, NoSuchArchivePolicy, NoArchivePolicyRuleMatch
        InvalidInput
            A text is too long; the type is not active.
        ChangedMeanwhile
            The type is not the one that was checked.
        """
        check_text("creator", creator)
        now = utcnow()
        rows: list[dict[str, Any]] = [
            {"id": each.id, "type": type and type.name, "creator": creator, "user_id": each.user_id,
             "project_id": each.project_id, "original_resource_id": each.original_resource_id, "started_at": now,
             "revision_start": now, "ended_at": None, "attributes": encode_attributes(each.attributes)}
            for each in sorted(resources, key=lambda each: each.id)]
        for row in rows:
            check_text("original_resource_id", row["original_resource_id"], ORIGINAL_RESOURCE_ID_LENGTH)
        with self.reading() as connection:      # before the transaction, which keeps other writers waiting
            policies = choose_policies(connection, metrics, creator)
        try:
            with self.writing() as connection:
                if type is not None:
                    share_type(connection, type.name, type)
                for part in chunks(rows):
                    connection.execute(sa.insert(resource), part)
                insert_metrics(connection, metrics, policies, creator)
        except exc.IntegrityError as e:
            made = {each.id for each in resources}
            for found in self.list_resources_by_id(list(made)):
                raise exceptions.ResourceAlreadyExists(found.id) from e
            raise self.explain_conflict([each for each in metrics if each.resource_id not in made]) from e
