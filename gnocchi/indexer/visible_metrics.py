"""Which metrics a caller may see, by themselves or by their resource, as a part of lists."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from gnocchi.indexer import sampling
from gnocchi.indexer.filters import (
    AllOf,
    AnyOf,
    Comparison,
    Compiler,
    Constant,
    Field,
    Filter,
    Kind,
    Membership,
    Not,
    creator_fields,
)
from gnocchi.indexer.models import metric, resource

#: What the names of a resource's fields begin with.
OF_RESOURCE = "resource."

WITH_RESOURCE = metric.outerjoin(resource, resource.c.id == metric.c.resource_id)


def visible_fields(dialect: str) -> dict[str, Field]:
    """Return what decides whether a metric is visible; the fields of its resource begin with `resource.`."""
    texts = [resource.c.type, resource.c.user_id, resource.c.project_id, resource.c.original_resource_id]
    of_resource = creator_fields(resource.c.creator, dialect, resource.c.creator_project) | {
        column.name: Field(Kind.STRING, column) for column in texts}
    return creator_fields(metric.c.creator, dialect, metric.c.creator_project) | {
        column.name: Field(Kind.STRING, column) for column in (metric.c.name, metric.c.unit)} | {
        f"{OF_RESOURCE}{name}": field for name, field in of_resource.items()}


class VisibleMetrics:
    """A condition on metrics, as SQL.

    Parameters
    ----------
    visible : of `visible_fields`
    dialect : name of the kind of database
    """

    def __init__(self, visible: Filter, dialect: str) -> None:
        self._compiler = Compiler(visible_fields(dialect), dialect)
        self.condition = self._compiler.compile(visible)
        self._alternatives = list(_list_alternatives(visible))

    def restrict(self, connection: sa.Connection, statement: sa.Select[Any]) -> sa.Select[Any]:
        """Return a SELECT of metrics with the condition.

        Where it lets in few, they are found by indexes first: no index serves an "or" across two tables.
        """
        rows = sa.select(sampling.count_as_hit(self.condition)).select_from(WITH_RESOURCE).order_by(metric.c.id)
        parts = self._select_parts()
        if parts and sampling.measure_share(connection, rows) < sampling.RARE_SHARE:
            seen = sa.union(*parts).subquery("seen")
            return statement.join(seen, seen.c.id == metric.c.id)
        return statement.outerjoin(resource, resource.c.id == metric.c.resource_id).where(self.condition)

    def _select_parts(self) -> list[sa.Select[Any]]:
        """Return SELECTs of ids, by what metrics are themselves and by their resources; none if that cannot be told."""
        own: list[Filter] = []
        by_resource: list[Filter] = []
        for alternative in self._alternatives:
            names = set(_list_names(alternative))
            if names and not any(name.startswith(OF_RESOURCE) for name in names):
                own.append(alternative)
            elif names and all(name.startswith(OF_RESOURCE) for name in names) and _needs_row(alternative):
                by_resource.append(alternative)
            else:
                return []
        return [statement.where(self._compiler.compile(AnyOf(tuple(those))))
                for statement, those in ((sa.select(metric.c.id), own),
                                         (sa.select(metric.c.id).join(resource), by_resource)) if those]


def _list_alternatives(tree: Filter) -> Iterator[Filter]:
    if isinstance(tree, AnyOf):
        for operand in tree.operands:
            yield from _list_alternatives(operand)
    else:
        yield tree


def _list_names(tree: Filter) -> Sequence[str]:
    """Return the fields that a condition looks at."""
    if isinstance(tree, (AllOf, AnyOf)):
        return [name for operand in tree.operands for name in _list_names(operand)]
    if isinstance(tree, Not):
        return _list_names(tree.operand)
    return [] if isinstance(tree, Constant) else [tree.field]


def _needs_row(tree: Filter) -> bool:
    """Tell whether a condition holds for no metric without a resource, whose fields are all not set."""
    if isinstance(tree, AllOf):
        return any(map(_needs_row, tree.operands))
    if isinstance(tree, AnyOf):
        return all(map(_needs_row, tree.operands))
    if isinstance(tree, Comparison):
        return (tree.operator == "!=") == (tree.value is None)
    return isinstance(tree, Membership)
