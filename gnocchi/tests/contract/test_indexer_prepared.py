"""Statements that the driver executes itself, on every database."""

import contextlib
import datetime
import uuid

import pytest
import sqlalchemy as sa

from gnocchi import exceptions
from gnocchi.indexer import MetricDefinition
from gnocchi.indexer.models import archive_policy, metadata, metric, resource
from gnocchi.indexer.prepared import PreparedSelect, PreparedWrite
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.indexer.transactions import Undone
from gnocchi.tests.contract.test_indexer_archive_policies import make_policy
from gnocchi.tests.contract.test_indexer_packs import commit, make_block, make_pack, make_parked
from gnocchi.tests.contract.test_indexer_transactions import kill_connections, only_on_servers

BY_NAME = PreparedSelect(sa.select(archive_policy).where(archive_policy.c.name == sa.bindparam("name")))


def make_metric(indexer):
    policy = make_policy("low")
    indexer.create_archive_policy(policy)
    resource_id = indexer.create_resource(
        "generic", uuid.uuid4(), "me", user_id="100 %s", started_at=datetime.datetime(2020, 1, 2, 3, 4, 5, 678901)).id
    made, = indexer.create_metrics([MetricDefinition(uuid.uuid4(), "low", "✔ %", resource_id=resource_id)], "me")
    return made


@pytest.mark.parametrize("before_connecting", [False, True])
def test_rows_are_those_of_sqlalchemy(indexer, before_connecting):
    """Values of all our types and none at all come out alike, and go in alike; a constant in the statement counts."""
    made = make_metric(indexer)
    statement = (sa.select(*metric.c, *resource.c, *archive_policy.c, archive_policy.c.back_window + 5)
                 .join(resource).join(archive_policy).where(
                     metric.c.id == sa.bindparam("id"), metric.c.name == sa.bindparam("name"), metric.c.unit.is_(None),
                     resource.c.started_at >= sa.bindparam("since"), metric.c.creator != "somebody 100 %"))
    parameters = {"id": made.id, "name": made.name, "since": datetime.datetime(2020, 1, 2, 3, 4, 5, 678901)}
    prepared = PreparedSelect(statement)
    if before_connecting:       # as the master of many processes does
        prepared.compile(Indexer(indexer.url.render_as_string(hide_password=False)).engine.dialect)
    with indexer.reading() as connection:
        found = [prepared.fetch(connection, parameters) for _ in range(7)]     # psycopg prepares the sixth
    with indexer.reading() as connection:
        expected = [list(row) for row in connection.execute(statement, parameters)]
    assert 1 == len(expected)
    assert [expected] * 7 == found
    assert [expected] * 7 == [indexer.fetch(prepared, parameters) for _ in range(7)]
    with indexer.reading() as connection:
        assert [] == prepared.fetch(connection, {**parameters, "name": "other"})
    assert 0 == indexer.engine.pool.checkedout()


def test_lists_of_values(indexer):
    """Each in its place among other parameters, of any length; and again, of another length."""
    made = make_metric(indexer)
    ids = sa.bindparam("ids", type_=metric.c.id.type, expanding=True)
    prepared = PreparedSelect(sa.select(metric.c.id, metric.c.name).where(
        metric.c.creator == sa.bindparam("creator"), metric.c.id.in_(ids), metric.c.name == sa.bindparam("name"),
        metric.c.status.in_(sa.bindparam("states", expanding=True))))
    others = [uuid.uuid4() for _ in range(40)]
    for wanted, states, expected in (([*others, made.id], ["delete", "active"], [[made.id, made.name]]),
                                     ([made.id], ["active"], [[made.id, made.name]]),
                                     (others, ["active"], []), ([made.id], ["delete"], [])):
        parameters = {"ids": wanted, "name": made.name, "creator": "me", "states": states}
        assert expected == indexer.fetch(prepared, parameters)
        with indexer.writing() as connection:
            assert expected == prepared.fetch_within(connection, parameters)


def test_transactions_see_their_own_changes(indexer):
    with indexer.writing() as connection:
        connection.execute(sa.insert(archive_policy), {
            "id": uuid.UUID(int=1), "name": "new", "back_window": 0, "definition": [], "aggregation_methods": ["max"]})
        assert [[uuid.UUID(int=1), "new", 0, [], ["max"]]] == BY_NAME.fetch(connection, {"name": "new"})


POLICY_COLUMNS = ("id", "name", "back_window", "definition", "aggregation_methods")


def make_policy_row(number):
    return {"id": uuid.UUID(int=number), "name": f"✔ % {number}", "back_window": number, "definition": [{"points": 1}],
            "aggregation_methods": ["max"]}


