"""What processes tell about themselves, for `/v1/status`."""

import datetime
from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from gnocchi.indexer.metrics import utcnow
from gnocchi.indexer.models import statistics
from gnocchi.indexer.prepared import PreparedWrite
from gnocchi.indexer.transactions import Connections, retried


class ProcessStatistics(NamedTuple):
    """service : what kind of process it is;  counters : values since its start"""

    service: str
    process: str
    counters: dict[str, float]


_OF_PROCESS = statistics.c.process == sa.bindparam("its_process")
UPDATE_STATISTICS = PreparedWrite(sa.update(statistics).where(_OF_PROCESS).values(
    {name: sa.bindparam(f"new_{name}", type_=statistics.c[name].type) for name in ("counters", "updated_at")}))
INSERT_STATISTICS = PreparedWrite(sa.insert(statistics))


class Statistics(Connections):

    @retried
    def publish_statistics(self, service: str, process: str, counters: Mapping[str, float]) -> None:
        """Put a process's counters in the place of those that it told before.

        Parameters
        ----------
        process : str
            Its name, which no other process ever has; 255 characters at most.
        """
        told, now = dict(counters), utcnow()
        with self.writing() as connection:
            if not UPDATE_STATISTICS.execute(
                    connection, [{"its_process": process, "new_counters": told, "new_updated_at": now}]):
                INSERT_STATISTICS.execute(connection, [
                    {"process": process, "service": service, "counters": told, "updated_at": now}])

    @retried
    def list_statistics(self, younger_than_s: float) -> list[ProcessStatistics]:
        """Return what processes told of late, by service and process."""
        statement = (sa.select(statistics.c.service, statistics.c.process, statistics.c.counters)
                     .where(statistics.c.updated_at >= _ago(younger_than_s)))
        with self.reading() as connection:
            return sorted((ProcessStatistics(*row) for row in connection.execute(statement)), key=lambda row: row[:2])

    @retried
    def delete_statistics(self, process: str) -> None:
        """Forget a process that ends."""
        with self.writing() as connection:
            connection.execute(sa.delete(statistics).where(_OF_PROCESS), {"its_process": process})

    @retried
    def delete_old_statistics(self, older_than_s: float) -> None:
        """Forget processes that have told nothing for so long."""
        with self.writing() as connection:
            connection.execute(sa.delete(statistics).where(statistics.c.updated_at < _ago(older_than_s)))


def _ago(seconds: float) -> datetime.datetime:
    return utcnow() - datetime.timedelta(seconds=seconds)
