"""What gnocchi-statsd costs per packet, and whether it loses any at a given rate.

Usage: bench_statsd.py [seconds] [packets per second ...]      (default: 5 seconds of 10,000, 50,000 and 80,000)

Each packet holds one counter line and each counts as one: what the daemon has written when it is told to
stop is compared with what was sent.  The back ends are real (SQLite and files in a temporary directory).  CPU
figures are the daemon's own, start and stop left out.  A sender and a daemon on two cores that others use too
lose packets for want of CPU time: look at the CPU figures then.
"""

import contextlib
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import psutil

from gnocchi import service
from gnocchi.backends import Backends
from gnocchi.ingest.statsd import Aggregator

FLUSH_DELAY_S = 1

CONFIG = """\
[indexer]
url = sqlite:///{directory}/index.db
[storage]
file_basepath = {directory}/data
[statsd]
host = 127.0.0.1
port = {port}
resource_id = 5e3fcbe2-7aab-475d-b42c-a440aa42e5ad
flush_delay = {flush_delay}
"""


def report_parsing(lines=200_000, names=1000):
    print("parsing and aggregation alone, 1 line per datagram:")
    for title, pattern in (("counter", "web.requests.{}:1|c"), ("counter with rate", "web.requests.{}:1|c|@0.1"),
                           ("gauge", "web.load.{}:3.25|g"), ("gauge, relative", "web.load.{}:+3|g"),
                           ("timer", "web.time.{}:320|ms"), ("refused", "web.users.{}:abc|s")):
        datagrams = [pattern.format(i % names).encode() for i in range(1000)]
        aggregator = Aggregator()
        cpu = time.process_time()
        for _ in range(lines // 1000):
            aggregator.add(datagrams, time.time_ns())
        cpu = time.process_time() - cpu
        print(f"  {title:18} {cpu / lines * 1e6:6.2f} us per line")


def find_free_port():
    with contextlib.closing(socket.socket(type=socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def send(port, rate, seconds, names):
    """Send packets at a rate in packets per second; return how many."""
    packets = [f"bench.counter.{i}:1|c".encode() for i in range(names)]
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        started, sent = time.monotonic(), 0
        while (passed := time.monotonic() - started) < seconds:
            # At most 2 ms' worth at once, so that a sender that had no CPU does not come back with a burst.
            due = min(int(passed * rate) - sent, rate // 500 + 1)
            for i in range(sent, sent + due):
                sender.send(packets[i % names])
            sent += due
            time.sleep(0.0005)
    return sent, time.monotonic() - started


def report_daemon(rate, seconds, names):
    with tempfile.TemporaryDirectory() as directory:
        port = find_free_port()
        config = pathlib.Path(directory) / "gnocchi.conf"
        config.write_text(CONFIG.format(directory=directory, port=port, flush_delay=FLUSH_DELAY_S))
        commands = pathlib.Path(sys.executable).parent
        subprocess.run([commands / "gnocchi-upgrade", "--config-file", config], check=True, capture_output=True)
        log = pathlib.Path(directory) / "log"
        daemon = subprocess.Popen([commands / "gnocchi-statsd", "--config-file", config], stderr=log.open("wb"))
        try:
            while "Flush delay" not in log.read_text():
                assert daemon.poll() is None, log.read_text()
                time.sleep(0.01)
            send(port, min(rate, 20_000), 2 * FLUSH_DELAY_S, names)     # which makes the metrics
            time.sleep(2 * FLUSH_DELAY_S)
            process = psutil.Process(daemon.pid)
            before, written = process.cpu_times(), sum_written(config)
            sent, took = send(port, rate, seconds, names)
            time.sleep(2 * FLUSH_DELAY_S)
            after = process.cpu_times()
            received = sum_written(config) - written
            memory = process.memory_info().rss
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(60) == 0, log.read_text()
            errors = [line for line in log.read_text().splitlines() if " INFO " not in line]
        finally:
            if daemon.poll() is None:
                daemon.kill()
            daemon.wait()
    user, system = after.user - before.user, after.system - before.system
    cpu = user + system
    print(f"{sent / took:10,.0f} packets/s, {names:6,} metrics: {100 * (1 - received / sent):5.2f} % lost; "
          f"CPU per packet {cpu / received * 1e6:5.2f} us ({user / received * 1e6:.2f} user), "
          f"{received / cpu:9,.0f} packets per CPU-second, RSS {memory >> 20} MiB")
    for line in errors[:5]:
        print("   ", line)


def sum_written(config):
    """Return the sum of all measures that wait to be processed: as many packets came in."""
    backends = Backends(service.prepare_service(["--config-file", str(config), "--noverbose"]))
    try:
        backlogs = [backends.incoming.read_backlog(sack.number, {}, 1 << 30) for sack in backends.indexer.list_sacks()]
        return sum(float(backlog.batch.values.sum()) for backlog in backlogs if backlog is not None)
    finally:
        backends.incoming.close()
        backends.indexer.close()


if __name__ == "__main__":
    duration, *rates = [int(argument) for argument in sys.argv[1:]] or [5]
    logging.disable()
    report_parsing()
    with open("/proc/sys/net/core/rmem_max") as file:
        print(f"\nthe daemon, flushes each {FLUSH_DELAY_S} s, on {os.cpu_count()} CPUs, "
              f"net.core.rmem_max = {file.read().strip()}:")
    for rate in rates or (10_000, 50_000, 80_000):
        for names in (100, 10_000):
            report_daemon(rate, duration, names)
