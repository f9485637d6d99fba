"""JSON as the API reads and writes it.

Text on the wire has `", "` and `": "` between items, ASCII only, and bare NaN and Infinity: what the standard library
writes.  Replies made of many measures have their own encoder, which writes the same text.
"""

import datetime
import json
import re
import uuid

from gnocchi.rest import errors

#: What parsers of the original said of an empty or cut body; clients match it.
EMPTY = "Expected object or value"

#: Larger bodies that hold more lists and objects than one per so many bytes are refused: each takes up to 100 times its
#: bytes in memory.  The shortest measure, `{"timestamp":0,"value":1}`, has 25 bytes.
SPARSE_BYTES = 1 << 20
ITEM_BYTES_MIN = 24

#: An escape that may be half of a surrogate pair: such text cannot be stored as UTF-8.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _default(value):
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return format_datetime(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"BUG: {value!r} has no JSON form")


_encode = json.JSONEncoder(default=_default).encode


def format_datetime(value: datetime.datetime) -> str:
    """ISO 8601 with `+00:00`; a naive time is UTC.  Microseconds are printed only when there are any."""
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).isoformat()


def dumps(value) -> bytes:
    """Encode a reply.  UUIDs become text, datetimes ISO 8601 with `+00:00`, sets sorted lists."""
    return _encode(value).encode("ascii")


def assemble(value) -> bytes:
    """Encode a reply as `dumps` does; bytes in its lists and objects are JSON text already."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        return b"{" + b", ".join(dumps(key) + b": " + assemble(item) for key, item in value.items()) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(assemble, value)) + b"]"
    return dumps(value)


def loads(data: bytes):
    """Decode a request's body.

    Raises
    ------
    errors.RequestError
        400 `Unable to decode body`: not JSON, nested too deep, text that has no UTF-8 form, or next to nothing but
        brackets.
    """
    if len(data) > SPARSE_BYTES and (data.count(b"[") + data.count(b"{")) * ITEM_BYTES_MIN > len(data):
        raise undecodable(f"a list or object for less than each {ITEM_BYTES_MIN} bytes")
    try:
        # By itself json.loads() takes UTF-16, too, and lone surrogates.
        value = json.loads(data.decode("utf-8-sig"))
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as e:
        raise undecodable(EMPTY if e.pos >= len(e.doc.rstrip()) else str(e)) from e
    except (ValueError, RecursionError) as e:
        raise undecodable(str(e)) from e
    return value


def undecodable(reason: str) -> errors.RequestError:
    """The error for a body that is not what its media type says."""
    return errors.RequestError(400, {"cause": "Unable to decode body", "reason": reason, "detail": []})
