"""Which error is which status, and in which shape it is told."""

import json

import pytest
import webob
import webob.exc

from gnocchi import exceptions
from gnocchi.rest import errors


@pytest.mark.parametrize("accept, shape", [
    (None, errors.TEXT),
    ("", errors.TEXT),
    ("application/json", errors.JSON),
    ("application/*", errors.JSON),
    ("*/*", errors.JSON),
    ("application/json, */*", errors.JSON),
    ("application/json, text/plain, */*", errors.JSON),
    ("text/plain, application/json; q=0.8", errors.JSON),
    ("application/json; details=True", errors.JSON),
    ("Application/JSON", errors.JSON),
    ("text/plain", errors.TEXT),
    ("text/plain, */*", errors.TEXT),
    ("application/xml", errors.TEXT),
    ("text/html", errors.HTML),
    ("text/html, */*;q=0.8", errors.HTML),
    ("text/html;q=0.5, application/json", errors.JSON),
    ("text/html, application/json", errors.JSON),
    ("application/json;q=0, */*", errors.TEXT),
    ("what?;;", errors.JSON),
])
def test_shape_follows_accept(accept, shape):
    """JSON wherever the client can take it, HTML only where it is preferred by name."""
    assert shape == errors.best_shape(accept)


@pytest.mark.parametrize("accept, accepted", [
    (None, True), ("", True), ("*/*", True), ("application/json", True), ("application/*;q=0.1", True),
    ("text/plain, application/json; q=0.8", True), ("application/json; details=True; history=true", True),
    ("text/plain", False), ("text/html", False), ("application/xml, text/*", False),
    ("application/json;q=0, */*", False), ("*/*;q=0", False), ("garbage in here", True),
])
def test_json_is_accepted(accept, accepted):
    """The most specific range decides, and its parameters do not matter."""
    assert accepted == errors.accepts_json(accept)


@pytest.mark.parametrize("error, status, detail", [
    (exceptions.NoSuchArchivePolicy("a"), 404, "Archive policy a does not exist"),
    (exceptions.ArchivePolicyAlreadyExists("a"), 409, "Archive policy a already exists"),
    (exceptions.ArchivePolicyInUse("a"), 400, "Archive policy a is still in use"),
    (exceptions.InvalidPagination("x"), 400, "Invalid pagination: `x'"),
    (exceptions.BackendUnavailable("index: refused"), 503, "index: refused"),
    (exceptions.SackLocked(3), 503, "Sack 3 is locked"),
    (NotImplementedError("lifespan"), 501, "lifespan"),
    (errors.RequestError(412), 412, ""),
    (webob.exc.HTTPNotFound(), 404, ""),
])
def test_status_of_exception(error, status, detail):
    """One table decides."""
    found = errors.as_request_error(error)
    assert (status, detail) == (found.status, found.detail)


def test_unexpected_error_is_logged_and_keeps_its_secrets(caplog):
    """The client hears nothing of what went wrong, the log has the traceback."""
    try:
        raise RuntimeError("postgresql://user:secret@host/")
    except RuntimeError as e:
        error = errors.as_request_error(e)
    assert error.status == 500
    assert "secret" not in error.detail
    assert "Traceback" in caplog.text


def test_what_every_request_may_meet_again_is_logged_once(caplog):
    """An extra that is not installed, and a back end that is away."""
    for error in (NotImplementedError("Brokers need pip"), exceptions.BackendUnavailable("shelf: away")):
        for _ in range(5):
            errors.as_request_error(error)
    assert ["NotImplementedError: Brokers need pip", "BackendUnavailable: shelf: away"] == caplog.messages


def test_corrupted_data_is_500_that_names_the_object(caplog):
    """Somebody has to go and look at it."""
    error = errors.as_request_error(exceptions.CorruptedData("a/b", 12, "bad checksum"))
    assert (500, "a/b at byte 12: bad checksum") == (error.status, error.detail)


@pytest.mark.parametrize("accept", ["application/json", "text/plain", "text/html", "*/*"])
@pytest.mark.parametrize("detail", ["", None, "x", {"cause": "c", "detail": [1], "reason": "r"}])
def test_every_detail_has_every_shape(accept, detail):
    """Text, objects and nothing at all can be told in all shapes."""
    request = webob.Request.blank("/", accept=accept)
    response = errors.render(request, errors.RequestError(404, detail, {"Allow": "GET"}))
    assert "404 Not Found" == response.status
    assert "GET" == response.headers["Allow"]
    if response.content_type == errors.JSON:
        assert detail == json.loads(response.body)["description"]
    else:
        assert "The resource could not be found." in response.text


def test_reply_without_body_has_none():
    """304 has neither body nor media type."""
    response = errors.render(webob.Request.blank("/", accept="application/json"), errors.RequestError(304))
    assert (b"", None) == (response.body, response.headers.get("Content-Type"))
