"""What bodies may hold, one module per noun.  The messages of voluptuous are the wording that clients know."""

import voluptuous

from gnocchi.resource_type import text
from gnocchi.rest import errors

#: What the columns of the index hold.
NAME_LENGTH_MAX = 255
INTEGER_MAX = 2**31 - 1


def validate(schema: voluptuous.Schema, value):
    """Return the value as the schema coerces it.

    Raises errors.RequestError: 400 `Invalid input` with the first violation and its path as strings.
    """
    try:
        return schema(value)
    except voluptuous.Invalid as e:
        raise invalid_input(e) from e


def invalid_input(error: voluptuous.Invalid) -> errors.RequestError:
    first = error.errors[0] if isinstance(error, voluptuous.MultipleInvalid) else error
    return errors.RequestError(400, {
        "cause": "Invalid input",
        "reason": str(first),
        "detail": [str(step) for step in first.path],
    })


def integer(value):
    """A whole number, or text that spells one; a fraction is not cut off."""
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError) as e:
        raise voluptuous.TypeInvalid("expected int") from e
    if isinstance(value, bool) or (isinstance(value, float) and whole != value):
        raise voluptuous.TypeInvalid("expected int")
    return whole


#: A name of something.
name = voluptuous.All(text, voluptuous.Length(max=NAME_LENGTH_MAX))


def _addressable(value: str) -> str:
    if not value:
        raise voluptuous.Invalid("expected a name that is not empty")
    if "/" in value:
        raise voluptuous.Invalid("expected a name without '/'")
    return value


#: A name that is going to be a segment of a path.  What no path can hold could be neither shown nor deleted.
path_name = voluptuous.All(name, _addressable)


def whole_number(least: int) -> voluptuous.All:
    """A whole number from `least` to what the index can hold."""
    return voluptuous.All(integer, voluptuous.Range(min=least, max=INTEGER_MAX))
