"""Who decides what the sender of measures may do."""

from collections.abc import Collection, Sequence

from gnocchi.exceptions import ClientError
from gnocchi.indexer import MetricDefinition, MetricRow, Resource, ResourceDefinition
from gnocchi.ingest.batch import WantedMetric


class Guard:
    """Permits everything, as daemons need it; subclasses raise what the sender shall be told."""

    def check_refusals(self, refused: Sequence[tuple[WantedMetric, ClientError]]) -> None:
        """Called with the metrics that cannot be had, before anything is done for the others."""

    def check_new_resources(self, type: str, resources: Sequence[ResourceDefinition]) -> None:
        """Called before resources of a type are made."""

    def check_new_metrics(self, resources: Sequence[Resource], metrics: Sequence[MetricDefinition]) -> None:
        """Called before metrics are made; `resources` are those of them that exist, without attributes."""

    def check_posting(self, found: Collection[MetricRow], made: Sequence[MetricDefinition]) -> None:
        """Called before measures are posted to metrics that exist, and to those that are going to be made."""


PERMIT_ALL = Guard()
