"""The filter of a request: its JSON body, or `filter` in the query if there is no body."""

from gnocchi.indexer import ResourceType
from gnocchi.indexer.filters import Filter
from gnocchi.indexer.resource_lists import filter_kinds
from gnocchi.rest import arguments
from gnocchi.rest.filters.text import parse_filter
from gnocchi.rest.filters.tree import FilterReader
from gnocchi.rest.request import Request


def read_filter(request: Request, type: ResourceType, history: bool = False) -> Filter | None:
    """Return the condition on resources of a type that a client asks for; None: there is none.

    Raises errors.RequestError 415, 413 or 400, InvalidInput.
    """
    if request.has_body:
        tree = request.read_json()
    else:
        text = arguments.read_text(request, "filter")
        if not text or text.isspace():
            return None
        tree = parse_filter(text)
    return FilterReader(filter_kinds(type, history), type.name, request.identity.creator).read(tree)
