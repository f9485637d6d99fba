"""A fleet under load while its parts die, freeze, fall silent and come back: nothing is lost, doubled or invented.

Outages last GNOCCHI_TEST_OUTAGE_S seconds (4); with 20, what a deployment has to survive, it takes some ten minutes.
"""

import contextlib
import os
import random
import signal
import time

import pytest

from gnocchi.tests.ceph import need_rados
from gnocchi.tests.crash.fleet import ANSWER_S, LEASE_S, LOCAL, METRICDS, Fleet, Part, make_parts
from gnocchi.tests.crash.load import Load
from gnocchi.tests.crash.service import await_until
from gnocchi.tests.faulty import faulty
from gnocchi.tests.hosts import make_hosts

OUTAGE_S = float(os.environ.get("GNOCCHI_TEST_OUTAGE_S", "4"))


@pytest.fixture
def seed():
    seed = int(os.environ.get("GNOCCHI_TEST_SEED", random.randrange(2**32)))
    print(f"GNOCCHI_TEST_SEED={seed}")
    return seed


@pytest.fixture(scope="module")
def parts():
    with make_parts() as made:
        yield made


@pytest.fixture(scope="module")
def hosts():
    with make_hosts(METRICDS) as made:
        yield made


@contextlib.contextmanager
def make_fleet(directory, parts, make_storage, hosts=()):
    fleet = Fleet(directory, parts, make_storage, hosts)
    try:
        fleet.start_all()
        yield fleet
    finally:
        for part in parts.values():
            part.proxy.pass_on()
        for host in hosts:
            host.plug()
        fleet.remove()


class Trouble:
    """What happens to a fleet, each a method that returns once it is over."""

    def __init__(self, fleet, parts, rng):
        self._fleet = fleet
        self._parts = parts
        self._rng = rng

    def kill_worker(self):
        os.kill(self._choose_worker(), signal.SIGKILL)

    def freeze_worker(self):
        """Until its locks are somebody else's; then it goes on where it was."""
        pid = self._choose_worker()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(max(OUTAGE_S, LEASE_S + 1.0))
        os.kill(pid, signal.SIGCONT)

    def restart_api(self):
        self._fleet.restart_api(self._rng.randrange(len(self._fleet.apis)))

    def kill_server(self, name):
        self._parts[name].server.kill()
        time.sleep(OUTAGE_S)
        self._parts[name].start_again()

    def reset(self, name):
        self._parts[name].proxy.reset()
        time.sleep(OUTAGE_S)
        self._parts[name].proxy.pass_on()

    def swallow(self, name):
        self._parts[name].proxy.swallow()
        time.sleep(OUTAGE_S)
        self._parts[name].proxy.pass_on()

    def refuse(self, name):
        """Have each request answered 503."""
        self._parts[name].proxy.answer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        time.sleep(OUTAGE_S)
        self._parts[name].proxy.pass_on()

    def cut(self, name):
        """Break some connections amid answers."""
        for _ in range(5):
            self._parts[name].proxy.cut_after(self._rng.randrange(2000))
            time.sleep(0.1)
        self._parts[name].proxy.pass_on()

    def pause(self, server):
        """Have a server answer nobody, without a proxy."""
        server.pause()
        time.sleep(OUTAGE_S)
        server.resume()

    def unplug(self):
        """Cut a host off from all servers and clients."""
        host = self._rng.choice(self._fleet.hosts)
        host.unplug()
        time.sleep(OUTAGE_S)
        host.plug()

    def _choose_worker(self):
        return self._rng.choice(self._fleet.find_workers(self._rng.randrange(METRICDS)))


