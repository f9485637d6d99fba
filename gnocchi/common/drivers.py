"""Drivers by name, from entry points, so that others can add theirs."""

import functools
import importlib.metadata
import sys
from typing import Any

from oslo_config import cfg

from gnocchi.exceptions import InvalidConfiguration


class NoSuchDriver(InvalidConfiguration):
    """The configuration names a driver that is not installed or that cannot be imported."""


def list_drivers(namespace: str) -> list[str]:
    """Return the names registered in an entry-point group such as `gnocchi.storage`, sorted; imports none."""
    return sorted({point.name for point in importlib.metadata.entry_points(group=namespace)})


@functools.cache    # to look through what is installed takes 5 ms
def load_driver(namespace: str, name: str) -> type:
    """Return the class registered as `name`.

    Raises
    ------
    NoSuchDriver
        There is no such entry point, or a library that it needs is missing.
    """
    points = importlib.metadata.entry_points(group=namespace, name=name)
    if not points:
        raise NoSuchDriver(f"{namespace} has no driver `{name}'; there are: {', '.join(list_drivers(namespace))}")
    try:
        return next(iter(points)).load()
    except ImportError as e:
        raise NoSuchDriver(f"Driver `{name}' of {namespace} cannot be loaded: {e}") from e


def driver_arguments(driver: type, name: str, options: cfg.ConfigOpts.GroupAttr) -> dict[str, Any]:
    """Return a driver's keyword arguments: the options of its module (`OPTS`), less its name as prefix.

    So `file_basepath` reaches the driver `file` as `basepath`.
    """
    declared = getattr(sys.modules[driver.__module__], "OPTS", ())
    return {option.dest.removeprefix(f"{name}_"): options[option.dest] for option in declared}
