"""Every option of the configuration file, by section, and how they get into a configuration object.

Names, defaults and deprecated places are a contract with files already deployed (contract,
operations 1.2).  Drivers declare their own; this module gathers them.
"""

import copy
import difflib
import glob
import itertools
import os
import re
import uuid
from collections.abc import Iterable
from types import ModuleType

from oslo_config import cfg

from gnocchi.carbonara.methods import METHODS
from gnocchi.common import ceph_options, drivers, redis_options, s3_options, swift_options
from gnocchi.exceptions import InvalidConfiguration
from gnocchi.incoming import file as incoming_file
from gnocchi.indexer import sqlalchemy
from gnocchi.storage.drivers import file as storage_file

#: Modules whose `OPTS` belong to [storage]; [incoming] has the same ones, which default to those.
STORAGE_MODULES: tuple[ModuleType, ...] = (storage_file, redis_options, ceph_options, swift_options,
                                           s3_options)

#: Modules whose `OPTS` belong to [incoming] alone, where [storage] does not have them.
INCOMING_MODULES: tuple[ModuleType, ...] = (incoming_file,)


class UUIDType(cfg.types.ConfigType):
    """A UUID; empty means none."""

    def __init__(self) -> None:
        super().__init__("UUID value")

    def __call__(self, value: object) -> uuid.UUID | None:
        text = str(value).strip()
        try:
            return uuid.UUID(text) if text else None
        except ValueError:
            raise ValueError(f"{text!r} is not a UUID") from None

    def __repr__(self) -> str:
        return "UUID"

    def _formatter(self, value: uuid.UUID) -> str:
        return str(value)


LOGGING_OPTS: list[cfg.Opt] = [
    cfg.BoolOpt("debug", short="d", default=False,
                help="Log debugging messages too."),
    cfg.BoolOpt("verbose", short="v", default=True,
                help="Log informational messages; when false, warnings and errors only."),
    cfg.StrOpt("log-dir",
               help="Directory of the log file; the file is named after the program unless log_file is set. "
                    "Without log_dir and log_file, messages go to standard error."),
    cfg.StrOpt("log-file",
               help="Path of the log file, relative to log_dir if that is set."),
]

DEFAULT_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("coordination_url", secret=True,
               deprecated_group="storage",
               help="URL of the tooz service that spreads sacks over workers and holds their locks. Unset: the "
                    "redis_url of the storage or incoming driver if one of them is redis; with an SQLite index, "
                    "files under [storage] file_basepath; else the database of the index (locks only)."),
    cfg.IntOpt("parallel_operations", min=1,
               deprecated_name="aggregation_workers_number", deprecated_group="storage",
               help="Threads one process uses for concurrent calls to a remote storage or incoming back end. "
                    "Unset: the number of CPUs. 1: no threads."),
    cfg.BoolOpt("use_syslog", default=False,
                help="Log to syslog in addition."),
    cfg.BoolOpt("use_journal", default=False,
                help="Log to the systemd journal in addition."),
    cfg.StrOpt("syslog_log_facility", default="user",
               help="Facility of messages sent to syslog."),
]

#: A hundred years: before the year 1 there is no time.
LIFE_SPAN_S_MAX = 100 * 366 * 86400

METRICD_OPTS: list[cfg.Opt] = [
    cfg.IntOpt("workers", min=1,
               help="Processes that aggregate measures. Unset: the number of CPUs. Read again on SIGHUP."),
    cfg.IntOpt("metric_processing_delay", default=60, min=0,
               deprecated_group="storage",
               help="Seconds between two looks at all sacks by each worker."),
    cfg.BoolOpt("greedy", default=True,
                help="Look twice a second whether new measures came in, where that can be told, and aggregate them at "
                     "once. With measures in redis, workers are woken besides."),
    cfg.IntOpt("metric_reporting_delay", default=120, min=-1,
               deprecated_group="storage",
               help="Seconds between two log lines on the backlog. -1: no reporting process."),
    cfg.IntOpt("metric_cleanup_delay", default=300, min=0,
               deprecated_group="storage",
               help="Seconds between two rounds of the janitor, which removes deleted metrics and old objects. The "
                    "first one begins after 10 to 30 % of that."),
    cfg.IntOpt("processing_replicas", default=3, min=1,
               help="Workers that share each sack; more of them even out load and cover for one that died, "
                    "and compete more for locks."),
    cfg.IntOpt("cleanup_batch_size", default=10000, min=1,
               help="Deleted metrics removed at most in one round of the janitor."),
    cfg.IntOpt("metric_inactive_after", default=0, max=LIFE_SPAN_S_MAX,
               help="Seconds without measures after which a metric counts as inactive. Once all metrics of a "
                    "resource are, its ended_at is set; a later measure takes it away again. 0: never. Set it alike "
                    "for metricd and the API."),
    cfg.IntOpt("resource_cleanup_after", default=0, max=LIFE_SPAN_S_MAX,
               help="Delete resources, with their data, this many seconds after their ended_at. A later measure takes "
                    "that away before. 0: never. Set it alike for metricd and the API."),
]

