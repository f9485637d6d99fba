"""What OTLP's endpoint refuses before it looks at it."""

import gzip

from gnocchi.rest.app import load_app
from gnocchi.rest.controllers import otlp
from gnocchi.tests.unit.test_rest_app import JSON, make_conf, send  # noqa: F401


def test_bodies_are_smaller_than_elsewhere(make_conf):  # noqa: F811
    """For what they hold may take 100 times as much memory."""
    app = load_app(make_conf())
    headers = JSON | {"Content-Encoding": "gzip"}
    for size, status in ((otlp.BODY_BYTES_MAX, 400), (otlp.BODY_BYTES_MAX + 1, 413)):
        reply = send(app, "/v1/otlp/v1/metrics", "POST", headers, gzip.compress(b"[" + bytes(size - 1)))
        assert status == reply.status_int, reply.text
    assert "larger than 20971520 bytes when decompressed" in reply.json["message"]
