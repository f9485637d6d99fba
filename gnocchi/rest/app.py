"""The WSGI pipeline of the API, and what its handlers work with."""

import contextlib
import contextvars
import importlib
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import webob
from oslo_config import cfg
from oslo_middleware import cors, http_proxy_to_wsgi
from oslo_policy import opts as policy_opts
from oslo_policy import policy as oslo_policy
from paste import deploy

from gnocchi.backends import Backends
from gnocchi.common import drivers
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration
from gnocchi.incoming import IncomingDriver
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.ingest.finder import MetricFinder
from gnocchi.processing.aggregate import Processed
from gnocchi.processing.locks import Coordinator
from gnocchi.processing.statistics import API, Statistics
from gnocchi.rest import policies, request, routing
from gnocchi.rest.auth import AuthHelper
from gnocchi.rest.health import Health, Healthcheck
from gnocchi.rest.policy import PolicyEnforcer
from gnocchi.rest.turns import Turns
from gnocchi.storage.store import Store

LOG = logging.getLogger(__name__)

T = TypeVar("T")

PACKAGED_PASTE_CONFIG = os.path.join(os.path.dirname(__file__), "api-paste.ini")

#: Roots as paste files of earlier releases name them.
OLD_ROOTS = {
    "gnocchi.rest.VersionsController": "gnocchi.rest.api.VersionsController",
    "gnocchi.rest.V1Controller": "gnocchi.rest.api.V1Controller",
}

#: Memory of one API process for heads and blocks that it read.  There are several, and from local files a read without
#: it takes 50 us longer, of 500.
STORE_CACHE_BYTES = 32 << 20

#: The configuration while a pipeline is loaded, for factories that need it then: Paste hands them nothing but text.
_LOADING: contextvars.ContextVar[cfg.ConfigOpts] = contextvars.ContextVar("loading")

#: Where the pipelines have the health check; a deployer's file may have it below something.
HEALTHCHECK_PATH = "/healthcheck"

#: Seconds from one publication of counters that are not urgent to the next.
STATISTICS_DELAY_S = 30.0


class Services:
    """Everything handlers need, in `pecan.request.services`.

    Back ends are opened by the first request that needs them: the API starts, and answers `/` and `/healthcheck`, while
    they are away.  One that cannot be opened raises BackendUnavailable and is tried again by the next request.
    """

    def __init__(self, conf: cfg.ConfigOpts, backends: Backends) -> None:
        self.conf = conf
        self.backends = backends
        self.turns = Turns(conf.api.threads)
        backends.share(self.turns.waiting)
        self.policy = PolicyEnforcer(conf)
        self.finder = MetricFinder(backends)
        self.health = Health(backends)
        self.healthcheck = Healthcheck(conf, self.health)
        self._statistics: Statistics | None = None
        self._kept: dict[Callable, Any] = {}
        self._lock = threading.Lock()
        self.auth: AuthHelper = drivers.load_driver("gnocchi.rest.auth_helper", conf.api.auth_mode)()

    @property
    def indexer(self) -> Indexer:
        return self.backends.indexer

    @property
    def incoming(self) -> IncomingDriver:
        return self.backends.incoming

    @property
    def store(self) -> Store:
        return self.backends.store

    @property
    def coordinator(self) -> Coordinator:
        return self.backends.coordinator

    def keep(self, make: Callable[[cfg.ConfigOpts], T]) -> T:
        """What `make` makes of the configuration, the same for all requests."""
        found = self._kept.get(make)
        if found is None:
            with self._lock:
                found = self._kept.setdefault(make, make(self.conf))
        return found

    def count_processed(self, done: Processed) -> None:
        """Count what became of measures that a request had processed."""
        if done.measures:
            self._begin_statistics().count(done.measures, done.metrics, done.refused, done.parked)

    def count_other(self, name: str, number: int) -> None:
        """Count what is in no measure, and tell it if that is due."""
        if number:
            self._begin_statistics().count_other(name, number)
            self.publish_statistics()

    def _begin_statistics(self) -> Statistics:
        with self._lock:
            if self._statistics is None:
                # Only now: what was made before a server forked would have one name in all its processes.
                process = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4()}"
                self._statistics = Statistics(API, process, STATISTICS_DELAY_S)
            return self._statistics

    def publish_statistics(self) -> None:
        """Tell what was counted, if that is due; what cannot be told now is told later."""
        if self._statistics is not None:
            try:
                self._statistics.publish(self.indexer)
            except BackendUnavailable as e:
                LOG.warning("Counters are not published: %s", e)


