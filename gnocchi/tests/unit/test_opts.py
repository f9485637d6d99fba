"""Options are where deployed files expect them, with the defaults they rely on (contract, operations 1.2)."""

import pathlib
import re
import sys
import uuid

import pytest
from oslo_config import cfg

from gnocchi import backends, opts, service
from gnocchi.exceptions import InvalidConfiguration

#: section, option, default, deprecated "section.name" if any.
CONTRACT = [
    ("DEFAULT", "debug", False, None),
    ("DEFAULT", "verbose", True, None),
    ("DEFAULT", "log_dir", None, None),
    ("DEFAULT", "log_file", None, None),
    ("DEFAULT", "coordination_url", None, "storage.coordination_url"),
    ("DEFAULT", "parallel_operations", None, "storage.aggregation_workers_number"),
    ("DEFAULT", "use_syslog", False, None),
    ("DEFAULT", "use_journal", False, None),
    ("DEFAULT", "syslog_log_facility", "user", None),
    ("metricd", "workers", None, None),
    ("metricd", "metric_processing_delay", 60, "storage.metric_processing_delay"),
    ("metricd", "greedy", True, None),
    ("metricd", "metric_reporting_delay", 120, "storage.metric_reporting_delay"),
    ("metricd", "metric_cleanup_delay", 300, "storage.metric_cleanup_delay"),
    ("metricd", "processing_replicas", 3, None),
    ("metricd", "cleanup_batch_size", 10000, None),
    ("metricd", "metric_inactive_after", 0, None),
    ("metricd", "resource_cleanup_after", 0, None),
    ("api", "paste_config", "api-paste.ini", None),
    ("api", "auth_mode", "basic", None),
    ("api", "max_limit", 1000, None),
    ("api", "operation_timeout", 10, "api.refresh_timeout"),
    ("api", "uwsgi_path", None, None),
    ("api", "host", "0.0.0.0", None),
    ("api", "port", 8041, None),
    ("api", "uwsgi_mode", "http", None),
    ("api", "enable_proxy_headers_parsing", False, "oslo_middleware.enable_proxy_headers_parsing"),
    ("statsd", "host", "0.0.0.0", None),
    ("statsd", "port", 8125, None),
    ("statsd", "resource_id", None, None),
    ("statsd", "creator", None, None),
    ("statsd", "archive_policy_name", None, None),
    ("statsd", "flush_delay", 10.0, None),
    ("amqp1d", "url", "localhost:5672/u/collectd/telemetry", None),
    ("amqp1d", "data_source", "collectd", None),
    ("amqp1d", "resource_type", "collectd_amqp1d", None),
    ("amqp1d", "creator", None, None),
    ("amqp1d", "flush_delay", 10.0, None),
    ("archive_policy", "default_aggregation_methods", ["mean", "min", "max", "sum", "std", "count"], None),
    ("storage", "driver", "file", None),
    ("storage", "file_basepath", "/var/lib/gnocchi", None),
    ("storage", "file_subdir_len", 2, None),
    ("storage", "ceph_pool", "gnocchi", None),
    ("storage", "ceph_username", None, None),
    ("storage", "ceph_secret", None, None),
    ("storage", "ceph_keyring", None, None),
    ("storage", "ceph_timeout", "30", None),
    ("storage", "ceph_conffile", "/etc/ceph/ceph.conf", None),
    ("storage", "swift_auth_version", "1", None),
    ("storage", "swift_auth_insecure", False, None),
    ("storage", "swift_url", None, None),
    ("storage", "swift_authurl", "http://localhost:8080/auth/v1.0", None),
    ("storage", "swift_preauthtoken", None, None),
    ("storage", "swift_cacert", None, None),
    ("storage", "swift_region", None, None),
    ("storage", "swift_user", "admin:admin", None),
    ("storage", "swift_user_domain_name", "Default", None),
    ("storage", "swift_key", "admin", None),
    ("storage", "swift_project_name", None, "storage.swift_tenant_name"),
    ("storage", "swift_project_domain_name", "Default", None),
    ("storage", "swift_container_prefix", "gnocchi", None),
    ("storage", "swift_container_prefix_all", False, None),
    ("storage", "swift_storage_policy", None, None),
    ("storage", "swift_endpoint_type", "publicURL", None),
    ("storage", "swift_service_type", "object-store", None),
    ("storage", "swift_timeout", 300, None),
    ("storage", "s3_endpoint_url", None, None),
    ("storage", "s3_region_name", None, None),
    ("storage", "s3_access_key_id", None, None),
    ("storage", "s3_secret_access_key", None, None),
    ("storage", "s3_bucket_prefix", "gnocchi", None),
    ("storage", "s3_check_consistency_timeout", 60.0, None),
    ("storage", "s3_max_pool_connections", 50, None),
    ("incoming", "driver", "file", None),
    ("incoming", "ceph_pool", "gnocchi", None),
    ("incoming", "ceph_timeout", "30", None),
    ("incoming", "swift_container_prefix", "gnocchi", None),
    ("incoming", "s3_bucket_prefix", "gnocchi", None),
    ("incoming", "swift_project_name", "", "incoming.swift_tenant_name"),
    ("incoming", "file_basepath", "/var/lib/gnocchi", None),
    ("incoming", "file_subdir_len", 2, None),
    ("database", "max_pool_size", 5, None),
    ("database", "max_overflow", 50, None),
    ("database", "pool_timeout", None, None),
    ("database", "connection_recycle_time", 3600, None),
]

