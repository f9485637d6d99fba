"""Bring the database to the schema of this release."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import command, config, script
from alembic.runtime import migration as runtime
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer.metrics import utcnow
from gnocchi.indexer.models import ACTIVE, resource_type
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.indexer.transactions import Connections

#: Seconds to wait for another upgrade of the same database.
LOCK_TIMEOUT_S = 600

#: Key of PostgreSQL's advisory lock: any number that no other program takes in this database.
LOCK_KEY = 0x676E6F63636869     # "gnocchi"


def find_scripts() -> pathlib.Path:
    """Return the folder of the migrations: inside an installed package, beside the package in a checkout."""
    here = pathlib.Path(__file__).resolve()
    for folder in (here.parent / "migrations", here.parents[2] / "alembic"):
        # Beside an installed package `alembic` is the library: only the file tells.
        if (folder / "env.py").is_file():
            return folder
    raise FileNotFoundError(f"BUG: no migrations beside {here.parent}")


def make_config(connection: sa.Connection | None = None) -> config.Config:
    """Return alembic's configuration; `connection` is what `env.py` works on."""
    settings = config.Config()
    settings.set_main_option("script_location", str(find_scripts()).replace("%", "%%"))
    settings.attributes["connection"] = connection
    return settings


def upgrade(indexer: Connections) -> None:
    """Create or update the tables, and the resource type `generic` if absent.

    May be run any number of times, also at once by several processes.

    Raises
    ------
    BackendUnavailable
        The database does not answer, or another release's schema is in it.
    """
    if indexer.dialect == "sqlite" and indexer.url.database:
        os.makedirs(os.path.dirname(os.path.abspath(indexer.url.database)), exist_ok=True)
    with _locked(indexer), indexer.writing() as connection:
        _check_revision(connection)
        command.upgrade(make_config(connection), "head")
        known = connection.execute(sa.select(resource_type.c.name).where(resource_type.c.name == GENERIC)).first()
        if known is None:
            connection.execute(sa.insert(resource_type), {
                "name": GENERIC, "attributes": {}, "state": ACTIVE, "updated_at": utcnow()})


def _check_revision(connection: sa.Connection) -> None:
    current = runtime.MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return
    known = {revision.revision for revision in script.ScriptDirectory.from_config(make_config()).walk_revisions()}
    if current not in known:
        raise exceptions.BackendUnavailable(
            f"index: the database has schema revision {current}, which this release does not know; "
            "it was made by another release, so nothing was changed")


@contextlib.contextmanager
def _locked(indexer: Connections) -> Iterator[None]:
    """Let one upgrade of a database run at a time.

    The lock lies on a connection of its own, so that it outlives the commit, and ends with its process.
    SQLite needs nothing more than its write transaction, in which tables are made too.
    """
    if indexer.dialect == "sqlite":
        yield
        return
    with indexer.reading() as guard:
        if indexer.dialect == "postgresql":
            take, release = sa.func.pg_advisory_lock(LOCK_KEY), sa.func.pg_advisory_unlock(LOCK_KEY)
        else:       # names of locks are the server's, not the database's
            name = "gnocchi-" + hashlib.sha256((indexer.url.database or "").encode()).hexdigest()[:32]
            take, release = sa.func.get_lock(name, LOCK_TIMEOUT_S), sa.func.release_lock(name)
        if guard.execute(sa.select(take)).scalar() == 0:
            raise exceptions.BackendUnavailable("index: another upgrade of this database does not end")
        try:
            yield
        finally:
            with contextlib.suppress(exc.DBAPIError):       # a broken session has lost its locks anyway
                guard.execute(sa.select(release))
