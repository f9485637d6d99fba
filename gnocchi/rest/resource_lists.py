"""Replies that list resources or their revisions: which page, of what, in which shape."""

import uuid
from typing import Any

from gnocchi.indexer import Resource, ResourceType
from gnocchi.indexer.filters import Filter
from gnocchi.indexer.pagination import RESOURCE_SORTS
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.rest import arguments, formats, ids, pagination
from gnocchi.rest.request import Request


def format_for(resource: Resource, type_name: str, details: bool = False) -> dict[str, Any]:
    """A resource as it looks through the URL of a type."""
    if details or type_name != GENERIC:
        return formats.format_typed_resource(resource)
    return formats.format_resource(resource)


def list_page(request: Request, response, type: ResourceType, *, filter: Filter | None = None,
              visible: Filter | None = None) -> list[dict[str, Any]]:
    """The page that the query asks for: `details`, `history`, `attrs`, `limit`, `marker`, `sort`.

    Raises errors.RequestError 400, InvalidPagination.
    """
    history = arguments.read_bool(request, "history", default=False)
    wanted = set(request.GET.getall("attrs"))
    return [_keep(item, wanted) for item in _list_page(
        request, response, type, history=history, filter=filter, visible=visible)]


def list_revisions(request: Request, response, type: ResourceType, id: uuid.UUID) -> list[dict[str, Any]]:
    """The page of revisions of one resource that the query asks for: `details`, `limit`, `marker`, `sort`."""
    return _list_page(request, response, type, history=True, id=id)


def _list_page(request: Request, response, type: ResourceType, *, history: bool,
               **choice: Any) -> list[dict[str, Any]]:
    details = arguments.read_bool(request, "details", default=False)
    page = pagination.read_page(request, RESOURCE_SORTS)
    if history:
        marker, revision = ids.parse_revision_marker(page.marker)
        choice["marker_revision"] = revision
    else:
        marker = ids.parse_marker(page.marker)
    resources = request.services.indexer.list_resources(
        type, limit=page.limit, marker=marker, sorts=page.sorts, history=history, **choice)
    if resources:
        last = resources[-1]
        pagination.set_next_link(request, response, page, len(resources),
                                 f"{last.id}@{last.revision}" if history else str(last.id))
    return [format_for(resource, type.name, details) for resource in resources]


def _keep(item: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Only the keys wanted; all if none are named."""
    return {key: value for key, value in item.items() if key in wanted} if wanted else item
