"""Real input through both daemons: examples/host_metrics.py, gnocchiclient, and pandas to compare with."""

import contextlib
import datetime
import importlib.util
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy
import pandas
import pytest
from gnocchiclient import auth, client, exceptions

import gnocchi
from gnocchi.tests.databases import DEADLINE_S, find_free_port
from gnocchi.tests.functional.service import ApiService, find_command

EXAMPLE = pathlib.Path(gnocchi.__file__).parents[1] / "examples" / "host_metrics.py"
TIMEOUT_S = DEADLINE_S
SEED = 8041
#: The hour that is fed: long ago, for ageing goes by the measures' own time.
HOUR = datetime.datetime(2026, 3, 29, 1, tzinfo=datetime.UTC)
FREQUENCIES = {1.0: "1s", 60.0: "1min", 3600.0: "1h"}

pytestmark = pytest.mark.skipif(not EXAMPLE.exists(), reason="examples are not installed with the package")


@pytest.fixture(scope="module")
def host_metrics():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("host_metrics", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def daemon(service: ApiService, *command: str) -> Iterator[subprocess.Popen]:
    """Run another daemon on a service's configuration; it has to end by itself on SIGTERM."""
    with (service.directory / f"{command[0]}.log").open("wb") as log:
        process = subprocess.Popen(
            [*find_command(command[0]), "--config-file", str(service.config_file), *command[1:]],
            stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
        process.terminate()
        assert process.wait(TIMEOUT_S) == 0, f"{command[0]} ended with {process.returncode} after SIGTERM"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def service():
    """The API and metricd."""
    api = ApiService({"metricd": {"workers": 2, "metric_processing_delay": 1}})
    api.start()
    try:
        with daemon(api, "gnocchi-metricd"):
            yield api
    finally:
        api.stop()


def connect(service):
    return client.Client(1, session_options={"auth": auth.GnocchiBasicPlugin(user="admin", endpoint=service.url)})


def await_aggregation(gnocchi_client):
    """Return once nothing waits to be aggregated."""
    deadline = time.monotonic() + TIMEOUT_S
    while gnocchi_client.status.get()["storage"]["summary"]["measures"]:
        assert time.monotonic() < deadline, "metricd does not work off its backlog"
        time.sleep(0.1)


def make_hour(host_metrics):
    """Return an hour of samples, one per second: this machine's figures now, going on as a random walk."""
    random = numpy.random.default_rng(SEED)
    sample = host_metrics.read_sample()
    seconds = 3600
    columns = {}
    for name, value in sample.values.items():
        if name.endswith(".total"):
            column = value + numpy.cumsum(random.exponential(1000.0, seconds).round())
            column[2000:] -= column[2000]    # the machine was started anew
        else:
            column = numpy.abs(value + numpy.cumsum(random.normal(0, 1, seconds)).round(3))
        columns[name] = column
    times = [HOUR + datetime.timedelta(seconds=second, microseconds=int(late))
             for second, late in enumerate(random.integers(0, 900_000, seconds))]
    return [host_metrics.Sample(at, {name: float(column[i]) for name, column in columns.items()})
            for i, at in enumerate(times)]


def aggregate(series, method, frequency):
    """Return what pandas makes of it."""
    if method.startswith("rate:"):
        series, method = series.diff().dropna(), method.removeprefix("rate:")
    return series.groupby(series.index.floor(frequency)).agg(method)


def test_an_hour_of_host_metrics_agrees_with_pandas(host_metrics, service):
    """Every method of every metric at every granularity is what pandas computes from the same samples."""
    samples = make_hour(host_metrics)
    host = host_metrics.HostMetrics(service.url, host="pandas")
    for start in range(0, len(samples), 450):
        for sample in samples[start:start + 450]:
            host.add(sample)
        assert host.send() == 450
    for sample in samples[-450:]:    # sent twice, as after a lost answer
        host.add(sample)
    host.send()

    gnocchi_client = connect(service)
    await_aggregation(gnocchi_client)
    resource = gnocchi_client.resource.get("generic", "host:pandas")
    assert set(resource["metrics"]) == set(host_metrics.METRICS)
    frame = pandas.DataFrame([sample.values for sample in samples], pandas.DatetimeIndex([s.time for s in samples]))
    for name in frame.columns:
        for method in host_metrics.ARCHIVE_POLICY["aggregation_methods"]:
            measures = gnocchi_client.metric.get_measures(resource["metrics"][name], aggregation=method)
            for granularity, frequency in FREQUENCIES.items():
                expected = aggregate(frame[name], method, frequency)
                got = [(at, value) for at, g, value in measures if g == granularity]
                assert list(expected.index) == [at for at, _ in got], (name, method, granularity)
                numpy.testing.assert_allclose([value for _, value in got], expected.to_numpy(), rtol=1e-12,
                                              err_msg=f"{name} {method} {granularity}")


def test_samples_are_kept_while_the_server_is_away(host_metrics, service):
    """What cannot be sent is sent later, whole and in order."""
    port = find_free_port()
    host = host_metrics.HostMetrics(f"http://127.0.0.1:{port}", host="away")
    samples = make_hour(host_metrics)[:5]
    for sample in samples:
        host.add(sample)
    assert host_metrics.try_to_send(host) is False
    assert list(host.samples) == samples

    with daemon(service, "gnocchi-api", "--port", str(port)):
        deadline = time.monotonic() + TIMEOUT_S
        while not host_metrics.try_to_send(host):
            assert time.monotonic() < deadline, "the second API does not answer"
            time.sleep(0.1)
        assert not host.samples
        gnocchi_client = connect(service)
        measures = gnocchi_client.metric.get_measures(
            "cpu.percent", resource_id="host:away", granularity=1, aggregation="last", refresh=True)
    assert [value for _, _, value in measures] == [sample.values["cpu.percent"] for sample in samples]


def test_metrics_that_are_missing_are_made(host_metrics, service):
    """A host whose resource exists with some of the metrics gets the others."""
    gnocchi_client = connect(service)
    with contextlib.suppress(exceptions.ArchivePolicyAlreadyExists):
        gnocchi_client.archive_policy.create(host_metrics.ARCHIVE_POLICY)
    gnocchi_client.resource.create("generic", {
        "id": "host:older", "metrics": {"load.1m": {"archive_policy_name": "host"}}})
    host = host_metrics.HostMetrics(service.url, host="older")
    host.add(host_metrics.read_sample())
    assert host.send() == 1
    assert set(gnocchi_client.resource.get("generic", "host:older")["metrics"]) == set(host_metrics.METRICS)


@pytest.mark.parametrize("by_environment", [False, True])
def test_the_command_sends_and_ends(service, by_environment):
    """`host_metrics.py --once` takes one sample of this machine, sends it where it is told and ends with 0."""
    command = [sys.executable, str(EXAMPLE), "--once", "--host", "once"]
    environment = {**os.environ, "GNOCCHI_ENDPOINT": service.url if by_environment else "http://localhost:1"}
    if not by_environment:
        command += ["--endpoint", service.url]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout
    assert "sent 1 samples of host:once" in done.stdout
