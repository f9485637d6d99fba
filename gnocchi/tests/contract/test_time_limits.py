"""Servers that accept and never answer: every call ends, and all goes on once they answer again."""

import contextlib
import threading
import uuid

import pytest
import sqlalchemy as sa

from gnocchi.exceptions import BackendUnavailable, NoSuchMetric
from gnocchi.indexer import time_limits, transactions
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.faulty import faulty

only_on_servers = pytest.mark.parametrize("database", ["postgresql", "mariadb"])

ANSWER_S = 0.3
#: The least that libpq takes.
CONNECT_S = 2


@pytest.fixture
def proxy(database_url):
    with faulty(sa.make_url(database_url).port) as made:
        yield made


@pytest.fixture
def indexer(database_url, proxy, monkeypatch):
    # What takes longer than all tries together may is given up after the first.
    monkeypatch.setattr(transactions, "TRIES_S_MAX", ANSWER_S / 2)
    url = sa.make_url(database_url).set(port=proxy.port).update_query_dict({"connect_timeout": str(CONNECT_S)})
    with contextlib.closing(Indexer(url.render_as_string(), answer_timeout_s=ANSWER_S)) as made:
        made.create_sacks(4)
        yield made


def call(function):
    """Return what a call raises, within a time in which any call must have ended."""
    raised = []

    def run():
        try:
            function()
        except BackendUnavailable as e:
            raised.append(e)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive(), "hangs"
    return raised[0] if raised else None


@only_on_servers
def test_no_answer_on_an_open_connection(indexer, proxy):
    """Reads, prepared reads and writes end; afterwards the same index works."""
    assert 4 == indexer.count_sacks()
    for function in (indexer.count_sacks, indexer.list_sacks, lambda: indexer.list_archive_policies(),
                     lambda: indexer.create_sacks(8)):
        proxy.swallow()
        assert "index: " in str(call(function))
        proxy.pass_on()
        assert 4 == indexer.count_sacks()


@only_on_servers
def test_no_answer_to_a_new_connection(indexer, proxy):
    indexer.close()
    proxy.swallow()
    assert "index: " in str(call(indexer.count_sacks))
    proxy.pass_on()
    assert 4 == indexer.count_sacks()


@only_on_servers
def test_silence_is_not_tried_eight_times(indexer, proxy, monkeypatch):
    tries = []
    inner = transactions.Connections.writing

    @contextlib.contextmanager
    def writing(self):
        tries.append(None)
        with inner(self) as connection:
            yield connection

    monkeypatch.setattr(transactions.Connections, "writing", writing)
    proxy.swallow()
    assert call(lambda: indexer.create_sacks(8)) is not None
    assert 1 == len(tries)


@only_on_servers
def test_slow_but_alive(indexer, proxy):
    """An answer within the limit counts, however many pieces it comes in."""
    proxy.delay(ANSWER_S / 10)
    assert 4 == indexer.count_sacks()


@only_on_servers
def test_connection_cut_within_an_answer(indexer, proxy):
    proxy.cut_after(3)
    failure = call(indexer.count_sacks)
    assert failure is None or "index: " in str(failure)    # a read may be tried again by itself
    assert 4 == indexer.count_sacks()


@only_on_servers
def test_connection_cut_anywhere(database_url, proxy, caplog):
    """Also while it is given back, as amid the answer to a rollback: no read fails, and no log has a traceback."""
    url = sa.make_url(database_url).set(port=proxy.port)
    with contextlib.closing(Indexer(url.render_as_string())) as indexer:
        for count in range(0, 160, 2):
            indexer.list_sacks()
            proxy.cut_after(count)
            for _ in range(3):
                with pytest.raises(NoSuchMetric):
                    indexer.get_metric(uuid.uuid4())
    assert not any(record.exc_info for record in caplog.records)


@only_on_servers
def test_upgrade_may_take_any_time(database_url):
    """Without a limit there is none: changing a large table takes what it takes."""
    sleep = "SELECT pg_sleep(0.5)" if database_url.startswith("postgresql") else "SELECT SLEEP(0.5)"
    for limit, fails in ((None, False), (ANSWER_S / 3, True)):
        with contextlib.closing(Indexer(database_url, answer_timeout_s=limit)) as indexer:
            def run(indexer=indexer):
                with indexer.reading() as connection:
                    connection.exec_driver_sql(sleep)

            assert fails == (call(run) is not None)


def test_limits_by_default():
    """Longer than MySQL's own wait for a lock, so that a deadlock is told by the server."""
    assert 50 < time_limits.ANSWER_TIMEOUT_S <= 60
    assert 10 == time_limits.CONNECT_TIMEOUT_S