class Application(NamedTuple):
    """The WSGI application, and what its handlers work with."""

    app: Callable
    services: Services

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)


def load_app(conf: cfg.ConfigOpts, backends: Backends | None = None) -> Application:
    """Build the WSGI application: proxy headers, CORS, then the paste pipeline of `[api] auth_mode`.

    Parameters
    ----------
    conf : ConfigOpts
        With all options registered and read.
    backends : Backends, optional
        Those of this process; made from `conf` if left out.

    Raises
    ------
    InvalidConfiguration
        What the authentication mode needs is not there.
    """
    services = Services(conf, backends or Backends(conf, STORE_CACHE_BYTES))
    loading = _LOADING.set(conf)
    try:
        pipeline = deploy.loadapp(f"config:{find_paste_config(conf)}", name=f"gnocchi+{conf.api.auth_mode}")
    finally:
        _LOADING.reset(loading)

    def with_services(environ, start_response):
        environ["gnocchi.services"] = services
        if environ.get("PATH_INFO", "").endswith(HEALTHCHECK_PATH):
            # Without a turn: others may have all, and wait for the back end in question.
            reply = pipeline(environ, start_response)
            request.finish_body(environ, contextlib.nullcontext)
            return reply
        with services.turns:
            reply = pipeline(environ, start_response)
            request.finish_body(environ, services.turns.aside)
            return reply

    app = _cors_when_asked_for(with_services, conf)
    return Application(ProxyHeaders(app, conf) if conf.api.enable_proxy_headers_parsing else app, services)


def find_paste_config(conf: cfg.ConfigOpts) -> str:
    """Path of `[api] paste_config`, looked up beside the configuration files; the packaged one when there is none."""
    return conf.find_file(conf.api.paste_config) or PACKAGED_PASTE_CONFIG


def _cors_when_asked_for(app: Callable, conf: cfg.ConfigOpts) -> Callable:
    """Let CORS see preflights and requests with an Origin.  Others it would pass on unchanged, for 100 us each."""
    with_cors = cors.CORS(app, conf)

    def dispatch(environ, start_response):
        asked = "HTTP_ORIGIN" in environ or environ["REQUEST_METHOD"] == "OPTIONS"
        return (with_cors if asked else app)(environ, start_response)

    return dispatch


class ProxyHeaders(http_proxy_to_wsgi.HTTPProxyToWSGI):
    """oslo.middleware's parser, switched by `[api] enable_proxy_headers_parsing`, and without buffering replies."""

    def _conf_get(self, key: str, group: str = "oslo_middleware") -> bool:
        return True

    def __call__(self, environ, start_response):
        self.process_request(webob.Request(environ))
        return self.application(environ, start_response)


def app_factory(global_config: dict[str, str], **local_conf: str) -> Callable:
    """Paste factory: `root` names one of the root controllers."""
    root = local_conf["root"]
    module, _, name = OLD_ROOTS.get(root, root).rpartition(".")
    return routing.make_app(getattr(importlib.import_module(module), name)())


def healthcheck_factory(global_config: dict[str, str], **local_conf: str) -> Callable:
    """Paste factory: oslo.middleware's health check on the configuration that the service was started with."""
    return lambda environ, start_response: environ["gnocchi.services"].healthcheck(environ, start_response)


def keystone_factory(global_config: dict[str, str], **local_conf: str) -> Callable:
    """Paste factory of a filter: tokens are checked as `[keystone_authtoken]` says."""
    try:
        from gnocchi.rest import keystone
    except ImportError as e:
        raise InvalidConfiguration(
            f"[api] auth_mode: keystone needs what pip install 'gnocchi[keystone]' installs: {e}") from e
    conf = _LOADING.get()
    return lambda app: keystone.TokenFilter(app, conf)


def get_enforcer() -> oslo_policy.Enforcer:
    """Return an enforcer for oslo.policy's command line tools; these parse the command line themselves."""
    conf = cfg.ConfigOpts()
    policy_opts.set_defaults(conf)
    conf([], project="gnocchi", validate_default_values=True)
    enforcer = oslo_policy.Enforcer(conf)
    enforcer.register_defaults(policies.list_rules())
    return enforcer
