"""The statsd protocol: datagrams in, one measure per metric and flush out.

    datagrams ──receive──> Aggregator ──each flush delay──> Outbox ──write──> metrics of the resource
               `--------- main thread ---------'            `----- writer thread -----'

Nothing that is slow or that may fail happens in the main thread, so that the kernel's buffer never fills up
because a database is busy.
"""

import logging
import math
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy

from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration, InvalidInput
from gnocchi.indexer.checks import check_text
from gnocchi.ingest.metrics import ResourceMetrics
from gnocchi.ingest.outbox import Outbox, Writer

LOG = logging.getLogger(__name__)

COUNTER, GAUGE, TIMER = "c", "g", "ms"
TYPES = frozenset((COUNTER, GAUGE, TIMER))

#: Distinct names between two flushes; more are refused.  About 300 bytes each.
NAMES_MAX = 100_000

#: Measures that wait for a back end to come back; about 150 bytes each.
WAITING_MEASURES_MAX = 1_000_000

#: Refused lines that are logged one by one between two flushes, and how much of each, in characters.
MESSAGES_MAX = 10
MESSAGE_LINE_MAX = 200

#: Largest datagram that UDP has.
DATAGRAM_BYTES_MAX = 65_535

#: Datagrams that are parsed together at most; bounds memory (64 MiB) and the time to the next look at the clock.
DATAGRAMS_PER_BATCH = 1024

#: What is asked of the kernel for datagrams that wait; it gives at most net.core.rmem_max.
RECEIVE_BUFFER_BYTES = 4 << 20

#: How long a stop goes on with what the kernel has, lest somebody who goes on sending keeps it alive; seconds.
DRAIN_S_MAX = 1.0


class InvalidLine(ValueError):
    """A line that is left out, and why."""


class Flush(NamedTuple):
    """One measure per metric.

    names : list of n str, `<name>|<type>`
    timestamps : ndarray, shape (n,), datetime64[ns]; when the last packet of each came
    values : ndarray, shape (n,), float64
    """

    names: list[str]
    timestamps: numpy.ndarray
    values: numpy.ndarray

    @property
    def measures(self) -> int:
        return len(self.names)


def parse_line(line: str) -> tuple[str, str, float, bool]:
    """Read `name:value|type[|@rate]`.

    Returns
    -------
    (metric's name `<name>|<type>`, type, finite value, whether it is a difference to the gauge's last value)

    Raises
    ------
    InvalidLine
        The text is that of the log (contract, operations 7.2).
    """
    head, *fields = line.split("|")
    if not 1 <= len(fields) <= 2:
        raise InvalidLine(f"Invalid number of | in `{show_line(line)}'")
    name, colon, text = head.partition(":")
    if not colon or ":" in text:
        raise _untreatable(line, "Invalid number of :")
    if not name:
        raise _untreatable(line, "No name")
    kind = fields[0]
    if kind not in TYPES:
        raise _untreatable(line, f"Unknown metric type `{show_line(kind)}'")
    value = _parse_number(line, text, "value")
    if len(fields) == 2:
        value = _scale(line, kind, value, fields[1])
    return f"{name}|{kind}", kind, value, kind == GAUGE and text.lstrip()[0] in "+-"


def _scale(line: str, kind: str, value: float, field: str) -> float:
    """Return the value of a counter that is sent with a sample rate."""
    if not field.startswith("@"):
        raise _untreatable(line, f"`{show_line(field)}' is no sample rate")
    if kind != COUNTER:
        raise _untreatable(line, f"Invalid sample rate for a metric of type `{kind}'")
    rate = _parse_number(line, field[1:], "sample rate")
    if rate <= 0 or not math.isfinite(value / rate):
        raise _untreatable(line, f"Invalid sample rate `{show_line(field[1:])}'")
    return value / rate