#: Another value of each option that once had another name.
OLD_VALUES = {"coordination_url": "file:///x", "parallel_operations": "3", "metric_processing_delay": "7",
              "metric_reporting_delay": "8", "metric_cleanup_delay": "9", "operation_timeout": "11",
              "swift_project_name": "project", "enable_proxy_headers_parsing": "true"}


def load(tmp_path: pathlib.Path, text: str = "", *argv: str) -> cfg.ConfigOpts:
    path = tmp_path / "gnocchi.conf"
    path.write_text(f"{text}\n[indexer]\nurl = sqlite:///{tmp_path}/index.db\n")
    return service.prepare_service(["--config-file", str(path), *argv])


def get(conf, section, name):
    return conf[name] if section == "DEFAULT" else conf[section][name]


@pytest.mark.parametrize(("section", "name", "default", "deprecated"), CONTRACT,
                         ids=[f"{row[0]}.{row[1]}" for row in CONTRACT])
def test_option_has_its_default(tmp_path, section, name, default, deprecated):
    """An empty file gives the documented values."""
    assert default == get(load(tmp_path), section, name)


@pytest.mark.parametrize(("section", "name", "default", "deprecated"), [row for row in CONTRACT if row[3]],
                         ids=[row[3] for row in CONTRACT if row[3]])
def test_option_is_read_under_its_old_name(tmp_path, section, name, default, deprecated):
    """Files written for earlier releases keep their meaning."""
    old_section, old_name = deprecated.split(".")
    conf = load(tmp_path, f"[{old_section}]\n{old_name} = {OLD_VALUES[name]}")
    assert default != get(conf, section, name)


def test_incoming_defaults_to_storage(tmp_path):
    """What is set in [storage] holds for [incoming] too, unless that says otherwise."""
    conf = load(tmp_path, "[storage]\nfile_basepath = /srv/a\nfile_subdir_len = 5")
    assert ("/srv/a", 5) == (conf.incoming.file_basepath, conf.incoming.file_subdir_len)
    conf = load(tmp_path, "[storage]\nfile_basepath = /srv/a\n[incoming]\nfile_basepath = /srv/b")
    assert "/srv/b" == conf.incoming.file_basepath


def test_empty_resource_id_means_none(tmp_path):
    """Installers write the option whether or not there is a value; spellings of a UUID are all the same."""
    assert load(tmp_path, "[statsd]\nresource_id =").statsd.resource_id is None
    id = uuid.uuid4()
    assert id == load(tmp_path, f"[statsd]\nresource_id = {id.hex.upper()}").statsd.resource_id


