"""Counters of processes reach `/v1/status` on every database, whatever coordinates the processes."""

import datetime

import pytest
import sqlalchemy as sa

from gnocchi.indexer import models
from gnocchi.processing import statistics
from gnocchi.processing.statistics import API, FORGET_S, METRICD, REPEAT_S, Statistics, list_living, sum_refused
from gnocchi.tests.databases import StatementCounter

DELAY_S = 30.0


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(statistics, "time", made)
    return made


def age(indexer, process, seconds):
    """Have a process's last words been that many seconds ago."""
    with indexer.writing() as connection:
        row = connection.execute(sa.select(models.statistics).where(models.statistics.c.process == process)).one()
        connection.execute(sa.update(models.statistics).where(models.statistics.c.process == process).values(
            updated_at=row.updated_at - datetime.timedelta(seconds=seconds)))




def list_processes(indexer):
    return [row.process for row in indexer.list_statistics(FORGET_S)]


def test_last_counters_of_each_process_are_listed(indexer):
    """New counters take the place of the old ones; processes do not touch each other's."""
    indexer.publish_statistics(METRICD, "host.0.a", {"processed measures": 12})
    indexer.publish_statistics(API, "host.7.b", {"processed measures": 1})
    indexer.publish_statistics(METRICD, "host.0.a", {"processed measures": 2**53, "processing time": 0.125})
    assert [(API, "host.7.b", {"processed measures": 1}),
            (METRICD, "host.0.a", {"processed measures": 2**53, "processing time": 0.125})
            ] == indexer.list_statistics(FORGET_S)
    indexer.delete_statistics("host.0.a")
    indexer.delete_statistics("host.0.a")
    assert ["host.7.b"] == list_processes(indexer)


def test_silent_processes_are_forgotten(indexer):
    """Who has told nothing for long is not shown, and in the end not kept."""
    for process in ("old", "young"):
        indexer.publish_statistics(API, process, {})
    age(indexer, "old", FORGET_S + 60)
    age(indexer, "young", FORGET_S - 60)
    assert ["young"] == list_processes(indexer)
    indexer.delete_old_statistics(FORGET_S)
    assert ["young"] == [row.process for row in indexer.list_statistics(2 * FORGET_S)]
    indexer.publish_statistics(API, "old", {})
    assert ["old", "young"] == list_processes(indexer)


def test_dead_workers_are_not_shown(indexer):
    """Of processing workers the group says who lives, if there is one; of other processes nobody does."""
    for service, process in ((METRICD, "dead"), (METRICD, "living"), (API, "api")):
        indexer.publish_statistics(service, process, {"refused measures: too old": 3, "processed measures": 5})
    assert {"living", "api"} == {row.process for row in list_living(indexer, ["living", "silent"])}
    assert {"living", "dead", "api"} == {row.process for row in list_living(indexer, None)}
    assert {"too old": 6} == sum_refused(list_living(indexer, ["living"]))


def test_publication_is_seldom(indexer, clock):
    """Counters are told when they changed, once per delay, and hourly as a sign of life; else no SQL is run."""
    told = Statistics(METRICD, "host.0.a", DELAY_S)

    def publish():
        with StatementCounter(indexer) as counter:
            told.publish(indexer, {"processing time": 1.5})
        return counter.count > 0

    assert not publish()
    told.count(0, 0, {"too old": 0})
    assert not publish()
    told.count(100, 10, {"too old": 0}, parked=7)
    assert publish()
    assert not publish()
    told.count(1, 1, {})
    assert not publish()
    clock.now += DELAY_S
    assert publish()
    assert [{"processed measures": 101, "processed metrics": 11, "parked measures": 7, "processing time": 1.5}] == [
        row.counters for row in indexer.list_statistics(FORGET_S)]
    clock.now += REPEAT_S
    assert publish()
    told.forget(indexer)
    assert [] == list_processes(indexer)


def test_refused_measures_are_told_at_once(indexer, clock):
    """Whoever wonders where a measure is, that a request had processed just now, finds the reason."""
    told = Statistics(API, "host.7.b", DELAY_S)
    told.count(100, 10, {})
    told.publish(indexer)
    told.count(2, 1, {"too old": 2, "metric gone": 0})
    told.publish(indexer)
    assert {"too old": 2} == sum_refused(indexer.list_statistics(FORGET_S))


def test_process_that_told_nothing_ends_without_sql(indexer):
    """A process stops although its index is away."""
    with StatementCounter(indexer) as counter:
        Statistics(METRICD, "host.0.a", DELAY_S).forget(indexer)
    assert 0 == counter.count
