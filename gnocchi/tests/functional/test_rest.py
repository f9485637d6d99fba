"""The API as gabbits/*.yaml tell it, over real HTTP."""

import os

from gabbi import driver, pytester

# pytest collects the generated tests through this name.
from gabbi.driver import test_pytest  # noqa: F401

from gnocchi.tests.functional import fixtures

DIRECTORY = os.path.join(os.path.dirname(__file__), "gabbits")

_get_cleanname = pytester.get_cleanname


def get_cleanname(item):
    """Gabbi's plugin takes every test of the run whose id holds a colon for one of its own."""
    name = _get_cleanname(item)
    return name if getattr(item, "function", None) is driver.test_pytest else name.replace(":", "")


pytester.get_cleanname = get_cleanname


def pytest_generate_tests(metafunc):
    driver.py_test_generator(
        DIRECTORY, host="127.0.0.1", port=fixtures.PORT, prefix=fixtures.PREFIX, test_loader_name="rest",
        fixture_module=fixtures, metafunc=metafunc)
