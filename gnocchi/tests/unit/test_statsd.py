"""The statsd protocol: what lines mean, what is refused, and what is kept until it is written."""

import logging
import math
import threading

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi.ingest import statsd
from gnocchi.ingest.outbox import Outbox
from gnocchi.ingest.statsd import Aggregator, Flush, InvalidLine, parse_line

NOW = 1_700_000_000_000_000_000

VALID = [
    ("req:1|c", ("req|c", "c", 1.0, False)),
    ("req:2|c|@0.5", ("req|c", "c", 4.0, False)),
    ("req:-2.5e1|c", ("req|c", "c", -25.0, False)),
    ("load:3|g", ("load|g", "g", 3.0, False)),
    ("load:+3|g", ("load|g", "g", 3.0, True)),
    ("load:-.5|g", ("load|g", "g", -0.5, True)),
    ("t:320|ms", ("t|ms", "ms", 320.0, False)),
    ("t:-1|ms", ("t|ms", "ms", -1.0, False)),
    ("a/b c.✔:1|c", ("a/b c.✔|c", "c", 1.0, False)),
]

INVALID = [
    ("users:a|s", "Unable to treat metric users:a|s: Unknown metric type `s'"),
    ("x:1|h", "Unable to treat metric x:1|h: Unknown metric type `h'"),
    ("x:1|", "Unable to treat metric x:1|: Unknown metric type `'"),
    ("bad", "Invalid number of | in `bad'"),
    ("bad:1", "Invalid number of | in `bad:1'"),
    ("x:1|c|@1|#t", "Invalid number of | in `x:1|c|@1|#t'"),
    ("x|c", "Unable to treat metric x|c: Invalid number of :"),
    ("x:1:2|c", "Unable to treat metric x:1:2|c: Invalid number of :"),
    (":1|c", "Unable to treat metric :1|c: No name"),
    ("x:|c", "Unable to treat metric x:|c: Invalid value `'"),
    ("x:one|c", "Unable to treat metric x:one|c: Invalid value `one'"),
    ("x:nan|g", "Unable to treat metric x:nan|g: Invalid value `nan'"),
    ("x:-inf|ms", "Unable to treat metric x:-inf|ms: Invalid value `-inf'"),
    ("x:1|g|@0.5", "Unable to treat metric x:1|g|@0.5: Invalid sample rate for a metric of type `g'"),
    ("x:1|ms|@0.5", "Unable to treat metric x:1|ms|@0.5: Invalid sample rate for a metric of type `ms'"),
    ("x:1|c|@0", "Unable to treat metric x:1|c|@0: Invalid sample rate `0'"),
    ("x:1|c|@-1", "Unable to treat metric x:1|c|@-1: Invalid sample rate `-1'"),
    ("x:1e300|c|@1e-300", "Unable to treat metric x:1e300|c|@1e-300: Invalid sample rate `1e-300'"),
    ("x:1|c|@a", "Unable to treat metric x:1|c|@a: Invalid sample rate `a'"),
    ("x:1|c|#env:prod", "Unable to treat metric x:1|c|#env:prod: `#env:prod' is no sample rate"),
    ("x:1|c|", "Unable to treat metric x:1|c|: `' is no sample rate"),
]


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.DEBUG, "gnocchi")
    return caplog


def flush(*datagrams: bytes, aggregator: Aggregator | None = None, now_ns: int = NOW) -> dict[str, float]:
    """Return name -> value of what is flushed after some datagrams."""
    aggregator = aggregator or Aggregator()
    aggregator.add(datagrams, now_ns)
    taken = aggregator.take()
    return dict(zip(taken.names, taken.values.tolist(), strict=True))


@pytest.mark.parametrize(("line", "expected"), VALID)
def test_line_is_read(line, expected):
    assert expected == parse_line(line)


@pytest.mark.parametrize(("line", "expected"), INVALID)
def test_line_is_refused_with_the_reason(line, expected):
    """The log tells the line and what is wrong with it (contract, operations 7.2)."""
    with pytest.raises(InvalidLine) as raised:
        parse_line(line)
    assert expected == str(raised.value)


def test_counters_add_up_and_begin_anew():
    """Within a flush counters are sums; afterwards they start from 0, and silent ones are not written."""
    aggregator = Aggregator()
    assert {"req|c": 5.0} == flush(b"req:1|c", b"req:2|c|@0.5", aggregator=aggregator)
    assert {"req|c": 7.0} == flush(b"req:7|c", aggregator=aggregator)
    assert {} == flush(aggregator=aggregator)


