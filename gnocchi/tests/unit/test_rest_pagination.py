"""Pages of lists: what is read from the query, and the link to the next page."""

import types

import pytest
import webob

from gnocchi import exceptions
from gnocchi.rest import errors, pagination
from gnocchi.rest.request import Request


def make_request(query, path="/v1/metric"):
    request = Request.blank(f"{path}?{query}")
    request.environ["gnocchi.services"] = types.SimpleNamespace(
        conf=types.SimpleNamespace(api=types.SimpleNamespace(max_limit=7)))
    return request


def read(query, default=("id:asc",)):
    return pagination.read_page(make_request(query), default)


@pytest.mark.parametrize("query, limit", [
    ("", 7), ("limit=3", 3), ("limit=7", 7), ("limit=8", 7), ("limit=99999999999999999999999", 7), ("limit=%202", 2),
])
def test_limit_is_capped(query, limit):
    """A larger page than the largest is that one."""
    assert limit == read(query).limit


@pytest.mark.parametrize("value, reason", [
    ("0", "value must be at least 1 for dictionary value @ data['limit']"),
    ("-1", "value must be at least 1 for dictionary value @ data['limit']"),
    ("foo", "expected int for dictionary value @ data['limit']"),
    ("1.5", "expected int for dictionary value @ data['limit']"),
    ("", "expected int for dictionary value @ data['limit']"),
])
def test_bad_limit_is_400(value, reason):
    """The text is the one that clients know."""
    with pytest.raises(errors.RequestError) as caught:
        read(f"limit={value}")
    assert (400, {"cause": "Argument value error", "reason": reason}) == (caught.value.status, caught.value.detail)


@pytest.mark.parametrize("query, sorts", [
    ("", ["revision_start:asc", "started_at:asc"]),
    ("sort=id", ["id:asc"]),
    ("sort=name:desc", ["name:desc"]),
    ("sort=b:asc-nullslast&sort=a:desc", ["b:asc-nullslast", "a:desc"]),
])
def test_sorts_of_the_client_replace_the_default(query, sorts):
    """A direction that is left out is ascending."""
    assert sorts == read(query, ("revision_start:asc", "started_at:asc")).sorts


@pytest.mark.parametrize("direction", ["up", "", "ASC", "asc ", "asc-nulls"])
def test_unknown_direction_is_refused(direction):
    """No white space, no other case."""
    with pytest.raises(exceptions.InvalidPagination, match="Unknown sort direction, must be one of"):
        read(f"sort=id:{direction}")


def link(query, count, marker="m", path="/v1/metric", **page):
    response = webob.Response()
    request = make_request(query, path)
    pagination.set_next_link(request, response, pagination.read_page(request, ("id:asc",)), count, marker)
    return response.headers.get("Link")


def test_link_only_after_a_full_page():
    """Also when nothing follows: the next page is empty then."""
    assert link("limit=2", 1) is None
    assert link("limit=2", 2) is not None
    assert link("", 6) is None
    assert link("", 7) is not None


@pytest.mark.parametrize("query, marker, path, expected", [
    ("limit=2&sort=id:asc", "28593168-52bb-43b5-a6db-fc2343aac02a", "/v1/resource/generic",
     "/v1/resource/generic?limit=2&marker=28593168-52bb-43b5-a6db-fc2343aac02a&sort=id%3Aasc"),
    ("history=true&sort=id:asc&sort=ended_at:asc-nullsfirst", "9b6af245@-1", "/v1/resource/generic",
     "/v1/resource/generic?history=true&limit=2&marker=9b6af245%40-1&sort=id%3Aasc&sort=ended_at%3Aasc-nullsfirst"),
    ("archive_policy_name=a+b&marker=old&limit=2&sort=id", "m", "/v1/metric/",
     "/v1/metric/?archive_policy_name=a+b&limit=2&marker=m&sort=id%3Aasc"),
    ("foo=2&foo=1&zoo=%C3%A9&limit=2", "m", "/v1/resource/generic/75C44741/history",
     "/v1/resource/generic/75C44741/history?foo=2&foo=1&limit=2&marker=m&sort=id%3Aasc&zoo=%C3%A9"),
])
def test_link_repeats_arguments_by_name_and_path_as_it_was(query, marker, path, expected):
    """Clients follow it as it is."""
    if "limit" not in query:
        query += "&limit=2"
    assert f'<http://localhost{expected}>; rel="next"' == link(query, 2, marker, path)
