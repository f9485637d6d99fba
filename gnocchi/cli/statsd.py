"""`gnocchi-statsd`: takes measures by the statsd protocol."""

import os

# Read by the linear algebra library under numpy when it is loaded; nothing here needs its threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from oslo_config import cfg  # noqa: E402

from gnocchi import backends, service  # noqa: E402
from gnocchi.cli import command, stop_by_signals  # noqa: E402
from gnocchi.exceptions import InvalidConfiguration  # noqa: E402
from gnocchi.ingest.metrics import ResourceMetrics  # noqa: E402
from gnocchi.ingest.statsd import StatsdServer, open_socket  # noqa: E402


@command
def statsd() -> int:
    conf = service.prepare_service()
    options = conf.statsd
    if options.resource_id is None:
        raise InvalidConfiguration("[statsd] resource_id is not set: it is the UUID of the resource whose metrics "
                                   "the measures go to, and may be any")
    backends.preload(conf)
    metrics = ResourceMetrics(backends.Backends(conf), options.resource_id, get_creator(options),
                              options.archive_policy_name or None)
    return serve(metrics, options)


def serve(metrics: ResourceMetrics, options: cfg.ConfigOpts.GroupAttr) -> int:
    """Serve until a signal ends it.  Raises InvalidConfiguration."""
    server = StatsdServer(open_socket(options.host, options.port), metrics, options.flush_delay)

    stop_by_signals(server.stop, server.wake_fd)
    return 1 if server.run() else 0


def get_creator(options: cfg.ConfigOpts.GroupAttr) -> str | None:
    """Return [statsd] creator, or what the older user_id and project_id amount to."""
    if options.creator:
        return options.creator
    if options.user_id or options.project_id:
        return f"{options.user_id or ''}:{options.project_id or ''}"
    return None
