"""`gnocchi-amqpd` with a real broker and a real collectd."""

import json
import os
import signal
import subprocess
import sys

import pytest

from gnocchi import resource_ids
from gnocchi.tests.amqp import AmqpBroker, find_collectd, need_proton
from gnocchi.tests.backlog import drain_all
from gnocchi.tests.databases import die_with_parent
from gnocchi.tests.functional.daemons import TIMEOUT_S, wait_until

#: As collectd's plugin sends it: the address begins with a slash.
ADDRESS = "/collectd/telemetry"

COLLECTD = """
Hostname "web01"
FQDNLookup false
Interval 0.5
BaseDir "{directory}"
PIDFile "{directory}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
LoadPlugin logfile
<Plugin logfile>
  File STDERR
</Plugin>
LoadPlugin load
LoadPlugin memory
LoadPlugin interface
LoadPlugin amqp1
<Plugin amqp1>
  <Transport "gnocchi">
    Host "127.0.0.1"
    Port "{port}"
    Address "collectd"
    <Instance "telemetry">
      Format JSON
      PreSettle false
    </Instance>
  </Transport>
</Plugin>
"""


@pytest.fixture
def broker(tmp_path):
    need_proton()
    made = AmqpBroker(tmp_path)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def configured(upgraded, broker):
    upgraded.configure({"amqp1d": {"url": f"amqp://{broker.url(ADDRESS)}", "creator": "admin",
                                   "flush_delay": 0.1}})
    return upgraded


def make_message(number, host="www.gnocchi.test.com"):
    return json.dumps([{"values": [number], "dstypes": ["gauge"], "dsnames": ["value"], "time": 1480063672.0 + number,
                        "interval": 10.0, "host": host, "plugin": "memory", "plugin_instance": "",
                        "type": "memory", "type_instance": "free"}])


