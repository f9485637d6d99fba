"""What is fuzzed: each target takes bytes, and raises if something is wrong with the decoder, not with the bytes."""

import contextlib
from collections.abc import Callable

from gnocchi.exceptions import InvalidInput, TooLarge
from gnocchi.ingest import collectd, compression, influxdb, otlp, prometheus
from gnocchi.ingest.batch import NamedBatch

LIMIT = 1 << 16
NOW_NS = 1_700_000_000_000_000_000
ENCODINGS = ("gzip", "deflate", "snappy", "zstd")
CONTEXT = influxdb.Context("admin", "influxdb", "host")


def check_batch(batch: NamedBatch) -> tuple[object, ...]:
    """Check that the parts of a batch fit; return all of it as what can be compared."""
    assert len(batch.metrics) == len(batch.counts)
    assert batch.counts.sum() == len(batch.timestamps) == len(batch.values)
    assert (batch.counts > 0).all()
    assert {metric.resource_id for metric in batch.metrics} == set(batch.resources)
    assert not len(batch.timestamps) or batch.timestamps.view("i8").min() >= 0
    return (batch.resources, list(batch.metrics), batch.counts.tolist(), batch.timestamps.view("i8").tolist(),
            batch.values.tobytes())


def fuzz_prometheus(data: bytes) -> None:
    """Labels that are known are read as those that are not."""
    decoder = prometheus.Decoder(labels_in_names=len(data) % 2 == 1)
    results: list[object] = []
    for _ in range(2):
        try:
            decoded = decoder.decode(data, "admin")
            results.append((*check_batch(decoded.batch), decoded.stale, decoded.refused, str(decoded.reason)))
        except InvalidInput as e:
            results.append(str(e))
    assert results[0] == results[1], results


def fuzz_influxdb(data: bytes) -> None:
    """Lines whose beginning is known are read as those whose is not."""
    decoder = influxdb.Decoder()
    results: list[object] = []
    for _ in range(2):
        try:
            results.append(check_batch(decoder.decode(data, CONTEXT, NOW_NS)))
        except influxdb.InvalidLine as e:
            results.append(str(e))
    assert results[0] == results[1], results


def _fuzz_otlp(decode: Callable[[otlp.Decoder, bytes, str], otlp.Decoded], data: bytes) -> None:
    """Metrics that are known are read as those that are not."""
    decoder = otlp.Decoder()
    results: list[object] = []
    for _ in range(2):
        try:
            decoded = decode(decoder, data, "admin")
            assert len(decoded.points) == len(decoded.batch.metrics)
            results.append((*check_batch(decoded.batch), decoded.points, decoded.refusals.count,
                            decoded.refusals.reasons))
        except InvalidInput as e:
            results.append(str(e))
    assert results[0] == results[1], results


def fuzz_otlp(data: bytes) -> None:
    _fuzz_otlp(otlp.Decoder.decode, data)


def fuzz_otlp_json(data: bytes) -> None:
    _fuzz_otlp(otlp.Decoder.decode_json, data)


def fuzz_collectd(data: bytes) -> None:
    """Identifiers that are known are read as those that are not."""
    decoder = collectd.CollectdDecoder("collectd", "admin")
    results: list[object] = []
    for _ in range(2):
        try:
            readings = decoder.decode(data, NOW_NS)
            results.append((*check_batch(collectd.make_batch([readings])), readings.refused))
        except InvalidInput as e:
            results.append(str(e))
    assert results[0] == results[1], results


def fuzz_compression(data: bytes) -> None:
    """The first byte chooses the encoding."""
    with contextlib.suppress(InvalidInput, TooLarge):
        assert len(compression.decompress(data[1:], ENCODINGS[data[0] % 4] if data else None, LIMIT)) <= LIMIT


TARGETS: dict[str, Callable[[bytes], None]] = {
    "collectd": fuzz_collectd,
    "compression": fuzz_compression,
    "influxdb": fuzz_influxdb,
    "otlp": fuzz_otlp,
    "otlp_json": fuzz_otlp_json,
    "prometheus": fuzz_prometheus,
}
