"""Real commands and daemons for tests, each on a configuration and data directory of its own.

Signals go to processes that a test started itself, and to their direct children, by id.
"""

import os
import pathlib
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence

import numpy
import psutil

from gnocchi import metric_ids, service
from gnocchi.backends import Backends
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.indexer import MetricDefinition
from gnocchi.tests.databases import DEADLINE_S, die_with_parent, find_free_port
from gnocchi.tests.functional.service import copy_upgraded, find_command

TIMEOUT_S = DEADLINE_S

#: What the API prints once it serves, and metricd once it has counted that nothing waits.
READY = r"WSGI app 0 \(mountpoint=''\) ready"
REPORT = r"INFO +gnocchi.metricd: 0 measurements bundles across 0 metrics wait to be processed\.$"

#: Of the processes of a metricd, as a Deployment configures it.
METRICD_TITLES = ["gnocchi-metricd: processing worker(0)", "gnocchi-metricd: processing worker(1)",
                  "gnocchi-metricd: reporting worker(0)", "gnocchi-metricd: janitor worker(0)"]


def wait_until(condition: Callable[[], object], told: Callable[[], str] = str) -> None:
    """Wait for a condition; `told` explains the failure."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)


class Daemon:
    """A running command and what it prints, on both channels together."""

    def __init__(self, command: list[str], log: pathlib.Path, environment: dict[str, str]) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment,
                                            start_new_session=True, preexec_fn=die_with_parent)

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Wait until that many lines match."""
        def found() -> bool:
            done = self.process.poll() is not None
            lines = len(re.findall(pattern, self.output, re.MULTILINE))
            assert lines >= count or not done, f"ended with {self.process.returncode}:\n{self.output}"
            return lines >= count

        wait_until(found, lambda: f"no {pattern!r} in:\n{self.output}")

    def children(self) -> dict[str, int]:
        """Return title -> pid of the direct children."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                found[" ".join(child.cmdline()).strip()] = child.pid
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def wait_for_children(self, *titles: str) -> dict[str, int]:
        """Wait until the children are exactly these."""
        wait_until(lambda: set(titles) == set(self.children()), lambda: f"{sorted(self.children())}\n{self.output}")
        return self.children()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.send(number)
        return self.process.wait(TIMEOUT_S)

    def remove(self) -> None:
        """End it whatever state it is in, with everything it started."""
        if self.process.poll() is None:
            family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for member in family:
                try:
                    member.kill()
                except psutil.NoSuchProcess:
                    continue
            self.process.wait()


class Deployment:
    """A configuration, and the commands run on it."""

    def __init__(self, directory: pathlib.Path, options: dict[str, dict[str, object]] | None = None) -> None:
        self.directory = directory
        self.port = find_free_port()
        self._daemons: list[Daemon] = []
        self._backends: Backends | None = None
        self.options: dict[str, dict[str, object]] = {
            "indexer": {"url": f"sqlite:///{directory}/index.db"},
            "storage": {"file_basepath": directory / "data"},
            "metricd": {"workers": 2, "metric_processing_delay": 1},
            "api": {"host": "127.0.0.1", "port": self.port, "workers": 1},
        }
        self.configure(options or {})

    @property
    def config_file(self) -> pathlib.Path:
        return self.directory / "gnocchi.conf"

    def configure(self, options: dict[str, dict[str, object]]) -> None:
        """Change options and write the file."""
        for section, values in options.items():
            self.options.setdefault(section, {}).update(values)
        self.config_file.write_text("".join(
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
            for section, values in self.options.items()))

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "GNOCCHI_"))}
        return kept | {"HOME": str(self.directory)}

    def command(self, name: str, *arguments: str) -> list[str]:
        return [*find_command(name), "--config-file", str(self.config_file), *arguments]

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; its whole output is in `stdout`."""
        return subprocess.run(self.command(name, *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, env=self.environment, timeout=TIMEOUT_S, check=False)

    def start(self, name: str, *arguments: str, configured: bool = True, prefix: Sequence[str] = ()) -> Daemon:
        """Start a command; `prefix`: what runs it."""
        command = self.command(name, *arguments) if configured else [*find_command(name), *arguments]
        daemon = Daemon([*prefix, *command], self.directory / f"{name}-{len(self._daemons)}.log", self.environment)
        self._daemons.append(daemon)
        return daemon

    def upgrade(self, *arguments: str) -> str:
        done = self.run("gnocchi-upgrade", *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def begin_upgraded(self, sacks: int) -> None:
        """Have what `gnocchi-upgrade` makes, with SQLite and files, at less cost."""
        copy_upgraded(self.directory, "--sacks-number", str(sacks))

    @property
    def backends(self) -> Backends:
        """The deployment's back ends, opened in the test's own process."""
        if self._backends is None:
            self._backends = Backends(service.prepare_service(["--config-file", str(self.config_file)]))
        return self._backends

    def create_metrics(self, count: int) -> list[uuid.UUID]:
        definitions = [MetricDefinition(uuid.uuid4(), "medium") for _ in range(count)]
        return [metric.id for metric in self.backends.indexer.create_metrics(definitions, "admin")]

    def post(self, ids: list[uuid.UUID], minute: int = 0) -> None:
        """Post one measure for each metric."""
        start = numpy.datetime64("2026-01-01T00:00:00", "ns") + numpy.timedelta64(minute, "m")
        self.backends.incoming.write_measures(MeasureBatch(
            metric_ids.pack_ids(ids), numpy.ones(len(ids), numpy.int64),
            numpy.full(len(ids), start), numpy.ones(len(ids))))

    def count_backlog(self) -> int:
        checkpoints = {sack.number: sack.checkpoint for sack in self.backends.indexer.list_sacks()}
        return self.backends.incoming.report_backlog(checkpoints, details=False).bundles

    def count_commits(self) -> int:
        return sum(sack.sequence for sack in self.backends.indexer.list_sacks())

    def close_backends(self) -> None:
        """Close what the test has open; the next use opens it anew."""
        if self._backends is not None:
            self._backends.incoming.close()
            self._backends.indexer.close()
            self._backends = None

    def remove(self) -> None:
        for daemon in self._daemons:
            daemon.remove()
        self.close_backends()
