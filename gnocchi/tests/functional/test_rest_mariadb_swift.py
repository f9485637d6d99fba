"""The API on MariaDB and Swift; the database has the locks, too."""

# pytest collects the generated tests through this name.
from gabbi.driver import test_pytest  # noqa: F401

from gnocchi.tests.functional.combinations import generate, need_installed, use_database, use_swift

need_installed("MariaDB", "Swift")


def pytest_generate_tests(metafunc):
    generate(metafunc, "mariadb_swift", lambda: use_database("mariadb"), use_swift)
