"""A real API for tests: its own process, index, data directory and port."""

import atexit
import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import gnocchi
import gnocchi.rest.app
from gnocchi.tests.databases import DEADLINE_S, find_free_port

START_TIMEOUT_S = DEADLINE_S
STOP_TIMEOUT_S = DEADLINE_S

#: Mounts the packaged pipelines below a prefix, as a deployer's own paste file may.
PASTE = """
[composite:gnocchi+basic]
use = egg:Paste#urlmap
{prefix} = config:{packaged}#gnocchi+basic
"""


def find_command(name: str) -> list[str]:
    """How to start a command: as installed beside this Python, else from the checkout's `bin`."""
    installed = pathlib.Path(sys.executable).with_name(name)
    if installed.exists():
        return [str(installed)]
    return [sys.executable, str(pathlib.Path(gnocchi.__file__).parents[1] / "bin" / name)]


@functools.cache
def _make_template(arguments: tuple[str, ...]) -> pathlib.Path:
    directory = pathlib.Path(tempfile.mkdtemp(prefix="g-upgraded-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    config = directory / "gnocchi.conf"
    config.write_text(f"[indexer]\nurl = sqlite:///{directory}/index.db\n[storage]\nfile_basepath = {directory}/data\n")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "GNOCCHI_"))}
    done = subprocess.run([*find_command("gnocchi-upgrade"), "--config-file", str(config), *arguments],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=START_TIMEOUT_S,
                          env=environment | {"HOME": str(directory)}, check=False)
    assert done.returncode == 0, done.stdout
    config.unlink()
    return directory


def copy_upgraded(directory: pathlib.Path, *arguments: str) -> None:
    """Put `index.db` and `data` into a directory, as `gnocchi-upgrade` makes them; it is run once per test process."""
    shutil.copytree(_make_template(arguments), directory, dirs_exist_ok=True)


class ApiService:
    """Starts `gnocchi-api` on an empty index and storage: SQLite and files in a temporary directory, or as told.

    Parameters
    ----------
    options : {section: {option: value}}
        Added to the configuration file.
    prefix : str
        Where the API is mounted.
    """

    def __init__(self, options: dict[str, dict[str, object]] | None = None, prefix: str = "") -> None:
        self.prefix = prefix
        self.port = 0
        self._options = options or {}
        self._directory: tempfile.TemporaryDirectory | None = None
        self._process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def directory(self) -> pathlib.Path:
        assert self._directory is not None
        return pathlib.Path(self._directory.name)

    @property
    def config_file(self) -> pathlib.Path:
        return self.directory / "gnocchi.conf"

    @property
    def log_file(self) -> pathlib.Path:
        return self.directory / "api.log"

    def start(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gnocchi-api-")
        try:
            self.port = find_free_port()
            self._write_config()
            if "indexer" in self._options or "storage" in self._options:
                self.run("gnocchi-upgrade", "--skip-archive-policies-creation")
            else:
                copy_upgraded(self.directory, "--skip-archive-policies-creation")
            with self.log_file.open("wb") as log:
                self._process = subprocess.Popen(
                    [*find_command("gnocchi-api"), "--config-file", str(self.config_file)],
                    stdout=log, stderr=subprocess.STDOUT, env=self._environment(), start_new_session=True)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    os.killpg(self._process.pid, signal.SIGKILL)
                    self._process.wait()
            self._process = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def run(self, command: str, *arguments: str) -> None:
        """Run one of the commands on this service's configuration; its output is shown when it fails."""
        done = subprocess.run([*find_command(command), "--config-file", str(self.config_file), *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self._environment(),
                              timeout=START_TIMEOUT_S, check=False)
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{done.stdout}"

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's own configuration, and no site configuration in HOME."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "GNOCCHI_"))}
        return kept | {"HOME": str(self.directory)}

    def _write_config(self) -> None:
        options: dict[str, dict[str, object]] = {
            "indexer": {"url": f"sqlite:///{self.directory / 'index.db'}"},
            "storage": {"file_basepath": self.directory / "data"},
            # Refreshes wait as long as it takes.
            "api": {"host": "127.0.0.1", "port": self.port, "workers": 1, "operation_timeout": DEADLINE_S},
        }
        for section, values in self._options.items():
            options.setdefault(section, {}).update(values)
        if self.prefix:
            paste = self.directory / "api-paste.ini"
            paste.write_text(PASTE.format(prefix=self.prefix, packaged=gnocchi.rest.app.PACKAGED_PASTE_CONFIG))
            options["api"]["paste_config"] = paste
        self.config_file.write_text("".join(
            f"[{section}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())
            for section, values in options.items()))

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/healthcheck", timeout=START_TIMEOUT_S):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                output = self.log_file.read_text()
                assert self._process.poll() is None, f"gnocchi-api ended with {self._process.returncode}:\n{output}"
                assert time.monotonic() < deadline, f"gnocchi-api does not answer:\n{output}"
                time.sleep(0.05)
