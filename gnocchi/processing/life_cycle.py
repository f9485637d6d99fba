"""What happens to resources by time alone: those that fall silent end, new measures bring them back, ended ones go.

    process_sacks ──> Activity.note        which metrics get measures;  ended_at goes where newer ones come
    janitor ──> end_inactive_resources     ended_at = now, where no metric got any for long enough
            ──> expire_resources           deleted, long enough after ended_at
"""

import datetime
import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple
from uuid import UUID

import numpy

from gnocchi.indexer.metrics import utcnow
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.route import Share

LOG = logging.getLogger(__name__)

#: How late in seconds it may be noted that a metric gets measures: this, or that part of the time without any after
#: which it counts as inactive.  So metrics are not written at each commit.
NOTED_LATE_MAX_S = 3600.0
NOTED_LATE_SHARE = 8

#: Rows changed in one transaction.
RESOURCES_PER_STEP = 1000

#: Names of rows that tell since when the janitors have watched: with no gap that matters for inactive metrics, and with
#: none that a backlog can have grown in.
WATCH_INACTIVE, WATCH_BACKLOG = "inactive resources", "backlog"

#: Seconds that workers have to catch up with a backlog before anything ends or goes; less where the span is shorter.
CATCH_UP_S = 3600.0


class LifeSpans(NamedTuple):
    """Seconds; 0 or less: never.

    inactive_after_s : without measures, after which a metric is inactive
    cleanup_after_s : after its end, when a resource is deleted
    """

    inactive_after_s: float = 0
    cleanup_after_s: float = 0

    @property
    def noted_late_s(self) -> float:
        return min(NOTED_LATE_MAX_S, self.inactive_after_s / NOTED_LATE_SHARE)


#: By themselves, resources do neither end nor go.
NEVER = LifeSpans()


class Activity:
    """Notes which metrics get measures, where anybody wants to know.

    Parameters
    ----------
    spans : LifeSpans
    """

    def __init__(self, spans: LifeSpans) -> None:
        self._spans = spans

    def note(self, shares: Iterable[Share], indexer: Indexer) -> None:
        """Note that the metrics of some shares get measures; their resources that had ended before begin anew.

        To be called before these measures are committed: whoever dies in between does it again, which changes nothing.

        Raises BackendUnavailable.
        """
        shares = list(shares)
        if not shares or max(self._spans) <= 0:
            return
        ids = numpy.concatenate([share.ids for share in shares])
        newest = numpy.concatenate([_find_newest(share) for share in shares])
        noted_before = None
        if self._spans.inactive_after_s > 0:
            noted_before = _ago(self._spans.noted_late_s)
        found = indexer.list_metrics_to_note(ids, noted_before)
        stale = [row.id for row in found if row.stale]
        if stale:
            indexer.note_measures(stale)
        ended = [row for row in found if row.resource_id is not None]
        if ended:
            self._reopen(ended, dict(zip(_as_bytes(ids), newest.tolist(), strict=True)), indexer)

    @staticmethod
    def _reopen(ended: Iterable, newest: dict[bytes, datetime.datetime], indexer: Indexer) -> None:
        again: dict[UUID, datetime.datetime] = {}
        for row in ended:
            time = newest[row.id.bytes]
            if row.ended_at <= time:
                again[row.resource_id] = max(time, again.get(row.resource_id, time))
        if again:
            LOG.info("%d resources that had ended get measures again", indexer.reopen_resources(again))


def end_inactive_resources(indexer: Indexer, spans: LifeSpans, delay_s: float, stopped: Callable[[], bool]) -> int:
    """End resources none of whose metrics got measures for long enough; return how many.

    Nothing ends before the janitors have watched for as long themselves: measures may have come before the option was
    set, or lie in a backlog of the time when metricd did not run.

    Parameters
    ----------
    delay_s : from one round of the janitor to the next

    Raises BackendUnavailable.
    """
    since = indexer.keep_watch(WATCH_INACTIVE, max(spans.inactive_after_s / 2, _gap_max_s(delay_s)))
    inactive_since = _ago(spans.inactive_after_s + spans.noted_late_s)
    if not _caught_up(indexer, spans.inactive_after_s, delay_s) or since > inactive_since:
        return 0
    return _repeat(lambda: indexer.end_inactive_resources(inactive_since, RESOURCES_PER_STEP), stopped)


def expire_resources(indexer: Indexer, spans: LifeSpans, delay_s: float, stopped: Callable[[], bool]) -> int:
    """Delete resources that ended long enough ago; return how many.

    After a time in which metricd did not run, measures that bring some of them back may lie in the backlog: workers
    come first.

    Raises BackendUnavailable.
    """
    if not _caught_up(indexer, spans.cleanup_after_s, delay_s):
        return 0
    ended_before = _ago(spans.cleanup_after_s)
    return _repeat(lambda: indexer.delete_ended_resources(ended_before, RESOURCES_PER_STEP), stopped)


def _caught_up(indexer: Indexer, span_s: float, delay_s: float) -> bool:
    """Tell whether metricd has run for long enough that what was posted before is aggregated."""
    return indexer.keep_watch(WATCH_BACKLOG, _gap_max_s(delay_s)) <= _ago(min(CATCH_UP_S, span_s))


def _gap_max_s(delay_s: float) -> float:
    """Return the longest time between two rounds of the janitor that is nothing special."""
    return 2 * delay_s + 10


def _ago(seconds: float) -> datetime.datetime:
    return utcnow() - datetime.timedelta(seconds=seconds)


def _repeat(step: Callable[[], int], stopped: Callable[[], bool]) -> int:
    """Take steps while they find as much as they may take."""
    total = 0
    while not stopped():
        done = step()
        total += done
        if done < RESOURCES_PER_STEP:
            break
    return total


def _find_newest(share: Share) -> numpy.ndarray:
    """Return the time of each metric's newest measure, datetime64[us]."""
    series = share.series
    newest = numpy.full(len(share.ids), numpy.iinfo(numpy.int64).min, numpy.int64)
    filled = numpy.flatnonzero(series.offsets[1:] > series.offsets[:-1])
    if len(filled):
        newest[filled] = numpy.maximum.reduceat(series.timestamps.view(numpy.int64), series.offsets[filled])
    return numpy.maximum(newest, 0).view("M8[ns]").astype("M8[us]")


def _as_bytes(ids: numpy.ndarray) -> list[bytes]:
    data = ids.tobytes()
    return [data[i:i + 16] for i in range(0, len(data), 16)]
