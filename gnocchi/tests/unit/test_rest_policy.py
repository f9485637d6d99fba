"""Evaluation of the policy rules."""

import pathlib

import pytest
from oslo_config import cfg

from gnocchi.rest import errors, policies, policy

ADMIN = {"user": "admin", "roles": ["admin"]}
BOB = {"user": "bob", "roles": []}
MEMBER = {"user": "u:p", "user_id": "u", "project_id": "p", "domain_id": None, "roles": ["member"]}
SERVICE = {"user": "s:t", "project_id": "t", "roles": ["Service"]}


@pytest.fixture
def policy_file(tmp_path):
    return tmp_path / "policy.yaml"


@pytest.fixture
def enforcer(policy_file, monkeypatch):
    monkeypatch.setattr(policy, "RELOAD_INTERVAL_S", 0)
    conf = cfg.ConfigOpts()
    conf([], project="gnocchi", default_config_files=[], default_config_dirs=[])
    enforcer = policy.PolicyEnforcer(conf)
    conf.set_override("policy_file", str(policy_file), group="oslo_policy")
    enforcer._source.policy_file = str(policy_file)
    return enforcer


@pytest.mark.parametrize("rule, target, credentials, allowed", [
    ("get status", {}, ADMIN, True),
    ("get status", {}, BOB, False),
    ("list archive policy", {}, BOB, True),
    ("create archive policy", {}, SERVICE, True),
    ("delete archive policy", {}, SERVICE, False),
    ("get metric", {"creator": "bob"}, BOB, True),
    ("get metric", {"creator": "eve"}, BOB, False),
    ("get metric", {"creator": "u:p", "created_by_project_id": "p"}, MEMBER, True),
    ("get metric", {"creator": "x:p", "created_by_project_id": "p"}, MEMBER, True),
    ("get metric", {"creator": "x:q", "created_by_project_id": "q"}, MEMBER, False),
    ("get metric", {"creator": "x:q", "resource": {"project_id": "p"}}, MEMBER, True),
    ("delete metric", {"creator": "x:q", "resource": {"project_id": "p"}}, MEMBER, False),
    ("update resource", {"creator": "x:q"}, SERVICE, True),
    ("get resource", {"creator": None, "project_id": None}, {"user": "None", "project_id": "None", "roles": []}, False),
    ("get resource", {"creator": "x", "created_by_project_id": ""}, BOB, False),
    ("no such rule", {}, ADMIN, False),
])
def test_default_rules(enforcer, rule, target, credentials, allowed):
    """What is missing or null in target or credentials makes a check false."""
    assert allowed == enforcer.allows(rule, target, credentials)


def test_refusal_is_403(enforcer):
    """The error names nothing."""
    with pytest.raises(errors.RequestError) as caught:
        enforcer.enforce("get status", {}, BOB)
    assert (403, "") == (caught.value.status, caught.value.detail)


def test_policy_file_overrides_and_is_read_again(enforcer, policy_file: pathlib.Path):
    """An operator's change counts without a restart."""
    assert not enforcer.allows("get status", {}, BOB)
    policy_file.write_text('"get status": "user:bob and not role:admin"\n"create metric": "!"\n')
    assert enforcer.allows("get status", {}, BOB)
    assert not enforcer.allows("get status", {}, ADMIN)
    assert not enforcer.allows("create metric", {}, ADMIN)
    assert enforcer.allows("create resource", {}, BOB)


def test_old_override_of_a_base_rule_counts_everywhere(enforcer, policy_file):
    """Rule sets written for older releases override only `admin_or_creator`."""
    policy_file.write_text('"admin_or_creator": "user:bob"\n')
    assert enforcer.allows("delete metric", {"creator": "eve"}, BOB)
    assert not enforcer.allows("delete metric", {"creator": "eve"}, ADMIN)


def test_rule_that_refers_to_nothing_refuses(enforcer, policy_file):
    """A misspelt reference must not open anything."""
    policy_file.write_text('"get status": "rule:nope"\n')
    assert not enforcer.allows("get status", {}, ADMIN)


def test_rules_have_the_documented_names():
    """Names are a contract with policy files."""
    names = [rule.name for rule in policies.list_rules()]
    assert len(names) == len(set(names)) == 36
    assert {"admin_or_creator", "metric_owner", "search resource", "update archive policy rule"} <= set(names)


def test_targets_are_flattened_without_nulls():
    """Nested objects get names with dots."""
    target = {"a": 1, "b": None, "resource": {"project_id": "p", "user_id": None, "x": {"y": 2}}, "list": [1]}
    assert {"a": 1, "resource.project_id": "p", "resource.x.y": 2, "list": [1]} == dict(policy.flatten(target))


@pytest.mark.parametrize("check, names", [
    ("", set()),
    ("@", set()),
    ("role:admin", set()),
    ("rule:creator", {"creator", "created_by_project_id"}),
    ("role:%(name)s or (user:%(creator)s and not 'a':%(resource.user_id)s)", {"name", "creator", "resource.user_id"}),
    ("rule:no such rule", set()),
    ("http://localhost/%(creator)s", None),
    ("user:%(creator)s or http://localhost", None),
])
def test_names_in(enforcer, policy_file, check, names):
    """What a rule looks at is known, unless it asks somebody else."""
    policy_file.write_text(f'"post measures": "{check}"\n')
    assert names == enforcer.names_in("post measures")
