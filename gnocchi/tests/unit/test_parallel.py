"""Calls that are made several at a time."""

import threading

import pytest

from gnocchi.common.parallel import Threads


def test_results_are_in_order_and_calls_at_once():
    """As many calls are under way as there are threads."""
    together = threading.Barrier(3, timeout=120)

    def call(item):
        together.wait()
        return item * 2

    threads = Threads(3, "test")
    assert [2, 4, 6, 8, 10, 12] == threads.map(call, range(1, 7))
    threads.close()
    assert [7] == threads.map(lambda item: item, [7])


@pytest.mark.parametrize(("count", "items"), [(1, 5), (4, 1)])
def test_no_threads_where_they_gain_nothing(count, items):
    """The caller does all himself."""
    me = threading.get_ident()
    assert {me} == set(Threads(count, "test").map(lambda item: threading.get_ident(), range(items)))
    assert [] == Threads(count, "test").map(str, [])


def test_first_error_ends_it():
    """What had not begun does not begin."""
    begun, go_on = [], threading.Event()

    def call(item):
        begun.append(item)
        if item == 0:
            raise ValueError("the first")
        go_on.wait(120)

    threads = Threads(2, "test")
    with pytest.raises(ValueError, match="the first"):
        threads.map(call, range(100))
    go_on.set()
    threads.close()
    assert len(begun) < 100
