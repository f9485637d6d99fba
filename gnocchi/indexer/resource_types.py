"""Resource types: which attributes their resources have.  A type is a row; no table is made for it."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.indexer import ResourceType
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.metrics import utcnow
from gnocchi.indexer.models import ACTIVE, resource, resource_history, resource_type
from gnocchi.indexer.resource_attributes import changed_documents
from gnocchi.indexer.transactions import Connections, retried

#: The type whose name addresses resources of every type.
GENERIC = "generic"

SELECT_TYPES = sa.select(resource_type.c.name, resource_type.c.attributes, resource_type.c.state)
GET_TYPE = SELECT_TYPES.where(resource_type.c.name == sa.bindparam("name"))

#: Keeps a type from changing and going until the transaction ends.
SHARE_TYPE = GET_TYPE.with_for_update(read=True)

#: Waits for those who share it.  On PostgreSQL, foreign keys may still be checked meanwhile.
LOCK_TYPE = GET_TYPE.with_for_update(key_share=True)


def get_type(connection: sa.Connection, name: str, statement: sa.Select[Any] = GET_TYPE) -> ResourceType:
    """Raises NoSuchResourceType."""
    row = connection.execute(statement, {"name": name}).first()
    if row is None:
        raise exceptions.NoSuchResourceType(name)
    return ResourceType(*row)


def share_type(connection: sa.Connection, name: str, seen: ResourceType | None = None) -> ResourceType:
    """Return a type that takes resources, and keep it as it is until the transaction ends.

    Parameters
    ----------
    seen : the type that values were checked against, if there are any

    Raises NoSuchResourceType, InvalidInput, ChangedMeanwhile.
    """
    found = get_type(connection, name, SHARE_TYPE)
    check_active(found)
    if seen is not None and seen.attributes != found.attributes:
        raise exceptions.ChangedMeanwhile(f"Resource type {name}")
    return found


def check_active(found: ResourceType) -> None:
    """Raises InvalidInput."""
    if found.state != ACTIVE:
        raise exceptions.InvalidInput(f"Resource type {found.name} state is {found.state} (expected: {ACTIVE})")


class ResourceTypes(Connections):

    @retried
    def create_resource_type(self, name: str, attributes: Mapping[str, Mapping[str, Any]]) -> ResourceType:
        """Create a type, ready for use.

        Parameters
        ----------
        attributes : name -> {"type", "required", ...options}, checked by the caller

        Raises ResourceTypeAlreadyExists, InvalidInput.
        """
        check_text("Resource type name", name)
        made = {key: dict(options) for key, options in attributes.items()}
        row = {"name": name, "attributes": made, "state": ACTIVE, "updated_at": utcnow()}
        try:
            with self.writing() as connection:
                connection.execute(sa.insert(resource_type), row)
        except exc.IntegrityError as e:
            raise exceptions.ResourceTypeAlreadyExists(name) from e
        return ResourceType(name, made, ACTIVE)

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

    @retried
    def update_resource_type(self, seen: ResourceType, attributes: Mapping[str, Mapping[str, Any]],
                             fill: Mapping[str, Any]) -> ResourceType:
        """Give a type other attributes.

        Values of attributes that it has no more are dropped, from old revisions, too.

        Parameters
        ----------
        seen : the type as it was when `attributes` were made
        attributes : all of them, checked by the caller; an attribute keeps its type
        fill : values by name for resources and old revisions that have none

        Raises
        ------
        NoSuchResourceType
        ChangedMeanwhile
            The type is not as it was seen.
        """
        assert seen.name != GENERIC or not attributes, f"BUG: attributes of {GENERIC}: {attributes}"
        changed = {key: dict(options) for key, options in attributes.items()}
        removed = [key for key in seen.attributes if key not in changed]
        with self.writing() as connection:
            if get_type(connection, seen.name, LOCK_TYPE) != seen:
                raise exceptions.ChangedMeanwhile(f"Resource type {seen.name}")
            connection.execute(sa.update(resource_type).where(resource_type.c.name == seen.name)
                               .values(attributes=changed, updated_at=utcnow()))
            if removed or fill:
                for table in (resource, resource_history):
                    connection.execute(sa.update(table).where(table.c.type == seen.name).values(
                        attributes=changed_documents(table.c.attributes, fill, removed, self.dialect)))
        return ResourceType(seen.name, changed, seen.state)

    @retried
    def delete_resource_type(self, name: str) -> None:
        """Raises NoSuchResourceType, ResourceTypeInUse."""
        if name == GENERIC:
            raise exceptions.ResourceTypeInUse(name)
        try:
            with self.writing() as connection:
                if not connection.execute(sa.delete(resource_type).where(resource_type.c.name == name)).rowcount:
                    raise exceptions.NoSuchResourceType(name)
        except exc.IntegrityError as e:
            raise exceptions.ResourceTypeInUse(name) from e