def read(deployment, host):
    """Return {metric name: [(second, value)]} of the raw measures that wait."""
    indexer = deployment.backends.indexer
    resource = resource_ids.resource_id(f"collectd_amqp1d:{host}", "admin")
    names = {metric.id: metric.name for metric in indexer.list_resource_metrics(resource)}
    found = {}
    for series in drain_all(deployment.backends.incoming, indexer.count_sacks())[0].values():
        for id, points in series:
            if id in names:
                found.setdefault(names[id], []).extend((time // 10**9, value) for time, value in points)
    return found


def test_from_broker_to_metrics(configured, broker):
    """Resource type, resource and metrics are made."""
    broker.send([make_message(number) for number in range(3)], ADDRESS)
    daemon = configured.start("gnocchi-amqpd")
    broker.wait_for("accepted", 3)
    assert {"memory@memory-free": [(1480063672 + number, float(number)) for number in range(3)]} == read(
        configured, "www.gnocchi.test.com")
    indexer = configured.backends.indexer
    made = indexer.get_resource_type("collectd_amqp1d")
    assert {"host": {"type": "string", "required": True, "min_length": 0, "max_length": 255}} == made.attributes
    resource = indexer.get_resource("collectd_amqp1d",
                                    resource_ids.resource_id("collectd_amqp1d:www.gnocchi.test.com", "admin"))
    assert ("admin", {"host": "www.gnocchi.test.com"}) == (resource.creator, resource.attributes)
    assert 0 == daemon.stop()
    assert "Traceback" not in daemon.output


def test_credentials(configured, broker):
    """A user is not logged in as nobody, which this broker would allow; the log does not have the password."""
    configured.configure({"amqp1d": {"url": f"amqp://user:hidden@{broker.url(ADDRESS)}"}})
    daemon = configured.start("gnocchi-amqpd", "--debug")
    daemon.wait_for("WARNING .*Broker amqp://127.0.0.1.*; it is tried again and again")
    assert 0 == daemon.stop()
    assert "Receiving from" not in daemon.output
    assert "hidden" not in daemon.output


def test_documented_name(configured, broker):
    daemon = configured.start("gnocchi-amqp1d")
    daemon.wait_for("Receiving from /collectd/telemetry at amqp://127.0.0.1")
    assert "Created resource type collectd_amqp1d" in daemon.output
    assert 0 == daemon.stop(signal.SIGINT)


def test_killed_daemon_and_broker(configured, broker):
    """What was not accepted comes again; what was, is there."""
    configured.configure({"amqp1d": {"flush_delay": 3600}})
    daemon = configured.start("gnocchi-amqpd")
    daemon.wait_for("Receiving from")
    broker.send([make_message(0)], ADDRESS)
    daemon.remove()
    assert 0 == broker.count("accepted")
    configured.configure({"amqp1d": {"flush_delay": 0.1}})
    daemon = configured.start("gnocchi-amqpd")
    broker.wait_for("accepted", 1)
    broker.kill()
    daemon.wait_for("WARNING .*Broker amqp://127.0.0.1")
    broker.start()
    broker.send([make_message(1)], ADDRESS)
    broker.wait_for("accepted", 1)
    assert {"memory@memory-free": [(1480063672, 0.0), (1480063673, 1.0)]} == read(configured, "www.gnocchi.test.com")
    assert 0 == daemon.stop()


def test_index_away_at_start(deployment, broker):
    """Messages are left to the broker until there is an index; nothing is lost."""
    deployment.configure({"amqp1d": {"url": broker.url(ADDRESS), "creator": "admin", "flush_delay": 0.1}})
    broker.send([make_message(0)], ADDRESS)
    daemon = deployment.start("gnocchi-amqpd")
    daemon.wait_for("WARNING .*; the resource type is made once that is back")
    daemon.wait_for(r"WARNING .*gnocchi-upgrade has to be run; 1 measures are kept and tried again")
    assert 0 == broker.count("accepted")
    deployment.upgrade("--sacks-number", "16")
    broker.wait_for("accepted", 1)
    assert ["memory@memory-free"] == [*read(deployment, "www.gnocchi.test.com")]
    assert 0 == daemon.stop()


def test_metrics_that_cannot_be_made(configured, broker):
    """They are logged, and not sent again for ever; others are stored."""
    indexer = configured.backends.indexer
    indexer.delete_archive_policy_rule("default")
    daemon = configured.start("gnocchi-amqpd")
    broker.send([make_message(0)], ADDRESS)
    broker.wait_for("accepted", 1)
    daemon.wait_for("ERROR .*Unable to add measure memory@memory-free of collectd_amqp1d:www.gnocchi.test.com: "
                    "No archive policy name specified")
    assert 0 == daemon.stop()


def test_resource_type_deleted_meanwhile(configured, broker):
    daemon = configured.start("gnocchi-amqpd")
    broker.send([make_message(0)], ADDRESS)
    broker.wait_for("accepted", 1)
    indexer = configured.backends.indexer
    indexer.delete_resource("collectd_amqp1d",
                            resource_ids.resource_id("collectd_amqp1d:www.gnocchi.test.com", "admin"))
    indexer.delete_resource_type("collectd_amqp1d")
    broker.send([make_message(1)], ADDRESS)
    broker.wait_for("accepted", 2)
    assert {"memory@memory-free": [(1480063673, 1.0)]} == read(configured, "www.gnocchi.test.com")
    assert 0 == daemon.stop()


@pytest.mark.parametrize("url", ["http://h/q", "localhost"])
def test_wrong_url(configured, url):
    configured.configure({"amqp1d": {"url": url}})
    done = configured.run("gnocchi-amqpd")
    assert 1 == done.returncode
    assert done.stdout.startswith("gnocchi-amqpd: [amqp1d] url")


def test_without_proton(upgraded):
    """One line says what is missing."""
    code = "import sys; sys.modules['proton'] = None; from gnocchi.cli.amqpd import amqpd; sys.exit(amqpd())"
    done = subprocess.run([sys.executable, "-c", code, "--config-file", str(upgraded.config_file)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=upgraded.environment,
                          timeout=TIMEOUT_S, check=False)
    assert 1 == done.returncode
    assert "python-qpid-proton is needed, the extra amqp1 of this package" in done.stdout
    assert "Traceback" not in done.stdout


def test_real_collectd(configured, broker, tmp_path):
    """collectd's own plugin sends what it reads of this machine."""
    program = find_collectd()
    config = tmp_path / "collectd.conf"
    config.write_text(COLLECTD.format(directory=tmp_path, port=broker.port))
    daemon = configured.start("gnocchi-amqpd")
    daemon.wait_for("Receiving from")
    with (tmp_path / "collectd.log").open("wb") as log:
        collectd = subprocess.Popen([program, "-f", "-C", str(config)], stdout=log, stderr=subprocess.STDOUT,
                                    env=os.environ | {"HOME": str(tmp_path)}, preexec_fn=die_with_parent)
    try:
        wait_until(lambda: broker.count("accepted") >= 30,
                   lambda: daemon.output + broker.output + (tmp_path / "collectd.log").read_text())
    finally:
        collectd.terminate()
        collectd.wait()
    found = read(configured, "web01")
    assert {"load@load-shortterm", "load@load-midterm", "memory@memory-free", "memory@memory-used"} <= set(found)
    assert all(value > 0 for _, value in found["memory@memory-free"])
    assert {"host": "web01"} == configured.backends.indexer.get_resource(
        "collectd_amqp1d", resource_ids.resource_id("collectd_amqp1d:web01", "admin")).attributes
    assert 0 == daemon.stop()
    assert "ERROR" not in daemon.output
