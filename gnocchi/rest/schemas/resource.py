"""Bodies of resources."""

import voluptuous

from gnocchi import times
from gnocchi.rest import schemas
from gnocchi.rest.schemas import metric


def timestamp(value):
    """A moment as the index stores it: naive UTC, microseconds."""
    try:
        return times.parse_timestamp(value).astype("datetime64[us]").item()
    except ValueError:
        raise voluptuous.Invalid("not a valid value") from None


def owner(value):
    """A name or null."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise voluptuous.Invalid("not a valid value")
    return schemas.name(value)


CREATE = voluptuous.Schema({
    voluptuous.Required("id"): schemas.text,
    "started_at": timestamp,
    "ended_at": timestamp,
    "user_id": owner,
    "project_id": owner,
    "metrics": metric.RESOURCE_METRICS,
})
