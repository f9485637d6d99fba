"""Checks tokens with Keystone, in front of everything below /v1: keystonemiddleware's auth_token as part of this API.

The library's own filter reads configuration files of its own choice, answers in a shape of its own, and lets errors of
Keystone through as 500.
"""

import logging
from collections.abc import Callable
from typing import Any

import webob
from keystoneauth1.exceptions import ClientException
from keystonemiddleware import auth_token
from keystonemiddleware.exceptions import KeystoneMiddlewareException
from oslo_config import cfg

from gnocchi.exceptions import InvalidConfiguration
from gnocchi.rest import errors

LOG = logging.getLogger(__name__)

SECTION = "keystone_authtoken"


class TokenFilter:
    """WSGI filter: lets requests with a valid token through, with who sent them in headers that no client can set.

    Parameters
    ----------
    app : WSGI application
        Behind `gnocchi.rest.app`, which puts the services into its environment.
    conf : ConfigOpts
        Its section `[keystone_authtoken]` is read, and gets the library's options registered.
    """

    def __init__(self, app: Callable, conf: cfg.ConfigOpts) -> None:
        self._app = app
        self._protocol = _make_protocol(conf)

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Any:
        try:
            # Perhaps Keystone is asked, over the network.
            with environ["gnocchi.services"].turns.aside():
                self._check(environ)
        except errors.RequestError as e:
            return errors.render(webob.Request(environ), e)(environ, start_response)
        return self._app(environ, start_response)

    def _check(self, environ: dict[str, Any]) -> None:
        """Put the headers of the caller into a request.  Raises errors.RequestError 401, 503."""
        try:
            reply = webob.Request(environ).get_response(self._protocol)
        except (ClientException, KeystoneMiddlewareException) as e:
            LOG.error("Keystone cannot be asked: %s: %s", type(e).__name__, e)
            raise errors.RequestError(503, "Keystone cannot be asked whether the token is valid") from e
        if reply.status_int == 401:
            raise errors.RequestError(401, "", {"WWW-Authenticate": reply.headers["WWW-Authenticate"]})
        if reply.status_int != 204:
            raise errors.RequestError(503, "Keystone cannot be asked whether the token is valid")


def _make_protocol(conf: cfg.ConfigOpts) -> auth_token.AuthProtocol:
    """Raises InvalidConfiguration for what the library finds wrong in its section."""
    # Nothing is open to who has no token, so the decision is not to be left to what comes behind: it would read an
    # absent Keystone as a bad token.
    own = {"oslo_config_config": conf, "delay_auth_decision": False}
    try:
        protocol = auth_token.AuthProtocol(_accept, own)
    except (ClientException, KeystoneMiddlewareException, cfg.Error) as e:
        raise InvalidConfiguration(f"[{SECTION}]: {e}") from e
    if not (conf[SECTION].auth_type or conf[SECTION].auth_section):
        raise InvalidConfiguration(f"[{SECTION}] auth_type: is not set; without an account of its own the API cannot "
                                   "ask Keystone")
    # Which rules of application credentials are about us.  By default the library refuses those that have rules.
    conf.set_default("service_type", "metric", SECTION)
    return protocol


def _accept(environ: dict[str, Any], start_response: Callable) -> list[bytes]:
    """Stands behind the library's filter, and is only reached with a valid token."""
    start_response("204 No Content", [])
    return []
