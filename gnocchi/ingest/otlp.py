"""OTLP metrics: from an export request, in protobuf or JSON, to measures.

    resource attributes ──> resource        `otlp:<service>@<instance>`
    metric, attributes  ──> metric          `<name>[.count | .sum | .min | .max | .bucket][@<attribute>=<value>,...]`
    data point          ──> one measure of each of these

Source: https://opentelemetry.io/docs/specs/otlp/
"""

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy
from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message

from gnocchi import resource_ids
from gnocchi.common.cache import Recent
from gnocchi.exceptions import InvalidInput
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.models import UNIT_LENGTH
from gnocchi.indexer.resource_types import GENERIC
from gnocchi.ingest.batch import NamedBatch, WantedMetric, WantedResource
from gnocchi.ingest.otlp_messages import FAST, WHOLE
from gnocchi.times import NS_MAX

RESOURCE_TYPE = "otlp"

#: Characters of an attribute; longer values are cut.
TEXT_LENGTH_MAX = 255

#: Attributes of the resource type when it is made: those of a resource in OTLP, with `_` in place of dots.
ATTRIBUTES: Mapping[str, Mapping[str, Any]] = {
    name.replace(".", "_"): {"type": "string", "required": False, "min_length": 0, "max_length": TEXT_LENGTH_MAX}
    for name in ("service.name", "service.namespace", "service.instance.id", "service.version",
                 "deployment.environment.name", "host.id", "host.name", "os.type", "container.id", "container.name",
                 "k8s.cluster.name", "k8s.namespace.name", "k8s.node.name", "k8s.pod.name", "k8s.pod.uid",
                 "cloud.provider", "cloud.account.id", "cloud.region", "cloud.availability_zone",
                 "telemetry.sdk.language")}

#: What tells two instances of a service apart, the best first.
INSTANCES = ("service.instance.id", "k8s.pod.uid", "container.id", "host.id", "host.name")

#: What stands for a service or instance that is not told.
ABSENT = "none"

#: Scope of what Ceilometer's publisher writes, and the attributes that it gives to data points in place of a resource.
CEILOMETER = "ceilometer"
CEILOMETER_ATTRIBUTES = ("resource_id", "user_id", "project_id")

#: Times of Ceilometer below that are seconds, which it writes where nanoseconds belong.
CEILOMETER_SECONDS_MAX = 10**11

#: Flag of a data point that says that there is no value.
NO_RECORDED_VALUE = 1

#: Resources and metrics that are remembered; about 1 kB each.
RESOURCES_REMEMBERED = 5_000
METRICS_REMEMBERED = 25_000

#: Larger resources, and metrics with larger attributes, in bytes, are not remembered.
RESOURCE_BYTES_MAX = 4096
ATTRIBUTES_BYTES_MAX = 2000

#: Why most data points are refused that are.
UNTIMED = "a data point has no time_unix_nano"

#: Data points that were refused of which it is told why.
REASONS_MAX = 3

#: Suffix of the name, another attribute (or None), value, and whether it has the unit of the metric.
Part = tuple[str, tuple[str, str] | None, float, bool]