API_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("paste_config", default="api-paste.ini",
               help="Paste file of the API, absolute or looked up beside the configuration files. "
                    "Not found: the packaged one."),
    cfg.StrOpt("auth_mode", default="basic", choices=drivers.list_drivers("gnocchi.rest.auth_helper"),
               help="Who says who a client is: HTTP Basic, whose password is not checked; a token of Keystone; or the "
                    "web server in front, in REMOTE_USER."),
    cfg.IntOpt("max_limit", default=1000, min=1,
               help="Size of a page of a listing, and the largest a client may ask for."),
    cfg.IntOpt("max_body_size", default=64 << 20, min=1,
               help="Largest body of a request, in bytes; a larger one is answered 413."),
    cfg.IntOpt("aggregates_max_points", default=20_000_000, min=1,
               help="Points that one request for aggregates across metrics may read; more are answered 400 before "
                    "anything is read."),
    cfg.IntOpt("operation_timeout", default=10, min=0,
               deprecated_name="refresh_timeout",
               help="Seconds a request may spend on pending measures (refresh=true) before it is answered 503."),
    cfg.ListOpt("healthcheck_backends",
                item_type=cfg.types.String(choices=["index", "incoming", "storage", "coordination"]),
                default=["index", "incoming", "storage", "coordination"],
                help="Back ends without which /healthcheck answers 503. Take out storage and coordination where a load "
                     "balancer that heeds it shall go on passing measures while these are away."),
    cfg.StrOpt("uwsgi_path",
               help="Not used: gnocchi-api serves by itself. Kept for files written for earlier releases."),
    cfg.HostAddressOpt("host", default="0.0.0.0",
                       help="Address gnocchi-api listens on."),
    cfg.PortOpt("port", default=8041,
                help="Port gnocchi-api listens on."),
    cfg.StrOpt("uwsgi_mode", default="http", choices=["http", "http-socket", "socket"],
               help="Not used: gnocchi-api serves HTTP by itself, chunked requests included. "
                    "Kept for files written for earlier releases."),
    cfg.IntOpt("workers", min=1,
               help="Processes of gnocchi-api. Unset: the number of CPUs, at most 4."),
    cfg.IntOpt("threads", default=8, min=1,
               help="Requests each process of gnocchi-api works on at once; requests that wait for the disk "
                    "share its syncs."),
    cfg.BoolOpt("enable_proxy_headers_parsing", default=False,
                deprecated_group="oslo_middleware",
                help="Believe the headers Forwarded, X-Forwarded-* that a proxy in front of the API sets."),
]

PROMETHEUS_OPTS: list[cfg.Opt] = [
    cfg.BoolOpt("labels_in_names", default=False,
                help="Name metrics of remote write name@label=value,... with all labels but job and instance. False: "
                     "all series of one name, job and instance go to one metric."),
]

STATSD_OPTS: list[cfg.Opt] = [
    cfg.HostAddressOpt("host", default="0.0.0.0",
                       help="Address gnocchi-statsd listens on (UDP)."),
    cfg.PortOpt("port", default=8125,
                help="Port gnocchi-statsd listens on (UDP)."),
    cfg.Opt("resource_id", type=UUIDType(),
            help="UUID of the generic resource whose metrics the measures go to; made if there is none. "
                 "gnocchi-statsd does not start without."),
    cfg.StrOpt("creator",
               help="Creator of the resource and of its metrics, as the API shows it: the user name, or with "
                    "Keystone user_id:project_id."),
    cfg.StrOpt("user_id",
               help="First part of the creator if that is not set. Kept for files written for earlier releases."),
    cfg.StrOpt("project_id",
               help="Second part of the creator if that is not set. Kept for files written for earlier releases."),
    cfg.StrOpt("archive_policy_name",
               help="Archive policy of new metrics. Unset: the archive policy rules decide by name."),
    cfg.FloatOpt("flush_delay", default=10, min=0.1,
                 help="Seconds between two flushes; each gives one measure per metric."),
]

AMQP1D_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("url", default="localhost:5672/u/collectd/telemetry", secret=True,
               help="Where gnocchi-amqpd gets messages from: amqp://user:password@host:port/address, amqps:// for TLS. "
                    "The address is that of a queue or topic of the broker, without the slash before it."),
    cfg.StrOpt("data_source", default="collectd", choices=["collectd"],
               help="What the messages are: the JSON of collectd."),
    cfg.StrOpt("resource_type", default="collectd_amqp1d",
               help="Resource type of the hosts; made if there is none. Ids of resources begin with it."),
    cfg.StrOpt("creator",
               help="Creator of the resources and of their metrics, as the API shows it: the user name, or with "
                    "Keystone user_id:project_id."),
    cfg.FloatOpt("flush_delay", default=10, min=0.1,
                 help="Seconds that measures wait for others, to be written together; 1,000 messages do not wait. "
                      "Only then the broker is told that the messages have arrived."),
]

