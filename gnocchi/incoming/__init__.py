"""The backlog: measures that were accepted and not yet aggregated."""

import abc
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gnocchi.incoming.batch import MeasureBatch

#: What a sack's row in the index remembers of the backlog already committed; JSON-able.
Checkpoint = dict[str, Any]


class Backlog(NamedTuple):
    """A slice of one sack's backlog: a prefix, in stamp order, over all writers.

    batch : MeasureBatch; the bundles one after the other in stamp order, so that of two measures
        with one timestamp the later posted one comes later
    bundles : int; one per request and metric
    checkpoint : where the slice ends; to be committed with what was computed from it
    complete : bool; nothing readable was left behind this slice when it was read
    """

    batch: MeasureBatch
    bundles: int
    checkpoint: Checkpoint
    complete: bool


class SackBacklog(NamedTuple):
    """What waits in one sack, told without reading measures.

    bundles, measures : int;  oldest_ns : int, stamp of the oldest waiting bundle (wall clock, ns)
    """

    bundles: int
    measures: int
    oldest_ns: int


class BacklogReport(NamedTuple):
    """Figures of `/v1/status`: distinct metrics that wait, bundles, and bundles per metric id (or None)."""

    metrics: int
    bundles: int
    bundles_by_metric: dict[str, int] | None


class IncomingDriver(abc.ABC):
    """Durable queue of measures, one lane per sack.

    Checkpoints are kept by the index (in the sack's row), not by the driver; readers pass them in.

    Attributes
    ----------
    wakes : bool
        There is a `wait` that ends as soon as something comes in.
    """

    wakes = False

    @abc.abstractmethod
    def upgrade(self) -> None:
        """Create what the driver needs; may be run any number of times."""

    @abc.abstractmethod
    def write_measures(self, batch: MeasureBatch) -> None:
        """Store a request's measures, all or nothing; on return they survive a crash.

        Safe to call from many threads.  Raises BackendUnavailable: then nothing was accepted.
        """

    @abc.abstractmethod
    def read_backlog(self, sack: int, checkpoint: Checkpoint, measures_max: int) -> Backlog | None:
        """Return the next slice of a sack after `checkpoint`, or None when nothing waits.

        At most `measures_max` measures, but always at least one bundle's worth of progress.
        """

    def read_backlogs(self, checkpoints: Mapping[int, Checkpoint], measures_max: int) -> dict[int, Backlog | None]:
        """Return what `read_backlog` does for each of some sacks; all that takes time may be done for all at once.

        At most `measures_max` measures together, as far as the first one's progress allows.  Those for which there was
        no room are left out.
        """
        found: dict[int, Backlog | None] = {}
        measures = 0
        for sack, checkpoint in checkpoints.items():
            if measures >= measures_max:
                break
            backlog = found[sack] = self.read_backlog(sack, checkpoint, measures_max - measures)
            measures += 0 if backlog is None else len(backlog.batch.values)
        return found

    @abc.abstractmethod
    def list_backlogs(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, SackBacklog]:
        """Return the sacks (of those given) that have something waiting; `checkpoints` holds committed ones."""

    @abc.abstractmethod
    def report_backlog(self, checkpoints: Mapping[int, Checkpoint], details: bool) -> BacklogReport:
        """Return the figures of `/v1/status` over the sacks given; `checkpoints` holds committed ones."""

    @abc.abstractmethod
    def acknowledge(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        """Free what every sack has committed.  `checkpoints` holds the committed ones of ALL sacks."""

    @abc.abstractmethod
    def get_position(self) -> object | None:
        """Return a cheap value that changes whenever something new may be waiting (for polling).

        None when that cannot be told cheaply: then readers look at the backlog itself, less often.
        """

    def wait(self, sacks: Collection[int], timeout_s: float) -> set[int]:
        """Return the sacks, of those given, into which something came since they were last read, once there are any.

        After that time, or sooner, none.  It may be something that others have processed.  Raises BackendUnavailable.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raise BackendUnavailable unless the back end answers.  Cheap.

        For drivers that find their position by asking it; others say how.
        """
        self.get_position()

    def close(self) -> None:
        """Give back files and connections; a writer's data stays readable."""
        return