def _parse_number(line: str, text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise _untreatable(line, f"Invalid {what} `{show_line(text)}'")
    return number


def _untreatable(line: str, reason: str) -> InvalidLine:
    return InvalidLine(f"Unable to treat metric {show_line(line)}: {reason}")


def show_line(line: str) -> str:
    """Return a line as a log may hold it: of bounded length and without control characters."""
    shown = line if len(line) <= MESSAGE_LINE_MAX else line[:MESSAGE_LINE_MAX] + "..."
    return shown if shown.isprintable() else repr(shown)[1:-1]


class Aggregator:
    """What came in since the last flush.  Does no I/O but logging."""

    def __init__(self) -> None:
        # The same names in the same order.
        self._values: dict[str, float] = {}
        self._timestamps: dict[str, int] = {}
        #: Last value of each gauge, which differences are added to; beyond flushes.
        self._gauges: dict[str, float] = {}
        self._unlogged = 0
        #: Lines, or whole datagrams if they are no UTF-8, that were refused since the start.
        self.refused = 0
        self._refused_before = 0

    def add(self, datagrams: Sequence[bytes], now_ns: int) -> None:
        """Take in datagrams that came at a time (nanoseconds since 1970).  FAST PATH: 1 us per line."""
        values, timestamps, gauges = self._values, self._timestamps, self._gauges
        for line in self._decode(datagrams).split("\n"):
            line = line.strip()
            if not line:
                continue
            try:
                name, kind, value, relative = parse_line(line)
                if name not in timestamps:
                    self._check_new(line, name)
            except InvalidLine as e:
                self._refuse(str(e))
                continue
            if kind == COUNTER:
                value += values.get(name, 0.0)
            elif kind == GAUGE:
                if relative:
                    value += gauges.get(name, 0.0)
                gauges[name] = value
            values[name] = value
            timestamps[name] = now_ns

    def take(self) -> Flush:
        """Return what came in and begin anew; gauges are remembered."""
        flush = Flush(list(self._values),
                      numpy.fromiter(self._timestamps.values(), numpy.int64, len(self._values)).view("M8[ns]"),
                      numpy.fromiter(self._values.values(), numpy.float64, len(self._values)))
        if len(self._gauges) > NAMES_MAX:
            self._gauges = {name: value for name, value in self._gauges.items() if name in self._values}
        self._values, self._timestamps = {}, {}
        unlogged = self.refused - self._refused_before - MESSAGES_MAX
        if unlogged > 0:
            LOG.error("%d more lines were refused since the last flush, %d since the start", unlogged, self.refused)
        self._refused_before = self.refused
        return flush

    def _decode(self, datagrams: Sequence[bytes]) -> str:
        try:
            return b"\n".join(datagrams).decode()
        except UnicodeDecodeError:
            texts = []
            for datagram in datagrams:
                try:
                    texts.append(datagram.decode())
                except UnicodeDecodeError as e:
                    self._refuse(f"Unable to decode a datagram of {len(datagram)} bytes: {e.reason}")
            return "\n".join(texts)

    def _check_new(self, line: str, name: str) -> None:
        """Raise InvalidLine if a name may not be added."""
        if len(self._values) >= NAMES_MAX:
            raise _untreatable(line, f"more than {NAMES_MAX} metrics between two flushes")
        try:
            check_text("Metric name", name)
        except InvalidInput as e:
            raise _untreatable(line, str(e)) from e

    def _refuse(self, message: str) -> None:
        self.refused += 1
        if self.refused - self._refused_before <= MESSAGES_MAX:
            LOG.error("%s", message)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a bound UDP socket that does not block.  Raises InvalidConfiguration."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            opened.setblocking(False)
            opened.bind(address)
        except OSError:
            opened.close()
            raise
    except OSError as e:
        raise InvalidConfiguration(f"[statsd] cannot listen on {host} port {port}: {e.strerror}") from e
    return opened


class StatsdServer:
    """Receives until it is stopped.

    Parameters
    ----------
    listener : socket
        UDP, bound, not blocking; closed at the end.
    metrics : ResourceMetrics
    flush_delay_s : float
    """

    def __init__(self, listener: socket.socket, metrics: ResourceMetrics, flush_delay_s: float) -> None:
        self._socket = listener
        self._metrics = metrics
        self._flush_delay_s = flush_delay_s
        self._aggregator = Aggregator()
        self._outbox: Outbox[Flush] = Outbox(WAITING_MEASURES_MAX)
        self._writer = Writer(self._outbox, lambda flush: metrics.write_measures(*flush))
        self._stopping = False
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)

    @property
    def wake_fd(self) -> int:
        """What `run` looks at when a byte is written to it, for `signal.set_wakeup_fd`.

        The kernel may give a signal to the other thread; then nothing else interrupts this one, which handles it.
        """
        return self._wake_writer

    def stop(self) -> None:
        """Let `run` end.  May be called by a signal handler."""
        if not self._stopping:
            self._stopping = True
            os.write(self._wake_writer, b"x")

    def run(self) -> int:
        """Serve; what came in before a stop is flushed.  Returns the number of measures that were lost.

        Raises InvalidInput when there can be no such resource.
        """
        try:
            self._metrics.create_resource()
        except BackendUnavailable as e:
            LOG.warning("%s; the resource is made once that is back", e)
        LOG.info("Started on %s:%d", *self._socket.getsockname()[:2])
        LOG.info("Flush delay: %g seconds", self._flush_delay_s)
        # The kernel doubles what it gives, for its own bookkeeping, and tells the double.
        given = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        if given < RECEIVE_BUFFER_BYTES:
            LOG.info("The receive buffer has %d KiB in place of %d: raise net.core.rmem_max if packets get lost",
                     given >> 10, RECEIVE_BUFFER_BYTES >> 10)
        self._writer.start()
        try:
            self._receive()
        finally:
            self._outbox.put(self._aggregator.take())
            self._outbox.close()
            self._writer.join()
            self._socket.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        return self._writer.lost

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        due = time.monotonic() + self._flush_delay_s
        while not self._stopping:
            poll.poll(1000 * max(0.0, due - time.monotonic()))
            self._take_in()
            now = time.monotonic()
            if now >= due:
                self._outbox.put(self._aggregator.take())
                due = max(due, now - self._flush_delay_s) + self._flush_delay_s
        deadline = time.monotonic() + DRAIN_S_MAX
        while self._take_in() and time.monotonic() < deadline:
            pass

    def _take_in(self) -> int:
        """Aggregate what the kernel has, one batch at most; return the number of datagrams."""
        datagrams: list[bytes] = []
        receive = self._socket.recv
        try:
            while len(datagrams) < DATAGRAMS_PER_BATCH:
                datagrams.append(receive(DATAGRAM_BYTES_MAX))
        except BlockingIOError:
            pass
        if datagrams:
            self._aggregator.add(datagrams, time.time_ns())
        return len(datagrams)
