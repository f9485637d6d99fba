"""Text <-> datetime64[ns] and timedelta64[ns]; everything is UTC.

A timestamp is read in one of three ways, tried in this order (contract, rest 2.10): a number of seconds since
1970, ISO 8601, a duration relative to now.  Nothing here yields NaT, and nothing before 1970 or past
2262-04-11T23:47:16.854775807 (the end of datetime64[ns]).
"""

import decimal
import functools
import math
import re
import time
from collections.abc import Sequence
from typing import Any

import numpy

EPOCH = numpy.datetime64(0, "ns")

#: The largest instant and the longest span that int64 nanoseconds hold.
NS_MAX = 2**63 - 1

_NS_PER_SECOND = 10**9

_UNABLE = "Unable to convert timestamps"
_BEFORE_EPOCH = "Timestamp must be after Epoch"

#: At and above this (the year 2004) doubles are at most 0.24 us to 1 us apart, so what a client wrote with up to six
#: decimals is recovered exactly by rounding to microseconds; further digits are noise.
_DOUBLE_COARSE_S = 2.0**30

_ISO = re.compile(
    r"(?P<day>\d{4}-\d\d(?:-\d\d)?)"
    r"(?:(?<=\d{4}-\d\d-\d\d)[T ](?P<time>\d\d(?::\d\d(?::\d\d)?)?)(?:(?<=:\d\d:\d\d)[.,](?P<fraction>\d+))?)?"
    r"(?:\s*(?P<zone>Z|[+-]\d\d(?::?\d\d)?))?", re.ASCII | re.IGNORECASE)

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
#: At most one way to match any text: with `\s*[,/]?\s*` a long blank takes hours, and no thread runs meanwhile.
_SEPARATOR = r"\s*(?:[,/]\s*)?"
_WEEKS_AND_DAYS = (
    rf"(?:(?P<weeks>{_NUMBER})\s*w(?:ks?|eeks?)?{_SEPARATOR})?"
    rf"(?:(?P<days>{_NUMBER})\s*d(?:ys?|ays?)?{_SEPARATOR})?")
_SECONDS = r"(?P<seconds>\d\d(?:\.\d+)?)"

_SPAN_FORMS = tuple(re.compile(form, re.ASCII | re.IGNORECASE) for form in (
    rf"{_WEEKS_AND_DAYS}"
    rf"(?:(?P<hours>{_NUMBER})\s*h(?:rs?|ours?)?{_SEPARATOR})?"
    rf"(?:(?P<minutes>{_NUMBER})\s*m(?:ins?|inutes?)?{_SEPARATOR})?"
    rf"(?:(?P<seconds>{_NUMBER})\s*s(?:ecs?|econds?)?)?",
    rf"{_WEEKS_AND_DAYS}(?P<hours>\d+):(?P<minutes>\d\d):{_SECONDS}",
    rf"(?P<days>\d+):(?P<hours>\d\d):(?P<minutes>\d\d):{_SECONDS}",
    rf"(?P<minutes>\d\d?)?:{_SECONDS}",
))

#: Longer texts are no durations; an exponent of the decimals in them could grow without limit.
_SPAN_LENGTH_MAX = 200

#: Up to this many texts are read faster one by one (3 us each) than as arrays (20 us in all).
_FEW = 5