ARCHIVE_POLICY_OPTS: list[cfg.Opt] = [
    cfg.ListOpt("default_aggregation_methods",
                item_type=cfg.types.String(choices=METHODS),
                default=["mean", "min", "max", "sum", "std", "count"],
                help="Aggregation methods of archive policies created without a list."),
]

_DRIVER_OPTS: list[cfg.Opt] = [
    cfg.StrOpt("driver", default="file",
               help="Driver, by entry-point name."),
    cfg.IntOpt("file_subdir_len", default=2, min=0, max=32,
               help="Not used: the file driver has no directory per metric. "
                    "Kept for files written for earlier releases."),
]

#: Headers that browsers may send across origins (set_defaults).
CORS_HEADERS = ["Authorization", "X-Auth-Token", "X-Subject-Token", "X-User-Id", "X-Domain-Id", "X-Project-Id",
                "X-Roles"]


def _incoming_default(option: cfg.Opt) -> cfg.Opt:
    """Return the [incoming] twin of a [storage] option."""
    twin = copy.copy(option)
    twin.default = f"${{storage.{option.dest}}}"
    return twin


def _module_opts(modules: Iterable[ModuleType]) -> list[cfg.Opt]:
    return list(itertools.chain.from_iterable(module.OPTS for module in modules))


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return (section, options), for the service itself and for `oslo-config-generator`."""
    storage = _DRIVER_OPTS + _module_opts(STORAGE_MODULES)
    names = {option.dest for option in storage}
    incoming = [option for option in _module_opts(INCOMING_MODULES) if option.dest not in names]
    sections: list[tuple[str, list[cfg.Opt]]] = [
        ("DEFAULT", LOGGING_OPTS + DEFAULT_OPTS),
        ("indexer", [*sqlalchemy.OPTS]),
        ("database", [*sqlalchemy.DATABASE_OPTS]),
        ("metricd", METRICD_OPTS),
        ("api", API_OPTS),
        ("prometheus", PROMETHEUS_OPTS),
        ("statsd", STATSD_OPTS),
        ("amqp1d", AMQP1D_OPTS),
        ("archive_policy", ARCHIVE_POLICY_OPTS),
        ("storage", storage),
        ("incoming", [_incoming_default(option) for option in storage] + incoming),
    ]
    return sections


#: Why a URL is not valid, as oslo.config tells it.
_URL_REASON = re.compile(r"\('([^']*)', URIReference")


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Make a configuration object know every option, those for logging on its command line too."""
    for section, options in list_opts():
        conf.register_opts(options, group=None if section == "DEFAULT" else section)
    conf.register_cli_opts(LOGGING_OPTS)


def list_unknown(conf: cfg.ConfigOpts) -> list[str]:
    """Return what files set in our sections though there is no such option, with what may be meant."""
    sections = list_opts()
    known: dict[str, set[str]] = {}
    for section, options in sections:
        for option in options:
            for place, name in _list_places(section, option):
                known.setdefault(place, set()).update((name, name.replace("-", "_")))
    paths = [*conf.config_file, *(path for directory in conf.config_dir
                                  for path in sorted(glob.glob(os.path.join(directory, "*.conf"))))]
    found = []
    for path in paths:
        written: dict[str, dict[str, list[str]]] = {}
        cfg.ConfigParser(path, written).parse()
        for section, _ in sections:
            taken = conf if section == "DEFAULT" else conf[section]     # by libraries, too
            for name in written.get(section, ()):
                if name not in known[section] and name not in taken:
                    close = difflib.get_close_matches(name, known[section], 1)
                    found.append(f"{path}: [{section}] {name}" + (f" (is {close[0]} meant?)" if close else ""))
    return found


def _list_places(section: str, option: cfg.Opt) -> list[tuple[str, str]]:
    """Return the sections and names that an option has or had."""
    old_places = [(old.group or section, old.name or option.name) for old in option.deprecated_opts]
    return [(section, option.name), *old_places]


def check_values(conf: cfg.ConfigOpts) -> None:
    """Read each option once, so that a bad value is told at start and not in the middle of work.

    Raises InvalidConfiguration.
    """
    for section, options in list_opts():
        for option in options:
            try:
                conf[option.dest] if section == "DEFAULT" else conf[section][option.dest]
            except (cfg.Error, ValueError) as e:
                reason = str(e).rpartition(" is not valid: ")[2]
                if parts := _URL_REASON.match(reason):      # then comes all of the URL, in parts
                    reason = parts[1]
                raise InvalidConfiguration(f"[{section}] {option.dest}: {reason}") from e


def set_defaults() -> None:
    """Change defaults of options of libraries that serve HTTP; the generator calls it (`oslo.config.opts.defaults`)."""
    from oslo_middleware import cors  # which takes 0.1 s of CPU to load, and who serves no HTTP does without
    cors.set_defaults(allow_headers=CORS_HEADERS)
