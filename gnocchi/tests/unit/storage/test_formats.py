"""Heads, blocks and objects: what is written is read back, and damage never passes for data."""

import uuid

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gnocchi import metric_ids
from gnocchi.carbonara.series import Buckets, Column, SeriesBatch, cumulate
from gnocchi.carbonara.window import WindowState
from gnocchi.exceptions import CorruptedData, UnknownFormat
from gnocchi.storage import block, frames, head, sections

MINUTE = numpy.timedelta64(60, "s").astype("m8[ns]")


def make_ids(count, seed=0):
    """Return ids in order; some end in NUL bytes, which numpy strips from Python items."""
    rng = numpy.random.default_rng(seed)
    data = [rng.bytes(14) + (b"\0\0" if n % 3 == 0 else rng.bytes(2)) for n in range(count)]
    return metric_ids.pack_ids(sorted((uuid.UUID(bytes=d) for d in data), key=lambda i: i.bytes))


def make_head(counts, seed=0):
    rng = numpy.random.default_rng(seed)
    offsets, metrics = cumulate(counts), len(counts)
    raw = SeriesBatch(offsets, rng.integers(-10**18, 10**18, offsets[-1]).view("M8[ns]"), rng.normal(size=offsets[-1]))
    times = rng.integers(-10**18, 10**18, metrics).view("M8[ns]")
    return head.Head(make_ids(metrics, seed), WindowState(times, times, rng.normal(size=metrics),
                                                          rng.random(metrics) < 0.5, raw))


def assert_heads_equal(expected, actual):
    assert expected.ids.tobytes() == actual.ids.tobytes()
    for a, b in zip(expected.state[:4] + expected.state.raw, actual.state[:4] + actual.state.raw, strict=True):
        assert numpy.ascontiguousarray(a).tobytes() == numpy.ascontiguousarray(b).tobytes()


@pytest.mark.parametrize("counts", [[], [0], [3], [0, 5, 0, 1], [2] * 513])
def test_head_read_back(counts):
    """Every array of a head comes back bit for bit."""
    original = make_head(counts)
    data = head.encode_head(original)
    assert head.encoded_size(original) == len(data)
    assert_heads_equal(original, head.decode_head(data, "k", 0))


def test_head_damaged_anywhere():
    """Each flipped byte and each truncation is detected and names key and offset."""
    data = head.encode_head(make_head([2, 0, 1]))
    for place in range(len(data)):
        with pytest.raises(CorruptedData, match="some/key at byte 7"):
            head.decode_head(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1:], "some/key", 7)
        with pytest.raises(CorruptedData):
            head.decode_head(data[:place], "some/key", 7)


def make_parts():
    """Return a base, a delta with one metric of the base and a new one, and the head that both mean."""
    base, other = make_head([2, 0, 3, 1], seed=1), make_head([1, 4], seed=2)
    delta = head.Head(numpy.sort(numpy.concatenate([base.ids[2:3], other.ids[:1]])), other.state)
    return head.HeadParts(base, delta), head.apply_delta(base, delta)


def test_delta_on_a_base():
    """A delta's metrics stand in for the base's, and come beside them where new."""
    (base, delta), joined = make_parts()
    assert sorted({*metric_ids.unpack_ids(base.ids), *metric_ids.unpack_ids(delta.ids)}) == metric_ids.unpack_ids(
        joined.ids)
    in_delta = head.contains(delta.ids, joined.ids)
    assert_heads_equal(delta, head.select_metrics(joined, in_delta))
    unchanged = head.select_metrics(base, ~head.contains(delta.ids, base.ids))
    assert_heads_equal(unchanged, head.select_metrics(joined, ~in_delta))
    assert (len(joined.ids), len(joined.state.raw.values)) == head.count_metrics(base, delta)
    assert head.encoded_size(joined) == head.size_of(*head.count_metrics(base, delta))


@pytest.mark.parametrize("chosen", [[0], [2], [0, 1, 2, 3, 4], [3, 4], [1, 2, 4]])
@pytest.mark.parametrize("new", [0, 3])
def test_pick_metrics(chosen, new):
    """Each metric as the head has it, wherever it is stored; new ones without points, in the order of ids."""
    parts, joined = make_parts()
    ids = numpy.sort(numpy.concatenate([joined.ids[chosen], make_ids(new, seed=3)]))
    picked = head.pick_metrics(parts, ids)
    assert ids.tobytes() == picked.ids.tobytes()
    known = head.contains(joined.ids, ids)
    assert_heads_equal(head.select_metrics(joined, head.contains(ids, joined.ids)), head.select_metrics(picked, known))
    fresh = head.select_metrics(picked, ~known)
    assert new == len(fresh.ids)
    assert numpy.isnat(fresh.state.newest).all()
    assert 0 == len(fresh.state.raw.values)