def test_unknown_options_are_ignored(tmp_path):
    """A file may hold what this release does not know."""
    load(tmp_path, "[DEFAULT]\nnothing = 1\n[statsd]\ntcp = x\n[nonsense]\na = b\n[storage]\nswift_key = k")


def test_environment_beats_files(tmp_path, monkeypatch):
    """OS_<SECTION>__<OPTION> ranks above configuration files."""
    monkeypatch.setenv("OS_METRICD__WORKERS", "7")
    assert 7 == load(tmp_path, "[metricd]\nworkers = 2").metricd.workers


@pytest.mark.parametrize("flags", [["--log-file", "x.log", "--log-dir", "{}"], ["--log_file", "{}/x.log"]])
def test_log_file_is_written(tmp_path, flags):
    """Messages go to the file named on the command line, spelt either way, in the documented format."""
    load(tmp_path, "", *[flag.format(tmp_path) for flag in flags])
    service.LOG.info("hello")
    assert (tmp_path / "x.log").read_text().rstrip().endswith("INFO     gnocchi.service: hello")
    service.set_up_logging(load(tmp_path))


@pytest.mark.parametrize(("text", "expected"), [
    ("[metricd]\nworkers = 0", "[metricd] workers: "),
    ("[metricd]\nworkers = many", "[metricd] workers: "),
    ("[api]\nauth_mode = trust", "[api] auth_mode: "),
    ("[statsd]\nresource_id = web-1", "[statsd] resource_id: 'web-1' is not a UUID"),
    ("[statsd]\nflush_delay = 0", "[statsd] flush_delay: "),
    ("[archive_policy]\ndefault_aggregation_methods = mean,avg", "[archive_policy] default_aggregation_methods: "),
    ("syslog_log_facility = nowhere\nuse_syslog = true", "[DEFAULT] syslog_log_facility: "),
])
def test_bad_value_is_named(tmp_path, text, expected):
    """The message has section and option, in one line."""
    if "=" in text.split("\n")[0]:
        text = f"[DEFAULT]\n{text}"
    with pytest.raises(InvalidConfiguration) as raised:
        load(tmp_path, text)
    assert str(raised.value).startswith(expected)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("[indexer]\nurl = sqlite:////srv/g.db", "file:///srv/data/coordination"),
    ("[indexer]\nurl = postgresql+psycopg2://u:p@h:1/d?x=y", "postgresql://u:p@h:1/d?x=y"),
    ("[indexer]\nurl = mysql+pymysql://u@h/d", "mysql://u@h/d"),
    ("[indexer]\nurl = postgresql://u:p/w%40@h:1/d", "postgresql://u:p%2Fw%40@h:1/d"),
    ("[DEFAULT]\ncoordination_url = zookeeper://z\n[indexer]\nurl = mysql://h/d", "zookeeper://z"),
    ("[storage]\ncoordination_url = etcd3+http://e:1\n[indexer]\nurl = mysql://h/d", "etcd3+http://e:1"),
])
def test_coordination_url_is_derived(tmp_path, text, expected):
    """Unset, it follows the other back ends."""
    path = tmp_path / "gnocchi.conf"
    path.write_text(text + "\n[storage]\nfile_basepath = /srv/data\n")
    conf = service.prepare_service(["--config-file", str(path)])
    assert expected == backends.get_coordination_url(conf)


