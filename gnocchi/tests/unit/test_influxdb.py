"""The decoder of the line protocol: contract, ingest protocols 2.3 and 2.4."""

import gc
import itertools
import math
import time

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi import times
from gnocchi.exceptions import InvalidInput
from gnocchi.ingest import influxdb
from gnocchi.ingest.batch import WantedMetric, WantedResource
from gnocchi.resource_ids import resource_id

NOW_NS = 1_700_000_000_123_456_789
STAMP = 1510581804179554816
HOST = influxdb.Context("admin", "influxdb", "host")

characters = st.characters(exclude_categories=["Cs"], exclude_characters='\0\n\r\\"/')
names = st.text(characters, min_size=1, max_size=10).filter(lambda name: not name.startswith((" ", "#")))
numbers = st.floats(allow_nan=False, allow_infinity=False)
points = st.lists(st.tuples(names, names, st.dictionaries(names.filter(lambda name: name != "host"), names, max_size=3),
                            st.dictionaries(names, st.integers() | numbers | st.booleans() | st.none(), min_size=1,
                                            max_size=3),
                            st.none() | st.integers(0, times.NS_MAX)), max_size=5)


def decode(text, context=HOST, precision=None):
    """Return what becomes of a body that is sent twice, so that all beginnings are known the second time."""
    decoder = influxdb.Decoder()
    body = text if isinstance(text, bytes) else text.encode()
    decoder.decode(body, context, NOW_NS, precision)
    return decoder.decode(body, context, NOW_NS, precision)


def list_measures(batch):
    """Return (resource's name, metric's name, nanoseconds, value) of each measure."""
    assert batch.counts.tolist() == [1] * len(batch.metrics)
    return [(batch.resources[metric.resource_id].original_id, metric.name, stamp, value)
            for metric, stamp, value in zip(batch.metrics, batch.timestamps.view(numpy.int64).tolist(),
                                            batch.values.tolist(), strict=True)]


def escape(name):
    for character in " ,=":
        name = name.replace(character, f"\\{character}")
    return name


def write_value(value):
    if value is None:
        return '"say \\"x, y=z\\" \n#"'
    return f"{value}i" if type(value) is int else str(value)


@given(points)
def test_round_trip(wanted):
    """Whatever is written arrives, in order."""
    lines, expected = [], []
    for measurement, host, tags, fields, stamp in wanted:
        head = ",".join([escape(measurement), *(f"{escape(name)}={escape(value)}"
                                                for name, value in {"host": host, **tags}.items())])
        body = ",".join(f"{escape(name)}={write_value(value)}" for name, value in fields.items())
        lines.append(f"{head} {body}" + ("" if stamp is None else f" {stamp}"))
        end = "@" + ",".join(f"{name}={tags[name]}" for name in sorted(tags)) if tags else ""
        expected += [(host, f"{measurement}.{name}{end}", NOW_NS if stamp is None else stamp, float(value))
                     for name, value in fields.items() if value is not None]
    if any(abs(measure[3]) == math.inf for measure in expected):
        return
    assert expected == list_measures(decode("\n".join(lines)))


