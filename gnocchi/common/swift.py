"""Containers of Swift, whose clients are for one thread each."""

import contextlib
import json
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests
import urllib3.exceptions
from swiftclient import client
from swiftclient.exceptions import ClientException

from gnocchi.common.objects import (
    ATTEMPTS,
    CONNECT_TIMEOUT_S,
    CUT_OFF,
    NO_ANSWER,
    NO_TLS,
    TIMEOUT_S,
    CallFailed,
    Objects,
    explain_connection,
    tells_length,
)
from gnocchi.exceptions import BackendUnavailable, InvalidConfiguration

#: Objects listed or deleted by one call; the most that a default Swift allows are 10,000.
KEYS_LISTED = 10_000
KEYS_DELETED = 1000

#: Of authentication, as `swift_auth_version` tells them.
AUTH_VERSIONS = ("1", "1.0", "2", "2.0", "3", "3.0")

#: Connections that are kept for the next use.
CONNECTIONS_KEPT = 64

_TIMEOUTS = (requests.Timeout, urllib3.exceptions.TimeoutError)
_GONE = 404
_NOT_SATISFIABLE = 416


class _Connection(client.Connection):
    """A client that tries once, and does not wait for a connection as long as for an answer."""

    def __init__(self, timeouts: tuple[float, float], **options: Any) -> None:
        # What asks Keystone takes one number only.
        super().__init__(retries=0, starting_backoff=0, timeout=timeouts[1], **options)
        self._timeouts = timeouts
        if self.auth_version in client.AUTH_VERSIONS_V1:
            self.timeout = timeouts

    def http_connection(self, url: str | None = None) -> Any:
        parsed, connection = super().http_connection(url)
        arguments, session = connection.requests_args, connection.request_session
        arguments["timeout"] = self._timeouts
        # What the environment says of proxies and authorities is looked up now: that takes 40 % of a call's CPU.
        found = session.merge_environment_settings(connection.url, arguments.get("proxies") or {}, None,
                                                   arguments["verify"], arguments.get("cert"))
        arguments["proxies"], arguments["verify"] = found["proxies"], found["verify"]
        session.trust_env = False
        return parsed, connection

    def put_bytes(self, container: str, key: str, data: bytes) -> str:
        """Store an object; unlike `put_object` it can do so once more when the token has expired."""
        return self._retry(None, client.put_object, container, key, data, content_length=len(data),
                           content_type="application/octet-stream")


