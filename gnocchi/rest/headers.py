"""URLs that point back to this service, and the headers that hold them."""

import urllib.parse

from gnocchi.rest.request import Request


def quote(segment: str) -> str:
    """Percent-encode text as UTF-8; `/` stays as it is."""
    return urllib.parse.quote(segment)


def url_for(request: Request, *segments: str) -> str:
    """Absolute URL below the mount point of the application that answers (for V1: `<base>/v1/...`)."""
    return "/".join([request.application_url, *map(quote, segments)])


def set_created(request: Request, response, *segments: str) -> None:
    """201, and the Location of what was created."""
    response.status = 201
    response.headers["Location"] = url_for(request, *segments)