def test_pick_all_metrics():
    """A part that is all there is to pick is not copied."""
    (base, delta), _ = make_parts()
    assert base is head.pick_metrics(head.HeadParts(base, head.empty_head()), base.ids)
    assert delta is head.pick_metrics(head.HeadParts(base, delta), delta.ids)


def test_view_of_a_head():
    """What is known to be sound is viewed without being verified."""
    original = make_head([2, 0, 1])
    assert_heads_equal(original, head.view_head(head.encode_head(original)))


def test_select_low_bits_cuts_in_two():
    """The halves of a pack have all its metrics, each once."""
    original = make_head([1] * 40)
    halves = [head.select_low_bits(original, 1, low) for low in (0, 1)]
    assert 40 == sum(len(h.ids) for h in halves)
    for low, half in enumerate(halves):
        assert {low} == {i.int & 1 for i in metric_ids.unpack_ids(half.ids)}


VALUES = hnp.arrays(numpy.float64, st.integers(1, 60), elements=st.one_of(
    st.floats(width=64), st.integers(-10**17, 10**17).map(float), st.sampled_from([0.0, -0.0, float("nan"), 0.1]),
    st.integers(-10**7, 10**7).map(lambda n: n / 1000)))


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_frame_gives_back_the_same_bits(values, random):
    """Any float64, NaN payloads and -0.0 included, in any pattern of presence."""
    present = numpy.array([random.random() < 0.7 for _ in values])
    for mask in (None, present, numpy.zeros(len(values), bool)):
        decoded, there = frames.decode_frame(frames.encode_frame(values, mask), len(values))
        held = numpy.ones(len(values), bool) if mask is None else mask
        assert (held == (numpy.ones(len(values), bool) if there is None else there)).all()
        assert values[held].tobytes() == decoded[held].tobytes()


def test_frame_keeps_nan_payloads():
    """A NaN is a value like any other, with its bits."""
    values = numpy.array([0x7FF8000000000001, 0xFFF0000000000123, 0x3FF0000000000000], numpy.uint64).view(numpy.float64)
    decoded, _ = frames.decode_frame(frames.encode_frame(values, None), 3)
    assert values.tobytes() == decoded.tobytes()


@given(hnp.arrays(numpy.int64, st.integers(1, 50), elements=st.integers(0, 2**63 - 1)))
@settings(max_examples=200, deadline=None)
def test_integers_read_back(integers):
    """Bucket indexes of any width."""
    assert (integers == frames.decode_integers(frames.encode_integers(integers), len(integers))).all()


def make_buckets(counts, seed=0):
    """Return buckets with an equal column, a decimal one, an irrational one and one with holes."""
    rng = numpy.random.default_rng(seed)
    offsets = cumulate(counts)
    rows = int(offsets[-1])
    times = numpy.concatenate([numpy.sort(rng.choice(10 * n + 1, n, replace=False)) for n in counts])
    stamps = ((times.astype(numpy.int64) - 5) * 60 * 10**9).view("M8[ns]")
    mean = numpy.round(rng.random(rows) * 100, 3)
    columns = {"mean": Column(mean, None), "sum": Column(mean.copy(), None), "count": Column(numpy.ones(rows), None),
               "rate:mean": Column(rng.normal(size=rows), None),
               "std": Column(rng.random(rows), rng.random(rows) < 0.5)}
    return Buckets(offsets, stamps, columns)


def read_all(data, ids, method, key="k", offset=0):
    """Return what a block holds of each metric, read frame by frame."""
    directory = block.decode_directory(data, key, offset)
    result = []
    for i in range(len(ids)):
        start, stop = block.find_rows(directory, ids[i:i + 1].tobytes())
        if start == stop:
            result.append(([], []))
            continue
        places = block.plan_frames(directory, start, stop, method)
        parts = [data[p.offset:p.offset + p.length] for p in places]
        times, values = block.decode_rows(directory, start, stop, places, parts, key, offset)
        result.append((times.tolist(), values.tolist()))
    return result


@pytest.mark.parametrize("counts", [[1], [0, 3, 0, 4], [9000, 1, 20000, 7], [5] * 600])
def test_block_read_back(counts):
    """Each metric and method, also over frame borders; metrics without buckets are left out."""
    ids, buckets = make_ids(len(counts)), make_buckets(counts)
    data = block.encode_block(ids, buckets, MINUTE)
    for method, column in buckets.columns.items():
        held = numpy.ones(len(column.values), bool) if column.present is None else column.present
        expected = []
        for begin, end in zip(buckets.offsets[:-1], buckets.offsets[1:], strict=True):
            mask = held[begin:end]
            expected.append((buckets.timestamps[begin:end][mask].view("i8").tolist(),
                             column.values[begin:end][mask].tolist()))
        assert expected == read_all(data, ids, method)


