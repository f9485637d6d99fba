"""`gnocchi-api`: the REST API, served by Granian.

The master starts and minds worker processes, which share what it has loaded.  SIGHUP replaces them, one after the
other, by such that read the configuration anew, so that changes come into effect.
"""

import contextlib
import ctypes
import gc
import http.client
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

# Read by Granian's allocator (jemalloc) when it is loaded.  By itself it keeps the memory of large bodies, 15 MB in
# a worker, for 10 seconds and then until enough else is asked of it.  0 instead of 200 ms costs large
# requests 12 to 35 %.
os.environ.setdefault("_RJEM_MALLOC_CONF", "narenas:1,dirty_decay_ms:200,muzzy_decay_ms:0")

import granian  # noqa: E402
from granian.constants import Interfaces  # noqa: E402
from granian.log import LogLevels  # noqa: E402
from oslo_config import cfg  # noqa: E402

from gnocchi import backends, opts, service  # noqa: E402
from gnocchi.cli import command  # noqa: E402
from gnocchi.common import allocators  # noqa: E402
from gnocchi.exceptions import GnocchiError  # noqa: E402
from gnocchi.rest import app  # noqa: E402

LOG = logging.getLogger(__name__)

#: More processes than this pay only where somebody measured them: each has its own caches and connections.
WORKERS_MAX = 4

#: Connections that wait to be accepted.
BACKLOG = 1024

#: Connections that one process keeps open, idle ones too; others wait to be accepted.
CONNECTIONS_MAX = 4096

#: Files that are worth asking for.
FILES_MAX = 1 << 16

#: Threads of one process: one for each request, so that clients that are slow to send a body keep nobody from work.
#: How many of them work at once is [api] threads (gnocchi.rest.turns).
THREADS_MAX = 512

#: Seconds that requests under way get at a stop.  A connection that comes in just then would be served for as long as
#: its client likes.
GRACE_S = 20

#: Seconds between the start of a worker's successor and its own end, at a reload.
RELOAD_OVERLAP_S = 1.0

#: Pause before a worker that lived less than this is replaced, so that one that cannot live costs little; seconds.
RESPAWN_PAUSE_S = 1.0

#: How long a worker looks for its own first answer, and how often, in seconds.
READY_TIMEOUT_S = 60.0
READY_POLL_S = 0.02

PR_SET_PDEATHSIG = 1

CLI_OPTS = [
    cfg.HostAddressOpt("host", help="Address to listen on, in place of [api] host."),
    cfg.PortOpt("port", help="Port to listen on, in place of [api] port."),
    cfg.StrOpt("uwsgi-mode", choices=["http", "http-socket", "socket"],
               help="Accepted for compatibility, without effect: HTTP is served directly."),
]


class CannotListen(GnocchiError):
    """The address is taken or is not ours."""


class Server(granian.Granian):  # type: ignore[misc, valid-type]
    """Granian that replaces ended workers as long as it takes.

    By itself it gives up, and stops the others too, when a worker ends within seconds of its predecessor.
    """

    def _reload(self, spawn_target: Callable, target_loader: Any) -> None:
        try:
            target_loader.reload()
        except (cfg.Error, GnocchiError) as e:
            # New workers could not start, for as long as the files are wrong; the present ones can serve.
            LOG.error("Nothing is changed, because the configuration is wrong: %s", e)
            self.reload_signal = False
            return
        super()._reload(spawn_target, target_loader)

    def _serve_loop(self, spawn_target: Callable, target_loader: Callable) -> None:
        started: dict[int, float] = {}
        while not self.interrupt_signal:
            self.main_loop_interrupt.wait()
            self.main_loop_interrupt.clear()    # first, so that nothing that happens from here on is missed
            while self.interrupt_children and not self.interrupt_signal:
                number = self.interrupt_children.pop()
                LOG.error("Worker %d has ended unexpectedly: starting another", number + 1)
                if time.monotonic() - started.get(number, -RESPAWN_PAUSE_S) < RESPAWN_PAUSE_S:
                    time.sleep(RESPAWN_PAUSE_S)
                started[number] = time.monotonic()
                self._respawn_workers([number], spawn_target, target_loader)
            if self.reload_signal and not self.interrupt_signal:
                self._reload(spawn_target, target_loader)
                self.main_loop_interrupt.set()    # it clears this at its beginning, whatever happened


@command
def api() -> int:
    argv = sys.argv[1:]
    opts.set_defaults()
    conf = service.prepare_service(argv := [word for word in argv if word != "--"], cli_opts=CLI_OPTS)
    if len(argv) < len(sys.argv) - 1:
        LOG.warning("`--' is not needed and was dropped")
    if conf.uwsgi_mode:
        LOG.warning("--uwsgi-mode has no effect: gnocchi-api serves HTTP by itself")
    serve(conf, argv)
    return 0


