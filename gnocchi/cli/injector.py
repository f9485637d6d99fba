"""`gnocchi-injector`: makes metrics and writes random measures to them, to see what an installation bears."""

import signal
import time
from types import FrameType

from oslo_config import cfg

from gnocchi import backends, service
from gnocchi.cli import command
from gnocchi.ingest.injector import Injector

INJECTOR_OPTS = [
    cfg.IntOpt("metrics", default=1000, min=1, max=10_000_000, help="Metrics to make."),
    cfg.IntOpt("measures", default=10, min=1, max=1_000_000, help="Measures for each metric, in each round."),
    cfg.StrOpt("archive-policy-name", default="low", help="Archive policy of the metrics."),
    cfg.FloatOpt("interval", min=0.0,
                 help="Seconds from the start of one round to the next, until a signal ends it. Unset: one round."),
    cfg.BoolOpt("process", default=False, help="Aggregate the measures after each round, in place of metricd."),
]


@command
def injector() -> int:
    conf = service.prepare_service(cli_opts=INJECTOR_OPTS, log_to_stderr=True)
    backends.preload(conf)
    made = Injector(backends.Backends(conf), conf.metrics, conf.measures)

    def stop(number: int, frame: FrameType | None) -> None:
        made.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        made.create_metrics(conf.archive_policy_name)
        inject(made, conf)
    finally:
        made.close()
    return 0


def inject(made: Injector, conf: cfg.ConfigOpts) -> None:
    """Write round after round, or one.  Raises BackendUnavailable."""
    while True:
        began = time.monotonic()
        made.write_measures()
        if conf.process:
            made.process()
        if conf.interval is None or not made.wait(max(0.0, conf.interval - (time.monotonic() - began))):
            return
