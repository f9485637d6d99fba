"""Fixtures for all tests."""

import hypothesis

from gnocchi.tests.ceph import ceph, ceph_pool, empty_ceph, gateway
from gnocchi.tests.coordination import coordination_url, empty_redis, kept_redis, redis_server
from gnocchi.tests.databases import (
    _sqlite_template,
    database,
    database_url,
    empty_database_url,
    indexer,
    make_index,
    mariadb_server,
    postgresql_server,
)
from gnocchi.tests.swift import swift

__all__ = ["_sqlite_template", "ceph", "ceph_pool", "coordination_url", "database", "database_url", "empty_ceph",
           "empty_database_url", "empty_redis", "gateway", "indexer", "kept_redis", "make_index", "mariadb_server",
           "postgresql_server", "redis_server", "swift"]

# No test is about time: the machine may be doing other things.
hypothesis.settings.register_profile("gnocchi", deadline=None)
hypothesis.settings.load_profile("gnocchi")
