"""What callers may do: the rules and their defaults, one module per noun."""

import itertools

from gnocchi.rest.policies import archive_policy, archive_policy_rule, base, metric, resource, resource_type, status


def list_rules():
    """Return every rule with its default, for oslo.policy's tools and for the API."""
    return list(itertools.chain(
        base.RULES, status.RULES, resource.RULES, resource_type.RULES, archive_policy.RULES, archive_policy_rule.RULES,
        metric.RULES))
