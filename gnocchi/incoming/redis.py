"""Incoming measures in streams of a Redis server (redis_streams.py has what is asked of it)."""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy
import redis as redis_library

from gnocchi import metric_ids
from gnocchi.common import redis
from gnocchi.common.redis_options import OPTS
from gnocchi.exceptions import CorruptedData
from gnocchi.incoming import Backlog, BacklogReport, Checkpoint, IncomingDriver, SackBacklog
from gnocchi.incoming.batch import (
    MeasureBatch,
    concat_batches,
    count_ids,
    decode_batch,
    decode_batches,
    encode_batch,
    select_metrics,
    split_by_sack,
)
from gnocchi.incoming.redis_streams import Entry, Lane, Look, Position, Share, Streams

LOG = logging.getLogger(__name__)

__all__ = ["OPTS", "RedisDriver"]

#: Bundles read at once: one takes as much memory as five measures.
BUNDLES_PER_SLICE = 250_000

#: What a server has to be told, or measures that were accepted may be lost.
_EXPECTED = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"}


class _Slice(NamedTuple):
    """Of each lane the entries to be read; whether nothing comes behind them."""

    entries: dict[Lane, list[Entry]]
    complete: bool


class RedisDriver(IncomingDriver):
    """A stream of batches per sack.

    The checkpoint of a sack is `{"streams": {"<sacks>-<number>": [id, stamp]}}`: the last entry that is committed of
    each stream.  If that entry is not there, all that is there is unread: the entries before it were freed, or the
    server has lost what it held.

    Parameters
    ----------
    url : str
        As `[incoming] redis_url`.
    sacks : int
        The number of sacks, a power of two.
    """

    wakes = True

    def __init__(self, url: str, sacks: int) -> None:
        self._client = redis.make_client(url)
        self._streams = Streams(self._client)
        self._sacks = sacks
        self._stamping = threading.Lock()
        self._stamp = 0
        #: Other numbers of sacks that there are streams for; looked up with each look at all sacks.
        self._other_counts: frozenset[int] | None = None
        #: The last entry that a reader knew of, by sack.
        self._seen: dict[int, str] = {}
        self._freed: dict[Lane, Position] = {}
        self._damage: set[str] = set()

    @property
    def damaged_count(self) -> int:
        """How many batches that cannot be read this process has met and left out."""
        return len(self._damage)

    def upgrade(self) -> None:
        with redis.unavailable("connect"):
            self._client.ping()
            try:
                found: Any = self._client.config_get(*_EXPECTED)
            except redis_library.ResponseError:     # We may not ask, or a hosted server does not tell.
                return
        told = {_text(name): _text(value) for name, value in found.items()}
        wrong = [f"{name} {told[name]}" for name, value in _EXPECTED.items() if told.get(name, value) != value]
        if wrong:
            LOG.warning("Redis may lose measures that were accepted: %s; to be safe: %s", ", ".join(wrong),
                        ", ".join(f"{name} {value}" for name, value in _EXPECTED.items()))

    def close(self) -> None:
        self._client.close()

    def write_measures(self, batch: MeasureBatch) -> None:
        if not len(batch.metric_ids):
            return
        with self._stamping:
            self._stamp = stamp = max(time.time_ns(), self._stamp + 1)
        shares = [Share(sack, len(share.metric_ids), len(share.values), encode_batch(share, stamp, self._sacks))
                  for sack, share in split_by_sack(batch, self._sacks)]
        with redis.unavailable("store measures"):
            self._streams.write(self._sacks, stamp, shares)

    # Reading

    def read_backlog(self, sack: int, checkpoint: Checkpoint, measures_max: int) -> Backlog | None:
        with redis.unavailable("read measures"):
            lanes = self._list_lanes(sack)
            looks = {lane: self._streams.look([(lane, _get_position(checkpoint, lane))], measures_max)[0]
                     for lane in lanes}
            self._note_seen(sack, looks)
            taken = _cut_prefix(looks, measures_max)
            if not taken.entries:
                return None
            return self._read([(sack, taken)], {sack: checkpoint})[sack]

    def read_backlogs(self, checkpoints: Mapping[int, Checkpoint], measures_max: int) -> dict[int, Backlog | None]:
        with redis.unavailable("read measures"):
            if self._get_other_counts():
                return super().read_backlogs(checkpoints, measures_max)
            # FAST PATH: two questions for all sacks.
            lanes = {sack: Lane(self._sacks, sack) for sack in checkpoints}
            looks = self._streams.look([(lane, _get_position(checkpoints[sack], lane)) for sack, lane in lanes.items()],
                                       measures_max)
            slices, measures, bundles = [], 0, 0
            found: dict[int, Backlog | None] = {}
            for (sack, lane), look in zip(lanes.items(), looks, strict=False):
                if measures >= measures_max or bundles >= BUNDLES_PER_SLICE:
                    break
                self._note_seen(sack, {lane: look})
                found[sack] = None
                taken = _cut_prefix({lane: look}, measures_max - measures, BUNDLES_PER_SLICE - bundles)
                for entry in taken.entries.get(lane, ()):
                    measures += entry.measures
                    bundles += entry.metrics
                if taken.entries:
                    slices.append((sack, taken))
            return found | self._read(slices, checkpoints)

    def _read(self, slices: list[tuple[int, _Slice]], checkpoints: Mapping[int, Checkpoint]) -> dict[int, Backlog]:
        """Read slices, all at once as long as nothing is particular about any of them."""
        plain = all(taken.entries.keys() == {Lane(self._sacks, sack)} for sack, taken in slices)
        if not slices or not plain or self._get_other_counts():
            return self._read_each(slices, checkpoints)
        own = [(sack, taken, taken.entries[Lane(self._sacks, sack)]) for sack, taken in slices]
        # FAST PATH: nothing is done per request but to compare checksums.
        every = [entry for _, _, entries in own for entry in entries]
        sizes = numpy.array([(entry.metrics, entry.measures) for entry in every], numpy.int64).T
        batch = decode_batches(self._streams.read_joined([(Lane(self._sacks, sack), entries)
                                                          for sack, _, entries in own]), *sizes)
        if batch is None:   # Some are damaged, or somebody has freed them.
            return self._read_each(slices, checkpoints)
        ends = numpy.cumsum([len(entries) for _, _, entries in own])
        rows, points = ([0, *numpy.cumsum(of_all)[ends - 1].tolist()] for of_all in sizes)
        found = {}
        for place, (sack, taken, entries) in enumerate(own):
            (a, b), (c, d) = rows[place:place + 2], points[place:place + 2]
            whole = MeasureBatch(batch.metric_ids[a:b], batch.counts[a:b], batch.timestamps[c:d], batch.values[c:d])
            checkpoint = _make_checkpoint({Lane(self._sacks, sack): entries[-1].position})
            found[sack] = Backlog(whole, b - a, checkpoint, taken.complete)
        return found

    def _read_each(self, slices: list[tuple[int, _Slice]], checkpoints: Mapping[int, Checkpoint]) -> dict[int, Backlog]:
        """Read slices; several lanes of one come one after the other only by their stamps."""
        wanted = [(lane, entries) for _, taken in slices for lane, entries in taken.entries.items()]
        answers = iter(zip(wanted, self._streams.read(wanted), strict=True))
        found: dict[int, Backlog] = {}
        for sack, taken in slices:
            stamped: list[tuple[int, MeasureBatch]] = []
            following = {lane: position for lane in self._list_lanes(sack)
                         if (position := _get_position(checkpoints[sack], lane)) is not None}
            for lane in taken.entries:
                (_, entries), batches = next(answers)
                orders = {entry.id: order for order, entry in _order(entries)}
                stamped += [(orders[id], batch) for id, data in batches
                            if (batch := self._decode(sack, lane, id, data)) is not None]
                following[lane] = entries[-1].position
            if len(taken.entries) > 1:
                stamped.sort(key=lambda pair: pair[0])
            whole = concat_batches([batch for _, batch in stamped])
            found[sack] = Backlog(whole, len(whole.metric_ids), _make_checkpoint(following), taken.complete)
        return found

    def _decode(self, sack: int, lane: Lane, id: str, data: bytes) -> MeasureBatch | None:
        """Return what of a batch belongs to a sack; None when it is damaged, which is noted."""
        try:
            batch = decode_batch(data, f"{lane.batches} {id}").batch
        except CorruptedData as e:
            if e.key not in self._damage:
                LOG.error("Measures are lost to damage: redis: %s", e)
                try:
                    self._streams.keep_damaged(lane, id, data)
                except redis_library.ResponseError as reason:   # such as that the memory is full
                    LOG.warning("Cannot keep a copy of damaged measures: redis: %s", reason)
                self._damage.add(e.key)
            return None
        if lane.sacks < self._sacks:
            return select_metrics(batch, metric_ids.sack_numbers(batch.metric_ids, self._sacks) == sack)
        return batch

    # Figures

    def list_backlogs(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, SackBacklog]:
        waiting: dict[int, SackBacklog] = {}
        with redis.unavailable("look for measures"):
            lanes = self._list_starts(checkpoints)
            looks = self._streams.look_at_ends([start for _, start in lanes])
            for (sack, (lane, position)), look in zip(lanes, looks, strict=True):
                if not look.entries or look.last is None:
                    continue
                first = look.entries[0]
                metrics = look.last.all_metrics - first.all_metrics + first.metrics
                measures = look.last.all_measures - first.all_measures + first.measures
                if lane.sacks < self._sacks:
                    metrics, measures = self._count_share(sack, lane, position)
                    if not metrics:
                        continue
                known = waiting.get(sack, SackBacklog(0, 0, first.stamp))
                waiting[sack] = SackBacklog(known.bundles + metrics, known.measures + measures,
                                            min(known.oldest_ns, first.stamp))
        return waiting

    def _count_share(self, sack: int, lane: Lane, position: Position | None) -> tuple[int, int]:
        """Return the bundles and measures of a sack that wait in a lane where others have some too."""
        bundles = measures = 0
        for _, entries in self._streams.walk([(lane, position)]):
            for ids, counts in self._streams.read_heads(lane, entries):
                ours = metric_ids.sack_numbers(ids, self._sacks) == sack
                bundles += int(ours.sum())
                measures += int(counts[ours].sum())
        return bundles, measures

    def report_backlog(self, checkpoints: Mapping[int, Checkpoint], details: bool) -> BacklogReport:
        with redis.unavailable("look for measures"):
            ids, bundles = count_ids(self._read_ids(self._list_starts(checkpoints)))
        by_metric = None
        if details:
            by_metric = {str(i): n for i, n in zip(metric_ids.unpack_ids(ids), bundles.tolist(), strict=True)}
        return BacklogReport(len(ids), int(bundles.sum()), by_metric)

    def _read_ids(self, lanes: list[tuple[int, tuple[Lane, Position | None]]]) -> Iterable[numpy.ndarray]:
        for place, entries in self._streams.walk([start for _, start in lanes]):
            sack, (lane, _) = lanes[place]
            for ids, _counts in self._streams.read_heads(lane, entries):
                yield ids[metric_ids.sack_numbers(ids, self._sacks) == sack] if lane.sacks < self._sacks else ids

    # What is committed, what is new

    def acknowledge(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        ends: dict[Lane, Position] = {}
        with redis.unavailable("free measures"):
            self._other_counts = None
            others = self._get_other_counts()
            for lane in self._all_lanes(others):
                readers = [_get_position(checkpoints.get(sack, {}), lane)
                           for sack in range(lane.number % self._sacks, self._sacks, lane.sacks)]
                positions = [position for position in readers if position is not None]
                if len(positions) == len(readers):
                    first = min(positions, key=lambda position: position.order)
                    if self._freed.get(lane) != first:
                        ends[lane] = first
            self._streams.trim(ends)
            self._freed |= ends
            for count in others:
                self._streams.forget(count)

    def get_position(self) -> int:
        with redis.unavailable("look for measures"):
            return self._streams.read_latest()

    def wait(self, sacks: Collection[int], timeout_s: float) -> set[int]:
        with redis.unavailable("wait for measures"):
            # An entry that was never read may have been processed by others; whoever looks then knows.
            found = self._streams.wait({Lane(self._sacks, sack): self._seen.get(sack, "0-0") for sack in sacks},
                                       timeout_s)
        return {lane.number for lane in found}

    # Lanes

    def _get_other_counts(self) -> frozenset[int]:
        if self._other_counts is None:
            self._other_counts = self._streams.read_counts() - {self._sacks}
        return self._other_counts

    def _list_lanes(self, sack: int) -> list[Lane]:
        """Return the lanes in which a sack may have something: there are more than one if somebody counts otherwise."""
        lanes = [Lane(self._sacks, sack)]
        for count in sorted(self._get_other_counts()):
            lanes += [Lane(count, number) for number in range(sack % count, count, self._sacks)]
        return lanes

    def _all_lanes(self, others: frozenset[int]) -> list[Lane]:
        return [Lane(count, number) for count in (self._sacks, *sorted(others)) for number in range(count)]

    def _list_starts(self, checkpoints: Mapping[int, Checkpoint]) -> list[tuple[int, tuple[Lane, Position | None]]]:
        """Return sack, lane and position of all lanes of some sacks."""
        self._other_counts = None
        return [(sack, (lane, _get_position(checkpoint, lane))) for sack, checkpoint in checkpoints.items()
                for lane in self._list_lanes(sack)]

    def _note_seen(self, sack: int, looks: Mapping[Lane, Look]) -> None:
        own = looks[Lane(self._sacks, sack)]
        self._seen[sack] = "0-0" if own.last is None else own.last.id


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _name(lane: Lane) -> str:
    return f"{lane.sacks}-{lane.number}"


def _make_checkpoint(positions: Mapping[Lane, Position]) -> Checkpoint:
    return {"streams": {_name(lane): list(position) for lane, position in positions.items()}}


def _get_position(checkpoint: Checkpoint, lane: Lane) -> Position | None:
    found = checkpoint.get("streams", {}).get(_name(lane))
    return None if found is None else Position(*found)


def _order(entries: Iterable[Entry]) -> list[tuple[int, Entry]]:
    """Return entries of one lane with what orders them among those of others: the highest stamp so far."""
    highest = 0
    ordered = []
    for entry in entries:
        highest = max(highest, entry.stamp)
        ordered.append((highest, entry))
    return ordered


def _cut_prefix(looks: Mapping[Lane, Look], measures_max: int, bundles_max: int = BUNDLES_PER_SLICE) -> _Slice:
    """Return the first entries of all lanes together, as many as fit, but one at least."""
    ordered: list[tuple[int, Lane, Entry]] = []
    horizon = None
    for lane, look in looks.items():
        of_lane = _order(look.entries)
        ordered += [(order, lane, entry) for order, entry in of_lane]
        if not look.whole:
            # What comes behind may be older than entries of other lanes.
            horizon = min(of_lane[-1][0], of_lane[-1][0] if horizon is None else horizon)
    if len(looks) > 1:
        ordered.sort(key=lambda item: item[0])
    taken: dict[Lane, list[Entry]] = {}
    measures = bundles = count = 0
    for order, lane, entry in ordered:
        measures += entry.measures
        bundles += entry.metrics
        if count and (measures > measures_max or bundles > bundles_max or horizon is not None and order > horizon):
            break
        taken.setdefault(lane, []).append(entry)
        count += 1
    return _Slice(taken, count == len(ordered) and horizon is None)
