"""Bodies that post measures to metrics named by resource: `{"<resource id>": {"<name>": measures or object}}`.

The fast path and the slow one divide the work as in `measures`.
"""

import itertools
import uuid
from typing import Any

import msgspec
import numpy
import voluptuous

from gnocchi import resource_ids
from gnocchi.exceptions import InvalidInput
from gnocchi.ingest.batch import NamedBatch, WantedMetric, WantedResource
from gnocchi.rest import json, measures, schemas

_OPTIONS = ("archive_policy_name", "unit")


class _Described(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """Measures, and how to make their metric if it does not exist."""

    measures: list[measures.Measure]
    archive_policy_name: str | None = None
    unit: str | None = None


_decode = msgspec.json.Decoder(dict[str, dict[str, list[measures.Measure] | _Described]]).decode


def decode_named_batch(body: bytes, creator: str) -> NamedBatch:
    """Decode a body; text ids of resources are those of `creator`.

    Raises
    ------
    errors.RequestError
        400 with the texts of the contract, rest 10.
    """
    try:
        decoded = _decode(body)
        parts = [part if isinstance(part, list) else part.measures
                 for named in decoded.values() for part in named.values()]
        found = list(itertools.chain.from_iterable(parts))
        counts = numpy.fromiter(map(len, parts), numpy.int64, len(parts))
        timestamps = measures.parse_by_list([measure.timestamp for measure in found], counts)
        values = numpy.array([measure.value for measure in found], numpy.float64)
        described = {text: {name: (None, None) if isinstance(part, list) else (part.archive_policy_name, part.unit)
                            for name, part in named.items()} for text, named in decoded.items()}
    except measures.NOT_FAST:
        described, counts, timestamps, values = _read(json.loads(body))
    resources, metrics = _name_metrics(described, creator)
    return NamedBatch(resources, metrics, counts, timestamps, values)


def _name_metrics(described: dict[str, dict[str, tuple[str | None, str | None]]],
                  creator: str) -> tuple[dict[uuid.UUID, WantedResource], list[WantedMetric]]:
    resources: dict[uuid.UUID, WantedResource] = {}
    metrics = []
    for text, named in described.items():
        try:
            resource_id = resource_ids.resource_id(text, creator)
        except InvalidInput as e:
            raise measures.invalid(str(e), (text,), None) from None
        resources.setdefault(resource_id, WantedResource(text))
        for name, options in named.items():
            if "\0" in name:
                raise measures.invalid("text must not hold NUL characters", (text, name), None)
            metrics.append(WantedMetric(resource_id, name, *options))
    return resources, metrics


def _read(body: Any) -> tuple[dict[str, dict[str, Any]], numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Read a body item by item; this is what decides about errors."""
    if not isinstance(body, dict):
        raise measures.invalid("expected a dictionary", ())
    described: dict[str, dict[str, Any]] = {}
    parts = []
    for text, named in body.items():
        if not isinstance(named, dict):
            raise measures.invalid("expected a dictionary", (text,))
        described[text] = {}
        for name, value in named.items():
            found, options = _read_metric(value, (text, name))
            parts.append(measures.read_measures(found, (text, name)))
            described[text][name] = options
    return (described, numpy.array([len(values) for _, values in parts], numpy.int64),
            numpy.concatenate([numpy.empty(0, "datetime64[ns]"), *(timestamps for timestamps, _ in parts)]),
            numpy.concatenate([numpy.empty(0, numpy.float64), *(values for _, values in parts)]))


def _read_metric(value: Any, path: tuple[str, str]) -> tuple[Any, tuple[str | None, str | None]]:
    if not isinstance(value, dict):
        return value, (None, None)
    for key, option in value.items():
        if key not in ("measures", *_OPTIONS):
            raise measures.invalid("extra keys not allowed", (*path, key), None)
        if key in _OPTIONS and option is not None:
            try:
                schemas.text(option)
            except voluptuous.Invalid as e:
                raise measures.invalid(e.msg, (*path, key)) from None
    if "measures" not in value:
        raise measures.invalid("required key not provided", (*path, "measures"), None)
    return value["measures"], (value.get("archive_policy_name"), value.get("unit"))
