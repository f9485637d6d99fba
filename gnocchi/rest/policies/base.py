"""The rules that others refer to, and how a documented rule is made."""

from oslo_policy import policy

ADMIN = "role:admin"
ADMIN_OR_CREATOR = "rule:admin_or_creator"
ADMIN_OR_SERVICE = "rule:admin_or_service"
CREATOR = "rule:creator"
RESOURCE_OWNER = "rule:resource_owner"
METRIC_OWNER = "rule:metric_owner"
#: Everybody who is authenticated.
ANYONE = ""

RULES = [
    policy.RuleDefault("context_is_admin", "role:admin"),
    policy.RuleDefault("admin_or_creator",
                       "role:admin or user:%(creator)s or project_id:%(created_by_project_id)s"),
    policy.RuleDefault("admin_or_service", "role:admin or role:service"),
    policy.RuleDefault("creator", "user:%(creator)s or project_id:%(created_by_project_id)s"),
    policy.RuleDefault("resource_owner", "project_id:%(project_id)s"),
    policy.RuleDefault("metric_owner", "project_id:%(resource.project_id)s"),
]


def rule(name: str, check: str, description: str, *operations: str) -> policy.DocumentedRuleDefault:
    """Make a rule; operations are written as "METHOD /path"."""
    return policy.DocumentedRuleDefault(
        name, check, description,
        [{"method": method, "path": path} for method, path in map(str.split, operations)],
        scope_types=["system", "domain", "project"])
