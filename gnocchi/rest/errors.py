"""From exceptions to HTTP: the one place that knows which error is which status, and in which shape it is told."""

import contextlib
import html
import http
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import webob
import webob.exc
from webob import acceptparse

from gnocchi import exceptions

LOG = logging.getLogger(__name__)

JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
ANYTHING = "*/*"

#: Most specific first: the first class that matches decides.
STATUS_BY_CLASS: tuple[tuple[type[Exception], int], ...] = (
    (exceptions.NotFound, 404),
    (exceptions.Conflict, 409),
    (exceptions.TooLarge, 413),
    (exceptions.ClientError, 400),
    (exceptions.BackendUnavailable, 503),
    (exceptions.CorruptedData, 500),
    (NotImplementedError, 501),
)

EXPLANATIONS = {
    404: "The resource could not be found.",
    413: "The body of the request is larger than this server accepts.",
    503: "The server is currently unavailable. Please try again at a later time.",
}


#: Seconds from one line about the same kind of outage to the next.
OUTAGE_LOG_S = 60.0
#: Kinds that are told apart.
OUTAGES_MAX = 100


class OutageLog:
    """Logs that a back end is away: the first time, then once a minute with the number of those it concerned."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: By kind: when the next line is due (time.monotonic()), and how many were not told since the last.
        self._kinds: dict[str, tuple[float, int]] = {}

    def tell(self, error: Exception) -> None:
        """Count an error.  Those whose text begins with the same word (`index:`, `redis:`) are of one kind."""
        kind = str(error).partition(" ")[0]
        now = time.monotonic()
        with self._lock:
            due, untold = self._kinds.get(kind, (0.0, 0))
            if now < due:
                self._kinds[kind] = due, untold + 1
                return
            if len(self._kinds) >= OUTAGES_MAX:
                self._kinds.clear()
            self._kinds[kind] = now + OUTAGE_LOG_S, 0
        LOG.error("%s: %s%s", type(error).__name__, error,
                  f" (and {untold} other requests since the last such line)" if untold else "")


OUTAGES = OutageLog()


class RequestError(Exception):
    """End the request with a status.

    detail : str, or dict with `cause` and any of `reason`, `detail`; None for a path that nothing serves
    headers : added to the reply
    """

    #: More members of the JSON form; if not None, the error is told in JSON whatever the client accepts.
    members: dict[str, Any] | None = None

    def __init__(self, status: int, detail: Any = "", headers: dict[str, str] | None = None):
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.headers = headers or {}


def argument_error(argument: str, reason: str) -> RequestError:
    """400 for a query argument whose value cannot be used."""
    return RequestError(400, {"cause": "Argument value error", "detail": argument, "reason": reason})


def as_request_error(error: Exception) -> RequestError:
    """Decide status and detail of any exception; what nobody foresaw is logged with its traceback and becomes 500."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, webob.exc.HTTPException):
        return RequestError(error.code, error.detail or "")
    for cls, status in STATUS_BY_CLASS:
        if isinstance(error, cls):
            if status in (501, 503):        # what every request of a client may meet again
                OUTAGES.tell(error)
            elif status >= 500:
                LOG.error("%s: %s", type(error).__name__, error)
            return RequestError(status, str(error))
    LOG.error("Unexpected error", exc_info=error)
    return RequestError(500, "Unexpected error; see the log of the server")


@contextlib.contextmanager
def told_in_json(list_members: Callable[[RequestError], dict[str, Any]] = lambda error: {}) -> Iterator[None]:
    """Tell errors in one line of JSON, whatever the client accepts: agents that send measures log the first line.

    list_members : what else the JSON of an error shall have
    """
    try:
        yield
    except (RequestError, exceptions.ClientError, exceptions.BackendUnavailable, NotImplementedError) as e:
        error = as_request_error(e)
        error.members = list_members(error)
        raise error from None if error is e else e


def accepted_quality(accept: str, media_type: str) -> tuple[float, bool]:
    """How much a client wants a media type (0 to 1), and whether it names it: itself or its family (`text/*`).

    Parameters of media types do not count; of several ranges that match, the most specific one decides.  A header that
    cannot be parsed says nothing, so it accepts everything.
    """
    family = media_type.partition("/")[0] + "/*"
    wanted = {media_type: 3, family: 2, "*/*": 1}
    best, quality = 0, 0.0
    parsed = acceptparse.create_accept_header(accept).parsed
    for media_range, range_quality, _, _ in [("*/*", 1.0, [], [])] if parsed is None else parsed:
        specificity = wanted.get(media_range.partition(";")[0].strip().lower(), 0)
        if (specificity, range_quality) > (best, quality) and specificity:
            best, quality = specificity, range_quality
    return quality, best > 1


def accepts_json(accept: str | None) -> bool:
    """Whether a reply in JSON will do."""
    return not accept or accept in (JSON, ANYTHING) or accepted_quality(accept, JSON)[0] > 0


def best_shape(accept: str | None) -> str:
    """Which of JSON, TEXT and HTML an error is told in.

    JSON for whoever names it or accepts anything, text without an Accept header (clients of old match that text), HTML
    for who names and prefers it.
    """
    if not accept:
        return TEXT
    if accept in (JSON, ANYTHING):
        return JSON
    json_quality, json_named = accepted_quality(accept, JSON)
    html_quality, _ = accepted_quality(accept, HTML)
    text_quality, text_named = accepted_quality(accept, TEXT)
    if HTML in accept and html_quality > json_quality:
        return HTML
    if json_quality and (json_named or not text_named or json_quality > text_quality):
        return JSON
    return TEXT


def _explain(status: int, request: webob.Request) -> str:
    if status == 405:
        return f"The method {request.method} is not allowed for this resource."
    if status == 415:
        return f"The request media type {request.content_type} is not supported by this server."
    known = webob.exc.status_map.get(status)
    return EXPLANATIONS.get(status) or (known.explanation if known else "")


def render(request: webob.Request, error: RequestError) -> webob.Response:
    """Make the reply for an error in the shape that the client's Accept header asks for."""
    if error.status == 304:
        return webob.Response(status=304, headers=error.headers)
    shape = best_shape(request.environ.get("HTTP_ACCEPT")) if error.members is None else JSON
    title = http.HTTPStatus(error.status).phrase
    line = f"{error.status} {title}"
    if shape == JSON:
        document = {"code": error.status, "title": title, "description": error.detail}
        document |= error.members or {}
        if request.environ.get("HTTP_ACCEPT") == ANYTHING:
            # Such clients got text or HTML, and look for what stood there (gabbi does, since it sends this header).
            document["explanation"] = _explain(error.status, request)
            body = json.dumps(document, ensure_ascii=False)
        else:
            body = json.dumps(document)
    else:
        explanation, detail = _explain(error.status, request), str(error.detail or "")
        if shape == TEXT:
            body = f"{line}\n\n{explanation}\n\n{detail}\n"
        else:
            body = (f"<html><head><title>{line}</title></head><body><h1>{line}</h1>"
                    f"<p>{html.escape(explanation)}</p><p>{html.escape(detail)}</p></body></html>\n")
    response = webob.Response(body.encode(), status=line, content_type=shape,
                              charset=None if shape == JSON else "UTF-8")
    response.headers.update(error.headers)
    return response
