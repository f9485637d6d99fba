"""Real database servers for tests: started once per test process, empty databases within milliseconds.

A server that is not installed skips its tests, or fails them when GNOCCHI_TEST_REQUIRE_BACKENDS is set.
"""

import contextlib
import ctypes
import os
import pathlib
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest.mock
import uuid
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from gnocchi.indexer import migration
from gnocchi.indexer.prepared import PreparedSelect, PreparedWrite
from gnocchi.indexer.sqlalchemy import Indexer

#: For whatever has to happen at some time, on a machine that is slow and does other things too.
DEADLINE_S = 120
START_TIMEOUT_S = DEADLINE_S
DATABASES = ("sqlite", "postgresql", "mariadb")

#: Loaded before any fork: a child may not be able to.
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """To be run in a child: a test process that is killed leaves no server behind."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def find_free_port(kind: int = socket.SOCK_STREAM) -> int:
    """Return a free port that the system gives to no client.

    Else it may be taken before a server gets to it; and a client that tries a dead server's port again and again
    may get that as its own, connect to itself, and keep the server from starting.
    """
    first, last = map(int, pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    while True:
        port = 10_000 + secrets.randbelow(50_000)    # which no seed of a test makes the same in two processes
        with socket.socket(type=kind) as probe, contextlib.suppress(OSError):
            if not first <= port <= last:
                probe.bind(("127.0.0.1", port))
                return port


def need(program: str | None, package: str) -> str:
    """Return the path of a program, or skip (or fail, see above)."""
    if program:
        return program
    text = f"{package} is not installed"
    if os.environ.get("GNOCCHI_TEST_REQUIRE_BACKENDS"):
        pytest.fail(text)
    pytest.skip(text)


class DatabaseServer:
    """A server process in a directory of its own, which is deleted with it.

    memory_mb : of its cache
    """

    name = ""

    def __init__(self, memory_mb: int = 32) -> None:
        self._memory_mb = memory_mb
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"g-{self.name}-", dir=_fast_directory()))
        self.port = find_free_port()
        self._process: subprocess.Popen | None = None
        self._command: tuple[tuple[str, ...], str | None] = (), None
        self._template: str | None = None

    def start(self) -> None:
        raise NotImplementedError

    def url(self, database: str) -> str:
        raise NotImplementedError

    def create_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"t{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def copy_template(self) -> str:
        """Make a database with the schema of this release and return its URL."""
        raise NotImplementedError

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE {sa.make_url(url).database}")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make_template(self) -> str:
        if self._template is None:
            url = self.create_database()
            with contextlib.closing(Indexer(url)) as indexer:
                migration.upgrade(indexer)
            self._template = url
        return self._template

    def _execute(self, *statements: str) -> None:
        engine = sa.create_engine(self._admin_url(), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def _admin_url(self) -> str:
        raise NotImplementedError

    def _run(self, *arguments: str, user: str | None = None) -> None:
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, user=user,
                              timeout=START_TIMEOUT_S, check=False)
        assert done.returncode == 0, f"{arguments[0]}:\n{done.stdout}"

    def kill(self) -> None:
        """Kill it as it stands; `start_again` starts it on the same data."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def start_again(self) -> None:
        arguments, user = self._command
        self._spawn(*arguments, user=user)

    def _spawn(self, *arguments: str, user: str | None = None) -> None:
        self._command = arguments, user
        with (self.directory / "log").open("wb") as log:
            self._process = subprocess.Popen(arguments, stdout=log, stderr=log, user=user, process_group=0,
                                             preexec_fn=die_with_parent)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._execute("SELECT 1")
                return
            except sa.exc.OperationalError:
                text = (self.directory / "log").read_text(errors="replace")
                assert self._process.poll() is None, f"{self.name} ended:\n{text}"
                assert time.monotonic() < deadline, f"{self.name} did not start:\n{text}"
            time.sleep(0.02)


