"""Bodies of resource types: which attributes there can be, and changes of them (contract, rest 12)."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import voluptuous

from gnocchi.exceptions import InvalidInput, UnsupportedChange
from gnocchi.indexer import ResourceType
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.resource_type import attribute_value, number
from gnocchi.rest import schemas

#: Characters of the longest text that an attribute can hold, and of the longest name of one.
STRING_LENGTH_MAX = 256
NAME_LENGTH_MAX = 63

#: Attributes of one type.
ATTRIBUTES_MAX = 1000

#: Operations of one change.
OPERATIONS_MAX = 2000

#: Doubles are exact for all integers below this; documents hold no much larger ones.
_EXACT_MAX = 2**53

RESERVED_NAMES = frozenset((
    "id", "type", "metrics", "revision", "revision_start", "revision_end", "started_at", "ended_at", "user_id",
    "project_id", "created_by_user_id", "created_by_project_id", "get_metric", "creator",
    # Not refused by the original, whose own columns these would hide.
    "original_resource_id", "lifespan"))

#: What begins with a letter or digit; quotes and backslashes would end the name in a path of an SQL database.
_NAME = re.compile(r"""[A-Za-z0-9][^"\\\x00-\x1f\x7f]*""")


def _number_or_null(value):
    if value is None:
        return None
    as_float = number(value)
    return value if abs(as_float) < _EXACT_MAX else as_float    # what was an integer is shown as one


def _length(least: int) -> voluptuous.All:
    return voluptuous.All(schemas.integer, voluptuous.Range(min=least, max=STRING_LENGTH_MAX))


#: Attribute type -> option -> (default, check).
OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "string": {"min_length": (0, voluptuous.Schema(_length(0))),
               "max_length": (STRING_LENGTH_MAX, voluptuous.Schema(_length(1)))},
    "uuid": {},
    "number": {"min": (None, voluptuous.Schema(_number_or_null)), "max": (None, voluptuous.Schema(_number_or_null))},
    "bool": {},
    "datetime": {},
}


def _invalid(message: str, *path: str) -> voluptuous.Invalid:
    return voluptuous.Invalid(message, list(path), error_type="dictionary value")


def attribute(value) -> dict[str, Any]:
    """An attribute's definition with all its options."""
    if not isinstance(value, dict):
        raise voluptuous.DictInvalid("expected a dictionary")
    if "type" not in value:
        raise voluptuous.RequiredFieldInvalid("required key not provided", ["type"])
    options = OPTIONS.get(value["type"]) if isinstance(value["type"], str) else None
    if options is None or not value.keys() <= {"type", "required", *options}:
        raise _invalid("not a valid value", "type")
    required = value.get("required", True)
    if not isinstance(required, bool):
        raise _invalid("not a valid value", "type")
    made = {"type": value["type"], "required": required}
    for name, (default, check) in options.items():
        try:
            made[name] = check(value[name]) if name in value else default
        except voluptuous.Invalid:
            raise _invalid("not a valid value", "type") from None
    return made


ATTRIBUTES = voluptuous.Schema({schemas.text: attribute})

CREATE = voluptuous.Schema({
    voluptuous.Required("name"): voluptuous.All(schemas.name, voluptuous.Length(min=1)),
    "attributes": ATTRIBUTES,
})


