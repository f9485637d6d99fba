"""Who is asking.  One helper per `[api] auth_mode`; entry points `gnocchi.rest.auth_helper`."""

import abc
import base64
import binascii
import dataclasses
from collections.abc import Mapping
from typing import Any

from gnocchi.rest import errors

ADMIN = "admin"


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
    """In the modes without roles, the user called `admin` is the administrator."""
    return Identity(name, {"user": name, "roles": [ADMIN] if name == ADMIN else [], "system": "all"})


class BasicAuth(AuthHelper):
    """HTTP Basic: the user name counts, the password does not."""

    CHALLENGE = {"WWW-Authenticate": 'Basic realm="gnocchi"'}

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        scheme, _, encoded = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
        if scheme.lower() != "basic":
            raise errors.RequestError(401, "", self.CHALLENGE)
        try:
            name = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError) as e:
            raise errors.RequestError(401, "", self.CHALLENGE) from e
        if not name:
            raise errors.RequestError(401, "", self.CHALLENGE)
        return _named_user(name)


class RemoteUserAuth(AuthHelper):
    """The web server in front has authenticated the user and says so in REMOTE_USER."""

    def identify(self, environ: Mapping[str, Any]) -> Identity:
        name = environ.get("REMOTE_USER")
        if isinstance(name, bytes):
            name = name.decode()
        if not name:
            raise errors.RequestError(401)
        return _named_user(name)


def split_creator(creator: str | None) -> tuple[str | None, str | None]:
    """What replies show as `created_by_user_id` and `created_by_project_id`."""
    if creator is None:
        return None, None
    user_id, _, project_id = creator.partition(":")
    return user_id, project_id
