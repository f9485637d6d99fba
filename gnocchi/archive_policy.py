"""Archive policies: how a metric's measures are aggregated and for how long aggregates are kept."""

import dataclasses
import uuid

import numpy


@dataclasses.dataclass(frozen=True)
class ArchivePolicyItem:
    """One granularity of a policy.

    granularity : timedelta64[ns], above zero
    points : int or None (unlimited)
    timespan : timedelta64[ns] == granularity * points, or None (unlimited)
    """

    granularity: numpy.timedelta64
    points: int | None
    timespan: numpy.timedelta64 | None


@dataclasses.dataclass(frozen=True)
class ArchivePolicy:
    """id is a surrogate that storage refers to: the name may be deleted and made anew.

    definition keeps the order given; aggregation_methods is the resolved set, sorted.
    """

    id: uuid.UUID
    name: str
    back_window: int
    definition: tuple[ArchivePolicyItem, ...]
    aggregation_methods: tuple[str, ...]

    @property
    def granularities(self) -> tuple[numpy.timedelta64, ...]:
        """The granularities, finest first."""
        return tuple(sorted(item.granularity for item in self.definition))

    @property
    def coarsest(self) -> numpy.timedelta64:
        return self.granularities[-1]

    @property
    def has_rates(self) -> bool:
        return any(method.startswith("rate:") for method in self.aggregation_methods)

    @property
    def window_blocks(self) -> int:
        """W: how many coarsest periods before the newest point's one still accept measures (contract, timeseries 2)."""
        return self.back_window + (1 if self.has_rates else 0)

    def get_item(self, granularity: numpy.timedelta64) -> ArchivePolicyItem | None:
        for item in self.definition:
            if item.granularity == granularity:
                return item
        return None
