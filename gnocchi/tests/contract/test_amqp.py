"""Messages of a real AMQP broker: accepted once they are stored, and not before."""

import json
import threading

import pytest

from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration
from gnocchi.tests.amqp import AmqpBroker, need_proton
from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.functional.daemons import wait_until


@pytest.fixture
def broker(tmp_path):
    need_proton()
    made = AmqpBroker(tmp_path)
    made.start()
    yield made
    made.kill()


class Store:
    """Keeps what is written, once it may."""

    def __init__(self):
        self.rows = []
        self.error = None
        self.calls = 0
        self.may_write = threading.Event()
        self.may_write.set()

    def write(self, batch):
        self.calls += 1
        assert self.may_write.wait(DEADLINE_S)
        if self.error is not None:
            raise self.error
        self.rows += [(batch.resources[metric.resource_id].original_id, metric.name, time, value)
                      for metric, time, value in zip(batch.metrics, batch.timestamps.tolist(), batch.values.tolist(),
                                                     strict=True)]


@pytest.fixture
def store():
    made = Store()
    yield made
    made.error = None
    made.may_write.set()


@pytest.fixture
def start(broker, store):
    """Start a receiver in a thread; what `run` returned is in `result`."""
    started = []

    def start_one(flush_delay_s=0.05, address="collectd"):
        from gnocchi.ingest.amqp import AmqpReceiver, parse_url
        from gnocchi.ingest.collectd import CollectdDecoder
        receiver = AmqpReceiver(parse_url(broker.url(address)), CollectdDecoder("c", None), store.write, flush_delay_s)
        receiver.result = []
        thread = threading.Thread(target=lambda: receiver.result.append(receiver.run()))
        thread.start()
        receiver.join = lambda: thread.join(DEADLINE_S)
        started.append(receiver)
        return receiver

    yield start_one
    store.error = None
    store.may_write.set()
    for receiver in started:
        receiver.stop()
        receiver.join()


def make_message(value, host="h"):
    return json.dumps([{"host": host, "plugin": "p", "type": "t", "values": [value], "dsnames": ["value"],
                        "time": 1.0 + value}])


def list_values(store):
    return sorted(value for *_, value in store.rows)


def test_messages_are_stored_then_accepted(broker, store, start):
    """Those sent before and after the start, as text or bytes."""
    broker.send([make_message(0), make_message(1).encode()])
    start()
    broker.send([make_message(2)])
    broker.wait_for("accepted", 3)
    assert [("c:h", "p@t", 10**9 * (1 + value), float(value)) for value in range(3)] == sorted(store.rows)


def test_nothing_is_accepted_before_it_is_stored(broker, store, start):
    """A broker that goes meanwhile still has it."""
    store.may_write.clear()
    start()
    broker.send([make_message(0)])
    wait_until(lambda: store.calls, lambda: "nothing is written")
    assert 0 == broker.count("accepted")
    store.may_write.set()
    broker.wait_for("accepted", 1)


@pytest.fixture
def small_window(monkeypatch):
    need_proton()
    monkeypatch.setattr("gnocchi.ingest.amqp.MESSAGES_MAX", 40)


def test_more_messages_than_there_is_credit_for(broker, store, start, small_window):
    start()
    broker.send(make_message(value) for value in range(200))
    broker.wait_for("accepted", 200)
    assert list(map(float, range(200))) == list_values(store)


def test_full_window_does_not_wait(broker, store, start, small_window):
    """A long delay does not hold up many messages."""
    broker.send(make_message(value) for value in range(50))
    start(flush_delay_s=3600)
    broker.wait_for("accepted", 40)
    assert 2 == store.calls


def test_large_messages_do_not_wait(broker, store, start, monkeypatch):
    """What waits has a limit in bytes, too."""
    monkeypatch.setattr("gnocchi.ingest.amqp.BYTES_MAX", 300)
    broker.send(make_message(value) for value in range(10))
    start(flush_delay_s=3600)
    wait_until(lambda: broker.count("accepted") >= 7, lambda: broker.output)


def test_message_above_the_limit(broker, store, start, monkeypatch):
    start()
    monkeypatch.setattr("gnocchi.ingest.amqp.MESSAGE_BYTES_MAX", 1000)
    broker.send([make_message(0) + 1000 * " ", make_message(1)])
    broker.wait_for("rejected", 1)
    broker.wait_for("accepted", 1)
    assert [1.0] == list_values(store)