def serve(conf: cfg.ConfigOpts, argv: Sequence[str]) -> None:
    """Serve until a signal ends it.  Raises CannotListen."""
    port = conf.port or conf.api.port
    host = find_address(conf.host or conf.api.host, port)
    server = Server(
        "gnocchi.wsgi.api:application", address=host, port=port, interface=Interfaces.WSGI,
        workers=conf.api.workers or min(len(os.sched_getaffinity(0)), WORKERS_MAX), blocking_threads=THREADS_MAX,
        backlog=BACKLOG, backpressure=min(CONNECTIONS_MAX, raise_files_limit() // 2),
        log_level=LogLevels.error, respawn_failed_workers=True, respawn_interval=RELOAD_OVERLAP_S,
        workers_kill_timeout=GRACE_S, process_name=f"gnocchi-api: {host}:{port}")
    allocators.limit_arenas()
    backends.preload(conf)
    loader = Loader(tuple(argv), host, port, app.load_app(conf))
    LOG.info("Listening on %s port %d", host, port)
    # What exists now is shared by all workers until somebody writes to it; the collector would.
    gc.collect()
    gc.freeze()
    server.serve(target_loader=loader, wrap_loader=False)


def raise_files_limit() -> int:
    """Let this process and its children open as many files as they may, and return the number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and (hard == resource.RLIM_INFINITY or soft < hard):
        soft = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, max(soft, FILES_MAX))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return FILES_MAX if soft == resource.RLIM_INFINITY else soft


def find_address(host: str, port: int) -> str:
    """Return the IP address of a host name after checking that its port is free.

    Workers share the port in a way that would also let a second gnocchi-api share it unnoticed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as e:
        raise CannotListen(f"Cannot listen on {host} port {port}: {e.strerror}") from e
    return str(address[0])


class Loader:
    """Returns the application, in each worker when it starts.

    Parameters
    ----------
    application : WSGI application, optional
        The master's, none of whose back ends is open; None: each worker reads the configuration and makes its own.
    """

    def __init__(self, argv: Sequence[str], host: str, port: int, application: app.Application | None) -> None:
        self.application = application
        self._argv, self._host, self._port = argv, host, port

    def __call__(self) -> Callable:
        end_with_master()
        started = time.monotonic()
        application = self.application or self._load()
        allocators.collect_seldom()
        threading.Thread(target=tell_ready, args=(self._host, self._port, started), name="ready", daemon=True).start()
        # Which logs what is away.
        threading.Thread(target=application.services.health.check, name="first health check", daemon=True).start()
        trimmer = allocators.Trimmer()

        def serve_and_trim(environ, start_response):
            try:
                return application(environ, start_response)
            finally:
                trimmer.wake()

        return serve_and_trim

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are not forked, as from Python 3.14 on, share nothing.
        return self.__dict__ | {"application": None}

    def reload(self) -> None:
        """Have later workers make an application of what the configuration files say.

        Raises
        ------
        oslo_config.cfg.Error, InvalidConfiguration
            They say what no worker could use; nothing is changed.
        """
        self._load()
        self.application = None

    def _load(self) -> app.Application:
        opts.set_defaults()
        return app.load_app(service.prepare_service(self._argv, cli_opts=CLI_OPTS))


def end_with_master() -> None:
    """Let this worker die with its master: an orphan would go on serving and keep the port from the next master."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # Until the server sets its own: the master's handlers, inherited, would swallow a stop.
        signal.signal(number, signal.SIG_DFL)
    if sys.platform == "linux":
        # Not SIGTERM: what is sent again and again until it is heeded can lock Granian up, and once may be too early.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    master = multiprocessing.parent_process()
    if master is not None and master.pid != os.getppid():
        os._exit(1)    # it died before it could be watched


def tell_ready(host: str, port: int, started: float) -> None:
    """Print the line of uWSGI that test tools wait for (contract, client-traffic 9), once a request is answered."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    while time.monotonic() < started + READY_TIMEOUT_S:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(target, port, timeout=5)
            try:
                connection.request("GET", "/", headers={"Connection": "close"})
                connection.getresponse()
            finally:
                connection.close()
            print(f"WSGI app 0 (mountpoint='') ready in {time.monotonic() - started:.0f} seconds (pid {os.getpid()})",
                  file=sys.stderr, flush=True)
            return
        time.sleep(READY_POLL_S)


def wsgi() -> Callable:
    """Return the WSGI application, for servers that want a factory."""
    from gnocchi.wsgi.api import application
    return application
