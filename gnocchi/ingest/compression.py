"""Compressed bodies, with a limit on what they become: a few kilobytes can hold gigabytes."""

import types
import zlib
from collections.abc import Callable

from gnocchi.exceptions import InvalidInput, TooLarge

#: A copy in snappy takes 3 bytes and gives 64 at most; more than that no body can become.
SNAPPY_RATIO_MAX = 22

#: What is taken for a zstd body at first, as a multiple of its size, and how it grows while that is too little.
ZSTD_RATIO = 8
ZSTD_GROWTH = 4

#: What cramjam says when the buffer is too small.
_BUFFER_FULL = "failed to write whole buffer"


def decompress(body: bytes, encoding: str | None, limit: int) -> bytes:
    """Undo what the header Content-Encoding says.

    Parameters
    ----------
    body : bytes
        An empty one stays empty: some clients name an encoding with every request.
    encoding : str or None
        Value of the header; one of `identity`, `gzip`, `deflate`, `snappy` (its block format) and `zstd`.
    limit : int
        Bytes that the result may have; no more than about that is allocated.

    Raises
    ------
    InvalidInput
        The body is not in that encoding, or is cut; the encoding is unknown.
    TooLarge
        The result would be larger than `limit`.
    NotImplementedError
        A package for it is not installed.
    """
    name = (encoding or "identity").strip().lower()
    if name == "identity" or not body:
        return body
    function = DECOMPRESSORS.get(name)
    if function is None:
        raise InvalidInput(f"Content-Encoding {name[:40]!r} is not supported; these are: "
                           f"{', '.join(['identity', *DECOMPRESSORS])}")
    return function(body, limit)


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than {limit} bytes when decompressed ([api] max_body_size)")


def _wrong(name: str, reason: object) -> InvalidInput:
    return InvalidInput(f"The body is not {name}: {reason}")


def _inflate(name: str, window_bits: int) -> Callable[[bytes, int], bytes]:
    def function(body: bytes, limit: int) -> bytes:
        stream = zlib.decompressobj(window_bits)
        try:
            data = stream.decompress(body, limit + 1)
        except zlib.error as e:
            raise _wrong(name, e) from e
        if len(data) > limit:
            raise too_large(limit)
        if not stream.eof:
            raise _wrong(name, "it is cut")
        if stream.unused_data:
            raise _wrong(name, f"{len(stream.unused_data)} bytes follow its end")
        return data

    return function


def decompress_snappy(body: bytes, limit: int) -> bytes:
    """Undo the block format of snappy, which begins with the size.  Raises as `decompress`; an empty body is wrong."""
    if not body:
        raise _wrong("snappy", "it is empty")
    cramjam = _load_cramjam("snappy")
    try:
        size = cramjam.snappy.decompress_raw_len(body)
        if size > limit:
            raise too_large(limit)
        if size > SNAPPY_RATIO_MAX * len(body):
            raise _wrong("snappy", f"{len(body)} bytes cannot become {size}")
        return bytes(cramjam.snappy.decompress_raw(body))
    except cramjam.DecompressionError as e:
        raise _wrong("snappy", e) from e


def _decompress_zstd(body: bytes, limit: int) -> bytes:
    cramjam = _load_cramjam("zstd")
    size = min(limit + 1, ZSTD_RATIO * len(body))
    while True:
        buffer = bytearray(size)
        try:
            written = cramjam.zstd.decompress_into(body, buffer)
        except cramjam.DecompressionError as e:
            if _BUFFER_FULL not in str(e):
                raise _wrong("zstd", e) from e
            if size > limit:
                raise too_large(limit) from e
            size = min(limit + 1, ZSTD_GROWTH * size)
            continue
        if written > limit:
            raise too_large(limit)
        return bytes(memoryview(buffer)[:written])


def _load_cramjam(name: str) -> types.ModuleType:
    """Only when it is wanted: it is an extra, and takes memory in every process."""
    try:
        import cramjam
    except ImportError as e:
        raise NotImplementedError(f"{name} needs what pip install 'gnocchi[prometheus]' installs: {e}") from e
    return cramjam


DECOMPRESSORS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate("gzip", 16 + zlib.MAX_WBITS),
    "deflate": _inflate("deflate", zlib.MAX_WBITS),
    "snappy": decompress_snappy,
    "zstd": _decompress_zstd,
}