def live_through(fleet, parts, seed, troubles):
    """Have everything happen under load, in random order; then compare what is stored with what was acknowledged.

    troubles : list of (name of a method of Trouble, *arguments)
    """
    rng = random.Random(seed)
    order = rng.sample(troubles, len(troubles))
    # An answer may be lost on the way from the server that stored the measures: 503 leaves open whether they are.
    load = Load(seed, fleet.addresses, refusals_certain=False)
    trouble = Trouble(fleet, parts, rng)
    load.start()
    try:
        for name, *arguments in order:
            await_life(fleet, load)
            begun = time.monotonic()
            getattr(trouble, name)(*arguments)
            over = time.monotonic()
            value = load.count_values()
            await_life(fleet, load)
            print(f"{name} {' '.join(map(str, arguments))}: lasted {over - begun:.1f} s, "
                  f"all goes on {time.monotonic() - over:.1f} s later; values below {value}")
    finally:
        load.stop()
    load.check()
    begun = time.monotonic()
    fleet.await_aggregation()
    print(f"backlog gone after {time.monotonic() - begun:.1f} s; {fleet.count_commits()} commits; requests: "
          f"{load.count(True)} acknowledged, {load.count(None)} refused or without an answer")
    load.verify()
    tracebacks = fleet.list_tracebacks()
    assert not tracebacks, "\n".join(tracebacks)


def await_life(fleet, load):
    """Return once every client had a request accepted and more was committed."""
    accepted, commits = load.count_by_client(), fleet.count_commits()

    def alive():
        load.check()
        return (all(now > before for now, before in zip(load.count_by_client(), accepted, strict=True))
                and fleet.count_commits() > commits)

    await_until(alive, lambda: f"{accepted} -> {load.count_by_client()} requests, "
                               f"{commits} -> {fleet.count_commits()} commits\n{fleet.read_logs()}")


PROCESSES = [("kill_worker",)] * 4 + [("freeze_worker",)] * 2 + [("restart_api",)]
STORAGE = [("reset", "storage"), ("swallow", "storage"), ("cut", "storage")]
SHORT = [("kill_worker",), ("freeze_worker",), ("kill_server", "coordination")]


def test_fleet_on_redis(tmp_path, parts, hosts, seed):
    """Every part of a fleet in turn."""
    def make_storage(servers):
        return {"driver": "redis", "redis_url": parts["storage"].make_url(servers)}

    with make_fleet(tmp_path, parts, make_storage, hosts) as fleet:
        live_through(fleet, parts, seed, [
            *PROCESSES, *STORAGE, *[("unplug",)] * (2 if hosts else 0),
            ("kill_server", "index"), ("reset", "index"), ("cut", "index"), ("swallow", "index"),
            ("kill_server", "incoming"), ("swallow", "incoming"), ("cut", "incoming"),
            ("kill_server", "coordination"), ("swallow", "coordination"), ("kill_server", "storage")])


def test_fleet_on_ceph(tmp_path, parts, seed, ceph, ceph_pool):
    """Its OSD stops answering, and answers again."""
    need_rados()
    storage = {"driver": "ceph", "ceph_pool": ceph_pool, "ceph_conffile": ceph.client_config,
               "ceph_timeout": ANSWER_S}
    # Whose servers tell their clients addresses that only this host has.
    with make_fleet(tmp_path, parts, lambda _: storage) as fleet:
        live_through(fleet, parts, seed, [*SHORT, ("pause", ceph.osd), ("pause", ceph.osd)])


def test_fleet_on_swift(tmp_path, parts, hosts, seed, swift):
    """It breaks connections, says nothing, or says that it cannot."""
    with faulty(swift.port) as proxy:
        parts = parts | {"storage": Part(swift, proxy)}

        def make_storage(servers):
            url = swift.options["swift_authurl"].replace(f"{LOCAL}:{swift.port}/", f"{servers}:{proxy.port}/")
            return {"driver": "swift", **swift.options, "swift_authurl": url, "swift_timeout": ANSWER_S}

        with make_fleet(tmp_path, parts, make_storage, hosts) as fleet:
            live_through(fleet, parts, seed, [*SHORT, *STORAGE, ("refuse", "storage")])
            assert proxy.accepted > METRICDS, "nobody came by the proxy"


def test_fleet_on_s3(tmp_path, parts, hosts, seed, gateway):
    """The same, on Ceph's gateway."""
    with faulty(gateway.port) as proxy:
        parts = parts | {"storage": Part(gateway, proxy)}

        def make_storage(servers):
            return {"driver": "s3", **gateway.options, "s3_endpoint_url": f"http://{servers}:{proxy.port}"}

        with make_fleet(tmp_path, parts, make_storage, hosts) as fleet:
            live_through(fleet, parts, seed, [*STORAGE, ("refuse", "storage"), ("kill_worker",)])
            assert proxy.accepted > METRICDS, "nobody came by the proxy"
