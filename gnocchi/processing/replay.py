"""Replay: parked measures are taken, in order, once their pack can be read and processed again."""

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

import numpy

from gnocchi import metric_ids
from gnocchi.carbonara.series import SeriesBatch, select
from gnocchi.catalogue import Pack, Parked, SackContents
from gnocchi.exceptions import CorruptedData
from gnocchi.incoming.batch import concat_batches
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.aggregate import MEASURES_PER_SLICE, METRIC_GONE, TOO_OLD, read_parts
from gnocchi.processing.commit import EncodedPlan, prepare_commit, remember_heads, snapshot
from gnocchi.processing.parking import Unprocessable, group_parked, read_parked
from gnocchi.processing.plan import Posted, try_packs
from gnocchi.processing.route import gather
from gnocchi.storage.head import contains
from gnocchi.storage.object_batch import ObjectBatch
from gnocchi.storage.store import Store

#: Pause after the first failed try in seconds; it doubles with each one, up to the longest.
PAUSE_S = 60
PAUSE_S_MAX = 3600


class Replayed(NamedTuple):
    """What one commit of a replay did.

    measures : int; taken from what is parked;  refused : Counter of reason -> measures not stored
    complete : bool; nothing is parked for this pack any more
    """

    measures: int
    refused: Counter
    complete: bool


def is_due(row: Parked, now: datetime.datetime) -> bool:
    """Tell whether parked measures are to be tried again; `now` is naive UTC."""
    waited_s = sum(min(PAUSE_S * 2 ** attempt, PAUSE_S_MAX) for attempt in range(row.attempts))
    return now >= row.parked_at + datetime.timedelta(seconds=waited_s)


def replay_pack(number: int, pack_id: UUID, indexer: Indexer, store: Store,
                measures_max: int = MEASURES_PER_SLICE) -> Replayed:
    """Aggregate the oldest parked measures of a pack: one section, or as many as have `measures_max` measures.

    To be called under the sack's lock.

    Raises
    ------
    Unprocessable
        The pack still cannot be read or processed, or its parked measures cannot be read.
    CommitLost, BackendUnavailable
        In all cases nothing has changed.
    """
    contents = indexer.get_sack_contents(number)
    rows = group_parked(contents).get(pack_id, [])
    pack = next((pack for pack in contents.packs if pack.id == pack_id), None)
    if not rows or pack is None:
        return Replayed(0, Counter(), complete=True)
    chosen = _choose(rows, measures_max)
    parts = read_parts(pack, indexer, store, contents)
    ids, series, refused = _read_measures(pack, chosen, indexer, store, contents)
    left = contents._replace(parked=tuple(row for row in contents.parked if row not in chosen))
    plans: list[EncodedPlan] = []
    if len(ids):
        [outcome] = try_packs([Posted(pack, parts, ids, series)], contents.policies[pack.policy_id].window_policy)
        if isinstance(outcome, Unprocessable):
            raise outcome
        encoded, refused[TOO_OLD] = outcome
        plans.append(encoded)
    objects = ObjectBatch()
    commit, written = prepare_commit(objects, indexer.list_pack_blocks, left, None, plans)
    if not plans and pack.base is None and len(chosen) == len(rows):
        commit = replace(commit, packs_removed=(pack.id,))      # Nothing was ever stored of it.
    store.write_objects(objects)
    indexer.commit_sack(replace(
        commit, parked_removed=commit.parked_removed + tuple(row.id for row in chosen),
        garbage=tuple(sorted({*commit.garbage, *(row.section.key for row in chosen)}))))
    remember_heads(store, plans, written)
    return Replayed(len(series.values) + refused[METRIC_GONE], refused, len(chosen) == len(rows))


def _choose(rows: Sequence[Parked], measures_max: int) -> list[Parked]:
    """Return as many of the first rows as hold `measures_max` measures, at least one."""
    ends = numpy.cumsum([row.measures for row in rows])
    return list(rows[:max(1, int(numpy.searchsorted(ends, measures_max, side="right")))])


def _read_measures(pack: Pack, rows: Sequence[Parked], indexer: Indexer, store: Store,
                   contents: SackContents) -> tuple[numpy.ndarray, SeriesBatch, Counter]:
    """Return ids and series of the metrics that are still there, and count the measures of others."""
    try:
        with snapshot(indexer, contents.sack):
            batch = concat_batches([read_parked(store, pack, row) for row in rows])
    except CorruptedData as e:
        raise Unprocessable(f"its parked measures cannot be read: {e}") from None
    ids, posted = gather(batch)
    live, policy_ids = indexer.list_metric_policies(ids)
    live = numpy.sort(live[policy_ids == numpy.array(pack.policy_id.bytes, metric_ids.DTYPE)])
    known = contains(live, ids)
    refused: Counter = Counter()
    if not known.all():
        refused[METRIC_GONE] = int(posted.counts[~known].sum())
    return ids[known], select(posted, known), refused
