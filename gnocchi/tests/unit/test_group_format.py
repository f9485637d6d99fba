"""The format of groups."""

import uuid

import pytest

from gnocchi.exceptions import CorruptedData, UnknownFormat
from gnocchi.incoming import group
from gnocchi.incoming.batch import decode_body
from gnocchi.incoming.group import GroupKey, decode_head, encode_group, format_key, head_bytes, parse_key
from gnocchi.tests.backlog import list_series, make_batch, make_id

KEY = GroupKey(7, "00000000000000ab")
TEXT = "group/00000000000000000007-00000000000000ab"


def make_group():
    series = [(make_id(2, i), [(i, 1.5), (i + 1, 2.5)]) for i in range(3)] + [(make_id(0), [(5, 0.5)])]
    return series, encode_group(make_batch(*series), KEY, 4, 6, {2: 5, 3: 4})


def test_keys():
    """Their order is that of stamps; what is no group's key is told."""
    assert TEXT == format_key(KEY)
    assert KEY == parse_key(TEXT)
    assert format_key(GroupKey(9, "f" * 16)) < format_key(GroupKey(10, "0" * 16))
    assert [None] * 3 == [parse_key(text) for text in ("group/7-ab", "x" + TEXT, TEXT + "0")]


def test_encode_and_decode_are_inverse():
    """The head says where each sack's slice is."""
    series, (data, numbers) = make_group()
    head = decode_head(data, TEXT)
    assert ([0, 2], 4, 6) == (numbers, head.sacks, head.previous)
    assert ([0, 2], [1, 3], [1, 6], [0, 5]) == tuple(
        array.tolist() for array in (head.numbers, head.metrics, head.measures, head.previous_of))
    assert head_bytes(data) == head.starts[0]
    read = [list_series(decode_body(data, start, metrics, measures)) for start, metrics, measures in zip(
        head.starts.tolist(), head.metrics.tolist(), head.measures.tolist(), strict=True)]
    assert [series[3:], series[:3]] == read


def test_encoding_is_the_documented_one():
    """Stored bytes do not change by accident."""
    data, _ = encode_group(make_batch((uuid.UUID(int=0x0102), [(3, 1.0)])), KEY, 16, 6, {2: 5})
    assert b"GNOGROUP" == data[:8]
    assert "01000000" "10000000" "0700000000000000" "0600000000000000" "01000000" "00000000" == data[16:48].hex()
    assert "02000000" "01000000" "0100000000000000" == data[48:64].hex()
    assert "0500000000000000" == data[72:80].hex()
    assert "00" * 14 + "0102" "0100000000000000" "0300000000000000" "000000000000f03f" == data[80:].hex()


def test_later_format_is_no_damage(monkeypatch):
    monkeypatch.setattr(group, "_VERSION", 2)
    data = make_group()[1].data
    monkeypatch.undo()
    with pytest.raises(UnknownFormat, match=f"{TEXT} at byte 0: a group of format 2"):
        decode_head(data, TEXT)


def test_every_flipped_bit_of_the_head_is_noticed():
    """And so is every length that is too short, and a group under another one's key."""
    data = make_group()[1].data
    size = head_bytes(data)
    for bit in range(8 * size):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptedData, match=TEXT):
            decode_head(bytes(damaged), TEXT)
    for length in range(size):
        with pytest.raises(CorruptedData):
            decode_head(data[:length], TEXT)
    for other in (KEY._replace(stamp=8), KEY._replace(writer="00000000000000ac")):
        with pytest.raises(CorruptedData):
            decode_head(data, format_key(other))
