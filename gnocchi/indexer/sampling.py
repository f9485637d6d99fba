"""How many rows a condition lets in, which databases do not know of conditions like ours: a sample tells."""

from typing import Any

import sqlalchemy as sa

#: Rows that are looked at, and the share of matches among them below which they count as rare: then it costs less to
#: find them all than to go through everything in the order of the page until that is full.
ROWS_PROBED = 1000
RARE_SHARE = 1 / 20


def count_as_hit(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    """Return the column that `measure_share` needs."""
    return sa.case((condition, 1), else_=0).label("hit")


def measure_share(connection: sa.Connection, rows: sa.Select[Any]) -> float:
    """Return the share of hits among the first ROWS_PROBED rows of a SELECT of hits; 1 if it has no rows."""
    hits = rows.limit(ROWS_PROBED).subquery()
    total, found = connection.execute(sa.select(sa.func.count(), sa.func.sum(hits.c.hit))).one()
    return int(found) / total if total else 1.0
