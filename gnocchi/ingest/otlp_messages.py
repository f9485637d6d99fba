"""Messages of OTLP metrics, as far as measures are made of them.

Source: https://github.com/open-telemetry/opentelemetry-proto, opentelemetry/proto/metrics/v1/metrics.proto,
common/v1/common.proto, resource/v1/resource.proto, collector/metrics/v1/metrics_service.proto
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto

#: A field of this type is a list of attributes.
_ATTRIBUTES = "repeated KeyValue"

#: Message -> field -> (number, type).  Of the fields of a message that begin with `=` there is one; those with `?` may
#: be left out, which is told from 0.
_SCHEMA: dict[str, dict[str, tuple[int, str]]] = {
    "Request": {"resource_metrics": (1, "repeated ResourceMetrics")},
    "ResourceMetrics": {"resource": (1, "Resource"), "scope_metrics": (2, "repeated ScopeMetrics")},
    "Resource": {"attributes": (1, "repeated KeyValue")},
    "ScopeMetrics": {"scope": (1, "Scope"), "metrics": (2, "repeated Metric")},
    "Scope": {"name": (1, "string")},
    # `counter` is none of OTLP's: what Ceilometer's publisher writes in JSON in place of `sum`.
    "Metric": {"name": (1, "string"), "description": (2, "string"), "unit": (3, "string"),
               "=gauge": (5, "Numbers"), "=sum": (7, "Numbers"), "=histogram": (9, "Histogram"),
               "=exponential_histogram": (10, "ExponentialHistogram"), "=summary": (11, "Summary"),
               "=counter": (1000, "Numbers")},
    "Numbers": {"data_points": (1, "repeated NumberPoint")},
    "Histogram": {"data_points": (1, "repeated HistogramPoint")},
    "ExponentialHistogram": {"data_points": (1, "repeated ExponentialHistogramPoint")},
    "Summary": {"data_points": (1, "repeated SummaryPoint")},
    "NumberPoint": {"attributes": (7, _ATTRIBUTES), "time_unix_nano": (3, "fixed64"), "=as_double": (4, "double"),
                    "=as_int": (6, "sfixed64"), "flags": (8, "uint32")},
    "HistogramPoint": {"attributes": (9, _ATTRIBUTES), "time_unix_nano": (3, "fixed64"), "count": (4, "fixed64"),
                       "?sum": (5, "double"), "bucket_counts": (6, "repeated fixed64"),
                       "explicit_bounds": (7, "repeated double"), "flags": (10, "uint32"), "?min": (11, "double"),
                       "?max": (12, "double")},
    "ExponentialHistogramPoint": {"attributes": (1, _ATTRIBUTES), "time_unix_nano": (3, "fixed64"),
                                  "count": (4, "fixed64"), "?sum": (5, "double"), "flags": (10, "uint32"),
                                  "?min": (12, "double"), "?max": (13, "double")},
    "SummaryPoint": {"attributes": (7, _ATTRIBUTES), "time_unix_nano": (3, "fixed64"), "count": (4, "fixed64"),
                     "sum": (5, "double"), "quantile_values": (6, "repeated Quantile"), "flags": (8, "uint32")},
    "Quantile": {"quantile": (1, "double"), "value": (2, "double")},
    "KeyValue": {"key": (1, "string"), "value": (2, "AnyValue")},
    "AnyValue": {"=string_value": (1, "string"), "=bool_value": (2, "bool"), "=int_value": (3, "int64"),
                 "=double_value": (4, "double"), "=array_value": (5, "ArrayValue"),
                 "=kvlist_value": (6, "KeyValueList"), "=bytes_value": (7, "bytes")},
    "ArrayValue": {"values": (1, "repeated AnyValue")},
    "KeyValueList": {"values": (1, "repeated KeyValue")},
    "Response": {"partial_success": (1, "PartialSuccess")},
    "PartialSuccess": {"rejected_data_points": (1, "int64"), "error_message": (2, "string")},
    "Status": {"code": (1, "int32"), "message": (2, "string")},
}

_TYPES = {name: getattr(_FIELD, f"TYPE_{name.upper()}")
          for name in ("string", "bool", "bytes", "double", "int32", "int64", "uint32", "fixed64", "sfixed64")}


def _make_messages(whole: bool) -> dict[str, Any]:
    """Return the classes of the messages.

    whole : False leaves resources and the attributes of data points as bytes, which have the same form on the wire: so
        they are looked up as they are
    """
    file = descriptor_pb2.FileDescriptorProto(name="gnocchi/otlp.proto", package="gnocchi", syntax="proto3")
    for name, fields in _SCHEMA.items():
        message = file.message_type.add(name=name)
        if any(field.startswith("=") for field in fields):
            message.oneof_decl.add(name="data")
        for field, (number, type) in fields.items():
            _add_field(message, field, number, type if whole else _leave_as_bytes(name, type))
        # An optional field is the only one of its kind.
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"gnocchi.{name}")) for name in _SCHEMA}


def _leave_as_bytes(name: str, type: str) -> str:
    if type == "Resource" or type == _ATTRIBUTES and name.endswith("Point"):
        return type.replace("KeyValue", "bytes").replace("Resource", "bytes")
    return type


def _add_field(message: descriptor_pb2.DescriptorProto, field: str, number: int, type: str) -> None:
    repeated, _, type = type.rpartition(" ")
    made = message.field.add(name=field.lstrip("=?"), number=number,
                             label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL)
    if type in _TYPES:
        made.type = _TYPES[type]
    else:
        made.type = _FIELD.TYPE_MESSAGE
        made.type_name = f".gnocchi.{type}"
    if field.startswith("="):
        made.oneof_index = 0
    made.proto3_optional = field.startswith("?")


#: As in the specification, for JSON and for what is answered.
WHOLE = _make_messages(whole=True)

#: With bytes in place of resources and of the attributes of data points.
FAST = _make_messages(whole=False)
