"""Making and updating the tables of the index, on every database."""

import concurrent.futures
import contextlib
import multiprocessing

import pytest
import sqlalchemy as sa
from alembic import autogenerate, script
from alembic.runtime.migration import MigrationContext

from gnocchi import exceptions
from gnocchi.indexer import ResourceType, migration, models
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.tests.databases import DEADLINE_S

GENERIC = ResourceType("generic", {}, "active")


@pytest.fixture
def empty(empty_database_url):
    with contextlib.closing(Indexer(empty_database_url)) as indexer:
        yield indexer


def list_revisions(indexer):
    with indexer.reading() as connection:
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars().all()


def upgrade_url(url):
    with contextlib.closing(Indexer(url)) as indexer:
        migration.upgrade(indexer)


@pytest.mark.filterwarnings("ignore:Computed default on:UserWarning")     # whose text databases write in their own way
def test_models_equal_schema(empty):
    """The migrations make exactly the tables that the models describe."""
    migration.upgrade(empty)
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        differences = autogenerate.compare_metadata(context, models.metadata)
        if connection.dialect.name != "postgresql":
            differences = [d for d in differences if getattr(d[1], "name", None) != "ix_resource_attributes"]
    assert [] == differences


def test_upgrade_repeated(empty):
    """A second upgrade changes nothing and keeps the rows."""
    migration.upgrade(empty)
    empty.create_sacks(4)
    migration.upgrade(empty)
    assert [GENERIC] == empty.list_resource_types()
    assert 4 == empty.count_sacks()
    assert [script.ScriptDirectory.from_config(migration.make_config()).get_current_head()] == list_revisions(empty)


def test_upgrade_at_once(empty_database_url):
    """Upgrades that race, in threads and in processes, all succeed and the tables are made once."""
    with (concurrent.futures.ThreadPoolExecutor(3) as threads,
          concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as processes):
        futures = [pool.submit(upgrade_url, empty_database_url)
                   for pool, count in ((processes, 2), (threads, 3)) for _ in range(count)]
        for future in futures:
            future.result(timeout=DEADLINE_S)
    with contextlib.closing(Indexer(empty_database_url)) as indexer:
        assert [GENERIC] == indexer.list_resource_types()
        assert 1 == len(list_revisions(indexer))


def test_upgrade_after_interruption(empty):
    """What an upgrade that was killed has left does not stop the next one."""
    if empty.dialect == "mysql":
        with empty.writing() as connection:     # as after the first statements of the first migration
            models.archive_policy.create(connection)
            models.archive_policy_rule.create(connection)
    else:
        with pytest.raises(ZeroDivisionError), empty.writing() as connection:
            models.archive_policy.create(connection)
            raise ZeroDivisionError
        assert not sa.inspect(empty.engine).get_table_names()
    migration.upgrade(empty)
    assert [GENERIC] == empty.list_resource_types()


def test_upgrade_foreign_revision(empty):
    """A database of another release is left alone, and the error says so."""
    migration.upgrade(empty)
    with empty.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'f89ed2e3c2ec'")
    with pytest.raises(exceptions.BackendUnavailable, match="f89ed2e3c2ec, which this release does not know"):
        migration.upgrade(empty)
    assert ["f89ed2e3c2ec"] == list_revisions(empty)


def test_use_before_upgrade(empty):
    """Before the first upgrade the error names the command to run."""
    with pytest.raises(exceptions.BackendUnavailable, match="gnocchi-upgrade has to be run"):
        empty.count_sacks()


def test_find_scripts():
    """The folder found is the one with env.py, in a checkout the top-level folder."""
    assert (migration.find_scripts() / "env.py").is_file()
