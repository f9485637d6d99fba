"""Fixtures for all tests."""

from gnocchi.tests.databases import (
    _sqlite_template,
    database,
    database_url,
    empty_database_url,
    indexer,
    mariadb_server,
    postgresql_server,
)

__all__ = ["_sqlite_template", "database", "database_url", "empty_database_url", "indexer", "mariadb_server",
           "postgresql_server"]
