"""`/v1/otlp`: OpenTelemetry's protocol over HTTP."""

import json
import types
from typing import Any

import pecan
from oslo_config import cfg

from gnocchi.exceptions import GnocchiError
from gnocchi.ingest.compression import decompress
from gnocchi.rest import errors
from gnocchi.rest.ingest import write_partially
from gnocchi.rest.request import JSON, Request

PROTOBUF = "application/x-protobuf"

#: When exporters shall try again what could not be stored, in seconds.
RETRY_AFTER_S = 5

#: Bytes of a body, decompressed; OpenTelemetry's collector takes as many by itself.  A data point without anything
#: takes 2 bytes, and 100 times as many in memory.
BODY_BYTES_MAX = 20 << 20

#: Characters of what is told of data points that are not stored.
MESSAGE_LENGTH_MAX = 1000

#: Codes of gRPC by status, which the body of an error names, too.
CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 413: 8, 415: 3, 429: 8, 500: 13, 501: 12, 503: 14}
UNKNOWN = 2


class MetricsController:
    """`/v1/otlp/v1/metrics`.  Answers in the encoding of the request."""

    answers_nothing = True

    def post(self) -> bytes:
        request, response = pecan.request, pecan.response
        media_type = request.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        response.content_type = PROTOBUF if media_type == PROTOBUF else JSON
        response.may_be_empty = True    # as a message is that says that all is well
        try:
            return self._write(request, media_type)
        except (errors.RequestError, GnocchiError, NotImplementedError) as e:
            error = errors.as_request_error(e)
            response.status_int = error.status
            response.headers.update(error.headers)
            if error.status == 503:
                response.headers["Retry-After"] = str(RETRY_AFTER_S)
            return _encode_status(media_type, CODES.get(error.status, UNKNOWN), _to_text(error.detail))

    def _write(self, request: Request, media_type: str) -> bytes:
        if media_type not in (PROTOBUF, JSON):
            raise errors.RequestError(415, f"Content-Type is {media_type[:80] or 'missing'}; {PROTOBUF} and {JSON} are "
                                           "supported")
        services, creator = request.services, request.identity.creator
        decoder = services.keep(_make_decoder)
        body = decompress(request.read_body(None), request.environ.get("HTTP_CONTENT_ENCODING"),
                          services.conf.api.max_body_size)
        if len(body) > BODY_BYTES_MAX:
            raise errors.RequestError(413, f"The body is larger than {BODY_BYTES_MAX} bytes when decompressed")
        with services.turns.decoding(len(body)):
            decoded = (decoder.decode if media_type == PROTOBUF else decoder.decode_json)(body, creator)
        otlp = _load_package("otlp")
        decoded.refuse(write_partially(request, decoded.batch, otlp.RESOURCE_TYPE, otlp.ATTRIBUTES))
        refusals = decoded.refusals
        return _encode_response(media_type, refusals.count, "; ".join(refusals.reasons)[:MESSAGE_LENGTH_MAX])


def _encode_response(media_type: str, rejected: int, message: str) -> bytes:
    if media_type == JSON:
        return json.dumps({"partialSuccess": {"rejectedDataPoints": str(rejected), "errorMessage": message}}
                          if rejected else {}).encode()
    answer = _load_package("otlp_messages").WHOLE["Response"]()
    if rejected:
        answer.partial_success.rejected_data_points = rejected
        answer.partial_success.error_message = message
    return answer.SerializeToString()


def _encode_status(media_type: str, code: int, message: str) -> bytes:
    if media_type != PROTOBUF:
        return json.dumps({"code": code, "message": message}).encode()
    try:
        status = _load_package("otlp_messages").WHOLE["Status"]
    except NotImplementedError:
        return b""
    return status(code=code, message=message).SerializeToString()


def _to_text(detail: Any) -> str:
    if isinstance(detail, dict):
        return ": ".join(str(detail[key]) for key in ("cause", "reason", "detail") if detail.get(key))
    return str(detail or "")


def _load_package(name: str) -> types.ModuleType:
    """Only when it is wanted: what it needs is an extra, and takes memory in every process."""
    try:
        from gnocchi.ingest import otlp, otlp_messages
    except ImportError as e:
        raise NotImplementedError(f"OTLP needs what pip install 'gnocchi[otlp]' installs: {e}") from e
    return otlp if name == "otlp" else otlp_messages


def _make_decoder(conf: cfg.ConfigOpts):
    return _load_package("otlp").Decoder()
