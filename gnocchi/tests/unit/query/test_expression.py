"""What expressions mean, and what is no expression."""

import json

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnocchi.query import expression
from gnocchi.query.expression import (
    Aggregate,
    Arithmetic,
    InvalidExpression,
    Metric,
    Number,
    RateOfChange,
    Reference,
    Resample,
    Rolling,
)

A = ["metric", "a", "mean"]


def test_text_and_lists_are_the_same_tree():
    text = "(/ (aggregate rate:mean (metric (a mean) (b max))) (rolling std 3 (resample 95pct 60 (metric a mean))))"
    lists = ["/", ["aggregate", "rate:mean", ["metric", ["a", "mean"], ["b", "max"]]],
             ["rolling", "std", 3, ["resample", "95pct", "1 minute", A]]]
    found = expression.parse(lists)
    assert [type(node) for node in expression.walk(found)] == [
        Arithmetic, Aggregate, Metric, Rolling, Resample, Metric]
    assert [Reference("a", "mean"), Reference("b", "max")] == expression.list_references(found)
    for node, other in zip(expression.walk(found), expression.walk(expression.parse(text)), strict=True):
        assert type(node) is type(other)
    resampled = list(expression.walk(found))[4]
    assert ("95pct", numpy.timedelta64(60, "s")) == (resampled.method, resampled.span)


def test_every_spelling():
    for spelling, name in expression.BINARY.items():
        assert name == expression.parse([spelling, A, 2]).name
        assert name == expression.parse(f"({spelling} 2 (metric a mean))").name
    for spelling, name in expression.UNARY.items():
        assert name == expression.parse([spelling, A]).name
    assert ["clip"] * 2 == [expression.parse(["clip", A, *bounds]).name for bounds in ([1], [1, 2])]
    assert [False, True] == [expression.parse([name, A]).per_second for name in ("rateofchange", "rateofchangesec")]
    assert isinstance(expression.parse(["rateofchange", A]), RateOfChange)


@pytest.mark.parametrize(("word", "value"), [("4", 4.0), ("1e3", 1000.0), ("inf", numpy.inf), (True, 1.0), (2, 2.0)])
def test_numbers(word, value):
    assert Number(word, value) == expression.parse(["+", A, word]).arguments[1]


@pytest.mark.parametrize(("text", "tree"), [
    ("(metric a mean))", A), ("  (metric a mean) whatever ) (", A), ("(neg(metric a mean))", ["neg", A]),
    ('(metric "a b" mean)', ["metric", '"a b"', "mean"]), ("(metric a\n\tmean)", A), ("((()))", [[[]]]),
])
def test_texts(text, tree):
    assert tree == expression.parse_text(text)


@pytest.mark.parametrize("text", ["", " ", "a", ") (", "(", "(a (b)", "(" * 100_000, "'(a)'"])
def test_texts_that_are_none(text):
    with pytest.raises(InvalidExpression) as caught:
        expression.parse(text)
    assert ("Invalid operations", "Fail to parse the operations string") == (caught.value.cause, caught.value.reason)
    assert "at char" in caught.value.detail


@pytest.mark.parametrize(("tree", "explanation"), [
    (["nope", A], "unknown operation `nope', at operations[0]"),
    (["+", A], "`+' takes 2 arguments, not 1, at operations"),
    (["neg", A, A], "`neg' takes 1 arguments, not 2, at operations"),
    (["clip", A], "`clip' takes 2 or 3 arguments, not 1, at operations"),
    (["+", A, ["aggregate", "last", A]], "`last' is no aggregation that `aggregate' knows, at operations[2][1]"),
    (["resample", "mean", "Q", A], "`Q': Unable to parse timespan, at operations[2]"),
    (["resample", "mean", 0, A], "`0': Timespan must be positive, at operations[2]"),
    (["rolling", "mean", "0", A], "a window is a whole number of rows, 1 or more, not `0', at operations[2]"),
    (["rolling", "mean", [], A], "a window is a whole number of rows, 1 or more, not `[]', at operations[2]"),
    (["rolling", "mean", 2, 5], "`rolling' needs a series, not a number, at operations[3]"),
    (["aggregate", ["mean"], A], "`['mean']' is no aggregation that `aggregate' knows, at operations[1]"),
    (["+", A, "b"], "`b' is neither a number nor an operation, at operations[2]"),
    (["+", A, None], "`None' is neither a number nor an operation, at operations[2]"),
    (["+", A, []], "an operation is a list of a name and at least one argument, at operations[2]"),
    (["neg", ["metric", ["a", 1]]],
     "`metric' takes a metric and an aggregation method, or pairs of them, at operations[1][1]"),
])
def test_mistakes_are_located(tree, explanation):
    with pytest.raises(InvalidExpression) as caught:
        expression.parse(tree)
    assert (f"'{tree[0]}' operation invalid for dictionary value @ data['operations']", explanation) == (
        caught.value.reason, caught.value.explanation)


