"""Which measures of some sacks' backlogs fall to which pack."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.archive_policy import ArchivePolicy
from gnocchi.carbonara.series import SeriesBatch, cumulate, select, slice_series
from gnocchi.catalogue import Pack, SackContents
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.head import contains

#: Finds live metrics, and the archive policy of each: `Indexer.list_metric_policies`.
ListMetricPolicies = Callable[[numpy.ndarray], tuple[numpy.ndarray, numpy.ndarray]]


class Share(NamedTuple):
    """What falls to one pack.

    ids : ndarray, shape (m,), `S16`, ascending, unique;  series : SeriesBatch of m series, in order of arrival
    """

    number: int
    pack: Pack
    policy: ArchivePolicy
    ids: numpy.ndarray
    series: SeriesBatch


class Routed(NamedTuple):
    """shares : by archive policy, then by sack

    metrics, gone : metrics that had measures, and measures of metrics that are no longer there, by sack
    """

    shares: list[Share]
    metrics: dict[int, int]
    gone: dict[int, int]


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


def route(batch: MeasureBatch, contents: Mapping[int, SackContents], list_metric_policies: ListMetricPolicies
          ) -> Routed:
    """Find the pack of each metric, for all sacks at once: nothing but packs is looked at one by one.

    Parameters
    ----------
    batch : MeasureBatch
        The bundles of each sack in the order of their arrival.
    contents : the sacks whose backlogs these are
    """
    sacks = next(iter(contents.values())).sacks
    ids, posted = gather(batch)
    numbers = metric_ids.sack_numbers(ids, sacks)
    live, policy_ids = list_metric_policies(ids)
    order = numpy.argsort(live)
    live, policy_ids = live[order], policy_ids[order]
    known = contains(live, ids)
    metrics = numpy.bincount(numbers, minlength=sacks)
    gone = numpy.bincount(numbers[~known], weights=posted.counts[~known], minlength=sacks)
    # Both ascend, so the metrics that are known are those that live, in the same order.
    names, policies = numpy.unique(policy_ids, return_inverse=True)
    keys = policies * sacks + numbers[known]
    order = numpy.argsort(keys, kind="stable")
    keys, rows = keys[order], numpy.flatnonzero(known)[order]
    shares = list(_cut(ids[rows], select(posted, rows), keys, metric_ids.unpack_ids(names), contents, sacks))
    return Routed(shares, {number: int(metrics[number]) for number in contents},
                  {number: int(gone[number]) for number in contents})


def _cut(ids: numpy.ndarray, posted: SeriesBatch, keys: numpy.ndarray, policy_ids: list[uuid.UUID],
         contents: Mapping[int, SackContents], sacks: int) -> Iterator[Share]:
    """Yield the shares of metrics in the order of their keys: number of the policy * sacks + number of the sack."""
    cuts = (numpy.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist()
    for begin, end in zip([0, *cuts], [*cuts, len(keys)], strict=True):
        if begin == end:
            continue
        place, number = divmod(int(keys[begin]), sacks)
        policy = contents[number].policies[policy_ids[place]]
        mine, series = ids[begin:end], slice_series(posted, begin, end)
        packs = list_owners(contents[number], policy.id, mine)
        if len(packs) == 1:
            yield Share(number, packs[0], policy, mine, series)
            continue
        # Those of one pack side by side, and still ascending.
        places = pack_rules.find_owners(packs, mine)
        order = numpy.argsort(places, kind="stable")
        mine, series = mine[order], select(series, order)
        ends = numpy.bincount(places, minlength=len(packs)).cumsum().tolist()
        for pack, first, last in zip(packs, [0, *ends], ends, strict=False):
            if first < last:
                yield Share(number, pack, policy, mine[first:last], slice_series(series, first, last))


def list_owners(contents: SackContents, policy_id: uuid.UUID, ids: numpy.ndarray) -> list[Pack]:
    """Return the stored packs of a policy, and new ones for the ids that none of them owns.

    A pack whose last metric went is not stored: another takes its place, of as few bits as lie beside the others.
    """
    number, sack_bits = contents.sack.number, contents.sack_bits
    stored = [pack for pack in contents.packs if pack.policy_id == policy_id]
    if len(stored) == 1 and stored[0].bits == sack_bits:        # FAST PATH: of what follows
        return stored
    if sum(1 << (pack_rules.BITS_MAX - max(pack.bits, sack_bits)) for pack in stored) == 1 << (
            pack_rules.BITS_MAX - sack_bits):
        return stored       # They share nothing, so together they are the whole sack.
    owners = list(stored)
    for share in pack_rules.list_free_shares([(pack.bits, pack.low) for pack in stored], sack_bits, number):
        pack = pack_rules.make_pack(number, policy_id, *share)
        if pack_rules.owns(pack, ids).any():
            owners.append(pack)
    return owners
