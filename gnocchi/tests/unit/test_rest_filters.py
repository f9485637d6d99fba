"""Filters in text and trees: what they mean, and what is refused where."""

import datetime
import uuid

import numpy
import pytest
import voluptuous

from gnocchi.exceptions import InvalidInput
from gnocchi.indexer.filters import AllOf, AnyOf, Comparison, Constant, Kind, Membership, Not
from gnocchi.rest import errors
from gnocchi.rest.filters import CONDITIONS_MAX, LEVELS_MAX, PATTERN_LENGTH_MAX, VALUES_MAX
from gnocchi.rest.filters.text import parse_filter
from gnocchi.rest.filters.tree import FilterReader
from gnocchi.rest.filters.values import ValueFilter

KINDS = {"id": Kind.UUID, "name": Kind.STRING, "size": Kind.NUMBER, "on": Kind.BOOL, "since": Kind.DATETIME,
         "host": Kind.UUID, "revision": Kind.INTEGER, "lifespan": Kind.LIFESPAN,
         "created_by_project_id": Kind.CREATOR_PROJECT}


def read(tree):
    return FilterReader(KINDS, "server", "me").read(tree)


@pytest.mark.parametrize(("text", "tree"), [
    ("foo=bar", {"=": {"foo": "bar"}}),
    ("foo!=1", {"!=": {"foo": 1.0}}),
    ("foo = -1.5e3", {"=": {"foo": -1500.0}}),
    ("foo=null", {"=": {"foo": None}}), ("foo=None", {"=": {"foo": None}}), ('foo="null"', {"=": {"foo": "null"}}),
    ("foo=True", {"=": {"foo": True}}), ("foo = false", {"=": {"foo": False}}),
    ('foo in ["null", \'foo\', bar, 1]', {"in": {"foo": ["null", "foo", "bar", 1.0]}}),
    ("foo in []", {"in": {"foo": []}}),
    ('foo="quote" and bar≠1', {"and": [{"=": {"foo": "quote"}}, {"≠": {"bar": 1.0}}]}),
    ('not (a="x" or b like "%%y")', {"not": {"or": [{"=": {"a": "x"}}, {"like": {"b": "%%y"}}]}}),
    ('a="1" or b="2" and c="3"', {"or": [{"=": {"a": "1"}}, {"and": [{"=": {"b": "2"}}, {"=": {"c": "3"}}]}]}),
    ("not a=1 ∧ not not b=2 ∨ c=3",
     {"or": [{"and": [{"not": {"=": {"a": 1.0}}}, {"not": {"not": {"=": {"b": 2.0}}}}]}, {"=": {"c": 3.0}}]}),
    ("id=12345678123456781234567812345678", {"=": {"id": "12345678123456781234567812345678"}}),
    ("id eq 5a301761-aaaa-46e2-8900-8b4f6fe6675a", {"eq": {"id": "5a301761-aaaa-46e2-8900-8b4f6fe6675a"}}),
    ("'a b'>=2", {">=": {"a b": 2.0}}), ("nonexistent=trueish", {"=": {"nonexistent": "trueish"}}),
    (" a  lt\n3 ", {"lt": {"a": 3.0}}), ("orders=notes", {"=": {"orders": "notes"}}),
])
def test_text(text, tree):
    assert tree == parse_filter(text)


@pytest.mark.parametrize("text", [
    "id == foobar", "a", "a=", "=1", "a=1 b=2", "a=1 and", "(a=1", "a=1)", "a in [1", "a in [,]", "a in [1,]", "1=1",
    "null=1", "true=1", "a='x", "a=%", "a=2014-01-01", "not", "()", "a and b", "a=and", "[1]=1", "a ! 1",
    "(" * 200 + "a=1" + ")" * 200, "not " * 200 + "a=1", "a in " + "[" * 200, "a=\0"])
def test_text_refused(text):
    """Always in the words that clients look for."""
    with pytest.raises(InvalidInput, match="^Invalid filter: Expected"):
        parse_filter(text)


