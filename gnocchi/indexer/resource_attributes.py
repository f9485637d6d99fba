"""Values of typed attributes in the documents of `resource` and `resource_history`.

One document per row holds all values that are set, so a new resource type needs no new table:

    {"flavor": "m1", "vcpus": 4.0, "shared": true, "host_id": "5e3fcbe2-...", "since": "2024-01-01T00:00:00.000000"}

Nulls are left out.  Ids and times are text of fixed width, which sorts as they do.
"""

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from gnocchi.indexer.types import encode_json


def encode_attribute(value: Any) -> Any:
    """Return the value as it lies in the document."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="microseconds")
    return value


def encode_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a resource's attributes."""
    return {name: encode_attribute(value) for name, value in attributes.items() if value is not None}


def decode_attributes(attributes: Mapping[str, Mapping[str, Any]], document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of all attributes of a type: numbers as floats, times as naive UTC, ids as text.

    Parameters
    ----------
    attributes : name -> options, as the type has them
    document : as it lies in the row; what it does not hold is None
    """
    values = {name: document.get(name) for name in attributes}
    for name, options in attributes.items():
        value = values[name]
        if value is None:
            continue
        if options["type"] == "number":     # databases write 1.0 and 1e22 in ways of their own
            values[name] = float(value)
        elif options["type"] == "datetime":
            values[name] = datetime.datetime.fromisoformat(value)
    return values


def attribute_column(column: sa.ColumnElement[Any], name: str, type: str, dialect: str) -> sa.ColumnElement[Any]:
    """Return the SQL value of one attribute, NULL when it is not set; `column` holds the documents."""
    value: Any = column[name]
    if type == "number":
        return value.as_float()
    text: sa.ColumnElement[Any] = value.as_string()
    if type == "bool":
        if dialect == "mysql":      # as_boolean() makes false of what is missing there
            return sa.case((text == "true", sa.true()), (text == "false", sa.false()))
        return value.as_boolean()
    return text.collate("C") if dialect == "postgresql" else text


def changed_documents(column: sa.ColumnElement[Any], fill: Mapping[str, Any], removed: Sequence[str],
                      dialect: str) -> sa.ColumnElement[Any]:
    """Return the SQL value of documents without the removed attributes, and with `fill` where an attribute is missing.

    Merges instead of paths: no text of a client becomes part of a path.
    """
    document = encode_attributes(fill)
    if dialect == "postgresql":
        return sa.cast(document, postgresql.JSONB).concat(column).op("-")(
            sa.cast(list(removed), postgresql.ARRAY(sa.Text)))
    # A merge patch (RFC 7396) lets the later one win and removes what it has as null.
    merge = sa.func.json_patch if dialect == "sqlite" else sa.func.json_merge_patch
    nulls = encode_json(dict.fromkeys(removed))
    return merge(merge(encode_json(document), column), nulls)
