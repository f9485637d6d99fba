"""A real Keystone for tests, with projects and users."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

from keystoneauth1 import adapter, session
from keystoneauth1.identity import v3

from gnocchi.tests.databases import DEADLINE_S, die_with_parent, find_free_port, need
from gnocchi.tests.functional import keystone_server

DOMAIN = "default"

#: Keystone's own virtualenv, which `make keystone` makes inside ours.
PYTHON = os.environ.get("GNOCCHI_TEST_KEYSTONE_PYTHON", os.path.join(sys.prefix, "keystone", "bin", "python"))


class Keystone:
    """Keystone in a process of its own; everybody's password is the same."""

    def __init__(self) -> None:
        self.port = find_free_port()
        self._directory = pathlib.Path(tempfile.mkdtemp(prefix="g-keystone-"))
        self._process: subprocess.Popen | None = None
        self._ids: dict[tuple[str, str], str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v3"

    def start(self) -> None:
        python = need(shutil.which(PYTHON), "Keystone (make keystone)")
        with (self._directory / "log").open("wb") as log:
            self._process = subprocess.Popen(
                # Without the script's directory on its path, where other files have names of modules.
                [python, "-P", keystone_server.__file__, str(self._directory / "k"), str(self.port)],
                stdout=log, stderr=log, preexec_fn=die_with_parent)
        deadline = time.monotonic() + DEADLINE_S
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError), \
                    urllib.request.urlopen(self.url, timeout=DEADLINE_S):
                break
            text = (self._directory / "log").read_text(errors="replace")
            assert self._process.poll() is None, f"Keystone ended:\n{text}"
            assert time.monotonic() < deadline, f"Keystone did not start:\n{text}"
            time.sleep(0.05)
        admin = session.Session(auth=self.login("admin", project_name="admin", project_domain_id=DOMAIN))
        self._api = adapter.Adapter(admin, service_type="identity", endpoint_override=self.url)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)

    def login(self, user: str, **scope: Any) -> v3.Password:
        """A plug-in of keystoneauth for a user; `scope` is what the token is for, nothing by default."""
        return v3.Password(auth_url=self.url, username=user, user_domain_id=DOMAIN, password=keystone_server.PASSWORD,
                           unscoped=not scope, **scope)

    def get_token(self, user: str, **scope: Any) -> str:
        token = session.Session(auth=self.login(user, **scope)).get_token()
        assert token is not None
        return token

    def revoke(self, token: str) -> None:
        self._api.delete("/auth/tokens", headers={"X-Subject-Token": token})

    def create(self, kind: str, name: str, **values: Any) -> str:
        """Make a project, user, service, ... and return its id."""
        body = {kind: {"name": name, "domain_id": DOMAIN, **values}}
        self._ids[kind, name] = self._api.post(f"/{kind}s", json=body).json()[kind]["id"]
        return self._ids[kind, name]

    def get_id(self, kind: str, name: str) -> str:
        if (kind, name) not in self._ids:
            found = self._api.get(f"/{kind}s", params={"name": name}).json()[f"{kind}s"]
            self._ids[kind, name] = found[0]["id"]
        return self._ids[kind, name]

    def create_user(self, name: str) -> str:
        return self.create("user", name, password=keystone_server.PASSWORD)

    def grant(self, user: str, role: str, project: str) -> None:
        """Give a user a role in a project."""
        self._grant(f"/projects/{self.get_id('project', project)}", user, role)

    def grant_in_domain(self, user: str, role: str) -> None:
        self._grant(f"/domains/{DOMAIN}", user, role)

    def grant_in_system(self, user: str, role: str) -> None:
        self._grant("/system", user, role)

    def _grant(self, where: str, user: str, role: str) -> None:
        self._api.put(f"{where}/users/{self.get_id('user', user)}/roles/{self.get_id('role', role)}")

    def create_application_credential(self, user: str, project: str, rules: list[dict[str, str]]) -> dict[str, Any]:
        """Return the credential, its secret included, of a user who may do no more than the rules say."""
        own = session.Session(auth=self.login(user, project_name=project, project_domain_id=DOMAIN))
        return own.post(f"{self.url}/users/{self.get_id('user', user)}/application_credentials", json={
            "application_credential": {"name": "rules", "access_rules": rules}}).json()["application_credential"]

    def register(self, service_type: str, name: str, url: str) -> None:
        """Put a service into the catalogue, where clients look for it."""
        service = self._api.post("/services", json={"service": {"type": service_type, "name": name}}).json()["service"]
        self._api.post("/endpoints", json={"endpoint": {
            "interface": "public", "url": url, "region_id": "R1", "service_id": service["id"]}})
