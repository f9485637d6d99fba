"""`gnocchi-standalone`: all of Gnocchi on one machine by one command, with SQLite and files.

Writes a configuration file into the data directory, upgrades, and starts `gnocchi-api` and
`gnocchi-metricd` as children; when one of them ends, so does the whole.
"""

import ctypes
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from oslo_config import cfg

from gnocchi import service
from gnocchi.cli import command
from gnocchi.cli.api import api, find_address
from gnocchi.cli.manage import upgrade_all
from gnocchi.cli.metricd import metricd
from gnocchi.exceptions import InvalidConfiguration

LOG = logging.getLogger(__name__)

#: Sacks of a new data directory: plenty for the workers of one machine.
SACKS = 16

#: Seconds that children get to finish what they are doing.
GRACE_S = 60.0

PR_SET_PDEATHSIG = 1

#: The children, by the name they show.
COMMANDS = {"gnocchi-metricd": metricd, "gnocchi-api": api}

CONFIG = """\
# Written by gnocchi-standalone at each start; put changes into a file of your own and name that
# with --config-file.
[indexer]
url = sqlite:///{data_dir}/gnocchi.db

[storage]
driver = file
file_basepath = {data_dir}

[metricd]
metric_processing_delay = 5
"""


def default_data_dir() -> str:
    """Return `gnocchi` in the user's data directory (freedesktop.org's basedir specification)."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(base, "gnocchi")


CLI_OPTS = [
    cfg.StrOpt("data-dir", default=default_data_dir(), sample_default="~/.local/share/gnocchi",
               help="Directory of everything that is stored; made if it does not exist."),
    cfg.HostAddressOpt("host", help="Address to listen on, in place of [api] host."),
    cfg.PortOpt("port", help="Port to listen on, in place of [api] port."),
]


@command
def standalone() -> int:
    # Twice: the options say where the file goes that makes the rest of the configuration.
    arguments = cfg.ConfigOpts()
    arguments.register_cli_opts([*CLI_OPTS, *service.opts.LOGGING_OPTS])
    arguments(service.spell_options(sys.argv[1:]), project="gnocchi", version=service.get_version(),
              default_config_files=[], default_config_dirs=[])
    data_dir = os.path.abspath(arguments.data_dir)
    make_data_dir(data_dir)
    files = [write_config(data_dir), *arguments.config_file]
    argv = [word for path in files for word in ("--config-file", os.path.abspath(path))]
    argv += [word for path in arguments.config_dir or () for word in ("--config-dir", os.path.abspath(path))]
    argv += ["--debug"] * arguments.debug + ["--noverbose"] * (not arguments.verbose)
    conf = service.prepare_service(argv)
    host, port = arguments.host or conf.api.host, arguments.port or conf.api.port
    find_address(host, port)
    upgrade_all(conf, SACKS)
    LOG.info("Gnocchi will be at http://%s:%d, with its data in %s%s",
             "localhost" if host in ("0.0.0.0", "::") else host, port, data_dir,
             "; user `admin', no password" if conf.api.auth_mode == "basic" else "")
    return Supervisor({"gnocchi-metricd": argv,
                       "gnocchi-api": [*argv, "--host", str(host), "--port", str(port)]}).run()


def make_data_dir(path: str) -> None:
    """Make the data directory and check that files can be made in it.  Raises InvalidConfiguration."""
    if not path.isprintable() or "?" in path or "$" in path:    # which configuration files and URLs read otherwise
        raise InvalidConfiguration(f"The data directory {path!r} must not have `?', `$' or control characters in it")
    try:
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as e:
        raise InvalidConfiguration(f"Cannot write to the data directory {path}: {e.strerror}") from e


def write_config(data_dir: str) -> str:
    """Write the configuration for a data directory into it; return the file's path."""
    path = os.path.join(data_dir, "gnocchi.conf")
    text = CONFIG.format(data_dir=data_dir)
    try:
        with tempfile.NamedTemporaryFile("w", dir=data_dir, delete=False) as file:
            file.write(text)
        os.replace(file.name, path)
    except OSError as e:
        raise InvalidConfiguration(f"Cannot write {path}: {e.strerror}") from e
    return path


class Supervisor:
    """Starts the children, passes a stop on to them, and stops the others when one ends.

    Parameters
    ----------
    argv : Mapping of a child's name to its command line
    """

    def __init__(self, argv: Mapping[str, Sequence[str]]) -> None:
        # Forked, not executed anew: all of them share the libraries, and start in no time.
        fork = multiprocessing.get_context("fork")
        self._children = [fork.Process(name=name, target=run_child, args=(name, COMMANDS[name], words))
                          for name, words in argv.items()]
        self._stopping = False

    def run(self) -> int:
        """Return the exit code: 0 after a signal, 1 when a child ended by itself."""
        for child in self._children:
            child.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        ended = multiprocessing.connection.wait([child.sentinel for child in self._children])
        code = 0
        if not self._stopping:
            code = 1
            for child in self._children:
                if child.sentinel in ended:
                    child.join(GRACE_S)     # its files are closed a moment before its status can be had
                    LOG.error("%s ended with status %s: stopping", child.name, child.exitcode)
        self._terminate()
        return code

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for child in self._children:
            child.terminate()

    def _terminate(self) -> None:
        deadline = time.monotonic() + GRACE_S
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.join(max(0.0, deadline - time.monotonic()))
            if child.exitcode is None:
                LOG.error("%s does not end: killing it", child.name)
                child.kill()
                child.join()


def run_child(name: str, main: Callable[[], int], argv: Sequence[str]) -> None:
    """Be one of our commands, in a group of its own and for no longer than the supervisor lives."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    os.setpgid(0, 0)    # Ctrl-C is for the supervisor, which stops its children in order.
    sys.argv = [name, *argv]
    sys.exit(main())
