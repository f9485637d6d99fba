"""`gnocchi-injector`: makes load, and says how much."""

import re
import signal

import pytest


def count_metrics(deployment):
    return deployment.backends.indexer.count_metrics()


def test_one_round(upgraded):
    """Metrics of admin, with the measures asked for."""
    done = upgraded.run("gnocchi-injector", "--metrics", "7", "--measures", "5", "--archive-policy-name", "medium")
    assert 0 == done.returncode, done.stdout
    assert re.search(r"Created 7 metrics in [\d.]+ seconds: [\d,]+ per second$", done.stdout, re.MULTILINE)
    assert re.search(r"Wrote 35 measures in [\d.]+ seconds: [\d,]+ per second$", done.stdout, re.MULTILINE)
    metrics = upgraded.backends.indexer.list_metrics()
    assert [("admin", "medium")] * 7 == [(metric.creator, metric.archive_policy.name) for metric in metrics]
    assert 7 == upgraded.count_backlog()


def test_process(upgraded):
    """Measures are aggregated at once."""
    done = upgraded.run("gnocchi-injector", "--metrics", "3", "--measures", "4", "--process")
    assert 0 == done.returncode, done.stdout
    assert re.search(r"Processed 12 measures in [\d.]+ seconds", done.stdout)
    assert 0 == upgraded.count_backlog()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interval(upgraded, number):
    """Round after round, until a signal comes."""
    daemon = upgraded.start("gnocchi-injector", "--metrics", "2", "--measures", "2", "--interval", "0.1")
    daemon.wait_for("Wrote 4 measures", 3)
    assert 0 == daemon.stop(number)


@pytest.mark.parametrize(("arguments", "code", "text"), [
    (["--archive-policy-name", "missing"], 1, "gnocchi-injector: Archive policy missing does not exist\n"),
    (["--metrics", "0"], 1, "argument --metrics: Invalid Integer(min=1, max=1e+07) value: 0\n"),
])
def test_wrong_arguments(upgraded, arguments, code, text):
    done = upgraded.run("gnocchi-injector", *arguments)
    assert code == done.returncode
    assert done.stdout.endswith(text)
