"""Measures from an AMQP 1.0 broker: messages of collectd in, accepted once their measures are durable.

    broker ──messages──> AmqpReceiver ──each flush delay──> Outbox ──write──> Backends
       ^                    |     ^                           `--- writer thread ---'
       `----- accepted -----'     `---------------- stored ----------------'

A message that was not accepted is the broker's still, which sends it again: to this daemon after a new connection, or
to another one.  Its measures have the same timestamps then, so nothing is stored twice.
"""

import logging
import os
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

import proton
from proton.handlers import MessagingHandler
from proton.reactor import ApplicationEvent, Container, EventInjector

from gnocchi.exceptions import InvalidConfiguration, InvalidInput
from gnocchi.ingest.batch import NamedBatch
from gnocchi.ingest.collectd import CollectdDecoder, Readings, make_batch
from gnocchi.ingest.outbox import Outbox, Writer

LOG = logging.getLogger(__name__)

#: Messages that the broker may have sent and that are not accepted yet; half of them are written at once at the latest.
MESSAGES_MAX = 2000

#: No more messages are asked for while those here have that many bytes.
BYTES_MAX = 32 << 20

#: Larger messages are rejected.
MESSAGE_BYTES_MAX = 4 << 20

#: Rejected messages that are logged one by one between two flushes.
REASONS_LOGGED_MAX = 10

#: Pause before a new connection in seconds: doubled from the first to the last.
RECONNECT_S = 0.5
RECONNECT_MAX_S = 30.0

#: How often an idle connection is looked after; a broker that says nothing for twice as long is taken for dead.
HEARTBEAT_S = 30.0

#: How long a stop waits for the broker to confirm that it has what was accepted.
CLOSE_S_MAX = 5.0

SCHEMES = {"amqp": 5672, "amqps": 5671}

#: How a user proves who he is.  Left to itself, proton may log in as nobody where the broker allows that.
MECHANISMS = "PLAIN SCRAM-SHA-1 SCRAM-SHA-256 SCRAM-SHA-512"


class Address(NamedTuple):
    """Where messages come from.

    url : without credentials, path and query
    source : name of a queue, topic or other node of the broker
    """

    url: str
    source: str
    user: str | None
    password: str | None


def parse_url(text: str) -> Address:
    """Read `[amqp[s]://][user[:password]@]host[:port]/source`.  Raises InvalidConfiguration, which has no secrets."""
    try:
        parts = urllib.parse.urlsplit(text if "://" in text else "amqp://" + text)
        port = parts.port
    except ValueError as e:
        raise InvalidConfiguration(f"[amqp1d] url is not valid: {e}") from None
    if parts.scheme not in SCHEMES:
        raise InvalidConfiguration(f"[amqp1d] url: {parts.scheme} is neither amqp nor amqps")
    source = urllib.parse.unquote(parts.path[1:])
    if not parts.hostname or not source:
        raise InvalidConfiguration("[amqp1d] url has no " + ("address after the host" if parts.hostname else "host"))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    user, password = (value and urllib.parse.unquote(value) for value in (parts.username, parts.password))
    return Address(f"{parts.scheme}://{host}:{port or SCHEMES[parts.scheme]}", source, user, password)


class Message(NamedTuple):
    """A message whose measures wait to be written.

    connection : int
        Number of the connection that it came by; on another one, it cannot be accepted.
    """

    delivery: proton.Delivery
    connection: int
    size: int
    readings: Readings


class Mailing(NamedTuple):
    """Messages that are written together."""

    messages: list[Message]
    batch: NamedBatch

    @property
    def measures(self) -> int:
        return len(self.batch.metrics)


