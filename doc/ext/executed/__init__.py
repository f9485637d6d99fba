"""Examples that are executed: directives that send requests to a real service, and show what it answers.

`request` sends one request::

    .. request:: POST /v1/metric
       :status: 201
       :set: metric=id

       {"archive_policy_name": "short"}

The path and the body may hold `${name}`, set by an earlier request of the same document.  Options:

status   what is expected; by default 200, 201 for POST, 204 for DELETE
set      names for parts of the answer, as `name=key.key`, separated by blanks
headers  of the request, one per line; the body's type is JSON unless said otherwise
user     who asks; `admin` by default, `nobody` sends no credentials
lines    how many lines of the answer are shown
hide     execute, show nothing

`operations` evaluates expressions of /v1/aggregates, one per line, and shows the resulting series.  Its options `args`
(of the URL), `resource-type` and `search` go into each request; `${name}` is shown as `name`.

An answer with another status fails the build, and so does an endpoint or operation that no example shows.
"""

import base64
import json
import re
import shlex
import urllib.parse
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from executed.layout import format_body, format_series, list_series, shorten
from executed.service import Answer, CannotStart, Service

DEFAULT_STATUS = {"POST": 201, "DELETE": 204}

#: Headers of answers that tell a reader something.
SHOWN_HEADERS = (
    "Location", "Link", "Allow", "WWW-Authenticate", "ETag", "Last-Modified", "Access-Control-Allow-Origin",
    "Access-Control-Allow-Methods", "Access-Control-Allow-Headers", "Access-Control-Max-Age", "Content-Type")

JSON = "application/json"

_NAME = re.compile(r"\$\{([\w-]+)\}")


class Examples:
    """What a build knows: the service, the names of each document, and what was shown."""

    def __init__(self) -> None:
        self.service = Service()
        self.names: dict[str, dict[str, str]] = {}
        self.shown: set[tuple[str, str]] = set()
        self.evaluated: list[str] = []

    def send(self, method: str, path: str, headers: dict[str, str], body: str | None) -> Answer:
        if not self.service.started:
            try:
                self.service.start()
            except CannotStart as e:
                raise ExtensionError(f"gnocchi-standalone does not start:\n{e}") from e
        return self.service.send(method, path, headers, body)


class ExecutedDirective(SphinxDirective):
    has_content = True
    examples: Examples

    @property
    def names(self) -> dict[str, str]:
        return self.examples.names.setdefault(self.env.docname, {})

    def substitute(self, text: str) -> str:
        unknown = [name for name in _NAME.findall(text) if name not in self.names]
        if unknown:
            raise self.failure(f"nothing before has set {unknown[0]}")
        return _NAME.sub(lambda match: self.names[match[1]], text)

    def failure(self, text: str) -> ExtensionError:
        source, line = self.get_source_info()
        return ExtensionError(f"{source}:{line}: {text}")

    def send(self, method: str, path: str, headers: dict[str, str], body: str | None, expected: int) -> Answer:
        # What was answered may be another thing at the next build, so the document is always read again.
        self.env.note_reread()
        answer = self.examples.send(method, path, headers, body)
        if answer.status != expected:
            raise self.failure(f"{method} {path} answered {answer.status} and not {expected}: {answer.body}")
        return answer

    def show(self, text: str, language: str) -> nodes.Node:
        # `force`: bare NaN and lines left out are no mistakes.
        block = nodes.literal_block(text, text, language=language, force=True)
        self.set_source_info(block)
        return block


def authorization(user: str) -> dict[str, str]:
    if user == "nobody":
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:".encode()).decode()}


