"""`/v1/archive_policy`."""

from typing import Any

import pecan

from gnocchi import archive_policy, times
from gnocchi.archive_policy import ArchivePolicy, ArchivePolicyItem
from gnocchi.rest import headers
from gnocchi.rest.schemas import archive_policy as schemas


def format_item(item: ArchivePolicyItem) -> dict[str, Any]:
    return {
        "timespan": None if item.timespan is None else times.format_timespan(item.timespan),
        "granularity": times.format_timespan(item.granularity),
        "points": item.points,
    }


def format_archive_policy(policy: ArchivePolicy) -> dict[str, Any]:
    return {
        "name": policy.name,
        "back_window": policy.back_window,
        "definition": [format_item(item) for item in policy.definition],
        "aggregation_methods": list(policy.aggregation_methods),
    }


class ArchivePoliciesController:
    def get(self) -> list[dict[str, Any]]:
        request = pecan.request
        request.enforce("list archive policy")
        return [format_archive_policy(policy) for policy in request.services.indexer.list_archive_policies()]

    def post(self) -> dict[str, Any]:
        request = pecan.request
        request.enforce("create archive policy")
        body = request.read_json(schemas.CREATE)
        policy = archive_policy.make_archive_policy(
            body["name"], body.get("back_window", 0), schemas.make_items(body["definition"]),
            body.get("aggregation_methods"), request.services.conf.archive_policy.default_aggregation_methods)
        request.services.indexer.create_archive_policy(policy)
        headers.set_created(request, pecan.response, "archive_policy", policy.name)
        return format_archive_policy(policy)


class ArchivePolicyController:
    def get(self, name: str) -> dict[str, Any]:
        request = pecan.request
        policy = request.services.indexer.get_archive_policy(name)
        request.enforce("get archive policy", format_archive_policy(policy))
        return format_archive_policy(policy)

    def patch(self, name: str) -> dict[str, Any]:
        request = pecan.request
        policy = request.services.indexer.get_archive_policy(name)
        request.enforce("update archive policy", format_archive_policy(policy))
        body = request.read_json(schemas.UPDATE)
        return format_archive_policy(request.services.indexer.update_archive_policy(
            name, schemas.make_items(body["definition"]), body.get("back_window")))

    def delete(self, name: str) -> None:
        request = pecan.request
        request.enforce("delete archive policy")
        request.services.indexer.delete_archive_policy(name)