@pytest.mark.parametrize("count", [1, 3])
def test_writes_are_those_of_sqlalchemy(indexer, count):
    """What is written is read back equal, and the number of rows affected is told."""
    insert = PreparedWrite(sa.insert(archive_policy), POLICY_COLUMNS)
    update = PreparedWrite(sa.update(archive_policy).where(archive_policy.c.name == sa.bindparam("wanted"))
                           .values(back_window=archive_policy.c.back_window + sa.bindparam("more")))
    rows = [make_policy_row(number) for number in range(count)]
    with indexer.writing() as connection:
        assert count == insert.execute(connection, rows)
    with indexer.writing() as connection:
        assert 1 == update.execute(connection, [{"wanted": rows[0]["name"], "more": 7}])
        assert 0 == update.execute(connection, [{"wanted": "other", "more": 7}])
    rows[0]["back_window"] += 7
    with indexer.reading() as connection:
        found = connection.execute(sa.select(archive_policy).order_by(archive_policy.c.id)).mappings().all()
    assert rows == [{name: row[name] for name in POLICY_COLUMNS} for row in found]


def test_write_that_breaks_a_constraint(indexer):
    """It is told as SQLAlchemy tells it, and nothing of the transaction remains."""
    insert = PreparedWrite(sa.insert(archive_policy), POLICY_COLUMNS)
    row = make_policy_row(1)
    with pytest.raises(sa.exc.IntegrityError), indexer.writing() as connection:
        insert.execute(connection, [row])
        insert.execute(connection, [row | {"name": "another"}])
    with indexer.reading() as connection:
        assert 0 == connection.execute(sa.select(sa.func.count()).select_from(archive_policy)).scalar_one()
    assert 0 == indexer.engine.pool.checkedout()


@only_on_servers
def test_write_on_a_lost_connection(indexer):
    """The transaction is told to be undone, so it can be tried again."""
    insert = PreparedWrite(sa.insert(archive_policy), POLICY_COLUMNS)
    with pytest.raises(Undone), indexer.writing() as connection:
        insert.execute(connection, [make_policy_row(1)])
        kill_connections(indexer)
        insert.execute(connection, [make_policy_row(2)])
    with indexer.writing() as connection:
        assert 1 == insert.execute(connection, [make_policy_row(1)])
    assert 0 == indexer.engine.pool.checkedout()


def test_readers_see_commits(indexer):
    """No transaction stays open between two statements of a reader, or behind it."""
    with indexer.reading() as connection:
        assert [] == BY_NAME.fetch(connection, {"name": "low"})
        indexer.create_archive_policy(make_policy("low"))
        assert 1 == len(BY_NAME.fetch(connection, {"name": "low"}))
    indexer.delete_archive_policy("low")
    assert 0 == indexer.engine.pool.checkedout()


def test_prepare(indexer):
    """Statements made beforehand find what those made at the first use find."""
    made = make_metric(indexer)
    indexer.prepare()
    assert made == indexer.get_metric(made.id)
    assert made == indexer.get_resource_metric(made.resource_id, made.name)
    assert (None, []) == indexer.get_pack_catalogue(made.archive_policy.id, made.id.int, [60])


def test_prepare_before_connecting(indexer):
    """Which server it is, and so which words it reserves, is not known yet: commits and look-ups need not know."""
    indexer.create_sacks(4)
    pack = make_pack()
    block, row = make_block(pack), make_parked(pack)
    with contextlib.closing(Indexer(indexer.url.render_as_string(hide_password=False))) as unconnected:
        unconnected.prepare()
        commit(unconnected, packs=[pack], blocks=[block], parked=[row], garbage=["old"])
        assert [block] == unconnected.list_sack_blocks(0)


def test_names_need_no_server(indexer):
    """Tables and columns are written alike by a dialect that has not seen its server."""
    assert 0 == indexer.count_sacks()       # connects
    with contextlib.closing(Indexer(indexer.url.render_as_string(hide_password=False))) as unconnected:
        for table in metadata.sorted_tables:
            for statement in (sa.select(table), sa.insert(table), sa.delete(table)):
                assert (str(statement.compile(dialect=indexer.engine.dialect))
                        == str(statement.compile(dialect=unconnected.engine.dialect)))


def test_missing_tables(empty_database_url):
    """An error of the driver is told as if SQLAlchemy had executed the statement."""
    indexer = Indexer(empty_database_url)
    with pytest.raises(exceptions.BackendUnavailable, match="gnocchi-upgrade has to be run"):
        indexer.get_metric(uuid.uuid4())
    indexer.close()


@only_on_servers
def test_connections_lost_while_idle(indexer):
    """After a restart of the server the next look-up succeeds at once."""
    made = make_metric(indexer)
    kill_connections(indexer)
    assert made == indexer.get_metric(made.id)
    assert 0 == indexer.engine.pool.checkedout()
