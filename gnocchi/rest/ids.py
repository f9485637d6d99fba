"""Identifiers as clients write them."""

import re
import uuid

import voluptuous

from gnocchi import metric_ids
from gnocchi.indexer import CURRENT_REVISION
from gnocchi.indexer.pagination import invalid_marker

#: Text ids of resources are hashed in this namespace.  Contract, rest 11.2.
RESOURCE_ID_NAMESPACE = uuid.UUID("0a7a15ff-aa13-4ac2-897c-9bdf30ce175b")

#: Characters of a text id.
RESOURCE_ID_LENGTH_MAX = 289

_REVISION = re.compile(r"-1|[0-9]{1,18}", re.ASCII)

_HEX = re.compile(r"[0-9A-Fa-f]{32}")


def parse_uuid(text: str) -> uuid.UUID:
    """Read a UUID in any spelling that `uuid.UUID` takes, but no blanks, underscores or foreign digits.

    Raises ValueError.
    """
    digits = text.replace("urn:", "").replace("uuid:", "").strip("{}").replace("-", "")
    if not _HEX.fullmatch(digits):
        raise ValueError("badly formed hexadecimal UUID string")
    return metric_ids.from_int(int(digits, 16))


def parse_marker(text: str | None) -> uuid.UUID | None:
    """Read the marker of a page in a list of what has UUIDs.  Raises InvalidPagination."""
    if text is None:
        return None
    try:
        return parse_uuid(text)
    except ValueError:
        raise invalid_marker(text) from None


def parse_revision_marker(text: str | None) -> tuple[uuid.UUID | None, int]:
    """Read the marker of a page in a list of revisions, `<id>@<revision>`.  Raises InvalidPagination."""
    if text is None:
        return None, CURRENT_REVISION
    id, _, revision = text.partition("@")
    if not _REVISION.fullmatch(revision):
        raise invalid_marker(text)
    try:
        return parse_uuid(id), int(revision)
    except ValueError:
        raise invalid_marker(text) from None


def resource_id(text: str, creator: str | None) -> uuid.UUID:
    """Return a resource's id from what its caller calls it: a UUID, or text that is hashed with the caller's name.

    Raises
    ------
    voluptuous.Invalid
        The text has a `/`, is too long, or has no UTF-8 form.
    """
    try:
        return parse_uuid(text)
    except ValueError:
        pass
    if "/" in text:
        raise voluptuous.Invalid("'/' is not supported in resource id")
    if len(text) > RESOURCE_ID_LENGTH_MAX:
        raise voluptuous.Invalid(f"transformable resource id >{RESOURCE_ID_LENGTH_MAX} max allowed characters")
    if "\0" in text:
        raise voluptuous.Invalid("text must not hold NUL characters")
    return uuid.uuid5(RESOURCE_ID_NAMESPACE, f"{text}\x00{creator or ''}")
