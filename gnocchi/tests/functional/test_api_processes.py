"""The API, the standalone service and the commands as processes: signals, deaths, wrong usage."""

import json
import os
import runpy
import signal
import socket
import urllib.error
import urllib.request

import psutil
import pytest

from gnocchi import service
from gnocchi.tests.databases import find_free_port
from gnocchi.tests.functional.daemons import READY, REPORT, TIMEOUT_S, Deployment, wait_until
from gnocchi.tests.functional.service import find_command


def get(url):
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        return answer.status


def get_policies_as_admin(port):
    """Return the status of the answer to a request with basic authentication."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/archive_policy",
                                     headers={"Authorization": "Basic YWRtaW46"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return answer.status
    except urllib.error.HTTPError as e:
        with e:
            return e.code


def test_api_says_when_it_serves_and_stops_on_sigterm(upgraded):
    """The line that test tools wait for comes once requests are answered."""
    api = upgraded.start("gnocchi-api")
    api.wait_for(READY)
    assert 200 == get(f"http://127.0.0.1:{upgraded.port}/")
    assert 0 == api.stop()
    with pytest.raises(OSError, match="refused"):
        get(f"http://127.0.0.1:{upgraded.port}/")


def test_api_starts_without_its_index(deployment):
    """Back ends are opened by requests; the version document needs none."""
    deployment.configure({"indexer": {"url": "postgresql://nobody@127.0.0.1:1/none"},
                          "DEFAULT": {"coordination_url": f"file://{deployment.directory}/c"}})
    deployment.start("gnocchi-api").wait_for(READY)
    assert 200 == get(f"http://127.0.0.1:{deployment.port}/")


def test_status_without_an_index_says_why(deployment):
    """Who asks for the backlog of a service that was never upgraded reads what to do."""
    deployment.start("gnocchi-api").wait_for(READY)
    request = urllib.request.Request(f"http://127.0.0.1:{deployment.port}/v1/status",
                                     headers={"Authorization": "Basic YWRtaW46", "Accept": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=TIMEOUT_S)
    with raised.value as answer:
        assert 503 == answer.code
        description = json.load(answer)["description"]
    assert description.startswith("Unable to generate status. Please retry. ")
    assert "gnocchi-upgrade has to be run" in description


def test_api_options_beat_the_file(upgraded):
    """--host and --port hold for the workers too; --uwsgi-mode is accepted."""
    port = find_free_port()
    api = upgraded.start("gnocchi-api", "--host", "localhost", "--port", str(port), "--uwsgi-mode", "http-socket")
    api.wait_for(READY)
    assert 200 == get(f"http://127.0.0.1:{port}/")
    assert "--uwsgi-mode has no effect" in api.output


def test_api_replaces_its_workers_on_sighup(upgraded):
    """A reload starts new workers, which read the configuration again, and keeps serving."""
    api = upgraded.start("gnocchi-api")
    api.wait_for(READY)
    before = set(api.children().values())
    upgraded.configure({"api": {"auth_mode": "remoteuser"}})
    api.send(signal.SIGHUP)
    api.wait_for(READY, 2)
    wait_until(lambda: not any(map(psutil.pid_exists, before)), lambda: api.output)
    assert 401 == get_policies_as_admin(upgraded.port)
    # So do those that are started later.
    for pid in api.children().values():
        os.kill(pid, signal.SIGKILL)
    api.wait_for(READY, 3)
    assert 401 == get_policies_as_admin(upgraded.port)
    assert 0 == api.stop()


def test_api_keeps_its_workers_when_a_reload_fails(upgraded):
    """A slip in the configuration takes nobody down; once it is right, the next SIGHUP counts."""
    api = upgraded.start("gnocchi-api")
    api.wait_for(READY)
    before = api.children()
    upgraded.configure({"api": {"auth_mode": "remoteuse"}})
    api.send(signal.SIGHUP)
    api.wait_for(r"Nothing is changed, because the configuration is wrong: \[api\] auth_mode: ")
    assert before == api.children()
    assert 200 == get_policies_as_admin(upgraded.port)
    upgraded.configure({"api": {"auth_mode": "remoteuser"}})
    api.send(signal.SIGHUP)
    api.wait_for(READY, 2)
    wait_until(lambda: not any(map(psutil.pid_exists, before.values())), lambda: api.output)
    assert 401 == get_policies_as_admin(upgraded.port)
    assert "Traceback" not in api.output
    assert 0 == api.stop()


def test_api_replaces_a_killed_worker(upgraded):
    """A worker that died is started anew."""
    api = upgraded.start("gnocchi-api")
    api.wait_for(READY)
    for pid in api.children().values():
        os.kill(pid, signal.SIGKILL)
    api.wait_for(READY, 2)
    assert 200 == get(f"http://127.0.0.1:{upgraded.port}/")


@pytest.mark.parametrize("name", ["gnocchi-api", "gnocchi-standalone"])
def test_taken_port_is_told_in_one_line(upgraded, name):
    """Nothing is started beside somebody else's server."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = upgraded.run(name, "--host", "127.0.0.1", "--port", str(server.getsockname()[1]),
                            *(["--data-dir", str(upgraded.directory / "s")] if name == "gnocchi-standalone" else []))
    assert 1 == done.returncode, done.stdout
    assert "Address already in use" in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout


def test_api_does_not_share_the_port_of_another_api(upgraded):
    """Two gnocchi-api on one port are a mistake, not a way to share load."""
    upgraded.start("gnocchi-api").wait_for(READY)
    assert 1 == upgraded.run("gnocchi-api").returncode


