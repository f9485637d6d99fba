"""Who is asking.  One helper per `[api] auth_mode`; entry points `gnocchi.rest.auth_helper`."""

import abc
import base64
import dataclasses
from collections.abc import Mapping
from typing import Any

from gnocchi.rest import errors

ADMIN = "admin"

#: What the index holds of a creator.
NAME_LENGTH_MAX = 255


@dataclasses.dataclass(frozen=True)
class Identity:
    """An authenticated caller.

    creator : stored on what the caller creates
    credentials : what policy checks are evaluated against
    """

    creator: str
    credentials: Mapping[str, Any]


class AuthHelper(abc.ABC):
    """Tells who sent a request.

    hides_rows : whether lists show a caller only what the policy lets it see (else everybody sees everything)
    """

    hides_rows = False

    @abc.abstractmethod
    def identify(self, environ: Mapping[str, Any]) -> Identity:
        """Raises errors.RequestError 401 when the request carries no usable identity."""


def _named_user(name: str) -> Identity:
    """In the modes without roles, the user called `admin` is the administrator.

    Raises ValueError for what the index could not hold as a creator.
    """
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        raise ValueError("no usable user name")
    return Identity(name, {"user": name, "roles": [ADMIN] if name == ADMIN else [], "system": "all"})


class BasicAuth(AuthHelper):
    """HTTP Basic: the user name counts, the password does not."""

    CHALLENGE = {"WWW-Authenticate": 'Basic realm="gnocchi"'}

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        scheme, _, encoded = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
        try:
            if scheme.lower() != "basic":
                raise ValueError("not the scheme of this mode")
            return _named_user(base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[0])
        except ValueError as e:     # from base64 and UTF-8, too
            raise errors.RequestError(401, "", self.CHALLENGE) from e


class RemoteUserAuth(AuthHelper):
    """The web server in front has authenticated the user and says so in REMOTE_USER."""

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        name = environ.get("REMOTE_USER") or b""
        try:
            # In WSGI, text is bytes read as Latin-1.
            return _named_user((name.encode("latin-1") if isinstance(name, str) else name).decode())
        except ValueError as e:
            raise errors.RequestError(401) from e


class KeystoneAuth(AuthHelper):
    """The headers that keystonemiddleware sets once it has checked a token, here by gnocchi.rest.keystone.

    Without that filter in the paste pipeline they are believed as they come.
    """

    hides_rows = True

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        user_id, project_id = _read_header(environ, "X_USER_ID"), _read_header(environ, "X_PROJECT_ID")
        creator = f"{user_id}:{project_id}"
        if not user_id or len(creator) > NAME_LENGTH_MAX:
            raise errors.RequestError(401)
        scope = {
            "project_id": project_id,
            "domain_id": _read_header(environ, "X_DOMAIN_ID"),
            "system_scope": _read_header(environ, "OPENSTACK_SYSTEM_SCOPE"),
        }
        roles = [role.strip() for role in _read_header(environ, "X_ROLES").split(",")]
        # What the token is not scoped to is left out: a rule must not find it equal to what an object does not have.
        return Identity(creator, {"user": creator, "user_id": user_id, "roles": [role for role in roles if role],
                                  **{name: value for name, value in scope.items() if value}})


def _read_header(environ: Mapping[str, Any], name: str) -> str:
    """Return a header without blanks around it, empty if it is not there.

    Raises errors.RequestError 401 for what cannot be part of an identity.
    """
    try:
        # None is what keystonemiddleware puts there for a scope that the token does not have.
        value = (environ.get(f"HTTP_{name}") or "").strip().encode("latin-1").decode()
    except UnicodeError as e:
        raise errors.RequestError(401) from e
    if not value.isprintable():
        raise errors.RequestError(401)
    return value


def split_creator(creator: str | None) -> tuple[str | None, str | None]:
    """What replies show as `created_by_user_id` and `created_by_project_id`."""
    if creator is None:
        return None, None
    user_id, _, project_id = creator.partition(":")
    return user_id, project_id
