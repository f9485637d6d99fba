"""Making batches and reading backlogs to the end, for tests of incoming drivers."""

import json
import uuid

import numpy

from gnocchi import metric_ids
from gnocchi.incoming.batch import MeasureBatch


def make_id(sack, number=0):
    """Return a metric id that lies in `sack` for any power of two of sacks above it."""
    return uuid.UUID(int=(number << 64) | sack)


def make_batch(*series):
    """Return a batch of (id, [(ns, value), ...]) pairs."""
    points = [point for _, part in series for point in part]
    return MeasureBatch(
        metric_ids.pack_ids([i for i, _ in series]),
        numpy.array([len(part) for _, part in series], numpy.int64),
        numpy.array([t for t, _ in points], numpy.int64).view("M8[ns]"),
        numpy.array([v for _, v in points], numpy.float64),
    )


def list_series(batch):
    """Return [(id, [(ns, value), ...])]: the inverse of make_batch."""
    points = list(zip(batch.timestamps.view(numpy.int64).tolist(), batch.values.tolist(), strict=True))
    ends = numpy.cumsum(batch.counts)
    starts = ends - batch.counts
    ids = metric_ids.unpack_ids(batch.metric_ids)
    return [(i, points[a:b]) for i, a, b in zip(ids, starts.tolist(), ends.tolist(), strict=True)]


def drain(driver, sack, checkpoint=None, measures_max=1_000_000):
    """Return all series that wait in a sack, slice by slice, and the checkpoint after them."""
    checkpoint = checkpoint or {}
    series = []
    while (backlog := driver.read_backlog(sack, checkpoint, measures_max)) is not None:
        assert backlog.bundles == len(backlog.batch.metric_ids)
        series += list_series(backlog.batch)
        checkpoint = json.loads(json.dumps(backlog.checkpoint))
        if backlog.complete:
            break
    return series, checkpoint


def drain_all(driver, sacks, measures_max=1_000_000):
    """Return {sack: series} and {sack: checkpoint} of everything that waits."""
    drained = {sack: drain(driver, sack, None, measures_max) for sack in range(sacks)}
    return {s: series for s, (series, _) in drained.items()}, {s: point for s, (_, point) in drained.items()}
