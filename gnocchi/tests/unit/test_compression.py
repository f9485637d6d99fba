"""Compressed bodies: what clients send, what is cut or wrong, and what would become too large."""

import gzip
import tracemalloc
import zlib

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi.exceptions import InvalidInput, TooLarge
from gnocchi.ingest.compression import decompress

LIMIT = 1 << 20

COMPRESS = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "snappy": lambda data: bytes(cramjam.snappy.compress_raw(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
}
COMPRESSED = [name for name in COMPRESS if name != "identity"]


@pytest.mark.parametrize("encoding", COMPRESS)
@given(data=st.binary(min_size=1, max_size=1000), times=st.sampled_from([1, 1000]))
def test_round_trip(encoding, data, times):
    """What was compressed comes back, whatever the ratio."""
    assert data * times == decompress(COMPRESS[encoding](data * times), encoding.upper(), LIMIT)


@pytest.mark.parametrize("encoding", [*COMPRESS, None, ""])
def test_empty_body_stays_empty(encoding):
    """InfluxDB's client for Python names gzip in requests without body, too."""
    assert b"" == decompress(b"", encoding, LIMIT)


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_limit_is_what_the_result_may_have(encoding):
    """Just so much is taken, one byte more is not."""
    body = COMPRESS[encoding](bytes(LIMIT))
    assert LIMIT == len(decompress(body, encoding, LIMIT))
    with pytest.raises(TooLarge, match=f"larger than {LIMIT - 1} bytes"):
        decompress(body, encoding, LIMIT - 1)


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_bomb_is_not_unpacked(encoding):
    """What would take 256 MiB is refused before it takes them."""
    body = COMPRESS[encoding](bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            decompress(body, encoding, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 8 * LIMIT
    finally:
        tracemalloc.stop()


def test_snappy_size_is_not_believed():
    """Six bytes cannot become 60 MiB, though they say so; the room for it is not even asked for."""
    with pytest.raises(InvalidInput, match=r"The body is not snappy: 6 bytes cannot become 62914560"):
        decompress(b"\x80\x80\x80\x1e\x00a", "snappy", 64 << 20)


@pytest.mark.parametrize("encoding", COMPRESSED)
@given(data=st.binary(min_size=1, max_size=300), cut=st.integers(1, 20))
def test_cut_body_is_refused(encoding, data, cut):
    """Nothing is taken of a body that did not come whole."""
    body = COMPRESS[encoding](data)
    with pytest.raises(InvalidInput, match=f"The body is not {encoding}: "):
        decompress(body[:max(1, len(body) - cut)], encoding, LIMIT)


@pytest.mark.parametrize("encoding", COMPRESSED)
@given(data=st.binary(min_size=1, max_size=100))
def test_any_bytes_are_taken_or_refused(encoding, data):
    """Garbage has no other effect than an error that names the encoding."""
    try:
        decompress(data, encoding, LIMIT)
    except (InvalidInput, TooLarge) as e:
        assert str(e).startswith((f"The body is not {encoding}: ", "The body is larger"))


def test_bytes_after_the_end():
    """Nobody knows what they are."""
    with pytest.raises(InvalidInput, match="3 bytes follow its end"):
        decompress(gzip.compress(b"a") + b"abc", "gzip", LIMIT)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "x" * 1000])
def test_unknown_encoding(encoding):
    """The error says which there are."""
    with pytest.raises(InvalidInput, match="these are: identity, gzip, deflate, snappy, zstd") as caught:
        decompress(b"a", encoding, LIMIT)
    assert len(str(caught.value)) < 200
