"""Resource types: which attributes their resources have."""

from typing import Any

import sqlalchemy as sa

from gnocchi import exceptions
from gnocchi.indexer import ResourceType
from gnocchi.indexer.models import ACTIVE, resource_type
from gnocchi.indexer.transactions import Connections, retried

#: The type whose name addresses resources of every type.
GENERIC = "generic"

SELECT_TYPES = sa.select(resource_type.c.name, resource_type.c.attributes, resource_type.c.state)
GET_TYPE = SELECT_TYPES.where(resource_type.c.name == sa.bindparam("name"))


def get_type(connection: sa.Connection, name: str, statement: sa.Select[Any] = GET_TYPE) -> ResourceType:
    """Raises NoSuchResourceType."""
    row = connection.execute(statement, {"name": name}).first()
    if row is None:
        raise exceptions.NoSuchResourceType(name)
    return ResourceType(*row)


def get_active_type(connection: sa.Connection, name: str) -> ResourceType:
    """Return a type that takes resources, and keep it from being deleted until the transaction ends.

    Raises NoSuchResourceType, InvalidInput.
    """
    found = get_type(connection, name, GET_TYPE.with_for_update(read=True))
    if found.state != ACTIVE:
        raise exceptions.InvalidInput(f"Resource type {name} state is {found.state} (expected: {ACTIVE})")
    return found


class ResourceTypes(Connections):

    @retried
    def get_resource_type(self, name: str) -> ResourceType:
        """Raises NoSuchResourceType."""
        with self.reading() as connection:
            return get_type(connection, name)

    @retried
    def list_resource_types(self) -> list[ResourceType]:
        """Return all types by name."""
        with self.reading() as connection:
            return [ResourceType(*row) for row in connection.execute(SELECT_TYPES.order_by(resource_type.c.name))]
