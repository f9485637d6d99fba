"""What alembic runs: migrates the connection that `gnocchi.indexer.migration` gives it.

By hand, to make a new revision:  GNOCCHI_INDEXER_URL=... alembic -c alembic/alembic.ini revision --autogenerate -m ...
"""

import os

from alembic import context
from sqlalchemy import Connection

from gnocchi.indexer import models
from gnocchi.indexer.transactions import make_engine, parse_url


def run(connection: Connection) -> None:
    # SQLite and PostgreSQL undo the tables of a migration that fails; alembic believes that SQLite cannot,
    # because of how its driver begins transactions, which ours does not leave to it.
    transactional = connection.dialect.name != "mysql"
    context.configure(connection=connection, target_metadata=models.metadata, transactional_ddl=transactional,
                      render_as_batch=connection.dialect.name == "sqlite")
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    engine = make_engine(parse_url(os.environ["GNOCCHI_INDEXER_URL"]))
    with engine.execution_options(writing=True).begin() as own:
        run(own)
