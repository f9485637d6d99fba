"""`/v1/influxdb`: what writers of InfluxDB 1 use."""

import http
import importlib.metadata
import re
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

import msgspec
import pecan
import voluptuous
from oslo_config import cfg

from gnocchi.exceptions import ClientError, NoSuchResourceType
from gnocchi.ingest import influxdb
from gnocchi.ingest.batch import WantedMetric
from gnocchi.ingest.compression import decompress
from gnocchi.rest import arguments, errors, json, schemas
from gnocchi.rest.ingest import RequestGuard, ensure_resource_type
from gnocchi.rest.request import JSON, Request

VERSION = f"Gnocchi {importlib.metadata.version('gnocchi')}"

FORM = "application/x-www-form-urlencoded"
MSGPACK = "application/x-msgpack"

#: Names the tag whose value names the resource.
TAG_HEADER = "HTTP_X_GNOCCHI_INFLUXDB_TAG_RESOURCE_ID"
TAG = "host"

DATABASE = "influxdb"

_CREATE = re.compile(r'\s*create\s++database\s++(?:"((?:[^"\\]|\\.)++)"|([A-Za-z_][A-Za-z0-9_]*+))'
                     r"(?:\s++with\s.*+|\s*+(?:;\s*+)*+)", re.IGNORECASE | re.DOTALL | re.ASCII)
_SHOW = re.compile(r"\s*show\s++databases\s*+(?:;\s*+)*+", re.IGNORECASE | re.ASCII)


def _describe(error: errors.RequestError) -> dict[str, Any]:
    """The member that clients of InfluxDB look for."""
    text = error.detail or http.HTTPStatus(error.status).phrase
    if isinstance(text, dict):
        text = text.get("reason") or f"{text.get('cause')}: {text.get('detail')}"
    # Telegraf tells this text from others by its small letter.
    return {"error": str(text).replace("Unable to parse line", "unable to parse line", 1)}


class PingController:
    """`/v1/influxdb/ping`."""

    answers_nothing = True

    def get(self) -> None:
        pecan.response.headers["X-Influxdb-Version"] = VERSION

    head = get


class QueryController:
    """`/v1/influxdb/query`: makes databases, and lists them; a database is a resource type."""

    answers_nothing = True

    def get(self) -> bytes | None:
        with errors.told_in_json(_describe):
            query = arguments.read_text(pecan.request, "q")
            return None if query is None else self._show(pecan.request, query)

    def post(self) -> bytes | None:
        request = pecan.request
        with errors.told_in_json(_describe):
            in_body = "q" not in request.GET
            query = _read_form(request) if in_body else arguments.read_text(request, "q")
            if query is None:
                return None
            if (match := _CREATE.fullmatch(query)) is None:
                return self._show(request, query)
            name = match[2] or re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)
            try:
                schemas.path_name(name)
            except voluptuous.Invalid as e:
                raise errors.argument_error("q", f"database: {e}") from e
            ensure_resource_type(request, name, {})
            # Telegraf asks in the body, InfluxDB's client for Python for MessagePack: both want to read a result.
            return _answer(request, {"statement_id": 0}) if in_body or _wants_msgpack(request) else None

    @staticmethod
    def _show(request: Request, query: str) -> bytes:
        if not _SHOW.fullmatch(query):
            raise errors.RequestError(501, {
                "cause": "Not implemented error", "detail": "q", "reason": "Query not implemented"})
        request.enforce("list resource type")
        names = [[found.name] for found in request.services.indexer.list_resource_types()]
        return _answer(request, {"statement_id": 0, "series": [
            {"name": "databases", "columns": ["name"], "values": names}]})


class WriteController:
    """`/v1/influxdb/write`."""

    answers_nothing = True

    def post(self) -> None:
        with errors.told_in_json(_describe):
            self._write(pecan.request)

    @staticmethod
    def _write(request: Request) -> None:
        services, creator = request.services, request.identity.creator
        database = arguments.read_text(request, "db") or DATABASE
        precision = arguments.read_text(request, "precision")
        context = influxdb.Context(creator, database, request.environ.get(TAG_HEADER) or TAG)
        sent = request.read_body(None)
        body = decompress(sent, request.environ.get("HTTP_CONTENT_ENCODING"), services.conf.api.max_body_size)
        if not request.environ.get("CONTENT_LENGTH") and body is sent and not body.endswith(b"\n") and body:
            # A chunked body ends where the connection breaks, too, and half a number is one.
            raise errors.RequestError(400, {"cause": "Value error", "detail": "body", "reason":
                                            "A body in chunks has to end with a line break; this one was cut off"})
        try:
            with services.turns.decoding(len(body)):
                batch = services.keep(_make_decoder).decode(body, context, time.time_ns(), precision)
        except influxdb.InvalidLine as e:
            raise errors.RequestError(400, {"cause": "Value error", "detail": e.detail, "reason": str(e)}) from e
        try:
            services.finder.write_measures(batch, creator, DatabaseGuard(request, database))
        except NoSuchResourceType as e:
            raise errors.RequestError(404, f'database not found: "{database}"') from e


class DatabaseGuard(RequestGuard):
    """Tells first of all that there is no such database."""

    def __init__(self, request: Request, database: str) -> None:
        super().__init__(request)
        self._database = database

    def check_refusals(self, refused: Sequence[tuple[WantedMetric, ClientError]]) -> None:
        """Raises NoSuchResourceType, or as any guard of a request."""
        self._request.services.indexer.get_resource_type(self._database)
        super().check_refusals(refused)


def _make_decoder(conf: cfg.ConfigOpts) -> influxdb.Decoder:
    return influxdb.Decoder()


def _read_form(request: Request) -> str | None:
    """The query that a form brings."""
    if request.environ.get("CONTENT_TYPE", "").partition(";")[0].strip() != FORM:
        return None
    try:
        pairs = urllib.parse.parse_qsl(request.read_body(FORM).decode(), errors="strict", max_num_fields=100)
    except ValueError as e:
        raise errors.RequestError(400, f"The form cannot be read: {e}") from e
    return dict(pairs).get("q")


def _wants_msgpack(request: Request) -> bool:
    return errors.accepted_quality(request.environ.get("HTTP_ACCEPT") or JSON, MSGPACK)[1]


def _answer(request: Request, result: dict[str, Any]) -> bytes:
    document = {"results": [result]}
    if not _wants_msgpack(request):
        return json.dumps(document)
    pecan.response.content_type = MSGPACK
    return msgspec.msgpack.encode(document)
