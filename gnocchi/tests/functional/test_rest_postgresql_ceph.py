"""The API on PostgreSQL and Ceph; the database has the locks, too."""

# pytest collects the generated tests through this name.
from gabbi.driver import test_pytest  # noqa: F401

from gnocchi.tests.functional.combinations import generate, need_installed, use_ceph, use_database

need_installed("PostgreSQL", "Ceph")


def pytest_generate_tests(metafunc):
    generate(metafunc, "postgresql_ceph", lambda: use_database("postgresql"), use_ceph)
