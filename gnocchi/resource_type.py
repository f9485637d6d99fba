"""Resource types: what values the attributes of their resources take (contract, rest 12.2).

The messages of voluptuous are the wording that clients know.
"""

import math
from collections.abc import Mapping
from typing import Any

import voluptuous

from gnocchi import times
from gnocchi.exceptions import InvalidInput
from gnocchi.resource_ids import parse_uuid


def text(value):
    """Text that every index can hold."""
    if not isinstance(value, str):
        raise voluptuous.TypeInvalid("expected str")
    if "\0" in value:
        raise voluptuous.Invalid("text must not hold NUL characters")
    return value


def number(value) -> float:
    """A number that every index can hold; text is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise voluptuous.TypeInvalid("expected Real")
    try:
        found = float(value)
    except OverflowError:
        raise voluptuous.Invalid("not a valid value") from None
    if not math.isfinite(found):
        raise voluptuous.Invalid("not a valid value")
    return found + 0.0      # no negative zero: databases that hold decimals have none


def timestamp(value):
    """A moment as the index stores it: naive UTC, microseconds."""
    try:
        return times.parse_timestamp(value).astype("datetime64[us]").item()
    except ValueError as e:
        raise voluptuous.Invalid(str(e)) from None


def _uuid(value):
    try:
        return str(parse_uuid(value))
    except (ValueError, AttributeError):
        raise voluptuous.Invalid("badly formed hexadecimal UUID string") from None


def _bool(value):
    if not isinstance(value, bool):
        raise voluptuous.TypeInvalid("expected bool")
    return value


def attribute_value(options: Mapping[str, Any]) -> voluptuous.Schema:
    """Return what checks the values of an attribute."""
    kind = options["type"]
    if kind == "string":
        return voluptuous.Schema(voluptuous.All(
            text, voluptuous.Length(min=options["min_length"], max=options["max_length"])))
    if kind == "number":
        return voluptuous.Schema(voluptuous.All(number, voluptuous.Range(min=options["min"], max=options["max"])))
    return voluptuous.Schema({"uuid": _uuid, "bool": _bool, "datetime": timestamp}[kind])


class AttributeChecks:
    """What checks the attributes of new resources of one type.

    Parameters
    ----------
    attributes : name -> options, as the resource type has them
    """

    def __init__(self, attributes: Mapping[str, Mapping[str, Any]]) -> None:
        self._required = [name for name, options in attributes.items() if options["required"]]
        self._schemas = {name: attribute_value(options) for name, options in attributes.items()}

    def check(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values by name as the index takes them; those of attributes that the type does not have are left out.

        Raises InvalidInput, which names the attribute.
        """
        for name in self._required:
            if values.get(name) is None:
                raise InvalidInput(f"Attribute {name} is required and has no value")
        checked = {}
        for name, value in values.items():
            if name in self._schemas and value is not None:
                try:
                    checked[name] = self._schemas[name](value)
                except voluptuous.Invalid as e:
                    raise InvalidInput(f"Attribute {name}: {e.msg}") from None
        return checked
