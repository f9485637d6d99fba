"""Which pack a metric lives in, and when a pack becomes two."""

import uuid
from collections.abc import Sequence

import numpy

from gnocchi import metric_ids
from gnocchi.catalogue import Pack
from gnocchi.storage.head import Head, select_low_bits

#: A pack with more metrics, or with a head of more bytes, splits in two: a head is written whole.
METRICS_MAX = 2048
HEAD_BYTES_MAX = 4 << 20
#: Low bits of an id that may tell packs apart; ids are random, so this is never reached in earnest.
BITS_MAX = 62


def make_pack(sack: int, policy_id: uuid.UUID, bits: int, low: int) -> Pack:
    """Return a pack of which nothing is stored yet."""
    return Pack(uuid.uuid4(), sack, policy_id, bits, low, base=None, delta=None, metrics=0, bytes=0)


def owns(pack: Pack, ids: numpy.ndarray) -> numpy.ndarray:
    """Return which of the ids (`S16`) lie in the pack, its policy aside; bool, shape of `ids`."""
    mask = numpy.uint64((1 << pack.bits) - 1)
    return metric_ids.low_words(ids) & mask == numpy.uint64(pack.low)


def find_owners(packs: Sequence[Pack], ids: numpy.ndarray) -> numpy.ndarray:
    """Return in which of the packs, which are a partition of all that there can be, each id lies; shape of `ids`."""
    words = metric_ids.low_words(ids)
    places = numpy.full(len(ids), -1, numpy.int64)
    for place, pack in enumerate(packs):
        places[words & numpy.uint64((1 << pack.bits) - 1) == numpy.uint64(pack.low)] = place
    return places


def list_free_shares(taken: Sequence[tuple[int, int]], bits: int, low: int) -> list[tuple[int, int]]:
    """Return the largest (bits, low) within the given one that none of those taken touches."""
    if any(b <= bits and low & ((1 << b) - 1) == of_b for b, of_b in taken):
        return []
    inside = [(b, of_b) for b, of_b in taken if b > bits and of_b & ((1 << bits) - 1) == low]
    if not inside:
        return [(bits, low)]
    return list_free_shares(inside, bits + 1, low) + list_free_shares(inside, bits + 1, low | 1 << bits)


def needs_split(pack: Pack, metrics: int, head_bytes: int) -> bool:
    """Tell whether a pack is too large; one metric cannot be split."""
    if pack.bits >= BITS_MAX or metrics < 2:
        return False
    return metrics > METRICS_MAX or head_bytes > HEAD_BYTES_MAX


def split(pack: Pack, head: Head) -> list[tuple[Pack, Head]]:
    """Cut a pack in two by one more low bit; both halves get ids of their own, and one may be empty."""
    halves = []
    for low in (pack.low, pack.low | 1 << pack.bits):
        half = make_pack(pack.sack, pack.policy_id, pack.bits + 1, low)
        halves.append((half, select_low_bits(head, half.bits, half.low)))
    return halves