@pytest.mark.parametrize(("line", "tag", "measures"), [
    (f"mymetric,host=foobar,mytag=myvalue field=123 {STAMP}", "host",
     [("foobar", "mymetric.field@mytag=myvalue", STAMP, 123.0)]),
    (f"mymetric,host=foobar,mytag=myvalue field=123 {STAMP}", "mytag",
     [("myvalue", "mymetric.field@host=foobar", STAMP, 123.0)]),
    ("cpu,path=/foobar,mytag=myvalue field=43i", "mytag", [("myvalue", "cpu.field@path=_foobar", NOW_NS, 43.0)]),
    ("up,host=a up=1 123234", "host", [("a", "up.up", 123234, 1.0)]),
    ("up,host=a up=3 ", "host", [("a", "up.up", NOW_NS, 3.0)]),
    ('system,host=a uptime_format="3 days, 21:42" 1', "host", []),
    ('system,host=a s="x\ny",n=1 5\nb,host=b v=2 6', "host", [("a", "system.n", 5, 1.0), ("b", "b.v", 6, 2.0)]),
    ("m,host=a f=-3i,g=5 1510", "host", [("a", "m.f", 1510, -3.0), ("a", "m.g", 1510, 5.0)]),
    ("m,host=a f=3u 7", "host", [("a", "m.f", 7, 3.0)]),
    ("m,host=a f=1.5e3,g=+2,h=-1E-2,i=.5,j=5. 7", "host",
     [("a", f"m.{name}", 7, value) for name, value in zip("fghij", (1500.0, 2.0, -0.01, 0.5, 5.0), strict=True)]),
    ("m,host=a a=t,b=T,c=true,d=True,e=TRUE,f=f,g=F,h=false,i=False,j=FALSE 7", "host",
     [("a", f"m.{name}", 7, float(name < "f")) for name in "abcdefghij"]),
    ("m,host=a  f=1   7  ", "host", [("a", "m.f", 7, 1.0)]),
    ("m,host=a f=1,f=2 7", "host", [("a", "m.f", 7, 2.0)]),
    ("m,host=a,host=b f=1 7", "host", [("b", "m.f", 7, 1.0)]),
    ("m,host=a,z=1,b=2 f=1 7", "host", [("a", "m.f@b=2,z=1", 7, 1.0)]),
    ('"my m",host="a \\"b\\"" "f x"=1 7', "host", [('a "b"', "my m.f x", 7, 1.0)]),
    ("a\\ b\\,c\\=d,host=x\\ y f\\ g=1 7", "host", [("x y", "a b,c=d.f g", 7, 1.0)]),
    ("m,host=C:\\Windows f=1 7", "host", [("C:\\Windows", "m.f", 7, 1.0)]),
    ('m,host=5" f=1 7\nm,host=b f=2 8', "host", [('5"', "m.f", 7, 1.0), ("b", "m.f", 8, 2.0)]),
    ("m,host=a f=1 7\r\n\r\nm,host=a f=2 8\r", "host", [("a", "m.f", 7, 1.0), ("a", "m.f", 8, 2.0)]),
    ("# a comment\n\n   \n  # another\nm,host=a f=1 7\n\n#", "host", [("a", "m.f", 7, 1.0)]),
    ("", "host", []),
    (f"m,host=a f=1 {times.NS_MAX}", "host", [("a", "m.f", times.NS_MAX, 1.0)]),
])
def test_line(line, tag, measures):
    """What is taken, and for what."""
    assert measures == list_measures(decode(line, HOST._replace(tag=tag)))


