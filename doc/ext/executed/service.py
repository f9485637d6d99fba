"""A Gnocchi that lives as long as a build of the documents."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import NamedTuple

TIMEOUT_S = 120.0
POLL_S = 0.05

#: Small, for it has one client.  What the pages say is switched on is.
OPTIONS = """\
[metricd]
workers = 1
[api]
workers = 1
operation_timeout = 60
enable_proxy_headers_parsing = true
[cors]
allowed_origin = https://grafana.example.org
"""

START = "import sys; from gnocchi.cli.standalone import standalone; sys.exit(standalone())"

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class CannotStart(Exception):
    """The service did not come up; the text is its log."""


class Answer(NamedTuple):
    """headers : by their names in lower case"""

    status: int
    reason: str
    headers: dict[str, str]
    body: str


class Service:
    """`gnocchi-standalone` on a temporary directory, from `start` to `stop`."""

    def __init__(self) -> None:
        self._directory: tempfile.TemporaryDirectory | None = None
        self._process: subprocess.Popen | None = None
        self.url = ""

    @property
    def started(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="gnocchi-doc-")
        directory = pathlib.Path(self._directory.name)
        (directory / "doc.conf").write_text(OPTIONS)
        port = _find_free_port()
        self.url = f"http://127.0.0.1:{port}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "GNOCCHI_"))}
        with (directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", START, "--data-dir", str(directory / "data"), "--host", "127.0.0.1", "--port",
                 str(port), "--config-file", str(directory / "doc.conf")],
                stdout=log, stderr=log, env=environment | {"HOME": str(directory)}, preexec_fn=_die_with_parent)
        deadline = time.monotonic() + TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = (directory / "log").read_text(errors="replace")
                self.stop()
                raise CannotStart(text)
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/healthcheck", timeout=TIMEOUT_S):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def send(self, method: str, path: str, headers: dict[str, str], body: str | None) -> Answer:
        """Send a request and return the answer, whatever its status.  Redirects are not followed."""
        data = body.encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            reply = urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as e:
            reply = e
        with reply:
            # Where readers will look for it.
            told = {name.lower(): value.replace(self.url, "http://localhost:8041")
                    for name, value in reply.headers.items()}
            text = reply.read().decode().replace(self.url, "http://localhost:8041")
            return Answer(reply.status, reply.reason, told, text)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments):
        return None


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    """A build that is killed leaves no service behind."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
