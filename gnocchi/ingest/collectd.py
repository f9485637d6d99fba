"""collectd's JSON: the format of its plugins write_http, amqp, amqp1 and write_kafka.

Source: https://collectd.org/wiki/index.php/JSON
"""

import time
import uuid
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy

from gnocchi import resource_ids
from gnocchi.exceptions import InvalidInput
from gnocchi.indexer.checks import check_text
from gnocchi.ingest.batch import NamedBatch, WantedMetric, WantedResource
from gnocchi.times import NS_MAX

#: What resources of the type that is made for collectd have.
RESOURCE_ATTRIBUTES = {"host": {"type": "string", "required": True, "min_length": 0, "max_length": 255}}

#: Identifiers of values whose metrics are remembered; about 500 bytes each.
CACHED_IDENTIFIERS_MAX = 50_000

#: Values of an element whose metrics are remembered; collectd's own types have 22 at most.
CACHED_VALUES_MAX = 64

#: Elements of one message of which it is told why they were left out.
REASONS_MAX = 3


class ValueList(msgspec.Struct):
    """An element of a message: the values that one plugin read at one time."""

    host: str
    plugin: str
    type: str
    values: list[float | None]
    dsnames: list[str] | None = None
    plugin_instance: str | None = None
    type_instance: str | None = None
    time: float | None = None


class Readings(NamedTuple):
    """What a message says.

    resources : those of the metrics, by id
    metrics : list of n
    timestamps : list of n int, ns since 1970
    values : list of n float
    refused : list of str
        Why elements were left out, the first few; empty if none was.
    """

    resources: dict[uuid.UUID, WantedResource]
    metrics: list[WantedMetric]
    timestamps: list[int]
    values: list[float]
    refused: list[str]


class CollectdDecoder:
    """Reads messages.  Remembers what it met, so that an identifier costs one look-up.

    Parameters
    ----------
    resource_type : str
        Of the hosts; their ids begin with it.
    creator : str or None
        Of the resources, whose ids depend on it.
    """

    def __init__(self, resource_type: str, creator: str | None) -> None:
        self._resource_type = resource_type
        self._creator = creator
        self._lists = msgspec.json.Decoder(list[ValueList])
        self._elements = msgspec.json.Decoder(list[msgspec.Raw])
        self._element = msgspec.json.Decoder(ValueList)
        self._known: dict[tuple[object, ...], tuple[WantedResource, list[WantedMetric]]] = {}

    def decode(self, body: bytes | str, now_ns: int | None = None) -> Readings:
        """Read a message.

        An element that is wrong is left out, and so are values that are null, as collectd writes NaN.

        Parameters
        ----------
        now_ns : int, optional
            Time of elements that have none, ns since 1970; the present if left out.

        Raises
        ------
        InvalidInput
            It is no JSON list, or all of its elements are wrong.
        """
        now_ns = time.time_ns() if now_ns is None else now_ns
        readings = Readings({}, [], [], [], [])
        usable = refused = 0
        for element in self._read_elements(body):
            try:
                if isinstance(element, InvalidInput):
                    raise element
                self._add(element, now_ns, readings)
                usable += 1
            except InvalidInput as e:
                refused += 1
                if refused <= REASONS_MAX:
                    readings.refused.append(f"element {usable + refused - 1}: {e}")
        if refused and not usable:
            raise InvalidInput("; ".join(readings.refused))
        return readings

    def _read_elements(self, body: bytes | str) -> Sequence[ValueList | InvalidInput]:
        """Return the elements, or why one is none.  Raises InvalidInput if it is no JSON list."""
        try:
            try:
                return self._lists.decode(body)
            except msgspec.ValidationError:
                return [self._read_element(text) for text in self._elements.decode(body)]
        except (msgspec.DecodeError, UnicodeError, RecursionError) as e:
            raise InvalidInput(str(e)) from e

    def _read_element(self, text: msgspec.Raw) -> ValueList | InvalidInput:
        try:
            return self._element.decode(text)
        except msgspec.ValidationError as e:
            return InvalidInput(str(e))

    def _add(self, element: ValueList, now_ns: int, readings: Readings) -> None:
        """Append the values of an element.  Raises InvalidInput; nothing was appended then."""
        timestamp = now_ns if element.time is None else _to_ns(element.time)
        resource, metrics = self._find(element)
        for metric, value in zip(metrics, element.values, strict=True):
            if value is not None:
                readings.resources[metric.resource_id] = resource
                readings.metrics.append(metric)
                readings.timestamps.append(timestamp)
                readings.values.append(value)

    def _find(self, element: ValueList) -> tuple[WantedResource, list[WantedMetric]]:
        """Return whose values an element has, and the metric of each.  Raises InvalidInput."""
        names = element.dsnames or []
        key = (element.host, element.plugin, element.plugin_instance, element.type, element.type_instance,
               len(element.values), *names)
        found = self._known.get(key)
        if found is None:
            found = self._make(element, names)
            if len(self._known) >= CACHED_IDENTIFIERS_MAX:
                self._known.clear()
            if len(names) <= CACHED_VALUES_MAX:
                self._known[key] = found
        return found

    def _make(self, element: ValueList, names: Sequence[str]) -> tuple[WantedResource, list[WantedMetric]]:
        count = len(element.values)
        if len(names) != count and (names or count > 1):
            raise InvalidInput(f"{count} values and {len(names)} names of them in dsnames")
        if len(set(names)) < len(names):
            raise InvalidInput("two values of the same name in dsnames")
        check_text("host", element.host)
        original_id = f"{self._resource_type}:{element.host.replace('/', '_')}"
        resource = WantedResource(original_id, self._resource_type, {"host": element.host})
        resource_id = resource_ids.resource_id(original_id, self._creator)
        name = _join(element.plugin, element.plugin_instance) + "@" + _join(element.type, element.type_instance)
        texts = [name] if count == 1 else [f"{name}-{part}" for part in names]
        for text in texts:
            check_text("Metric name", text)
        return resource, [WantedMetric(resource_id, text.replace("/", "_")) for text in texts]


def make_batch(several: Sequence[Readings]) -> NamedBatch:
    """Return what several messages say, in their order."""
    resources: dict[uuid.UUID, WantedResource] = {}
    metrics: list[WantedMetric] = []
    timestamps: list[int] = []
    values: list[float] = []
    for readings in several:
        resources.update(readings.resources)
        metrics += readings.metrics
        timestamps += readings.timestamps
        values += readings.values
    return NamedBatch(resources, metrics, numpy.ones(len(metrics), numpy.int64),
                      numpy.array(timestamps, numpy.int64).view("M8[ns]"), numpy.array(values, numpy.float64))


def _join(name: str, instance: str | None) -> str:
    return f"{name}-{instance}" if instance else name


def _to_ns(seconds: float) -> int:
    """Return ns since 1970; a double has no more than microseconds.  Raises InvalidInput."""
    if not 0 <= seconds <= NS_MAX / 1e9 - 1:
        raise InvalidInput(f"time {seconds!r} is out of range")
    return round(seconds * 1e6) * 1000
