"""The encoding of batches, and cutting and joining them."""

import uuid

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi import metric_ids
from gnocchi.exceptions import CorruptedData, UnknownFormat
from gnocchi.incoming import batch as batches
from gnocchi.incoming.batch import MeasureBatch
from gnocchi.tests.backlog import list_series, make_batch

int64s = st.integers(-2**63, 2**63 - 1)
uint64s = st.integers(0, 2**64 - 1)
#: Times and the bit patterns of values: every float64 there is.
series = st.tuples(st.uuids(), st.lists(st.tuples(int64s, uint64s), max_size=6))


def bits_batch(pairs):
    batch = make_batch(*[(i, [(t, 0.0) for t, _ in points]) for i, points in pairs])
    bits = numpy.array([b for _, points in pairs for _, b in points], numpy.uint64)
    return batch._replace(values=bits.view(numpy.float64))


def as_bytes(batch):
    return [array.tobytes() for array in batch]


@given(st.lists(series, max_size=8), uint64s, st.integers(0, 15).map(lambda e: 1 << e))
def test_encode_and_decode_are_inverse(pairs, stamp, sacks):
    """Any times and any bit patterns come back, with stamp and sack count."""
    batch = bits_batch(pairs)
    decoded = batches.decode_batch(batches.encode_batch(batch, stamp, sacks), "key")
    assert (stamp, sacks) == decoded[:2]
    assert as_bytes(batch) == as_bytes(decoded.batch)
    assert [a.dtype for a in batch] == [a.dtype for a in decoded.batch]


def test_encoding_is_the_documented_one():
    """Bytes on disk do not change by accident."""
    batch = make_batch((uuid.UUID(int=0x0102), [(3, 1.0)]))
    encoded = batches.encode_batch(batch, 7, 16)
    assert b"GNOBATCH" == encoded[:8]
    assert "01000000" "10000000" "0700000000000000" "0100000000000000" "0100000000000000" == encoded[16:48].hex()
    assert "00" * 14 + "0102" "0100000000000000" "0300000000000000" "000000000000f03f" == encoded[48:].hex()


def test_every_flipped_bit_is_noticed():
    """Damage anywhere raises, naming the key and where the batch begins."""
    encoded = batches.encode_batch(make_batch((uuid.uuid4(), [(3, 1.0), (4, 2.0)])), 7, 16)
    for bit in range(8 * len(encoded)):
        damaged = bytearray(encoded)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptedData) as e:
            batches.decode_batch(bytes(damaged), "stream/5", 77)
        assert ("stream/5", 77) == (e.value.key, e.value.offset)


def test_later_format_is_no_damage(monkeypatch):
    """Nor among others that are decoded together."""
    monkeypatch.setattr(batches, "_VERSION", 2)
    data = batches.encode_batch(make_batch((uuid.uuid4(), [(1, 1.0)])), 7, 4)
    monkeypatch.undo()
    with pytest.raises(UnknownFormat, match="some/key at byte 9: a batch of format 2"):
        batches.decode_batch(data, "some/key", 9)
    assert batches.decode_batches(data, numpy.ones(1, numpy.int64), numpy.ones(1, numpy.int64)) is None


def test_every_truncation_and_extension_is_noticed():
    """A batch is its bytes, no fewer and no more."""
    encoded = batches.encode_batch(make_batch((uuid.uuid4(), [(3, 1.0)])), 7, 16)
    for length in range(len(encoded)):
        with pytest.raises(CorruptedData):
            batches.decode_batch(encoded[:length], "key")
    with pytest.raises(CorruptedData):
        batches.decode_batch(encoded + b"\0", "key")


@given(st.lists(series, max_size=30), st.integers(0, 4).map(lambda e: 1 << e))
def test_split_by_sack(pairs, sacks):
    """Each sack touched gets its metrics, in their order, and nothing else."""
    batch = bits_batch(pairs)
    expected = {}
    for i, points in pairs:
        expected.setdefault(i.int % sacks, []).append((i, points))
    split = batches.split_by_sack(batch, sacks)
    assert sorted(expected) == [sack for sack, _ in split]
    for sack, share in split:
        assert as_bytes(bits_batch(expected[sack])) == as_bytes(share)