@pytest.mark.parametrize(("line", "reason"), [
    ("measurement, field=1", "a tag is not name=value"),
    ("measurement, field=1 123", "a tag is not name=value"),
    ("measurement,host=value 123", "a field is not name=value"),
    ("measurement,host=value , 123", "a field is not name=value"),
    (",host=value 123", "measurement is missing"),
    ("foobar,host=value field=string 123", "`string' is no number, boolean or quoted text"),
    ("m,host=a", "fields are missing"),
    ("m,host=a ", "a field is not name=value"),
    ("m,host= f=1", "a tag is not name=value"),
    ("m,host=a,b f=1", "a tag is not name=value"),
    ("m,host=a=b f=1", "unexpected '=' in measurement or tags"),
    ("m,host=a f=", "a field is not name=value"),
    ("m,host=a =1", "a field is not name=value"),
    ("m,host=a f=1,", "a field is not name=value"),
    ("m,host=a f=1, g=2", "a field is not name=value"),
    ("m,host=a f=1=2", "what follows the fields is not a timestamp"),
    ("m,host=a f=1 12 13", "what follows the fields is not a timestamp"),
    ("m,host=a f=1 1.5", "what follows the fields is not a timestamp"),
    ("m,host=a f=1 2020-01-01", "what follows the fields is not a timestamp"),
    ("m,host=a f=1 -5", "timestamp is before 1970"),
    (f"m,host=a f=1 {2**63}", "timestamp is beyond 2262; check the argument precision"),
    (f"m,host=a f=1 {'9' * 5000}", "timestamp is beyond 2262; check the argument precision"),
    ('m,host=a f="abc', "a field is not name=value"),
    ('m,host=a f="a"b', "what follows the fields is not a timestamp"),
    ('"m,host=a f=1', "measurement is missing"),
    ('m,host="" f=1', "tag `host' is empty"),
    ("m,host=a/b f=1", "tag `host': '/' is not supported in resource id"),
    (f"m,host={'a' * 290} f=1", "tag `host': transformable resource id >289 max allowed characters"),
    *((f"m,host=a f={value} 1", f"`{value}' is no number, boolean or quoted text") for value in (
        "NaN", "inf", "-inf", "1_000", "0x10", "1e", "-", ".", "1.5i", "1e3i", "i", "-3u", "tRUE", "--1",
        "\N{FULLWIDTH DIGIT ONE}")),
    ("m,host=a f=1e999 1", "a value is too large"),
    (f"m,host=a f={'9' * 400}i 1", "a value is too large"),
])
def test_line_that_is_not_taken(line, reason):
    """The error says which line, counted from 1 with empty ones, and why."""
    for before, known in itertools.product(("", "\n\n", 'm,host=a f="x\n\ny"\n#\n'), (False, True)):
        decoder = influxdb.Decoder()
        if known:
            decoder.decode(b"m,host=a f=1", HOST, NOW_NS)
        with pytest.raises(influxdb.InvalidLine) as caught:
            decoder.decode(f"{before}{line}\nm,host=a f=wrong".encode(), HOST, NOW_NS)
        number = 1 + before.count("\n")
        assert ("line", f"Unable to parse line {number}: {reason}") == (caught.value.detail, str(caught.value))


def test_resource_tag_is_missing():
    """The error names the tag."""
    with pytest.raises(influxdb.InvalidLine) as caught:
        decode("m,host=a f=1\nm,mytag=myvalue f=1")
    assert ("key", "Unable to find key `host' in tags of line 2") == (caught.value.detail, str(caught.value))


def test_not_utf8():
    """The line is named."""
    with pytest.raises(influxdb.InvalidLine, match="Unable to parse line 2: it is not UTF-8"):
        decode(b"m,host=a f=1\nm,host=\xff f=1")


@pytest.mark.parametrize(("precision", "factor"), [
    (None, 1), ("", 1), ("n", 1), ("ns", 1), ("u", 10**3), ("us", 10**3), ("\u00b5", 10**3), ("ms", 10**6),
    ("s", 10**9), ("m", 60 * 10**9), ("h", 3600 * 10**9)])
def test_precision(precision, factor):
    """Timestamps have the unit that the argument names; what is too large for it is refused."""
    last = times.NS_MAX // factor
    batch = decode(f"m,host=a f=1 {last}\nm,host=a f=1", precision=precision)
    assert [last * factor, NOW_NS] == batch.timestamps.view(numpy.int64).tolist()
    with pytest.raises(influxdb.InvalidLine, match="line 1: timestamp is beyond 2262"):
        decode(f"m,host=a f=1 {last + 1}", precision=precision)


def test_unknown_precision():
    """It would put measures elsewhere in time."""
    with pytest.raises(InvalidInput, match="precision 'd' is none of n, u, ms, s, m and h"):
        decode("m,host=a f=1 1", precision="d")


