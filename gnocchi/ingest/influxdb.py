"""InfluxDB's line protocol: from text to measures.

    measurement[,tag=value...] field=value[,field=value...] [timestamp]

Source: contract, ingest protocols 2.3, and https://docs.influxdata.com/influxdb/v1/write_protocols/line_protocol_reference/
"""

import math
import re
import uuid
from typing import NamedTuple

import numpy

from gnocchi import resource_ids, times
from gnocchi.common.cache import Recent
from gnocchi.exceptions import InvalidInput
from gnocchi.ingest.batch import NamedBatch, WantedMetric, WantedResource

#: Nanoseconds of a timestamp's unit, by what clients call it.
PRECISIONS = {"": 1, "n": 1, "ns": 1, "u": 10**3, "us": 10**3, "\N{MICRO SIGN}": 10**3, "ms": 10**6, "s": 10**9,
              "m": 60 * 10**9, "h": 3600 * 10**9}

#: Beginnings of lines (measurement and tags) that are remembered, about 1 kB each, and as many again; fields of all of
#: them, about 500 bytes each.
HEADS_REMEMBERED = 20_000
FIELDS_REMEMBERED = 100_000

#: Longer beginnings and names are not remembered, or some clients could take all memory.
REMEMBERED_LENGTH_MAX = 1000

#: Characters that are cut into lines at once: lines take up to twenty times the memory of their text.
BLOCK_LENGTH = 1_000_000

# Each alternative of these begins with other characters than its neighbours, so that no text takes long.
_NAME = r'(?:"(?:[^"\\\n]|\\[^\n])*+"|(?!")(?:[^ ,=\\\n]|\\[ ,=]?+)++)'
_MEASUREMENT = re.compile(rf"({_NAME})")
_TAG = re.compile(rf",({_NAME})=({_NAME})")
_BLANKS = re.compile(r" ++")
_FIELD = re.compile(rf'({_NAME})=(?:("(?:[^"\\]|\\.)*+")|([^ ,="\\\n]++))', re.DOTALL)
_END = re.compile(r"(?: ++(-?[0-9]++))?+ *+(?:\n|\Z)")
_ESCAPED = re.compile(r"\\([ ,=])")
#: Lines without anything, and comments: all that follow each other, for there may be millions.
_NOTHING = re.compile(r"(?: *+(?:#[^\n]*+)?+\n)*+(?: *+(?:#[^\n]*+)?+\Z)?+")
_NOTHING_BETWEEN = re.compile(r"\n(?: *+(?:#[^\n]*+)?+\n)++")

_INTEGER = re.compile(r"[+-]?[0-9]++i|[0-9]++u")
_DECIMAL = r"[+-]?(?:[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?+"
_NUMBER = re.compile(_DECIMAL)
#: FAST PATH: all values of a request at once.
_NUMBERS = re.compile(rf"(?:{_DECIMAL}i?+,)*+")
_TRUE, _FALSE = frozenset(("t", "T", "true", "True", "TRUE")), frozenset(("f", "F", "false", "False", "FALSE"))

#: What numpy is given for an integer that `_NUMBERS` lets through, though it has a fraction.
_FRACTION = re.compile(r"[.eE][^,]*i,")


class InvalidLine(InvalidInput):
    """A line cannot be taken.  `detail` says what of it, in the contract's words."""

    def __init__(self, detail: str, reason: str):
        super().__init__(reason)
        self.detail = detail


def _unparsable(number: int, reason: str) -> InvalidLine:
    return InvalidLine("line", f"Unable to parse line {number}: {reason}")


class Context(NamedTuple):
    """Who writes, and what is the same in all lines of a request.

    tag : name of the tag whose value names the resource
    """

    creator: str
    resource_type: str
    tag: str


class _Head:
    """What a line's beginning stands for: a resource, and the beginning and end of the names of metrics."""

    def __init__(self, resource_id: uuid.UUID, resource: WantedResource, measurement: str,
                 tags: dict[str, str]) -> None:
        self.resource_id = resource_id
        self.resource = resource
        self._begin = f"{measurement}.".replace("/", "_")
        pairs = [f"{name}={value}" for name, value in sorted(tags.items())]
        self._end = f"@{','.join(pairs)}".replace("/", "_") if pairs else ""
        #: Of the fields met lately.
        self.metrics: dict[str, WantedMetric] = {}

    def make_metric(self, field: str) -> WantedMetric:
        return WantedMetric(self.resource_id, f"{self._begin}{field.replace('/', '_')}{self._end}")


class _Memory:
    """What the beginnings of lines stand for, and their fields."""

    def __init__(self) -> None:
        self.heads: Recent[tuple[Context, str], _Head] = Recent(HEADS_REMEMBERED)
        self._fields = 0

    def remember_head(self, context: Context, text: str, head: _Head) -> None:
        if len(text) + len(context.resource_type) <= REMEMBERED_LENGTH_MAX:
            self.heads.put((context, text), head)

    def make_metric(self, head: _Head, field: str) -> WantedMetric:
        """Make the metric of a field, and remember it."""
        metric = head.make_metric(field)
        if len(metric.name) <= REMEMBERED_LENGTH_MAX:
            head.metrics[field] = metric
            self._fields += 1
            if self._fields > FIELDS_REMEMBERED:
                self.heads = Recent(HEADS_REMEMBERED)
                self._fields = 0
        return metric


