"""Incoming measures in a container of Swift."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gnocchi.common.swift import Container, ObjectRange
from gnocchi.common.swift_options import OPTS
from gnocchi.incoming.keyed import KeyedDriver
from gnocchi.incoming.keyed_store import KeyedStore, KeyRange

__all__ = ["OPTS", "SwiftDriver"]

CONTAINER = "gnocchi-incoming"


class SwiftStore(KeyedStore):
    """Groups as objects of a container."""

    #: As long as Swift remembers by default that something was deleted (`reclaim_age`).
    forget_s = 7 * 86400.0

    def __init__(self, container: Container) -> None:
        self._container = container

    def upgrade(self) -> None:
        self._container.create()

    def put(self, key: str, data: bytes) -> None:
        self._container.put(key, data)

    def get_many(self, ranges: Sequence[KeyRange]) -> list[bytes | None]:
        # A replica that was away may have what was deleted meanwhile.
        return self._container.get_many([ObjectRange(*item) for item in ranges], newest=True)

    def list(self, prefix: str, after: str) -> Iterator[str]:
        return self._container.list(prefix, after)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._container.delete_many(list(keys))

    def close(self) -> None:
        self._container.close()


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
        super().__init__(SwiftStore(Container(name, parallel_operations=parallel_operations, **options)), sacks)
