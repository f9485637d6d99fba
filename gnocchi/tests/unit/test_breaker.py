"""Calls to a back end that says nothing."""

import contextlib
import threading
import types

import pytest

from gnocchi.common import breaker
from gnocchi.common.breaker import PROBE_S, SILENT_S, Breaker
from gnocchi.exceptions import BackendUnavailable, ObjectNotFound
from gnocchi.tests.databases import DEADLINE_S


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(breaker, "time", types.SimpleNamespace(monotonic=made.monotonic))
    return made


def fail(made, clock, took_s, error=BackendUnavailable, **options):
    with contextlib.suppress(error), made.calling(**options):
        clock.now += took_s
        raise error("store: no answer")


def is_refused(made):
    try:
        with made.calling():
            return False
    except BackendUnavailable as e:
        assert "store: nothing came from it" in str(e)
        return True


def test_back_end_that_answers(clock):
    """Whatever it says, and however fast; one that refuses connections is none that says nothing."""
    made = Breaker("store")
    for error in (BackendUnavailable, ObjectNotFound):
        fail(made, clock, 0.1, error)
        assert not is_refused(made)
    fail(made, clock, SILENT_S, ObjectNotFound)
    assert not any(is_refused(made) for _ in range(3))


def test_silent_back_end(clock):
    """Once a call has waited in vain, one per second goes on to it, until one is answered."""
    made = Breaker("store")
    fail(made, clock, SILENT_S)
    fail(made, clock, SILENT_S)     # which goes on to it
    for _ in range(2):
        clock.now += PROBE_S
        fail(made, clock, 0.0)
        assert not is_refused(made), "a failure that came at once is an answer"
        fail(made, clock, SILENT_S)
        clock.now += PROBE_S
        fail(made, clock, SILENT_S)
        clock.now -= SILENT_S       # as if others had come right behind it
        assert [True, True] == [is_refused(made) for _ in range(2)]
    with made.calling(always=True):
        pass
    assert not any(is_refused(made) for _ in range(3))


def test_calls_that_wait(clock):
    """While the first one has no outcome yet others wait for that of one, and go on if there is any."""
    made = Breaker("store")
    outcomes = []
    with made.calling():
        clock.now += SILENT_S
        with made.calling():
            others = [threading.Thread(target=lambda: outcomes.append(is_refused(made))) for _ in range(3)]
            for thread in others:
                thread.start()
            while len(made._changed._waiters) < 3:
                pass
            assert [] == outcomes
        for thread in others:
            thread.join(DEADLINE_S)
        assert [False] * 3 == outcomes


def test_calls_that_wait_in_vain(clock, monkeypatch):
    monkeypatch.setattr(breaker, "PROBE_S", 0.01)
    made = Breaker("store")
    with made.calling():
        clock.now += SILENT_S
        with made.calling():
            assert is_refused(made)
