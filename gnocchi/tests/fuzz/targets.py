"""What is fuzzed: each target takes bytes, and raises if something is wrong with the decoder, not with the bytes."""

import contextlib
from collections.abc import Callable

from gnocchi.exceptions import InvalidInput, TooLarge
from gnocchi.ingest import compression, influxdb, prometheus
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


def fuzz_compression(data: bytes) -> None:
    """The first byte chooses the encoding."""
    with contextlib.suppress(InvalidInput, TooLarge):
        assert len(compression.decompress(data[1:], ENCODINGS[data[0] % 4] if data else None, LIMIT)) <= LIMIT


TARGETS: dict[str, Callable[[bytes], None]] = {
    "compression": fuzz_compression,
    "influxdb": fuzz_influxdb,
    "prometheus": fuzz_prometheus,
}
