"""Fixtures for the tests of commands and daemons."""

import pathlib
from collections.abc import Iterator

import pytest

from gnocchi.tests.functional.daemons import Deployment


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Close the connection that gabbi opens for each of its tests, thousands of them in one process."""
    http = getattr(getattr(item, "funcargs", {}).get("test"), "http", None)
    if http is not None:
        http.client.close()


@pytest.fixture
def deployment(tmp_path: pathlib.Path) -> Iterator[Deployment]:
    """A configuration with SQLite and files, and nothing in them."""
    made = Deployment(tmp_path)
    yield made
    made.remove()


@pytest.fixture
def upgraded(deployment: Deployment) -> Deployment:
    """The same after `gnocchi-upgrade`, with 16 sacks."""
    deployment.begin_upgraded(16)
    return deployment
