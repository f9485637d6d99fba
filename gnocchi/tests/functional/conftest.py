"""Fixtures for the tests of commands and daemons."""

import pathlib
from collections.abc import Iterator

import pytest

from gnocchi.tests.functional.daemons import Deployment


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
