"""Who works at once, and what becomes of the turns of those who wait."""

import threading
import time

import pytest

from gnocchi.rest.turns import Turns
from gnocchi.tests.databases import DEADLINE_S


def count_free(turns):
    return turns._free.qsize()


def wait_until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def turns():
    return Turns(2)


def test_turns_are_given_back(turns):
    """Also by requests that fail, are aside, or wait for something that comes at once."""
    for _ in range(3):
        with pytest.raises(KeyError), turns, turns.waiting():
            assert 1 == count_free(turns)
            raise KeyError
        with turns, turns.aside():
            assert 2 == count_free(turns)
            with turns.waiting():
                assert 2 == count_free(turns)
        assert 2 == count_free(turns)


def test_turn_of_who_waits_long(turns):
    """Others have it meanwhile, once; who waited takes one again before it goes on."""
    with turns:
        with turns.waiting():
            wait_until(lambda: count_free(turns) == 2)
            with turns.waiting():
                pass
        assert 1 == count_free(turns)
    assert 2 == count_free(turns)


def test_all_wait(turns):
    """However many do, others work."""
    answered, done = threading.Event(), []

    def ask():
        with turns, turns.waiting():
            answered.wait()
        done.append(None)

    threads = [threading.Thread(target=ask) for _ in range(7)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        with turns:
            assert [] == done
    answered.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert (7, 2) == (len(done), count_free(turns))


def test_thread_without_a_turn(turns):
    """What it waits for is nobody's business."""
    with turns, turns.aside(), turns.waiting():
        assert 2 == count_free(turns)
        assert not turns._waits
    with turns.waiting():
        assert not turns._waits
    assert 2 == count_free(turns)
