"""`/v1/archive_policy_rule`."""

import pecan

from gnocchi import exceptions
from gnocchi.indexer import ArchivePolicyRule
from gnocchi.rest import errors, headers
from gnocchi.rest.schemas import archive_policy_rule as schemas


def format_rule(rule: ArchivePolicyRule) -> dict[str, str]:
    return {
        "name": rule.name,
        "archive_policy_name": rule.archive_policy_name,
        "metric_pattern": rule.metric_pattern,
    }


class ArchivePolicyRulesController:
    def get(self) -> list[dict[str, str]]:
        request = pecan.request
        request.enforce("list archive policy rule")
        return [format_rule(rule) for rule in request.services.indexer.list_archive_policy_rules()]

    def post(self) -> dict[str, str]:
        request = pecan.request
        request.enforce("create archive policy rule")
        body = request.read_json(schemas.CREATE)
        rule = ArchivePolicyRule(body["name"], body["archive_policy_name"], body["metric_pattern"])
        try:
            request.services.indexer.create_archive_policy_rule(rule)
        except exceptions.NoSuchArchivePolicy as e:
            raise errors.RequestError(
                400, {"cause": "Archive policy does not exist", "detail": e.archive_policy}) from e
        headers.set_created(request, pecan.response, "archive_policy_rule", rule.name)
        return format_rule(rule)


class ArchivePolicyRuleController:
    """Every method needs an existing rule, before anything else is looked at."""

    def lookup(self, name: str) -> tuple[ArchivePolicyRule]:
        return (pecan.request.services.indexer.get_archive_policy_rule(name),)

    def get(self, rule: ArchivePolicyRule) -> dict[str, str]:
        pecan.request.enforce("get archive policy rule", format_rule(rule))
        return format_rule(rule)

    def patch(self, rule: ArchivePolicyRule) -> dict[str, str]:
        request = pecan.request
        body = request.read_json(schemas.UPDATE)
        request.enforce("update archive policy rule", format_rule(rule))
        return format_rule(request.services.indexer.update_archive_policy_rule(rule.name, body["name"]))

    def delete(self, rule: ArchivePolicyRule) -> None:
        request = pecan.request
        request.enforce("delete archive policy rule", format_rule(rule))
        request.services.indexer.delete_archive_policy_rule(rule.name)
