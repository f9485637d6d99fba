"""A fleet: several metricd and API processes as on several hosts, on servers of which each can go away."""

import contextlib
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence

from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.tests.coordination import Server, make_redis, serve
from gnocchi.tests.crash.service import Client, await_until
from gnocchi.tests.databases import PostgresqlServer, find_free_port
from gnocchi.tests.faulty import FaultyProxy, faulty
from gnocchi.tests.functional.daemons import Daemon, Deployment
from gnocchi.tests.hosts import Host

METRICDS, APIS = 3, 2

LOCAL = "127.0.0.1"

Options = dict[str, object]

#: Seconds after which Redis forgets a member or a lock that shows no sign of life.
LEASE_S = 5

#: Seconds that Redis may take to answer.
ANSWER_S = 2


class Part:
    """A server that the fleet needs, behind a proxy."""

    def __init__(self, server: Server | PostgresqlServer, proxy: FaultyProxy) -> None:
        self.server = server
        self.proxy = proxy

    def make_url(self, host: str) -> str:
        """Return where Redis is reached."""
        return f"redis://{host}:{self.proxy.port}?socket_timeout={ANSWER_S}"

    def start_again(self) -> None:
        getattr(self.server, "start_again", self.server.start)()


@contextlib.contextmanager
def make_parts() -> Iterator[dict[str, Part]]:
    """Start the servers: index, incoming, storage and coordination."""
    with contextlib.ExitStack() as started:
        postgresql = PostgresqlServer(durable=True)
        started.callback(postgresql.stop)
        postgresql.start()
        servers: dict[str, Server | PostgresqlServer] = {"index": postgresql}
        for name in ("incoming", "storage", "coordination"):
            servers[name] = started.enter_context(
                contextlib.contextmanager(serve)(lambda name=name: make_redis(durable=name != "coordination")))
        yield {name: Part(server, started.enter_context(faulty(server.port))) for name, server in servers.items()}


class Fleet(Deployment):
    """The daemons, all on one configuration.

    Parameters
    ----------
    make_storage : callable
        Returns {option: value} of [storage], given the host where servers are reached.
    hosts : list of Host
        One for each metricd, of which the first ones have an API, too; or none: then all is on this one.
    """

    def __init__(self, directory: pathlib.Path, parts: dict[str, Part], make_storage: Callable[[str], Options],
                 hosts: Sequence[Host] = ()) -> None:
        super().__init__(directory)
        self.hosts = hosts
        servers = hosts[0].server_address if hosts else LOCAL
        index = parts["index"]
        assert isinstance(index.server, PostgresqlServer)
        url = index.server.create_database()
        #: Not through the proxy.
        self.indexer = Indexer(url)
        self.addresses = [f"{hosts[number].address if hosts else LOCAL}:{find_free_port()}" for number in range(APIS)]
        self.configure({
            "DEFAULT": {"coordination_url": f"redis://{servers}:{parts['coordination'].proxy.port}?timeout={LEASE_S}"},
            "indexer": {"url": url.replace(f"{LOCAL}:{index.server.port}/", f"{servers}:{index.proxy.port}/")},
            "storage": make_storage(servers),
            "incoming": {"driver": "redis", "redis_url": parts["incoming"].make_url(servers)},
            "metricd": {"workers": 2, "metric_cleanup_delay": 1}})
        self.upgrade("--sacks-number", "8")
        self.metricds: list[Daemon] = []
        self.apis: list[Daemon] = []

    def start_all(self) -> None:
        self.metricds += [self.start("gnocchi-metricd", prefix=self._find_prefix(number)) for number in range(METRICDS)]
        self.apis += [self._start_api(number) for number in range(APIS)]
        for number in range(APIS):
            self.await_api(number)

    def _find_prefix(self, number: int) -> list[str]:
        return self.hosts[number].prefix if self.hosts else []

    def _start_api(self, number: int) -> Daemon:
        host, port = self.addresses[number].split(":")
        return self.start("gnocchi-api", "--host", host, "--port", port, prefix=self._find_prefix(number))

    def await_api(self, number: int) -> None:
        self.apis[number].wait_for("ready in")

    def restart_api(self, number: int) -> None:
        """Kill an API with all its processes, and start it again."""
        self.apis[number].remove()
        self.apis[number] = self._start_api(number)
        self.await_api(number)

    def find_workers(self, number: int) -> list[int]:
        """Return the processing workers of a metricd."""
        found: list[int] = []

        def find() -> list[int]:
            found[:] = [pid for title, pid in self.metricds[number].children().items()
                        if re.search(r"processing worker\(", title)]
            return found

        await_until(find, lambda: f"no workers:\n{self.metricds[number].output}")
        return found

    def count_commits(self) -> int:
        return sum(sack.sequence for sack in self.indexer.list_sacks())

    def await_aggregation(self) -> None:
        client = Client(self.addresses[0])
        await_until(lambda: client.count_backlog() == 0, self.read_logs)

    def read_logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}"
                         for path in sorted(self.directory.glob("gnocchi-*.log")))

    def list_tracebacks(self) -> list[str]:
        """Return what any daemon, ended or not, logged with a traceback: nothing that happens deserves one."""
        return [text[:5000] for daemon in self._daemons
                for text in re.findall(r"^.*\n+Traceback(?:\n?.*){1,60}", daemon.output, re.MULTILINE)]

    def remove(self) -> None:
        super().remove()
        self.indexer.close()

