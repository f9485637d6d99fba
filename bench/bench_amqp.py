"""What gnocchi-amqpd costs per message of collectd: decoding alone, and all of it.

Usage: bench_amqp.py [messages]      (default: 5,000)

Each message has one value, as collectd's plugin amqp1 sends them, of 1,000 metrics on 20 hosts.  The daemon is real, on
SQLite and files in a temporary directory; the broker is that of the tests.  CPU figures are the daemon's own, from
its first message to the last that the broker knows to be stored.
"""

import json
import pathlib
import sys
import tempfile
import time

import psutil

try:
    from proton import Message
    from proton.handlers import MessagingHandler
    from proton.reactor import AtLeastOnce, Container
except ImportError as e:
    print(f"left out: {e}")
    sys.exit(0)

from gnocchi.ingest.collectd import CollectdDecoder, make_batch
from gnocchi.tests.amqp import AmqpBroker
from gnocchi.tests.functional.daemons import Deployment, wait_until

METRICS, HOSTS = 1000, 20


def make_message(number: int) -> bytes:
    metric = number % METRICS
    return json.dumps([{
        "values": [number + 0.5], "dstypes": ["gauge"], "dsnames": ["value"], "time": 1480063672.0 + number // METRICS,
        "interval": 10.0, "host": f"web-{metric % HOSTS}", "plugin": "memory", "plugin_instance": "", "type": "memory",
        "type_instance": f"free{metric}"}]).encode()


class Sender(MessagingHandler):
    """Sends messages, and ends when the broker has them."""

    def __init__(self, url: str, bodies: list[bytes]) -> None:
        super().__init__()
        self._url = url
        self._bodies = iter(bodies)
        self._left = len(bodies)

    def on_start(self, event):
        event.container.create_sender(self._url, options=AtLeastOnce())

    def on_sendable(self, event):
        while event.sender.credit and (body := next(self._bodies, None)) is not None:
            event.sender.send(Message(body=body))

    def on_settled(self, event):
        self._left -= 1
        if not self._left:
            event.connection.close()


def measure_decoding(batches: int = 20) -> float:
    """CPU seconds per message whose metric is known, the best of some batches."""
    bodies = [make_message(number) for number in range(METRICS)]
    decoder = CollectdDecoder("collectd_amqp1d", "admin")
    taken = []
    for _ in range(batches):
        before = time.process_time()
        make_batch([decoder.decode(body) for body in bodies])
        taken.append(time.process_time() - before)
    return min(taken[1:]) / METRICS


def measure_daemon(directory: pathlib.Path, messages: int) -> float:
    """CPU seconds per message."""
    deployment = Deployment(directory)
    broker = AmqpBroker(directory)
    try:
        broker.start()
        deployment.configure({"amqp1d": {"url": broker.url(), "creator": "admin", "flush_delay": 1}})
        deployment.begin_upgraded(16)
        daemon = deployment.start("gnocchi-amqpd")
        daemon.wait_for("Receiving from")
        Container(Sender(broker.url(), [make_message(number) for number in range(METRICS)])).run()
        wait_until(lambda: broker.count("accepted") >= METRICS)
        process = psutil.Process(daemon.process.pid)
        before = sum(process.cpu_times()[:2])
        Container(Sender(broker.url(), [make_message(METRICS + number) for number in range(messages)])).run()
        wait_until(lambda: broker.count("accepted") >= METRICS + messages)
        taken = sum(process.cpu_times()[:2]) - before
        assert 0 == daemon.stop()
        return taken / messages
    finally:
        deployment.remove()
        broker.kill()


def main() -> None:
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    print(f"decoding alone          {1e6 * measure_decoding():8.1f} us of CPU per message")
    with tempfile.TemporaryDirectory() as directory:
        taken = measure_daemon(pathlib.Path(directory), messages)
        print(f"gnocchi-amqpd, all of it{1e6 * taken:8.1f} us of CPU per message")


if __name__ == "__main__":
    main()
