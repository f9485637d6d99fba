"""Some sacks: their backlogs become new heads and blocks.  Read this first.

    incoming.read_backlogs ──> route ──> try_packs (pure) ──> prepare_commit ──> indexer.commit_sacks
        a slice of each        by pack    carbonara.advance    objects of all     one transaction, in which
        sack                              for all packs of     are durable        each sack's commit counts or
                                          a policy                                is lost by itself

What all sacks have in common is done once: statements, the transaction, syncs, and the numeric work.  A pack that
cannot be read or processed gets its measures parked (gnocchi.processing.parking) in that commit.
"""

import logging
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.catalogue import Pack, SackCommit, SackContents
from gnocchi.exceptions import CommitLost, CorruptedData, ObjectNotFound
from gnocchi.incoming import Backlog, IncomingDriver
from gnocchi.incoming.batch import concat_batches
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.commit import EncodedPlan, PackPlan, encode_plan, prepare_commit, remember_heads, snapshot
from gnocchi.processing.parking import ToPark, Unprocessable, park
from gnocchi.processing.plan import Posted, try_packs
from gnocchi.processing.route import Share, route
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import HeadParts, apply_delta, contains, empty_head, select_metrics
from gnocchi.storage.object_batch import ObjectBatch
from gnocchi.storage.sections import Section
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

#: Measures taken at once, from all sacks.  Bounds memory: 1 M x 16 bytes are 16 MB, some five times that while sorting.
MEASURES_PER_SLICE = 1_000_000

#: Heads of the sacks taken at once, by what the index says of them; bounds memory, too.
HEAD_BYTES_PER_SLICE = 64 << 20

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


class _Draft:
    """What becomes of one sack.

    lost : CommitLost, once it is known that the commit would be
    """

    def __init__(self, contents: SackContents, backlog: Backlog) -> None:
        self.contents = contents
        self.backlog = backlog
        self.waiting = {row.pack_id: row.reason for row in contents.parked}
        self.refused: Counter = Counter()
        self.plans: list[EncodedPlan] = []
        self.to_park: list[ToPark] = []
        self.lost: CommitLost | None = None
        self.written: list[tuple[Pack, Section]] = []

    def put_off(self, share: Share, reason: Unprocessable) -> None:
        """Have measures parked."""
        self.to_park.append(ToPark(share.pack, share.ids, share.series, str(reason)))
        if share.pack.id not in self.waiting:
            LOG.error("Sack %d: measures of pack %s of archive policy %s are parked until it can be processed: %s",
                      share.number, share.pack.id, share.policy.name, reason, exc_info=reason.__cause__)


#: Told of measures before they are committed: `life_cycle.Activity.note`.
Note = Callable[[Sequence[Share], Indexer], None]


def process_sack(number: int, incoming: IncomingDriver, indexer: Indexer, store: Store,
                 measures_max: int = MEASURES_PER_SLICE, note: Note | None = None) -> Processed:
    """Turn the next slice of one sack's backlog into stored aggregates, as `process_sacks` does.

    Raises CommitLost, BackendUnavailable: then nothing of the slice became visible.
    """
    outcome = process_sacks([number], incoming, indexer, store, measures_max, note)[number]
    if isinstance(outcome, CommitLost):
        raise outcome
    return outcome


def process_sacks(numbers: Sequence[int], incoming: IncomingDriver, indexer: Indexer, store: Store,
                  measures_max: int = MEASURES_PER_SLICE,
                  note: Note | None = None) -> dict[int, Processed | CommitLost]:
    """Turn the next slice of the backlog of each of some sacks into stored aggregates.

    To be called under the sacks' locks; whoever lost one unknowingly loses that sack's commit instead of
    erasing another's points.  Measures leave `incoming` only after everything computed from them is
    durable and visible.

    Returns
    -------
    For each sack what happened: everything, or nothing (CommitLost).  Those for which there was no room are incomplete.

    Raises BackendUnavailable: nothing of the slices became visible, or, if the answer to the commit was lost, all did.
    """
    outcomes: dict[int, Processed | CommitLost] = {}
    drafts = _read_slices(indexer.list_sack_contents(numbers), incoming, measures_max, outcomes)
    if not drafts:
        return outcomes
    routed = route(concat_batches([draft.backlog.batch for draft in drafts.values()]),
                   {number: draft.contents for number, draft in drafts.items()}, indexer.list_metric_policies)
    for number, measures in routed.gone.items():
        if measures:
            drafts[number].refused[METRIC_GONE] += measures
    _plan(routed.shares, drafts, indexer, store)
    if note is not None:
        note(routed.shares, indexer)
    lost = _commit(drafts.values(), indexer, store)
    for number, draft in drafts.items():
        sack, backlog = draft.contents.sack, draft.backlog
        if draft.lost is None and number in lost:
            draft.lost = CommitLost(number, sack.sequence)
        outcomes[number] = draft.lost or Processed(
            backlog.bundles, len(backlog.batch.values), routed.metrics[number], draft.refused, backlog.complete,
            sum(len(share.series.values) for share in draft.to_park))
    return outcomes


