"""A whole engine in one process, without daemons: index, backlog, store, and the steps between them."""

import uuid

import numpy

from gnocchi import metric_ids
from gnocchi.archive_policy import ArchivePolicy, ArchivePolicyItem
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition
from gnocchi.processing.aggregate import expunge_sack, process_sack
from gnocchi.query.fetch import read_measures


def make_policy(name, pairs, methods, back_window=0):
    """Return an archive policy from pairs of granularity in seconds and points (or None)."""
    items = []
    for seconds, points in pairs:
        granularity = numpy.timedelta64(round(seconds * 10**9), "ns")
        items.append(ArchivePolicyItem(granularity, points, None if points is None else granularity * points))
    return ArchivePolicy(uuid.uuid4(), name, back_window, tuple(items), tuple(sorted(methods)))


def make_measures(ids, series):
    """Return a MeasureBatch of (timestamps in ns, values) for each id."""
    counts = numpy.array([len(times) for times, _ in series], numpy.int64)
    times = [numpy.asarray(t, numpy.int64) for t, _ in series]
    values = [numpy.asarray(v, numpy.float64) for _, v in series]
    return MeasureBatch(metric_ids.pack_ids(ids), counts, numpy.concatenate(times).view("M8[ns]"),
                        numpy.concatenate(values))


class Engine:
    """indexer is upgraded and has `sacks` sacks; incoming and store are ready to use."""

    def __init__(self, indexer, incoming, store, sacks):
        self.indexer = indexer
        self.incoming = incoming
        self.store = store
        self.sacks = sacks

    def create_metrics(self, policy, count=1, ids=None):
        """Create metrics, and their policy when it is new; returns their ids."""
        if policy.name not in {p.name for p in self.indexer.list_archive_policies()}:
            self.indexer.create_archive_policy(policy)
        definitions = [MetricDefinition(i, policy.name) for i in ids or [uuid.uuid4() for _ in range(count)]]
        self.indexer.create_metrics(definitions, "admin")
        return [definition.id for definition in definitions]

    def post(self, ids, series):
        """Accept one request."""
        self.incoming.write_measures(make_measures(ids, series))

    def process(self, measures_max=1_000_000):
        """Process everything; returns the measures refused, by reason."""
        refused = {}
        for number in range(self.sacks):
            complete = False
            while not complete:
                result = process_sack(number, self.incoming, self.indexer, self.store, measures_max)
                complete = result.complete
                for reason, count in result.refused.items():
                    refused[reason] = refused.get(reason, 0) + count
        self.incoming.acknowledge({sack.number: sack.checkpoint for sack in self.indexer.list_sacks()})
        return {reason: count for reason, count in refused.items() if count}

    def read(self, metric_id, method, **arguments):
        """Return {granularity in seconds, or letter: [(ns, value), ...]} of one metric."""
        metric = self.indexer.get_metric(metric_id)
        return {key(s.granularity): list(zip(s.timestamps.view("i8").tolist(), s.values.tolist(), strict=True))
                for s in read_measures(self.store, self.indexer, metric, method, **arguments)}

    def expunge(self):
        """Do what the janitor does for deleted metrics."""
        deleted = self.indexer.list_deleted_metrics(10_000)
        for number in range(self.sacks):
            by_policy = {}
            for metric in deleted:
                if metric.id.int % self.sacks == number:
                    by_policy.setdefault(metric.policy_id, []).append(metric.id)
            expunge_sack(number, {p: metric_ids.pack_ids(i) for p, i in by_policy.items()}, self.indexer, self.store)
        self.indexer.expunge_metrics([metric.id for metric in deleted])


def key(granularity):
    """Return seconds of a span, or the calendar letter itself."""
    if isinstance(granularity, str):
        return granularity
    return int(granularity.astype("m8[ns]").astype(numpy.int64)) / 1e9
