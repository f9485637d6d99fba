"""One sack: its backlog becomes new heads and blocks.  Read this first.

    incoming.read_backlog ──> gather ──> route ──> plan_pack (pure) ──> prepare_commit ──> indexer.commit_sack
         a slice of           by           by       carbonara.advance      objects           one transaction:
         the sack            metric       pack      for the whole pack     are durable       now they count

A pack that cannot be read or processed gets its measures parked (gnocchi.processing.parking) in that commit.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.archive_policy import ArchivePolicy
from gnocchi.carbonara.series import SeriesBatch, cumulate, select, take_ranges
from gnocchi.carbonara.window import WindowPolicy, advance
from gnocchi.catalogue import Pack, SackContents
from gnocchi.exceptions import CorruptedData
from gnocchi.incoming import IncomingDriver
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.commit import EncodedPlan, PackPlan, encode_plan, prepare_commit, snapshot
from gnocchi.processing.parking import ToPark, Unprocessable, park
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import Head, add_metrics, contains, select_metrics
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

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
    parked : int; measures that wait for their pack to be usable again
    """

    bundles: int
    measures: int
    metrics: int
    refused: Counter
    complete: bool
    parked: int = 0


def process_sack(number: int, incoming: IncomingDriver, indexer: Indexer, store: Store,
                 measures_max: int = MEASURES_PER_SLICE) -> Processed:
    """Turn the next slice of a sack's backlog into stored aggregates.

    To be called under the sack's lock; whoever lost it unknowingly loses the commit instead of
    erasing another's points.  Measures leave `incoming` only after everything computed from them is
    durable and visible.

    Raises CommitLost, BackendUnavailable: then nothing of the slice became visible.
    """
    contents = indexer.get_sack_contents(number)
    backlog = incoming.read_backlog(number, contents.sack.checkpoint, measures_max)
    if backlog is None:
        return Processed(0, 0, 0, Counter(), complete=True)
    refused: Counter = Counter()
    plans: list[EncodedPlan] = []
    to_park: list[ToPark] = []
    waiting = {row.pack_id: row.reason for row in contents.parked}
    ids, posted = gather(backlog.batch)
    for pack, policy, metrics, series in route(ids, posted, indexer, contents, refused):
        try:
            if pack.id in waiting:
                raise Unprocessable(waiting[pack.id])
            head = read_head(pack, indexer, store, contents)
            encoded, late = try_pack(pack, head, metrics, series, policy.window_policy)
        except Unprocessable as e:
            to_park.append(ToPark(pack, metrics, series, str(e)))
            if pack.id not in waiting:
                LOG.error("Sack %d: measures of pack %s of archive policy %s are parked until it can be processed: %s",
                          number, pack.id, policy.name, e, exc_info=e.__cause__)
        else:
            refused[TOO_OLD] += late
            plans.append(encoded)
    prepared = prepare_commit(store, indexer.list_pack_blocks, contents, backlog.checkpoint, plans)
    indexer.commit_sack(park(store, contents, to_park, prepared.commit))
    remember_heads(store, plans, prepared.heads)
    return Processed(backlog.bundles, len(backlog.batch.values), len(ids), refused, backlog.complete,
                     sum(len(share.series.values) for share in to_park))


def read_head(pack: Pack, indexer: Indexer, store: Store, contents: SackContents) -> Head:
    """Return the head of a pack as it was when its sack was read.

    Raises Unprocessable when it is damaged or missing, CommitLost, BackendUnavailable.
    """
    try:
        with snapshot(indexer, contents.sack):
            return store.read_head(pack)
    except CorruptedData as e:
        raise Unprocessable(str(e)) from None


def try_pack(pack: Pack, head: Head, ids: numpy.ndarray, series: SeriesBatch,
             policy: WindowPolicy) -> tuple[EncodedPlan, int]:
    """Return what `plan_pack` does, encoded.  Raises Unprocessable."""
    try:
        plan, late = plan_pack(pack, head, ids, series, policy)
        return encode_plan(plan), late
    except MemoryError:
        raise
    except Exception as e:
        # A mistake of ours, or content that no encoder of ours wrote.  No I/O happens here, so it is of this pack
        # alone; nothing is lost, the log shows where it happened, and it is tried again.
        raise Unprocessable(f"{type(e).__name__}: {e}") from e


def remember_heads(store: Store, plans: Iterable[EncodedPlan], heads: Iterable[tuple[Pack, Head]]) -> None:
    """Keep heads that were just committed, and drop those in whose place they are."""
    for encoded in plans:
        if encoded.plan.pack.base is not None:
            store.forget_head(encoded.plan.pack)
    for pack, head in heads:
        store.remember_head(pack, head)


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
    for share in pack_rules.list_free_shares([(pack.bits, pack.low) for pack in stored], contents.sack_bits, number):
        pack = pack_rules.make_pack(number, policy_id, *share)
        if pack_rules.owns(pack, ids).any():
            shares.append(pack)
    return shares


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


class Expunged(NamedTuple):
    """packs : ids of those that had any of the metrics

    kept : ndarray, `S16`; metrics that may still be stored, in packs that cannot be changed at present
    """

    packs: set[uuid.UUID]
    kept: numpy.ndarray


def expunge_sack(number: int, ids_by_policy: Mapping[uuid.UUID, numpy.ndarray], indexer: Indexer,
                 store: Store) -> Expunged:
    """Take deleted metrics (ids: `S16` arrays, in any order) out of the heads of a sack.

    Their rows in blocks cannot be read any more, and go when the blocks are merged.

    To be called under the sack's lock.  Raises as `process_sack` does.
    """
    contents = indexer.get_sack_contents(number)
    parked = {row.pack_id for row in contents.parked}
    plans = []
    kept = [numpy.empty(0, metric_ids.DTYPE)]
    for pack in contents.packs:
        ids = ids_by_policy.get(pack.policy_id)
        if ids is None or not pack_rules.owns(pack, ids).any():
            continue
        try:
            if pack.id in parked:
                raise Unprocessable("measures are parked")
            head = read_head(pack, indexer, store, contents)
        except Unprocessable as e:
            LOG.warning("Deleted metrics of pack %s stay until it can be processed: %s", pack.id, e)
            kept.append(ids[pack_rules.owns(pack, ids)])
            continue
        dead = contains(numpy.sort(ids), head.ids)
        if dead.any():
            left = select_metrics(head, ~dead)
            plans.append(encode_plan(PackPlan(pack, left._replace(changed=numpy.ones(len(left.ids), bool)), {})))
    if plans:
        indexer.commit_sack(prepare_commit(store, indexer.list_pack_blocks, contents, None, plans).commit)
    return Expunged({encoded.plan.pack.id for encoded in plans}, numpy.concatenate(kept))