def test_bad_messages_are_rejected(broker, store, start, caplog):
    """Others are stored all the same, and the good part of a message too."""
    start()
    good = json.loads(make_message(1))[0]
    bad = [b"\xff", "[", "{}", '[{"host": 3}]', 17, {"a": "map"}, None, "[" * 100_000,
           json.dumps([good | {"values": [1, 2]}]), json.dumps([good | {"time": -1}])]
    broker.send([make_message(0), json.dumps([{"host": 3}, good]), *bad, "[]", make_message(2)])
    broker.wait_for("accepted", 4)
    broker.wait_for("rejected", len(bad))
    assert [0.0, 1.0, 2.0] == list_values(store)
    assert "Left out a part of a message: element 0: Expected `str`, got `int` - at `$.host`" in caplog.text


def test_back_end_away(broker, store, start):
    """It is tried again; a stop leaves the messages to the broker, and the next daemon gets them."""
    store.error = BackendUnavailable("the index is away")
    first = start()
    broker.send([make_message(0)])
    wait_until(lambda: store.calls, lambda: "nothing is written")
    first.stop()
    first.join()
    assert ([False], 0, []) == (first.result, broker.count("accepted"), store.rows)
    store.error = None
    start()
    broker.wait_for("accepted", 1)
    assert [0.0] == list_values(store)


def test_back_end_comes_back(broker, store, start):
    store.error = BackendUnavailable("the index is away")
    start()
    broker.send([make_message(0)])
    wait_until(lambda: store.calls, lambda: "nothing is written")
    store.error = None
    broker.wait_for("accepted", 1)
    assert [0.0] == list_values(store)


def test_unexpected_error(broker, store, start, caplog):
    """The daemon goes on, and does not get the same messages for ever."""
    store.error = ZeroDivisionError()
    start()
    broker.send([make_message(0)])
    broker.wait_for("rejected", 1)
    store.error = None
    broker.send([make_message(1)])
    broker.wait_for("accepted", 1)
    assert [1.0] == list_values(store)
    assert "ZeroDivisionError" in caplog.text


def test_stop_writes_what_came_in(broker, store, start):
    receiver = start(flush_delay_s=3600)
    broker.send([make_message(0)])
    wait_until(lambda: receiver._waiting, lambda: "nothing came in")
    receiver.stop()
    receiver.join()
    assert [True] == receiver.result
    broker.wait_for("accepted", 1)
    assert [0.0] == list_values(store)


def test_broker_that_goes_and_comes_back(broker, store, start, caplog):
    """Also when it goes with messages that are written, which it has forgotten when it comes back."""
    broker.kill()
    receiver = start()
    wait_until(lambda: "it is tried again and again" in caplog.text, lambda: caplog.text)
    broker.start()
    store.may_write.clear()
    broker.send([make_message(0)])
    wait_until(lambda: store.calls, lambda: "nothing is written")
    broker.kill()
    store.may_write.set()
    wait_until(lambda: store.rows, lambda: "nothing is written")
    broker.start()
    broker.send([make_message(1)])
    broker.wait_for("accepted", 1)
    assert [0.0, 1.0] == list_values(store)
    broker.kill()
    receiver.stop()
    receiver.join()
    assert [True] == receiver.result


@pytest.mark.parametrize(("text", "expected"), [
    ("localhost:5672/u/collectd/telemetry", ("amqp://localhost:5672", "u/collectd/telemetry", None, None)),
    ("amqp://u%40x:p%2Fw@[::1]//topic/a", ("amqp://[::1]:5672", "/topic/a", "u@x", "p/w")),
    ("amqps://h/q", ("amqps://h:5671", "q", None, None)),
])
def test_url(text, expected):
    need_proton()
    from gnocchi.ingest.amqp import parse_url
    assert expected == parse_url(text)


@pytest.mark.parametrize("text", ["", "localhost", "localhost:1/", "http://h/q", "amqp:///q", "u:secret@h:x/q"])
def test_wrong_url(text):
    need_proton()
    from gnocchi.ingest.amqp import parse_url
    with pytest.raises(InvalidConfiguration, match=r"\[amqp1d\] url") as caught:
        parse_url(text)
    assert "secret" not in str(caught.value)
