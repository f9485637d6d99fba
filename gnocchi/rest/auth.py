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


def split_creator(creator: str | None) -> tuple[str | None, str | None]:
    """What replies show as `created_by_user_id` and `created_by_project_id`."""
    if creator is None:
        return None, None
    user_id, _, project_id = creator.partition(":")
    return user_id, project_id
