from gnocchi.rest.policies.base import (
    ADMIN_OR_CREATOR,
    ADMIN_OR_SERVICE,
    ANYONE,
    CREATOR,
    METRIC_OWNER,
    rule,
)

_WRITERS = f"{ADMIN_OR_SERVICE} or {CREATOR}"

RULES = [
    rule("create metric", ANYONE, "Create a new metric", "POST /v1/metric"),
    rule("get metric", f"{_WRITERS} or {METRIC_OWNER}", "Get a metric", "GET /v1/metric/{metric}"),
    rule("delete metric", ADMIN_OR_CREATOR, "Delete a metric", "DELETE /v1/metric/{metric}"),
    rule("list metric", f"{ADMIN_OR_CREATOR} or {METRIC_OWNER}", "List all metrics", "GET /v1/metric"),
    rule("search metric", f"{ADMIN_OR_CREATOR} or {METRIC_OWNER}", "Search the values of metrics",
         "POST /v1/search/metric"),
    rule("post measures", _WRITERS, "Post measures",
         "POST /v1/metric/{metric}/measures",
         "POST /v1/batch/metrics/measures",
         "POST /v1/batch/resources/metrics/measures",
         "POST /v1/influxdb/write",
         "POST /v1/prometheus/write",
         "POST /v1/otlp/v1/metrics"),
    rule("get measures", f"{_WRITERS} or {METRIC_OWNER}", "Get measures", "GET /v1/metric/{metric}/measures"),
]