def test_depth_is_bounded():
    tree = A
    for _ in range(expression.DEPTH_MAX - 1):
        tree = ["neg", tree]
    expression.parse(tree)
    for _ in range(2):
        tree = ["neg", tree]
        with pytest.raises(InvalidExpression, match="more than 100 operations within each other"):
            expression.parse(tree)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
              st.sampled_from(["metric", "aggregate", "mean", "rolling", "resample", "+", "neg", "clip", "a", "2"])),
    lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(st.text(max_size=3), children,
                                                                               max_size=2)))


@given(anything)
def test_anything_is_a_tree_or_a_mistake(value):
    """Nothing that JSON can hold brings the parser down."""
    value = json.loads(json.dumps(value))
    try:
        root = expression.parse(value)
    except InvalidExpression as e:
        assert e.cause
        assert e.reason
    else:
        assert expression.list_references(root)


@pytest.mark.parametrize(("text", "detail"), [
    ("(" * 10**6, "more than 100 operations within each other, found '((((((((((((((((((((' "),
    ("(neg " * 101 + "(metric a mean)" + ")" * 101, None), ("(neg " * 99 + "(metric (a mean))" + ")" * 99, ""),
    ("(" + "a " * (expression.TEXT_LENGTH_MAX // 2), "more than 8388608 characters, found ' '"),
])
def test_size_of_text(text, detail):
    """What makes no sense takes no memory either."""
    if detail == "":
        assert expression.parse(text)
        return
    with pytest.raises(InvalidExpression) as caught:
        expression.parse(text)
    if detail is None:
        assert "'neg' operation invalid" in caught.value.reason
    else:
        assert "Fail to parse the operations string" == caught.value.reason
        assert caught.value.detail.startswith(detail)


def sums(count):
    """A balanced tree of additions of a metric, `count` of them."""
    if not count:
        return ["metric", "a", "mean"]
    return ["+", sums((count - 1) // 2), sums(count - 1 - (count - 1) // 2)]


def test_size():
    """Metrics may be many, operations not: each is work, even with next to no values."""
    assert expression.parse(sums(300))
    with pytest.raises(InvalidExpression, match="more than 1000 operations and numbers, at operations"):
        expression.parse(sums(400))
    many = ["metric", *([str(number), "mean"] for number in range(20_000))]
    assert 20_000 == len(expression.list_references(expression.parse(many)))


@pytest.mark.parametrize(("names", "message"), [
    ([str(number) for number in range(1000)], None), ([str(number) for number in range(1001)], "1001 names"),
    ([f"{number}*" for number in range(100)], None), ([f"{number}*" for number in range(101)], "101 names with wild"),
    (["*" * 1000], None), (["?" * 1001], "more than 1000 characters"), (["x" * 1001], None)])
def test_names_of_resources_metrics(names, message):
    """Each is looked for among the names of each resource."""
    root = expression.parse(["metric", *([name, "mean"] for name in names)])
    if message is None:
        expression.check_names(root)
        return
    with pytest.raises(InvalidExpression, match=message):
        expression.check_names(root)


def test_several_metrics_of_aggregate():
    """As Aodh writes it; the metrics are one set of series, each once."""
    found = expression.parse(["aggregate", "max", ["metric", "a", "mean"], ["metric", ["b", "max"], ["a", "mean"]]])
    assert found.operand == expression.parse(["metric", ["a", "mean"], ["b", "max"]])
    assert "max" == found.method
    for operations in (["aggregate", "max", A, ["neg", A]], ["aggregate", "max", A, 2], ["aggregate", "max", A, []]):
        with pytest.raises(InvalidExpression, match="`aggregate' takes 2 arguments, or several `metric', not 3"):
            expression.parse(operations)
    with pytest.raises(InvalidExpression, match="or pairs of them, at operations.3."):
        expression.parse(["aggregate", "max", A, ["metric", 5]])
