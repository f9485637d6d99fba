"""A real Swift for tests, started once per test process."""

import contextlib
import os
import pathlib
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from gnocchi.tests import swift_server
from gnocchi.tests.coordination import Server, make_memcached
from gnocchi.tests.databases import _fast_directory, find_free_port, need

#: Swift's own virtualenv, which `make swift` makes inside ours.
PYTHON = os.environ.get("GNOCCHI_TEST_SWIFT_PYTHON", os.path.join(sys.prefix, "swift", "bin", "python"))


class Swift(Server):
    """Swift in a process of its own, with the memcached that holds its tokens; may be killed and started again.

    without : names of middlewares that it shall not have, joined by commas
    """

    def __init__(self, without: str = "") -> None:
        python = need(shutil.which(PYTHON), "Swift (make swift)")
        self._memcached = make_memcached()
        self._data = pathlib.Path(tempfile.mkdtemp(prefix="g-swift-", dir=_fast_directory()))
        ports = ",".join(str(find_free_port()) for _ in range(3))
        super().__init__(lambda port, _: [
            # Without the script's directory on its path, where other files have names of modules.
            "env", f"SWIFT_WITHOUT={without}", python, "-P", swift_server.__file__, str(self._data / "s"), str(port),
            ports, str(self._memcached.port)], _answers)

    @property
    def options(self) -> dict[str, str]:
        """What [storage] has to say."""
        return {"swift_authurl": f"http://127.0.0.1:{self.port}/auth/v1.0", "swift_user": swift_server.USER,
                "swift_key": swift_server.KEY}

    @property
    def arguments(self) -> dict[str, str]:
        """The same, as arguments of a driver."""
        return {name.removeprefix("swift_"): value for name, value in self.options.items()}

    def start(self) -> None:
        if self._memcached._process is None:
            self._memcached.start()
        super().start()

    def remove(self) -> None:
        super().remove()
        self._memcached.remove()
        shutil.rmtree(self._data, ignore_errors=True)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError, urllib.error.URLError), \
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthcheck", timeout=5) as answer:
        return answer.status == 200
    return False


def serve_swift(without: str = "") -> Iterator[Swift]:
    server = Swift(without)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def swift() -> Iterator[Swift]:
    """A Swift that tests share; who kills it starts it again."""
    yield from serve_swift()
