"""Metrics of resources: which series an expression's names and patterns mean, and in which groups of resources."""

import fnmatch
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gnocchi.indexer import Metric, Resource
from gnocchi.query.aggregates import Selection
from gnocchi.query.expression import Reference
from gnocchi.query.series import Series

_WILDCARDS = frozenset("*?[")


class Group(NamedTuple):
    """Resources with the same values of some attributes, and the series of theirs that an expression means.

    values : those values
    resources : those that have any of the series
    """

    values: Any
    resources: list[Resource]
    selection: Selection


def match_names(reference: Reference, names: Iterable[str]) -> list[str]:
    """Return the names that a reference means: itself, or those that its shell pattern matches, with regard to case."""
    if _WILDCARDS.isdisjoint(reference.name):
        return [name for name in names if name == reference.name]
    return [name for name in names if fnmatch.fnmatchcase(name, reference.name)]


def list_metric_ids(resources: Iterable[Resource], references: Sequence[Reference]) -> list[uuid.UUID]:
    """Return the ids of all metrics that references mean, each once."""
    return list(dict.fromkeys(resource.metrics[name] for resource in resources for reference in references
                              for name in match_names(reference, resource.metrics)))


def make_groups(parts: Iterable[tuple[Any, Sequence[Resource]]], references: Sequence[Reference],
                metrics: Mapping[uuid.UUID, Metric]) -> list[Group]:
    """Return the groups that have any of the series.

    Parameters
    ----------
    parts : values of each group, and its resources
    metrics : those that exist, by id
    """
    groups = []
    for values, members in parts:
        selection = select_series(members, references, metrics)
        if selection.series:
            owners = set(selection.owners or ())
            groups.append(Group(values, [resource for resource in members if resource.id in owners], selection))
    return groups


def select_series(resources: Sequence[Resource], references: Sequence[Reference],
                  metrics: Mapping[uuid.UUID, Metric]) -> Selection:
    """Return what references mean among the metrics of some resources; by resource, then by reference."""
    rows: dict[tuple[uuid.UUID, str], int] = {}
    names: list[str] = []
    owners: list[uuid.UUID] = []
    columns: dict[Reference, list[int]] = {reference: [] for reference in references}
    for resource in resources:
        for reference in references:
            for name in match_names(reference, resource.metrics):
                id = resource.metrics[name]
                if id not in metrics:       # deleted just now
                    continue
                row = rows.setdefault((id, reference.method), len(rows))
                if row == len(names):
                    names.append(name)
                    owners.append(resource.id)
                columns[reference].append(row)
    return Selection([Series(metrics[id], method) for id, method in rows], names, owners, columns)
