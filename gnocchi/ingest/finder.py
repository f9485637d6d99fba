"""From resources and names to metrics: what measures are for is found, or made when it is missing."""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from gnocchi.backends import Backends
from gnocchi.common.cache import Recent
from gnocchi.common.repeat import until_unchanged
from gnocchi.exceptions import (
    ChangedMeanwhile,
    ClientError,
    InvalidInput,
    NamedMetricAlreadyExists,
    NoSuchArchivePolicy,
    NoSuchResource,
    ResourceAlreadyExists,
)
from gnocchi.indexer import MetricRow, Resource
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.ingest.batch import NamedBatch, WantedMetric
from gnocchi.ingest.guard import PERMIT_ALL, Guard
from gnocchi.ingest.plan import Key, Plan, make_plan, refuse_all

LOG = logging.getLogger(__name__)

#: Refused measures of one batch that are logged one by one.
MESSAGES_MAX = 10

#: Metrics that a process remembers; about 500 bytes each.
METRICS_REMEMBERED = 50_000


class MetricFinder:
    """Finds metrics, makes what is missing, and writes measures to them.  May be used by several threads.

    What was found is remembered, and compared with the index by one statement for each batch.  What is new takes a
    constant number of statements, however many metrics and resources there are.

    Parameters
    ----------
    backends : Backends
    """

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._known: Recent[Key, MetricRow] = Recent(METRICS_REMEMBERED)

    def write_measures(self, batch: NamedBatch, creator: str | None, guard: Guard = PERMIT_ALL, *,
                       create: bool = True) -> dict[int, ClientError]:
        """Write measures; on return they survive a crash.

        Parameters
        ----------
        creator : of what has to be made
        guard : asked about all that is done, and whether it shall be done although part of it cannot
        create : whether metrics that are missing are made, and their resources if these have a type

        Returns
        -------
        Row of `batch.metrics` -> why its measures were not stored: NoSuchMetric if none are to be made, NoSuchResource,
        ResourceAlreadyExists for one that has another type, NoSuchArchivePolicy, InvalidInput.

        Raises
        ------
        Exception
            What the guard raises.
        NoSuchResourceType
            Of a resource that has to be made.
        BackendUnavailable
            It may be tried again.  As after all other errors, no measure was written.
        """
        if create:
            # Opened first: the sacks are what an upgrade makes last, so with them the archive policies are there.
            _ = self._backends.incoming
        keys = _list_keys(batch)
        refused: dict[Key, ClientError] = {}
        if (rows := self._recall_all(keys)) is not None:
            guard.check_posting(set(rows), ())
            measures = batch.with_ids([row.id for row in rows])
        else:
            found, refused = until_unchanged(lambda: self._find(batch, keys, creator, guard, create))
            measures = batch.with_ids([found.get(key) for key in keys])
        if len(measures.timestamps):
            self._backends.incoming.write_measures(measures)
        return {row: refused[key] for row, key in enumerate(keys) if key in refused} if refused else {}

    def _find(self, batch: NamedBatch, keys: Sequence[Key], creator: str | None, guard: Guard,
              create: bool) -> tuple[dict[Key, bytes], dict[Key, ClientError]]:
        """Return the ids of metrics, and why others have none.  Raises ChangedMeanwhile: to be tried again."""
        found = self._recall(keys)
        missing = {key: wanted for key, wanted in zip(keys, batch.metrics, strict=True) if key not in found}
        if not missing:
            guard.check_posting(found.values(), ())
            return {key: row.id for key, row in found.items()}, {}
        resources, refused = self._look_up(missing, found)
        plan = (make_plan(self._backends.indexer, missing, batch.resources, resources) if create
                else refuse_all(missing))
        refused |= plan.refused
        wanted = dict(zip(keys, batch.metrics, strict=True))
        if refused:
            guard.check_refusals([(wanted[key], error) for key, error in refused.items()])
        self._check(plan, found, guard)
        if unmade := self._carry_out(plan, creator):
            guard.check_refusals([(wanted[key], error) for key, error in unmade.items()])
            refused |= unmade
        ids = {key: row.id for key, row in found.items()}
        for key, definition in plan.metrics.items():
            if key not in refused:
                ids[key] = definition.id.bytes
                self._known.put(key, MetricRow(definition.id.bytes, key[1].bytes, key[2], creator))
        return ids, refused

    def _recall_all(self, keys: Sequence[Key]) -> list[MetricRow] | None:
        """Return the metrics if all of them are remembered, and still what they were.

        FAST PATH: each UUID is hashed once, in 0.2 us, and not for every table that a key goes through.
        """
        rows = [row for row in map(self._known.get, keys) if row is not None]
        if not rows or len(rows) < len(keys):
            return None
        distinct = dict.fromkeys(rows)
        live = self._backends.indexer.list_metric_rows(b"".join([row.id for row in distinct]))
        return rows if len(live) == len(distinct) and distinct.keys() == set(live) else None

    def _recall(self, keys: Iterable[Key]) -> dict[Key, MetricRow]:
        """Return those of the metrics that are remembered, and still what they were."""
        known = self._known
        found = {key: row for key in dict.fromkeys(keys) if (row := known.get(key)) is not None}
        if found:
            live = set(self._backends.indexer.list_metric_rows(b"".join([row.id for row in found.values()])))
            if not live.issuperset(found.values()):
                for key in [key for key, row in found.items() if row not in live]:
                    known.drop(key)
                    del found[key]
        return found

    def _look_up(self, missing: dict[Key, WantedMetric],
                 found: dict[Key, MetricRow]) -> tuple[Mapping[uuid.UUID, Resource], dict[Key, ClientError]]:
        """Move metrics that exist from `missing` to `found`, and those whose resource has another type to the refused.

        Returns the resources that exist, as far as they have to be known, and the refused.
        """
        indexer = self._backends.indexer
        names: dict[uuid.UUID, set[str]] = {}
        for _, resource_id, name in missing:
            names.setdefault(resource_id, set()).add(name)
        rows = indexer.list_named_metrics(names)
        asked = {resource_id for type, resource_id, name in missing
                 if type not in (None, GENERIC) or (resource_id, name) not in rows}
        resources = {each.id: each for each in indexer.list_resources_by_id(sorted(asked))} if asked else {}
        refused: dict[Key, ClientError] = {}
        for key in list(missing):
            type, resource_id, name = key
            resource = resources.get(resource_id)
            if type not in (None, GENERIC) and resource is not None and resource.type != type:
                refused[key] = ResourceAlreadyExists(resource_id)
            elif (row := rows.get((resource_id, name))) is not None:
                found[key] = row
                self._known.put(key, row)
            else:
                continue
            del missing[key]
        return resources, refused

    @staticmethod
    def _check(plan: Plan, found: Mapping[Key, MetricRow], guard: Guard) -> None:
        """Ask whether all of it may be done."""
        definitions = list(plan.metrics.values())
        for type, resources in plan.resources.items():
            guard.check_new_resources(type, list(resources.values()))
        if definitions:
            guard.check_new_metrics(plan.existing, definitions)
        guard.check_posting(found.values(), definitions)

    def _carry_out(self, plan: Plan, creator: str | None) -> dict[Key, ClientError]:
        """Make what is planned; return why some of it cannot be made.  Raises ChangedMeanwhile."""
        refused: dict[Key, ClientError] = {}
        for type, resources, metrics in plan.list_steps():
            try:
                self._backends.indexer.create_named_metrics(type, resources, list(metrics.values()), creator)
            except (NamedMetricAlreadyExists, NoSuchResource, ResourceAlreadyExists, NoSuchArchivePolicy) as e:
                raise ChangedMeanwhile("What a batch names") from e
            except InvalidInput as e:
                refused |= dict.fromkeys(metrics, e)
        return refused


def _list_keys(batch: NamedBatch) -> list[Key]:
    """Return the key of each metric."""
    types = {resource.type for resource in batch.resources.values()}
    if len(types) == 1:
        type = types.pop()
        return [(type, wanted.resource_id, wanted.name) for wanted in batch.metrics]
    return [(batch.resources[wanted.resource_id].type, wanted.resource_id, wanted.name) for wanted in batch.metrics]


def log_refused(refused: Mapping[int, ClientError], name: Callable[[int], str]) -> None:
    """Log why measures were not stored, by row, as daemons do, which have nobody to tell; `name` names a row's."""
    for row in sorted(refused)[:MESSAGES_MAX]:
        LOG.error("Unable to add measure %s: %s", name(row), refused[row])
    if len(refused) > MESSAGES_MAX:
        LOG.error("Unable to add measures of %d more metrics", len(refused) - MESSAGES_MAX)
