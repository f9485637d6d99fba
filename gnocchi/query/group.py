"""Metrics of resources: which series an expression's names and patterns mean, and in which groups of resources."""

import fnmatch
import operator
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gnocchi.indexer import Metric, Resource
from gnocchi.query.aggregates import Selection
from gnocchi.query.expression import Reference, is_pattern
from gnocchi.query.series import Series


class Group(NamedTuple):
    """Resources with the same values of some attributes, and the series of theirs that an expression means.

    values : those values
    resources : those that have any of the series
    """

    values: Any
    resources: list[Resource]
    selection: Selection


class Matcher:
    """Tells which references of an expression mean a name: those of that name, and those whose shell pattern matches
    it, with regard to case."""

    def __init__(self, references: Sequence[Reference]) -> None:
        self._exact: dict[str, list[int]] = {}
        self._patterns: list[tuple[int, re.Pattern[str]]] = []
        for number, reference in enumerate(references):
            if is_pattern(reference):
                self._patterns.append((number, re.compile(fnmatch.translate(reference.name))))
            else:
                self._exact.setdefault(reference.name, []).append(number)
        self._known: dict[str, list[int]] = {}

    def match(self, names: Iterable[str]) -> list[tuple[int, str]]:
        """Return the references, by number, ascending, that mean any of the names, with these."""
        return sorted(((number, name) for name in names for number in self._find(name)), key=operator.itemgetter(0))

    def _find(self, name: str) -> list[int]:
        if not self._patterns:
            return self._exact.get(name, [])
        found = self._known.get(name)   # resources are often alike
        if found is None:
            found = self._known[name] = [*self._exact.get(name, ()),
                                         *(number for number, pattern in self._patterns if pattern.match(name))]
        return found


def list_metric_ids(resources: Iterable[Resource], references: Sequence[Reference]) -> list[uuid.UUID]:
    """Return the ids of all metrics that references mean, each once."""
    matcher = Matcher(references)
    return list(dict.fromkeys(resource.metrics[name] for resource in resources
                              for _, name in matcher.match(resource.metrics)))


def make_groups(parts: Iterable[tuple[Any, Sequence[Resource]]], references: Sequence[Reference],
                metrics: Mapping[uuid.UUID, Metric]) -> list[Group]:
    """Return the groups that have any of the series.

    Parameters
    ----------
    parts : values of each group, and its resources
    metrics : those that exist, by id
    """
    groups = []
    matcher = Matcher(references)
    for values, members in parts:
        selection = select_series(members, references, metrics, matcher)
        if selection.series:
            owners = set(selection.owners or ())
            groups.append(Group(values, [resource for resource in members if resource.id in owners], selection))
    return groups


def select_series(resources: Sequence[Resource], references: Sequence[Reference],
                  metrics: Mapping[uuid.UUID, Metric], matcher: Matcher | None = None) -> Selection:
    """Return what references mean among the metrics of some resources; by resource, then by reference."""
    matcher = matcher or Matcher(references)
    rows: dict[tuple[uuid.UUID, str], int] = {}
    names: list[str] = []
    owners: list[uuid.UUID] = []
    columns: dict[Reference, list[int]] = {reference: [] for reference in references}
    for resource in resources:
        for number, name in matcher.match(resource.metrics):
            id = resource.metrics[name]
            if id not in metrics:       # deleted just now
                continue
            row = rows.setdefault((id, references[number].method), len(rows))
            if row == len(names):
                names.append(name)
                owners.append(resource.id)
            columns[references[number]].append(row)
    return Selection([Series(metrics[id], method) for id, method in rows], names, owners, columns)
