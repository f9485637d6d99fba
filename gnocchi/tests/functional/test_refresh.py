"""`refresh=true` and what it waits for."""

import pytest

from gnocchi import metric_ids
from gnocchi.exceptions import SackLocked
from gnocchi.processing.locks import lock_name, sack_name
from gnocchi.processing.refresh import refresh_sacks
from gnocchi.tests.functional.daemons import TIMEOUT_S, Deployment

SACKS = 4


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path)
    made.begin_upgraded(SACKS)
    yield made
    made.remove()


def refresh(deployment, timeout_s=TIMEOUT_S, get_coordinator=None):
    backends = deployment.backends
    refresh_sacks(range(SACKS), backends.incoming, backends.indexer, backends.store,
                  get_coordinator or (lambda: backends.coordinator), timeout_s)


def test_refresh_processes_what_is_pending(deployment):
    """Everything posted before is aggregated when it returns, and a second one finds nothing to do."""
    deployment.post(deployment.create_metrics(10))
    refresh(deployment)
    assert 0 == deployment.count_backlog()
    commits = deployment.count_commits()
    refresh(deployment)
    assert commits == deployment.count_commits()


def test_refresh_of_nothing_needs_no_coordination(deployment):
    """Without pending measures no lock is taken, not even a session begun."""
    def get_coordinator():
        raise AssertionError("asked for the coordinator")

    refresh(deployment, get_coordinator=get_coordinator)


def test_refresh_gives_up_on_a_locked_sack(deployment):
    """A sack that stays locked is an error once the time is over; nothing is lost."""
    ids = deployment.create_metrics(1)
    deployment.post(ids)
    number = int(metric_ids.sack_numbers(metric_ids.pack_ids(ids), SACKS)[0])
    with deployment.backends.coordinator.try_lock(lock_name(sack_name(number, SACKS))) as held:
        assert held
        with pytest.raises(SackLocked):
            refresh(deployment, timeout_s=0.2)
        assert 1 == deployment.count_backlog()
    refresh(deployment)
    assert 0 == deployment.count_backlog()
