"""metricd as processes: titles, signals, deaths, back ends that come and go."""

import contextlib
import datetime
import os
import pathlib
import signal
import socket
import time
import urllib.request
import uuid

import numpy

from gnocchi import metric_ids, service
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition
from gnocchi.metricd import Processor
from gnocchi.processing.members import list_processors
from gnocchi.processing.statistics import FORGET_S, list_living
from gnocchi.tests.databases import StatementCounter
from gnocchi.tests.functional.daemons import METRICD_TITLES, READY, REPORT, TIMEOUT_S, wait_until


def test_metricd_shows_its_processes_and_reports_at_once(upgraded):
    """Monitoring finds the titles it greps for; the report is printed at start, also without a backlog."""
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for(REPORT)
    metricd.wait_for_children(*METRICD_TITLES)
    title = pathlib.Path(f"/proc/{metricd.process.pid}/cmdline").read_text().replace("\0", " ")
    assert title.startswith("gnocchi-metricd: master process [")


def test_metricd_without_reporting(upgraded):
    """A reporting delay of -1 means no such process."""
    upgraded.configure({"metricd": {"metric_reporting_delay": -1}})
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for_children(*[title for title in METRICD_TITLES if "reporting" not in title])


def test_metricd_drains_on_sigterm(upgraded):
    """SIGTERM lets workers finish, says so, and ends with 0."""
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group: gnocchi-processing", 2)
    metricd.wait_for_children(*METRICD_TITLES)    # these heed signals
    assert 0 == metricd.stop()
    assert 2 == metricd.output.count("Waiting ongoing metric processing to finish")
    assert "Traceback" not in metricd.output


def test_metricd_ends_at_once_on_sigint(upgraded):
    """SIGINT is for those who do not want to wait."""
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for(REPORT)
    assert 1 == metricd.stop(signal.SIGINT)


def test_metricd_changes_its_number_of_workers(upgraded):
    """SIGHUP reads the files again: more workers, then fewer, all of them new."""
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group", 2)
    before = metricd.wait_for_children(*METRICD_TITLES)
    upgraded.configure({"metricd": {"workers": 3}})
    metricd.send(signal.SIGHUP)
    more = metricd.wait_for_children(*METRICD_TITLES, "gnocchi-metricd: processing worker(2)")
    assert not set(before.values()) & set(more.values())
    metricd.wait_for("Joined coordination group", 5)
    upgraded.configure({"metricd": {"workers": 1}})
    metricd.send(signal.SIGHUP)
    fewer = metricd.wait_for_children(*[title for title in METRICD_TITLES if "processing worker(1)" not in title])
    assert not set(more.values()) & set(fewer.values())
    assert 0 == metricd.stop()


def test_metricd_keeps_its_workers_when_a_reload_fails(upgraded):
    """A slip in the configuration stops nobody's work; once it is right, the next SIGHUP counts."""
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group", 2)
    before = metricd.wait_for_children(*METRICD_TITLES)
    upgraded.configure({"metricd": {"metric_processing_delay": "soon"}})
    metricd.send(signal.SIGHUP)
    metricd.wait_for(r"Nothing is changed, because the configuration is wrong: \[metricd\] metric_processing_delay: ")
    assert before == metricd.children()
    upgraded.configure({"metricd": {"metric_processing_delay": 1}})
    metricd.send(signal.SIGHUP)
    metricd.wait_for("Joined coordination group", 4)
    assert not set(before.values()) & set(metricd.wait_for_children(*METRICD_TITLES).values())
    assert "Traceback" not in metricd.output
    assert 0 == metricd.stop()


def test_measures_are_aggregated_by_all_workers_together(upgraded):
    """What is posted is worked off, and more than one worker may do it."""
    ids = upgraded.create_metrics(64)
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group", 2)
    upgraded.post(ids)
    wait_until(lambda: upgraded.count_backlog() == 0, lambda: metricd.output)
    assert upgraded.count_commits() > 0
    assert "Traceback" not in metricd.output


