"""Values of typed attributes in bodies (contract, rest 12.2)."""

import math
from collections.abc import Mapping
from typing import Any

import voluptuous

from gnocchi import times
from gnocchi.rest import ids, schemas


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
        return str(ids.parse_uuid(value))
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
            schemas.text, voluptuous.Length(min=options["min_length"], max=options["max_length"])))
    if kind == "number":
        return voluptuous.Schema(voluptuous.All(number, voluptuous.Range(min=options["min"], max=options["max"])))
    return voluptuous.Schema({"uuid": _uuid, "bool": _bool, "datetime": timestamp}[kind])