_UNIT_SECONDS = {"weeks": 604800, "days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}


def utcnow() -> numpy.datetime64:
    """Return the server's clock, datetime64[ns]."""
    return numpy.datetime64(time.time_ns(), "ns")


def _to_float(value: object) -> float | None:
    """Return the number a value stands for, or None when it is text of another kind."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else math.inf
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _ns_of_seconds(seconds: float) -> int:
    if not math.isfinite(seconds) or seconds >= NS_MAX / _NS_PER_SECOND:
        raise ValueError(_UNABLE)
    if seconds < 0:
        raise ValueError(_BEFORE_EPOCH)
    fraction, whole = math.modf(seconds)
    if seconds >= _DOUBLE_COARSE_S:
        return int(whole) * _NS_PER_SECOND + round(fraction * 1e6) * 1000
    return int(whole) * _NS_PER_SECOND + round(fraction * 1e9)


def _checked_instant(ns: int) -> numpy.datetime64:
    if ns < 0:
        raise ValueError(_BEFORE_EPOCH)
    if ns > NS_MAX:
        raise ValueError(_UNABLE)
    return numpy.datetime64(ns, "ns")


def _zone_seconds(zone: str) -> int:
    if zone in "Zz":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = int(digits[:2]), int(digits[2:] or 0)
    if hours > 23 or minutes > 59:
        raise ValueError(_UNABLE)
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _parse_iso(text: str) -> int | None:
    """Return nanoseconds since 1970 (unbounded), or None when the text does not look like ISO 8601 at all."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    day, clock, fraction, zone = match.group("day", "time", "fraction", "zone")
    try:
        # Whole seconds reach far beyond the years of four digits: no overflow before our own check.
        seconds = int(numpy.datetime64(day + ("T" + clock if clock else ""), "s").astype(numpy.int64))
    except ValueError:
        raise ValueError(_UNABLE) from None
    if zone:
        seconds -= _zone_seconds(zone)
    return seconds * _NS_PER_SECOND + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


def parse_timestamp(value: object, now: numpy.datetime64 | None = None) -> numpy.datetime64:
    """Read one timestamp.

    Parameters
    ----------
    value : int, float or str
        Seconds since 1970, ISO 8601 (possibly cut short, with or without zone), `now`, `today`, or a duration
        relative to now.
    now : datetime64[ns], optional
        What relative ones refer to; the server's clock when left out.

    Returns
    -------
    datetime64[ns], from 1970 on, never NaT

    Raises
    ------
    ValueError
        "Unable to convert timestamps" or "Timestamp must be after Epoch".
    """
    seconds = _to_float(value)
    if seconds is not None:
        return numpy.datetime64(_ns_of_seconds(seconds), "ns")
    if not isinstance(value, str):
        raise ValueError(_UNABLE)
    text = value.strip()
    ns = _parse_iso(text)
    if ns is not None:
        return _checked_instant(ns)
    if now is None:
        now = utcnow()
    word = text.lower()
    if word == "now":
        return now
    if word == "today":
        return now.astype("datetime64[D]").astype("datetime64[ns]")
    try:
        return _checked_instant(int(now.astype(numpy.int64)) + _parse_span_ns(text))
    except ValueError as error:
        raise ValueError(_BEFORE_EPOCH if str(error) == _BEFORE_EPOCH else _UNABLE) from None


def parse_timestamps(values: Sequence[object], now: numpy.datetime64 | None = None) -> numpy.ndarray:
    """Read the timestamps of one request, each by its own form.

    Numbers (also numbers in text) and other text do not go together: which unit the client means would be a guess.

    Parameters
    ----------
    values : sequence, length n
        As for `parse_timestamp`.
    now : datetime64[ns], optional

    Returns
    -------
    timestamps : ndarray, shape (n,), datetime64[ns]

    Raises
    ------
    ValueError
        As `parse_timestamp`; also when numbers and other text are mixed.
    """
    if not values:
        return numpy.empty(0, "datetime64[ns]")
    kinds = set(map(type, values))
    if kinds <= {int, float}:
        return _parse_numbers(values)
    if kinds == {str}:
        return _parse_texts(values, utcnow() if now is None else now)
    if any(isinstance(value, str) and _to_float(value) is None for value in values):
        raise ValueError(_UNABLE)
    return numpy.array([parse_timestamp(value) for value in values], "datetime64[ns]")


def _parse_texts(values: Sequence[Any], now: numpy.datetime64) -> numpy.ndarray:
    """Read texts of any kind.  Many clients leave out zeros of the fraction: so look at each length by itself."""
    instants = _parse_uniform_iso(values) if len(values) > _FEW else None
    if instants is not None:
        return instants
    by_length: dict[int, list[int]] = {}
    for i, text in enumerate(values):
        by_length.setdefault(len(text), []).append(i)
    instants = numpy.empty(len(values), "datetime64[ns]")
    numeric: set[bool] = set()
    for positions in by_length.values():
        texts = [values[i] for i in positions]
        parsed = _parse_uniform_iso(texts) if len(texts) > _FEW else None
        if parsed is not None:
            numeric.add(False)
            instants[positions] = parsed
        else:
            numeric.update(_to_float(text) is not None for text in texts)
            instants[positions] = [parse_timestamp(text, now) for text in texts]
    if len(numeric) > 1:
        raise ValueError(_UNABLE)
    return instants


def _parse_numbers(values: Sequence[object]) -> numpy.ndarray:
    """Do what `_ns_of_seconds` does to many numbers at once."""
    try:
        seconds = numpy.array(values, numpy.float64)
    except OverflowError:  # an integer that no double holds
        raise ValueError(_UNABLE) from None
    if not (seconds < NS_MAX / _NS_PER_SECOND).all():  # also true of NaN
        raise ValueError(_UNABLE)
    if (seconds < 0).any():
        raise ValueError(_UNABLE if numpy.isinf(seconds).any() else _BEFORE_EPOCH)
    whole = numpy.floor(seconds)
    fraction = seconds - whole
    fraction_ns = numpy.where(seconds >= _DOUBLE_COARSE_S, numpy.rint(fraction * 1e6) * 1e3, numpy.rint(fraction * 1e9))
    ns = whole.astype(numpy.int64) * _NS_PER_SECOND + fraction_ns.astype(numpy.int64)
    return ns.view("datetime64[ns]")


def _parse_uniform_iso(values: Sequence[Any]) -> numpy.ndarray | None:
    """Read full ISO date-times of one layout and zone, or return None: then each has to be looked at.

    Fast path, 60 ns each instead of 3 us (bench/bench_measures.py).
    """
    first = values[0]
    match = _ISO.fullmatch(first)
    if match is None or len(first) < 19 or len(set(map(len, values))) > 1:
        return None
    try:
        text = "".join(values).encode("ascii")
    except UnicodeEncodeError:
        return None
    rows = numpy.frombuffer(text, numpy.uint8).reshape(len(values), len(first))
    stop = max(match.end("time"), match.end("fraction"))
    template = numpy.frombuffer(first.encode("ascii"), numpy.uint8)
    same = (4, 7, 10, 13, 16, *((19,) if stop > 19 else ()), *range(stop, len(first)))
    if stop < 19 or not all((rows[:, column] == template[column]).all() for column in same):
        return None
    digits = (rows[:, column] for column in (17, 18, *range(20, stop)))
    if not all(((column >= ord("0")) & (column <= ord("9"))).all() for column in digits):
        return None
    years = numpy.ascontiguousarray(rows[:, :4]).view(">u4")  # four digits compare like numbers
    if years.min() < int.from_bytes(b"1971") or years.max() > int.from_bytes(b"2261"):
        return None
    heads = numpy.ascontiguousarray(rows[:, :stop]).view(f"S{stop}").ravel()
    try:
        instants = heads.astype("datetime64[ns]")
        zone = match.group("zone")
        return instants - numpy.timedelta64(_zone_seconds(zone), "s") if zone else instants
    except ValueError:
        return None


def _parse_span_ns(text: str) -> int:
    """Return the nanoseconds (any sign) of a duration in words or clock form; ValueError when it is neither."""
    text = text.strip()
    if len(text) > _SPAN_LENGTH_MAX:
        raise ValueError("Unable to parse timespan")
    sign = -1 if text.startswith("-") else 1
    if text[:1] in "+-":
        text = text[1:].lstrip()
    for form in _SPAN_FORMS:
        match = form.fullmatch(text)
        if match is not None and any(match.groups()):
            seconds = sum(decimal.Decimal(number) * _UNIT_SECONDS[unit]
                          for unit, number in match.groupdict().items() if number)
            return sign * int(seconds * _NS_PER_SECOND)
    raise ValueError("Unable to parse timespan")


def parse_timespan(value: object) -> numpy.timedelta64:
    """Read a duration above zero.

    Parameters
    ----------
    value : int, float or str
        Seconds, or text such as `1 hour, 30 min`, `1.5h`, `0:05:00`, `1 day, 0:00:00`.  No months or years.

    Returns
    -------
    timedelta64[ns], above zero; cut, not rounded, to whole nanoseconds

    Raises
    ------
    ValueError
        "Unable to parse timespan" or "Timespan must be positive".
    """
    seconds = _to_float(value)
    if seconds is None:
        if not isinstance(value, str):
            raise ValueError("Unable to parse timespan")
        ns = _parse_span_ns(value)
    elif not math.isfinite(seconds):
        raise ValueError("Unable to parse timespan")
    elif not seconds:
        ns = 0    # perhaps with an exponent that no decimal has, as in 1e-99999999999999999999
    else:
        # The decimal text, not the double: 3.6 seconds are exactly 3,600,000,000 ns.
        ns = int(decimal.Decimal(str(value).strip()) * _NS_PER_SECOND)
    if ns <= 0:
        raise ValueError("Timespan must be positive")
    if ns > NS_MAX:
        raise ValueError("Unable to parse timespan")
    return numpy.timedelta64(ns, "ns")


def format_timestamps(timestamps: numpy.ndarray) -> list[str]:
    """Write timestamps as ISO 8601 with `+00:00`; a fraction of 6 digits (9 if need be) only when it is not zero.

    Parameters
    ----------
    timestamps : ndarray, shape (n,), datetime64[ns], without NaT

    Returns
    -------
    list of str, length n
    """
    timestamps = numpy.asarray(timestamps, "datetime64[ns]")
    whole = timestamps.astype("datetime64[s]")
    texts = numpy.datetime_as_string(whole).tolist()
    if (whole == timestamps).all():
        return [text + "+00:00" for text in texts]
    fractions = (timestamps - whole).astype(numpy.int64).tolist()
    return [f"{text}{_format_fraction(ns)}+00:00" for text, ns in zip(texts, fractions, strict=True)]


def _format_fraction(ns: int) -> str:
    if ns == 0:
        return ""
    return f".{ns:09d}" if ns % 1000 else f".{ns // 1000:06d}"


def format_timestamp(timestamp: numpy.datetime64) -> str:
    """Write one timestamp as `format_timestamps` does."""
    return format_timestamps(numpy.array([timestamp], "datetime64[ns]"))[0]


@functools.lru_cache(maxsize=1024)
def format_timespan(span: numpy.timedelta64) -> str:
    """Write a span the way Python writes a timedelta: `0:00:03.600000`, `1 day, 0:00:00`; nanoseconds if there are."""
    seconds, ns = divmod(_to_ns(span), _NS_PER_SECOND)
    days, seconds = divmod(seconds, 86400)
    text = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    text += _format_fraction(ns)
    if days:
        text = f"{days} day{'' if days == 1 else 's'}, {text}"
    return text


def _to_ns(span: numpy.timedelta64) -> int:
    return int(span.astype("timedelta64[ns]").astype(numpy.int64))


def to_seconds(span: numpy.timedelta64) -> float:
    """Return a span in seconds, the nearest double."""
    return _to_ns(span) / _NS_PER_SECOND
