"""Any incoming driver, behind a gate."""

from collections.abc import Collection, Mapping

from gnocchi.common.gate import Gate
from gnocchi.incoming import Backlog, BacklogReport, Checkpoint, IncomingDriver, SackBacklog
from gnocchi.incoming.batch import MeasureBatch


class GatedDriver(IncomingDriver):
    """Has measures written as its gate wants it.

    What looks at a backlog may take long where that is long, which says nothing of the back end: others work meanwhile.
    """

    def __init__(self, driver: IncomingDriver, gate: Gate) -> None:
        self._driver = driver
        self._gate = gate
        self.wakes = driver.wakes

    def upgrade(self) -> None:
        self._driver.upgrade()

    def write_measures(self, batch: MeasureBatch) -> None:
        with self._gate.calling():
            self._driver.write_measures(batch)

    def read_backlog(self, sack: int, checkpoint: Checkpoint, measures_max: int) -> Backlog | None:
        with self._gate.waiting():
            return self._driver.read_backlog(sack, checkpoint, measures_max)

    def read_backlogs(self, checkpoints: Mapping[int, Checkpoint], measures_max: int) -> dict[int, Backlog | None]:
        with self._gate.waiting():
            return self._driver.read_backlogs(checkpoints, measures_max)

    def list_backlogs(self, checkpoints: Mapping[int, Checkpoint]) -> dict[int, SackBacklog]:
        with self._gate.waiting():
            return self._driver.list_backlogs(checkpoints)

    def report_backlog(self, checkpoints: Mapping[int, Checkpoint], details: bool) -> BacklogReport:
        with self._gate.waiting():
            return self._driver.report_backlog(checkpoints, details)

    def acknowledge(self, checkpoints: Mapping[int, Checkpoint]) -> None:
        with self._gate.waiting():
            self._driver.acknowledge(checkpoints)

    def get_position(self) -> object | None:
        with self._gate.waiting():
            return self._driver.get_position()

    def wait(self, sacks: Collection[int], timeout_s: float) -> set[int]:
        return self._driver.wait(sacks, timeout_s)

    def check(self) -> None:
        with self._gate.calling(always=True):
            self._driver.check()

    def close(self) -> None:
        self._driver.close()
