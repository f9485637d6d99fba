"""The API on PostgreSQL and S3; the database has the locks, too."""

# pytest collects the generated tests through this name.
from gabbi.driver import test_pytest  # noqa: F401

from gnocchi.tests.functional.combinations import generate, need_installed, use_database, use_s3

need_installed("PostgreSQL", "Ceph's gateway")


def pytest_generate_tests(metafunc):
    generate(metafunc, "postgresql_s3", lambda: use_database("postgresql"), use_s3)
