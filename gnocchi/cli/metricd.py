"""`gnocchi-metricd`: aggregates measures as they come in."""

import gc
import os
import signal

# What is loaded stays: to look for garbage among it takes a sixth of the start.
gc.disable()

# Read by the linear algebra library under numpy when it is loaded; metricd needs none of its threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from oslo_config import cfg  # noqa: E402

from gnocchi import backends, service  # noqa: E402
from gnocchi import metricd as daemon  # noqa: E402
from gnocchi.cli import command  # noqa: E402
from gnocchi.common import allocators  # noqa: E402

gc.freeze()
gc.enable()

CLI_OPTS = [
    cfg.IntOpt("stop-after-processing-metrics", default=0, min=0,
               help="Process in the foreground until that many metrics had their measures aggregated, "
                    "then exit. 0: run as a daemon, for ever."),
]


@command
def metricd() -> int:
    conf = service.prepare_service(cli_opts=CLI_OPTS)
    allocators.limit_arenas()
    backends.preload(conf)
    if conf.stop_after_processing_metrics:
        return process_some(conf, conf.stop_after_processing_metrics)
    daemon.Master(conf, lambda: service.read_configuration(cli_opts=CLI_OPTS),
                  lambda: service.set_up_logging(conf)).run()
    return 0


def process_some(conf: cfg.ConfigOpts, metrics: int) -> int:
    """Work in this very process until enough metrics are done or a signal ends it."""
    allocators.collect_seldom()
    worker = daemon.Processor(0, conf, metrics_max=metrics)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
    worker.leave()
    return 0