class RequestDirective(ExecutedDirective):
    required_arguments = 2
    final_argument_whitespace = True
    option_spec = {"status": int, "set": directives.unchanged, "headers": directives.unchanged,
                   "user": directives.unchanged, "lines": directives.positive_int, "hide": directives.flag}

    def run(self) -> list[nodes.Node]:
        method, path = self.arguments[0], self.substitute(self.arguments[1])
        path = urllib.parse.quote(path, safe="/?&=%:,*~+")
        body = self.substitute("\n".join(self.content)) if self.content else None
        headers = dict(line.split(": ", 1) for line in self.options.get("headers", "").split("\n") if line)
        if body is not None:
            headers.setdefault("Content-Type", JSON)
        sent = {"Accept": JSON} | authorization(self.options.get("user", "admin")) | headers
        status = self.options.get("status", DEFAULT_STATUS.get(method, 200))
        answer = self.send(method, path, sent, body, status)
        self._set_names(answer)
        if "hide" in self.options:
            return []
        self.examples.shown.add((method, path.partition("?")[0]))
        asked = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        told = [f"HTTP/1.1 {answer.status} {answer.reason}",
                *(f"{name}: {answer.headers[name.lower()]}" for name in SHOWN_HEADERS
                  if name.lower() in answer.headers)]
        replied = shorten(format_body(answer.body), self.options.get("lines"))
        return [self.show("\n".join(asked) + (f"\n\n{body}" if body is not None else ""), "http"),
                self.show("\n".join(told) + (f"\n\n{replied}" if replied else ""), "http")]

    def _set_names(self, answer: Answer) -> None:
        for word in shlex.split(self.options.get("set", "")):
            name, _, path = word.partition("=")
            value: Any = json.loads(answer.body) if path else answer.body
            for key in path.split("."):
                try:
                    value = value[int(key)] if isinstance(value, list) else value[key]
                except (KeyError, IndexError, ValueError) as e:
                    raise self.failure(f"there is no {path} in {answer.body}") from e
            self.names[name] = str(value)


class OperationsDirective(ExecutedDirective):
    option_spec = {"args": directives.unchanged, "resource-type": directives.unchanged,
                   "search": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        return [self._evaluate(line) for line in self.content if line.strip()]

    def _evaluate(self, line: str) -> nodes.Node:
        body = {"operations": self.substitute(line)}
        if "resource-type" in self.options:
            body |= {"resource_type": self.options["resource-type"], "search": self.options.get("search", "")}
        path = "/v1/aggregates?" + urllib.parse.quote(self.options.get("args", ""), safe="&=")
        answer = self.send("POST", path, {"Accept": JSON, "Content-Type": JSON} | authorization("admin"),
                           json.dumps(body), 200)
        self.examples.evaluated.append(body["operations"])
        replied = json.loads(answer.body)
        names = {value: name for name, value in self.names.items()}
        found = list(list_series(replied["measures"] if isinstance(replied, dict) else replied, names))
        context = [f"?{self.options['args']}"] if "args" in self.options else []
        if "resource-type" in self.options:
            context.append(f"resource_type {body['resource_type']}, search {body['search']}")
        text = "\n".join([_NAME.sub(r"\1", line), *context, "", format_series(found)])
        return self.show(text, "none")


def check_endpoints(app: Sphinx, env: Any) -> None:
    """Fail when an endpoint is in no example; not when no document with examples was read."""
    from gnocchi.rest import api, routing

    shown = set()
    root = api.V1Controller()
    for method, path in ExecutedDirective.examples.shown:
        if path.startswith("/v1"):
            controller, _ = root.find_controller(urllib.parse.unquote(path.removeprefix("/v1")))
            shown.add((controller, method))
    missing = [f"{method} /v1{path}" for path, controller in root.routes.items()
               for method in (["GET"] if hasattr(controller, "any") else routing.list_methods(controller))
               if (controller, method) not in shown]
    if shown and missing:
        raise ExtensionError("no document has an example of " + ", ".join(missing))


def check_operations(app: Sphinx, env: Any) -> None:
    """Fail when an operation of /v1/aggregates is in no example; not when no document with examples was read."""
    from gnocchi.query import expression

    spellings = expression.BINARY | expression.UNARY
    words = [word for text in ExecutedDirective.examples.evaluated for word in re.findall(r"\(([^\s()]+)", text)]
    shown = {spellings.get(word, word) for word in words}
    missing = {*spellings.values(), *expression.OF_SERIES, "clip"} - shown
    if words and missing:
        raise ExtensionError("no document has an example of the operations " + ", ".join(sorted(missing)))


def end_build(app: Sphinx, exception: Exception | None) -> None:
    ExecutedDirective.examples.service.stop()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("request", RequestDirective)
    app.add_directive("operations", OperationsDirective)
    ExecutedDirective.examples = Examples()
    app.connect("env-check-consistency", check_endpoints)
    app.connect("env-check-consistency", check_operations)
    app.connect("build-finished", end_build)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
