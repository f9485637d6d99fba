"""Bodies that define metrics."""

import uuid

import voluptuous

from gnocchi.exceptions import InvalidInput
from gnocchi.indexer import MetricDefinition
from gnocchi.resource_ids import parse_uuid, resource_id
from gnocchi.rest import errors, schemas

UNIT_LENGTH_MAX = 31

_DEFINITION = {
    "name": schemas.name,
    "unit": voluptuous.All(schemas.text, voluptuous.Length(max=UNIT_LENGTH_MAX)),
    "archive_policy_name": schemas.text,
    "resource_id": schemas.text,
}

CREATE = voluptuous.Schema(_DEFINITION)


def check_metric_name(name: str | None) -> None:
    """Raises InvalidInput for a name that no path could hold."""
    if name is not None and "/" in name:
        raise InvalidInput("'/' is not supported in metric name")


def make_definition(body: dict[str, str], creator: str) -> MetricDefinition:
    """Return the metric that a checked body asks for.

    Raises errors.RequestError 400, InvalidInput.
    """
    resource_id = None
    if "resource_id" in body:
        resource_id = read_resource_id(body, "resource_id", creator)
        if "name" not in body:
            raise errors.RequestError(400, {"cause": "Attribute value error", "detail": "name",
                                            "reason": "Name cannot be null if resource_id is not null"})
    check_metric_name(body.get("name"))
    return MetricDefinition(uuid.uuid4(), body.get("archive_policy_name"), body.get("name"), body.get("unit"),
                            resource_id)


def read_resource_id(body: dict[str, str], key: str, creator: str) -> uuid.UUID:
    """Return the id of the resource that its caller calls body[key].  Raises errors.RequestError 400."""
    try:
        return resource_id(body[key], creator)
    except InvalidInput as e:
        raise schemas.invalid_input(voluptuous.Invalid(str(e), [key], error_type="dictionary value")) from e


def metric_reference(value):
    """A metric of a resource: the UUID of one that exists, or the definition of a new one."""
    if isinstance(value, dict):
        return CREATE(value)
    try:
        return parse_uuid(value)
    except (ValueError, AttributeError, TypeError):
        raise voluptuous.Invalid("not a valid value") from None


#: Metrics of a resource by name.
RESOURCE_METRICS = voluptuous.Schema({schemas.text: metric_reference})


def make_resource_metrics(metrics: dict[str, uuid.UUID | dict[str, str]], resource_id: uuid.UUID,
                          creator: str) -> dict[str, uuid.UUID | MetricDefinition]:
    """Return what a resource's metrics shall be: ids of existing ones and definitions, by name.

    A definition's own `name` does not count; a `resource_id` in it must be that of the resource.

    Raises errors.RequestError 400, InvalidInput.
    """
    made: dict[str, uuid.UUID | MetricDefinition] = {}
    for name, reference in metrics.items():
        check_metric_name(name)
        if isinstance(reference, uuid.UUID):
            made[name] = reference
            continue
        if "resource_id" in reference and read_resource_id(reference, "resource_id", creator) != resource_id:
            raise InvalidInput(f"Metric {name} is defined with the id of another resource")
        made[name] = MetricDefinition(uuid.uuid4(), reference.get("archive_policy_name"), name, reference.get("unit"),
                                      resource_id)
    return made
