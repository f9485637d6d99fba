"""`/v1/resource_type`."""

from typing import Any

import pecan

from gnocchi.indexer import ResourceType


def format_resource_type(resource_type: ResourceType) -> dict[str, Any]:
    return {"name": resource_type.name, "attributes": resource_type.attributes, "state": resource_type.state}


class ResourceTypesController:
    @pecan.expose("json")
    def get(self) -> list[dict[str, Any]]:
        request = pecan.request
        request.enforce("list resource type")
        return [format_resource_type(found) for found in request.services.indexer.list_resource_types()]


class ResourceTypeController:
    @pecan.expose("json")
    def get(self, name: str) -> dict[str, Any]:
        request = pecan.request
        found = request.services.indexer.get_resource_type(name)
        request.enforce("get resource type", format_resource_type(found))
        return format_resource_type(found)