def test_text_takes_linear_time():
    """A long filter is not read again and again."""
    assert 20_000 == len(parse_filter(" and ".join(["(not (a=1))"] * 20_000))["and"])


@pytest.mark.parametrize(("tree", "expected"), [
    ({}, None),
    ({"=": {"name": 1.0}}, Comparison("name", "=", "1.0")),
    ({"eq": {"size": "1"}}, Comparison("size", "=", 1.0)),
    ({"≠": {"name": None}}, Comparison("name", "!=", None)),
    ({"∧": [{"<": {"size": 1}}, {"∨": [{"≥": {"size": 2}}]}]},
     AllOf((Comparison("size", "<", 1.0), AnyOf((Comparison("size", ">=", 2.0),))))),
    ({"not": {"like": {"name": "a%"}}}, Not(Comparison("name", "like", "a%"))),
    ({"in": {"size": [1, None, 1.0, 2]}}, Membership("size", (1.0, 2.0))),
    ({"in": {"name": [None]}}, Constant(False)),
    ({"=": {"host": "5A301761AAAA46E289008B4F6FE6675A"}},
     Comparison("host", "=", "5a301761-aaaa-46e2-8900-8b4f6fe6675a")),
    ({"=": {"id": "5A301761AAAA46E289008B4F6FE6675A"}},
     Comparison("id", "=", uuid.UUID("5a301761-aaaa-46e2-8900-8b4f6fe6675a"))),
    ({">": {"since": 1.5}}, Comparison("since", ">", datetime.datetime(1970, 1, 1, 0, 0, 1, 500000))),
    ({">": {"lifespan": "1 minute"}}, Comparison("lifespan", ">", 60_000_000)),
    ({">": {"lifespan": 0}}, Comparison("lifespan", ">", 0)),
    ({"=": {"revision": -1.0}}, Comparison("revision", "=", -1)),
    ({"like": {"created_by_project_id": "a%"}}, Comparison("created_by_project_id", "like", "a%")),
])
def test_tree(tree, expected):
    assert expected == read(tree)


@pytest.mark.parametrize(("tree", "reason"), [
    ([], "expected a dictionary"), (1, "expected a dictionary"),
    ({"and": {}}, "expected a list for dictionary value @ data['and']"),
    ({"and": []}, "length of value must be at least 1 for dictionary value @ data['and']"),
    ({"and": [1]}, "expected a dictionary @ data['and'][0]"),
    ({"not": []}, "expected a dictionary for dictionary value @ data['not']"),
    ({"=": 1}, "expected a dictionary for dictionary value @ data['=']"),
    ({"=": {}}, "length of value must be at least 1 for dictionary value @ data['=']"),
    ({"=": {"name": 1, "size": 2}}, "length of value must be at most 1 for dictionary value @ data['=']"),
    ({"=": {"name": "a"}, "not": {}}, "length of value must be at most 1"),
    ({"wrong": {"name": "a"}}, "not a valid value @ data['wrong']"),
    ({"or": [{"wrong": 1}]}, "not a valid value @ data['or'][0]['wrong']"),
    ({"ne": {"name": []}}, "expected str for dictionary value @ data['ne']['name']"),
    ({"in": {"name": "a"}}, "expected a list for dictionary value @ data['in']['name']"),
    ({"in": {"name": [[]]}}, "expected str @ data['in']['name'][0]"),
    ({"like": {"id": "a"}}, "value must not be one of ['id'] @ data['like']['id']"),
    ({"=": {"id": "a/b"}}, "'/' is not supported in resource id for dictionary value @ data['=']['id']"),
])
def test_tree_of_wrong_shape(tree, reason):
    """The place is told as by all bodies."""
    with pytest.raises(errors.RequestError) as caught:
        read(tree)
    assert (400, "Invalid input", reason) == (caught.value.status, caught.value.detail["cause"],
                                              caught.value.detail["reason"])