def check_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InvalidInput for names that cannot be, and limits that contradict each other."""
    if len(attributes) > ATTRIBUTES_MAX:
        raise InvalidInput(f"Invalid input: more than {ATTRIBUTES_MAX} attributes")
    for name, options in attributes.items():
        if len(name) > NAME_LENGTH_MAX or name in RESERVED_NAMES or not _NAME.fullmatch(name):
            raise InvalidInput(f"Invalid input: Resource attribute name {name} is invalid")
        least = options.get("min_length", options.get("min"))
        most = options.get("max_length", options.get("max"))
        if least is not None and most is not None and least > most:
            raise InvalidInput(f"Invalid input: Resource attribute value min (or min_length) {least} must be less  "
                               f"than or equal to max (or max_length) {most}!")


# ---- changes: a subset of JSON patch (RFC 6902)

_ROOT = "/attributes"


def _operator(value):
    if value not in ("add", "remove"):
        raise voluptuous.Invalid("not a valid value")
    return value


def _path(value):
    if not isinstance(value, str) or (value != _ROOT and not value.startswith(_ROOT + "/")):
        raise voluptuous.Invalid("not a valid value")
    if value.count("/") > 2:
        raise voluptuous.Invalid("not a valid value")
    return value


PATCH = voluptuous.Schema(voluptuous.All([{
    "op": _operator,
    "path": _path,
    "value": dict,
}], voluptuous.Length(max=OPERATIONS_MAX)))


@dataclasses.dataclass(frozen=True)
class TypeChange:
    """attributes : all that the type shall have;  fill : values for rows that have none"""

    attributes: dict[str, dict[str, Any]]
    fill: dict[str, Any]


def apply_patch(current: ResourceType, operations: list[dict[str, Any]]) -> TypeChange | None:
    """Return what a type becomes by the operations of a checked body, or None when it stays as it is.

    Raises InvalidInput, UnsupportedChange: text for the client, in the words of the original.
    """
    patched: dict[str, Any] = {name: dict(options) for name, options in current.attributes.items()}
    for operation in operations:
        patched = _apply_operation(patched, operation)
    fills = {name: value.pop("options", {}) for name, value in patched.items() if isinstance(value, dict)}
    try:
        # What stays as it is may have limits that clients cannot set: those of the type `prometheus`.
        new = {name: value for name, value in patched.items() if value != current.attributes.get(name)}
        attributes = patched | voluptuous.Schema({"attributes": ATTRIBUTES})({"attributes": new})["attributes"]
        fills = voluptuous.Schema({str: {"fill": object}})(fills)
    except voluptuous.Invalid as e:
        raise InvalidInput(f"Invalid input: {e}") from e
    check_attributes(attributes)
    if current.name == GENERIC and attributes:
        raise UnsupportedChange(f"Resource type {GENERIC} cannot have attributes")
    fill = {}
    for name, options in attributes.items():
        if name not in current.attributes or options != current.attributes[name] or fills.get(name):
            _check_change(current, name, options)
            value = _read_fill(name, options, fills.get(name, {}).get("fill"))
            if value is not None:
                fill[name] = value
    if attributes == current.attributes and not fill:
        return None
    return TypeChange(attributes, fill)


def _apply_operation(attributes: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    if "op" not in operation:
        raise InvalidInput("Operation does not contain 'op' member")
    if "path" not in operation:
        raise InvalidInput("Operation does not contain 'path' member")
    adding = operation["op"] == "add"
    if adding and "value" not in operation:
        raise InvalidInput("The operation does not contain a 'value' member")
    if operation["path"] == _ROOT:
        return {name: dict(value) if isinstance(value, dict) else value
                for name, value in operation["value"].items()} if adding else {}
    name = operation["path"][len(_ROOT) + 1:].replace("~1", "/").replace("~0", "~")
    if adding:
        return attributes | {name: dict(operation["value"])}
    if name not in attributes:
        raise InvalidInput(f"can't remove a non-existent object '{name}'")
    return {key: value for key, value in attributes.items() if key != name}


def _check_change(current: ResourceType, name: str, options: Mapping[str, Any]) -> None:
    before = current.attributes.get(name)
    if before is not None and before["type"] != options["type"]:
        raise UnsupportedChange(f"Type update is not available yet. Changing {before['type']} to {options['type']} "
                                f"for attribute {name} of resource {current.name}")


def _read_fill(name: str, options: Mapping[str, Any], value: Any) -> Any:
    """The value for rows that have none, or None."""
    if value is None:
        if options["required"]:
            raise InvalidInput(
                f"Invalid input: Option 'fill' of resource attribute {name} is invalid: must not be empty if "
                "required=True")
        return None
    try:
        return attribute_value(options)(value)
    except voluptuous.Invalid as e:
        raise InvalidInput(f"Invalid input: Option 'fill' of resource attribute {name} is invalid: {e}") from e
