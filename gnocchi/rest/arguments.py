"""Query arguments of one value each; arguments that nobody asks for are ignored."""

import functools

import numpy

from gnocchi import times
from gnocchi.rest import errors
from gnocchi.rest.request import Request

_TRUE = frozenset(("1", "t", "true", "on", "y", "yes"))
_FALSE = frozenset(("0", "f", "false", "off", "n", "no"))
_WORDS = ", ".join(f"'{word}'" for word in sorted(_TRUE | _FALSE))


#: Clients ask for few spans, again and again.
_parse_timespan = functools.lru_cache(maxsize=128)(times.parse_timespan)


def read_text(request: Request, name: str) -> str | None:
    """Return an argument, or None when it is not there; 400 when it is there more than once."""
    values = request.GET.getall(name)
    if len(values) > 1:
        raise errors.argument_error(name, "must not be given more than once")
    return values[0] if values else None


def read_bool(request: Request, name: str, default: bool) -> bool:
    """Return a switch; clients write it in many ways.  Raises errors.RequestError 400."""
    text = read_text(request, name)
    if text is None:
        return default
    word = text.strip().lower()
    if word not in _TRUE and word not in _FALSE:
        raise errors.RequestError(
            400, f"Unable to parse `{name}': Unrecognized value '{text}', acceptable values are: {_WORDS}")
    return word in _TRUE


def read_timestamp(request: Request, name: str) -> numpy.datetime64 | None:
    """Return a datetime64[ns] or None.  Raises errors.RequestError 400."""
    text = read_text(request, name)
    if text is None:
        return None
    try:
        return times.parse_timestamp(text)
    except ValueError:
        raise errors.argument_error(name, "Must be a datetime or a timestamp") from None


def read_timespan(request: Request, name: str) -> numpy.timedelta64 | None:
    """Return a timedelta64[ns] above zero or None.  Raises errors.RequestError 400."""
    text = read_text(request, name)
    if text is None:
        return None
    try:
        return _parse_timespan(text)
    except ValueError as e:
        raise errors.argument_error(name, str(e)) from None