class Decoder:
    """Decodes requests, and remembers what the beginnings of lines stand for.  May be used by several threads."""

    def __init__(self) -> None:
        self._memory = _Memory()

    def decode(self, body: bytes, context: Context, now_ns: int, precision: str | None = None) -> NamedBatch:
        """Decode lines.

        Parameters
        ----------
        body : bytes
        now_ns : int
            Timestamp of lines without one, nanoseconds since 1970.
        precision : str or None
            Unit of timestamps, one of PRECISIONS; None: nanoseconds.

        Raises
        ------
        InvalidLine
            The first line that cannot be taken, and why.
        InvalidInput
            The precision is unknown.
        """
        unit_ns = PRECISIONS.get(precision or "")
        if unit_ns is None:
            raise InvalidInput(f"precision {precision[:40]!r} is none of n, u, ms, s, m and h" if precision else "")
        try:
            text = body.decode()
        except UnicodeDecodeError as e:
            raise _unparsable(body.count(b"\n", 0, e.start) + 1, "it is not UTF-8") from e
        if "\r" in text:
            text = text.replace("\r\n", "\n").removesuffix("\r")
        try:
            return _Reader(self._memory, context, text, now_ns, unit_ns).read()
        except InvalidLine:
            # The fast path looks at values last: this tells the first mistake.
            return _Reader(self._memory, context, text, now_ns, unit_ns).read(fast=False)


