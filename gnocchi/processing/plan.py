"""What packs become with new measures: computed for all packs of an archive policy together.  Pure, no I/O."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy

from gnocchi.carbonara.series import SeriesBatch, concat, cumulate, slice_buckets
from gnocchi.carbonara.window import WindowPolicy, advance, concat_states, slice_rows
from gnocchi.catalogue import Pack
from gnocchi.processing.commit import EncodedPlan, PackPlan, encode_plan
from gnocchi.processing.parking import Unprocessable
from gnocchi.storage.head import Head, HeadParts, apply_delta, pick_metrics


class Posted(NamedTuple):
    """New measures of a pack, and its head.

    ids : ndarray, shape (m,), `S16`, ascending, unique;  series : SeriesBatch of m series, in order of arrival
    """

    pack: Pack
    parts: HeadParts
    ids: numpy.ndarray
    series: SeriesBatch


def plan_packs(posted: Sequence[Posted], policy: WindowPolicy) -> list[tuple[PackPlan, int]]:
    """Compute what packs of one policy become with new measures, and how many of them were too old.

    Only metrics that got measures are looked at, and those of all packs as one array: what a pack costs by itself
    does not depend on how many metrics it has.
    """
    touched = [pick_metrics(parts, ids) for _, parts, ids, _ in posted]
    series = concat([share.series for share in posted])
    result = advance(concat_states([head.state for head in touched]), series, policy)
    bounds = cumulate([len(share.ids) for share in posted])
    refused = numpy.add.reduceat(result.refused, bounds[:-1]).tolist()
    plans = []
    for share, late, begin, end in zip(posted, refused, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        head = Head(share.ids, slice_rows(result.state, begin, end))
        sealed = {granularity: slice_buckets(buckets, begin, end) for granularity, buckets in result.sealed.items()
                  if buckets.offsets[begin] < buckets.offsets[end]}
        delta = apply_delta(share.parts.delta, head)
        plans.append((PackPlan(share.pack, HeadParts(share.parts.base, delta), share.ids, sealed), late))
    return plans


def try_packs(posted: Sequence[Posted], policy: WindowPolicy) -> list[tuple[EncodedPlan, int] | Unprocessable]:
    """Return what `plan_packs` does, encoded; in the place of a pack for which that fails, why.

    Raises MemoryError.
    """
    try:
        return [(encode_plan(plan), late) for plan, late in plan_packs(posted, policy)]
    except MemoryError:
        raise
    except Exception as e:
        # A mistake of ours, or content that no encoder of ours wrote.  No I/O happens here, so it is of one pack
        # alone; nothing is lost, the log shows where it happened, and it is tried again.
        if len(posted) > 1:
            return [outcome for share in posted for outcome in try_packs([share], policy)]
        error = Unprocessable(f"{type(e).__name__}: {e}")
        error.__cause__ = e
        return [error]
