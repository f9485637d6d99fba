"""The catalogue: sacks, packs and blocks (`commits` has the transaction that changes them)."""

import datetime
import functools
import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.catalogue import GUEST_MARK, find_object
from gnocchi.indexer import Block, Pack, Parked, Sack, SackContents, SectionRef
from gnocchi.indexer.archive_policies import LIST_POLICIES_FAST, decode_policy
from gnocchi.indexer.metrics import chunks, utcnow
from gnocchi.indexer.models import block, garbage, pack, parked, sack
from gnocchi.indexer.prepared import PreparedSelect
from gnocchi.indexer.transactions import Connections, retried

#: Most low bits that tell a pack; the columns are signed 64-bit integers.
BITS_MAX = 62

#: Metrics whose packs are looked up by possible values of `low`, 63 per metric at most; for more of them all packs
#: of the policy are read, since most would be found anyway.
LOWS_LOOKED_UP = 100

#: How many sacks are read at once by statements that are made only once; there are others for more.
SACKS_READ = (1, 4, 16, 64)

#: Bounds of time that stand for "open": far enough for int64 ns, near enough to subtract a granularity.
START_MIN = -2 ** 62
STOP_MAX = 2 ** 63 - 1

SELECT_SACKS = sa.select(sack.c.number, sack.c.sequence, sack.c.checkpoint)
GET_SACK = SELECT_SACKS.where(sack.c.number == sa.bindparam("number"))
LIST_SACKS = PreparedSelect(SELECT_SACKS.order_by(sack.c.number))
COUNT_SACKS = PreparedSelect(sa.select(sa.func.count()).select_from(sack))
SELECT_PACKS = sa.select(*pack.c)
GET_PACKS = SELECT_PACKS.where(pack.c.sack == sa.bindparam("number"))
# One statement: parked measures are rare, and to look for them apart would cost every commit.
SELECT_PACKS_AND_WHETHER_PARKED = SELECT_PACKS.add_columns(sa.exists().where(parked.c.pack_id == pack.c.id))
SELECT_PARKED = sa.select(*parked.c)
#: What is read of sacks that are processed, and the column with their numbers.
SELECTS_OF_CONTENTS = ((SELECT_SACKS, sack.c.number), (SELECT_PACKS_AND_WHETHER_PARKED, pack.c.sack))
_BITS, _LOW = (list(pack.c).index(column) for column in (pack.c.bits, pack.c.low))

_OVERLAPS = sa.and_(block.c.pack_id == pack.c.id, block.c.first < sa.bindparam("stop"),
                    block.c.last > sa.bindparam("start", type_=sa.BigInteger) - block.c.granularity)
_OVERLAPS_AND_GRANULARITY = sa.and_(_OVERLAPS, block.c.granularity.in_(sa.bindparam("granularities", expanding=True)))

#: The numbers of bits that packs of a policy were seen with last, which are looked for first.
LIKELY_BITS = 4

#: How many values of `low` a metric's pack is looked for with: the likely ones, then all.
LOWS = (LIKELY_BITS, BITS_MAX + 1)

_HOLDS_ANY_OF_FEW = pack.c.low.in_(sa.bindparam("lows", expanding=True))


@functools.lru_cache(maxsize=64)
def prepare_of_sacks(statement: sa.Select[Any], column: sa.ColumnElement[int], sacks: int) -> PreparedSelect:
    """Return the statement for so many sacks: `number0` and so on."""
    return PreparedSelect(statement.where(column.in_([
        sa.bindparam(f"number{place}", type_=sa.Integer) for place in range(sacks)])))


#: Every column that names an object, or a guest in one.
_REFERENCES = (pack.c.base_key, pack.c.delta_key, block.c.object_key, parked.c.object_key)

#: Follows in the order of texts all that the key of an object is followed by in those of its guests.
_LAST_GUEST = f"{GUEST_MARK}~"

#: Objects whose names are looked for by one statement, where they are few among many.
RANGES_AT_ONCE = 100

#: Objects that have lost a reference, read at once.
GARBAGE_AT_ONCE = 1000


