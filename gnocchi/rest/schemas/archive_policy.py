"""Bodies of archive policies."""

import voluptuous

from gnocchi import archive_policy, times
from gnocchi.carbonara.methods import METHODS
from gnocchi.rest.schemas import path_name, whole_number

#: Method names and the edits of them that a list may hold.
METHOD_NAMES = frozenset(METHODS) | {"*"} | {sign + method for sign in "+-" for method in METHODS}


#: Granularities of a policy.  Each read without a granularity works on all of them: with 10,000 it took over a minute.
ITEMS_MAX = 100


def timespan(value):
    try:
        return times.parse_timespan(value)
    except ValueError as e:
        raise voluptuous.Invalid(str(e)) from e


DEFINITION = voluptuous.All([{
    "granularity": timespan,
    "timespan": timespan,
    "points": whole_number(1),
}], voluptuous.Length(min=1, max=ITEMS_MAX))

#: `aggregation_methods` stays a list: edits apply in order.
CREATE = voluptuous.Schema({
    voluptuous.Required("name"): path_name,
    voluptuous.Required("definition"): DEFINITION,
    "back_window": whole_number(0),
    "aggregation_methods": [voluptuous.In(METHOD_NAMES, msg="not a valid value")],
})

UPDATE = voluptuous.Schema({
    voluptuous.Required("definition"): DEFINITION,
    "back_window": whole_number(0),
})


def make_items(definition):
    """Complete the items of a checked definition; InvalidArchivePolicy when one contradicts itself."""
    return archive_policy.make_definition(archive_policy.complete_item(**item) for item in definition)
