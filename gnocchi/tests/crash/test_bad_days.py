"""Full disks, lost directories, locked databases, damaged files: refusals name the reason, and service resumes."""

import contextlib
import os
import pathlib
import sqlite3
import subprocess
import uuid

import pytest

from gnocchi import metric_ids
from gnocchi.catalogue import SectionRef, find_object
from gnocchi.tests.crash.service import DEADLINE_S, Client, Reply, Service, await_until
from gnocchi.tests.functional.daemons import Daemon

DISK_BYTES = 32 << 20
BLOCK_BYTES = 64 << 10
EPOCH_S = 1_750_000_000
METRICS = 10

#: Requests until a full disk must have refused one: what is allocated already still takes some.
TRIES_MAX = 5000


class Notes:
    """Posts one measure after the other to metrics of a policy, and remembers what was acknowledged."""

    def __init__(self, client: Client, policy: str, metrics: list[str]) -> None:
        self.client = client
        self.policy = policy
        self.metrics: list[str] = []
        self._kept: dict[str, list[float]] = {}
        for metric in metrics:
            self.add(metric)
        self._number = 0

    @classmethod
    def begin(cls, client: Client, policy: str = "plain", count: int = METRICS) -> "Notes":
        client.create_policy(policy, [{"granularity": 1, "points": 100_000}], ["sum", "count"], back_window=100_000)
        return cls(client, policy, client.create_metrics(policy, count))

    def post(self, metric: str | None = None) -> Reply:
        """Post one new measure to a metric, or in one request to each."""
        self._number += 1
        metrics = self.metrics if metric is None else [metric]
        point = {"timestamp": EPOCH_S + self._number, "value": float(self._number)}
        reply = self.client.request("POST", "/v1/batch/metrics/measures", {metric: [point] for metric in metrics})
        assert reply.status in (202, 503), reply
        if reply.status == 202:
            for metric in metrics:
                self._kept[metric].append(float(self._number))
        return reply

    def add(self, metric: str) -> None:
        self.metrics.append(metric)
        self._kept[metric] = []

    def create_metric(self) -> Reply:
        """Create a metric, to be found again."""
        reply = self.client.request("POST", "/v1/metric", {"archive_policy_name": self.policy})
        assert reply.status in (201, 503), reply
        if reply.status == 201:
            self.add(reply.body["id"])
        return reply

    def read(self, metric: str) -> list[float]:
        return [value for _, _, value in self.client.read(metric, "sum")]

    def is_read(self, metric: str) -> bool:
        return self.read(metric) == self._kept[metric]

    def verify(self) -> None:
        """Everything acknowledged is there, once, and nothing else."""
        listed = {metric["id"] for metric in self.client.call("GET", "/v1/metric")}
        assert set(self.metrics) == listed
        for metric in self.metrics:
            assert self._kept[metric] == self.read(metric)
            assert {1.0} >= {value for _, _, value in self.client.read(metric, "count")}


def assert_refused(reply: Reply, reason: str) -> None:
    assert 503 == reply.status, reply
    assert 503 == reply.body["code"]
    assert reason in reply.body["description"], reply


def assert_alive(*daemons: Daemon) -> None:
    for daemon in daemons:
        assert daemon.process.poll() is None, daemon.output


@pytest.fixture
def service(tmp_path):
    service = Service(tmp_path)
    yield service
    service.remove()


