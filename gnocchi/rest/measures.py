"""Measures on the wire: bodies of ingestion requests, replies of reads.

Both have a fast path over arrays.  What the fast decoder does not take (numbers in text, NaN, mistakes) goes through
the slow one, which alone decides what is an error and says so.
"""

import functools
import itertools
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy
import orjson
import voluptuous

from gnocchi import metric_ids, times
from gnocchi.carbonara import grouping
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.query.fetch import MeasuresAtGranularity
from gnocchi.resource_ids import parse_uuid
from gnocchi.rest import errors, json, schemas
from gnocchi.rest.request import Request

#: Rows of a reply encoded at once: their texts stay in the caches of the processor.  43,200 at once take half as long
#: again, and 14 MB at their height instead of 4.
ROWS_AT_ONCE = 2048


#: Up to this many rows, tables of texts do not pay.
ROWS_FEW = 512

#: ISO 8601 with `+00:00`, and six digits of a fraction that is not zero.
ORJSON_TIMES = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NAIVE_UTC


class Measure(msgspec.Struct, gc=False):
    """A measure as nearly all clients send it; other keys are ignored."""

    timestamp: str | float
    value: float


#: What the fast decoder raises at what it does not take; RecursionError also at keys that do not count.
NOT_FAST = (msgspec.MsgspecError, ValueError, RecursionError)

_decode_list = msgspec.json.Decoder(list[Measure]).decode
_decode_lists = msgspec.json.Decoder(dict[str, list[Measure]]).decode


def decode_measures(body: bytes, metric_id: uuid.UUID) -> MeasureBatch:
    """Decode `[{"timestamp": ..., "value": ...}, ...]`, the measures of one metric.

    Raises
    ------
    errors.RequestError
        400 with the texts of the contract, rest 9.1.
    """
    try:
        measures = _decode_list(body)
        timestamps = times.parse_timestamps([measure.timestamp for measure in measures])
        values = numpy.array([measure.value for measure in measures], numpy.float64)
    except NOT_FAST:
        timestamps, values = read_measures(json.loads(body), ())
    return MeasureBatch(metric_ids.pack_ids((metric_id,)), numpy.array([len(values)], numpy.int64), timestamps, values)


def decode_batch(body: bytes) -> MeasureBatch:
    """Decode `{"<metric id>": [measures], ...}`; ids in any spelling, the same one may come more than once.

    Raises
    ------
    errors.RequestError
        400 with the texts of the contract, rest 10.1.
    """
    try:
        lists = _decode_lists(body)
        metrics = _pack_canonical_ids(list(lists))
        measures = list(itertools.chain.from_iterable(lists.values()))
        counts = numpy.fromiter(map(len, lists.values()), numpy.int64, len(lists))
        timestamps = parse_by_list([measure.timestamp for measure in measures], counts)
        values = numpy.array([measure.value for measure in measures], numpy.float64)
    except NOT_FAST:
        return _read_batch(json.loads(body))
    return MeasureBatch(metrics, counts, timestamps, values)


