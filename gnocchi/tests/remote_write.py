"""What Prometheus sends, made byte by byte: an encoder that shares nothing with the decoder under test."""

import struct
from collections.abc import Iterable, Mapping

import cramjam

#: The NaN that ends a series.
STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]

Sample = tuple[float, int]
Series = tuple[Mapping[str, str], Iterable[Sample]]


def varint(number: int) -> bytes:
    number &= 2**64 - 1
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, data: bytes) -> bytes:
    """A field that has a length: text, bytes or a message."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def encode_label(name: str, value: str) -> bytes:
    return field(1, name.encode()) + field(2, value.encode())


def encode_sample(value: float, timestamp_ms: int) -> bytes:
    """As Prometheus does: a zero is left out."""
    bits = b"" if struct.pack("<d", value) == bytes(8) else b"\x09" + struct.pack("<d", value)
    return bits + (b"\x10" + varint(timestamp_ms) if timestamp_ms else b"")


def encode_series(labels: Mapping[str, str], samples: Iterable[Sample], more: bytes = b"") -> bytes:
    """`more` are fields of newer senders."""
    return b"".join([*(field(1, encode_label(name, value)) for name, value in labels.items()),
                     *(field(2, encode_sample(*sample)) for sample in samples), more])


def encode_request(*series: Series) -> bytes:
    return b"".join(field(1, encode_series(*each)) for each in series)


def compress(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))
