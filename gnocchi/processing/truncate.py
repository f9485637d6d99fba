"""Raw measures that a smaller back window leaves no use for."""

import logging
import uuid
from collections.abc import Mapping
from typing import NamedTuple

import numpy

from gnocchi.carbonara.series import empty_batch
from gnocchi.catalogue import Pack, SackContents
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.aggregate import read_parts
from gnocchi.processing.commit import EncodedPlan, prepare_commit
from gnocchi.processing.parking import Unprocessable
from gnocchi.processing.plan import Posted, try_packs
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import HeadParts, contains
from gnocchi.storage.store import ObjectBatch, Store

LOG = logging.getLogger(__name__)


class Truncated(NamedTuple):
    """back_window : to which the metrics of a policy were truncated;  ids : ndarray, `S16`"""

    back_window: int
    ids: numpy.ndarray


def truncate_sack(number: int, ids_by_policy: Mapping[uuid.UUID, numpy.ndarray], indexer: Indexer,
                  store: Store) -> dict[uuid.UUID, Truncated]:
    """Seal and drop what lies before the back window of metrics (ids: `S16` arrays, in any order), for each policy.

    Left out are metrics of packs that cannot be changed at present.

    To be called under the sack's lock.  Raises CommitLost, BackendUnavailable: then nothing has changed.
    """
    contents = indexer.get_sack_contents(number)
    plans: list[EncodedPlan] = []
    done = {policy_id: Truncated(contents.policies[policy_id].back_window, ids)
            for policy_id, ids in ids_by_policy.items() if policy_id in contents.policies}
    for pack in contents.packs:
        if pack.policy_id not in done:
            continue
        truncated = done[pack.policy_id]
        owned = pack_rules.owns(pack, truncated.ids)
        try:
            plans += _plan_pack(pack, numpy.sort(truncated.ids[owned]), contents, indexer, store)
        except Unprocessable as e:
            LOG.warning("Metrics of pack %s keep more raw measures than their policy wants until it can be "
                        "processed: %s", pack.id, e)
            done[pack.policy_id] = truncated._replace(ids=truncated.ids[~owned])
    if plans:
        objects = ObjectBatch()
        commit = prepare_commit(objects, indexer.list_pack_blocks, contents, None, plans).commit
        store.write_objects(objects)
        indexer.commit_sack(commit)
    return done


def _plan_pack(pack: Pack, ids: numpy.ndarray, contents: SackContents, indexer: Indexer,
               store: Store) -> list[EncodedPlan]:
    """Return what a pack becomes, nothing if it holds none of the metrics.  Raises Unprocessable."""
    if not len(ids):
        return []
    if any(row.pack_id == pack.id for row in contents.parked):
        raise Unprocessable("measures are parked")
    parts = read_parts(pack, indexer, store, contents)
    stored = ids[_is_stored(parts, ids)]
    if not len(stored):
        return []
    # Without measures, the window only moves to where the policy wants it now.
    posted = Posted(pack, parts, stored, empty_batch(len(stored)))
    [outcome] = try_packs([posted], contents.policies[pack.policy_id].window_policy)
    if isinstance(outcome, Unprocessable):
        raise outcome
    return [outcome[0]]


def _is_stored(parts: HeadParts, ids: numpy.ndarray) -> numpy.ndarray:
    return contains(parts.base.ids, ids) | contains(parts.delta.ids, ids)
