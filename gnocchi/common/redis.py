"""Clients of Redis, from the URLs of `redis_url` (contract, operations 1.3)."""

import contextlib
import re
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import redis
from redis import sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration

PORT = 6379
SENTINEL_PORT = 26379

#: A server that does not answer is away; seconds.
TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5.0

#: Other tries when a connection breaks, as those that are open do when the server is started anew.  By itself the
#: library makes ten and also after a timeout: that takes minutes.
RETRIES = 1

#: Longest wait for an answer that can be asked for.
SECONDS_MAX = 86400.0

_TRUE, _FALSE = ("1", "t", "true", "on", "y", "yes"), ("0", "f", "false", "off", "n", "no")


def _read_bool(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in _TRUE


def _read_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= SECONDS_MAX:
        raise ValueError(f"{text} is not between 0 and {SECONDS_MAX:g} seconds")
    return seconds


def _read_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


#: Keys of the URL's query that are arguments of the client.
_KEYS: dict[str, Callable[[str], Any]] = {
    "db": int, "socket_timeout": _read_seconds, "health_check_interval": float, "retry_on_timeout": _read_bool,
    "socket_keepalive": _read_bool, "ssl": _read_bool, "encoding": str, "ssl_certfile": str, "ssl_keyfile": str,
    "ssl_ca_certs": str}
#: What a sentinel said, in the text of an error.
_SENTINEL_REASON = re.compile(r"> - ([^<>]+?)(?=,|$)")

_TLS_FILES = ("ssl_certfile", "ssl_keyfile", "ssl_ca_certs")


def make_client(url: str, timeout_s: float = TIMEOUT_S) -> redis.Redis:
    """Return a client, which connects at its first use, and waits so long for answers unless the URL says otherwise.

    Raises InvalidConfiguration, whose text does not hold the URL.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except ValueError:
        # Its text may hold a part of the password.
        raise InvalidConfiguration("redis_url: host or port is not valid; special characters of the password, such as "
                                   "/ # ?, have to be percent-encoded") from None
    query = urllib.parse.parse_qs(parts.query)
    if parts.scheme not in ("redis", "rediss"):
        raise InvalidConfiguration("redis_url: the scheme is not `redis'")
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": CONNECT_TIMEOUT_S,
                               "ssl": parts.scheme == "rediss"}
    try:
        for key in _KEYS.keys() & query.keys():
            options[key] = _KEYS[key](query[key][-1])
        key = "sentinel_fallback"
        fallback = [_read_address(address) for address in query.get(key, ())]
        key = "sentinel_ssl"
        own_tls = key in query and _read_bool(query[key][-1])
    except ValueError as e:
        raise InvalidConfiguration(f"redis_url: {key}: {e}") from e
    errors = (redis.ConnectionError, redis.TimeoutError) if options.pop("retry_on_timeout", False) else (
        redis.ConnectionError,)
    options["retry"] = Retry(NoBackoff(), RETRIES, errors)
    if parts.username:
        options["username"] = urllib.parse.unquote(parts.username)
    if parts.password:
        options["password"] = urllib.parse.unquote(parts.password)
    if "sentinel" in query:
        first = (parts.hostname or "localhost", port or SENTINEL_PORT)
        own = {"socket_timeout": options["socket_timeout"], "socket_connect_timeout": CONNECT_TIMEOUT_S,
               "retry": options["retry"], "ssl": own_tls}
        own |= {key: options[key] for key in _TLS_FILES if key in options and own_tls}
        own |= {key: query[f"sentinel_{key}"][-1] for key in ("username", "password") if f"sentinel_{key}" in query}
        return sentinel.Sentinel([first, *fallback], sentinel_kwargs=own, **options).master_for(query["sentinel"][-1])
    if not parts.hostname and parts.path:
        # A socket has no TLS, and no time to connect.
        return redis.Redis(unix_socket_path=urllib.parse.unquote(parts.path), **{
            key: value for key, value in options.items() if not key.startswith("ssl")})
    return redis.Redis(parts.hostname or "localhost", port or PORT, **options)


@contextlib.contextmanager
def unavailable(action: str) -> Iterator[None]:
    """Turn failures of Redis into BackendUnavailable; redis-py's texts name the server and no credentials."""
    try:
        yield
    except sentinel.MasterNotFoundError as e:
        # The text names the master, then each sentinel with all that its client was made of, and what that said.
        name, _, sentinels = str(e).partition(" : ")
        reasons = sorted(set(_SENTINEL_REASON.findall(sentinels))) or ["no sentinel knows it"]
        raise BackendUnavailable(f"redis: cannot {action}: {name}: {', '.join(reasons)}") from e
    except redis.AuthenticationError as e:
        raise BackendUnavailable(f"redis: cannot {action}: user or password is refused: {e}") from e
    except (redis.RedisError, OSError) as e:
        raise BackendUnavailable(f"redis: cannot {action}: {e}") from e