def test_killed_worker_is_replaced_and_its_sacks_are_taken_over(upgraded):
    """After kill -9 nothing is left lying, whoever owned it, and a new worker has the old one's index."""
    upgraded.configure({"metricd": {"processing_replicas": 1}})
    ids = upgraded.create_metrics(64)
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group", 2)
    victim = metricd.children()["gnocchi-metricd: processing worker(1)"]
    os.kill(victim, signal.SIGKILL)
    upgraded.post(ids)
    wait_until(lambda: upgraded.count_backlog() == 0, lambda: metricd.output)
    assert victim not in metricd.wait_for_children(*METRICD_TITLES).values()
    assert "processing worker(1) was killed by SIGKILL: starting another" in metricd.output
    os.kill(metricd.children()["gnocchi-metricd: processing worker(0)"], signal.SIGRTMIN + 1)      # it has no name
    metricd.wait_for(rf"processing worker\(0\) was killed by signal {signal.SIGRTMIN + 1}: starting another")
    metricd.wait_for_children(*METRICD_TITLES)


def test_sacks_of_a_killed_host_are_taken_over(upgraded):
    """A whole metricd that was killed leaves its members in a file group; the other does all the work."""
    upgraded.configure({"metricd": {"processing_replicas": 1}})
    ids = upgraded.create_metrics(64)
    first, second = upgraded.start("gnocchi-metricd"), upgraded.start("gnocchi-metricd")
    for metricd in (first, second):
        metricd.wait_for("Joined coordination group", 2)
    first.remove()
    upgraded.post(ids)
    wait_until(lambda: upgraded.count_backlog() == 0, lambda: second.output)


def test_metricd_waits_for_the_upgrade(deployment):
    """Started too early it says what to do, goes on trying, and works once that is done."""
    metricd = deployment.start("gnocchi-metricd")
    metricd.wait_for("the processing worker tries again in", 2)
    deployment.upgrade()
    metricd.wait_for(REPORT)
    metricd.wait_for("Joined coordination group", 2)
    assert "Traceback" not in metricd.output


def test_metricd_stops_while_its_index_is_away(deployment):
    """SIGTERM is heeded although no back end was ever reached."""
    deployment.configure({"indexer": {"url": "postgresql://nobody@127.0.0.1:1/none"},
                          "DEFAULT": {"coordination_url": f"file://{deployment.directory}/c"}})
    metricd = deployment.start("gnocchi-metricd")
    metricd.wait_for("the processing worker tries again in", 2)
    assert 0 == metricd.stop()
    assert "Traceback" not in metricd.output


def test_metricd_resumes_after_its_coordination_service(upgraded, redis_server):
    """Without Redis no sack is taken; when it is back, empty, work goes on by itself."""
    upgraded.configure({"DEFAULT": {"coordination_url": f"redis://127.0.0.1:{redis_server.port}?timeout=2"}})
    ids = upgraded.create_metrics(32)
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group", 2)
    redis_server.kill()
    metricd.wait_for("Coordination service cannot take a sign of life", 2)
    upgraded.post(ids)
    metricd.wait_for("Coordination service is away: no sacks are taken")
    assert upgraded.count_backlog() == len(ids)
    redis_server.start()
    wait_until(lambda: upgraded.count_backlog() == 0, lambda: metricd.output)
    assert "Traceback" not in metricd.output


def test_counters_are_published_although_nothing_more_comes(upgraded):
    """The status tells of the last measures too, not only when further ones are processed; with files as well."""
    upgraded.configure({"metricd": {"metric_processing_delay": 3}})
    ids = upgraded.create_metrics(16)
    metricd = upgraded.start("gnocchi-metricd")
    metricd.wait_for("Joined coordination group", 2)
    upgraded.post(ids)
    indexer = upgraded.backends.indexer

    def list_counters():
        return [row.counters for row in list_living(indexer, list_processors(upgraded.backends.coordinator))]

    wait_until(lambda: sum(counters.get("processed measures", 0) for counters in list_counters()) == len(ids),
               lambda: f"{list_counters()}\n{metricd.output}")
    assert all(counters["processing time"] > 0 for counters in list_counters())
    assert 0 == metricd.stop()
    assert [] == indexer.list_statistics(FORGET_S)


def test_metricd_stops_after_enough_metrics(upgraded):
    """--stop-after-processing-metrics works in the foreground and ends by itself."""
    ids = upgraded.create_metrics(5)
    upgraded.post(ids)
    done = upgraded.run("gnocchi-metricd", "--stop-after-processing-metrics", "5")
    assert 0 == done.returncode, done.stdout
    assert 0 == upgraded.count_backlog()