def test_block_without_a_metric():
    """A metric that the block does not hold has no rows, wherever it would sort."""
    ids = make_ids(9)
    directory = block.decode_directory(block.encode_block(ids[1:8:2], make_buckets([1] * 4), MINUTE), "k", 0)
    for i in (0, 2, 8):
        assert (0, 0) == block.find_rows(directory, ids[i:i + 1].tobytes())


def test_equal_columns_are_stored_once():
    """One measure per bucket makes mean = min = max = sum: they cost no more than one."""
    buckets = make_buckets([300])
    alone = len(block.encode_block(make_ids(1), buckets._replace(columns={"mean": buckets.columns["mean"]}), MINUTE))
    both = dict.fromkeys(("mean", "min", "max", "sum"), buckets.columns["mean"])
    assert len(block.encode_block(make_ids(1), buckets._replace(columns=both), MINUTE)) < alone + 150


def test_block_damaged_anywhere():
    """Each flipped byte is detected when it is read, and never gives another value."""
    ids, buckets = make_ids(3), make_buckets([4, 0, 3])
    data = block.encode_block(ids, buckets, MINUTE)
    right = {method: read_all(data, ids, method) for method in buckets.columns}
    detected = 0
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1:]
        for method in buckets.columns:
            try:
                assert right[method] == read_all(damaged, ids, method, "some/key", 7)
            except CorruptedData as e:
                assert ("some/key", True) == (e.key, e.offset >= 7)
                detected += 1
    assert detected >= len(data)


def test_block_cut_short():
    """Each truncation of a block is detected."""
    ids, buckets = make_ids(2), make_buckets([4, 3])
    data = block.encode_block(ids, buckets, MINUTE)
    for length in range(len(data)):
        with pytest.raises(CorruptedData):
            for method in buckets.columns:
                read_all(data[:length], ids, method)


def make_sections():
    policy = uuid.uuid4()
    return [sections.Section(sections.KIND_BASE, policy, 4, 3, b"h" * 13, rows=2),
            sections.Section(sections.KIND_BLOCK, policy, 5, 19, b"b" * 64, 9, 1, 60 * 10**9, -5, 2**62)]


def test_object_table_read_back():
    """An object says of its sections what the catalogue says, and where they lie."""
    parts = make_sections()
    data, offsets = sections.encode_object(4, 3, 17, parts)
    table = sections.decode_table("k", data)
    assert (4, 3, 17, len(data)) == table[:4]
    for section, entry, offset in zip(parts, table.entries, offsets, strict=True):
        assert section.data == data[offset:offset + len(section.data)]
        assert 0 == offset % sections.ALIGNMENT
        assert (section.kind, section.policy_id, section.bits, section.low, offset, len(section.data), section.rows,
                section.level, section.granularity, section.first, section.last) == entry


def test_object_table_damaged_anywhere():
    """Each flipped byte and each truncation of header and table is detected."""
    parts = make_sections()
    data, _ = sections.encode_object(4, 3, 17, parts)
    length = sections.HEADER.size + sections.ENTRY.size * len(parts)
    for place in range(length):
        with pytest.raises(CorruptedData):
            sections.decode_table("k", data[:place] + bytes([data[place] ^ 1]) + data[place + 1:])
        with pytest.raises(CorruptedData):
            sections.decode_table("k", data[:place])


@pytest.mark.parametrize("what, module", [("a head", head), ("a block", block), ("an object", sections)])
def test_later_format_is_no_damage(monkeypatch, what, module):
    """Whoever reads it says so, and nobody gives it up."""
    encode, decode = {
        head: (lambda: head.encode_head(make_head([2])), lambda data: head.decode_head(data, "some/key", 0)),
        block: (lambda: block.encode_block(make_ids(1), make_buckets([2]), MINUTE),
                lambda data: block.decode_directory(data, "some/key", 0)),
        sections: (lambda: sections.encode_object(4, 3, 17, make_sections())[0],
                   lambda data: sections.decode_table("some/key", data)),
    }[module]
    monkeypatch.setattr(module, "VERSION", 2)
    data = encode()
    decode(data)
    monkeypatch.undo()
    with pytest.raises(UnknownFormat, match=f"some/key at byte 0: {what} of format 2"):
        decode(data)


def test_keys_are_never_equal():
    """Two writers of one commit number get different keys."""
    keys = {sections.make_key(4, 3, "head", 9) for _ in range(100)}
    assert 100 == len(keys)
    assert all(key.startswith("sack/4-0/3-head-9-") for key in keys)