@functools.cache
def _prepare_list_named(ranges: int) -> PreparedSelect:
    """Return the statement for the keys in any row that are from `first0` to `last0`, or from `first1` to `last1`...

    All columns at once: what a commit moves from one to another is seen.  Ranges that come from rows would make MariaDB
    read all of the index for each.
    """
    return PreparedSelect(sa.union_all(*[
        sa.select(column).where(sa.or_(*[column.between(sa.bindparam(f"first{number}", type_=column.type),
                                                        sa.bindparam(f"last{number}", type_=column.type))
                                         for number in range(ranges)]))
        for column in _REFERENCES]))


def _select_catalogue(overlaps: sa.ColumnElement[bool], *conditions: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the statement that finds packs of a policy and, of their blocks, those that `overlaps` is true of.

    An outer join and not two statements: a split in between would give a pack without its blocks.
    """
    return (sa.select(*pack.c, *block.c).select_from(pack.outerjoin(block, overlaps))
            .where(pack.c.policy_id == sa.bindparam("policy_id"), *conditions))


def _holds_metric(lows: int) -> sa.ColumnElement[bool]:
    """Return the condition that a pack holds a metric: their low bits, as many as the pack has, agree.

    The list of values that `low` can have (`low0` and so on) lets the database look those up instead of reading all
    packs.
    """
    return sa.and_(pack.c.low.in_([sa.bindparam(f"low{number}", type_=sa.BigInteger) for number in range(lows)]),
                   pack.c.low == sa.bindparam("low", type_=sa.BigInteger).op("&")(
                       sa.literal(1, sa.BigInteger).op("<<")(pack.c.bits) - 1))


@functools.lru_cache(maxsize=64)
def prepare_get_catalogue(granularities: int | None, lows: int) -> PreparedSelect:
    """Return the statement for one metric, so many granularities (`granularity0` and so on; None: all) and lows."""
    chosen = sa.true() if granularities is None else sa.or_(sa.false(), *[
        block.c.granularity == sa.bindparam(f"granularity{number}") for number in range(granularities)])
    return PreparedSelect(_select_catalogue(sa.and_(_OVERLAPS, chosen), _holds_metric(lows)))


#: Under True: of some granularities only.
LIST_CATALOGUE_OF_FEW = {
    False: PreparedSelect(_select_catalogue(_OVERLAPS, _HOLDS_ANY_OF_FEW)),
    True: PreparedSelect(_select_catalogue(_OVERLAPS_AND_GRANULARITY, _HOLDS_ANY_OF_FEW))}
LIST_CATALOGUE = {False: PreparedSelect(_select_catalogue(_OVERLAPS)),
                  True: PreparedSelect(_select_catalogue(_OVERLAPS_AND_GRANULARITY))}


def _encode_section(prefix: str, section: SectionRef | None) -> dict[str, Any]:
    key, offset, length = section if section is not None else (None, None, None)
    return {f"{prefix}_key": key, f"{prefix}_offset": offset, f"{prefix}_length": length}


def encode_pack(row: Pack) -> dict[str, Any]:
    return {"id": row.id, "sack": row.sack, "policy_id": row.policy_id, "bits": row.bits, "low": row.low,
            **_encode_section("base", row.base), **_encode_section("delta", row.delta),
            "metrics": row.metrics, "bytes": row.bytes}


def encode_block(row: Block) -> dict[str, Any]:
    key, offset, length = row.section
    return {"id": row.id, "pack_id": row.pack_id, "object_key": key, "offset": offset, "length": length,
            "granularity": row.granularity, "level": row.level, "first": row.first, "last": row.last,
            "rows": row.rows}


def _decode_pack(id: uuid.UUID, sack: int, policy_id: uuid.UUID, bits: int, low: int,
                 base_key: str | None, base_offset: int, base_length: int,
                 delta_key: str | None, delta_offset: int, delta_length: int, metrics: int, bytes: int) -> Pack:
    return Pack(id=id, sack=sack, policy_id=policy_id, bits=bits, low=low,
                base=None if base_key is None else SectionRef(base_key, base_offset, base_length),
                delta=None if delta_key is None else SectionRef(delta_key, delta_offset, delta_length),
                metrics=metrics, bytes=bytes)


def _decode_block(id: uuid.UUID, pack_id: uuid.UUID, key: str, offset: int, length: int, granularity: int, level: int,
                  first: int, last: int, rows: int) -> Block:
    return Block(id=id, pack_id=pack_id, section=SectionRef(key, offset, length), granularity=granularity,
                 level=level, first=first, last=last, rows=rows)


def encode_parked(row: Parked) -> dict[str, Any]:
    key, offset, length = row.section
    return {"id": row.id, "sack": row.sack, "pack_id": row.pack_id, "policy_id": row.policy_id, "object_key": key,
            "offset": offset, "length": length, "measures": row.measures, "reason": row.reason,
            "parked_at": row.parked_at, "attempts": row.attempts}


def _decode_parked(id: uuid.UUID, sack: int, pack_id: uuid.UUID, policy_id: uuid.UUID, key: str, offset: int,
                   length: int, measures: int, reason: str, parked_at: datetime.datetime, attempts: int) -> Parked:
    return Parked(id=id, sack=sack, pack_id=pack_id, policy_id=policy_id, section=SectionRef(key, offset, length),
                  measures=measures, reason=reason, parked_at=parked_at, attempts=attempts)


def _cut_low(low: int, bits: int) -> int:
    return low & ((1 << bits) - 1)


def _no_such_sack(number: int) -> exceptions.BackendUnavailable:
    return exceptions.BackendUnavailable(f"index: there is no sack {number}")


def _require_power_of_two(count: int) -> None:
    if count < 1 or count & (count - 1):
        raise exceptions.InvalidInput(f"The number of sacks must be a power of two, not {count}")


class Packs(Connections):

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: By policy, the latest first.
        self._likely_bits: dict[uuid.UUID, tuple[int, ...]] = {}

    # ---- sacks

    @retried
    def count_sacks(self) -> int:
        """Return the number of sacks; 0 before the first upgrade."""
        with self.reading() as connection:
            return COUNT_SACKS.fetch(connection, {})[0][0]

    @retried
    def create_sacks(self, count: int) -> bool:
        """Create `count` sacks, a power of two, unless there are any; return whether they were created.

        Raises InvalidInput.
        """
        _require_power_of_two(count)
        try:
            with self.writing() as connection:
                if connection.execute(sa.select(sack.c.number).limit(1)).first() is not None:
                    return False
                _insert_sacks(connection, count, 0)
        except exc.IntegrityError:      # another upgrade was faster
            return False
        return True

    @retried
    def get_sack(self, number: int) -> Sack:
        """Raises BackendUnavailable when there is no such sack: the index was not upgraded, or changed under us."""
        with self.reading() as connection:
            row = connection.execute(GET_SACK, {"number": number}).first()
        if row is None:
            raise _no_such_sack(number)
        return Sack(*row)

    def get_sack_contents(self, number: int) -> SackContents:
        """Return all that processing has to know of a sack, as `list_sack_contents` does."""
        return self.list_sack_contents([number])[0]

    @retried
    def list_sack_contents(self, numbers: Sequence[int]) -> list[SackContents]:
        """Return all that processing has to know of some sacks, in their order, with as many statements as for one.

        What was committed after a sack itself was read may show in the rest: then a commit on top of the
        sequence returned is lost.

        Raises BackendUnavailable when there is no such sack, as `get_sack` does.
        """
        packs: dict[int, list[Pack]] = {number: [] for number in numbers}
        parked_rows: dict[int, list[Parked]] = {number: [] for number in numbers}
        any_parked = False
        with self.reading() as connection:
            sacks = {row[0]: Sack(*row) for row in _fetch_of_sacks(connection, SELECT_SACKS, sack.c.number, numbers)}
            for *row, is_parked in _fetch_of_sacks(connection, SELECT_PACKS_AND_WHETHER_PARKED, pack.c.sack, numbers):
                found = _decode_pack(*row)
                packs[found.sack].append(found)
                any_parked |= bool(is_parked)
            if any_parked:
                for row in _fetch_of_sacks(connection, SELECT_PARKED, parked.c.sack, numbers):
                    waiting = _decode_parked(*row)
                    parked_rows[waiting.sack].append(waiting)
            policies = {row[0]: decode_policy(*row) for row in LIST_POLICIES_FAST.fetch(connection, {})}
            [[count]] = COUNT_SACKS.fetch(connection, {})
        for number in numbers:
            if number not in sacks:
                raise _no_such_sack(number)
        return [SackContents(sacks[number], count, packs[number], policies, tuple(parked_rows[number]))
                for number in numbers]

    @retried
    def list_sacks(self) -> list[Sack]:
        """Return all sacks by number."""
        with self.reading() as connection:
            return [Sack(*row) for row in LIST_SACKS.fetch(connection, {})]

    @retried
    def raise_sequences(self, minimum: int) -> None:
        """Let no sack be at a lower sequence; commits on top of what was raised are lost."""
        with self.writing() as connection:
            connection.execute(sa.update(sack).where(sack.c.sequence < minimum).values(sequence=minimum))

    @retried
    def change_sacks(self, count: int) -> None:
        """Change the number of sacks, a power of two; nothing stored is touched.

        Packs go to the sack that their low bits name.  A pack with too few bits for that is split into
        rows that refer to the same sections.  All checkpoints are emptied, so the backlog has to be
        empty and nobody may be writing to it; sequences go on above the highest.

        Raises InvalidInput.
        """
        _require_power_of_two(count)
        bits = count.bit_length() - 1
        with self.writing() as connection:
            sequences = connection.execute(sa.select(sack.c.sequence).with_for_update()).scalars().all()
            connection.execute(sa.delete(sack))
            # Above all that a worker may have read before: its commit loses, though the number of its sack remains.
            _insert_sacks(connection, count, max(sequences, default=-1) + 1)
            _split_packs(connection, bits)
            _spread(connection, count)

    # ---- packs and blocks

    @retried
    def list_packs(self, number: int) -> list[Pack]:
        """Return the packs of a sack."""
        with self.reading() as connection:
            return [_decode_pack(*row)
                    for row in connection.execute(GET_PACKS, {"number": number})]

    @retried
    def find_sack(self, row_id: uuid.UUID) -> int | None:
        """Return the sack of the pack, of the block or of the parked measures with this id."""
        statements = (sa.select(pack.c.sack).where(pack.c.id == row_id),
                      sa.select(pack.c.sack).join(block).where(block.c.id == row_id),
                      sa.select(parked.c.sack).where(parked.c.id == row_id))
        with self.reading() as connection:
            return next((row[0] for statement in statements for row in connection.execute(statement)), None)

    def list_sack_blocks(self, number: int) -> list[Block]:
        """Return the blocks of all packs of a sack."""
        return self.list_blocks([number])[number]

    @retried
    def list_blocks(self, numbers: Sequence[int]) -> dict[int, list[Block]]:
        """Return the blocks of all packs of some sacks, by sack."""
        blocks: dict[int, list[Block]] = {number: [] for number in numbers}
        statement = sa.select(pack.c.sack, *block.c).join_from(pack, block).where(self.in_ids(pack.c.sack, "numbers"))
        with self.reading() as connection:
            for row in connection.execute(statement, {"numbers": list(numbers)}):
                blocks[row[0]].append(_decode_block(*row[1:]))
        return blocks

    @retried
    def list_pack_blocks(self, ids: Sequence[uuid.UUID]) -> list[Block]:
        """Return the blocks of the packs named."""
        statement = sa.select(*block.c).where(self.in_ids(block.c.pack_id))
        with self.reading() as connection:
            return [_decode_block(*row) for part in chunks(ids)
                    for row in connection.execute(statement, {"ids": part})]

    @retried
    def get_pack_catalogue(self, policy_id: uuid.UUID, low: int, granularities: Sequence[int] | None = None,
                           start: int | None = None, stop: int | None = None) -> tuple[Pack | None, list[Block]]:
        """Return the pack that holds a metric and its blocks, as they are at one moment.

        Parameters
        ----------
        policy_id : the metric's archive policy
        low : low bits of the metric's id, 62 or more of them
        granularities : int ns; None: all
        start, stop : int ns; blocks with a bucket that overlaps [start, stop); None: open

        Returns
        -------
        pack : None while nothing was stored for such metrics
        blocks : in no order
        """
        parameters = _window(policy_id, start, stop)
        parameters["low"] = _cut_low(low, BITS_MAX)
        parameters.update({f"granularity{number}": value for number, value in enumerate(granularities or ())})
        known = self._likely_bits.get(policy_id, ())
        likely = (*known, *range(LIKELY_BITS))[:LIKELY_BITS]
        # The packs partition the ids, so the first one found is the one.
        for tried in (likely, range(BITS_MAX + 1)):
            parameters.update({f"low{number}": _cut_low(low, bits) for number, bits in enumerate(tried)})
            statement = prepare_get_catalogue(None if granularities is None else len(granularities), len(tried))
            found = _group_catalogue(self.fetch(statement, parameters))
            assert len(found) < 2, f"BUG: packs {[pack.id for pack, _ in found]} of policy {policy_id} overlap"
            if found:
                bits = found[0][0].bits
                if known[:1] != (bits,):
                    self._likely_bits[policy_id] = (bits, *(other for other in known if other != bits))[:LIKELY_BITS]
                return found[0]
        return None, []

    @retried
    def list_pack_catalogue(self, policy_id: uuid.UUID, lows: Sequence[int],
                            granularities: Sequence[int] | None = None, start: int | None = None,
                            stop: int | None = None) -> list[tuple[Pack, list[Block]]]:
        """Return the packs that hold any of many metrics of one policy, with their blocks, as at one moment.

        Parameters as in `get_pack_catalogue`.  The packs partition the ids, so a metric is in one at most.
        """
        statement = LIST_CATALOGUE
        parameters = _window(policy_id, start, stop)
        if granularities is not None:
            parameters["granularities"] = list(granularities)
        if len(lows) <= LOWS_LOOKED_UP:
            statement = LIST_CATALOGUE_OF_FEW
            parameters["lows"] = sorted({_cut_low(low, bits) for low in lows for bits in range(BITS_MAX + 1)})
        rows = self.fetch(statement[granularities is not None], parameters)
        lows_by_bits = {bits: {_cut_low(low, bits) for low in lows} for bits in {row[_BITS] for row in rows}}
        return _group_catalogue([row for row in rows if row[_LOW] in lows_by_bits[row[_BITS]]])

    # ---- parked measures

    @retried
    def list_parked(self) -> list[Parked]:
        """Return all measures that are parked, in no order."""
        with self.reading() as connection:
            return [_decode_parked(*row) for row in connection.execute(SELECT_PARKED)]

    @retried
    def count_parked_attempt(self, pack_id: uuid.UUID) -> None:
        """Note that the parked measures of a pack could not be taken once more."""
        with self.writing() as connection:
            connection.execute(sa.update(parked).where(parked.c.pack_id == pack_id)
                               .values(attempts=parked.c.attempts + 1))

    # ---- garbage

    @retried
    def list_collectable_garbage(self, older_than_s: float, limit: int) -> list[str]:
        """Return keys of objects that lost a reference `older_than_s` seconds ago or earlier and have none left."""
        before = utcnow() - datetime.timedelta(seconds=older_than_s)
        old = sa.select(garbage.c.object_key).where(garbage.c.since <= before)
        following = (old.where(garbage.c.object_key > sa.bindparam("after"))
                     .order_by(garbage.c.object_key).limit(GARBAGE_AT_ONCE))
        # What lost its last reference just now is younger.
        still_old = old.where(self.in_ids(garbage.c.object_key))
        found: list[str] = []
        keys = [""]
        with self.reading() as connection:
            while keys and len(found) < limit:
                keys = list(connection.execute(following, {"after": keys[-1]}).scalars())
                named = _find_named(connection, [(key, key) for key in keys])
                free = [key for key in keys if key not in named]
                if free:
                    found += connection.execute(still_old, {"ids": free}).scalars()
        return found[:limit]

    @retried
    def list_known_objects(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that any row names, or that are garbage already.

        Not as at one moment: a key that is named all the time is returned, and so is one that becomes garbage.
        """
        stored = sorted(keys)
        known: set[str] = set()
        in_garbage = sa.select(garbage.c.object_key).where(self.in_ids(garbage.c.object_key))
        with self.reading() as connection:
            # Garbage last: what loses its last reference meanwhile is found there.
            for part in chunks(stored):
                known |= _find_named(connection, [(part[0], part[-1])]).intersection(part)
                known.update(connection.execute(in_garbage, {"ids": part}).scalars())
        return known

    @retried
    def delete_garbage_rows(self, keys: Sequence[str]) -> None:
        """Forget objects that were deleted from the store."""
        with self.writing() as connection:
            for part in chunks(keys):
                connection.execute(sa.delete(garbage).where(self.in_ids(garbage.c.object_key)), {"ids": part})


def _find_named(connection: sa.Connection, ranges: Sequence[tuple[str, str]]) -> set[str]:
    """Return the objects from one key to another, for each range, that any row names, or a guest in which it names."""
    at_once = 1 if len(ranges) == 1 else RANGES_AT_ONCE
    named: set[str] = set()
    for part in chunks(ranges, at_once):
        filled = [*part, *[part[-1]] * (at_once - len(part))]
        parameters = {f"first{number}": first for number, (first, _) in enumerate(filled)}
        parameters |= {f"last{number}": last + _LAST_GUEST for number, (_, last) in enumerate(filled)}
        named.update(find_object(key) for [key] in _prepare_list_named(at_once).fetch(connection, parameters))
    return named


def name_sacks(statement: sa.Select[Any], column: sa.ColumnElement[int],
               numbers: Sequence[int]) -> tuple[PreparedSelect, dict[str, int]]:
    """Return the statement for some sacks, one at least, and its parameters."""
    count = next((sacks for sacks in SACKS_READ if sacks >= len(numbers)), len(numbers))
    filled = [*numbers, *[numbers[0]] * (count - len(numbers))]
    return (prepare_of_sacks(statement, column, count),
            {f"number{place}": number for place, number in enumerate(filled)})


def _fetch_of_sacks(connection: sa.Connection, statement: sa.Select[Any], column: sa.ColumnElement[int],
                    numbers: Sequence[int]) -> list[list[Any]]:
    """Return the rows of some sacks, one at least."""
    prepared, parameters = name_sacks(statement, column, numbers)
    return prepared.fetch(connection, parameters)


def _window(policy_id: uuid.UUID, start: int | None, stop: int | None) -> dict[str, Any]:
    """Return the parameters that all catalogue statements have."""
    return {"policy_id": policy_id, "start": START_MIN if start is None else max(start, START_MIN),
            "stop": STOP_MAX if stop is None else min(stop, STOP_MAX)}


def _group_catalogue(rows: Sequence[Any]) -> list[tuple[Pack, list[Block]]]:
    found: dict[uuid.UUID, tuple[Pack, list[Block]]] = {}
    columns = len(pack.c)
    for row in rows:
        entry = found.get(row[0])
        if entry is None:
            entry = found[row[0]] = (_decode_pack(*row[:columns]), [])
        if row[columns] is not None:
            entry[1].append(_decode_block(*row[columns:]))
    return list(found.values())


def _insert_sacks(connection: sa.Connection, count: int, sequence: int) -> None:
    connection.execute(sa.insert(sack), [
        {"number": number, "sequence": sequence, "checkpoint": {}} for number in range(count)])


def _split_packs(connection: sa.Connection, bits: int) -> None:
    """Replace packs that have fewer than `bits` bits by children with that many, which name the same sections."""
    parents = [_decode_pack(*row) for row in connection.execute(SELECT_PACKS.where(pack.c.bits < bits))]
    for parent in parents:
        children = [parent._replace(id=uuid.uuid4(), bits=bits, low=parent.low | high << parent.bits)
                    for high in range(1 << (bits - parent.bits))]
        copies = [(table, _copy_rows(connection, table, parent, children)) for table in (block, parked)]
        connection.execute(sa.delete(parked).where(parked.c.pack_id == parent.id))
        connection.execute(sa.delete(pack).where(pack.c.id == parent.id))       # and its blocks
        connection.execute(sa.insert(pack), [encode_pack(child) for child in children])
        for table, rows in copies:
            if rows:
                connection.execute(sa.insert(table), rows)


def _copy_rows(connection: sa.Connection, table: sa.Table, parent: Pack, children: Sequence[Pack]) -> list[dict]:
    rows = connection.execute(sa.select(*table.c).where(table.c.pack_id == parent.id)).mappings().all()
    return [{**row, "id": uuid.uuid4(), "pack_id": child.id} for row in rows for child in children]


def _spread(connection: sa.Connection, count: int) -> None:
    """Give every pack and its parked measures the sack that its low bits name; no pack has fewer bits than needed."""
    connection.execute(sa.update(pack).values(sack=pack.c.low.op("&")(count - 1)))
    connection.execute(sa.update(parked).values(sack=parked.c.sack.op("&")(count - 1)))
    its_sack = sa.select(pack.c.sack).where(pack.c.id == parked.c.pack_id).scalar_subquery()
    connection.execute(sa.update(parked).where(parked.c.pack_id.in_(sa.select(pack.c.id))).values(sack=its_sack))
