"""What is asked of back ends, how often, and for how long."""

import logging
import threading

import pytest
from oslo_config import cfg

from gnocchi import opts
from gnocchi.exceptions import BackendUnavailable
from gnocchi.rest import errors, health
from gnocchi.tests.databases import DEADLINE_S


class BackEnd:
    """A back end whose state is set, and which counts who asks."""

    def __init__(self):
        self.asked = 0
        self.failure = None
        self.silent = threading.Event()
        self.silent.set()

    def ask(self):
        self.asked += 1
        assert self.silent.wait(DEADLINE_S)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def back_end():
    made = BackEnd()
    yield made
    made.silent.set()


@pytest.fixture
def probe(back_end):
    return health.Probe("store", back_end.ask)


def check(probe):
    probe.begin()
    return probe.finish()


def test_outcome_is_kept_for_a_while(back_end, probe, monkeypatch):
    """However many look, the back end is asked once; later it is asked again."""
    assert [None] * 10 == [check(probe) for _ in range(10)]
    assert 1 == back_end.asked
    monkeypatch.setattr(health, "FRESH_S", -1)
    back_end.failure = BackendUnavailable("store: gone\nand more")
    assert "store: gone" == check(probe)
    assert 2 == back_end.asked


def test_changes_are_logged(back_end, probe, monkeypatch, caplog):
    """Once each, when it goes and when it comes back."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(health, "FRESH_S", -1)
    for failure in (None, BackendUnavailable("store: gone"), BackendUnavailable("store: gone"), None, None):
        back_end.failure = failure
        check(probe)
    assert [("ERROR", "The store is not available, and requests that need it are answered 503: store: gone"),
            ("INFO", "The store is available again")] == [
        (record.levelname, record.getMessage()) for record in caplog.records]


def test_silence_costs_one_thread(back_end, probe, monkeypatch):
    """Those who look while it is silent wait for the rest of its time only, and nobody asks a second time."""
    monkeypatch.setattr(health, "ANSWER_S", 0.05)
    monkeypatch.setattr(health, "FRESH_S", -1)
    back_end.silent.clear()
    assert ["no answer within 0.05 seconds"] * 5 == [check(probe) for _ in range(5)]
    assert 1 == back_end.asked
    back_end.silent.set()
    monkeypatch.setattr(health, "ANSWER_S", DEADLINE_S)
    assert check(probe) is None
    assert check(probe) is None


def test_what_nobody_foresaw_is_no_crash(back_end, probe):
    back_end.failure = ZeroDivisionError()
    assert "ZeroDivisionError; see the log of the server" == check(probe)


def test_options():
    conf = cfg.ConfigOpts()
    opts.register_opts(conf)
    conf.set_override("url", "sqlite:///x", "indexer")
    conf([], project="gnocchi", default_config_files=[])
    assert ["index", "incoming", "storage", "coordination"] == conf.api.healthcheck_backends
    conf.set_override("healthcheck_backends", ["index"], "api")
    with pytest.raises(ValueError, match="disk"):
        conf.set_override("healthcheck_backends", ["disk"], "api")


def test_outages_are_logged_once_a_minute(monkeypatch, caplog):
    """One line for each kind at once, then how many there were."""
    log = errors.OutageLog()
    for _ in range(3):
        log.tell(BackendUnavailable("index: gone"))
        log.tell(BackendUnavailable("redis: cannot read a"))
    assert ["BackendUnavailable: index: gone", "BackendUnavailable: redis: cannot read a"] == caplog.messages
    monkeypatch.setattr(errors.time, "monotonic", lambda: float(2**40))
    log.tell(BackendUnavailable("index: still gone"))
    expected = "BackendUnavailable: index: still gone (and 2 other requests since the last such line)"
    assert expected == caplog.messages[-1]
    for number in range(3 * errors.OUTAGES_MAX):
        log.tell(BackendUnavailable(f"{number}: gone"))
    assert errors.OUTAGES_MAX >= len(log._kinds)
