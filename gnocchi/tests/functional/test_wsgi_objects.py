"""The application under every name that deployments use."""

import os
import pathlib
import subprocess
import sys

import pytest

import gnocchi
from gnocchi.tests.databases import DEADLINE_S

SCRIPT = pathlib.Path(gnocchi.__file__).parents[1] / "bin" / "gnocchi-api"

LOADERS = {
    "gnocchi.wsgi.api": "from gnocchi.wsgi.api import application",
    "gnocchi.rest.wsgi": "from gnocchi.rest.wsgi import application",
    "gnocchi.cli.api": "from gnocchi.cli.api import wsgi; application = wsgi()",
    "bin/gnocchi-api": f"import runpy; application = runpy.run_path({str(SCRIPT)!r}, run_name='wsgi')['application']",
}

REQUESTS = """
import webob
print(*(webob.Request.blank(path).get_response(application).status_int for path in ("/", "/v1/")))
"""


@pytest.mark.parametrize("name", LOADERS)
def test_application_is_found(name, tmp_path):
    """It needs no argument: files and environment tell the configuration, the command line is the server's."""
    environment = os.environ | {"HOME": str(tmp_path), "GNOCCHI_INDEXER_URL": f"sqlite:///{tmp_path}/index.sqlite"}
    done = subprocess.run([sys.executable, "-c", LOADERS[name] + REQUESTS, "--bind", "0.0.0.0:8041"],
                          env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert "200 401" == done.stdout.strip(), done.stderr
