#!/usr/bin/env python3
"""Send this machine's CPU, memory, disk and network figures to Gnocchi.

    pip install gnocchiclient psutil
    python examples/host_metrics.py --endpoint http://localhost:8041

GNOCCHI_ENDPOINT and GNOCCHI_USER are heeded, as by the `gnocchi` command.

Every second one sample of ten figures is taken; every ten seconds they are sent, in one request.
While the server is away, samples are kept (a day of them) and sent when it is back.  To send a
sample twice does no harm: Gnocchi keeps one value per metric and timestamp.  Ctrl-C sends what is
left and ends.
"""

import argparse
import collections
import contextlib
import datetime
import os
import signal
import socket
import sys
import threading
import time
import types
from typing import NamedTuple

import psutil
from gnocchiclient import auth, client, exceptions

#: Metric name -> unit.  Those that end in `.total` are counters: read their aggregates `rate:...`.
METRICS = {
    "cpu.percent": "%",
    "cpu.seconds.total": "s",
    "load.1m": "process",
    "memory.used": "B",
    "memory.available": "B",
    "disk.used": "B",
    "disk.read.total": "B",
    "disk.write.total": "B",
    "network.receive.total": "B",
    "network.transmit.total": "B",
}

ARCHIVE_POLICY = {
    "name": "host",
    "back_window": 0,
    "aggregation_methods": ["mean", "min", "max", "last", "count", "rate:mean"],
    "definition": [
        {"granularity": "1s", "timespan": "1 hour"},
        {"granularity": "1 minute", "timespan": "7 days"},
        {"granularity": "1 hour", "timespan": "365 days"},
    ],
}

#: Samples kept while the server is away: a day of seconds, about 100 MB.
SAMPLES_MAX = 86_400

#: Samples of one request: an hour of seconds, about 2 MB of JSON.
SAMPLES_PER_REQUEST = 3_600


class Sample(NamedTuple):
    """time: when it was taken, UTC.  values: {metric name: float}."""

    time: datetime.datetime
    values: dict[str, float]


def read_sample() -> Sample:
    """Return this machine's figures now; what the machine does not tell (disks in some containers) is left out."""
    cpu, memory = psutil.cpu_times(), psutil.virtual_memory()
    values = {
        "cpu.percent": psutil.cpu_percent(),    # since the previous call
        "cpu.seconds.total": cpu.user + cpu.system,
        "load.1m": psutil.getloadavg()[0],
        "memory.used": memory.used,
        "memory.available": memory.available,
        "disk.used": psutil.disk_usage("/").used,
    }
    if disk := psutil.disk_io_counters():
        values |= {"disk.read.total": disk.read_bytes, "disk.write.total": disk.write_bytes}
    if network := psutil.net_io_counters():
        values |= {"network.receive.total": network.bytes_recv, "network.transmit.total": network.bytes_sent}
    return Sample(datetime.datetime.now(datetime.UTC), {name: float(value) for name, value in values.items()})


