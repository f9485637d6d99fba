"""Fixtures for the tests of crashes."""

import pytest

from gnocchi.incoming.file import FileDriver
from gnocchi.tests.crash.journals import SACKS


@pytest.fixture
def make_driver(tmp_path):
    """Return a function that makes drivers of files on one directory, with options."""
    drivers = []

    def make(**options):
        driver = FileDriver(str(tmp_path), options.pop("sacks", SACKS), **options)
        driver.upgrade()
        drivers.append(driver)
        return driver

    yield make
    for driver in drivers:
        driver.close()
