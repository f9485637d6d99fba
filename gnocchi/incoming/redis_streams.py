"""Incoming measures as streams of Redis: what is asked of the server, and how its answers are read.

Two streams per sack, whose entries have the same ids: one holds encoded batches, the other says how large they are, so
that a reader knows what it asks for.  Format: doc/source/format/redis.rst.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import redis

from gnocchi.incoming.batch import decode_heads

PREFIX = "gnocchi:incoming:"
#: The numbers of sacks that streams were written for.
COUNTS = f"{PREFIX}sacks"
#: Stamp of the latest request.
LATEST = f"{PREFIX}latest"
#: Batches that could not be read, by stream and entry.
DAMAGED = f"{PREFIX}damaged"

#: Entries, and their measures, that one answer holds at most, give or take one: some megabytes of either, which keep
#: nobody else waiting for long.
ENTRIES_AT_ONCE = 20_000
MEASURES_AT_ONCE = 1_000_000
#: Entries whose batches are copied in the server for one answer, and measures of those of which only ids are asked for.
ENTRIES_PER_LISTING = 2000
MEASURES_PER_LISTING = 250_000
#: Measures of one answer with batches.
MEASURES_PER_ANSWER = 100_000
#: Streams that are freed at once.
STREAMS_PER_TRIM = 32

_Argument = str | bytes | int

# KEYS: COUNTS, LATEST, then of each share the batches and the sizes of its sack.
# ARGV: number of sacks, stamp, then of each share its metrics, measures and batch.
# What could fail for want of memory fails first, when nothing was added.
_WRITE = """
redis.call('SADD', KEYS[1], ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
local added = {}
local function add(key, id, field, value)
    local entry = redis.pcall('XADD', key, id, field, value)
    if type(entry) == 'table' then return nil, entry end
    added[#added + 1] = {key, entry}
    return entry
end
local function add_share(batches, sizes, metrics, measures, batch)
    local before = redis.pcall('XREVRANGE', sizes, '+', '-', 'COUNT', 1)
    if before.err then return before end
    local all_metrics, all_measures = 0, 0
    if before[1] then all_metrics, all_measures = string.match(before[1][2][2], '(%d+) (%d+)$') end
    local id, failure = add(batches, '*', 'batch', batch)
    if failure then return failure end
    local size = string.format('%s %s %s %.0f %.0f', ARGV[2], metrics, measures, all_metrics + metrics,
                               all_measures + measures)
    return select(2, add(sizes, id, 'size', size))
end
for share = 1, #KEYS / 2 - 1 do
    local failure = add_share(KEYS[2 * share + 1], KEYS[2 * share + 2], unpack(ARGV, 3 * share, 3 * share + 2))
    if failure then
        for _, entry in ipairs(added) do redis.call('XDEL', entry[1], entry[2]) end
        return failure
    end
end
return redis.status_reply('OK')
"""

# KEYS: sizes of some sacks.  ARGV: entries of each, entries and measures of all, at most; then of each the id and stamp
# of the entry behind which to begin.  Where that is not, everything is new: it was freed, or all was lost.
# Returns of each (as far as there is room) its last entry and those found, each as id and size, with blanks in between:
# many small answers would take the client ten times as long.
_LOOK = """
local entries_each, entries_left, measures_left = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local found = {}
for place, key in ipairs(KEYS) do
    local id, stamp, start = ARGV[2 * place + 2], ARGV[2 * place + 3], '-'
    if id ~= '' then
        local known = redis.call('XRANGE', key, id, id)[1]
        if known and string.match(known[2][2], '^%d+') == stamp then start = '(' .. id end
    end
    local last = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
    local wanted, entries = math.min(entries_each, entries_left), {}
    while last and wanted > 0 and measures_left > 0 do
        local count = math.min(wanted, 100)
        local step = redis.call('XRANGE', key, start, '+', 'COUNT', count)
        for _, entry in ipairs(step) do
            entries[#entries + 1] = entry[1] .. ' ' .. entry[2][2]
            measures_left = measures_left - string.match(entry[2][2], '^%d+ %d+ (%d+)')
            start = '(' .. entry[1]
        end
        wanted, entries_left = wanted - #step, entries_left - #step
        if #step < count then break end
    end
    found[2 * place - 1] = last and last[1] .. ' ' .. last[2][2] or ''
    found[2 * place] = table.concat(entries, '\\n')
    if entries_left <= 0 or measures_left <= 0 then break end
end
return found
"""

# KEYS: batches of some sacks.  ARGV: of each the first and last entry.  Returns of each all batches, as one string.
_READ = """
local found = {}
for place, key in ipairs(KEYS) do
    local batches = {}
    for _, entry in ipairs(redis.call('XRANGE', key, ARGV[2 * place - 1], ARGV[2 * place])) do
        batches[#batches + 1] = entry[2][2]
    end
    found[place] = table.concat(batches)
end
return found
"""

# KEYS: batches of some sacks.  ARGV: of each the first and last entry.
# Returns ids, and the part of each batch that names metrics and counts their measures: 24 bytes of each after byte 48.
_HEADS = """
local found = {}
for place, key in ipairs(KEYS) do
    for _, entry in ipairs(redis.call('XRANGE', key, ARGV[2 * place - 1], ARGV[2 * place])) do
        local batch = entry[2][2]
        local a, b, c, d = string.byte(batch, 33, 36)
        local metrics = d and ((d * 256 + c) * 256 + b) * 256 + a or 0
        found[#found + 1] = {entry[1], string.sub(batch, 49, 48 + 24 * metrics)}
    end
end
return found
"""

# KEYS: of some sacks the batches and the sizes.
# ARGV: of each the last entry to be freed, its stamp, and the first that would stay.
_TRIM = """
for place = 1, #KEYS / 2 do
    local batches, sizes = KEYS[2 * place - 1], KEYS[2 * place]
    local id, stamp, next = unpack(ARGV, 3 * place - 2, 3 * place)
    local known = redis.call('XRANGE', sizes, id, id)[1]
    if known and string.match(known[2][2], '^%d+') == stamp then
        redis.call('XTRIM', batches, 'MINID', next)
        redis.call('XTRIM', sizes, 'MINID', next)
    end
end
"""

# KEYS: COUNTS, then streams.  ARGV: number of sacks, which is forgotten with its streams if these are empty.
_FORGET = """
for place = 2, #KEYS do
    if redis.call('XLEN', KEYS[place]) > 0 then return 0 end
end
for place = 2, #KEYS do redis.call('DEL', KEYS[place]) end
return redis.call('SREM', KEYS[1], ARGV[1])
"""


class Lane(NamedTuple):
    """What was written for one sack when there were `sacks` of them."""

    sacks: int
    number: int

    @property
    def batches(self) -> str:
        return f"{PREFIX}{self.sacks}-{self.number}"

    @property
    def sizes(self) -> str:
        return f"{self.batches}:sizes"


class Position(NamedTuple):
    """The last entry that was read of a stream; its stamp tells whether another one has got that id meanwhile."""

    id: str
    stamp: int

    @property
    def order(self) -> tuple[int, int]:
        milliseconds, _, number = self.id.partition("-")
        return int(milliseconds), int(number)


class Entry(NamedTuple):
    """What is known of a request's share without reading it.

    id : str, given by the server;  stamp : int, the writer's, ns
    metrics, measures : int;  all_metrics, all_measures : int, sums up to this entry, since something
    """

    id: str
    stamp: int
    metrics: int
    measures: int
    all_metrics: int
    all_measures: int

    @property
    def position(self) -> Position:
        return Position(self.id, self.stamp)


class Look(NamedTuple):
    """Entries behind a position, oldest first, perhaps not all; and the last one that there is."""

    entries: list[Entry]
    last: Entry | None

    @property
    def whole(self) -> bool:
        """Nothing comes behind these entries."""
        return self.last is None or bool(self.entries) and self.entries[-1].id == self.last.id or not self.entries


class Share(NamedTuple):
    """number : int, of the sack;  metrics, measures : int;  batch : bytes, encoded"""

    number: int
    metrics: int
    measures: int
    batch: bytes


class Streams:
    """The streams of a server.  Raises what redis-py does."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._write, self._look, self._read, self._heads, self._trim, self._forget = (
            client.register_script(script) for script in (_WRITE, _LOOK, _READ, _HEADS, _TRIM, _FORGET))

    def write(self, sacks: int, stamp: int, shares: Iterable[Share]) -> None:
        """Add shares to the streams of their sacks: all or none."""
        keys = [COUNTS, LATEST]
        arguments: list[_Argument] = [sacks, stamp]
        for share in shares:
            lane = Lane(sacks, share.number)
            keys += [lane.batches, lane.sizes]
            arguments += [share.metrics, share.measures, share.batch]
        self._write(keys, arguments)

    def read_latest(self) -> int:
        """Return the stamp of the latest request; 0: none."""
        latest: Any = self._client.get(LATEST)
        return int(latest or 0)

    def read_counts(self) -> frozenset[int]:
        """Return the numbers of sacks that there are streams for."""
        counts: Any = self._client.smembers(COUNTS)
        return frozenset(int(count) for count in counts)

    def look(self, lanes: Sequence[tuple[Lane, Position | None]], measures_max: int) -> list[Look]:
        """Return what lies behind a position of each lane, or (None) all that is there.

        There is at least one entry, if there are any.  Once there are that many measures, or ENTRIES_AT_ONCE, lanes may
        be left out at the end.
        """
        return self._ask_look(lanes, ENTRIES_AT_ONCE, ENTRIES_AT_ONCE, measures_max)

    def look_at_ends(self, lanes: Sequence[tuple[Lane, Position | None]]) -> list[Look]:
        """Return the first entry behind a position of each lane, and the last one."""
        return self._ask_look(lanes, 1, len(lanes) + 1, 1 << 53)

    def _ask_look(self, lanes: Sequence[tuple[Lane, Position | None]], entries_each: int, entries_max: int,
                  measures_max: int) -> list[Look]:
        arguments: list[_Argument] = [entries_each, entries_max, measures_max]
        for _, position in lanes:
            arguments += ["", ""] if position is None else [position.id, position.stamp]
        answer: Any = self._look([lane.sizes for lane, _ in lanes], arguments)
        return [Look([_parse_entry(entry) for entry in entries.splitlines()], _parse_entry(last) if last else None)
                for last, entries in zip(answer[::2], answer[1::2], strict=True)]

    def walk(self, lanes: Sequence[tuple[Lane, Position | None]]) -> Iterator[tuple[int, list[Entry]]]:
        """Yield all that lies behind the positions, piece by piece, with the place of its lane."""
        left = list(enumerate(lanes))
        while left:
            looks = self.look([start for _, start in left], MEASURES_AT_ONCE)
            begun = []
            for (place, (lane, _)), look in zip(left, looks, strict=False):
                if look.entries:
                    yield place, look.entries
                if not look.whole:
                    begun = [(place, (lane, look.entries[-1].position))]
            left = begun + left[len(looks):]

    def read_joined(self, wanted: Sequence[tuple[Lane, list[Entry]]]) -> bytes:
        """Return encoded batches of entries that follow on one another, without anything in between."""
        found: list[bytes] = []
        keys: list[str] = []
        arguments: list[_Argument] = []
        measures = entries_asked = 0
        for lane, entries in wanted:
            for piece in _cut(entries, MEASURES_PER_ANSWER, ENTRIES_PER_LISTING):
                size = sum(entry.measures for entry in piece)
                if keys and (measures + size > MEASURES_PER_ANSWER or entries_asked + len(piece) > ENTRIES_PER_LISTING):
                    found += self._read(keys, arguments)
                    keys, arguments, measures, entries_asked = [], [], 0, 0
                keys.append(lane.batches)
                arguments += [piece[0].id, piece[-1].id]
                measures += size
                entries_asked += len(piece)
        return b"".join([*found, *(self._read(keys, arguments) if keys else ())])

    def read(self, wanted: Sequence[tuple[Lane, list[Entry]]]) -> list[list[tuple[str, bytes]]]:
        """Return id and encoded batch of entries that follow on one another; those freed meanwhile are left out."""
        pipeline = self._client.pipeline(transaction=False)
        owners = []
        for owner, (lane, entries) in enumerate(wanted):
            for piece in _cut(entries, MEASURES_PER_ANSWER, ENTRIES_PER_LISTING):
                pipeline.xrange(lane.batches, piece[0].id, piece[-1].id)
                owners.append(owner)
        found: list[list[tuple[str, bytes]]] = [[] for _ in wanted]
        for owner, answer in zip(owners, pipeline.execute() if owners else (), strict=True):
            found[owner] += [(id.decode(), fields.get(b"batch", b"")) for id, fields in answer]
        return found

    def read_heads(self, lane: Lane, entries: list[Entry]) -> Iterator[tuple[Any, Any]]:
        """Yield the metric ids of entries that follow on one another, and how many measures each has.

        Both as in MeasureBatch, of several entries at a time.  What does not have the size that was told is left out.
        """
        for piece in _cut(entries, MEASURES_PER_LISTING, ENTRIES_PER_LISTING):
            metrics = {entry.id: entry.metrics for entry in piece}
            answer: Any = self._heads([lane.batches], [piece[0].id, piece[-1].id])
            yield decode_heads([head for id, head in answer if len(head) == 24 * metrics.get(id.decode(), -1)])

    def trim(self, ends: Mapping[Lane, Position]) -> None:
        """Free entries up to a position, if that is still what it was."""
        lanes = list(ends)
        for first in range(0, len(lanes), STREAMS_PER_TRIM):
            keys: list[str] = []
            arguments: list[_Argument] = []
            for lane in lanes[first:first + STREAMS_PER_TRIM]:
                milliseconds, number = ends[lane].order
                keys += [lane.batches, lane.sizes]
                arguments += [ends[lane].id, ends[lane].stamp, f"{milliseconds}-{number + 1}"]
            self._trim(keys, arguments)

    def forget(self, sacks: int) -> None:
        """Delete the streams for another number of sacks, if they are empty."""
        lanes = [Lane(sacks, number) for number in range(sacks)]
        self._forget([COUNTS, *(key for lane in lanes for key in (lane.batches, lane.sizes))], [sacks])

    def wait(self, lanes: Mapping[Lane, str], timeout_s: float) -> set[Lane]:
        """Return the lanes that have anything behind the entry given, as soon as any has; none after a while."""
        names = {lane.sizes.encode(): lane for lane in lanes}
        patience_s = self._client.connection_pool.connection_kwargs.get("socket_timeout") or timeout_s
        block_ms = max(1, int(1000 * min(timeout_s, patience_s / 2)))
        answer: Any = self._client.xread({lane.sizes: id for lane, id in lanes.items()}, count=1, block=block_ms)
        return {names[name] for name, _ in (answer.items() if isinstance(answer, dict) else answer)}

    def keep_damaged(self, lane: Lane, id: str, batch: bytes) -> None:
        self._client.hset(DAMAGED, f"{lane.batches} {id}", batch)


def _parse_entry(entry: bytes) -> Entry:
    id, *numbers = entry.split()
    return Entry(id.decode(), *map(int, numbers))


def _cut(entries: list[Entry], measures_max: int, entries_max: int) -> Iterator[list[Entry]]:
    """Yield pieces of at most so many measures, but of one entry at least."""
    first = measures = 0
    for place, entry in enumerate(entries):
        if place > first and (measures + entry.measures > measures_max or place - first == entries_max):
            yield entries[first:place]
            first, measures = place, 0
        measures += entry.measures
    if entries:
        yield entries[first:]
