"""Metrics and resources as replies show them, and as policy checks see them."""

from typing import Any

from gnocchi.indexer import Metric, Resource
from gnocchi.rest.auth import split_creator
from gnocchi.rest.controllers.archive_policy import format_archive_policy

#: What every object tells about who made it.
CREATOR_KEYS = frozenset(("creator", "created_by_user_id", "created_by_project_id"))


def format_creator(creator: str | None) -> dict[str, Any]:
    """The values of CREATOR_KEYS."""
    user_id, project_id = split_creator(creator)
    return {"creator": creator, "created_by_user_id": user_id, "created_by_project_id": project_id}


def _format_common(metric: Metric) -> dict[str, Any]:
    return {"id": str(metric.id), "name": metric.name, "unit": metric.unit, **format_creator(metric.creator)}


def format_metric(metric: Metric) -> dict[str, Any]:
    """The shape in lists."""
    return {
        **_format_common(metric),
        "resource_id": metric.resource_id,
        "archive_policy": format_archive_policy(metric.archive_policy),
    }


def format_created_metric(metric: Metric) -> dict[str, Any]:
    """The shape in the reply to its creation."""
    return {
        **_format_common(metric),
        "resource_id": metric.resource_id,
        "archive_policy_name": metric.archive_policy.name,
    }


def format_single_metric(metric: Metric, resource: Resource | None) -> dict[str, Any]:
    """The shape of one metric with its resource."""
    return {
        **_format_common(metric),
        "resource": None if resource is None else _format_resource_columns(resource),
        "archive_policy": format_archive_policy(metric.archive_policy),
    }


def metric_target(metric: Metric, resource: Resource | None = None) -> dict[str, Any]:
    """What policy checks of a metric may refer to: the texts of its JSON form."""
    return {
        **_format_common(metric),
        "resource_id": None if metric.resource_id is None else str(metric.resource_id),
        "resource": {} if resource is None else _format_resource_columns(resource),
        "archive_policy": {"name": metric.archive_policy.name},
    }


def _format_resource_columns(resource: Resource) -> dict[str, Any]:
    return {
        "id": str(resource.id),
        "type": resource.type,
        "original_resource_id": resource.original_resource_id,
        "user_id": resource.user_id,
        "project_id": resource.project_id,
        "started_at": resource.started_at,
        "ended_at": resource.ended_at,
        "revision_start": resource.revision_start,
        "revision_end": resource.revision_end,
        **format_creator(resource.creator),
    }


def format_resource(resource: Resource) -> dict[str, Any]:
    """The generic shape: exactly 13 keys whatever the type."""
    return {
        **_format_resource_columns(resource),
        "metrics": {name: str(id) for name, id in resource.metrics.items()},
    }


def format_typed_resource(resource: Resource) -> dict[str, Any]:
    """The shape with the attributes of its type."""
    return {**format_resource(resource), **resource.attributes}
