from gnocchi.rest.policies.base import ADMIN, ANYONE, rule

_ITEM = "/v1/archive_policy_rule/{archive_policy_rule}"

RULES = [
    rule("create archive policy rule", ADMIN, "Create a new archive policy rule", "POST /v1/archive_policy_rule"),
    rule("get archive policy rule", ANYONE, "Get an archive policy rule", f"GET {_ITEM}"),
    rule("update archive policy rule", ADMIN, "Update an archive policy rule", f"PATCH {_ITEM}"),
    rule("delete archive policy rule", ADMIN, "Delete an archive policy rule", f"DELETE {_ITEM}"),
    rule("list archive policy rule", ANYONE, "List all archive policy rules", "GET /v1/archive_policy_rule"),
]
