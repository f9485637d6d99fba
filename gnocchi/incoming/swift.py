"""Incoming measures in a container of Swift."""

from typing import Any

from gnocchi.common.swift import Container
from gnocchi.common.swift_options import OPTS
from gnocchi.incoming.keyed import KeyedDriver
from gnocchi.incoming.objects import ObjectsStore

__all__ = ["OPTS", "SwiftDriver"]

CONTAINER = "gnocchi-incoming"

#: As long as Swift remembers by default that something was deleted (`reclaim_age`).
FORGET_S = 7 * 86400.0


class SwiftDriver(KeyedDriver):
    """Groups in the container `gnocchi-incoming`, or `<prefix>.gnocchi-incoming`.

    Parameters
    ----------
    sacks : int
        The number of sacks, a power of two.
    container_prefix, container_prefix_all, ...
        As `[incoming] swift_*`.
    parallel_operations : int
        Calls made at once.
    """

    def __init__(self, sacks: int, container_prefix: str, container_prefix_all: bool = False,
                 parallel_operations: int = 1, **options: Any) -> None:
        name = f"{container_prefix}.{CONTAINER}" if container_prefix_all else CONTAINER
        super().__init__(ObjectsStore(Container(name, parallel_operations=parallel_operations, **options), FORGET_S),
                         sacks)