@pytest.mark.parametrize(("tree", "text"), [
    ({"and": [{}]}, "Unable to parse this query"), ({"not": {}}, "Unable to parse this query"),
    ({"=": {"nope": 1}}, "Resource type server has no nope attribute"),
    ({"=": {"since": "zz"}}, "Invalid value: `zz' for field `since'"),
    ({"=": {"since": True}}, "Invalid value: `True' for field `since'"),
    ({"=": {"size": "zz"}}, "Invalid value: `zz' for field `size'"),
    ({"=": {"size": True}}, "Invalid value: `True' for field `size'"),
    ({"=": {"size": float("nan")}}, "Invalid value: `nan' for field `size'"),
    ({"=": {"size": 10**400}}, "for field `size'"),
    ({"=": {"on": 1}}, "Invalid value: `1' for field `on'"), ({"<": {"on": True}}, "for field `on'"),
    ({"=": {"host": "a"}}, "Invalid value: `a' for field `host'"),
    ({"=": {"id": 1}}, "Invalid value: `1' for field `id'"),
    ({"=": {"revision": 1.5}}, "for field `revision'"), ({"=": {"revision": 1e300}}, "for field `revision'"),
    ({">": {"lifespan": "x"}}, "Invalid value: `x' for field `lifespan'"),
    ({"like": {"size": "1"}}, "for field `size'"), ({"<": {"name": None}}, "Invalid value: `None' for field `name'"),
    ({"like": {"name": None}}, "for field `name'"), ({"=": {"name": "a\0"}}, "for field `name'"),
    ({"<": {"created_by_project_id": "a"}}, "Invalid value: `a' for field `created_by_project_id'"),
    ({"in": {"created_by_project_id": ["a"]}}, "for field `created_by_project_id'"),
    ({"or": [{"=": {"name": "a"}}] * (CONDITIONS_MAX + 1)}, f"more than {CONDITIONS_MAX} conditions"),
    ({"in": {"name": ["a"] * (VALUES_MAX + 1)}}, f"more than {VALUES_MAX} values"),
    ({"like": {"name": "a" * (PATTERN_LENGTH_MAX + 1)}}, f"more than {PATTERN_LENGTH_MAX} characters"),
])
def test_tree_that_cannot_be(tree, text):
    with pytest.raises(InvalidInput) as caught:
        read(tree)
    assert text in str(caught.value)


def nest(levels):
    tree = {"=": {"name": "a"}}
    for _ in range(levels - 1):
        tree = {"not": tree}
    return tree


def test_depth():
    read(nest(LEVELS_MAX))
    with pytest.raises(InvalidInput, match=f"nested deeper than {LEVELS_MAX} levels"):
        read(nest(LEVELS_MAX + 1))


@pytest.mark.parametrize(("tree", "expected"), [
    ({"≥": 50}, [50, 60]), ({"and": [{">": 5}, {"<": 60}]}, [6, 50]), ({"or": [{"=": 5}, {"eq": "60"}]}, [5, 60]),
    ({"=": [{"%": 5}, 0]}, [-5, 0, 5, 50, 60]), ({"≥": [{"+": 23}, 73]}, [50, 60]), ({"-": 5}, [-5, 0, 6, 50, 60]),
    ({"<": [{"**": 2}, {"×": 6}]}, [5]), ({"÷": 0}, [-5, 5, 6, 50, 60]), ({"mod": 0}, []),
    ({"=": [1, 1]}, [-5, 0, 5, 6, 50, 60]),
])
def test_values(tree, expected):
    """Not a number matches nothing that compares, and a number that comes out matches unless it is zero."""
    values = numpy.array([-5.0, 0, 5, 6, 50, 60])
    assert expected == values[ValueFilter(tree)(values)].tolist()
    assert not ValueFilter(tree)(numpy.array([])).any()


@pytest.mark.parametrize("tree", [
    [], 1, {}, {"=": "a"}, {"=": None}, {"=": True}, {"=": {}}, {"=": [1]}, {"=": [1, 2, 3]}, {"=": [1, [2]]},
    {"and": []}, {"and": 1}, {"foo": 1}, {"not": {"=": 1}}, {"=": 1, "<": 2}, {"and": [1]}])
def test_values_refused(tree):
    with pytest.raises((voluptuous.Invalid, InvalidInput)):
        ValueFilter(tree)
