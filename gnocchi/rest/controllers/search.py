"""`/v1/search`."""

from typing import Any

import pecan

from gnocchi.indexer import ResourceType
from gnocchi.rest import arguments, resource_lists, visibility
from gnocchi.rest.filters.read import read_filter


class NoTypeController:
    """`/v1/search/resource`: no method without a type."""


class ResourceSearchController:
    """`/v1/search/resource/{type}`."""

    def lookup(self, type_name: str) -> tuple[ResourceType]:
        return (pecan.request.services.indexer.get_resource_type(type_name),)

    @pecan.expose("json")
    def post(self, type: ResourceType) -> list[dict[str, Any]]:
        request = pecan.request
        history = arguments.read_bool(request, "history", default=False)
        wanted = read_filter(request, type, history)
        return resource_lists.list_page(request, pecan.response, type, filter=wanted,
                                        visible=visibility.list_visible(request, "search resource"))
