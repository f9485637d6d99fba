"""The 45 golden examples of the contract (timeseries.md, section 9), run through the engine.

`expect` is what the original answers.  Where that is a defect or debatable, `right` is what a user expects, and `why`
says so.
"""

import json
import pathlib
import re
import urllib.parse

import numpy
import pytest

from gnocchi.carbonara.series import make_batch
from gnocchi.carbonara.window import WindowPolicy
from gnocchi.tests.unit.carbonara.model import Model, ns

EXAMPLES = json.loads(pathlib.Path(__file__).with_name("golden.json").read_text())

_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def parse_span(text):
    if not isinstance(text, str):
        return ns(text)
    number, unit = text.split() if " " in text else (text, "second")
    return ns(float(number) * _UNITS[unit.removesuffix("s")])


def parse_timestamp(value):
    if isinstance(value, int | float):
        return numpy.datetime64(round(value * 10**9), "ns")
    text, offset_hours = re.fullmatch(r"(.*?)(?:Z|\+(\d\d):00)?", value).groups()
    return numpy.datetime64(text, "ns") - ns(3600 * int(offset_hours or 0))


def parse_policy(body):
    items = []
    for item in body["definition"]:
        granularity = parse_span(item["granularity"])
        items.append((granularity, granularity * item["points"] if "points" in item else None))
    methods = tuple(body["aggregation_methods"])
    has_rates = any(method.startswith("rate:") for method in methods)
    return WindowPolicy(tuple(items), body["back_window"] + has_rates, methods)


def run(example):
    body = example["policy"]
    model = Model(parse_policy(body))
    for batch in example["batches"]:
        if isinstance(batch, dict):
            body = {**body, **batch["patch"]}
            model.policy = parse_policy(body)
            continue
        requests = batch if isinstance(batch[0][0], list) else [batch]
        points = [point for request in requests for point in request]
        model.process(make_batch([([parse_timestamp(t) for t, _ in points], [float(v) for _, v in points])]))
    return model


def answer(model, query):
    """Get rows of (timestamp, granularity or letter, value), as GET /v1/metric/<id>/measures orders them."""
    query = dict(urllib.parse.parse_qsl(query))
    method = query.get("aggregation", "mean")
    granularities = sorted((granularity for granularity, _ in model.policy.items), reverse=True)
    if "granularity" in query:
        granularities = [parse_span(query["granularity"])]
    resample = query.get("resample")
    if resample is not None and resample not in "YHQMW":
        resample = parse_span(resample)
    rows = []
    for granularity in granularities:
        result = model.read(granularity, method, 0, query.get("start"), query.get("stop"), resample)
        width = granularity if resample is None else resample
        width = width if isinstance(width, str) else width / ns(1)
        rows += [(timestamp, width, value) for timestamp, value in zip(*result, strict=True)]
    return rows


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["id"])
def test_golden_example(example):
    """Every query of an example gives the answer of the original, or the right one where that was wrong."""
    model = run(example)
    expected = example["expect"] if example["status"] == "keep" else example["right"]
    for query, rows in expected.items():
        got = answer(model, query)
        assert [(parse_timestamp(time), width) for time, width, _ in rows] == [row[:2] for row in got], query
        wanted = numpy.array([float(value) for _, _, value in rows])
        numpy.testing.assert_allclose([row[2] for row in got], wanted, rtol=1e-12, atol=0, err_msg=query)


def test_golden_examples_are_complete():
    """All examples of the contract are here, and each that we answer differently says how and why."""
    assert [f"G{number:02}" for number in range(1, 46)] == [example["id"] for example in EXAMPLES]
    for example in EXAMPLES:
        assert (example["status"] == "keep") == ("right" not in example) == ("why" not in example)
