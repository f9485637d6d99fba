"""Real coordination services for tests: files, Redis, etcd, ZooKeeper, memcached, PostgreSQL."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from gnocchi.common.redis import make_client
from gnocchi.tests.databases import START_TIMEOUT_S, die_with_parent, find_free_port, need

#: Those that know groups, and one that has locks only.
SERVICES = ("file", "redis", "etcd", "zookeeper", "memcached", "postgresql")

ZOOKEEPER_JAR = "/usr/share/java/zookeeper.jar"


class Server:
    """A server process in a directory of its own; may be killed and started again on the same port."""

    def __init__(self, command: Callable[[int, pathlib.Path], list[str]], answers: Callable[[int], bool]) -> None:
        self.port = find_free_port()
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="g-coord-"))
        self._command = command(self.port, self._directory)
        self._answers = answers
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, process_group=0,
                                             preexec_fn=die_with_parent)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers(self.port):
            text = (self._directory / "log").read_text(errors="replace")
            assert self._process.poll() is None, f"{self._command[0]} ended:\n{text}"
            assert time.monotonic() < deadline, f"{self._command[0]} does not answer:\n{text}"
            time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Have it answer nobody, with its connections open, until `resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def asks(question: bytes, expected: bytes) -> Callable[[int], bool]:
    def answers(port: int) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(question)
            return connection.recv(64).startswith(expected)
        return False

    return answers


def _etcd_answers(port: int) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
        return b"true" in answer.read()
    return False


def make_redis(*, durable: bool = False) -> Server:
    """Make a Redis that keeps nothing when it ends, or everything."""
    kept = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
    program = need(shutil.which("redis-server"), "Redis")
    return Server(lambda port, directory: [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory),
                                           "--save", "", *kept, "--daemonize", "no"],
                  asks(b"PING\r\n", b"+PONG"))


def make_memcached() -> Server:
    program = need(shutil.which("memcached"), "memcached")
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    return Server(lambda port, _: [program, *user, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "32"],
                  asks(b"version\r\n", b"VERSION"))


def make_etcd() -> Server:
    program = need(shutil.which("etcd"), "etcd")
    peer = find_free_port()

    def command(port: int, directory: pathlib.Path) -> list[str]:
        client, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
        return [program, "--name", "t", "--data-dir", str(directory / "etcd"), "--listen-client-urls", client,
                "--advertise-client-urls", client, "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
                "--initial-cluster", f"t={peers}", "--unsafe-no-fsync"]

    return Server(command, _etcd_answers)


def make_zookeeper() -> Server:
    program = need(shutil.which("java") if os.path.exists(ZOOKEEPER_JAR) else None, "ZooKeeper")

    def command(port: int, directory: pathlib.Path) -> list[str]:
        configuration = directory / "zoo.cfg"
        configuration.write_text(
            f"dataDir={directory}/data\nclientPort={port}\nclientPortAddress=127.0.0.1\n4lw.commands.whitelist=*\n"
            "admin.enableServer=false\ntickTime=500\nmaxClientCnxns=0\nforceSync=no\n")
        return [program, "-Xmx96m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", ZOOKEEPER_JAR,
                "org.apache.zookeeper.server.ZooKeeperServerMain", str(configuration)]

    return Server(command, asks(b"ruok", b"imok"))


def serve(make: Callable[[], Server]) -> Iterator[Server]:
    server = make()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def redis_server() -> Iterator[Server]:
    """A Redis of the test's own, which it may kill and start."""
    yield from serve(make_redis)


@pytest.fixture(scope="module")
def kept_redis() -> Iterator[Server]:
    """A Redis that the tests of a module share."""
    yield from serve(make_redis)


@pytest.fixture
def empty_redis(kept_redis: Server) -> str:
    """URL of a Redis that holds nothing."""
    url = f"redis://127.0.0.1:{kept_redis.port}"
    make_client(url).flushall()
    return url


MAKERS = {"redis": make_redis, "etcd": make_etcd, "memcached": make_memcached, "zookeeper": make_zookeeper}


def make_url(service: str, port: int) -> str:
    scheme = {"etcd": "etcd3+http"}.get(service, service)
    return f"{scheme}://127.0.0.1:{port}"


@pytest.fixture(scope="module", params=SERVICES)
def coordination_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a coordination service; the tests of a module run on each kind."""
    if request.param == "file":
        yield f"file://{tmp_path_factory.mktemp('coordination')}"
    elif request.param == "postgresql":
        server = request.getfixturevalue("postgresql_server")
        yield server.url("postgres")
    else:
        for server in serve(MAKERS[request.param]):
            yield make_url(request.param, server.port)