class Refusals:
    """Data points that are not stored, and why."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[str] = []

    def add(self, reason: object, count: int = 1) -> None:
        self.count += count
        if len(self.reasons) < REASONS_MAX and str(reason) not in self.reasons:
            self.reasons.append(str(reason))


class Decoded(NamedTuple):
    """A request.

    batch : what can be stored; one measure for each row of `metrics`
    points : number of the data point that each row comes from
    refusals : data points that were left out because they are wrong
    """

    batch: NamedBatch
    points: list[int]
    refusals: Refusals

    def refuse(self, rows: Mapping[int, Exception]) -> None:
        """Count the data points of rows that cannot be stored, by row and reason."""
        seen: set[int] = set()
        for row, reason in rows.items():
            self.refusals.add(f"metric {self.batch.metrics[row].name}: {reason}", self.points[row] not in seen)
            seen.add(self.points[row])


class Decoder:
    """Decodes requests, and remembers resources and metrics.  May be used by several threads."""

    def __init__(self) -> None:
        self._resources: Recent[tuple[str, bytes], tuple[uuid.UUID, WantedResource]] = Recent(RESOURCES_REMEMBERED)
        self._metrics: Recent[tuple[Any, ...], WantedMetric] = Recent(METRICS_REMEMBERED)
        #: Returns what is remembered of the key that `find_metric` makes, or None.
        self.get_metric = self._metrics.get

    def decode(self, data: bytes, creator: str) -> Decoded:
        """Decode a request in protobuf; resources are those of `creator`.

        Raises InvalidInput when it is none.
        """
        try:
            return _Reading(self, creator).read(FAST["Request"].FromString(data))
        except DecodeError as e:
            raise InvalidInput(f"The body is no ExportMetricsServiceRequest: {e}") from e

    def decode_json(self, data: bytes, creator: str) -> Decoded:
        """Decode a request in JSON, with the names of its members in camelCase or snake_case.

        Raises InvalidInput when it is none.
        """
        try:
            document = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
            raise InvalidInput(f"The body is no JSON: {e}") from e
        if not isinstance(document, dict):
            raise InvalidInput("The body is no ExportMetricsServiceRequest: it is no JSON object")
        whole = WHOLE["Request"]()
        try:
            json_format.ParseDict(document, whole, ignore_unknown_fields=True)
        except (json_format.ParseError, OverflowError) as e:
            raise InvalidInput(f"The body is no ExportMetricsServiceRequest: {e}") from e
        for metric in itertools.chain.from_iterable(map(_list_metrics, whole.resource_metrics)):
            if metric.WhichOneof("data") == "counter":
                metric.sum.CopyFrom(metric.counter)
        return self.decode(whole.SerializeToString(), creator)

    def find_resource(self, data: bytes, creator: str) -> tuple[uuid.UUID, WantedResource]:
        """Return the resource of a message Resource.  Raises DecodeError, InvalidInput."""
        found = self._resources.get((creator, data))
        if found is None:
            found = _make_resource(WHOLE["Resource"].FromString(data).attributes, creator)
            if len(data) <= RESOURCE_BYTES_MAX:
                self._resources.put((creator, data), found)
        return found

    def find_metric(self, source: "_Source", part: str, added: tuple[str, str] | None, unit: str) -> WantedMetric:
        """Return the metric of a part of data points.  Raises InvalidInput, DecodeError."""
        key = (source.resource_id, source.name, source.attributes, part, added, unit)
        found = self._metrics.get(key)
        if found is None:
            texts = _read_attributes(map(WHOLE["KeyValue"].FromString, source.attributes))
            name = _make_name(source.name + part, [*texts.items(), *([added] if added else [])])
            check_text("Metric name", name)     # so that only short ones are remembered
            found = WantedMetric(source.resource_id, name, unit=unit or None)
            if sum(map(len, source.attributes)) <= ATTRIBUTES_BYTES_MAX:
                self._metrics.put(key, found)
        return found


class _Source(NamedTuple):
    """Whose measures a data point has.

    attributes : those that belong into the names of its metrics
    """

    resource_id: uuid.UUID
    resource: WantedResource
    timestamp: int
    name: str
    attributes: tuple[bytes, ...]


class _Reading:
    """One request on its way through a decoder."""

    def __init__(self, decoder: Decoder, creator: str) -> None:
        self._decoder = decoder
        self._creator = creator
        self._resources: dict[uuid.UUID, WantedResource] = {}
        self._metrics: list[WantedMetric] = []
        self._points: list[int] = []
        self._timestamps: list[int] = []
        self._values: list[float] = []
        self._refusals = Refusals()
        self._number = 0

    def read(self, request: Message) -> Decoded:
        """Raises DecodeError."""
        for resource_metrics in request.resource_metrics:
            try:
                whose = self._decoder.find_resource(resource_metrics.resource, self._creator)
            except InvalidInput as e:
                self._refusals.add(e, sum(len(_get_points(metric)) for metric in _list_metrics(resource_metrics)))
                continue
            for scope_metrics in resource_metrics.scope_metrics:
                self._read_metrics(scope_metrics, whose)
        batch = NamedBatch(self._resources, self._metrics, numpy.ones(len(self._metrics), numpy.int64),
                           numpy.array(self._timestamps, numpy.int64).view("M8[ns]"),
                           numpy.array(self._values, numpy.float64))
        return Decoded(batch, self._points, self._refusals)

    def _read_metrics(self, scope_metrics: Message, whose: tuple[uuid.UUID, WantedResource]) -> None:
        find = self._find_ceilometer if scope_metrics.scope.name == CEILOMETER else self._find
        for metric in scope_metrics.metrics:
            split = PARTS.get(metric.WhichOneof("data"))
            points: Iterable[Message] = _get_points(metric)
            if split is None:
                continue    # a metric without data, or of a kind to come
            if split is _split_number and find == self._find and metric.name:
                points = self._read_numbers(metric, points, whose)
            for point in points:
                self._read_point(metric, point, whose, find, split)

    def _read_point(self, metric: Message, point: Message, whose: tuple[uuid.UUID, WantedResource],
                    find: Callable[[Message, Message, tuple[uuid.UUID, WantedResource]], _Source],
                    split: Callable[[Message], Iterator[Part]]) -> None:
        if point.flags & NO_RECORDED_VALUE:
            return
        try:
            if not metric.name:
                raise InvalidInput("it has no name")
            self._add(find(metric, point, whose), metric.unit[:UNIT_LENGTH], split(point))
        except InvalidInput as e:
            self._refusals.add(f"metric {metric.name[:TEXT_LENGTH_MAX]}: {e}")

    def _read_numbers(self, metric: Message, points: Iterable[Message],
                      whose: tuple[uuid.UUID, WantedResource]) -> Iterator[Message]:
        """Append the measures of data points whose metrics are known; yield the others.

        FAST PATH: a quarter of the time of `_read_point`, which does the same.
        """
        resource_id, resource = whose
        name, unit = metric.name, metric.unit[:UNIT_LENGTH]
        get_metric = self._decoder.get_metric
        metrics, timestamps, values = self._metrics, self._timestamps, self._values
        untimed = 0
        for point in points:
            timestamp = point.time_unix_nano
            if not timestamp and not point.flags:
                untimed += 1
                continue
            value = point.as_double or point.as_int
            has_value = value or point.WhichOneof("data") is not None
            known = get_metric((resource_id, name, tuple(point.attributes), "", None, unit)) if has_value else None
            if known is None or point.flags or not 0 < timestamp <= NS_MAX:
                yield point
            else:
                self._resources[resource_id] = resource
                metrics.append(known)
                timestamps.append(timestamp)
                values.append(value)
                self._points.append(self._number)
                self._number += 1
        if untimed:
            self._refusals.add(f"metric {name[:TEXT_LENGTH_MAX]}: {UNTIMED}", untimed)

    def _add(self, source: _Source, unit: str, parts: Iterable[Part]) -> None:
        """Append the measures of a data point.  Raises InvalidInput, with nothing appended, and DecodeError."""
        find = self._decoder.find_metric
        found = [(find(source, part, added, unit if has_unit else ""), value)
                 for part, added, value, has_unit in parts]
        self._resources[source.resource_id] = source.resource
        for metric, value in found:
            self._metrics.append(metric)
            self._points.append(self._number)
            self._timestamps.append(source.timestamp)
            self._values.append(value)
        self._number += 1

    def _find(self, metric: Message, point: Message, whose: tuple[uuid.UUID, WantedResource]) -> _Source:
        """Raises InvalidInput."""
        return _Source(*whose, _check_time(point.time_unix_nano), metric.name, tuple(point.attributes))

    def _find_ceilometer(self, metric: Message, point: Message, whose: tuple[uuid.UUID, WantedResource]) -> _Source:
        """The same for what Ceilometer writes: its own names, on the resources that its publisher for Gnocchi makes.

        Raises InvalidInput, DecodeError.
        """
        attributes = [(pair.key, pair.value.string_value, data) for data in point.attributes
                      for pair in [WHOLE["KeyValue"].FromString(data)]]
        known = {key: value for key, value, _ in attributes if key in CEILOMETER_ATTRIBUTES}
        if not known.get("resource_id"):
            return self._find(metric, point, whose)
        original_id = known["resource_id"].replace("/", "_")
        wanted = WantedResource(original_id, GENERIC, user_id=known.get("user_id") or None,
                                project_id=known.get("project_id") or None)
        time = point.time_unix_nano
        # The name that it has put `_` into, in place of dots, is still in the description.
        own = metric.description.partition(" unit:")[0]
        return _Source(resource_ids.resource_id(original_id, self._creator), wanted,
                       _check_time(time * 10**9 if time < CEILOMETER_SECONDS_MAX else time),
                       own if own.replace(".", "_") == metric.name else metric.name,
                       tuple([data for key, _, data in attributes if key not in CEILOMETER_ATTRIBUTES]))


def _split_number(point: Message) -> Iterator[Part]:
    which = point.WhichOneof("data")
    if which is None:
        raise InvalidInput("a data point has no value")
    yield "", None, float(getattr(point, which)), True


def _split_distribution(point: Message) -> Iterator[Part]:
    """Of a histogram of any kind: how many values there are, and what they come to."""
    yield ".count", None, float(point.count), False
    for name in ("sum", "min", "max"):
        if point.HasField(name):
            yield f".{name}", None, getattr(point, name), True


def _split_histogram(point: Message) -> Iterator[Part]:
    yield from _split_distribution(point)
    counts, bounds = point.bucket_counts, point.explicit_bounds
    if len(counts) != len(bounds) + 1 and (counts or bounds):
        raise InvalidInput(f"a data point has {len(counts)} buckets and {len(bounds)} bounds of them")
    # As in Prometheus, each bucket has all values up to its bound; so the last one would be the count.
    for bound, count in zip(bounds, itertools.accumulate(counts), strict=False):
        yield ".bucket", ("le", _format_number(bound)), float(count), False


def _split_summary(point: Message) -> Iterator[Part]:
    yield ".count", None, float(point.count), False
    yield ".sum", None, point.sum, True
    for each in point.quantile_values:
        yield "", ("quantile", _format_number(each.quantile)), each.value, True


#: What a data point of each kind of metric is made into.
PARTS: Mapping[str | None, Callable[[Message], Iterator[Part]]] = {
    "gauge": _split_number,
    "sum": _split_number,
    "histogram": _split_histogram,
    "exponential_histogram": _split_distribution,
    "summary": _split_summary,
}


def _check_time(ns: int) -> int:
    """Raises InvalidInput."""
    if not 0 < ns <= NS_MAX:
        raise InvalidInput(f"time_unix_nano {ns} of a data point is out of range" if ns else UNTIMED)
    return ns


def _make_name(name: str, attributes: Iterable[tuple[str, str]]) -> str:
    texts = ",".join([f"{key}={value}" for key, value in sorted(dict(attributes).items())])
    return (f"{name}@{texts}" if texts else name).replace("/", "_")


def _make_resource(attributes: Iterable[Message], creator: str) -> tuple[uuid.UUID, WantedResource]:
    """Raises InvalidInput."""
    attributes = list(attributes)
    texts = _read_attributes(attributes)
    name, namespace = texts.get("service.name"), texts.get("service.namespace")
    service = f"{namespace}.{name}" if name and namespace else name
    instance = next((texts[key] for key in INSTANCES if texts.get(key)), None)
    text = f"{service or ABSENT}@{instance}" if instance else service or ABSENT
    original_id = f"{RESOURCE_TYPE}:{text.replace('/', '_')}"
    values = {key.replace(".", "_"): _to_value(key, texts[key], value)
              for key, value in ((pair.key, pair.value) for pair in attributes) if texts[key]}
    return resource_ids.resource_id(original_id, creator), WantedResource(original_id, RESOURCE_TYPE, values)


def _read_attributes(attributes: Iterable[Message]) -> dict[str, str]:
    """Return the text of each attribute; of several with one key the last counts."""
    return {pair.key: _to_text(pair.value) for pair in attributes}


def _to_value(key: str, text: str, value: Message) -> object:
    """Return a value for an attribute of a resource: those that the type has by itself are texts."""
    which = value.WhichOneof("data")
    if which in ("int_value", "double_value", "bool_value") and key.replace(".", "_") not in ATTRIBUTES:
        return getattr(value, which)
    return text[:TEXT_LENGTH_MAX]


def _to_text(value: Message) -> str:
    which = value.WhichOneof("data")
    if which is None:
        return ""
    found = getattr(value, which)
    if which == "bool_value":
        return "true" if found else "false"
    if which == "double_value":
        return _format_number(found)
    if which == "bytes_value":
        return found.hex()
    if which == "array_value":
        return f"[{','.join(map(_to_text, found.values))}]"
    if which == "kvlist_value":
        return f"{{{','.join([f'{pair.key}={_to_text(pair.value)}' for pair in found.values])}}}"
    return str(found)


def _format_number(number: float) -> str:
    """Return the shortest text that means the number: 5, 0.25, 1e+30."""
    return repr(number).removesuffix(".0")


def _list_metrics(resource_metrics: Message) -> Iterator[Message]:
    for scope_metrics in resource_metrics.scope_metrics:
        yield from scope_metrics.metrics


def _get_points(metric: Message) -> Sequence[Message]:
    kind = metric.WhichOneof("data")
    return getattr(metric, kind).data_points if kind else ()
