"""kill -9 of any process at any moment, under load: nothing acknowledged is lost, nothing counts twice."""

import os
import random
import re
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pytest

from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.crash.load import Load
from gnocchi.tests.crash.service import Service, await_end, await_until, list_session
from gnocchi.tests.functional.daemons import Daemon

#: The longest time between a sign of life and the next kill, in seconds.
WAIT_S_MAX = 0.4


class Victim(NamedTuple):
    """command : what was started;  title : pattern of the process that dies;  ends : whether the rest dies of it"""

    command: str
    title: str
    ends: bool = False


API_WORKER, API_MASTER = r"^gnocchi-api: .* worker-\d", r"^gnocchi-api: [^ ]+$"
PROCESSOR, METRICD_MASTER = r"processing worker\(", r"^gnocchi-metricd: master process"

#: How often each dies.
KILLS = {
    Victim("gnocchi-api", API_WORKER): 18,
    Victim("gnocchi-api", API_MASTER, ends=True): 7,
    Victim("gnocchi-metricd", PROCESSOR): 16,
    Victim("gnocchi-metricd", METRICD_MASTER, ends=True): 7,
    Victim("gnocchi-metricd", r"janitor worker\("): 4,
}

STANDALONE = "gnocchi-standalone"
STANDALONE_KILLS = {
    Victim(STANDALONE, API_WORKER): 1,
    Victim(STANDALONE, PROCESSOR): 1,
    Victim(STANDALONE, API_MASTER, ends=True): 1,
    Victim(STANDALONE, METRICD_MASTER, ends=True): 1,
    Victim(STANDALONE, "gnocchi-standalone", ends=True): 1,
}


@pytest.fixture
def seed():
    seed = int(os.environ.get("GNOCCHI_TEST_SEED", random.randrange(2**32)))
    print(f"GNOCCHI_TEST_SEED={seed}")
    return seed


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path, {"metricd": {"metric_cleanup_delay": 1}})
    yield service
    service.remove()


class Killer:
    """Kills processes of a service, and starts what has nobody that would start it again.

    Parameters
    ----------
    start : callable that starts a command
    commands : of those that run and those to start again
    """

    def __init__(self, seed: int, service: Service, load: Load, start: Callable[[str], Daemon],
                 daemons: dict[str, Daemon]) -> None:
        self._rng = random.Random(seed)
        self._service = service
        self._load = load
        self._start = start
        self._daemons = daemons
        self._index = sqlite3.connect(f"file:{service.data}/gnocchi.db?mode=ro", uri=True)

    def count_commits(self) -> int:
        return self._index.execute("SELECT SUM(sequence) FROM sack").fetchone()[0]

    def count_blocks(self) -> int:
        return self._index.execute("SELECT COUNT(*) FROM block").fetchone()[0]

    def run(self, kills: Mapping[Victim, int]) -> None:
        """Kill in random order under load; then let everything settle, and compare."""
        order = [victim for victim, count in kills.items() for _ in range(count)]
        self._rng.shuffle(order)
        self._load.start()
        try:
            for victim in order:
                self._await_life()
                self._kill(victim)
            self._await_life()
        finally:
            self._load.stop()
        self._load.check()
        self._service.await_aggregation()
        print(f"{len(order)} kills, {self.count_commits()} commits, {self.count_blocks()} blocks; requests: "
              f"{self._load.count(True)} acknowledged, {self._load.count(False)} refused, "
              f"{self._load.count(None)} without an answer")
        self._load.verify()

    def _await_life(self) -> None:
        """Return once more requests were answered and more was committed."""
        acknowledged, commits = self._load.count(True), self.count_commits()
        await_until(lambda: self._load.count(True) > acknowledged and self.count_commits() > commits,
                    lambda: f"no answers or no commits:\n{self._service.read_logs()}")
        self._load.check()

    def _kill(self, victim: Victim) -> None:
        daemon = self._daemons[victim.command]
        pids: list[int] = []

        def find() -> list[int]:
            found = {pid: parent for pid, parent, title in list_session(daemon) if re.search(victim.title, title)}
            # A child that was just forked still has its parent's title.
            pids[:] = [pid for pid, parent in found.items() if parent not in found]
            return pids

        await_until(find, lambda: f"nobody is {victim.title!r}: {list(list_session(daemon))}")
        time.sleep(self._rng.uniform(0, WAIT_S_MAX))    # the moment shall be any
        os.kill(self._rng.choice(pids), signal.SIGKILL)
        if victim.ends:
            await_end(daemon)
            self._daemons[victim.command] = self._start(victim.command)


def test_kills_lose_and_repeat_nothing(seed, service):
    """Masters, workers and the janitor die 52 times; what was acknowledged is there once, the rest whole or not."""
    assert 50 <= sum(KILLS.values())
    assert 0 < kill_and_compare(seed, service, KILLS).count_blocks()    # buckets were sealed meanwhile


def kill_and_compare(seed, service, kills):
    service.upgrade()
    api, metricd = service.start_all()
    daemons = {"gnocchi-api": api, "gnocchi-metricd": metricd}
    killer = Killer(seed, service, Load(seed, service.port), service.start, daemons)
    killer.run(kills)
    for daemon in daemons.values():
        assert 0 == daemon.stop(), daemon.output
    return killer


def test_kills_with_everything_in_ceph(seed, tmp_path, empty_ceph):
    """The same with measures that wait, and aggregates, in objects which no file system keeps in order."""
    options = {"driver": "ceph", **{f"ceph_{name}": value for name, value in empty_ceph.items() if value}}
    service = Service(tmp_path, {"metricd": {"metric_cleanup_delay": 1}, "storage": options})
    try:
        kill_and_compare(seed, service, {victim: -(-count // 4) for victim, count in KILLS.items()})
    finally:
        service.remove()


def test_kills_with_everything_in_redis(seed, tmp_path):
    """The same in Redis, with the locks in it: those of whoever is killed stay for some seconds."""
    for server in serve(lambda: make_redis(durable=True)):
        service = Service(tmp_path, {"metricd": {"metric_cleanup_delay": 1}, "storage": {
            "driver": "redis", "redis_url": f"redis://127.0.0.1:{server.port}?timeout=3"}})
        try:
            kill_and_compare(seed, service, {victim: -(-count // 4) for victim, count in KILLS.items()})
        finally:
            service.remove()


def test_standalone_killed_in_parts_loses_nothing(seed, service):
    """Whether a worker dies, a daemon or the supervisor: it goes on, or does so when it is started again."""
    def start(command: str) -> Daemon:
        return service.start(command, "--data-dir", str(service.data), "--port", str(service.port),
                             "--config-file", str(service.config_file), configured=False)

    daemons = {STANDALONE: start(STANDALONE)}
    service.await_answers(daemons[STANDALONE])
    killer = Killer(seed, service, Load(seed, service.port), start, daemons)
    killer.run(STANDALONE_KILLS)
    assert 0 == daemons[STANDALONE].stop(), daemons[STANDALONE].output
