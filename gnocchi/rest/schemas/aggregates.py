"""Bodies of the aggregates API."""

import voluptuous

from gnocchi.rest import errors, schemas

#: `operations` and `search` have languages of their own.
QUERY = voluptuous.Schema({
    voluptuous.Required("operations"): object,
    "resource_type": schemas.name,
    "search": object,
})


def search_missing() -> errors.RequestError:
    """The error for a search that is none: everything is searched by `{}`, not by leaving it out."""
    return schemas.invalid_input(voluptuous.Invalid("expected a filter", ["search"], error_type="dictionary value"))
