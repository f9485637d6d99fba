"""Bodies of resources, which depend on the type."""

from typing import Any

import voluptuous

from gnocchi.indexer import ResourceType
from gnocchi.rest import schemas
from gnocchi.rest.schemas import attributes, metric


def timestamp(value):
    """A moment as the index stores it: naive UTC, microseconds."""
    try:
        return attributes.timestamp(value)
    except voluptuous.Invalid:
        raise voluptuous.Invalid("not a valid value") from None


def owner(value):
    """A name or null."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise voluptuous.Invalid("not a valid value")
    return schemas.name(value)


_FIELDS = {
    "started_at": timestamp,
    "ended_at": timestamp,
    "user_id": owner,
    "project_id": owner,
    "metrics": metric.RESOURCE_METRICS,
}


def for_creation(type: ResourceType) -> voluptuous.Schema:
    """The body of a new resource."""
    schema: dict[Any, Any] = {voluptuous.Required("id"): schemas.text, **_FIELDS}
    for name, options in type.attributes.items():
        key = voluptuous.Required(name) if options["required"] else voluptuous.Optional(name)
        schema[key] = attributes.attribute_value(options)
    return voluptuous.Schema(schema)


def for_change(type: ResourceType) -> voluptuous.Schema:
    """The body of a change: any of the fields, but not the id."""
    return voluptuous.Schema(_FIELDS | {
        name: attributes.attribute_value(options) for name, options in type.attributes.items()})
