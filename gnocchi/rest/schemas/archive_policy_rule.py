"""Bodies of archive policy rules."""

import voluptuous

from gnocchi.rest.schemas import name, path_name

CREATE = voluptuous.Schema({
    voluptuous.Required("name"): path_name,
    voluptuous.Required("metric_pattern"): name,
    voluptuous.Required("archive_policy_name"): name,
})

UPDATE = voluptuous.Schema({
    voluptuous.Required("name"): path_name,
})
