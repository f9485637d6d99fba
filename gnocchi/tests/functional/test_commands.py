"""gnocchi-upgrade, gnocchi-change-sack-size and gnocchi-config-generator."""

import pathlib
import subprocess

from gnocchi.tests.functional.daemons import TIMEOUT_S, Deployment
from gnocchi.tests.functional.service import find_command


def test_upgrade_makes_everything(deployment):
    """A new installation gets its sacks, policies and rule, and the log says what was done."""
    output = deployment.upgrade()
    assert f"Upgrading indexer Indexer: sqlite:///{deployment.directory}/index.db" in output
    assert "Upgrading storage file" in output
    assert "Upgrading incoming storage file" in output
    indexer = deployment.backends.indexer
    assert 128 == indexer.count_sacks()
    assert ["bool", "high", "low", "medium"] == sorted(policy.name for policy in indexer.list_archive_policies())
    assert [("default", "low", "*")] == [(rule.name, rule.archive_policy_name, rule.metric_pattern)
                                         for rule in indexer.list_archive_policy_rules()]


def test_upgrade_hides_the_password(deployment):
    """The URL in the log has neither user nor password; an index that is away is one line and exit 1."""
    deployment.configure({"indexer": {"url": "postgresql://user:secret@127.0.0.1:1/g"}})
    done = deployment.run("gnocchi-upgrade")
    assert 1 == done.returncode
    assert "Indexer: postgresql://***:***@127.0.0.1:1/g" in done.stdout
    assert "secret" not in done.stdout
    assert "Traceback" not in done.stdout


def test_upgrade_at_once_on_each_database(empty_database_url, tmp_path):
    """Two upgrades of one database at the same time both end well, and what they made is there once."""
    deployment = Deployment(tmp_path, {"indexer": {"url": empty_database_url}})
    try:
        daemons = [deployment.start("gnocchi-upgrade", "--sacks-number", "16") for _ in range(2)]
        assert [0, 0] == [daemon.process.wait(TIMEOUT_S) for daemon in daemons], "\n".join(d.output for d in daemons)
        indexer = deployment.backends.indexer
        assert 16 == indexer.count_sacks()
        assert 4 == len(indexer.list_archive_policies())
        assert 1 == len(indexer.list_archive_policy_rules())
    finally:
        deployment.remove()


def test_upgrade_again_changes_nothing(deployment):
    """Policies that were deleted do not come back while others exist."""
    deployment.upgrade()
    deployment.backends.indexer.delete_archive_policy("bool")
    deployment.upgrade()
    assert 3 == len(deployment.backends.indexer.list_archive_policies())
    assert 128 == deployment.backends.indexer.count_sacks()


def test_upgrade_rounds_and_reports_sacks(deployment):
    """A number that is no power of two is rounded up, one that differs from what there is is told."""
    assert "100 was rounded up to 128" in deployment.upgrade("--sacks-number", "100")
    assert "There are 128 sacks, not 16" in deployment.upgrade("--sacks-number", "16")
    assert "sacks" not in deployment.upgrade("--sacks-number", "128")
    assert 128 == deployment.backends.indexer.count_sacks()


def test_upgrade_skips_what_it_is_told_to(deployment):
    """Each step can be left out, the index too."""
    output = deployment.upgrade("--skip-storage", "--skip-archive-policies-creation")
    assert "Upgrading storage" not in output
    assert not (deployment.directory / "data" / "objects").exists()
    assert [] == deployment.backends.indexer.list_archive_policies()
    output = deployment.upgrade("--skip-index", "--skip-incoming")
    assert "Upgrading indexer" not in output
    assert "incoming" not in output
    assert 4 == len(deployment.backends.indexer.list_archive_policies())


def test_change_of_sacks_keeps_data(deployment):
    """With an empty backlog the number changes, by option or bare, and measures are still aggregated."""
    deployment.begin_upgraded(16)
    ids = deployment.create_metrics(20)
    for minute, arguments, sacks in [(0, ["60"], 64), (1, ["--sacks-number", "8"], 8)]:
        deployment.post(ids, minute)
        assert 0 == deployment.run("gnocchi-metricd", "--stop-after-processing-metrics", "20").returncode
        assert 0 == deployment.count_backlog()
        deployment.close_backends()
        done = deployment.run("gnocchi-change-sack-size", *arguments)
        assert 0 == done.returncode, done.stdout
        assert f"Creating new {sacks} sacks" in done.stdout
        assert sacks == deployment.backends.indexer.count_sacks()
        assert 0 == deployment.count_backlog()


def test_change_of_sacks_is_refused_while_a_writer_runs(deployment):
    """What a running API keeps would be read again by the new sacks, so it has to be stopped first."""
    deployment.begin_upgraded(16)
    deployment.post(deployment.create_metrics(3))
    assert 0 == deployment.run("gnocchi-metricd", "--stop-after-processing-metrics", "3").returncode
    done = deployment.run("gnocchi-change-sack-size", "32")
    assert (1, True) == (done.returncode, "Stop it and try again" in done.stdout)
    assert 16 == deployment.backends.indexer.count_sacks()


def test_change_of_sacks_is_refused_with_a_backlog(deployment):
    """Nothing changes while measures wait, and the exit code says so."""
    deployment.begin_upgraded(16)
    deployment.post(deployment.create_metrics(3))
    done = deployment.run("gnocchi-change-sack-size", "32")
    assert 1 == done.returncode
    assert "Cannot change sack when non-empty backlog. Process remaining 3 measures and try again" in done.stdout
    assert 16 == deployment.backends.indexer.count_sacks()
    assert 3 == deployment.count_backlog()


def test_change_of_sacks_needs_an_upgrade(deployment):
    """Without sacks there is nothing to change."""
    deployment.upgrade("--skip-incoming")
    done = deployment.run("gnocchi-change-sack-size", "32")
    assert 1 == done.returncode
    assert "Unable to detect the number of storage sacks. Ensure gnocchi-upgrade has been executed." in done.stdout


def test_config_generator_prints_a_usable_file(deployment, tmp_path):
    """The sample has the sections of the service and its libraries, and the daemons take it."""
    sample = tmp_path / "sample.conf"
    subprocess.run([*find_command("gnocchi-config-generator"), "--output-file", str(sample)], check=True,
                   env=deployment.environment, timeout=TIMEOUT_S)
    text = pathlib.Path(sample).read_text()
    for section in ("DEFAULT", "indexer", "database", "metricd", "api", "archive_policy", "storage", "incoming",
                    "cors", "healthcheck", "oslo_policy"):
        assert f"\n[{section}]\n" in f"\n{text}", section
    assert "#graceful_shutdown_timeout = 60" in text
    deployment.upgrade("--config-file", str(sample))


def test_config_generator_ends_quietly_with_its_reader(deployment):
    """`gnocchi-config-generator | head` shows no traceback."""
    with subprocess.Popen(find_command("gnocchi-config-generator"), env=deployment.environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as generator:
        generator.stdout.close()
        assert b"" == generator.stderr.read()