def test_last_gauge_and_timer_win():
    assert {"load|g": 2.0, "t|ms": 9.0} == flush(b"load:1|g\nt:8|ms", b"t:9|ms\nload:2|g\n")


def test_relative_gauges_go_on_from_the_last_value():
    """A sign makes a gauge's value a difference, to 0 at first and to the last value beyond flushes."""
    aggregator = Aggregator()
    assert {"load|g": -3.0} == flush(b"load:-3|g", aggregator=aggregator)
    assert {"load|g": 8.0} == flush(b"load:10|g", b"load:-2|g", aggregator=aggregator)
    assert {} == flush(aggregator=aggregator)
    assert {"load|g": 12.5} == flush(b"load:+4.5|g", aggregator=aggregator)


def test_types_of_one_name_are_different_metrics():
    assert {"x|c": 1.0, "x|g": 2.0, "x|ms": 3.0} == flush(b"x:1|c\nx:2|g\nx:3|ms")


def test_timestamp_is_that_of_the_last_packet():
    aggregator = Aggregator()
    aggregator.add([b"a:1|c\nb:1|g"], NOW)
    aggregator.add([b"a:1|c"], NOW + 5)
    taken = aggregator.take()
    assert ["a|c", "b|g"] == taken.names
    assert [NOW + 5, NOW] == taken.timestamps.view("i8").tolist()
    assert "M8[ns]" == taken.timestamps.dtype


@pytest.mark.parametrize("datagram", [b"a:1|c\n\nb:2|c\n", b"a:1|c\r\nb:2|c\r\n", b"\n \na:1|c \n b:2|c"])
def test_blank_lines_and_line_ends_do_not_matter(datagram):
    assert {"a|c": 1.0, "b|c": 2.0} == flush(datagram)


def test_bad_line_drops_nothing_else(log):
    """What stands before and after it in the datagram counts; each bad line is logged and counted."""
    aggregator = Aggregator()
    lines = "\n".join(["a:1|c", "users:a|s", "bad", "x:one|g", "a:2|c"]).encode()
    assert {"a|c": 3.0} == flush(lines, aggregator=aggregator)
    assert ["Unable to treat metric users:a|s: Unknown metric type `s'", "Invalid number of | in `bad'",
            "Unable to treat metric x:one|g: Invalid value `one'"] == log.messages
    assert {"ERROR"} == {record.levelname for record in log.records}
    assert 3 == aggregator.refused


def test_datagram_that_is_no_text_drops_nothing_else(log):
    """Only the datagram that is no UTF-8 is left out, of all that are read together."""
    assert {"a|c": 1.0, "b|c": 1.0} == flush(b"a:1|c", b"x:1|c\n\xff:1|c", b"b:1|c")
    assert ["Unable to decode a datagram of 11 bytes: invalid start byte"] == log.messages


@pytest.mark.parametrize(("name", "reason"), [
    ("x" * 254, "Metric name is longer than 255 characters"),
    ("a\0b", "Metric name contains a NUL character"),
])
def test_name_that_the_index_cannot_hold_is_refused(log, name, reason):
    """It would otherwise fail all new metrics of its flush."""
    assert {"a|c": 1.0, "x" * 253 + "|c": 1.0} == flush(f"{name}:1|c\na:1|c\n{'x' * 253}:1|c".encode())
    assert [reason] == [message.rpartition(": ")[2] for message in log.messages]


def test_log_holds_no_control_characters_and_is_short(log):
    """Whoever can send packets cannot forge or fill the log."""
    flush(b"\x1b[2J\rINFO all is well", b"y" * 60_000)
    assert all(message.isprintable() and len(message) < 300 for message in log.messages)
    assert 2 == len(log.messages)


def test_many_bad_lines_are_summed_up(log):
    """Ten lines are logged in each flush, the others counted."""
    aggregator = Aggregator()
    for since_start in (25, 50):
        log.clear()
        flush(*[b"bad"] * 25, aggregator=aggregator)
        assert [*["Invalid number of | in `bad'"] * 10,
                f"15 more lines were refused since the last flush, {since_start} since the start"] == log.messages
    log.clear()
    flush(b"bad", aggregator=aggregator)
    assert ["Invalid number of | in `bad'"] == log.messages


