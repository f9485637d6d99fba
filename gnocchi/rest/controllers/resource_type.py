"""`/v1/resource_type`."""

from typing import Any

import pecan

from gnocchi.common.repeat import until_unchanged
from gnocchi.indexer import ResourceType
from gnocchi.rest import headers
from gnocchi.rest.schemas import resource_type as schemas

JSON_PATCH = "application/json-patch+json"


def format_resource_type(resource_type: ResourceType) -> dict[str, Any]:
    return {"name": resource_type.name, "attributes": resource_type.attributes, "state": resource_type.state}


class ResourceTypesController:
    def get(self) -> list[dict[str, Any]]:
        request = pecan.request
        request.enforce("list resource type")
        return [format_resource_type(found) for found in request.services.indexer.list_resource_types()]

    def post(self) -> dict[str, Any]:
        request = pecan.request
        body = request.read_json(schemas.CREATE)
        attributes = body.get("attributes", {})
        request.enforce("create resource type", {"name": body["name"], "attributes": attributes})
        schemas.check_attributes(attributes)
        created = request.services.indexer.create_resource_type(body["name"], attributes)
        headers.set_created(request, pecan.response, "resource_type", created.name)
        return format_resource_type(created)


class ResourceTypeController:
    def get(self, name: str) -> dict[str, Any]:
        request = pecan.request
        found = request.services.indexer.get_resource_type(name)
        request.enforce("get resource type", format_resource_type(found))
        return format_resource_type(found)

    def patch(self, name: str) -> dict[str, Any]:
        request = pecan.request
        indexer = request.services.indexer
        found = indexer.get_resource_type(name)
        request.enforce("update resource type", format_resource_type(found))
        operations = request.read_json(schemas.PATCH, JSON_PATCH)

        def attempt() -> ResourceType:
            current = indexer.get_resource_type(name)
            change = schemas.apply_patch(current, operations)
            return current if change is None else indexer.update_resource_type(current, change.attributes, change.fill)

        return format_resource_type(until_unchanged(attempt))

    def delete(self, name: str) -> None:
        request = pecan.request
        request.enforce("delete resource type", {"name": name})
        request.services.indexer.delete_resource_type(name)
