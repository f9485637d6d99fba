"""The one transaction that makes a commit visible: of one sack, or of several that are committed together."""

import itertools
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from gnocchi import exceptions
from gnocchi.catalogue import find_object
from gnocchi.indexer import SackCommit
from gnocchi.indexer.metrics import chunks, utcnow
from gnocchi.indexer.models import block, garbage, pack, parked, sack
from gnocchi.indexer.packs import (
    SACKS_READ,
    encode_block,
    encode_pack,
    encode_parked,
    name_sacks,
    prepare_of_sacks,
)
from gnocchi.indexer.prepared import PreparedSelect, PreparedWrite
from gnocchi.indexer.transactions import Connections, retried

T = TypeVar("T")

_LOCK_SACKS = sa.select(sack.c.number, sack.c.sequence).order_by(sack.c.number).with_for_update()


class Commits(Connections):

    def commit_sack(self, commit: SackCommit) -> None:
        """Make a commit visible, all of it or nothing.

        Raises
        ------
        CommitLost
            Somebody else committed; nothing was changed.
        BackendUnavailable
            As in `commit_sacks`.
        """
        if self.commit_sacks([commit]):
            raise exceptions.CommitLost(commit.sack, commit.sequence)

    @retried
    def commit_sacks(self, commits: Sequence[SackCommit]) -> set[int]:
        """Make commits of different sacks visible, each as a whole or not at all; return the sacks that lost theirs.

        A sack's sequence is moved on only if it still is the one seen, so of two workers that both believe they own
        the sack one loses.  Nothing is changed in a sack that loses, and the others' commits happen all the same, but
        for those of which objects lie in one of its (`SackCommit.hosts`).
        Blocks of removed packs go with them, unless the commit holds them anew.

        Raises
        ------
        BackendUnavailable
            Nothing was changed; but if the connection broke while the transaction ended, read the sacks again to
            learn whether all of it happened.
        """
        if not commits:
            return set()
        with self.writing() as connection:
            won = self._advance_sacks(connection, commits)
            _delete_ids(connection, block, _join(won, lambda commit: commit.blocks_removed))
            _delete_ids(connection, pack, _join(won, lambda commit: commit.packs_removed))
            _UPSERT_PACK[self.dialect].execute(connection, map(encode_pack, _join(won, lambda commit: commit.packs)))
            _INSERT_BLOCK.execute(connection, map(encode_block, _join(won, lambda commit: commit.blocks)))
            _delete_ids(connection, parked, _join(won, lambda commit: commit.parked_removed))
            _INSERT_PARKED.execute(connection, map(encode_parked, _join(won, lambda commit: commit.parked)))
            now = utcnow()
            _UPSERT_GARBAGE[self.dialect].execute(connection, (
                {"object_key": key, "since": now}
                for key in sorted(set(map(find_object, _join(won, lambda commit: commit.garbage))))))
        return {commit.sack for commit in commits} - {commit.sack for commit in won}

    def _advance_sacks(self, connection: sa.Connection, commits: Sequence[SackCommit]) -> list[SackCommit]:
        """Move on the sacks that are where their commit saw them, with all their hosts, and return those commits."""
        numbers = [commit.sack for commit in commits]
        assert len(set(numbers)) == len(numbers), f"BUG: two commits of one sack in {numbers}"
        found = dict(_lock_sacks(connection, numbers))
        won = find_won(commits, found)
        seen = [(commit, {"seen_number": commit.sack, "seen_sequence": commit.sequence,
                          "next_sequence": commit.sequence + 1}) for commit in won]
        ADVANCE_SACK.execute(connection, (row for commit, row in seen if commit.checkpoint is None))
        ADVANCE_SACK_AND_CHECKPOINT.execute(connection, (
            {**row, "new_checkpoint": commit.checkpoint} for commit, row in seen if commit.checkpoint is not None))
        return won


def find_won(commits: Sequence[SackCommit], sequences: Mapping[int, int]) -> list[SackCommit]:
    """Return those whose sack is where they saw it, according to `sequences`, and whose hosts' commits are among them.

    Else an object that nobody names, and that no commit of its own sack can name any more, could still be named.
    """
    won = [commit for commit in commits if sequences.get(commit.sack) == commit.sequence]
    while True:
        sacks = {commit.sack for commit in won}
        left = [commit for commit in won if sacks.issuperset(commit.hosts)]
        if len(left) == len(won):
            return won
        won = left


def _lock_sacks(connection: sa.Connection, numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the sequences of some sacks, (number, sequence) each, which stay what they are until our transaction ends.

    All lock them in the same order.
    """
    statement, parameters = name_sacks(_LOCK_SACKS, sack.c.number, numbers)
    return [(number, sequence) for number, sequence in statement.fetch_within(connection, parameters)]


def _join(commits: Iterable[SackCommit], get: Callable[[SackCommit], Sequence[T]]) -> list[T]:
    return list(itertools.chain.from_iterable(map(get, commits)))


def _delete_ids(connection: sa.Connection, table: sa.Table, ids: Sequence[uuid.UUID]) -> None:
    for part in chunks(ids):
        connection.execute(sa.delete(table).where(table.c.id.in_(part)))


def _make_upserts(table: sa.Table, key: str, fixed: Collection[str] = ()) -> dict[str, PreparedWrite]:
    """Return, for each database, the statement that inserts a row or gives new values to the one with that key.

    fixed : columns that never change; to write them costs the databases work on their indexes
    """
    columns = [column.name for column in table.c if column.name != key and column.name not in fixed]
    statements: dict[str, Any] = {}
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert)):
        upsert: Any = insert(table)
        statements[dialect] = upsert.on_conflict_do_update(
            index_elements=[key], set_={name: upsert.excluded[name] for name in columns})
    on_mysql = mysql.insert(table)
    statements["mysql"] = on_mysql.on_duplicate_key_update({name: on_mysql.inserted[name] for name in columns})
    return {dialect: PreparedWrite(statement) for dialect, statement in statements.items()}


#: The compare-and-set that every commit begins with.
_ADVANCE_SACK = (sa.update(sack).where(sack.c.number == sa.bindparam("seen_number"),
                                       sack.c.sequence == sa.bindparam("seen_sequence"))
                 .values(sequence=sa.bindparam("next_sequence")))
ADVANCE_SACK = PreparedWrite(_ADVANCE_SACK)
ADVANCE_SACK_AND_CHECKPOINT = PreparedWrite(_ADVANCE_SACK.values(
    checkpoint=sa.bindparam("new_checkpoint", type_=sack.c.checkpoint.type)))
_INSERT_BLOCK = PreparedWrite(sa.insert(block))
_INSERT_PARKED = PreparedWrite(sa.insert(parked))


def list_commit_statements(dialect: str) -> list[PreparedSelect | PreparedWrite]:
    """Return what nearly all commits lock and write with."""
    return [prepare_of_sacks(_LOCK_SACKS, sack.c.number, SACKS_READ[-1]), ADVANCE_SACK_AND_CHECKPOINT,
            _UPSERT_PACK[dialect], _INSERT_BLOCK, _UPSERT_GARBAGE[dialect]]


_UPSERT_PACK = _make_upserts(pack, "id", fixed=("sack", "policy_id", "bits", "low"))
_UPSERT_GARBAGE = _make_upserts(garbage, "object_key")