def parse_by_list(stamps: list[Any], counts: numpy.ndarray) -> numpy.ndarray:
    """Read all lists' timestamps at once if they are of one kind, else list by list."""
    if len(set(map(type, stamps))) == 1:
        try:
            return times.parse_timestamps(stamps)
        except ValueError:
            pass  # perhaps numbers in text in one list and dates in another: allowed
    stops = numpy.cumsum(counts).tolist()
    starts = [0, *stops[:-1]]
    parts = [times.parse_timestamps(stamps[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    return numpy.concatenate([numpy.empty(0, "datetime64[ns]"), *parts])


def _pack_canonical_ids(keys: list[str]) -> numpy.ndarray:
    """Return ids given in dashed form as `S16`; ValueError for any other spelling.

    Fast path, 60 ns each instead of 1,500 (uuid.UUID).
    """
    if not keys:
        return metric_ids.pack_ids(())
    rows = numpy.frombuffer("".join(keys).encode("ascii"), numpy.uint8)
    if set(map(len, keys)) != {36}:
        raise ValueError("not the canonical form of a UUID")
    rows = rows.reshape(-1, 36)
    if not (rows[:, (8, 13, 18, 23)] == ord("-")).all():
        raise ValueError("not the canonical form of a UUID")
    digits = numpy.concatenate([rows[:, :8], rows[:, 9:13], rows[:, 14:18], rows[:, 19:23], rows[:, 24:]], axis=1)
    data = bytes.fromhex(digits.tobytes().decode("ascii"))
    if len(data) != 16 * len(keys):  # fromhex() skips blanks
        raise ValueError("not the canonical form of a UUID")
    return numpy.frombuffer(data, metric_ids.DTYPE)


def invalid(reason: str, path: Sequence[str], error_type: str | None = "dictionary value") -> errors.RequestError:
    """400 for what stands at a place of a body."""
    return schemas.invalid_input(voluptuous.Invalid(reason, list(path), error_type=error_type if path else None))


def _read_batch(body: Any) -> MeasureBatch:
    if not isinstance(body, dict):
        raise invalid("expected a dictionary", ())
    found, parts = [], []
    for key, measures in body.items():
        try:
            found.append(parse_uuid(key))
        except ValueError:
            raise invalid("not a valid value", (key,), None) from None
        parts.append(read_measures(measures, (key,)))
    return MeasureBatch(
        metric_ids.pack_ids(found),
        numpy.array([len(values) for _, values in parts], numpy.int64),
        numpy.concatenate([numpy.empty(0, "datetime64[ns]"), *(timestamps for timestamps, _ in parts)]),
        numpy.concatenate([numpy.empty(0, numpy.float64), *(values for _, values in parts)]))


def read_measures(measures: Any, path: Sequence[str]) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Read one list, measure by measure; this is what decides about errors.

    Returns (timestamps, shape (n,), datetime64[ns]; values, shape (n,), float64).
    """
    stamps = []
    if not isinstance(measures, list):
        raise invalid("unexpected measures format", path)
    for measure in measures:
        stamp = measure.get("timestamp") if isinstance(measure, dict) else None
        if stamp is None or isinstance(stamp, (list, dict)):
            raise invalid("unexpected measures format", path)
        stamps.append(stamp)
    try:
        timestamps = times.parse_timestamps(stamps)
    except ValueError as error:
        raise invalid(f"unexpected timestamp '{error}'", path) from None
    try:
        values = [float(measure["value"]) for measure in measures]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise invalid("unexpected measures value", path) from None
    return timestamps, numpy.array(values, numpy.float64)


def wants_null(request: Request) -> bool:
    """Whether the client asked for null in place of NaN and infinities, which JSON does not have."""
    return "nan=null" in request.environ.get("HTTP_ACCEPT", "").replace(" ", "")


def encode_measures(parts: Iterable[MeasuresAtGranularity], nan_null: bool = False) -> bytes:
    """Encode `[["2020-01-01T12:00:00+00:00", 60.0, 1.5], ...]`, with bare NaN and Infinity, or null in their place.

    The text is what `gnocchi.rest.json.dumps` would give for the same rows, except in how exponents are written.
    """
    texts = [text for part in parts for piece in _cut_rows(part) for text in (b", ", _encode_rows(piece, nan_null))]
    return b"".join([b"[", *texts[1:], b"]"])


def _cut_rows(part: MeasuresAtGranularity) -> Iterator[MeasuresAtGranularity]:
    for start in range(0, len(part.values), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        yield MeasuresAtGranularity(part.granularity, part.timestamps[rows], part.values[rows])


def _encode_rows(part: MeasuresAtGranularity, nan_null: bool) -> bytes:
    text, whole_us = _describe_granularity(part.granularity)
    #  ], ["2020-01-01T12:00:00+00:00", 60.0, 1.5], ["2020-...
    #  '------------ head -----------------' '-' value
    if whole_us and len(part.values) <= ROWS_FEW:
        return _encode_few(part, text, nan_null)
    texts: list[bytes] = [b""] * (2 * len(part.values))
    texts[::2] = _encode_heads(part.timestamps, text)
    texts[1::2] = _encode_values(part.values, nan_null)
    return b"".join(texts)[len(b"], "):] + b"]"


@functools.lru_cache(maxsize=1024)
def _describe_granularity(granularity: numpy.timedelta64 | str) -> tuple[bytes, bool]:
    """Return the text of a span or calendar letter, and whether its multiples are whole microseconds."""
    if isinstance(granularity, str):
        return orjson.dumps(granularity), True
    return orjson.dumps(times.to_seconds(granularity)), grouping.span_ns(granularity) % 1000 == 0


def _encode_few(part: MeasuresAtGranularity, granularity: bytes, nan_null: bool) -> bytes:
    """Encode rows of whole microseconds, which orjson can write.  Fast path for few: 14 us for 60 instead of 40."""
    heads = orjson.dumps(numpy.ascontiguousarray(part.timestamps), option=ORJSON_TIMES)[1:-1].split(b",")
    separator = b", " + granularity + b", "
    return b"[" + b"], [".join([head + separator + value for head, value in zip(
        heads, _encode_values(part.values, nan_null), strict=True)]) + b"]"


def _encode_values(values: numpy.ndarray, nan_null: bool) -> list[bytes]:
    values = numpy.ascontiguousarray(values, numpy.float64)
    texts = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    if nan_null:
        return texts
    for i in numpy.flatnonzero(~numpy.isfinite(values)).tolist():  # orjson writes null for these
        texts[i] = b"NaN" if numpy.isnan(values[i]) else b"Infinity" if values[i] > 0 else b"-Infinity"
    return texts


@functools.cache
def _clock_texts() -> tuple[numpy.ndarray, numpy.ndarray]:
    """Texts of each minute of a day, shape (1440,), `S6`, and of each second of a minute, shape (60,), `S2`."""
    return (numpy.array([f"{minute // 60:02d}:{minute % 60:02d}:" for minute in range(1440)], "S6"),
            numpy.array([f"{second:02d}" for second in range(60)], "S2"))


def _encode_heads(timestamps: numpy.ndarray, granularity: bytes) -> list[bytes]:
    """Return what stands before each value, from the end of the row before it on.

    Fast path for whole seconds, 35 ns each instead of 250: the dates are ascending, so few differ; the rest is looked
    up in tables.
    """
    seconds = timestamps.astype("datetime64[s]")
    if not (seconds == timestamps).all():
        return [b'], ["' + text.encode("ascii") + b'", ' + granularity + b", "
                for text in times.format_timestamps(timestamps)]
    template = b'], ["YYYY-mm-ddTHH:MM:SS+00:00", ' + granularity + b", "
    day_at, size = template.index(b"Y"), len(template)
    rows = numpy.frombuffer(bytearray(template * len(seconds)), numpy.dtype({
        "names": ["day", "minute", "second"], "formats": ["S10", "S6", "S2"],
        "offsets": [day_at, day_at + 11, day_at + 17], "itemsize": size}))
    minutes, second_texts = _clock_texts()
    days = seconds.astype("datetime64[D]")
    runs = numpy.flatnonzero(numpy.concatenate([[True], days[1:] != days[:-1]]))
    lengths = numpy.diff(runs, append=len(days))
    rows["day"] = numpy.repeat(numpy.datetime_as_string(days[runs]).astype("S10"), lengths)
    of_day = (seconds - days).astype(numpy.int64)
    rows["minute"] = minutes[of_day // 60]
    rows["second"] = second_texts[of_day % 60]
    return rows.view(f"S{size}").tolist()
