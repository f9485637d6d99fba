"""From a path to a handler, on top of Pecan."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pecan.core
import webob
from pecan.hooks import PecanHook

from gnocchi.rest import errors, json
from gnocchi.rest.request import JSON, Request

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

#: What Pecan and WebOb put into `environ` that refers to it: unbroken, these cycles would keep the bodies of requests
#: and replies, by the hundred, until garbage is looked for.
CYCLES = ("pecan.locals", "pecan.original_exception", "webob._parsed_query_vars")


# It tells of clients' misspelt URLs as errors, with a traceback each.
logging.getLogger("pecan.core").setLevel(logging.CRITICAL)


class Response(pecan.core.Response):
    default_content_type = JSON

    #: Whether an empty body is what 200 answers; else it is made 204.
    may_be_empty = False


class Node:
    """One level of the tree of paths: what follows by name, what follows as a value, and who answers here."""

    def __init__(self) -> None:
        self.children: dict[str, Node] = {}
        self.value: Node | None = None
        self.controller: Any = None

    def add(self, path: str, controller: Any) -> None:
        node = self
        for segment in filter(None, path.split("/")):
            if segment.startswith("{"):
                node.value = node.value or Node()
                node = node.value
            else:
                node = node.children.setdefault(segment, Node())
        node.controller = controller

    def find(self, path: str) -> tuple[Any, list[str]]:
        """The controller for a path, and the values in it.  Empty segments (`//`, a trailing `/`) do not count.

        Raises errors.RequestError 404.
        """
        node = self
        values = []
        for segment in filter(None, path.split("/")):
            child = node.children.get(segment)
            if child is None and node.value is not None:
                child = node.value
                values.append(segment)
            if child is None:
                raise errors.RequestError(404, None)
            node = child
        if node.controller is None:
            raise errors.RequestError(404, None)
        return node.controller, values


class Routes:
    """Base of the root controllers: `routes` maps paths to controllers.

    A controller keeps no state.  Its methods `get`, `post`, `patch`, `put` and `delete` take the values in the path
    and return what `Application.invoke_controller` takes; `any` answers every method.  If it has `lookup`, that is
    called first, with these values, and returns the tuple of arguments for the method: so what does not exist is 404
    whatever the method, as clients expect.  Where `answers_nothing` is true it does not matter what the client accepts.
    """

    routes: Mapping[str, Any] = {}

    def __init__(self) -> None:
        self._tree = Node()
        for path, controller in self.routes.items():
            self._tree.add(path, controller)

    def find(self, request: Request) -> tuple[Any, list[Any]]:
        """Return the handler of a request and its arguments.  Raises errors.RequestError."""
        self.prepare(request)
        return dispatch(request, *self.find_controller(request.path_info))

    def find_controller(self, path: str) -> tuple[Any, list[str]]:
        """Return the controller for a path, and the values in it.  Raises errors.RequestError 404."""
        return self._tree.find(path)

    def prepare(self, request: Request) -> None:
        """Called before the path is looked at."""


def list_methods(controller: Any) -> list[str]:
    """The methods that a controller has handlers for."""
    return [name for name in METHODS if hasattr(controller, name.lower())]


def dispatch(request: Request, controller: Any, values: list[str]) -> tuple[Any, list[Any]]:
    """Choose the controller's method; Pecan calls it with the second item as arguments."""
    lookup = getattr(controller, "lookup", None)
    arguments = lookup(*values) if lookup else values
    method = request.method
    handler = getattr(controller, "any", None)
    if handler is None and method in METHODS:
        handler = getattr(controller, method.lower(), None)
    if handler is None:
        raise errors.RequestError(405, "", {"Allow": ", ".join(list_methods(controller))})
    answers = not getattr(controller, "answers_nothing", False)
    if answers and not errors.accepts_json(request.environ.get("HTTP_ACCEPT")):
        raise errors.RequestError(406, f"Only {JSON} is offered")
    return handler, list(arguments)


class ErrorHook(PecanHook):
    """Turns every exception into a reply."""

    def on_error(self, state, error) -> webob.Response:
        return errors.render(state.request, errors.as_request_error(error))


class Application(pecan.core.Pecan):
    """Pecan: its request and response, which handlers find in `pecan`, and its hooks.

    Its walk over attributes, its inspection of signatures and its choice of a template are left out.  Of these nothing
    would be wanted; they take 960 us (22 us when signatures are kept) beside the 28 us of a trivial request.
    """

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        try:
            return super().__call__(environ, start_response)
        finally:
            for key in CYCLES:
                environ.pop(key, None)

    def find_controller(self, _state: pecan.core.RoutingState) -> tuple[Any, list[Any], dict[str, Any]]:
        """Return the handler, its arguments in order and those by name."""
        context = pecan.core.state
        context.request, context.response = _state.request, _state.response
        return *self.root.find(_state.request), {}

    def invoke_controller(self, controller: Any, args: list[Any], kwargs: dict[str, Any],
                          state: pecan.core.RoutingState) -> None:
        """Call a handler, and make its result the body: JSON text as bytes, anything that has a JSON form, or None."""
        result = controller(*args)
        if result is not None:
            state.response.body = result if isinstance(result, bytes) else json.dumps(result)

    def _handle_empty_response_body(self, state: pecan.core.RoutingState) -> None:
        response = state.response
        if response.status_int == 200 and not response.body and not response.may_be_empty:
            response.status_int = 204
        if response.status_int in (204, 304):
            response.content_type = None


def make_app(root: Routes) -> Application:
    """The WSGI application for a root controller."""
    return Application(
        root,
        hooks=[ErrorHook()],
        request_cls=Request,
        response_cls=Response,
    )
