"""Python modules that Debian has built for its own Python."""

import importlib
import pathlib
import subprocess
import sys

import pytest

from gnocchi.tests.databases import need


def need_module(name: str, package: str) -> None:
    """Skip where this Python has no such module, or fail (see `need`) where Debian's would do for it."""
    try:
        importlib.import_module(name)
    except ImportError:
        system = pathlib.Path("/usr/bin/python3")
        version = subprocess.check_output([system, "--version"], text=True) if system.exists() else ""
        if not version.startswith("Python {}.{}.".format(*sys.version_info[:2])):
            pytest.skip(f"{name} is there for {version.strip() or 'no Python'} only")
        need(None, package)
