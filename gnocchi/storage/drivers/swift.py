"""Storage in a container of Swift."""

from typing import Any

from gnocchi.common.swift import Container
from gnocchi.common.swift_options import OPTS
from gnocchi.storage.drivers.objects import ObjectsDriver

__all__ = ["OPTS", "SwiftDriver"]


class SwiftDriver(ObjectsDriver):
    """Objects in the container `<prefix>.objects`.

    Parameters
    ----------
    container_prefix, ...
        As `[storage] swift_*`.
    parallel_operations : int
        Calls made at once.
    """

    def __init__(self, container_prefix: str, parallel_operations: int = 1, container_prefix_all: bool = False,
                 **options: Any) -> None:
        super().__init__(Container(f"{container_prefix}.objects", parallel_operations=parallel_operations, **options))