@pytest.fixture
def small_disk(service):
    """The service's directory as a disk of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(service.data)]
    done = subprocess.run(mount, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode:
        (pytest.fail if os.environ.get("GNOCCHI_TEST_REQUIRE_BACKENDS") and os.geteuid() == 0 else pytest.skip)(
            f"cannot mount a small disk: {done.stderr.strip()}")
    yield service.data
    service.remove()
    subprocess.run(["umount", "-l", str(service.data)], timeout=DEADLINE_S, check=True)


@contextlib.contextmanager
def filled(directory: pathlib.Path):
    """Leave no byte free on a disk."""
    path = directory / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (BLOCK_BYTES, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        yield
    path.unlink()


def refuse_some(request) -> Reply:
    """Repeat a request until it is refused."""
    for _ in range(TRIES_MAX):
        reply = request()
        if reply.status == 503:
            return reply
    pytest.fail(f"{TRIES_MAX} requests were accepted; the last one: {reply}")


def test_full_disk_refuses_and_resumes(service, small_disk):
    """While it lasts, what is stored is shown; afterwards all goes on as if nothing had been."""
    service.upgrade("--sacks-number", "4")
    daemons = service.start_all()
    notes = Notes.begin(service.connect())
    notes.post()
    service.await_aggregation()
    with filled(small_disk):
        assert_refused(refuse_some(notes.post), "No space left on device")
        assert_refused(refuse_some(notes.create_metric), "disk is full")
        for path in ("/v1/metric", "/v1/status", "/v1/archive_policy"):
            notes.client.call("GET", path)
        assert [1.0] == notes.read(notes.metrics[0])[:1]
        assert_refused(notes.post(), "No space left on device")
    await_until(lambda: notes.post().status == 202, service.read_logs)
    await_until(lambda: notes.create_metric().status == 201, service.read_logs)
    service.await_aggregation()
    notes.verify()
    assert_alive(*daemons)


def test_directory_away_and_back(service):
    """Nothing is made in the place of a directory that is not mounted, and all goes on when it is."""
    service.upgrade("--sacks-number", "4")
    daemons = service.start_all()
    notes = Notes.begin(service.connect())
    notes.post()
    service.await_aggregation()
    notes.post()
    away = service.data.with_name("away")
    service.data.rename(away)
    try:
        for _ in range(10):
            assert_refused(notes.post(), "No such file or directory")
            notes.create_metric()    # the index is open, and may go on
            reply = notes.client.request("GET", "/v1/metric")
            assert reply.status in (200, 503), reply
            assert_refused(notes.client.request("GET", "/v1/status"), "Please retry")
        errors = daemons[1].output.count("tries again")
        await_until(lambda: daemons[1].output.count("tries again") > errors + 1, service.read_logs)
        assert not service.data.exists(), list(service.data.iterdir())
    finally:
        away.rename(service.data)
    await_until(lambda: notes.post().status == 202, service.read_logs)
    service.await_aggregation()
    notes.verify()
    assert_alive(*daemons)


def test_locked_index_refuses_and_resumes(service):
    """Another process holds the write lock of SQLite for longer than anybody waits."""
    service.upgrade("--sacks-number", "4")
    daemons = service.start_all()
    notes = Notes.begin(service.connect())
    notes.post()
    service.await_aggregation()
    with contextlib.closing(sqlite3.connect(service.data / "gnocchi.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert 202 == notes.post().status    # measures need no lock
        assert_refused(notes.create_metric(), "database is locked")
        assert 202 == notes.post().status
        for path in ("/v1/metric", "/v1/status", f"/v1/metric/{notes.metrics[0]}"):
            notes.client.call("GET", path)
        other.execute("ROLLBACK")
    assert 201 == notes.create_metric().status
    assert 202 == notes.post().status
    service.await_aggregation()
    notes.verify()
    assert_alive(*daemons)


def flip_byte(path: pathlib.Path, offset: int, length: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset + length // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: pathlib.Path, offset: int, length: int) -> None:
    path.write_bytes(path.read_bytes()[:offset + length // 2])


def delete(path: pathlib.Path, offset: int, length: int) -> None:
    path.unlink()


def create_in_every_sack(client: Client, policy: str, sacks: int) -> list[str]:
    """Return one metric of each sack, in their order."""
    found: dict[int, str] = {}
    while len(found) < sacks:
        metric, = client.create_metrics(policy, 1)
        found.setdefault(int(metric_ids.sack_numbers(metric_ids.pack_ids([uuid.UUID(metric)]), sacks)[0]), metric)
    return [found[number] for number in range(sacks)]


def list_bases(service: Service, notes: Notes) -> dict[str, SectionRef]:
    """Return where the head of each metric is, of which there is one in each sack, or in the first ones."""
    indexer = service.backends.indexer
    policy_id = indexer.get_archive_policy(notes.policy).id
    return {metric: pack.base for number, metric in enumerate(notes.metrics)
            for pack in indexer.list_packs(number) if pack.policy_id == policy_id and pack.base is not None}


def damage_packs(service: Service, notes: Notes, alone: Notes) -> dict[str, str]:
    """Damage heads in one way each; return the key of what was damaged by metric."""
    bases = list_bases(service, notes)
    # Objects may be stored as one, in which one is the last: what is cut off takes along all behind it.
    first, *_, last = sorted(bases, key=lambda metric: bases[metric].offset)
    [gone] = alone.metrics
    bases |= list_bases(service, alone)
    damaged = {last: cut_off, first: flip_byte, gone: delete}
    for metric, damage in damaged.items():
        base = bases[metric]
        damage(service.data / "objects" / find_object(base.key), base.offset, base.length)
    return {metric: find_object(bases[metric].key) for metric in damaged}


def test_damaged_objects_harm_only_their_own_metrics(service):
    """A metric whose object is flipped, cut or gone says so; all others are read and aggregated."""
    service.upgrade("--sacks-number", "4")
    daemons = service.start_all()
    client = service.connect()
    notes, beside, alone = (Notes.begin(client, name, 0) for name in ("plain", "beside", "alone"))
    for each, sacks in ((notes, 4), (beside, 4), (alone, 1)):
        for metric in create_in_every_sack(client, each.policy, 4)[:sacks]:
            each.add(metric)
        each.post()
        service.await_aggregation()    # so that none is stored together with the others'
    for daemon in daemons:
        assert 0 == daemon.stop()    # what they have in memory is sound
    keys = damage_packs(service, notes, alone)
    service.start_all()
    client = notes.client = beside.client = alone.client = service.connect()
    for each in (notes, beside, alone):
        each.post()
    sound = [metric for metric in notes.metrics if metric not in keys]
    assert 2 == len(sound)
    await_until(lambda: all(map(beside.is_read, beside.metrics)) and all(map(notes.is_read, sound)), service.read_logs)
    for metric, key in keys.items():
        reply = client.request("GET", f"/v1/metric/{metric}/measures?aggregation=sum")
        assert reply.status in (500, 503), reply
        assert key in reply.body["description"], reply
    for path in ("/v1/metric", "/v1/status", f"/v1/metric/{notes.metrics[0]}"):
        client.call("GET", path)


def test_daemons_wait_for_their_back_ends(service):
    """Started before there is any directory or index, both do their work as soon as these are there."""
    service.data.rmdir()
    api, metricd = service.start_all()
    client = service.connect()
    assert 200 == client.request("GET", "/").status
    reply = client.request("GET", "/healthcheck")
    assert (503, {
        f"{name} is not available" for name in ("index", "incoming", "storage", "coordination")}) == (
        reply.status, set(reply.body["reasons"]))
    await_until(lambda: "The index is not available" in api.output, service.read_logs)
    for method, path, body in (("GET", "/v1/metric", None), ("POST", "/v1/metric", {}),
                               ("POST", "/v1/archive_policy", {"name": "p", "definition": [{"granularity": 1}]}),
                               ("POST", "/v1/batch/metrics/measures", {str(uuid.uuid4()): []})):
        assert_refused(client.request(method, path, body), "index: ")
    assert 503 == client.request("GET", "/v1/status").status
    await_until(lambda: "tries again" in metricd.output, service.read_logs)
    service.data.mkdir()
    await_until(lambda: "tries again" in metricd.output.rpartition("unable to open")[2], service.read_logs)
    service.upgrade()
    notes = Notes.begin(client)
    assert 202 == notes.post().status
    service.await_aggregation()
    notes.verify()
    assert 200 == client.request("GET", "/healthcheck").status
    assert_alive(api, metricd)
