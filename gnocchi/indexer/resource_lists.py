"""Lists of resources and of their revisions: filtered, sorted and paged by the database."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from gnocchi.indexer import CURRENT_REVISION, Resource, ResourceType, pagination, sampling
from gnocchi.indexer.filters import Compiler, Field, Filter, Kind, all_of, creator_fields, lifespan_field
from gnocchi.indexer.metrics import chunks
from gnocchi.indexer.models import resource, resource_history
from gnocchi.indexer.resource_attributes import attribute_column
from gnocchi.indexer.resource_types import GENERIC, SELECT_TYPES, check_active, get_type, resource_type
from gnocchi.indexer.resources import REVISED, Resources, decode_resource
from gnocchi.indexer.transactions import retried
from gnocchi.indexer.types import TIMESTAMP

KINDS = {
    "id": Kind.UUID, "type": Kind.STRING, "creator": Kind.STRING, "user_id": Kind.STRING, "project_id": Kind.STRING,
    "original_resource_id": Kind.STRING, "started_at": Kind.DATETIME, "ended_at": Kind.DATETIME,
    "revision_start": Kind.DATETIME,
}
REVISION_KINDS = {"revision": Kind.INTEGER, "revision_end": Kind.DATETIME}
COMPUTED_KINDS = {"created_by_user_id": Kind.CREATOR_USER, "created_by_project_id": Kind.CREATOR_PROJECT,
                  "lifespan": Kind.LIFESPAN}

#: The columns that every source of rows has.
COLUMNS = [*REVISED, "revision", "revision_end"]

#: The first column of indexes in the default order, and columns that are unique or nearly so and have one of their own.
DEFAULT_KEY = "revision_start"
UNIQUE_KEYS = ("id", "original_resource_id")

#: The share of a type from which the whole table is scanned for it.
SCANNED_TYPE_SHARE = 1 / 5

RESOURCES = sa.select(
    *(resource.c[name] for name in REVISED), sa.cast(sa.literal(CURRENT_REVISION), sa.BigInteger).label("revision"),
    sa.cast(sa.null(), TIMESTAMP).label("revision_end"))
REVISIONS = sa.select(*(resource_history.c[name] for name in COLUMNS))


def filter_kinds(type: ResourceType, history: bool = False) -> dict[str, Kind]:
    """Return what a filter on resources of a type may name, and what it is compared with there."""
    kinds = KINDS | COMPUTED_KINDS | (REVISION_KINDS if history else {})
    return kinds | {name: Kind(options["type"]) for name, options in type.attributes.items()}


class ResourceLists(Resources):

    @retried
    def list_resources(self, type: str | ResourceType = GENERIC, *, limit: int | None = None,
                       marker: uuid.UUID | None = None, marker_revision: int = CURRENT_REVISION,
                       sorts: Sequence[str] = (), history: bool = False, id: uuid.UUID | None = None,
                       filter: Filter | None = None, visible: Filter | None = None) -> list[Resource]:
        """Return a page of the resources of a type, or of all types for `generic`.

        Parameters
        ----------
        type : its name, or the type as the caller has seen it
        limit : most resources to return; None: all
        marker, marker_revision : the last one already seen
        sorts : `key[:direction]` each; empty: RESOURCE_SORTS
        history : one item for each revision, old ones and the current one
        id : that resource only
        filter : of fields in `filter_kinds`
        visible : what the caller may see at all; a marker must be among it

        Raises
        ------
        NoSuchResourceType
        InvalidPagination
            Unknown key, direction or marker.
        InvalidInput
            The type is not active.
        """
        with self.reading() as connection:
            found_type = get_type(connection, type) if isinstance(type, str) else type
            check_active(found_type)
            query = ResourceQuery(found_type, self.dialect, history, sorts, visible, id)
            after = None if marker is None else query.read_marker(connection, marker, marker_revision)
            query.plan(connection, filter, after)
            rows = connection.execute(query.select(filter, after, limit)).all()
            metrics = self._list_metric_ids(connection, list({row.id for row in rows}))
            types = self._list_attributes(connection, found_type, {row.type for row in rows})
        return [_decode_revision(row, types.get(row.type, {}), metrics.get(row.id, {})) for row in rows]

    @retried
    def list_resources_by_id(self, ids: Sequence[uuid.UUID]) -> list[Resource]:
        """Return those of the resources that exist, in no order, without attributes and metrics."""
        statement = sa.select(*(resource.c[name] for name in REVISED)).where(self.in_ids(resource.c.id))
        with self.reading() as connection:
            return [decode_resource(row, {}, {}) for part in chunks(ids)
                    for row in connection.execute(statement, {"ids": part})]

    @retried
    def delete_resources(self, type: str | ResourceType, filter: Filter | None) -> int:
        """Delete all resources of a type, or of all types for `generic`, that a filter matches; and their history.

        Their metrics are marked as deleted.  Returns how many there were.  Raises NoSuchResourceType.
        """
        with self.writing() as connection:
            found_type = get_type(connection, type) if isinstance(type, str) else type
            query = ResourceQuery(found_type, self.dialect, False, (), None, None)
            ids = connection.execute(query.lock_ids(filter)).scalars().all()
            self._delete_resources(connection, ids)
        return len(ids)

    def _list_attributes(self, connection: sa.Connection, known: ResourceType,
                         names: set[str]) -> dict[str, Mapping[str, Any]]:
        """Return the attributes of types by name; `known` is one of them, perhaps."""
        types: dict[str, Mapping[str, Any]] = {known.name: known.attributes}
        wanted = sorted(names - types.keys())
        if wanted:
            for row in connection.execute(SELECT_TYPES.where(self.in_ids(resource_type.c.name)), {"ids": wanted}):
                types[row.name] = row.attributes
        return types


def _decode_revision(row: Any, attributes: Mapping[str, Mapping[str, Any]],
                     metrics: dict[str, uuid.UUID]) -> Resource:
    *columns, revision, revision_end = row
    found = decode_resource(columns, attributes, metrics)
    if revision == CURRENT_REVISION:
        return found
    return found.of_revision(revision, revision_end)


class ResourceQuery:
    """What is selected: of which type, in which order, and what of it is visible."""

    def __init__(self, type: ResourceType, dialect: str, history: bool, sorts: Sequence[str],
                 visible: Filter | None, id: uuid.UUID | None) -> None:
        self._type = type
        self._dialect = dialect
        self._visible = visible
        self._id = id
        self._sources = [RESOURCES, REVISIONS] if history else [RESOURCES]
        self._history = history
        #: Whether indexes are kept from being used: that in the page's order, and that of the type.
        self._scans = self._hides_type = False
        unique = ("id", "revision") if history else ("id",)
        self._sorts = pagination.effective_sorts(sorts, pagination.RESOURCE_SORTS, unique)
        self._orders(RESOURCES)         # so that an unknown key is found before anything is read

    def plan(self, connection: sa.Connection, filter: Filter | None, after: Sequence[Any] | None) -> None:
        """Choose how the database shall go about it; the result is the same.

        In the order of an index, each row is looked up by itself, which costs five times what it costs in a scan of the
        table, but ends once the page is full.  Databases do not know how many rows a filter lets in: a sample tells.
        """
        if self._id is not None:
            self._hides_type = True     # or SQLite takes an index in the page's order, and goes through the whole type
            return
        key = self._orders(RESOURCES)[0].key
        condition = all_of([self._visible, filter])
        if key in UNIQUE_KEYS or key == DEFAULT_KEY and (
                condition is None or not self._is_rare(connection, condition, after)):
            return
        self._scans = True
        self._hides_type = self._dialect != "postgresql" and self._is_common_type(connection)

    def _is_rare(self, connection: sa.Connection, condition: Filter, after: Sequence[Any] | None) -> bool:
        """Tell whether the next rows hold so few matches that going on like that is not worth it."""
        matches = Compiler(self._fields(RESOURCES), self._dialect).compile(condition)
        rows = self._of_type(sa.select(sampling.count_as_hit(matches)), RESOURCES)
        rows = self._cut(rows, RESOURCES, None if self._history else after, None)
        return sampling.measure_share(connection, rows) < sampling.RARE_SHARE

    def _is_common_type(self, connection: sa.Connection) -> bool:
        if self._type.name == GENERIC:
            return False
        # Ids are random, so the first ones are as good as any.
        rows = sa.select(sampling.count_as_hit(resource.c.type == self._type.name)).order_by(resource.c.id)
        return sampling.measure_share(connection, rows) > SCANNED_TYPE_SHARE

    def read_marker(self, connection: sa.Connection, id: uuid.UUID, revision: int) -> Sequence[Any]:
        """Return the values, one for each key of the order, that the last item seen has.  Raises InvalidPagination."""
        source = RESOURCES if revision == CURRENT_REVISION else REVISIONS
        if source in self._sources:
            fields = self._fields(source)
            statement = source.with_only_columns(*(order.column for order in self._orders(source))) \
                .where(fields["id"].column == id)
            if source is REVISIONS:
                statement = statement.where(resource_history.c.revision == revision)
            last = connection.execute(self._within(statement, source, None)).first()
            if last is not None:
                return last
        raise pagination.invalid_marker(id if not self._history else f"{id}@{revision}")

    def select(self, filter: Filter | None, after: Sequence[Any] | None, limit: int | None) -> sa.Select[Any]:
        """Return the statement for one page."""
        pages = [self._cut(self._within(source, source, filter), source, after, limit) for source in self._sources]
        if len(pages) == 1:
            return pages[0]
        # Each part is cut to the page first: the database goes through both in order and stops there.
        both = sa.union_all(*(sa.select(page.subquery()) for page in pages)).subquery("revisions")
        orders = pagination.orders(self._sorts, self._columns(dict(both.c)))
        return sa.select(*(both.c[name] for name in COLUMNS)).order_by(*pagination.order_by(orders)).limit(limit)

    def lock_ids(self, filter: Filter | None) -> sa.Select[Any]:
        """Return the statement for the ids of all that match now, which no other can change until the end."""
        return self._within(sa.select(resource.c.id), RESOURCES, filter).order_by(resource.c.id).with_for_update()

    def _cut(self, statement: sa.Select[Any], source: sa.Select[Any], after: Sequence[Any] | None,
             limit: int | None) -> sa.Select[Any]:
        """Add the order, and where the page begins and ends."""
        orders = self._orders(source)
        if self._scans:
            orders = [order._replace(column=_hide(order.column)) if order.key == DEFAULT_KEY else order
                      for order in orders]
        if after is not None:
            statement = statement.where(pagination.after(orders, after))
        return statement.order_by(*pagination.order_by(orders)).limit(limit)

    def _within(self, statement: sa.Select[Any], source: sa.Select[Any], filter: Filter | None) -> sa.Select[Any]:
        """Add the conditions on rows of a source."""
        statement = self._of_type(statement, source)
        condition = all_of([self._visible, filter])
        if condition is not None:
            statement = statement.where(Compiler(self._fields(source), self._dialect).compile(condition))
        return statement

    def _of_type(self, statement: sa.Select[Any], source: sa.Select[Any]) -> sa.Select[Any]:
        """Add the conditions that hold whatever is looked for."""
        fields = self._fields(source)
        if self._type.name != GENERIC:
            column = fields["type"].column
            statement = statement.where((_hide(column) if self._hides_type else column) == self._type.name)
        if self._id is not None:
            statement = statement.where(fields["id"].column == self._id)
        return statement

    def _columns(self, columns: Mapping[str, Any]) -> dict[str, sa.ColumnElement[Any]]:
        """Return what can be sorted by."""
        kinds = KINDS | (REVISION_KINDS if self._history else {})
        return {name: columns[name] for name in kinds} | {
            name: attribute_column(columns["attributes"], name, options["type"], self._dialect)
            for name, options in self._type.attributes.items()}

    def _orders(self, source: sa.Select[Any]) -> list[pagination.Order]:
        return pagination.orders(self._sorts, self._columns(_columns_of(source)))

    def _fields(self, source: sa.Select[Any]) -> dict[str, Field]:
        columns = _columns_of(source)
        documents = columns["attributes"]
        kinds = filter_kinds(self._type, self._history)
        fields = {name: Field(kinds[name], columns[name]) for name in columns if name in kinds}
        for name, options in self._type.attributes.items():
            fields[name] = Field(kinds[name], attribute_column(documents, name, options["type"], self._dialect),
                                 documents)
        fields |= creator_fields(columns["creator"], self._dialect,
                                 resource.c.creator_project if source is RESOURCES else None)
        fields["lifespan"] = lifespan_field(columns["started_at"], columns["ended_at"], self._dialect)
        return fields


def _hide(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the same value as something that no index serves."""
    return sa.func.coalesce(column, column, type_=column.type)


def _columns_of(source: sa.Select[Any]) -> dict[str, sa.ColumnElement[Any]]:
    """Return the expressions behind the columns of a source by name, as conditions can use them."""
    return {name: column.element if isinstance(column, sa.Label) else column
            for name, column in zip(COLUMNS, source.selected_columns, strict=True)}
