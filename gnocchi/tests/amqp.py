"""An AMQP 1.0 broker for tests, and what it is told."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterable

from gnocchi.tests.databases import die_with_parent, find_free_port, need
from gnocchi.tests.functional.daemons import wait_until
from gnocchi.tests.modules import need_module


def need_proton() -> None:
    """Skip or fail without python-qpid-proton."""
    need_module("proton", "python-qpid-proton (Debian's python3-qpid-proton)")


#: Not imported: it needs proton.
BROKER = pathlib.Path(__file__).with_name("amqp_broker.py")


class AmqpBroker:
    """The broker; what it knows goes with it."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.port = find_free_port()
        self._log = directory / "broker.log"
        self._process: subprocess.Popen | None = None

    def url(self, address: str = "collectd") -> str:
        return f"127.0.0.1:{self.port}/{address}"

    def start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([sys.executable, str(BROKER), str(self.port)],
                                             stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
        wait_until(lambda: "READY" in self.output, lambda: self.output)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def output(self) -> str:
        return self._log.read_text()

    def count(self, outcome: str) -> int:
        """Return how many messages were `accepted` or `rejected` since the start."""
        return sum(line.startswith(outcome) for line in self.output.splitlines())

    def wait_for(self, outcome: str, count: int) -> None:
        wait_until(lambda: self.count(outcome) >= count, lambda: self.output)
        assert count == self.count(outcome)

    def send(self, bodies: Iterable[object], address: str = "collectd") -> None:
        """Put messages into a queue."""
        from proton import Message
        from proton.utils import BlockingConnection
        connection = BlockingConnection(f"127.0.0.1:{self.port}", timeout=30)
        try:
            sender = connection.create_sender(address)
            for body in bodies:
                sender.send(Message(body=body))
        finally:
            connection.close()


def find_collectd() -> str:
    """Return collectd's path; skip or fail without it or its plugin."""
    program = shutil.which("collectd", path=f"{os.environ['PATH']}:/usr/sbin")
    if not pathlib.Path("/usr/lib/collectd/amqp1.so").exists():
        program = None
    return need(program, "collectd-core")