class Container(Objects):
    """A container of Swift.

    Parameters
    ----------
    name : str
    parallel_operations : int
        Calls made at once by those methods that make many.
    auth_version, auth_insecure, url, ...
        As the options `swift_*`.
    """

    def __init__(self, name: str, *, parallel_operations: int = 1, auth_version: str = "1",
                 auth_insecure: bool = False, url: str | None = None, authurl: str, preauthtoken: str | None = None,
                 cacert: str | None = None, region: str | None = None, user: str, user_domain_name: str = "Default",
                 key: str, project_name: str | None = None, project_domain_name: str = "Default",
                 storage_policy: str | None = None, endpoint_type: str = "publicURL",
                 service_type: str = "object-store", timeout: float = TIMEOUT_S) -> None:
        if preauthtoken and not url:
            raise InvalidConfiguration("swift_preauthtoken needs swift_url")
        if str(auth_version) not in AUTH_VERSIONS:
            raise InvalidConfiguration(f"swift_auth_version: {auth_version} is none of {', '.join(AUTH_VERSIONS)}")
        if "/" in name:
            raise InvalidConfiguration("swift_container_prefix: the name of a container has no /")
        super().__init__(name, "swift", parallel_operations)
        self._policy = storage_policy
        wait_s = min(timeout or TIMEOUT_S, TIMEOUT_S)
        names = {"endpoint_type": endpoint_type, "service_type": service_type, "region_name": region,
                 "user_domain_name": user_domain_name, "project_domain_name": project_domain_name,
                 "object_storage_url": url}
        self._options: dict[str, Any] = {
            "timeouts": (min(CONNECT_TIMEOUT_S, wait_s), wait_s), "authurl": authurl, "user": user, "key": key,
            "auth_version": auth_version, "insecure": auth_insecure, "cacert": cacert or None,
            "tenant_name": project_name or None, "preauthtoken": preauthtoken or None,
            "os_options": {name: value for name, value in names.items() if value}}
        self._idle: list[_Connection] = []
        #: Of the account, and the last token that was given.
        self._token: tuple[str, str] | None = None
        #: Whether the middleware is there that deletes many objects with one call; not known at first.
        self._bulk = True

    # Calls

    @contextlib.contextmanager
    def _connected(self) -> Iterator[_Connection]:
        """Give a connection of one's own; it is kept unless something went wrong."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = _Connection(**self._options)
        if self._token is not None and not connection.token:
            connection.url, connection.token = self._token
        try:
            yield connection
        except ClientException as e:
            if e.http_status not in (_GONE, _NOT_SATISFIABLE):
                connection.close()
                raise
            self._keep(connection)
            raise
        except BaseException:
            connection.close()
            raise
        self._keep(connection)

    def _keep(self, connection: _Connection) -> None:
        if connection.url and connection.token:
            self._token = connection.url, connection.token
        if len(self._idle) < CONNECTIONS_KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def _call(self, action: str, name: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of a connection; return what it returns, None where something is not there.

        Raises BackendUnavailable; ClientException where a range begins behind the end of an object.
        """
        return self._repeat(action, lambda: self._try(name, arguments, options))

    def _try(self, name: str, arguments: Sequence[Any], options: Mapping[str, Any]) -> Any:
        try:
            with self._connected() as connection:
                return getattr(connection, name)(*arguments, **options)
        except ClientException as e:
            if e.http_status == _GONE:
                return None
            if e.http_status == _NOT_SATISFIABLE:
                raise
            if e.http_status == 401:
                self._token = None
            raise CallFailed(_explain(e), may_pass=_may_pass(e)) from e
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as e:
            # urllib3's own come up while an answer is read, by which `requests` is passed by.
            raise CallFailed(_explain(e), may_pass=not isinstance(e, _TIMEOUTS)) from e
        except ValueError as e:
            raise CallFailed("the answer is not Swift's") from e
        except ImportError as e:
            raise CallFailed(str(e)) from e

    # Objects

    def create(self) -> None:
        if self.exists():
            return      # with whatever policy: that cannot be changed
        headers = {"X-Storage-Policy": self._policy} if self._policy else {}
        policy = f" of policy {self._policy}" if self._policy else ""
        self._call(f"create container {self.name}{policy}", "put_container", self.name, headers=headers)

    def exists(self) -> bool:
        return self._call(f"look for container {self.name}", "head_container", self.name) is not None

    def put(self, key: str, data: bytes) -> None:
        if self._call(f"write {key}", "put_bytes", self.name, key, data) is None:
            raise self.no_container(f"write {key}")

    def get(self, key: str, start: int = 0, stop: int | None = None, *, newest: bool = False) -> bytes | None:
        headers = {"X-Newest": "true"} if newest else {}
        if stop is not None and stop <= start:
            found = self._call(f"read {key}", "head_object", self.name, key, headers=headers)
            return None if found is None else b""
        if start or stop is not None:
            headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
        try:
            found = self._call(f"read {key}", "get_object", self.name, key, headers=headers)
        except ClientException:
            return b""      # it ends before
        if found is None:
            return None
        answer, data = found
        if not tells_length(answer) or int(answer.get("content-length", len(data))) != len(data):
            raise self.failed(f"read {key}", CUT_OFF)
        return data

    def list(self, prefix: str, after: str = "") -> Iterator[str]:
        while True:
            action = f"list {self.name}/{prefix}"
            found = self._call(action, "get_container", self.name, prefix=prefix, marker=after, limit=KEYS_LISTED)
            if found is None:
                raise self.no_container(action)
            keys = [row["name"] for row in found[1]]
            yield from keys
            if len(keys) < KEYS_LISTED:
                return
            after = keys[-1]

    def delete_many(self, keys: Sequence[str]) -> None:
        parts = [keys[first:first + KEYS_DELETED] for first in range(0, len(keys), KEYS_DELETED)]
        self._threads.map(self._delete_part, parts)

    def _delete_part(self, keys: Sequence[str]) -> None:
        if len(keys) > 1 and self._bulk:
            self._bulk = self._delete_at_once(keys)
        if len(keys) == 1 or not self._bulk:
            for key in keys:
                self._call(f"delete {key}", "delete_object", self.name, key)

    def _delete_at_once(self, keys: Sequence[str]) -> bool:
        """Delete objects by one call, and return whether there is such a call."""
        lines = "".join(f"{urllib.parse.quote(f'{self.name}/{key}')}\n" for key in keys)
        action = f"delete {len(keys)} objects"
        refused = ""
        for _attempt in range(ATTEMPTS):
            try:
                _, body = self._call(action, "post_account", {"Content-Type": "text/plain",
                                                              "Accept": "application/json"},
                                     query_string="bulk-delete", data=lines.encode()) or ({}, b"")
            except BackendUnavailable as e:
                if isinstance(e.__cause__, ClientException) and 400 <= (e.__cause__.http_status or 0) < 500:
                    return False    # there is none, or not for us
                raise
            try:
                report = json.loads(body)
                refused = " ".join([report["Response Status"], *sorted({status for _, status in report["Errors"]})])
            except (ValueError, KeyError, TypeError):
                return False    # An account takes this call for another one where the middleware is not.
            if refused in ("200 OK", "404 Not Found"):
                return True
            if "401" in refused:    # It answers 200 all the same, so the client does not see that the token expired.
                self._drop_tokens()
        raise self.failed(action, refused)

    def _drop_tokens(self) -> None:
        self._token = None
        for connection in list(self._idle):
            connection.token = None

    def close(self) -> None:
        super().close()
        while self._idle:
            self._idle.pop().close()


def _may_pass(error: ClientException) -> bool:
    """Return whether another try may have another answer."""
    return error.http_status in (408, 429, 498, 499) or 500 <= (error.http_status or 0) < 600


def _explain(error: Exception) -> str:
    """Say what went wrong, in words that hold no URL, for that may hold a password."""
    if isinstance(error, ClientException):
        if error.http_status is None:
            return "authentication failed" if "Auth" in str(error) else "no such account, endpoint or service"
        return f"{error.http_status} {error.http_reason or ''}".strip()
    if isinstance(error, _TIMEOUTS):
        return NO_ANSWER
    if isinstance(error, requests.exceptions.SSLError):
        return NO_TLS
    return explain_connection(error)
