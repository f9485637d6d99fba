"""gnocchi-statsd as a process: packets in, aggregates out, signals, and back ends that are away."""

import contextlib
import ctypes
import pathlib
import re
import signal
import socket
import uuid

import numpy
import psutil
import pytest
import sqlalchemy as sa

from gnocchi.cli import manage
from gnocchi.processing.refresh import refresh_sacks
from gnocchi.query.fetch import read_measures
from gnocchi.tests.functional.daemons import TIMEOUT_S, Deployment, wait_until

RESOURCE = uuid.UUID("5e3fcbe2-7aab-475d-b42c-a440aa42e5ad")
NEVER = 3600
SACKS = 4


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path, {"statsd": {"host": "127.0.0.1", "port": 0, "resource_id": RESOURCE,
                                            "flush_delay": NEVER, "archive_policy_name": "medium"}})
    yield made
    made.remove()


@pytest.fixture
def upgraded(deployment):
    deployment.begin_upgraded(SACKS)
    return deployment


def start(deployment):
    """Return the daemon once it listens."""
    daemon = deployment.start("gnocchi-statsd", "--debug")
    daemon.wait_for(r"Flush delay: \S+ seconds$")
    return daemon


def send(daemon, *datagrams):
    found = re.search(r"Started on (.+):(\d+)$", daemon.output, re.MULTILINE)
    family = socket.AF_INET6 if ":" in found[1] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        for datagram in datagrams:
            sender.sendto(datagram, (found[1], int(found[2])))


def read_sums(deployment):
    """Aggregate what waits; return {name: (number of measures, their sum)} of the resource's metrics."""
    backends = deployment.backends
    metrics = backends.indexer.list_resource_metrics(RESOURCE)
    refresh_sacks(range(SACKS), backends.incoming, backends.indexer, backends.store, lambda: backends.coordinator,
                  TIMEOUT_S)
    sums = {}
    for metric in metrics:
        hour = numpy.timedelta64(3600, "s").astype("m8[ns]")
        (counts,) = read_measures(backends.store, backends.indexer, metric, "count", (hour,))
        (values,) = read_measures(backends.store, backends.indexer, metric, "sum", (hour,))
        sums[metric.name] = (counts.values.sum(), values.values.sum())
    return sums


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_flushes(upgraded, number):
    """What came in before a stop is written and can be read; the next start finds the resource."""
    daemon = start(upgraded)
    assert f"Created resource {RESOURCE}" in daemon.output
    assert "Flush delay: 3600 seconds" in daemon.output
    send(daemon, b"req:1|c\nusers:a|s\nbad\nload:10|g", b"req:2|c|@0.5\n", b"load:-3|g\nt:250|ms", b"\xff")
    assert 0 == daemon.stop(number)
    assert "Unable to treat metric users:a|s: Unknown metric type `s'" in daemon.output
    assert "Invalid number of | in `bad'" in daemon.output
    assert "Traceback" not in daemon.output
    assert {"req|c": (1, 5.0), "load|g": (1, 7.0), "t|ms": (1, 250.0)} == read_sums(upgraded)
    again = start(upgraded)
    assert f"Resource {RESOURCE} already exists" in again.output
    assert 0 == again.stop()
    assert f"Resource {RESOURCE}" in again.output


def test_stop_reads_what_the_kernel_still_has(upgraded):
    """Packets that came before the signal count, though nobody had the time to look at them."""
    daemon = start(upgraded)
    daemon.send(signal.SIGSTOP)
    send(daemon, *[b"req:1|c"] * 100)
    daemon.send(signal.SIGTERM)
    daemon.send(signal.SIGCONT)
    assert 0 == daemon.process.wait(TIMEOUT_S)
    assert {"req|c": (1, 100.0)} == read_sums(upgraded)


def test_stop_by_a_signal_that_the_other_thread_gets(upgraded):
    """The kernel chooses; nothing else may come that would wake the first one."""
    daemon = start(upgraded)
    pid = daemon.process.pid
    threads = pathlib.Path(f"/proc/{pid}/task")
    asleep = re.compile(r"\) S ")
    wait_until(lambda: [1] * 2 == [len(asleep.findall((thread / "stat").read_text())) for thread in threads.iterdir()],
               lambda: daemon.output)
    [other] = {int(thread.name) for thread in threads.iterdir()} - {pid}
    assert 0 == ctypes.CDLL(None).tgkill(pid, other, int(signal.SIGTERM))
    assert 0 == daemon.process.wait(TIMEOUT_S)


def test_flushes_go_on(upgraded):
    """One measure per flush, while the daemon runs; a metric deleted meanwhile is made anew."""
    upgraded.configure({"statsd": {"flush_delay": 0.2}})
    daemon = start(upgraded)
    send(daemon, b"req:1|c")
    wait_until(lambda: upgraded.count_backlog() == 1, lambda: daemon.output)
    send(daemon, b"req:2|c")
    wait_until(lambda: upgraded.count_backlog() == 2, lambda: daemon.output)
    assert {"req|c": (2, 3.0)} == read_sums(upgraded)
    indexer = upgraded.backends.indexer
    indexer.delete_metrics([metric.id for metric in indexer.list_resource_metrics(RESOURCE)])
    send(daemon, b"req:4|c")
    daemon.wait_for("Flushed 1 measures", 3)
    assert {"req|c": (1, 4.0)} == read_sums(upgraded)
    assert 0 == daemon.stop()