def _read_slices(contents: Iterable[SackContents], incoming: IncomingDriver, measures_max: int,
                 outcomes: dict[int, Processed | CommitLost]) -> dict[int, _Draft]:
    """Read backlogs, as many as there is room for; what becomes of the other sacks is noted in `outcomes`."""
    fitting: dict[int, SackContents] = {}
    head_bytes = 0
    for sack in contents:
        head_bytes += sum(pack.bytes for pack in sack.packs)
        if not fitting or head_bytes <= HEAD_BYTES_PER_SLICE:
            fitting[sack.sack.number] = sack
        outcomes[sack.sack.number] = Processed(0, 0, 0, Counter(), complete=False)
    drafts: dict[int, _Draft] = {}
    backlogs = incoming.read_backlogs({number: sack.sack.checkpoint for number, sack in fitting.items()}, measures_max)
    for number, backlog in backlogs.items():
        if backlog is None:
            outcomes[number] = Processed(0, 0, 0, Counter(), complete=True)
        else:
            drafts[number] = _Draft(fitting[number], backlog)
    return drafts


def _plan(shares: Iterable[Share], drafts: Mapping[int, _Draft], indexer: Indexer, store: Store) -> None:
    """Compute and encode what the packs become, and note in the drafts what is to be written, parked or refused."""
    by_policy: dict[uuid.UUID, list[tuple[Share, Posted]]] = {}
    free = []
    for share in shares:
        draft = drafts[share.number]
        if share.pack.id in draft.waiting:
            draft.put_off(share, Unprocessable(draft.waiting[share.pack.id]))
        else:
            free.append(share)
    for share, found in zip(free, store.read_parts_of([share.pack for share in free]), strict=True):
        draft = drafts[share.number]
        if draft.lost is not None:
            continue
        try:
            parts = _check_parts(found, indexer, draft.contents)
        except Unprocessable as e:
            draft.put_off(share, e)
        except CommitLost as e:
            draft.lost = e
        else:
            posted = Posted(share.pack, parts, share.ids, share.series)
            by_policy.setdefault(share.policy.id, []).append((share, posted))
    for of_policy in by_policy.values():
        outcomes = try_packs([posted for _, posted in of_policy], of_policy[0][0].policy.window_policy)
        for (share, _), outcome in zip(of_policy, outcomes, strict=True):
            draft = drafts[share.number]
            if isinstance(outcome, Unprocessable):
                draft.put_off(share, outcome)
            else:
                encoded, late = outcome
                draft.refused[TOO_OLD] += late
                draft.plans.append(encoded)


def _commit(drafts: Iterable[_Draft], indexer: Indexer, store: Store) -> set[int]:
    """Write the objects of all sacks, then commit; return the sacks whose commit was lost."""
    objects = ObjectBatch()
    commits: list[SackCommit] = []
    live = [draft for draft in drafts if draft.lost is None]
    for draft in live:
        contents = draft.contents
        commit, draft.written = prepare_commit(objects, indexer.list_pack_blocks, contents, draft.backlog.checkpoint,
                                               draft.plans)
        commit = park(store, objects, contents, draft.to_park, commit)
        commits.append(replace(commit, hosts=objects.list_hosts(commit.sack)))
    store.write_objects(objects)
    lost = indexer.commit_sacks(commits)
    for draft in live:
        if draft.contents.sack.number not in lost:
            remember_heads(store, draft.plans, draft.written)
    return lost


def read_parts(pack: Pack, indexer: Indexer, store: Store, contents: SackContents) -> HeadParts:
    """Return the head of a pack as it was when its sack was read.

    Raises Unprocessable when it is damaged or missing, CommitLost, BackendUnavailable.
    """
    [found] = store.read_parts_of([pack])
    return _check_parts(found, indexer, contents)


def _check_parts(found: HeadParts | ObjectNotFound | CorruptedData, indexer: Indexer,
                 contents: SackContents) -> HeadParts:
    """Return the head that was found in a store.  Raises Unprocessable, CommitLost when it was not."""
    if isinstance(found, HeadParts):
        return found
    try:
        with snapshot(indexer, contents.sack):
            raise found
    except CorruptedData as e:
        raise Unprocessable(str(e)) from None


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
    plans: list[EncodedPlan] = []
    kept = [numpy.empty(0, metric_ids.DTYPE)]
    for pack in contents.packs:
        ids = ids_by_policy.get(pack.policy_id)
        if ids is None or not pack_rules.owns(pack, ids).any():
            continue
        try:
            if pack.id in parked:
                raise Unprocessable("measures are parked")
            head = apply_delta(*read_parts(pack, indexer, store, contents))
        except Unprocessable as e:
            LOG.warning("Deleted metrics of pack %s stay until it can be processed: %s", pack.id, e)
            kept.append(ids[pack_rules.owns(pack, ids)])
            continue
        dead = contains(numpy.sort(ids), head.ids)
        if dead.any():
            left = select_metrics(head, ~dead)
            # A delta cannot take metrics away.
            plans.append(encode_plan(PackPlan(pack, HeadParts(left, empty_head()), left.ids, {}, keeps_base=False)))
    if plans:
        objects = ObjectBatch()
        commit = prepare_commit(objects, indexer.list_pack_blocks, contents, None, plans).commit
        store.write_objects(objects)
        indexer.commit_sack(commit)
    return Expunged({plan.pack.id for plan in plans}, numpy.concatenate(kept))
