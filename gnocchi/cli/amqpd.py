"""`gnocchi-amqpd`, also `gnocchi-amqp1d`: takes measures from an AMQP 1.0 broker."""

import logging
import os

# Read by the linear algebra library under numpy when it is loaded; nothing here needs its threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from gnocchi import backends, service  # noqa: E402
from gnocchi.cli import command, stop_by_signals  # noqa: E402
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration  # noqa: E402

LOG = logging.getLogger(__name__)


@command
def amqpd() -> int:
    conf = service.prepare_service()
    try:
        from gnocchi.ingest.amqp import AmqpReceiver, parse_url
    except ImportError as e:
        raise InvalidConfiguration(f"python-qpid-proton is needed, the extra amqp1 of this package: {e}") from e
    from gnocchi.ingest import collectd
    from gnocchi.ingest.hosts import HostMeasures

    options = conf.amqp1d
    address = parse_url(options.url)
    creator = options.creator or None
    backends.preload(conf)
    hosts = HostMeasures(backends.Backends(conf), options.resource_type, collectd.RESOURCE_ATTRIBUTES, creator)
    receiver = AmqpReceiver(address, collectd.CollectdDecoder(options.resource_type, creator), hosts.write_measures,
                            options.flush_delay)

    stop_by_signals(receiver.stop, receiver.wake_fd)
    try:
        hosts.create_resource_type()
    except BackendUnavailable as e:
        LOG.warning("%s; the resource type is made once that is back", e)
    return 0 if receiver.run() else 1
