"""Connections of the index: failures, retries, threads and forks, on every database."""

import concurrent.futures
import contextlib
import os
import socket
import sqlite3
import threading
import uuid

import pytest
import sqlalchemy as sa

from gnocchi import exceptions
from gnocchi.indexer import SackCommit, transactions
from gnocchi.indexer.models import archive_policy, sack
from gnocchi.indexer.sqlalchemy import DATABASE_OPTS, OPTS, Indexer
from gnocchi.indexer.transactions import Undone, parse_url, retried
from gnocchi.tests.contract.test_indexer_archive_policies import make_policy
from gnocchi.tests.databases import DEADLINE_S

only_on_sqlite = pytest.mark.parametrize("database", ["sqlite"])
only_on_servers = pytest.mark.parametrize("database", ["postgresql", "mariadb"])


@pytest.mark.parametrize(("url", "expected"), [
    ("postgresql://u:p@h:1/d?sslmode=require",
     "postgresql+psycopg://u:***@h:1/d?connect_timeout=10&sslmode=require"),
    ("postgresql+psycopg2://h/d", "postgresql+psycopg://h/d?connect_timeout=10"),
    ("postgresql+psycopg://h/d?connect_timeout=3", "postgresql+psycopg://h/d?connect_timeout=3"),
    ("mysql://u:p@h/d", "mysql+pymysql://u:***@h/d?charset=utf8mb4"),
    ("mysql+pymysql://h/d?charset=utf8", "mysql+pymysql://h/d?charset=utf8mb4"),
    ("sqlite:////a/b.db", "sqlite:////a/b.db")])
def test_parse_url(url, expected):
    """URLs of older deployments go on working, with the drivers that we use."""
    parsed = parse_url(url)
    assert sa.make_url(expected.replace("***", "p")) == parsed


@pytest.mark.parametrize("url", ["", "secret", "oracle://u:secret@h/d", "sqlite://", "sqlite:///:memory:"])
def test_parse_url_refuses(url):
    with pytest.raises(ValueError, match="^indexer.url") as e:
        parse_url(url)
    assert "secret" not in str(e.value)


def test_describe_url():
    """Logs show where the index is and not how to get in."""
    indexer = Indexer("mysql://user:secret@host:3306/name")
    assert "mysql://***:***@host:3306/name" == indexer.describe_url()
    assert "secret" not in str(indexer) + repr(indexer)
    assert "sqlite:////a/b.db" == Indexer("sqlite:////a/b.db").describe_url()