class HostMetrics:
    """A host as a resource with metrics, and the samples that are not yet sent."""

    def __init__(self, endpoint: str, user: str = "admin", host: str | None = None) -> None:
        self.host = host or socket.gethostname()
        #: Any text without a slash: Gnocchi derives the resource's UUID from it.
        self.resource_id = f"host:{self.host}"
        self.samples: collections.deque[Sample] = collections.deque(maxlen=SAMPLES_MAX)
        self.dropped = 0
        self._metric_ids: dict[str, str] = {}
        self._gnocchi = client.Client(1, session_options={
            "auth": auth.GnocchiBasicPlugin(user=user, endpoint=endpoint), "timeout": 30})

    def add(self, sample: Sample) -> None:
        """Keep a sample until it is sent; the oldest goes when there is no room."""
        self.dropped += len(self.samples) == SAMPLES_MAX
        self.samples.append(sample)

    def send(self) -> int:
        """Send all samples, the oldest first; return how many.

        Raises gnocchiclient's exceptions; what was not acknowledged is kept.
        """
        if not self._metric_ids:
            self._metric_ids = self._create_metrics()
        sent = 0
        while self.samples:
            part = [self.samples[i] for i in range(min(len(self.samples), SAMPLES_PER_REQUEST))]
            measures = collections.defaultdict(list)
            for sample in part:
                for name, value in sample.values.items():
                    measures[self._metric_ids[name]].append({"timestamp": sample.time.isoformat(), "value": value})
            self._gnocchi.metric.batch_metrics_measures(measures)
            for _ in part:
                self.samples.popleft()
            sent += len(part)
        return sent

    def _create_metrics(self) -> dict[str, str]:
        """Return {name: metric id} of the host's resource, after making what does not exist."""
        with contextlib.suppress(exceptions.ArchivePolicyAlreadyExists):
            self._gnocchi.archive_policy.create(ARCHIVE_POLICY)
        definitions = {name: {"archive_policy_name": ARCHIVE_POLICY["name"], "unit": unit}
                       for name, unit in METRICS.items()}
        try:
            resource = self._gnocchi.resource.create("generic", {"id": self.resource_id, "metrics": definitions})
        except exceptions.ResourceAlreadyExists:
            resource = self._gnocchi.resource.get("generic", self.resource_id)
        ids = dict(resource["metrics"])
        for name in METRICS.keys() - ids.keys():
            ids[name] = self._gnocchi.metric.create(
                name=name, resource_id=self.resource_id, **definitions[name])["id"]
        return ids


def is_passing(error: exceptions.ClientException) -> bool:
    """Tell whether the same request may succeed later: the server is away or unwell, not the request wrong."""
    return error.code is None or error.code >= 500 or error.code == 429


def say(text: str) -> None:
    print(f"{datetime.datetime.now():%H:%M:%S} {text}", flush=True)


def try_to_send(host: HostMetrics) -> bool:
    """Send what is there and say how it went; False if it has to be tried again."""
    try:
        sent = host.send()
    except exceptions.ClientException as e:
        if not is_passing(e):
            raise
        reason = e if e.code else "no connection"
        say(f"the server is away ({reason}): {len(host.samples)} samples kept, {host.dropped} dropped")
        return False
    say(f"sent {sent} samples of {host.resource_id}")
    return True


def run(host: HostMetrics, interval_s: float, batch: int, count: int | None) -> bool:
    """Take and send samples until `count` are taken or a signal comes; return whether all were sent."""
    stopped = threading.Event()

    def stop(signal_number: int, frame: types.FrameType | None) -> None:
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    psutil.cpu_percent()    # the first call has nothing to compare with
    taken, due = 0, time.monotonic()
    while taken != count and not stopped.wait(max(0.0, due - time.monotonic())):
        host.add(read_sample())
        taken += 1
        if taken % batch == 0 and taken != count:
            try_to_send(host)
        due = max(due + interval_s, time.monotonic())    # after a stall: go on, do not catch up
    return not host.samples or try_to_send(host)


def main() -> int:
    parser = argparse.ArgumentParser(description="Send this machine's figures to Gnocchi.")
    parser.add_argument("--endpoint", default=os.environ.get("GNOCCHI_ENDPOINT", "http://localhost:8041"),
                        help="URL of the API (%(default)s)")
    parser.add_argument("--user", default=os.environ.get("GNOCCHI_USER", "admin"),
                        help="user name of basic authentication (%(default)s)")
    parser.add_argument("--host", help="name to send under (this machine's)")
    parser.add_argument("--interval", type=float, default=1.0, metavar="S",
                        help="seconds between samples (%(default)s)")
    parser.add_argument("--batch", type=int, default=10, metavar="N", help="samples sent at once (%(default)s)")
    parser.add_argument("--count", type=int, metavar="N", help="end after N samples (never)")
    parser.add_argument("--once", action="store_const", const=1, dest="count", help="the same as --count 1")
    args = parser.parse_args()
    if args.interval <= 0 or args.batch < 1 or (args.count is not None and args.count < 1):
        parser.error("--interval must be above 0, --batch and --count at least 1")
    host = HostMetrics(args.endpoint, args.user, args.host)
    try:
        return 0 if run(host, args.interval, args.batch, args.count) else 1
    except exceptions.ClientException as e:
        print(f"{args.endpoint} refused: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
