"""One sack: its backlog becomes new heads and blocks.  Read this first.

    incoming.read_backlog ──> gather ──> route ──> plan_pack (pure) ──> prepare_commit ──> indexer.commit_sack
         a slice of           by           by       carbonara.advance      objects           one transaction:
         the sack            metric       pack      for the whole pack     are durable       now they count
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.archive_policy import ArchivePolicy
from gnocchi.carbonara.series import SeriesBatch, cumulate, select, take_ranges
from gnocchi.carbonara.window import WindowPolicy, advance
from gnocchi.catalogue import Pack, SackContents
from gnocchi.incoming import IncomingDriver
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.commit import PackPlan, prepare_commit, snapshot
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import Head, add_metrics, contains, select_metrics
from gnocchi.storage.store import Store

#: Measures taken from a sack at once.  Bounds memory: 1 M x 16 bytes are 16 MB, some five times that while sorting.
MEASURES_PER_SLICE = 1_000_000

#: Why a measure was not stored.
TOO_OLD = "too old"
METRIC_GONE = "metric gone"


class Processed(NamedTuple):
    """What one slice of a sack's backlog came to.

    bundles, measures, metrics : int; taken from the backlog
    refused : Counter of reason -> measures that were not stored
    complete : bool; nothing was left behind the slice when it was read
    """

    bundles: int
    measures: int
    metrics: int
    refused: Counter
    complete: bool


def process_sack(number: int, incoming: IncomingDriver, indexer: Indexer, store: Store,
                 measures_max: int = MEASURES_PER_SLICE) -> Processed:
    """Turn the next slice of a sack's backlog into stored aggregates.

    To be called under the sack's lock; whoever lost it unknowingly loses the commit instead of
    erasing another's points.  Measures leave `incoming` only after everything computed from them is
    durable and visible.

    Raises CommitLost, CorruptedData, BackendUnavailable: then nothing of the slice became visible.
    """
    contents = indexer.get_sack_contents(number)
    backlog = incoming.read_backlog(number, contents.sack.checkpoint, measures_max)
    if backlog is None:
        return Processed(0, 0, 0, Counter(), complete=True)
    refused: Counter = Counter()
    plans = []
    ids, posted = gather(backlog.batch)
    for pack, policy, metrics, series in route(ids, posted, indexer, contents, refused):
        with snapshot(indexer, contents.sack):
            head = store.read_head(pack)
        plan, late = plan_pack(pack, head, metrics, series, policy.window_policy)
        refused[TOO_OLD] += late
        plans.append(plan)
    prepared = prepare_commit(store, indexer.list_pack_blocks, contents, backlog.checkpoint, plans)
    indexer.commit_sack(prepared.commit)
    for plan in plans:
        if plan.pack.base is not None:
            store.forget_head(plan.pack)
    for pack, head in prepared.heads:
        store.remember_head(pack, head)
    return Processed(backlog.bundles, len(backlog.batch.values), len(ids), refused, backlog.complete)


def gather(batch: MeasureBatch) -> tuple[numpy.ndarray, SeriesBatch]:
    """Put the measures of each metric side by side, in the order of their arrival.

    Returns
    -------
    ids : ndarray, shape (m,), `S16`, ascending, unique
    series : SeriesBatch of m series, not sorted by time
    """
    ids, rows = numpy.unique(batch.metric_ids, return_inverse=True)
    bundles = SeriesBatch(cumulate(batch.counts), batch.timestamps, batch.values)
    ordered = select(bundles, numpy.argsort(rows, kind="stable"))
    counts = numpy.bincount(rows, weights=batch.counts, minlength=len(ids)).astype(numpy.int64)
    return ids, SeriesBatch(cumulate(counts), ordered.timestamps, ordered.values)


def route(ids: numpy.ndarray, posted: SeriesBatch, indexer: Indexer, contents: SackContents,
          refused: Counter) -> Iterator[tuple[Pack, ArchivePolicy, numpy.ndarray, SeriesBatch]]:
    """Yield each pack that gets measures, its policy, and the ids and series that fall to it.

    Measures of metrics that are no longer there are counted in `refused`.
    """
    live, policy_ids = indexer.list_metric_policies(ids)
    order = numpy.argsort(live)
    live, policy_ids = live[order], policy_ids[order]
    known = contains(live, ids)
    gone = int(numpy.diff(posted.offsets)[~known].sum())
    if gone:
        refused[METRIC_GONE] += gone
    posted, policies = select(posted, known), contents.policies
    for policy_id in metric_ids.unpack_ids(numpy.unique(policy_ids)):
        of_policy = policy_ids == numpy.array(policy_id.bytes, metric_ids.DTYPE)
        for pack in list_shares(contents, policy_id, live[of_policy]):
            mine = of_policy & pack_rules.owns(pack, live)
            if mine.any():
                yield pack, policies[policy_id], live[mine], select(posted, mine)


def list_shares(contents: SackContents, policy_id: uuid.UUID, ids: numpy.ndarray) -> list[Pack]:
    """Return the stored packs of a policy, and new ones for the ids that none of them owns.

    A pack whose last metric went is not stored: another takes its place, of as few bits as lie beside the others.
    """
    number = contents.sack.number
    stored = [pack for pack in contents.packs if pack.policy_id == policy_id]
    shares = list(stored)
    for share in _free_shares(stored, contents.sack_bits, number):
        pack = pack_rules.make_pack(number, policy_id, *share)
        if pack_rules.owns(pack, ids).any():
            shares.append(pack)
    return shares


def _free_shares(stored: list[Pack], bits: int, low: int) -> list[tuple[int, int]]:
    """Return the largest (bits, low) below the given one that no stored pack touches."""
    inside = [pack for pack in stored if pack.bits >= bits and pack.low & ((1 << bits) - 1) == low]
    if not inside:
        return [(bits, low)]
    if any(pack.bits == bits for pack in inside):
        return []
    return _free_shares(inside, bits + 1, low) + _free_shares(inside, bits + 1, low | 1 << bits)


def plan_pack(pack: Pack, head: Head, ids: numpy.ndarray, series: SeriesBatch,
              policy: WindowPolicy) -> tuple[PackPlan, int]:
    """Compute what a pack becomes with new measures, and how many of them were too old.

    Parameters
    ----------
    pack : Pack
    head : Head of any metrics
    ids : ndarray, shape (k,), `S16`, ascending, unique
    series : SeriesBatch of the k metrics, in order of arrival
    policy : WindowPolicy
    """
    head = add_metrics(head, ids)
    rows = numpy.searchsorted(head.ids, ids)
    begins = numpy.zeros(len(head.ids), numpy.int64)
    ends = begins.copy()
    begins[rows], ends[rows] = series.offsets[:-1], series.offsets[1:]
    result = advance(head.state, take_ranges(series, begins, ends), policy)
    changed = head.changed | (result.state.accept_from.view("i8") != head.state.accept_from.view("i8"))
    changed[rows] = True
    return PackPlan(pack, Head(head.ids, result.state, changed), result.sealed), int(result.refused.sum())


def expunge_sack(number: int, ids_by_policy: Mapping[uuid.UUID, numpy.ndarray], indexer: Indexer,
                 store: Store) -> set[uuid.UUID]:
    """Take deleted metrics (ids: `S16` arrays, in any order) out of the heads of a sack; return the packs that had any.

    Their rows in blocks cannot be read any more, and go when the blocks are merged.

    To be called under the sack's lock.  Raises as `process_sack` does.
    """
    contents = indexer.get_sack_contents(number)
    plans = []
    for pack in contents.packs:
        ids = ids_by_policy.get(pack.policy_id)
        if ids is None or not pack_rules.owns(pack, ids).any():
            continue
        with snapshot(indexer, contents.sack):
            head = store.read_head(pack)
        dead = contains(numpy.sort(ids), head.ids)
        if dead.any():
            left = select_metrics(head, ~dead)
            plans.append(PackPlan(pack, left._replace(changed=numpy.ones(len(left.ids), bool)), {}))
    if not plans:
        return set()
    prepared = prepare_commit(store, indexer.list_pack_blocks, contents, None, plans)
    indexer.commit_sack(prepared.commit)
    return {plan.pack.id for plan in plans}
