"""The request as handlers see it, in `pecan.request`."""

import contextlib
from collections.abc import Callable
from typing import Any

import pecan.core
import webob

from gnocchi.rest import errors, json, schemas
from gnocchi.rest.turns import LARGE_BODY_BYTES

JSON = "application/json"

#: Bodies of unknown length are read in pieces of this many bytes.
PIECE_BYTES = 1 << 16


def _decoded(inherited: property) -> property:
    """Return a property of WebOb's that reads the URL, with an error of ours when that is not UTF-8."""
    read: Any = inherited.fget

    def get(request):
        try:
            return read(request)
        except UnicodeDecodeError as e:
            raise errors.RequestError(400, "The URL is not UTF-8") from e

    return property(get)


class Request(pecan.core.Request):
    """A request that knows the services and the caller.

    Handlers take what they want from `GET` and from `read_json()`.
    """

    path_info = _decoded(webob.Request.path_info)
    GET = _decoded(webob.Request.GET)
    # Pecan's own looks for such errors at each access to any attribute, 70 times in a request.
    __getattribute__ = webob.Request.__getattribute__

    @property
    def services(self):
        """gnocchi.rest.app.Services: configuration, back ends, policy and authentication."""
        return self.environ["gnocchi.services"]

    @property
    def identity(self):
        """gnocchi.rest.auth.Identity of the caller; there is one everywhere under /v1."""
        return self.environ["gnocchi.identity"]

    @property
    def has_body(self) -> bool:
        """Whether there is a body, for endpoints where it may be left out."""
        return self.environ.get("CONTENT_LENGTH", "") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in self.environ

    def enforce(self, rule: str, target: dict[str, Any] | None = None) -> None:
        """Ask the policy.  `target` is the JSON form of the object; nested objects are flattened with dots.

        Raises errors.RequestError 403.
        """
        self.services.policy.enforce(rule, target or {}, self.identity.credentials)

    def read_body(self, media_type: str | None = JSON) -> bytes:
        """The body, after checking that it is of `media_type` (None: of any) and within `[api] max_body_size`.

        Raises errors.RequestError 415, 413 or 400.
        """
        if media_type is not None and self.environ.get("CONTENT_TYPE", "").partition(";")[0].strip() != media_type:
            raise errors.RequestError(415)
        limit = self.services.conf.api.max_body_size
        length = self.environ.get("CONTENT_LENGTH")
        turns = self.services.turns
        self.environ["gnocchi.body_read"] = True
        with contextlib.ExitStack() as stack, turns.aside():
            if not length:
                return self._read_chunked(limit, lambda: stack.enter_context(turns.large_body()))
            size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else -1
            if size < 0:
                raise errors.RequestError(400, "Content-Length is not a number of bytes")
            if size > limit:
                raise too_large(limit)
            if size > LARGE_BODY_BYTES:
                stack.enter_context(turns.large_body())
            body = self.environ["wsgi.input"].read(size)
            if len(body) < size:
                raise json.undecodable(f"only {len(body)} of {size} bytes arrived")
            return body

    def _read_chunked(self, limit: int, begin_large: Callable[[], None]) -> bytes:
        terminated = self.environ.get("wsgi.input_terminated") or "HTTP_TRANSFER_ENCODING" in self.environ
        source = self.environ["wsgi.input"]
        pieces: list[bytes] = []
        size = 0
        while terminated and (piece := source.read(PIECE_BYTES)):
            if size <= LARGE_BODY_BYTES < size + len(piece):
                begin_large()
            size += len(piece)
            if size > limit:
                raise too_large(limit)
            pieces.append(piece)
        return b"".join(pieces)

    def read_json(self, schema=None, media_type: str = JSON):
        """The decoded body, checked by a voluptuous schema if there is one.

        Raises errors.RequestError 415, 413 or 400.
        """
        body = self.read_body(media_type)
        with self.services.turns.decoding(len(body)):
            value = json.loads(body)
        return value if schema is None else schemas.validate(schema, value)


def too_large(limit: int) -> errors.RequestError:
    return errors.RequestError(413, f"The body is larger than {limit} bytes ([api] max_body_size)")


def finish_body(environ: dict[str, Any], aside: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    """Read a small body that no handler wanted, within `aside`.

    Else the server closes the connection behind the reply, and the client's next request on it may fail.
    """
    length = environ.get("CONTENT_LENGTH", "")
    if not length or "gnocchi.body_read" in environ or "HTTP_EXPECT" in environ:
        return
    if length.isascii() and length.isdigit() and len(length) < 8 and int(length) <= LARGE_BODY_BYTES:
        with aside():
            environ["wsgi.input"].read(int(length))