@pytest.mark.parametrize(("options", "creator"), [
    ({"creator": "admin", "user_id": "u", "project_id": "p"}, "admin"),
    ({"user_id": "u", "project_id": "p"}, "u:p"),
    ({"creator": "", "user_id": "u"}, "u:"),
    ({}, None),
])
def test_creator_is_that_of_the_configuration(upgraded, options, creator):
    """The option of today, or the two of earlier releases."""
    upgraded.configure({"statsd": options})
    daemon = start(upgraded)
    send(daemon, b"req:1|c")
    assert 0 == daemon.stop()
    indexer = upgraded.backends.indexer
    assert creator == indexer.get_resource("generic", RESOURCE).creator
    assert [creator] == [metric.creator for metric in indexer.list_resource_metrics(RESOURCE)]


@pytest.mark.parametrize("skipped", [
    (), ("--skip-incoming",), ("--skip-incoming", "--skip-archive-policies-creation")])
def test_waits_for_its_back_ends(deployment, skipped):
    """Started before the index is there, or is whole, it keeps what comes in and writes it once it can."""
    deployment.configure({"statsd": {"flush_delay": 0.2}})
    if skipped:
        deployment.upgrade(*skipped)
    daemon = start(deployment)
    assert skipped or "gnocchi-upgrade has to be run; the resource is made once that is back" in daemon.output
    send(daemon, b"req:1|c", b"load:5|g")
    daemon.wait_for("gnocchi-upgrade has to be run; [12] measures are kept and tried again in")
    deployment.upgrade("--sacks-number", str(SACKS))
    daemon.wait_for(f"Created resource {RESOURCE}")
    wait_until(lambda: deployment.count_backlog() == 2, lambda: daemon.output)
    assert {"req|c": (1, 1.0), "load|g": (1, 5.0)} == read_sums(deployment)
    assert 0 == daemon.stop()


def test_an_upgrade_makes_sacks_last(deployment, monkeypatch):
    """So that a daemon that waits for sacks finds the archive policies as well."""
    class Stopped(Exception):
        pass

    def stop(indexer, wanted):
        assert len(indexer.list_archive_policies()) == 4
        raise Stopped

    monkeypatch.setattr(manage, "create_sacks", stop)
    with pytest.raises(Stopped):
        manage.upgrade_all(deployment.backends.conf)
    monkeypatch.undo()
    manage.upgrade_all(deployment.backends.conf)
    assert deployment.backends.indexer.count_sacks()


def test_stop_without_back_ends(deployment):
    """What cannot be written at a stop is lost, and the log and the exit code say so."""
    daemon = start(deployment)
    send(daemon, b"a:1|c", b"b:1|c")
    assert 1 == daemon.stop()
    assert re.search(r"ERROR .*gnocchi-upgrade has to be run; stopping all the same: 2 measures are lost$",
                     daemon.output, re.MULTILINE)
    assert "Traceback" not in daemon.output


@pytest.mark.parametrize("value", ["", "web"])
def test_resource_id_is_needed(upgraded, value):
    """Without, there is one line and exit 1."""
    upgraded.configure({"statsd": {"resource_id": value}})
    done = upgraded.run("gnocchi-statsd")
    assert 1 == done.returncode
    assert done.stdout.startswith("gnocchi-statsd: [statsd] resource_id")
    assert 1 == len(done.stdout.splitlines())


def test_port_that_is_taken(upgraded):
    """Two daemons never share a port."""
    with contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        upgraded.configure({"statsd": {"port": port}})
        done = upgraded.run("gnocchi-statsd")
    assert (1, f"gnocchi-statsd: [statsd] cannot listen on 127.0.0.1 port {port}: Address already in use\n") == (
        done.returncode, done.stdout)


def test_keeps_a_connection_to_the_database(deployment, postgresql_server):
    """Installers' health checks look for the command's name and for a connection to the SQL port, also when nothing
    comes in, and after the server has closed it."""
    url = postgresql_server.copy_template()
    deployment.configure({"indexer": {"url": url}, "statsd": {"flush_delay": 0.2}})
    deployment.upgrade("--sacks-number", str(SACKS))
    deployment.close_backends()
    daemon = start(deployment)
    assert "gnocchi-statsd" in pathlib.Path(f"/proc/{daemon.process.pid}/cmdline").read_text()
    process = psutil.Process(daemon.process.pid)

    def list_connections():
        return {connection.laddr.port for connection in process.net_connections("tcp")
                if connection.raddr and connection.raddr.port == postgresql_server.port
                and connection.status == psutil.CONN_ESTABLISHED}

    wait_until(list_connections, lambda: daemon.output)
    (before,) = list_connections()
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                                   " WHERE datname = current_database() AND pid <> pg_backend_pid()")
    wait_until(lambda: list_connections() - {before}, lambda: daemon.output)
    send(daemon, b"req:3|c")
    assert 0 == daemon.stop()
    assert {"req|c": (1, 3.0)} == read_sums(deployment)
    deployment.remove()
    postgresql_server.drop(url)
