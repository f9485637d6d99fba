"""Bodies of resources, which depend on the type."""

import functools
from typing import Any

import orjson
import voluptuous

from gnocchi import resource_type
from gnocchi.indexer import ResourceType
from gnocchi.rest import schemas
from gnocchi.rest.schemas import metric

#: Schemas that a process keeps, one for each set of attributes and kind of request.
SCHEMAS_MAX = 256


def timestamp(value):
    """A moment as the index stores it: naive UTC, microseconds."""
    try:
        return resource_type.timestamp(value)
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
    return _for_creation(orjson.dumps(type.attributes))


def for_change(type: ResourceType) -> voluptuous.Schema:
    """The body of a change: any of the fields, but not the id."""
    return _for_change(orjson.dumps(type.attributes))


# Making a schema takes 100 us for each attribute, using it 10.

@functools.lru_cache(SCHEMAS_MAX)
def _for_creation(document: bytes) -> voluptuous.Schema:
    schema: dict[Any, Any] = {voluptuous.Required("id"): schemas.text, **_FIELDS}
    for name, options in orjson.loads(document).items():
        key = voluptuous.Required(name) if options["required"] else voluptuous.Optional(name)
        schema[key] = resource_type.attribute_value(options)
    return voluptuous.Schema(schema)


@functools.lru_cache(SCHEMAS_MAX)
def _for_change(document: bytes) -> voluptuous.Schema:
    return voluptuous.Schema(_FIELDS | {
        name: resource_type.attribute_value(options) for name, options in orjson.loads(document).items()})
