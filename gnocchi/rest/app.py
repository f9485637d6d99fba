"""The WSGI pipeline of the API, and what its handlers work with."""

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

import webob.exc
from oslo_config import cfg
from oslo_middleware import cors, healthcheck, http_proxy_to_wsgi
from oslo_policy import opts as policy_opts
from oslo_policy import policy as oslo_policy
from paste import deploy

from gnocchi.common import drivers
from gnocchi.rest import policies, routing
from gnocchi.rest.policy import PolicyEnforcer

PACKAGED_PASTE_CONFIG = os.path.join(os.path.dirname(__file__), "api-paste.ini")

#: Roots as paste files of earlier releases name them.
OLD_ROOTS = {
    "gnocchi.rest.VersionsController": "gnocchi.rest.api.VersionsController",
    "gnocchi.rest.V1Controller": "gnocchi.rest.api.V1Controller",
}

#: Memory of one API process for heads and blocks that it read.
STORE_CACHE_BYTES = 64 << 20


def _open_indexer(conf: cfg.ConfigOpts) -> Any:
    from gnocchi.indexer.sqlalchemy import Indexer

    return Indexer(conf.indexer.url)


def _open_driver(conf: cfg.ConfigOpts, section: str) -> Any:
    options = conf[section]
    driver = drivers.load_driver(f"gnocchi.{section}", options.driver)
    return driver(**drivers.driver_arguments(driver, options.driver, options))


def _open_incoming(conf: cfg.ConfigOpts) -> Any:
    return _open_driver(conf, "incoming")


def _open_store(conf: cfg.ConfigOpts) -> Any:
    from gnocchi.storage.store import Store

    return Store(_open_driver(conf, "storage"), STORE_CACHE_BYTES)


class Services:
    """Everything handlers need, in `pecan.request.services`.

    Back ends are opened by the first request that needs them: the API starts, and answers `/` and `/healthcheck`, while
    they are away.  One that cannot be opened raises BackendUnavailable and is tried again by the next request.

    Attributes
    ----------
    conf : oslo_config.cfg.ConfigOpts
    indexer : gnocchi.indexer.sqlalchemy.Indexer
    incoming : gnocchi.incoming.IncomingDriver
    store : gnocchi.storage.store.Store
    policy : gnocchi.rest.policy.PolicyEnforcer
    auth : gnocchi.rest.auth.AuthHelper
    """

    OPENERS: dict[str, Callable[[cfg.ConfigOpts], Any]] = {
        "indexer": _open_indexer,
        "incoming": _open_incoming,
        "store": _open_store,
    }

    def __init__(self, conf: cfg.ConfigOpts, **opened: Any) -> None:
        self.conf = conf
        self.policy = PolicyEnforcer(conf)
        self.auth = drivers.load_driver("gnocchi.rest.auth_helper", conf.api.auth_mode)()
        self._lock = threading.Lock()
        self.__dict__.update({name: back_end for name, back_end in opened.items() if back_end is not None})

    def __getattr__(self, name: str) -> Any:
        """Open a back end at its first use; from then on it is an ordinary attribute."""
        opener = self.OPENERS.get(name)
        if opener is None:
            raise AttributeError(name)
        with self._lock:
            if name not in self.__dict__:
                self.__dict__[name] = opener(self.conf)
        return self.__dict__[name]


def load_app(conf: cfg.ConfigOpts, *, indexer: Any = None, incoming: Any = None, store: Any = None) -> Callable:
    """Build the WSGI application: proxy headers, CORS, then the paste pipeline of `[api] auth_mode`.

    Parameters
    ----------
    conf : ConfigOpts
        With all options registered and read.
    indexer, incoming, store
        Back ends already open; those left out are opened at first use.
    """
    conf.register_opts(http_proxy_to_wsgi.OPTS, group="oslo_middleware")
    services = Services(conf, indexer=indexer, incoming=incoming, store=store)
    pipeline = deploy.loadapp(f"config:{find_paste_config(conf)}", name=f"gnocchi+{conf.api.auth_mode}")

    def with_services(environ, start_response):
        environ["gnocchi.services"] = services
        return pipeline(environ, start_response)

    app = _cors_when_asked_for(with_services, conf)
    return ProxyHeaders(app, conf) if conf.api.enable_proxy_headers_parsing else app


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
    lock = threading.Lock()
    checks: dict[int, Callable] = {}

    def app(environ, start_response):
        conf = environ["gnocchi.services"].conf
        with lock:
            if id(conf) not in checks:
                checks[id(conf)] = healthcheck.Healthcheck(webob.exc.HTTPNotFound(), conf)
        return checks[id(conf)](environ, start_response)

    return app


def get_enforcer() -> oslo_policy.Enforcer:
    """Return an enforcer for oslo.policy's command line tools; these parse the command line themselves."""
    conf = cfg.ConfigOpts()
    policy_opts.set_defaults(conf)
    conf([], project="gnocchi", validate_default_values=True)
    enforcer = oslo_policy.Enforcer(conf)
    enforcer.register_defaults(policies.list_rules())
    return enforcer
