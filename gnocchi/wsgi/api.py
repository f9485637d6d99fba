"""The API for any WSGI server: `gnocchi.wsgi.api:application`."""

import threading
from collections.abc import Callable

from gnocchi import opts, service
from gnocchi.rest import app


class Application:
    """Builds the API once per process, at the first request: a server may fork after it has imported this.

    The configuration comes from the usual files and the environment; the command line is the server's own.
    """

    def __init__(self) -> None:
        self._app: Callable | None = None
        self._lock = threading.Lock()

    def __call__(self, environ, start_response):
        if self._app is None:
            with self._lock:
                if self._app is None:
                    opts.set_defaults()
                    self._app = app.load_app(service.prepare_service([]))
        return self._app(environ, start_response)


application = Application()
