"""Pages of long lists: the query arguments `limit`, `marker` and `sort`, and the Link to the next page."""

import dataclasses
import urllib.parse
from collections.abc import Sequence

import voluptuous

from gnocchi.indexer import pagination
from gnocchi.rest import errors, schemas
from gnocchi.rest.request import Request

_ARGUMENTS = voluptuous.Schema({
    "limit": voluptuous.All(schemas.integer, voluptuous.Range(min=1)),
}, extra=voluptuous.ALLOW_EXTRA)


@dataclasses.dataclass(frozen=True)
class Page:
    """limit : items at most;  marker : last item already seen

    sorts : `key:direction`, as asked for or by default.  The index sorts equal items by what is unique; clients do not
        see that in links.
    """

    limit: int
    marker: str | None
    sorts: list[str]


def read_page(request: Request, default_sorts: Sequence[str]) -> Page:
    """What page the client asks for; `limit` is capped by `[api] max_limit`.

    Raises errors.RequestError 400, exceptions.InvalidPagination.
    """
    arguments = request.GET
    limit_max = request.services.conf.api.max_limit
    limit = limit_max
    if "limit" in arguments:
        try:
            limit = min(_ARGUMENTS({"limit": arguments["limit"]})["limit"], limit_max)
        except voluptuous.Invalid as e:
            raise errors.RequestError(400, {"cause": "Argument value error", "reason": str(e)}) from e
    sorts = pagination.effective_sorts(arguments.getall("sort"), default_sorts, ())
    return Page(limit, arguments.get("marker"), sorts)


def set_next_link(request: Request, response, page: Page, count: int, marker: str) -> None:
    """Point to the next page if this one is full.

    The path is echoed as the client wrote it; arguments are sorted by name.

    Parameters
    ----------
    count : int
        Items in this page.
    marker : str
        Identifies the last of them; not used when the page is not full.
    """
    if count < page.limit:
        return
    arguments = [(name, value) for name, value in request.GET.items() if name not in ("limit", "marker", "sort")]
    arguments += [("limit", str(page.limit)), ("marker", marker)]
    arguments += [("sort", sort) for sort in page.sorts]
    arguments.sort(key=lambda argument: argument[0])
    response.headers["Link"] = f'<{request.path_url}?{urllib.parse.urlencode(arguments)}>; rel="next"'
