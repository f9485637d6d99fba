"""Parking: a pack that cannot be read or processed never stalls its sack.

Its new measures are written to a section of their own, in the order of their arrival, and listed in
`parked` by the very transaction that moves the checkpoint.  As long as any are parked for a pack its
later measures are parked too, or they would overtake.  The janitor tries again (`replay`), and takes them
in that order.

A parked row names its pack; a pack with parked measures is always in the catalogue, if need be without a
head, and is not changed by anything but the replay.  When the number of sacks grows, the rows are copied to
the packs that take its place: each takes from the section the metrics it owns.
"""

import datetime
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID, uuid4

import numpy

from gnocchi.carbonara.series import SeriesBatch
from gnocchi.catalogue import Pack, Parked, SackCommit, SackContents
from gnocchi.exceptions import CorruptedData, ObjectNotFound
from gnocchi.incoming.batch import MeasureBatch, concat_batches, decode_batch, encode_batch, select_metrics
from gnocchi.storage import packs as pack_rules
from gnocchi.storage.object_batch import ObjectBatch
from gnocchi.storage.sections import KIND_PARKED, Section, parse_sequence
from gnocchi.storage.store import Store

#: The newest section of a pack's parked measures is written anew with more of them up to this size, so that a
#: damaged pack does not get an object with every commit.
SECTION_BYTES_MAX = 256 << 10

#: Characters kept of why a pack could not be processed.
REASON_LENGTH_MAX = 1000


class Unprocessable(Exception):
    """This pack cannot be read or processed, which says nothing of others.  The text is the reason."""


class ToPark(NamedTuple):
    """New measures of a pack that cannot take them.

    ids : ndarray, shape (m,), `S16`, ascending, unique;  series : SeriesBatch of m series, in order of arrival
    """

    pack: Pack
    ids: numpy.ndarray
    series: SeriesBatch
    reason: str


def group_parked(contents: SackContents) -> dict[UUID, list[Parked]]:
    """Return the parked rows by pack, each list in the order in which they are to be taken."""
    by_pack: dict[UUID, list[Parked]] = {}
    for row in contents.parked:
        by_pack.setdefault(row.pack_id, []).append(row)
    for rows in by_pack.values():
        rows.sort(key=_sequence_of)
    return by_pack


def _sequence_of(row: Parked) -> int:
    sequence = parse_sequence(row.section.key)
    assert sequence is not None, f"BUG: parked measures in {row.section.key}"
    return sequence


def park(store: Store, objects: ObjectBatch, contents: SackContents, shares: Sequence[ToPark],
         commit: SackCommit) -> SackCommit:
    """Add measures to be parked to the objects of a commit, and return the commit with them in it.

    Raises BackendUnavailable.
    """
    if not shares:
        return commit
    sack, waiting = contents.sack, group_parked(contents)
    stored = {pack.id for pack in contents.packs}
    sections, replaced = [], []
    for share in shares:
        last = waiting.get(share.pack.id, [None])[-1]
        earlier = None if last is None else _read_small(store, share.pack, last)
        batch = MeasureBatch(share.ids, share.series.counts, share.series.timestamps, share.series.values)
        sections.append(make_section(share.pack, batch if earlier is None else concat_batches([earlier, batch]),
                                     contents.sacks))
        replaced.append(None if earlier is None else last)
    refs = objects.add(contents.sack_bits, sack.number, "parked", sack.sequence + 1, sections)
    rows = []
    for share, section, ref, old in zip(shares, sections, refs, replaced, strict=True):
        if old is not None:
            rows.append(replace(old, id=uuid4(), section=ref, measures=section.rows))
            continue
        first = waiting.get(share.pack.id, [None])[0]
        # All rows of a pack are tried together: the later ones count as old as the first.
        rows.append(Parked(uuid4(), sack.number, share.pack.id, share.pack.policy_id, ref, section.rows,
                           share.reason.replace("\0", "?")[:REASON_LENGTH_MAX] if first is None else first.reason,
                           utcnow() if first is None else first.parked_at, 0 if first is None else first.attempts))
    gone = [row for row in replaced if row is not None]
    return replace(
        commit, packs=commit.packs + tuple(share.pack for share in shares if share.pack.id not in stored),
        parked=commit.parked + tuple(rows), parked_removed=commit.parked_removed + tuple(row.id for row in gone),
        garbage=tuple(sorted({*commit.garbage, *(row.section.key for row in gone)})))


def utcnow() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def make_section(pack: Pack, batch: MeasureBatch, sacks: int) -> Section:
    """Encode measures of a pack as a section."""
    return Section(KIND_PARKED, pack.policy_id, pack.bits, pack.low, encode_batch(batch, time.time_ns(), sacks),
                   rows=len(batch.values))


def read_parked(store: Store, pack: Pack, row: Parked) -> MeasureBatch:
    """Return the measures of a parked row that are the pack's.

    Raises CorruptedData, ObjectNotFound, BackendUnavailable.
    """
    key, offset, _ = row.section
    batch = decode_batch(store.read_section(row.section), key, offset).batch
    mine = pack_rules.owns(pack, batch.metric_ids)
    return batch if mine.all() else select_metrics(batch, mine)


def _read_small(store: Store, pack: Pack, row: Parked) -> MeasureBatch | None:
    """Return the measures of a small row that can be read, else None: the new ones get a row of their own."""
    if row.section.length >= SECTION_BYTES_MAX:
        return None
    try:
        return read_parked(store, pack, row)
    except (CorruptedData, ObjectNotFound):
        return None
