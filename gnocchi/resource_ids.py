"""Identifiers of resources, from what clients call them."""

import re
import uuid

from gnocchi import metric_ids
from gnocchi.exceptions import InvalidInput

#: Text ids of resources are hashed in this namespace.  Contract, rest 11.2.
NAMESPACE = uuid.UUID("0a7a15ff-aa13-4ac2-897c-9bdf30ce175b")

#: Characters of a text id.
TEXT_LENGTH_MAX = 289

_HEX = re.compile(r"[0-9A-Fa-f]{32}")


def parse_uuid(text: str) -> uuid.UUID:
    """Read a UUID in any spelling that `uuid.UUID` takes, but no blanks, underscores or foreign digits.

    Raises ValueError.
    """
    digits = text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "")
    if not _HEX.fullmatch(digits):
        raise ValueError("badly formed hexadecimal UUID string")
    return metric_ids.from_int(int(digits, 16))


def resource_id(text: str, creator: str | None) -> uuid.UUID:
    """Return a resource's id from what its creator calls it: a UUID, or text that is hashed with the creator's name.

    Raises
    ------
    InvalidInput
        The text has a `/` or NUL, or is too long.
    """
    try:
        return parse_uuid(text)
    except ValueError:
        pass
    if "/" in text:
        raise InvalidInput("'/' is not supported in resource id")
    if len(text) > TEXT_LENGTH_MAX:
        raise InvalidInput(f"transformable resource id >{TEXT_LENGTH_MAX} max allowed characters")
    if "\0" in text:
        raise InvalidInput("text must not hold NUL characters")
    return uuid.uuid5(NAMESPACE, f"{text}\x00{creator or ''}")
