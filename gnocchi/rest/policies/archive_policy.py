from gnocchi.rest.policies.base import ADMIN, ADMIN_OR_SERVICE, ANYONE, rule

RULES = [
    rule("create archive policy", ADMIN_OR_SERVICE, "Create a new archive policy", "POST /v1/archive_policy"),
    rule("get archive policy", ANYONE, "Get an archive policy", "GET /v1/archive_policy/{archive_policy}"),
    rule("update archive policy", ADMIN, "Update an archive policy", "PATCH /v1/archive_policy/{archive_policy}"),
    rule("delete archive policy", ADMIN, "Delete an archive policy", "DELETE /v1/archive_policy/{archive_policy}"),
    rule("list archive policy", ANYONE, "List all archive policies", "GET /v1/archive_policy"),
]
