from gnocchi.rest.policies.base import ADMIN, ADMIN_OR_SERVICE, ANYONE, rule

_ITEM = "/v1/resource_type/{resource_type}"

RULES = [
    rule("create resource type", ADMIN_OR_SERVICE, "Create a new resource type", "POST /v1/resource_type",
         "POST /v1/influxdb/query", "POST /v1/prometheus/write",
         "POST /v1/otlp/v1/metrics"),
    rule("get resource type", ANYONE, "Get a resource type", f"GET {_ITEM}"),
    rule("update resource type", ADMIN_OR_SERVICE, "Update a resource type", f"PATCH {_ITEM}"),
    rule("delete resource type", ADMIN, "Delete a resource type", f"DELETE {_ITEM}"),
    rule("list resource type", ANYONE, "List all resource types", "GET /v1/resource_type",
         "GET /v1/influxdb/query"),
]
