"""ETag and Last-Modified of a resource, and the conditions that clients set on them (contract, rest 11.7)."""

import datetime
import hashlib

from gnocchi.indexer import Resource
from gnocchi.rest import errors, json
from gnocchi.rest.request import Request


def etag(resource: Resource) -> str:
    """The tag without quotes.  Clients compute it by themselves from the id and the `revision_start` they see."""
    text = f"{resource.id}{json.format_datetime(resource.revision_start)}"
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _last_modified(resource: Resource) -> datetime.datetime:
    return resource.revision_start.replace(microsecond=0, tzinfo=datetime.UTC)


def set_validators(response, resource: Resource) -> None:
    """Tell the client what later conditions may refer to."""
    response.etag = etag(resource)
    response.last_modified = _last_modified(resource)


#: Conditions on a change.
_HEADERS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_IF_UNMODIFIED_SINCE")


def has_preconditions(request: Request) -> bool:
    """Whether a change must find the revision for which `check_preconditions` returned."""
    return any(name in request.environ for name in _HEADERS)


def check_preconditions(request: Request, resource: Resource) -> None:
    """Return if the request may go on.

    Raises
    ------
    errors.RequestError
        412, or 304 for a GET of what the client already has.
    """
    tag, modified = etag(resource), _last_modified(resource)
    if "HTTP_IF_MATCH" in request.environ:
        if tag not in request.if_match:
            raise errors.RequestError(412)
    elif (since := _read_date(request, "if_unmodified_since")) is not None and modified > since:
        raise errors.RequestError(412)
    if "HTTP_IF_NONE_MATCH" in request.environ:
        if tag in request.if_none_match:
            raise _not_modified(tag) if request.method == "GET" else errors.RequestError(412)
    elif (request.method == "GET" and (since := _read_date(request, "if_modified_since")) is not None
            and modified <= since):
        raise _not_modified(tag)


def _read_date(request: Request, name: str) -> datetime.datetime | None:
    """A header's date, or None when there is none: what is no date is no condition (RFC 9110, 13.1)."""
    try:
        return getattr(request, name)
    except (OverflowError, ValueError):    # a year or a zone that no datetime holds
        return None


def _not_modified(tag: str) -> errors.RequestError:
    return errors.RequestError(304, headers={"ETag": f'"{tag}"'})
