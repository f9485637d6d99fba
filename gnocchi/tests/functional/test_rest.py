"""The API as gabbits/*.yaml tell it, over real HTTP."""

import os

from gabbi import driver

# pytest collects the generated tests through this name.
from gabbi.driver import test_pytest  # noqa: F401

from gnocchi.tests.functional import fixtures

DIRECTORY = os.path.join(os.path.dirname(__file__), "gabbits")


def pytest_generate_tests(metafunc):
    # Else each test loads the certificates of all authorities for a client of its own: 1 MB and 30 ms.
    driver.py_test_generator(
        DIRECTORY, host="127.0.0.1", port=fixtures.PORT, prefix=fixtures.PREFIX, test_loader_name="rest",
        fixture_module=fixtures, metafunc=metafunc, cert_validate=False)