class _Reader:
    """Reads one request."""

    def __init__(self, memory: _Memory, context: Context, text: str, now_ns: int, unit_ns: int) -> None:
        self._memory = memory
        self._known = memory.heads
        self._context = context
        self._text = text
        self._now_ns = now_ns
        self._unit_ns = unit_ns
        self._stamp_max = times.NS_MAX // unit_ns
        self._number = 1
        # One item for each line.
        self._heads: list[_Head] = []
        self._counts: list[int] = []
        self._stamps_ns: list[int] = []
        # One item for each measure.
        self._metrics: list[WantedMetric] = []
        self._values: list[str] = []
        self._last_stamp = "", now_ns

    def read(self, fast: bool = True) -> NamedBatch:
        """Raises InvalidLine: the first one that is wrong if not `fast`, else any with any number."""
        if fast and '"' not in self._text and "\\" not in self._text:
            self._read_unquoted()
        else:
            self._read_quoted(fast)
        stamps = numpy.repeat(numpy.array(self._stamps_ns, numpy.int64), self._counts).view("M8[ns]")
        # By name first: that hashes faster.
        heads = {head.resource.original_id: head for head in self._heads}
        return NamedBatch({head.resource_id: head.resource for head in heads.values()}, self._metrics,
                          numpy.ones(len(self._metrics), numpy.int64), stamps, self._read_values())

    def _read_unquoted(self) -> None:
        """FAST PATH: no line goes on in the next one, and numbers of lines do not matter."""
        if any(text in self._text for text in ("\n\n", "\n ", "#")):
            self._text = _NOTHING_BETWEEN.sub("\n", self._text)
        text, position = self._text, 0
        while position < len(text):
            block_end = text.find("\n", position + BLOCK_LENGTH)
            for line in text[position:block_end if block_end >= 0 else len(text)].split("\n"):
                if not self._read_plain(line):
                    self._read_any(position)
                position += len(line) + 1
                self._number += 1

    def _read_quoted(self, fast: bool) -> None:
        text, position = self._text, 0
        while position < len(text):
            end = text.find("\n", position)
            line = text[position:end] if end >= 0 else text[position:]
            if fast and not ('"' in line or "\\" in line) and self._read_plain(line):
                position += len(line) + 1
                self._number += 1
            else:
                end = self._read_any(position)
                self._number += text.count("\n", position, end)
                position = end

    def _read_plain(self, line: str) -> bool:
        """Take a line in that nothing is quoted and whose beginning is known, or return False.  FAST PATH, 1 us."""
        parts = line.split(" ")
        if len(parts) == 3:
            begin, text, stamp = parts
        elif len(parts) == 2:
            begin, text = parts
            stamp = ""
        else:
            return False
        head = self._known.get((self._context, begin))
        if head is None:
            return False
        if "," in text:
            pairs = [field.split("=", 1) for field in text.split(",")]
            try:
                fields = dict(pairs)
            except ValueError:
                return False
            if len(fields) < len(pairs):
                return False
        else:
            name, _, value = text.partition("=")
            fields = {name: value}
        if "" in fields or not (stamp == "" or stamp.isascii() and stamp.isdigit()):
            return False
        self._add(head, fields, stamp)
        return True

    def _add(self, head: _Head, fields: dict[str, str], stamp: str) -> None:
        last, stamp_ns = self._last_stamp
        if stamp != last:
            stamp_ns = self._read_stamp(stamp) if stamp else self._now_ns
            self._last_stamp = stamp, stamp_ns
        if not fields:
            return
        self._heads.append(head)
        self._counts.append(len(fields))
        self._stamps_ns.append(stamp_ns)
        self._metrics += [head.metrics.get(field) or self._memory.make_metric(head, field) for field in fields]
        self._values += fields.values()

    def _read_stamp(self, text: str) -> int:
        count = int(text) if len(text) < 20 else times.NS_MAX + 1
        if count < 0:
            raise _unparsable(self._number, "timestamp is before 1970")
        if count > self._stamp_max:
            raise _unparsable(self._number, "timestamp is beyond 2262; check the argument precision")
        return count * self._unit_ns

    def _read_any(self, position: int) -> int:
        """Take the line in that begins at a position, and return where the next one does.

        This is what decides about errors.  A quoted value may hold line breaks.
        """
        text, number = self._text, self._number
        match = _BLANKS.match(text, position)
        begin = match.end() if match else position
        if text.startswith(("\n", "#"), begin) or begin == len(text):
            return _NOTHING.match(text, position).end()    # type: ignore[union-attr]
        if (match := _MEASUREMENT.match(text, begin)) is None:
            raise _unparsable(number, "measurement is missing")
        measurement, tags, position = _unquote(match[1]), {}, match.end()
        while text.startswith(",", position):
            if (match := _TAG.match(text, position)) is None:
                raise _unparsable(number, "a tag is not name=value")
            tags[_unquote(match[1])] = _unquote(match[2])
            position = match.end()
        head = self._find_head(text[begin:position], measurement, tags)
        if (match := _BLANKS.match(text, position)) is None:
            raise _unparsable(number, "fields are missing" if text[position:position + 1] in ("", "\n")
                              else f"unexpected {text[position]!r} in measurement or tags")
        fields, position = self._read_fields(match.end())
        if (match := _END.match(text, position)) is None:
            raise _unparsable(number, "what follows the fields is not a timestamp")
        self._add(head, fields, match[1] or "")
        return match.end()

    def _find_head(self, text: str, measurement: str, tags: dict[str, str]) -> _Head:
        plain = '"' not in text and "\\" not in text
        head = self._known.get((self._context, text)) if plain else None
        if head is not None:
            return head
        original_id = tags.pop(self._context.tag, None)
        if original_id is None:
            raise InvalidLine("key", f"Unable to find key `{self._context.tag}' in tags of line {self._number}")
        if not original_id:
            raise _unparsable(self._number, f"tag `{self._context.tag}' is empty")
        try:
            resource_id = resource_ids.resource_id(original_id, self._context.creator)
        except InvalidInput as e:
            raise _unparsable(self._number, f"tag `{self._context.tag}': {e}") from e
        head = _Head(resource_id, WantedResource(original_id, self._context.resource_type), measurement, tags)
        if plain:
            self._memory.remember_head(self._context, text, head)
        return head

    def _read_fields(self, position: int) -> tuple[dict[str, str], int]:
        """Return the numbers and booleans among the fields that begin at a position, and where they end."""
        fields: dict[str, str] = {}
        while True:
            match = _FIELD.match(self._text, position)
            if match is None:
                raise _unparsable(self._number, "a field is not name=value")
            name, value = _unquote(match[1]), match[3]
            position = match.end()
            if value is not None:
                _read_value(value, self._number)
                fields[name] = value
            else:
                fields.pop(name, None)
            if not self._text.startswith(",", position):
                return fields, position
            position += 1

    def _read_values(self) -> numpy.ndarray:
        """Return the values, shape (n,), float64."""
        texts = self._values
        joined = ",".join([*texts, ""])
        if _NUMBERS.fullmatch(joined) and not _FRACTION.search(joined):
            values = [float(text[:-1] if text[-1] == "i" else text) for text in texts]
        else:
            values = [_read_value(text, self._number) for text in texts]
        array = numpy.array(values, numpy.float64)
        if not numpy.isfinite(array).all():
            raise _too_large(self._number)
        return array


def _unquote(name: str) -> str:
    """Return what a measurement, tag, tag's value or field is called."""
    if name.startswith('"'):
        return name[1:-1].replace('\\"', '"')
    return _ESCAPED.sub(r"\1", name) if "\\" in name else name


def _too_large(number: int) -> InvalidLine:
    return _unparsable(number, "a value is too large")


def _read_value(text: str, number: int) -> float:
    if _NUMBER.fullmatch(text) or _INTEGER.fullmatch(text):
        value = float(text.rstrip("iu"))
        if math.isinf(value):
            raise _too_large(number)
        return value
    if text in _TRUE:
        return 1.0
    if text in _FALSE:
        return 0.0
    raise _unparsable(number, f"`{text[:40]}' is no number, boolean or quoted text")
