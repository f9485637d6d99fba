"""metricd while its coordination service is killed and started again, for each kind of service."""

import pytest

from gnocchi.tests.coordination import MAKERS, make_url, serve
from gnocchi.tests.databases import PostgresqlServer
from gnocchi.tests.functional.daemons import METRICD_TITLES, Deployment, wait_until

SACKS = 8


@pytest.fixture(params=[*MAKERS, "postgresql"])
def service(request):
    """Return URL of a service, and functions that kill and start it."""
    if request.param == "postgresql":
        server = PostgresqlServer()
        try:
            server.start()
            yield server.url("postgres"), server.kill, server.start_again
        finally:
            server.stop()
    else:
        for server in serve(MAKERS[request.param]):
            # Locks of which it is not known whether they are held expire after that time.
            yield f"{make_url(request.param, server.port)}?timeout=6", server.kill, server.start


def test_workers_wait_and_go_on(service, tmp_path):
    """Sacks are not taken without locks; what waits is aggregated when the service is back, by the same processes."""
    url, kill, start = service
    deployment = Deployment(tmp_path, {"DEFAULT": {"coordination_url": url}})
    try:
        deployment.begin_upgraded(SACKS)
        ids = deployment.create_metrics(40)
        deployment.post(ids)
        metricd = deployment.start("gnocchi-metricd")
        wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
        workers = metricd.wait_for_children(*METRICD_TITLES)
        kill()
        commits = deployment.count_commits()
        for minute in range(1, 4):
            deployment.post(ids, minute)
        metricd.wait_for("Coordination service (cannot|is away)")
        assert (3 * len(ids), commits) == (deployment.count_backlog(), deployment.count_commits())
        start()
        wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
        assert workers == metricd.children()
        assert "Traceback" not in metricd.output
        assert 0 == metricd.stop()
    finally:
        deployment.remove()


def test_workers_end_while_the_service_is_away(service, tmp_path):
    """Nobody waits for it then."""
    url, kill, _ = service
    deployment = Deployment(tmp_path, {"DEFAULT": {"coordination_url": url}})
    try:
        deployment.begin_upgraded(SACKS)
        metricd = deployment.start("gnocchi-metricd")
        deployment.post(deployment.create_metrics(10))
        wait_until(lambda: deployment.count_backlog() == 0, lambda: metricd.output)
        kill()
        assert 0 == metricd.stop()
        assert "Traceback" not in metricd.output
    finally:
        deployment.remove()
