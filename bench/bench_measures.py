"""Micro benchmark of measures on the wire: `python bench/bench_measures.py`, best of several runs on one core."""

import json
import timeit
import uuid

import numpy

from gnocchi.query.fetch import MeasuresAtGranularity
from gnocchi.rest import measures

METRIC = uuid.UUID(int=1)
NOON = numpy.datetime64("2024-05-01T12:00:00", "s")
MINUTE = numpy.timedelta64(60, "s")


def make_measures(n, stamp):
    """Get n measures, one per minute; `stamp` writes a datetime64[s] and a position."""
    return [{"timestamp": stamp(time, i), "value": round(i * 1.1, 3)}
            for i, time in enumerate(NOON + numpy.arange(n) * MINUTE)]


def report(title, run, measures_in_all):
    """Print the time per measure (ns) of the best of 7 runs."""
    number = max(1, int(0.1 / min(timeit.repeat(run, number=1, repeat=2))))
    seconds = min(timeit.repeat(run, number=number, repeat=7)) / number
    per_measure = seconds * 1e9 / measures_in_all
    print(f"{title:58} {seconds * 1e6:10.1f} us {per_measure:8.0f} ns each {1e3 / per_measure:7.2f} M/s")


def bench_decoding():
    forms = {
        "ISO": lambda time, i: str(time),
        "ISO with Z": lambda time, i: f"{time}Z",
        "ISO with +00:00": lambda time, i: f"{time}+00:00",
        "ISO with microseconds": lambda time, i: f"{time}.{i % 1000000:06d}",
        "ISO of many lengths": lambda time, i: str(time) + ("", ".5", ".25Z", ".123456")[i % 4],
        "numbers": lambda time, i: float(time.astype(int)),
        "numbers in text": lambda time, i: str(time.astype(int)),
    }
    for name, stamp in forms.items():
        body = json.dumps(make_measures(5000, stamp)).encode()
        report(f"decode 5,000 of one metric, {name}", lambda body=body: measures.decode_measures(body, METRIC), 5000)
    listed = make_measures(5000, forms["ISO"])
    body = json.dumps([measure | {"value": str(measure["value"])} for measure in listed]).encode()
    report("decode 5,000 of one metric, values in text", lambda: measures.decode_measures(body, METRIC), 5000)
    one = json.dumps(listed[:1]).encode()
    report("decode 1 of one metric", lambda: measures.decode_measures(one, METRIC), 1)
    for count in (1, 60):
        batch = json.dumps({str(uuid.uuid4()): listed[:count] for _ in range(500)}).encode()
        report(f"decode {count} of each of 500 metrics", lambda batch=batch: measures.decode_batch(batch), 500 * count)


def bench_encoding():
    values = numpy.round(numpy.random.default_rng(1).uniform(0, 100, 43200), 3)
    month = MeasuresAtGranularity(MINUTE, (NOON + numpy.arange(43200) * MINUTE).astype("datetime64[ns]"), values)
    holes = month._replace(values=numpy.where(numpy.arange(43200) % 50, values, numpy.nan))
    fractions = month._replace(timestamps=month.timestamps + numpy.timedelta64(1, "ms"))
    hour = month._replace(timestamps=month.timestamps[:60], values=values[:60])
    for name, part in (("a month of minutes", month), ("a month, some NaN", holes),
                       ("a month, fractions of seconds", fractions), ("an hour of minutes", hour)):
        report(f"encode {name}", lambda part=part: measures.encode_measures([part]), len(part.values))


if __name__ == "__main__":
    bench_decoding()
    bench_encoding()
