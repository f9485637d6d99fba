"""`/v1/prometheus`: remote write."""

import types

import pecan
from oslo_config import cfg

from gnocchi.exceptions import ClientError, ResourceAlreadyExists
from gnocchi.ingest.compression import decompress_snappy
from gnocchi.rest import errors
from gnocchi.rest.ingest import write_partially
from gnocchi.rest.request import Request

#: Messages of version 1 as a media type may name them; those of version 2 would look empty.
MESSAGES = ("", "prometheus.WriteRequest")


class WriteController:
    """`/v1/prometheus/write`."""

    answers_nothing = True

    def post(self) -> None:
        with errors.told_in_json():
            self._write(pecan.request)
        pecan.response.status = 202

    def _write(self, request: Request) -> None:
        services = request.services
        _check_message(request)
        decoder = services.keep(_make_decoder)
        body = decompress_snappy(request.read_body(None), services.conf.api.max_body_size)
        with services.turns.decoding(len(body)):
            decoded = decoder.decode(body, request.identity.creator)
        prometheus = _load_package()
        refused = write_partially(request, decoded.batch, prometheus.RESOURCE_TYPE, prometheus.ATTRIBUTES)
        services.count_other("ends of series", decoded.stale)
        reasons: list[ClientError] = [*filter(None, [decoded.reason]), *refused.values()]
        if reasons:
            raise _describe(reasons[0], decoded.refused + len(refused))


def _describe(reason: ClientError, count: int) -> errors.RequestError:
    """Tell why some series are not stored; the others are."""
    error = errors.as_request_error(reason)
    text = (f"Resource {reason.resource} exists, and its type is another" if isinstance(reason, ResourceAlreadyExists)
            else str(reason))
    more = f" (and {count - 1} more of the request; the rest of it is stored)" if count > 1 else ""
    if text.startswith("unexpected timestamp"):
        error.detail = {"cause": "Invalid input", "reason": text + more, "detail": []}
    else:
        error.detail = text + more
    return error


def _check_message(request: Request) -> None:
    """Raises errors.RequestError 415, by which senders know that they have to use version 1."""
    _, _, parameter = request.environ.get("CONTENT_TYPE", "").partition("proto=")
    message = parameter.partition(";")[0].strip(' "')
    if message not in MESSAGES:
        raise errors.RequestError(415, f"{message[:80]} is not supported; {MESSAGES[1]} is")


def _load_package() -> types.ModuleType:
    """Only when it is wanted: what it needs is an extra, and takes memory in every process."""
    try:
        from gnocchi.ingest import prometheus
    except ImportError as e:
        raise NotImplementedError(
            f"Remote write needs what pip install 'gnocchi[prometheus]' installs: {e}") from e
    return prometheus


def _make_decoder(conf: cfg.ConfigOpts):
    return _load_package().Decoder(conf.prometheus.labels_in_names)