def test_api_script_is_a_wsgi_file(upgraded, monkeypatch):
    """Apache and uWSGI load the script and find `application`."""
    monkeypatch.setenv("GNOCCHI_INDEXER_URL", "sqlite:////nowhere")
    script = find_command("gnocchi-api")[-1]
    assert callable(runpy.run_path(script, run_name="wsgi_file")["application"])


@pytest.mark.parametrize("name", ["gnocchi-api", "gnocchi-metricd", "gnocchi-upgrade", "gnocchi-change-sack-size",
                                  "gnocchi-standalone"])
def test_bad_usage_ends_with_2_and_version_with_0(upgraded, name):
    """Every command knows the common flags."""
    assert 2 == upgraded.run(name, "--no-such-option").returncode
    version = upgraded.run(name, "--version")
    assert (0, service.get_version()) == (version.returncode, version.stdout.strip())


@pytest.mark.parametrize("name", ["gnocchi-api", "gnocchi-metricd", "gnocchi-upgrade", "gnocchi-change-sack-size",
                                  "gnocchi-standalone"])
def test_bad_configuration_is_told_in_one_line(upgraded, name):
    """A wrong value ends a command with 1 and names the option, without a traceback."""
    upgraded.configure({"metricd": {"workers": 0}})
    data_dir = ["--data-dir", str(upgraded.directory / "s")] if name == "gnocchi-standalone" else []
    done = upgraded.run(name, *data_dir)
    assert 1 == done.returncode, done.stdout
    assert done.stdout.startswith(f"{name}: [metricd] workers: ")
    assert 1 == len(done.stdout.splitlines())


def test_relative_config_file_works(upgraded, monkeypatch):
    """Workers find a file that was named relative to where the command was started."""
    monkeypatch.chdir(upgraded.directory)
    api = upgraded.start("gnocchi-api", "--config-file", "gnocchi.conf", configured=False)
    api.wait_for(READY)
    assert 0 == api.stop()


def test_standalone_serves_and_stops(tmp_path):
    """One command makes what is missing, serves, aggregates, and ends cleanly with both daemons."""
    deployment = Deployment(tmp_path)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            standalone = deployment.start("gnocchi-standalone", "--data-dir", str(tmp_path / "new" / "dir"),
                                          "--port", str(deployment.port), configured=False)
            standalone.wait_for(READY)
            standalone.wait_for(REPORT)
            assert 200 == get(f"http://127.0.0.1:{deployment.port}/")
            assert 2 == len(standalone.children())
            assert 0 == standalone.stop(number)
            assert "Traceback" not in standalone.output
            with pytest.raises(OSError, match="refused"):
                get(f"http://127.0.0.1:{deployment.port}/")
    finally:
        deployment.remove()


@pytest.mark.parametrize("victim", ["gnocchi-metricd", "gnocchi-api"])
def test_standalone_ends_with_its_children(tmp_path, victim):
    """When one daemon dies the other is stopped, and the exit code tells."""
    deployment = Deployment(tmp_path)
    try:
        standalone = deployment.start("gnocchi-standalone", "--data-dir", str(tmp_path / "data"),
                                      "--port", str(deployment.port), configured=False)
        standalone.wait_for(READY)
        standalone.wait_for(REPORT)
        pid = next(pid for title, pid in standalone.children().items() if title.startswith(victim))
        os.kill(pid, signal.SIGKILL)
        assert 1 == standalone.process.wait(TIMEOUT_S)
        assert f"{victim} ended with status -9: stopping" in standalone.output
    finally:
        deployment.remove()


def test_standalone_cannot_write(tmp_path):
    """A directory that cannot be made is told in one line."""
    (tmp_path / "file").write_text("")
    deployment = Deployment(tmp_path)
    done = deployment.run("gnocchi-standalone", "--data-dir", str(tmp_path / "file" / "data"))
    assert 1 == done.returncode
    assert done.stdout.startswith(f"gnocchi-standalone: Cannot write to the data directory {tmp_path}/file/data: ")
    assert 1 == len(done.stdout.splitlines())


@pytest.mark.parametrize("name", ["a?b", "a\nb", "a$$b"])
def test_standalone_refuses_odd_directories(tmp_path, name):
    """What the configuration file or the database's URL would read otherwise; `$$` is oslo.config's spelling of `$`."""
    done = Deployment(tmp_path).run("gnocchi-standalone", "--data-dir", str(tmp_path / name))
    assert 1 == done.returncode
    assert done.stdout.startswith("gnocchi-standalone: The data directory ")
    assert 1 == len(done.stdout.splitlines())
    assert not list(tmp_path.glob("a*"))


def test_pifpaf_starts_the_daemons(tmp_path):
    """With the very file that `pifpaf run gnocchi` writes, the lines it waits for appear."""
    deployment = Deployment(tmp_path)
    deployment.config_file.write_text(f"""[DEFAULT]
debug = False
verbose = True
[api]
host = localhost
port = {deployment.port}
[storage]
driver = file
file_basepath = {tmp_path}
[metricd]
metric_processing_delay = 1
metric_cleanup_delay = 1
[statsd]
resource_id = 5e3fcbe2-7aab-475d-b42c-a440aa42e5ad
creator = admin
user_id = admin
project_id = admin
[indexer]
url = sqlite:///{tmp_path}/index.db""")
    try:
        deployment.upgrade()
        metricd = deployment.start("gnocchi-metricd")
        metricd.wait_for("metrics wait to be processed")
        deployment.start("gnocchi-api").wait_for(READY)
        assert 200 == get(f"http://localhost:{deployment.port}/")
        assert 0 == metricd.stop()
    finally:
        deployment.remove()
