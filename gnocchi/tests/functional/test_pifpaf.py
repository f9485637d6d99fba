"""`pifpaf run gnocchi`, which test suites of other projects use, with our commands."""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import uuid

import pytest

from gnocchi.tests.databases import DEADLINE_S, find_free_port, need
from gnocchi.tests.functional.daemons import Daemon

#: Run by pifpaf, so with its environment: gnocchiclient needs no configuration, and statsd is there.
SCRIPT = r"""
set -e
gnocchi metric create --archive-policy-name low cpu -f json
printf 'req:3|c' > "/dev/udp/127.0.0.1/$OS_STATSD__PORT"
until gnocchi measures show --refresh --resource-id "$GNOCCHI_STATSD_RESOURCE_ID" 'req|c' -f json >"$RESULT" 2>/dev/null
do sleep 0.2; done
"""


@pytest.fixture
def pifpaf():
    """The command line, as a user that PostgreSQL lets start it."""
    commands = pathlib.Path(sys.executable).parent
    need(shutil.which("pg_config"), "PostgreSQL (pg_config)")
    program = need(shutil.which("pifpaf", path=str(commands)), "pifpaf")
    return [*(["unshare", "--user", "--map-user=1000", "--"] if os.getuid() == 0 else []), program]


def test_pifpaf_runs_gnocchi(pifpaf, tmp_path):
    """It starts all four commands with PostgreSQL and files, its command can use the API and statsd, and it ends."""
    result = tmp_path / "result"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OS_", "GNOCCHI_"))}
    environment = kept | {
        "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}", "HOME": str(tmp_path),
        # pifpaf leaves the port as it is by default, which another test run may be using.
        "OS_STATSD__PORT": str(find_free_port(socket.SOCK_DGRAM)), "OS_STATSD__FLUSH_DELAY": "0.5",
        "RESULT": str(result)}
    daemon = Daemon([*pifpaf, "run", "gnocchi", "--port", str(find_free_port()), "--indexer-port",
                     str(find_free_port()), "--", "bash", "-c", SCRIPT], tmp_path / "log", environment)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.process.wait(3 * DEADLINE_S)    # five daemons, one after the other
        assert 0 == daemon.process.returncode, daemon.output
        created = json.JSONDecoder().raw_decode(daemon.output[daemon.output.index("{"):])[0]
        assert ("cpu", "admin", "low") == (created["name"], created["creator"], created["archive_policy_name"])
        assert uuid.UUID(created["id"])
        assert {3.0} == {measure["value"] for measure in json.loads(result.read_text())}
    finally:
        daemon.remove()
