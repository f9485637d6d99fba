"""Many metrics at once, by id.  FAST PATH: values come as the driver has them, ids as bytes."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy

from gnocchi import metric_ids
from gnocchi.indexer import MetricRow
from gnocchi.indexer.metrics import IDS_PER_STATEMENT
from gnocchi.indexer.models import ACTIVE
from gnocchi.indexer.transactions import Connections, retried


class _Phrases(NamedTuple):
    """How a kind of database says things in the form that costs its driver least.

    is_one_of : from ids one after the other, the condition that a column is one of them, and its parameters
    as_bytes : an id as its 16 bytes
    concat : the ids of a group one after the other, and what makes bytes of that
    """

    is_one_of: Callable[[bytes], tuple[str, tuple[Any, ...]]]
    as_bytes: str
    concat: str
    decode: Callable[[Any], bytes]


def _one_of_sqlite(data: bytes) -> tuple[str, tuple[Any, ...]]:
    ids = tuple([data[i:i + 16] for i in range(0, len(data), 16)])
    return f"IN ({','.join('?' * len(ids))})", ids


def _one_of_postgresql(data: bytes) -> tuple[str, tuple[Any, ...]]:
    text = data.hex()
    array = ",".join([text[i:i + 32] for i in range(0, len(text), 32)])
    return "= ANY(%s::uuid[])", ("{" + array + "}",)


def _one_of_mysql(data: bytes) -> tuple[str, tuple[Any, ...]]:
    text = data.hex()       # hexadecimal, so nothing in it can end the literal
    ids = "',x'".join([text[i:i + 32] for i in range(0, len(text), 32)])
    return f"IN (x'{ids}')", ()


_PHRASES = {
    "sqlite": _Phrases(_one_of_sqlite, "{}", "group_concat(hex(id), '')", bytes.fromhex),
    "postgresql": _Phrases(_one_of_postgresql, "uuid_send({})", "string_agg(uuid_send(id), ''::bytea)", bytes),
    "mysql": _Phrases(_one_of_mysql, "{}", "GROUP_CONCAT(id SEPARATOR '')", bytes),
}


class ManyMetrics(Connections):

    @retried
    def list_metric_policies(self, ids: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Find the archive policies of many metrics.

        Parameters
        ----------
        ids : ndarray, shape (m,), S16
            Distinct metric ids (`metric_ids`).

        Returns
        -------
        found : ndarray, shape (k,), S16
            Those of the ids that are live metrics, in no order; k <= m.
        policies : ndarray, shape (k,), S16
            The policy id of each.
        """
        found: list[bytes] = []
        policies: list[bytes] = []
        for policy_id, its_ids in self._group_metrics(ids, _PHRASES[self.dialect].as_bytes.format("archive_policy_id")):
            found.append(its_ids)
            policies.append(policy_id * (len(its_ids) // 16))
        return (numpy.frombuffer(b"".join(found), metric_ids.DTYPE),
                numpy.frombuffer(b"".join(policies), metric_ids.DTYPE))

    @retried
    def list_metric_creators(self, ids: numpy.ndarray) -> tuple[numpy.ndarray, set[str | None]]:
        """Find out which of many metrics are live, and who made these.

        Parameters
        ----------
        ids : ndarray, shape (m,), S16
            Distinct metric ids (`metric_ids`).

        Returns
        -------
        found : ndarray, shape (k,), S16
            Those of the ids that are live metrics, in no order; k <= m.
        creators : set of the creators of all of them
        """
        # As bytes, since MySQL would put texts together that differ in trailing blanks.
        groups = self._group_metrics(ids, "CAST(creator AS BINARY)" if self.dialect == "mysql" else "creator")
        return (numpy.frombuffer(b"".join([its_ids for _, its_ids in groups]), metric_ids.DTYPE),
                {creator.decode() if isinstance(creator, bytes) else creator for creator, _ in groups})

    @retried
    def list_metric_rows(self, ids: bytes) -> list[MetricRow]:
        """Return those of the metrics (16 bytes each) that are live and have a resource, in no order."""
        as_bytes = _PHRASES[self.dialect].as_bytes
        values = f"{as_bytes.format('id')}, {as_bytes.format('resource_id')}, name, creator"
        return list(map(MetricRow._make, self._select(ids, values, "AND resource_id IS NOT NULL")))

    def _group_metrics(self, ids: numpy.ndarray, key: str) -> list[tuple[Any, bytes]]:
        """Return (value, ids of live metrics that have it one after the other), for each value of an SQL expression."""
        phrases = _PHRASES[self.dialect]
        return [(value, phrases.decode(found)) for value, found in self._select(
            ids.tobytes(), f"{key}, {phrases.concat}", "GROUP BY 1")]

    def _select(self, ids: bytes, values: str, tail: str = "") -> list[Sequence[Any]]:
        """Return the values of SQL expressions for the live metrics among those named."""
        rows: list[Sequence[Any]] = []
        with self.reading() as connection:
            for start in range(0, len(ids), 16 * IDS_PER_STATEMENT):
                condition, parameters = _PHRASES[self.dialect].is_one_of(ids[start:start + 16 * IDS_PER_STATEMENT])
                statement = f"SELECT {values} FROM metric WHERE status = '{ACTIVE}' AND id {condition} {tail}"
                rows += connection.exec_driver_sql(statement, parameters).all()
        return rows
