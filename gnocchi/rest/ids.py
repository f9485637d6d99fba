"""Markers of pages as clients write them."""

import re
import uuid

from gnocchi.indexer import CURRENT_REVISION
from gnocchi.indexer.pagination import invalid_marker
from gnocchi.resource_ids import parse_uuid

_REVISION = re.compile(r"-1|[0-9]{1,18}", re.ASCII)


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
