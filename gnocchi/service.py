"""Start-up of every program: configuration from files, environment and command line, then logging."""

import importlib.metadata
import logging
import logging.handlers
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from gnocchi import opts
from gnocchi.exceptions import InvalidConfiguration

LOG = logging.getLogger(__name__)

LOG_FORMAT = "%(asctime)s [%(process)d] %(levelname)-8s %(name)s: %(message)s"

#: Where journald takes messages, and the priority of each level in its scale (syslog's).
JOURNAL_SOCKET = "/run/systemd/journal/socket"
JOURNAL_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def prepare_service(argv: Sequence[str] | None = None, *, conf: cfg.ConfigOpts | None = None,
                    cli_opts: Sequence[cfg.Opt] = (), log_to_stderr: bool = False,
                    **config: Any) -> cfg.ConfigOpts:
    """Return the configuration of this program, with logging set up.

    Parameters and errors are those of `read_configuration`, and

    log_to_stderr : bool
        Log to standard error even when a log file is set.
    """
    conf = read_configuration(argv, conf=conf, cli_opts=cli_opts, **config)
    set_up_logging(conf, log_to_stderr)
    for unknown in opts.list_unknown(conf):
        LOG.warning("There is no such option: %s", unknown)
    return conf


def read_configuration(argv: Sequence[str] | None = None, *, conf: cfg.ConfigOpts | None = None,
                       cli_opts: Sequence[cfg.Opt] = (), **config: Any) -> cfg.ConfigOpts:
    """Return the configuration of this program, all of whose values are right.

    Parameters
    ----------
    argv : sequence of str, optional
        Command line without the program's name; `sys.argv[1:]` if left out.
    conf : ConfigOpts, optional
        Object to fill; may bring options of its own.
    cli_opts : sequence of Opt
        What this program alone takes on its command line, in [DEFAULT].
    **config
        Passed on to `ConfigOpts.__call__`, such as `default_config_files`.

    Raises
    ------
    oslo_config.cfg.Error
        A file, name or value is wrong (the text is one line).
    SystemExit
        2 after wrong usage, 0 after --help and --version.
    """
    conf = cfg.ConfigOpts() if conf is None else conf
    opts.register_opts(conf)
    conf.register_cli_opts(list(cli_opts))
    conf(spell_options(sys.argv[1:] if argv is None else argv), project="gnocchi",
         version=get_version(), validate_default_values=True, **config)
    opts.check_values(conf)
    return conf


def spell_options(argv: Sequence[str]) -> list[str]:
    """Return a command line with `-` for `_` in the names of options, which were always interchangeable."""
    words = []
    for word in argv:
        name, equals, value = word.partition("=")
        if name.startswith("--") and name != "--shell_completion":
            name = name.replace("_", "-")
        words.append(name + equals + value)
    return words


def get_version() -> str:
    return importlib.metadata.version("gnocchi")


def set_up_logging(conf: cfg.ConfigOpts, log_to_stderr: bool = False) -> None:
    """Send this process's log where the configuration says, in place of where it went before."""
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
        handler.close()
    for handler in _log_handlers(conf, log_to_stderr):
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("gnocchi").setLevel(
        logging.DEBUG if conf.debug else logging.INFO if conf.verbose else logging.WARNING)
    logging.captureWarnings(True)


def _log_handlers(conf: cfg.ConfigOpts, log_to_stderr: bool) -> list[logging.Handler]:
    handlers: list[logging.Handler] = []
    path = _log_path(conf)
    try:
        if path is not None:
            handlers.append(logging.handlers.WatchedFileHandler(path))
        if conf.use_syslog:
            handlers.append(logging.handlers.SysLogHandler(_syslog_address(), _syslog_facility(conf)))
        if conf.use_journal:
            handlers.append(JournalHandler())
    except OSError as e:
        raise InvalidConfiguration(f"Cannot log to {e.filename or path}: {e.strerror}") from e
    if path is None or log_to_stderr:
        handlers.append(logging.StreamHandler())
    return handlers


def _log_path(conf: cfg.ConfigOpts) -> str | None:
    if conf.log_file:
        return os.path.join(conf.log_dir or "", conf.log_file)
    if conf.log_dir:
        return os.path.join(conf.log_dir, f"{os.path.basename(sys.argv[0]) or 'gnocchi'}.log")
    return None


def _syslog_address() -> str | tuple[str, int]:
    return "/dev/log" if os.path.exists("/dev/log") else ("localhost", logging.handlers.SYSLOG_UDP_PORT)


def _syslog_facility(conf: cfg.ConfigOpts) -> int:
    name = conf.syslog_log_facility.lower().removeprefix("log_")
    try:
        return logging.handlers.SysLogHandler.facility_names[name]
    except KeyError:
        raise InvalidConfiguration(f"[DEFAULT] syslog_log_facility: there is no facility `{name}'") from None


class JournalHandler(logging.Handler):
    """Send messages to the systemd journal.

    Source: systemd.io/JOURNAL_NATIVE_PROTOCOL; a value is length-prefixed because it may hold newlines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(JOURNAL_SOCKET)
        except OSError as e:
            self._socket.close()
            raise OSError(e.errno, e.strerror, JOURNAL_SOCKET) from e

    def emit(self, record: logging.LogRecord) -> None:
        fields = {"MESSAGE": self.format(record), "PRIORITY": str(JOURNAL_PRIORITIES.get(record.levelno, 6)),
                  "SYSLOG_IDENTIFIER": os.path.basename(sys.argv[0]), "LOGGER": record.name}
        encoded = ((name.encode(), value.encode(errors="replace")) for name, value in fields.items())
        message = b"".join(name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n" for name, value in encoded)
        try:
            self._socket.send(message)
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        self._socket.close()
        super().close()