class AmqpReceiver(MessagingHandler):
    """Receives until it is stopped.

    Parameters
    ----------
    address : Address
    decoder : CollectdDecoder
    write : callable
        Stores a batch durably, or raises BackendUnavailable when it may be tried again.  Called by another thread.
    flush_delay_s : float
        How long measures wait for others, to be written together.
    """

    def __init__(self, address: Address, decoder: CollectdDecoder, write: Callable[[NamedBatch], None],
                 flush_delay_s: float) -> None:
        super().__init__(prefetch=0, auto_accept=False)
        self._address = address
        self._decoder = decoder
        self._store = write
        self._flush_delay_s = flush_delay_s
        self._outbox: Outbox[Mailing] = Outbox()
        self._writer = Writer(self._outbox, self._write, fate="are left to the broker",
                              fail=lambda mailing: self._tell("failed", mailing), end=lambda: self._tell("written"))
        self._container = Container(self)
        self._injector = EventInjector()
        os.set_blocking(self._injector.pipe[1], False)
        # A stop is asked for, begun, has everything written, and has the broker know it.
        self._stopping = self._stop_begun = self._written = self._finished = False
        self._connection: proton.Connection | None = None
        self._receiver: proton.Receiver | None = None
        self._connections = 0
        self._reconnect_s = RECONNECT_S
        #: Why there is no connection, told once for each reason.
        self._trouble = self._logged_trouble = ""
        self._waiting: list[Message] = []
        self._flush_task: proton.reactor.Task | None = None
        self._unsettled = self._unsettled_bytes = 0
        self._rejected = 0

    @property
    def wake_fd(self) -> int:
        """What `run` looks at when a byte is written to it, for `signal.set_wakeup_fd`."""
        return self._injector.pipe[1]

    def stop(self) -> None:
        """Let `run` end.  May be called by a signal handler or another thread."""
        if not self._stopping:
            self._stopping = True
            os.write(self.wake_fd, b"x")

    def run(self) -> bool:
        """Serve; what came in before a stop is written.  Returns whether all of it could be."""
        LOG.info("Flush delay: %g seconds", self._flush_delay_s)
        container = self._container
        container.selectable(self._injector)
        container.timeout = HEARTBEAT_S
        self._writer.start()
        try:
            container.start()
            while not self._finished and container.process():
                if container.errors:
                    raise container.errors[0][1]
                if self._stopping and not self._stop_begun:
                    self._begin_stop()
        finally:
            self._outbox.close()
            self._writer.join()
        return self._writer.lost == 0

    # -- the connection --------------------------------------------------------------------------

    def on_start(self, event: proton.Event) -> None:
        self._connect()

    def on_timer_task(self, event: proton.Event) -> None:
        self._connect()

    def _connect(self) -> None:
        if self._stopping:
            return
        self._connections += 1
        self._trouble = ""
        address = self._address
        login = {} if address.user is None else {
            "user": address.user, "password": address.password, "allowed_mechs": MECHANISMS}
        self._connection = self._container.connect(address.url, reconnect=False, heartbeat=HEARTBEAT_S, **login)
        self._receiver = self._container.create_receiver(self._connection, address.source)
        self._receiver.max_message_size = MESSAGE_BYTES_MAX

    def on_link_opened(self, event: proton.Event) -> None:
        # A broker that refuses opens it without a source, and closes it with the reason.
        if event.link.remote_source.address is not None:
            LOG.info("Receiving from %s at %s", self._address.source, self._address.url)
            self._reconnect_s = RECONNECT_S
            self._logged_trouble = ""
            self._grant_credit()

    def on_transport_error(self, event: proton.Event) -> None:
        self._note_trouble(event.transport.condition)

    def on_connection_error(self, event: proton.Event) -> None:
        self._note_trouble(event.connection.remote_condition)

    def on_session_error(self, event: proton.Event) -> None:
        self._note_trouble(event.session.remote_condition)
        event.connection.close()

    def on_link_error(self, event: proton.Event) -> None:
        self._note_trouble(event.link.remote_condition)
        event.connection.close()

    def on_link_closed(self, event: proton.Event) -> None:
        if not self._stop_begun:
            event.connection.close()

    def _note_trouble(self, condition: proton.Condition | None) -> None:
        if condition is not None and not self._trouble:
            self._trouble = f"{condition.name}: {condition.description}" if condition.description else condition.name

    def on_transport_closed(self, event: proton.Event) -> None:
        if event.connection != self._connection:
            return
        self._connection = self._receiver = None
        if self._stop_begun:
            self._finished = self._written
            return
        trouble = self._trouble or "it closed the connection"
        if trouble != self._logged_trouble:
            LOG.warning("Broker %s: %s; it is tried again and again", self._address.url, trouble)
            self._logged_trouble = trouble
        self._container.schedule(self._reconnect_s, self)
        self._reconnect_s = min(2 * self._reconnect_s, RECONNECT_MAX_S)

    # -- messages --------------------------------------------------------------------------------

    def _grant_credit(self) -> None:
        """Ask for as many messages as there is room for."""
        if self._receiver is None or self._stop_begun or self._unsettled_bytes > BYTES_MAX:
            return
        wanted = MESSAGES_MAX - self._unsettled - self._receiver.credit
        if wanted >= MESSAGES_MAX // 8:
            self._receiver.flow(wanted)

    def on_message(self, event: proton.Event) -> None:
        if self._stop_begun:
            return      # not accepted: the broker keeps it
        body = event.message.body
        size = len(body) if isinstance(body, str | bytes | memoryview) else 0
        try:
            readings = self._decode(body, size)
        except InvalidInput as e:
            self._log_refused(f"Rejected a message of {size} bytes: {e}")
            self.reject(event.delivery)
            readings = None
        if readings is not None and not readings.metrics:
            self.accept(event.delivery)
        elif readings is not None:
            self._waiting.append(Message(event.delivery, self._connections, size, readings))
            self._unsettled += 1
            self._unsettled_bytes += size
            if len(self._waiting) >= MESSAGES_MAX // 2 or self._unsettled_bytes > BYTES_MAX:
                self._flush()
            elif self._flush_task is None:
                self._flush_task = self._container.schedule(self._flush_delay_s, _Call(self._flush))
        self._grant_credit()

    def _decode(self, body: object, size: int) -> Readings:
        """Raises InvalidInput."""
        if isinstance(body, memoryview):
            body = body.tobytes()
        if not isinstance(body, str | bytes):
            raise InvalidInput(f"a text was expected, not {type(body).__name__}")
        if size > MESSAGE_BYTES_MAX:
            raise InvalidInput(f"it has more than {MESSAGE_BYTES_MAX} bytes")
        readings = self._decoder.decode(body)
        for reason in readings.refused:
            self._log_refused(f"Left out a part of a message: {reason}")
        return readings

    def _log_refused(self, text: str) -> None:
        self._rejected += 1
        if self._rejected <= REASONS_LOGGED_MAX:
            LOG.error("%s", text)
        if self._rejected == 1:
            self._container.schedule(self._flush_delay_s, _Call(self._report_rejected))

    def _report_rejected(self) -> None:
        if self._rejected > REASONS_LOGGED_MAX:
            LOG.error("Rejected %d more messages or parts of them", self._rejected - REASONS_LOGGED_MAX)
        self._rejected = 0

    def _flush(self) -> None:
        """Give what waits to the writer."""
        if self._flush_task is not None:
            self._flush_task.cancel()
            self._flush_task = None
        if self._waiting:
            messages, self._waiting = self._waiting, []
            self._outbox.put(Mailing(messages, make_batch([message.readings for message in messages])))

    def _write(self, mailing: Mailing) -> None:
        """In the writer's thread.  Raises BackendUnavailable."""
        self._store(mailing.batch)
        self._tell("stored", mailing)

    def _tell(self, what: str, mailing: Mailing | None = None) -> None:
        """In the writer's thread: have `on_<what>` called by the other one."""
        self._injector.trigger(ApplicationEvent(what, subject=mailing))

    def on_stored(self, event: proton.Event) -> None:
        self._settle(event.subject, proton.Delivery.ACCEPTED)

    def on_failed(self, event: proton.Event) -> None:
        # Accepting them would be a lie, and if they came again, so would the error.
        self._settle(event.subject, proton.Delivery.REJECTED)

    def _settle(self, mailing: Mailing, state: int) -> None:
        for message in mailing.messages:
            if message.connection == self._connections and self._connection is not None:
                self.settle(message.delivery, state)
            self._unsettled -= 1
            self._unsettled_bytes -= message.size
        self._grant_credit()

    # -- the end ---------------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        self._stop_begun = True
        self._flush()
        self._outbox.close()

    def on_written(self, event: proton.Event) -> None:
        self._written = True
        if self._connection is None:
            self._finished = True
        else:
            self._connection.close()
            self._container.schedule(CLOSE_S_MAX, _Call(self._finish))

    def _finish(self) -> None:
        self._finished = True


class _Call(proton.Handler):
    """What a timer calls."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def on_timer_task(self, event: proton.Event) -> None:
        self._function()
