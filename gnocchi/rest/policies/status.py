from gnocchi.rest.policies.base import ADMIN, rule

RULES = [
    rule("get status", ADMIN, "Get backlog and state of the service", "GET /v1/status"),
]