def _fast_directory() -> str | None:
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class PostgresqlServer(DatabaseServer):
    """durable : bool; what is committed survives `kill`"""

    name = "postgresql"

    def __init__(self, memory_mb: int = 32, *, durable: bool = False) -> None:
        super().__init__(memory_mb)
        self._durable = durable

    def start(self) -> None:
        programs = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres"),
                          key=lambda path: int(path.parts[-3]))
        binaries = pathlib.Path(need(str(programs[-1]) if programs else shutil.which("postgres"), "PostgreSQL")).parent
        user = None
        if os.getuid() == 0:        # which the server refuses to be
            user = "postgres"
            os.chown(self.directory, pwd.getpwnam(user).pw_uid, -1)
        data = str(self.directory / "d")
        self._run(str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8",
                  "--no-locale", user=user)
        settings = {"listen_addresses": "127.0.0.1", "fsync": "off",
                    "synchronous_commit": "on" if self._durable else "off", "full_page_writes": "off",
                    "shared_buffers": f"{self._memory_mb}MB", "max_connections": "100"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self._spawn(str(binaries / "postgres"), "-D", data, "-p", str(self.port), "-k", str(self.directory), *options,
                    user=user)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _admin_url(self) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def copy_template(self) -> str:
        name = f"t{uuid.uuid4().hex}"
        self._execute(f"CREATE DATABASE {name} TEMPLATE {sa.make_url(self._make_template()).database}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self._execute(f"DROP DATABASE {sa.make_url(url).database} WITH (FORCE)")


class MariadbServer(DatabaseServer):
    name = "mariadb"

    def start(self) -> None:
        server = need(shutil.which("mariadbd", path=os.environ["PATH"] + ":/usr/sbin"), "MariaDB")
        data = str(self.directory / "d")
        user = ["--user=root"] if os.getuid() == 0 else []
        self._run(need(shutil.which("mariadb-install-db"), "MariaDB"), "--no-defaults", *user, f"--datadir={data}",
                  "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
        self._spawn(server, "--no-defaults", *user, f"--datadir={data}", f"--socket={self.directory}/s",
                    f"--pid-file={self.directory}/pid", "--bind-address=127.0.0.1", f"--port={self.port}",
                    "--skip-name-resolve", "--character-set-server=utf8mb4", "--innodb-flush-log-at-trx-commit=0",
                    f"--innodb-buffer-pool-size={self._memory_mb}M", "--innodb-log-file-size=8M",
                    "--innodb-doublewrite=0", "--innodb-file-per-table=0", "--skip-log-bin",
                    "--performance-schema=OFF", "--max-connections=150")

    def url(self, database: str) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def _admin_url(self) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/mysql"

    def copy_template(self) -> str:
        """MariaDB knows no templates: the tables are made anew, without alembic's work around them."""
        engine = sa.create_engine(self._make_template(), poolclass=sa.NullPool)
        url = self.create_database()
        template, database = engine.url.database, sa.make_url(url).database
        statements = ["SET foreign_key_checks = 0"]
        with engine.connect() as connection:
            for table in sa.inspect(connection).get_table_names():
                create = connection.exec_driver_sql(f"SHOW CREATE TABLE {table}").one()[1]
                statements.append(create.replace("CREATE TABLE ", f"CREATE TABLE {database}.", 1).replace("%", "%%"))
                statements.append(f"INSERT INTO {database}.{table} SELECT * FROM {template}.{table}")
        self._execute(f"USE {database}", *statements)
        return url


def _serve(server: DatabaseServer) -> Iterator[DatabaseServer]:
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[DatabaseServer]:
    yield from _serve(PostgresqlServer())


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[DatabaseServer]:
    yield from _serve(MariadbServer())


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    with contextlib.closing(Indexer(f"sqlite:///{path}")) as indexer:
        migration.upgrade(indexer)
        with indexer.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(scope="session")
def make_index(_sqlite_template: pathlib.Path) -> Callable[[pathlib.Path, int], Indexer]:
    """Return a function that makes an index with so many sacks in a file of SQLite, which it copies."""
    def make(path: pathlib.Path, sacks: int) -> Indexer:
        shutil.copy(_sqlite_template, path)
        indexer = Indexer(f"sqlite:///{path}")
        indexer.create_sacks(sacks)
        return indexer

    return make


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest) -> str:
    """Name of the kind of database; asking for it runs a test once on each."""
    return request.param


def _fresh(request: pytest.FixtureRequest, database: str, make: Callable[[DatabaseServer], str]) -> Iterator[str]:
    server = request.getfixturevalue(f"{database}_server")
    url = make(server)
    yield url
    server.drop(url)


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, database: str, tmp_path: pathlib.Path) -> Iterator[str]:
    """URL of a database without tables."""
    if database == "sqlite":
        yield f"sqlite:///{tmp_path}/empty.db"
    else:
        yield from _fresh(request, database, lambda server: server.create_database())


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database: str, tmp_path: pathlib.Path) -> Iterator[str]:
    """URL of a fresh database with the schema of this release."""
    if database == "sqlite":
        path = tmp_path / "index.db"
        shutil.copy(request.getfixturevalue("_sqlite_template"), path)
        yield f"sqlite:///{path}"
    else:
        yield from _fresh(request, database, lambda server: server.copy_template())


@pytest.fixture
def indexer(database_url: str) -> Iterator[Indexer]:
    """An index on a fresh database; the test runs on each kind of database."""
    with contextlib.closing(Indexer(database_url)) as made:
        yield made


class StatementCounter:
    """The SQL statements that an index runs inside a `with` block; one executemany counts once."""

    def __init__(self, indexer: Indexer) -> None:
        self.statements: list[str] = []
        self._engine = indexer.engine
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> "StatementCounter":
        sa.event.listen(self._engine, "before_cursor_execute", self._note)
        self._restore.callback(sa.event.remove, self._engine, "before_cursor_execute", self._note)
        for prepared, name in ((PreparedSelect, "execute"), (PreparedSelect, "fetch_within"),
                               (PreparedWrite, "execute")):
            self._restore.enter_context(
                unittest.mock.patch.object(prepared, name, self._noting(getattr(prepared, name))))
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore.close()

    def _noting(self, execute: Callable) -> Callable:
        """Return what notes a statement that the driver executes itself, and executes it."""

        def note(prepared, connection, *arguments):
            dialect = getattr(connection, "dialect", None) or arguments[0]
            if dialect is self._engine.dialect:
                self.statements.append(str(prepared.statement))
            return execute(prepared, connection, *arguments)

        return note

    def _note(self, connection, cursor, statement, parameters, context, executemany) -> None:
        self.statements.append(statement)

    @property
    def count(self) -> int:
        return len(self.statements)