def test_options():
    """The options that operators set exist, and the URL is masked in logs."""
    url, = OPTS
    assert (True, True) == (url.secret, url.required)
    assert {"max_pool_size": 5, "max_overflow": 50, "pool_timeout": None, "connection_recycle_time": 3600} == {
        option.name: option.default for option in DATABASE_OPTS}


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_server_is_away(scheme):
    """The index can be made while nobody listens; each call then fails as unavailable, without secrets."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as unused:
        port = unused.getsockname()[1]
    indexer = Indexer(f"{scheme}://user:secret@127.0.0.1:{port}/name")
    for call in (indexer.count_sacks, lambda: indexer.create_sacks(1)):
        with pytest.raises(exceptions.BackendUnavailable, match="^index: ") as e:
            call()
        assert "secret" not in str(e.value)
        assert not isinstance(e.value, Undone), "a server that is down is not worth eight tries"


def test_file_is_away(tmp_path):
    indexer = Indexer(f"sqlite:///{tmp_path}/missing/index.db")
    with pytest.raises(exceptions.BackendUnavailable, match="index: unable to open database file"):
        indexer.count_sacks()


def test_file_is_damaged(tmp_path):
    path = tmp_path / "index.db"
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(exceptions.BackendUnavailable, match="index: file is not a database"):
        Indexer(f"sqlite:///{path}").count_sacks()


@only_on_sqlite
def test_disk_is_full(indexer):
    """A write that finds no room fails as unavailable and leaves nothing behind."""

    def limit(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sa.event.listen(indexer.engine, "connect", limit)
    with pytest.raises(exceptions.BackendUnavailable, match="index: database or disk is full"):
        indexer.create_sacks(2**14)
    assert 0 == indexer.count_sacks()


@only_on_sqlite
def test_sqlite_settings(indexer):
    """What was committed survives a crash, foreign keys hold, LIKE heeds case."""
    with indexer.reading() as connection:
        assert "wal" == connection.exec_driver_sql("PRAGMA journal_mode").scalar()
        assert 2 == connection.exec_driver_sql("PRAGMA synchronous").scalar()
        assert 1 == connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
        assert 10_000 == connection.exec_driver_sql("PRAGMA busy_timeout").scalar()
        assert 0 == connection.exec_driver_sql("SELECT 'a' LIKE 'A'").scalar()


@only_on_sqlite
def test_sqlite_locked_by_another(indexer, monkeypatch):
    """Another program that keeps SQLite locked makes writes unavailable; reads go on."""
    monkeypatch.setattr(transactions, "BUSY_TIMEOUT_S", 0.05)
    with (contextlib.closing(Indexer(str(indexer.url))) as impatient,
          contextlib.closing(sqlite3.connect(indexer.url.database, isolation_level=None)) as other):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(exceptions.BackendUnavailable, match="index: database is locked"):
            impatient.create_sacks(2)
        assert 0 == impatient.count_sacks()
        other.execute("ROLLBACK")
        assert impatient.create_sacks(2)


def test_no_free_connection(database_url):
    with contextlib.closing(Indexer(database_url, max_pool_size=1, max_overflow=0, pool_timeout=0.05)) as indexer:
        with indexer.reading(), pytest.raises(exceptions.BackendUnavailable, match="index: no free connection"):
            indexer.count_sacks()
        assert 0 == indexer.count_sacks()


def test_nothing_stays_open(indexer):
    """Each call gives its connection back and ends its transaction, also when it fails."""
    indexer.create_sacks(2)
    with pytest.raises(exceptions.CommitLost):
        indexer.commit_sack(SackCommit(0, 5, None))
    with pytest.raises(exceptions.NoSuchArchivePolicy):
        indexer.get_archive_policy("nope")
    with pytest.raises(ZeroDivisionError), indexer.writing() as connection:
        connection.execute(sa.delete(sack))
        raise ZeroDivisionError
    assert 2 == indexer.count_sacks()
    assert 0 == indexer.engine.pool.checkedout()


def test_reader_sees_commits(indexer):
    """Each statement of `reading` sees what is committed when it runs."""
    indexer.create_sacks(1)
    with indexer.reading() as connection:
        assert 0 == connection.execute(sa.select(sack.c.sequence)).scalar()
        indexer.commit_sack(SackCommit(0, 0, None))
        assert 1 == connection.execute(sa.select(sack.c.sequence)).scalar()


def kill_connections(indexer):
    """End every session of this database on the server but our own, as a restart would."""
    query, kill = {
        "postgresql": ("SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                       "AND pid != pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        "mysql": ("SELECT id FROM information_schema.processlist WHERE db = database() AND id != connection_id()",
                  "KILL {}")}[indexer.dialect]
    with contextlib.closing(Indexer(indexer.url.render_as_string(hide_password=False))) as other, \
            other.reading() as connection:
        sessions = connection.exec_driver_sql(query).scalars().all()
        for session in sessions:
            connection.exec_driver_sql(kill.format(session))
    assert sessions


@only_on_servers
def test_connections_lost_while_idle(indexer):
    """After a restart of the server the next read and the next write succeed at once."""
    indexer.create_sacks(2)
    kill_connections(indexer)
    assert 2 == indexer.count_sacks()
    kill_connections(indexer)
    indexer.commit_sack(SackCommit(0, 0, None))
    assert 1 == indexer.get_sack(0).sequence


@only_on_servers
def test_connection_lost_in_transaction(indexer):
    """What was lost before its commit did not happen, and may be tried again."""
    with pytest.raises(Undone), indexer.writing() as connection:
        connection.execute(sa.insert(sack), {"number": 0, "sequence": 0, "checkpoint": {}})
        kill_connections(indexer)
        connection.execute(sa.select(sack.c.number))
    assert 0 == indexer.count_sacks()


@only_on_servers
def test_connection_lost_during_commit(indexer):
    """Then nobody knows, so nothing is tried again and the error says so."""
    with (pytest.raises(exceptions.BackendUnavailable, match="lost during a commit, which may have happened") as e,
          indexer.writing() as connection):
        connection.execute(sa.insert(sack), {"number": 0, "sequence": 0, "checkpoint": {}})
        kill_connections(indexer)
    assert not isinstance(e.value, Undone)


class Deadlocking(Indexer):
    """Locks two sacks in the order given, waiting in between until another has its first."""

    barrier = threading.Barrier(2)
    attempts: list[tuple[int, int]] = []

    @retried
    def raise_both(self, numbers):
        first_time = numbers not in self.attempts
        self.attempts.append(numbers)
        with self.writing() as connection:
            for number in numbers:
                connection.execute(sa.update(sack).where(sack.c.number == number).values(sequence=sack.c.sequence + 1))
                if first_time and number == numbers[0]:
                    self.barrier.wait(20)


@only_on_servers
def test_deadlock_is_retried(indexer, monkeypatch):
    """Of two that wait for each other one is undone by the server, and its whole method runs again."""
    monkeypatch.setattr(Deadlocking, "barrier", threading.Barrier(2))
    monkeypatch.setattr(Deadlocking, "attempts", [])
    indexer.create_sacks(2)
    with (contextlib.closing(Deadlocking(indexer.url.render_as_string(hide_password=False))) as both,
          concurrent.futures.ThreadPoolExecutor(2) as threads):
        futures = [threads.submit(both.raise_both, numbers) for numbers in ((0, 1), (1, 0))]
        for future in futures:
            future.result(timeout=DEADLINE_S)
    assert [2, 2] == [row.sequence for row in indexer.list_sacks()]
    assert 3 == len(Deadlocking.attempts)


def test_retries_end(indexer, monkeypatch):
    """What is undone again and again fails in the end, as unavailable."""
    monkeypatch.setattr(transactions, "PAUSE_S_MAX", 0)
    attempts = []

    class Unlucky(Indexer):
        @retried
        def run(self):
            attempts.append(1)
            raise Undone("index: deadlock")

    with pytest.raises(exceptions.BackendUnavailable, match="deadlock"):
        Unlucky(str(indexer.url)).run()
    assert transactions.TRIES_MAX == len(attempts)


def test_threads(indexer):
    """Threads share one index: every increment counts."""
    indexer.create_sacks(1)

    def advance(_):
        while True:
            try:
                return indexer.commit_sack(SackCommit(0, indexer.get_sack(0).sequence, None))
            except exceptions.CommitLost:
                continue

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        list(threads.map(advance, range(40)))
    assert 40 == indexer.get_sack(0).sequence


def test_fork(indexer):
    """A child that calls after_fork has connections of its own, even if a thread was writing; the parent's live on."""
    indexer.create_sacks(1)
    with indexer.writing() as connection:       # so that locks of this process are held at the fork
        connection.execute(sa.select(sack.c.number))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                indexer.after_fork()
                status = 0 if indexer.count_sacks() == 1 and indexer._queue.acquire(timeout=0) else 2
            finally:
                os._exit(status)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.execute(sa.update(sack).values(sequence=7))
    assert 7 == indexer.get_sack(0).sequence


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 100_000])
def test_strange_names_in_lookups(indexer, name):
    """Text that no row can hold is not found, or refused as the client's mistake; it is no failure of ours."""
    for call in (indexer.get_archive_policy, indexer.get_archive_policy_rule, indexer.get_resource_type,
                 lambda name: indexer.list_metrics({"name": name})):
        with contextlib.suppress(exceptions.NotFound, exceptions.InvalidInput):
            assert [] == call(name)


@only_on_servers
def test_data_error_is_the_clients(indexer):
    """A value that a column cannot take is bad input, and the text holds no statement."""
    policy = make_policy("x" * 300)
    with pytest.raises(exceptions.InvalidInput) as e, indexer.writing() as connection:
        connection.execute(sa.insert(archive_policy), {
            "id": uuid.uuid4(), "name": policy.name, "back_window": 0, "definition": [], "aggregation_methods": []})
    assert "INSERT" not in str(e.value)