@pytest.mark.parametrize(("text", "expected"), [
    ("[DEFAULT]\ncoordination_url = nonsense://x", "[DEFAULT] coordination_url: "),
    ("[DEFAULT]\ncoordination_url = redis://:hu/sh@x", "[DEFAULT] coordination_url: host or port is not valid"),
    ("[DEFAULT]\ncoordination_url = redis://:hush@x?timeout=a", "[DEFAULT] coordination_url: "),
    ("[DEFAULT]\ncoordination_url = postgresql://me:hu/sh@x/y", "[DEFAULT] coordination_url: host or port is not"),
    ("[DEFAULT]\ncoordination_url = memcached://x:hu", "[DEFAULT] coordination_url: host or port is not valid"),
    ("[storage]\ndriver = tape", "gnocchi.storage has no driver `tape'"),
    ("[incoming]\ndriver = tape", "gnocchi.incoming has no driver `tape'"),
])
def test_back_end_that_does_not_exist_is_told_at_start(tmp_path, text, expected):
    """A daemon does not begin with drivers that it cannot load."""
    with pytest.raises(InvalidConfiguration) as raised:
        backends.preload(load(tmp_path, text))
    assert str(raised.value).startswith(expected)
    assert "hu" not in str(raised.value)


@pytest.mark.parametrize(("url", "reason"), [
    ("postgresql://me:hush@x:1x/y", "the port is not a number"),
    ("postgresql://me:hush@x/y?connect_timeout=a", "connect_timeout is not a whole number of seconds"),
    ("mysql://me:hush@x/y?read_timeout=a", "read_timeout is not a whole number of seconds")])
def test_wrong_index_is_told_at_start(tmp_path, url, reason):
    conf = load(tmp_path)
    conf.set_override("url", url, "indexer")
    with pytest.raises(InvalidConfiguration, match=f"indexer.url: {reason}"):
        backends.preload(conf)


@pytest.mark.parametrize(("url", "module", "extra"), [
    ("postgresql://u@h/d", "psycopg", "postgresql"), ("mysql://u@h/d", "pymysql", "mysql")])
def test_database_driver_that_is_not_installed_is_told_at_start(tmp_path, monkeypatch, url, module, extra):
    """Who forgot an extra reads which one it is, not a traceback."""
    monkeypatch.setitem(sys.modules, module, None)
    conf = load(tmp_path)
    conf.set_override("url", url, "indexer")
    with pytest.raises(InvalidConfiguration, match=rf"indexer\.url: .*{module}.*'gnocchi\[{extra}\]'"):
        backends.open_indexer(conf)


def test_defaults_for_cors_are_set():
    """Browsers may send the headers of Keystone and of basic authentication."""
    opts.set_defaults()
    from oslo_middleware import cors
    defaults = {option.dest: option.default for option in cors.CORS_OPTS}
    assert opts.CORS_HEADERS == defaults["allow_headers"]


def test_unknown_options_are_told(tmp_path):
    """With what may be meant; those of earlier releases, of libraries, and sections of others are none of these."""
    more = tmp_path / "more"
    more.mkdir()
    (more / "a.conf").write_text("[incoming]\nwhere = here\ns3_region_name = z\n")
    load(tmp_path, "[DEFAULT]\ncoordination_ulr = file:///x\nuse_journal = false\n"
                   "[storage]\nredis_ulr = redis://:hush@x\ncoordination_url = file:///y\ns3_region_name = z\n"
                   "[api]\nrefresh_timeout = 3\n[oslo_middleware]\nenable_proxy_headers_parsing = true\n"
                   "max_request_body_size = 1\n[keystone_authtoken]\nwhatever = 1\n",
         "--config-dir", str(more), "--log-file", str(tmp_path / "log"))
    main, text = tmp_path / "gnocchi.conf", (tmp_path / "log").read_text()
    assert [f"{main}: [DEFAULT] coordination_ulr (is coordination_url meant?)",
            f"{main}: [storage] redis_ulr (is redis_url meant?)",
            f"{more}/a.conf: [incoming] where"] == re.findall(r"WARNING .*There is no such option: (.*)", text)
    assert "hush" not in text
    service.set_up_logging(load(tmp_path))


def test_url_that_is_none_is_not_told(tmp_path):
    """It may hold a password."""
    with pytest.raises(InvalidConfiguration, match=r"^\[storage\] swift_authurl: scheme was required") as raised:
        load(tmp_path, "[storage]\nswift_authurl = //me:hush@host\n")
    assert "hush" not in str(raised.value)
