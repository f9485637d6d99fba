"""Bodies of the aggregates API."""

import voluptuous

from gnocchi.rest import schemas


def _anything(value):
    """What is looked at elsewhere."""
    return value


#: `operations` and `search` have languages of their own.
QUERY = voluptuous.Schema({
    voluptuous.Required("operations"): _anything,
    "resource_type": schemas.name,
    "search": _anything,
})
