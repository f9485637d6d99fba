"""What has to be made for measures that no metric is there for."""

import dataclasses
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gnocchi.exceptions import ClientError, InvalidInput, NoSuchArchivePolicy, NoSuchMetric, NoSuchResource
from gnocchi.indexer import MetricDefinition, Resource, ResourceDefinition, ResourceType
from gnocchi.indexer.archive_policies import match_archive_policy
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.models import ORIGINAL_RESOURCE_ID_LENGTH, UNIT_LENGTH
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.ingest.batch import WantedMetric, WantedResource
from gnocchi.resource_type import AttributeChecks

#: Type, resource and name of a metric.
Key = tuple[str | None, uuid.UUID, str]


@dataclasses.dataclass
class Plan:
    """What is to be made, in order of ids and names, so that requests wait for each other instead of blocking.

    resources : new ones by name of their type
    existing : the other resources of the metrics, without attributes
    refused : why others cannot be made
    """

    metrics: dict[Key, MetricDefinition] = dataclasses.field(default_factory=dict)
    types: dict[str, ResourceType] = dataclasses.field(default_factory=dict)
    resources: dict[str, dict[uuid.UUID, ResourceDefinition]] = dataclasses.field(default_factory=dict)
    existing: list[Resource] = dataclasses.field(default_factory=list)
    refused: dict[Key, ClientError] = dataclasses.field(default_factory=dict)

    def list_steps(self) -> Iterator[tuple[ResourceType | None, Sequence[ResourceDefinition],
                                           dict[Key, MetricDefinition]]]:
        """Yield a type, new resources of it and their metrics; or None, nothing and metrics of existing resources."""
        by_type: dict[str | None, dict[Key, MetricDefinition]] = {}
        for key, definition in self.metrics.items():
            type = key[0] if key[0] is not None and key[1] in self.resources.get(key[0], ()) else None
            by_type.setdefault(type, {})[key] = definition
        for type, metrics in by_type.items():
            if type is None:
                yield None, (), metrics
            else:
                yield self.types[type], list(self.resources[type].values()), metrics


def refuse_all(missing: Mapping[Key, WantedMetric]) -> Plan:
    """Return the plan for a client that wants nothing to be made."""
    return Plan(refused={key: NoSuchMetric(f"{metric.resource_id}/{metric.name}") for key, metric in missing.items()})


def make_plan(indexer: Indexer, missing: Mapping[Key, WantedMetric], wanted: Mapping[uuid.UUID, WantedResource],
              existing: Mapping[uuid.UUID, Resource]) -> Plan:
    """Plan metrics and their resources.

    Parameters
    ----------
    wanted, existing : the resources as they are wanted, and those that exist already, by id

    Raises NoSuchResourceType.
    """
    plan = Plan()
    unmade = _plan_resources(indexer, plan, {key[:2] for key in missing if key[1] not in existing}, wanted)
    choose = _make_chooser(indexer, missing.values())
    for key, metric in sorted(missing.items(), key=lambda item: item[0][1:]):
        try:
            if metric.resource_id in unmade:
                raise unmade[metric.resource_id]
            if not metric.name:
                raise InvalidInput("Metric name is empty")    # no path could name it
            check_text("Metric name", metric.name)
            check_text("Unit", metric.unit, UNIT_LENGTH)
            plan.metrics[key] = MetricDefinition(uuid.uuid4(), choose(metric), metric.name, metric.unit,
                                                 metric.resource_id)
        except ClientError as e:
            plan.refused[key] = e
    used = {key[1] for key in plan.metrics}
    plan.resources = {type: kept for type, resources in plan.resources.items()
                      if (kept := {id: each for id, each in resources.items() if id in used})}
    plan.existing = [each for each in existing.values() if each.id in used]
    return plan


def _plan_resources(indexer: Indexer, plan: Plan, keys: Iterable[tuple[str | None, uuid.UUID]],
                    wanted: Mapping[uuid.UUID, WantedResource]) -> dict[uuid.UUID, ClientError]:
    """Plan resources; return why others cannot be made."""
    unmade: dict[uuid.UUID, ClientError] = {}
    checks: dict[str, AttributeChecks] = {}
    for type, id in sorted(keys, key=lambda key: key[1]):
        resource = wanted[id]
        try:
            if type is None:
                raise NoSuchResource(resource.original_id)
            if type not in checks:
                plan.types[type] = indexer.get_resource_type(type)
                checks[type] = AttributeChecks(plan.types[type].attributes)
            check_text("original_resource_id", resource.original_id, ORIGINAL_RESOURCE_ID_LENGTH)
            check_text("user_id", resource.user_id)
            check_text("project_id", resource.project_id)
            plan.resources.setdefault(type, {})[id] = ResourceDefinition(
                id, resource.original_id, checks[type].check(resource.attributes), resource.user_id,
                resource.project_id)
        except (InvalidInput, NoSuchResource) as e:
            unmade[id] = e
    return unmade


def _make_chooser(indexer: Indexer, metrics: Iterable[WantedMetric]) -> Callable[[WantedMetric], str]:
    """Return what names the archive policy of a metric.  It raises NoSuchArchivePolicy, NoArchivePolicyRuleMatch."""
    named = [metric.archive_policy_name is not None for metric in metrics]
    policies = {policy.name for policy in indexer.list_archive_policies()} if any(named) else set()
    rules = [] if all(named) else indexer.list_archive_policy_rules()

    def choose(metric: WantedMetric) -> str:
        if metric.archive_policy_name is None:
            return match_archive_policy(rules, metric.name)
        if metric.archive_policy_name not in policies:
            raise NoSuchArchivePolicy(metric.archive_policy_name)
        return metric.archive_policy_name

    return choose