def test_number_of_names_is_bounded(monkeypatch, log):
    """A sender that makes up names does not fill the memory; known ones go on."""
    monkeypatch.setattr(statsd, "NAMES_MAX", 3)
    aggregator = Aggregator()
    assert {"a|g": 1.0, "b|g": 1.0, "c|g": 2.0} == flush(b"a:1|g\nb:1|g\nc:1|g\nd:1|g\nc:+1|g", aggregator=aggregator)
    assert ["Unable to treat metric d:1|g: more than 3 metrics between two flushes"] == log.messages
    # Gauges are remembered, but not without end either.
    assert {"d|g": 1.0, "e|g": 1.0} == flush(b"d:1|g\ne:1|g", aggregator=aggregator)
    assert {"a|g": 1.0, "e|g": 2.0} == flush(b"a:+1|g\ne:+1|g", aggregator=aggregator)


pieces = st.sampled_from(["a", "b:", ":", "1", "-2", "+3", "1e400", "nan", "|", "|c", "|g", "|ms", "|s", "|@", "0.5",
                          "0", "\n", "\r", "\0", " ", "é", "#"])
datagrams = st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda t: t.encode("utf-8", "replace")),
                               st.lists(pieces, max_size=12).map(lambda parts: "".join(parts).encode())), max_size=8)


@given(datagrams)
def test_no_input_crashes_it(data):
    """Whatever comes in, a flush is in order afterwards, and its names are ones that the index takes."""
    aggregator = Aggregator()
    aggregator.add(data, NOW)
    taken = aggregator.take()
    assert len(taken.names) == len(set(taken.names)) == len(taken.values) == len(taken.timestamps)
    assert not numpy.isnan(taken.values).any()
    assert all(name and len(name) <= 255 and "\0" not in name for name in taken.names)


@given(st.lists(st.sampled_from([line for line, _ in VALID]), max_size=20),
       st.lists(st.tuples(st.integers(0, 20), st.sampled_from([line for line, _ in INVALID])), max_size=5),
       st.data())
def test_bad_lines_and_packing_change_nothing(lines, bad, data):
    """The same valid lines give the same flush, whatever stands between them and however they are packed."""
    expected = flush(*[line.encode() for line in lines])
    mixed = list(lines)
    for position, line in bad:
        mixed.insert(position, line)
    packed = b""
    for line in mixed:
        packed += line.encode() + data.draw(st.sampled_from([b"\n", b"\0SPLIT\0"]))
    assert expected == flush(*packed.split(b"\0SPLIT\0"))


@given(st.text(), st.sampled_from(["c", "g", "ms"]), st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_is_read(name, kind, value):
    """A number comes out as it was written, unless the name breaks the line."""
    line = f"{name}:{value!r}|{kind}"
    if any(character in name for character in ":|") or not name:
        with pytest.raises(InvalidLine):
            parse_line(line)
    else:
        assert (f"{name}|{kind}", kind, value, kind == "g" and math.copysign(1, value) < 0) == parse_line(line)


def make_flush(count: int, name: str = "x") -> Flush:
    return Flush([f"{name}{i}|c" for i in range(count)], numpy.full(count, NOW).view("M8[ns]"), numpy.ones(count))


def test_outbox_is_bounded(log):
    """The oldest flushes go first, with their number in the log; one flush always has room."""
    outbox = Outbox(measures_max=10)
    for count in (4, 5, 3):
        outbox.put(make_flush(count))
    assert 8 == outbox.measures
    assert ["4 measures are lost: more than 10 wait to be written"] == log.messages
    outbox.put(make_flush(11))
    assert 11 == outbox.measures
    outbox.close()
    assert [11, None] == [found and len(found.names) for found in (outbox.get(), outbox.get())]


def test_outbox_does_not_collect_empty_flushes():
    outbox = Outbox()
    for _ in range(3):
        outbox.put(make_flush(0))
    outbox.put(make_flush(2))
    outbox.put(make_flush(0))
    outbox.close()
    assert [0, 2, None] == [found and len(found.names) for found in (outbox.get(), outbox.get(), outbox.get())]


def test_outbox_wakes_the_writer():
    """A writer that waits gets what is put in, and the end."""
    outbox = Outbox()
    got: list[Flush | None] = []
    thread = threading.Thread(target=lambda: got.extend([outbox.get(), outbox.get()]))
    thread.start()
    expected = make_flush(1)
    outbox.put(expected)
    outbox.close()
    thread.join(60)
    assert [expected, None] == got