@given(st.lists(series, max_size=10), st.randoms())
def test_select_metrics(pairs, random):
    """Metrics are kept with their measures, in their order."""
    mask = [random.random() < 0.5 for _ in pairs]
    expected = bits_batch([pair for pair, keep in zip(pairs, mask, strict=True) if keep])
    assert as_bytes(expected) == as_bytes(batches.select_metrics(bits_batch(pairs), numpy.array(mask, bool)))


@given(st.lists(st.lists(series, max_size=5), max_size=5))
def test_concat_batches(parts):
    """One after the other, and none at all is an empty batch with the right types."""
    joined = batches.concat_batches([bits_batch(part) for part in parts])
    assert as_bytes(bits_batch([pair for part in parts for pair in part])) == as_bytes(joined)
    assert joined.metric_ids.dtype == metric_ids.DTYPE
    assert joined.timestamps.dtype == numpy.dtype("M8[ns]")


@pytest.mark.parametrize("length", [0, 1, 5, 1000])
def test_take_ranges_of_any_length(length):
    """Short ranges and long ones, which are copied in another way, overlapping and in any order."""
    array = numpy.arange(5000)
    starts, counts = numpy.array([4000, 10, 11, 0]), numpy.array([length, 0, length, length])
    expected = [i for a, n in zip(starts, counts, strict=True) for i in range(a, a + n)]
    assert expected == batches.take_ranges(array, starts, counts).tolist()
    assert [] == batches.take_ranges(array, starts[:0], counts[:0]).tolist()


def test_arrays_of_other_byte_order_are_encoded_alike():
    """The encoding is little-endian whatever the arrays are."""
    batch = make_batch((uuid.UUID(int=1), [(3, 1.0), (4, 2.0)]))
    swapped = MeasureBatch(batch.metric_ids, batch.counts.astype(">i8"), batch.timestamps.astype(">M8[ns]"),
                           batch.values.astype(">f8"))
    assert batches.encode_batch(batch, 1, 1) == batches.encode_batch(swapped, 1, 1)
    assert list_series(batch) == list_series(batches.decode_batch(batches.encode_batch(swapped, 1, 1), "k").batch)


@given(st.lists(st.lists(series, max_size=4), max_size=6))
def test_many_batches_are_decoded_together(requests):
    """What comes is what decoding each by itself gives, put together."""
    posted = [bits_batch(pairs) for pairs in requests]
    encoded = [batches.encode_batch(batch, stamp, 16) for stamp, batch in enumerate(posted)]
    sizes = numpy.array([(len(b.metric_ids), len(b.values)) for b in posted], numpy.int64).reshape(-1, 2).T
    decoded = batches.decode_batches(b"".join(encoded), *sizes)
    expected = batches.concat_batches(posted)
    assert as_bytes(expected) == as_bytes(decoded)
    assert [a.dtype for a in expected] == [a.dtype for a in decoded]
    heads = batches.decode_heads([data[48:48 + 24 * metrics] for data, metrics in zip(encoded, sizes[0], strict=True)])
    assert as_bytes(expected[:2]) == as_bytes(heads)


def test_damage_in_many_batches_is_noticed():
    """Any flipped bit, a batch that is missing, and one of another size than was told."""
    posted = [make_batch((uuid.uuid4(), [(3, 1.0)] * count)) for count in (1, 2)]
    encoded = [batches.encode_batch(batch, 7, 16) for batch in posted]
    metrics, measures = numpy.array([1, 1]), numpy.array([1, 2])
    data = b"".join(encoded)
    assert batches.decode_batches(data, metrics, measures) is not None
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert batches.decode_batches(bytes(damaged), metrics, measures) is None
    for wrong in (data[:-8], encoded[0], encoded[0] * 2, b"".join(reversed(encoded))):
        assert batches.decode_batches(wrong, metrics, measures) is None
