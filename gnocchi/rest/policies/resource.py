from gnocchi.rest.policies.base import (
    ADMIN_OR_CREATOR,
    ADMIN_OR_SERVICE,
    ANYONE,
    CREATOR,
    RESOURCE_OWNER,
    rule,
)

_TYPE = "/v1/resource/{resource_type}"

RULES = [
    rule("create resource", ANYONE, "Create a new resource", f"POST {_TYPE}"),
    rule("get resource", f"{ADMIN_OR_CREATOR} or {RESOURCE_OWNER}", "Get a resource", f"GET {_TYPE}/{{resource_id}}"),
    rule("update resource", f"{ADMIN_OR_SERVICE} or {CREATOR}", "Update a resource", f"PATCH {_TYPE}/{{resource_id}}"),
    rule("delete resource", ADMIN_OR_CREATOR, "Delete a resource", f"DELETE {_TYPE}/{{resource_id}}"),
    rule("delete resources", ADMIN_OR_CREATOR, "Delete the resources that a filter matches", f"DELETE {_TYPE}"),
    rule("list resource", f"{ADMIN_OR_CREATOR} or {RESOURCE_OWNER}", "List all resources", f"GET {_TYPE}"),
    rule("search resource", f"{ADMIN_OR_SERVICE} or {CREATOR} or {RESOURCE_OWNER}", "Search resources",
         "POST /v1/search/resource/{resource_type}"),
]