def test_janitor_expunges_deleted_metrics(upgraded):
    """A metric that was deleted is gone from the index after the next round."""
    upgraded.configure({"metricd": {"metric_cleanup_delay": 1}})
    ids = upgraded.create_metrics(8)
    metricd = upgraded.start("gnocchi-metricd")
    upgraded.post(ids)
    wait_until(lambda: upgraded.count_backlog() == 0, lambda: metricd.output)
    upgraded.backends.indexer.delete_metrics(ids[:3])
    wait_until(lambda: not upgraded.backends.indexer.list_deleted_metrics(10), lambda: metricd.output)
    metricd.wait_for("Expunged [123] metrics")
    assert 5 == len(upgraded.backends.indexer.list_metrics())


def test_resources_end_and_come_back(upgraded):
    """A resource ends when its metrics fall silent, and goes on with new measures, also with `refresh=true`."""
    upgraded.configure({"metricd": {"metric_cleanup_delay": 1, "metric_inactive_after": 2, "workers": 1}})
    indexer = upgraded.backends.indexer
    ids = [uuid.uuid4(), uuid.uuid4()]
    resources = [indexer.create_resource("generic", uuid.uuid4(), "admin", metrics={"m": MetricDefinition(id, "low")})
                 for id in ids]
    metricd = upgraded.start("gnocchi-metricd")

    def count_revisions(resource):
        return len(indexer.list_resources(history=True, id=resource.id))

    for resource in resources:
        wait_until(lambda id=resource.id: indexer.get_resource("generic", id).ended_at, lambda: metricd.output)
    metricd.wait_for("resources ended, whose metrics got no measures")
    post_now(upgraded, ids[0])
    wait_until(lambda: count_revisions(resources[0]) >= 3, lambda: metricd.output)
    assert 0 == metricd.stop()
    api = upgraded.start("gnocchi-api")
    api.wait_for(READY)
    post_now(upgraded, ids[1])
    request = urllib.request.Request(f"http://127.0.0.1:{upgraded.port}/v1/metric/{ids[1]}/measures?refresh=true",
                                     headers={"Authorization": "basic YWRtaW46"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        assert 200 == answer.status
    assert indexer.get_resource("generic", resources[1].id).ended_at is None


def post_now(deployment, id):
    deployment.backends.incoming.write_measures(MeasureBatch(
        metric_ids.pack_ids([id]), numpy.ones(1, numpy.int64),
        numpy.array([numpy.datetime64(time.time_ns(), "ns")]), numpy.ones(1)))


def test_ended_resources_are_deleted(upgraded):
    """Long enough after its end a resource goes, with its metrics; one that has not ended stays."""
    upgraded.configure({"metricd": {"metric_cleanup_delay": 1, "resource_cleanup_after": 2, "workers": 1}})
    indexer = upgraded.backends.indexer
    metrics = {"m": MetricDefinition(uuid.uuid4(), "low")}
    ended_at = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) - datetime.timedelta(hours=2)
    indexer.create_resource("generic", uuid.uuid4(), "admin", started_at=ended_at, ended_at=ended_at, metrics=metrics)
    kept = indexer.create_resource("generic", uuid.uuid4(), "admin", started_at=ended_at)
    metricd = upgraded.start("gnocchi-metricd")
    wait_until(lambda: [kept] == indexer.list_resources(), lambda: metricd.output)
    wait_until(lambda: not indexer.list_deleted_metrics(10), lambda: metricd.output)
    assert [] == indexer.list_metrics()


def test_metricd_tells_systemd_that_it_is_ready(upgraded):
    """A unit of Type=notify gets its message."""
    path = upgraded.directory / "n"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as notified:
        notified.bind(str(path))
        notified.settimeout(TIMEOUT_S)
        os.environ["NOTIFY_SOCKET"] = str(path)
        try:
            upgraded.start("gnocchi-metricd")
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert b"READY=1" == notified.recv(64)


def test_idle_workers_run_no_sql(upgraded, monkeypatch):
    """Once a scan found nothing waiting, looking for new measures needs no database."""
    conf = service.prepare_service(["--config-file", str(upgraded.config_file)])
    worker = Processor(0, conf)
    worker.run_round()
    with StatementCounter(worker._backends.indexer) as counter:
        for _ in range(3):
            worker.run_round()
        assert 0 == counter.count
        upgraded.post(upgraded.create_metrics(1))
        worker.run_round()
        assert counter.count > 0
    assert 0 == upgraded.count_backlog()
    # The next full scan confirms that nothing is left, and then there is rest again.
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 10)
    worker.run_round()
    with StatementCounter(worker._backends.indexer) as counter:
        worker.run_round()
        assert 0 == counter.count
    worker.leave()
