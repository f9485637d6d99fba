"""The API on PostgreSQL with measures that wait in Redis."""

# pytest collects the generated tests through this name.
from gabbi.driver import test_pytest  # noqa: F401

from gnocchi.tests.functional.combinations import generate, need_installed, use_database, use_redis

need_installed("PostgreSQL", "Redis")


def pytest_generate_tests(metafunc):
    generate(metafunc, "postgresql_redis", lambda: use_database("postgresql"), use_redis, workers=True)
