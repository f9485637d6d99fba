"""The specification of the API (gabbits/*.yaml) on other back ends than SQLite and files."""

import atexit
import contextlib
import functools
import itertools
import os
import pathlib
import shutil
import tempfile
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gabbi import driver

from gnocchi.tests.ceph import Ceph, Gateway, need_rados, serve_ceph
from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.databases import DatabaseServer, MariadbServer, PostgresqlServer
from gnocchi.tests.functional import fixtures
from gnocchi.tests.swift import PYTHON, Swift, serve_swift

DIRECTORY = pathlib.Path(__file__).parent / "gabbits"

#: About workers, which are not listed where a database coordinates.
WORKERS = "status-workers"

Options = dict[str, dict[str, object]]

_USES = itertools.count()

#: Servers, which run until the test process ends.
_SERVERS = contextlib.ExitStack()
atexit.register(_SERVERS.close)


@functools.cache
def _start(name: str) -> Any:
    def serve_database(server: DatabaseServer) -> Iterator[DatabaseServer]:
        try:
            server.start()
            yield server
        finally:
            server.stop()

    serving: dict[str, Callable[[], Iterator[Any]]] = {
        "postgresql": lambda: serve_database(PostgresqlServer()), "mariadb": lambda: serve_database(MariadbServer()),
        "redis": lambda: serve(lambda: make_redis(durable=True)), "ceph": serve_ceph,
        "swift": serve_swift, "s3": lambda: serve_gateway(_start("ceph"))}
    return _SERVERS.enter_context(contextlib.contextmanager(serving[name])())


def serve_gateway(ceph: Ceph) -> Iterator[Gateway]:
    server = Gateway(ceph)
    try:
        server.create_users()
        server.start()
        yield server
    finally:
        server.remove()


# What a fresh service needs of each, at the begin of every file

def use_database(name: str) -> Options:
    return {"indexer": {"url": _start(name).create_database()}}


def use_redis() -> Options:
    """Locks and measures in a database of Redis that nothing was in."""
    server = _start("redis")
    number = next(_USES) % 16
    import redis

    with contextlib.closing(redis.Redis(port=server.port, db=number)) as client:
        client.flushdb()
    return {"incoming": {"driver": "redis", "redis_url": f"redis://127.0.0.1:{server.port}?db={number}"}}


def use_ceph() -> Options:
    """Everything in a pool of its own."""
    cluster: Ceph = _start("ceph")
    return {"storage": {"driver": "ceph", "ceph_pool": cluster.create_pool(),
                        "ceph_conffile": cluster.client_config}}


def use_s3() -> Options:
    """Everything in buckets of its own."""
    server: Gateway = _start("s3")
    return {"storage": {"driver": "s3", **server.options, "s3_bucket_prefix": f"g{next(_USES)}"}}


def use_swift() -> Options:
    """Everything in containers of its own."""
    server: Swift = _start("swift")
    return {"storage": {"driver": "swift", **server.options, "swift_container_prefix": f"g{next(_USES)}",
                        "swift_container_prefix_all": True}}


def need_installed(*names: str) -> None:
    """To be called by a test module: skip all of it where something is missing, unless nothing may be."""
    if "Ceph" in names:
        try:
            need_rados()
        except pytest.skip.Exception as e:
            pytest.skip(str(e), allow_module_level=True)
    if os.environ.get("GNOCCHI_TEST_REQUIRE_BACKENDS"):
        return
    missing = [name for name, found in (
        ("PostgreSQL", any(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres")) or shutil.which("postgres")),
        ("MariaDB", shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin")),
        ("Redis", shutil.which("redis-server")),
        ("Ceph", shutil.which("ceph-osd")),
        ("Ceph's gateway", shutil.which("ceph-osd") and shutil.which("radosgw")),
        ("Swift", shutil.which(PYTHON)),
    ) if name in names and not found]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed", allow_module_level=True)


def generate(metafunc: pytest.Metafunc, name: str, *parts: Callable[[], Options], workers: bool = False) -> None:
    """Make the tests of a module, each YAML file with a service on fresh back ends.

    parts : each returns options; later ones are added to those of earlier ones
    workers : workers are listed
    """

    class Service(fixtures.BasicService):
        def start_fixture(self) -> None:
            self.options = {}
            for part in parts:
                for section, values in part().items():
                    self.options.setdefault(section, {}).update(values)
            super().start_fixture()

    # Kept while tests run: they read bodies from it.
    chosen = tempfile.mkdtemp(prefix="g-gabbits-")
    atexit.register(shutil.rmtree, chosen, ignore_errors=True)
    for file in DIRECTORY.iterdir():
        if workers or file.stem != WORKERS:
            (pathlib.Path(chosen) / file.name).symlink_to(file)
    driver.py_test_generator(chosen, host="127.0.0.1", port=fixtures.PORT, prefix=fixtures.PREFIX,
                             test_loader_name=name, metafunc=metafunc, cert_validate=False,
                             fixture_module=types.SimpleNamespace(BasicService=Service))