def test_resources():
    """Their type is the database; the id is that of the text, for its creator."""
    batch = decode("m,host=a f=1\nm,host=b f=1\nm,host=a g=1", HOST._replace(creator="alice", resource_type="db"))
    assert {resource_id(name, "alice"): WantedResource(name, "db") for name in "ab"} == batch.resources


@pytest.mark.parametrize("text", ["\\" * 50_000, "a" * 50_000, '"' * 50_000, 'm,host=a f="' + '\\"' * 50_000,
                                  "m," + "a=b," * 20_000, "m,host=a " + "f=1," * 20_000, " " * 50_000 + "x",
                                  "m,host=a f=1" + " " * 50_000 + "x", "m,host=a f=" + "1" * 50_000 + "x",
                                  "m,host=a f=\"\\\n" * 5_000])
def test_odd_text_takes_no_long_time(text):
    """No text makes a pattern try again and again; the worst took hours if one did."""
    started = time.process_time()
    with pytest.raises(InvalidInput):
        decode(text)
    assert time.process_time() - started < 30


@given(st.text("m,host=a f1\"\\\n \r#-.eiut", max_size=60))
def test_any_text(text):
    """Whatever comes is decoded or refused; the second time, when beginnings are known, as the first time."""
    decoder = influxdb.Decoder()
    results = []
    for _ in range(2):
        try:
            results.append(list_measures(decoder.decode(text.encode(), HOST, NOW_NS)))
        except influxdb.InvalidLine as e:
            results.append(str(e))
    assert results[0] == results[1]


def test_memory_is_bounded(monkeypatch):
    """Whatever clients make up, so much is remembered and no more."""
    monkeypatch.setattr(influxdb, "FIELDS_REMEMBERED", 10)
    monkeypatch.setattr(influxdb, "HEADS_REMEMBERED", 5)
    decoder = influxdb.Decoder()
    gc.collect()
    before = len([each for each in gc.get_objects() if isinstance(each, WantedMetric)])
    for i in range(100):
        decoder.decode(f"m{i % 7},host=a f{i}=1\nm,host={'x' * 200},tag={'x' * 1000}{i} f=1".encode(), HOST, NOW_NS)
    gc.collect()
    assert len([each for each in gc.get_objects() if isinstance(each, WantedMetric)]) - before <= 20


@pytest.mark.parametrize("nothing", ["\n", "#\n", " \n", "  # m,host=a f=1\n", '# "\n'])
def test_lines_without_anything(nothing):
    """They count as lines, and millions of them cost nothing."""
    many = nothing * (1_500_000 // len(nothing))
    started = time.process_time()
    for end in ("", "#", "\n"):
        batch = decode(f"{many}m,host=a f=1\n{many}m,host=a f=2\n{many}{end}")
        assert [1, 2] == batch.values.tolist()
    with pytest.raises(influxdb.InvalidLine, match=f"line {2 * many.count(nothing) + 2}: a field is not name=value"):
        decode(f"{many}m,host=a f=1\n{many}m,host=a f")
    assert time.process_time() - started < 15


def test_blocks_of_lines(monkeypatch):
    """A text is read alike whatever the size of the pieces that it is cut into."""
    text = "m,host=a f=1\n\n#\n m,host=b f=2 5\nm,host=c f=3,g=4"
    whole = list_measures(decode(text))
    assert len(whole) == 4
    for length in range(len(text) + 2):
        monkeypatch.setattr(influxdb, "BLOCK_LENGTH", length)
        assert whole == list_measures(decode(text)) == list_measures(decode(text + "\n"))


def test_long_databases_are_not_remembered():
    """Nobody has looked whether they exist."""
    decoder = influxdb.Decoder()
    context = HOST._replace(resource_type="d" * 2000)
    decoder.decode(b"m,host=a f=1", context, NOW_NS)
    assert decoder._memory.heads.get((context, "m,host=a")) is None
    decoder.decode(b"m,host=a f=1", HOST, NOW_NS)
    assert decoder._memory.heads.get((HOST, "m,host=a")) is not None
