"""Evaluates the policy rules: oslo.policy's files and syntax, at a cost that a request can bear."""

import dataclasses
import functools
import inspect
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from oslo_config import cfg
from oslo_policy import policy

from gnocchi.rest import errors, policies

#: How often policy files are looked at.
RELOAD_INTERVAL_S = 1.0


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The rules of one moment.  Checks take it for oslo.policy's Enforcer: they use these two attributes of it."""

    rules: policy.Rules
    conf: cfg.ConfigOpts


class Question(NamedTuple):
    """What the leaves of a check are called with."""

    target: dict[str, Any]
    credentials: Mapping[str, Any]
    snapshot: Snapshot
    rule: str


def _holds(check: Any, question: Question) -> bool:
    """Evaluate a tree of checks.

    oslo.policy's nodes inspect the signature of each child at each call (130 us for `get metric`, 27 us here); so the
    nodes are walked here, and only leaves are called.
    """
    kind: Any = type(check)
    if kind is policy.OrCheck:
        return any(_holds(child, question) for child in check.rules)
    if kind is policy.AndCheck:
        return all(_holds(child, question) for child in check.rules)
    if kind is policy.NotCheck:
        return not _holds(check.rule, question)
    if kind is policy.RuleCheck:
        try:
            child = question.snapshot.rules[check.match]
        except KeyError:
            return False
        return _holds(child, question)
    return bool(check(*question[:_arguments_taken(kind)]))


@functools.cache
def _arguments_taken(kind: type) -> int:
    """Checks of older plug-ins take three arguments, without the rule's name."""
    return min(len(inspect.signature(kind.__call__).parameters) - 1, len(Question._fields))


#: `name` in the texts of checks such as `user:%(name)s`.
_NAME = re.compile(r"%\((.*?)\)")


def _kinds_of_check(*texts: str) -> set[type]:
    """oslo.policy's classes of leaves are not public; what it makes of a text is."""
    return {type(policy.RuleDefault("example", text).check) for text in texts}


#: What always or never holds, and what compares a credential with a text or with a value of the target.
CONSTANT_CHECKS = _kinds_of_check("@", "!")
MATCHING_CHECKS = _kinds_of_check("user:%(creator)s", "role:admin")


def _names_in(check: Any, rules: policy.Rules) -> frozenset[str] | None:
    """Names of the target's values that a tree of checks looks at; None if it may look at all of them."""
    if isinstance(check, (policy.OrCheck, policy.AndCheck)):
        parts = [_names_in(child, rules) for child in check.rules]
        known = [names for names in parts if names is not None]
        return frozenset().union(*known) if len(known) == len(parts) else None
    if isinstance(check, policy.NotCheck):
        return _names_in(check.rule, rules)
    if isinstance(check, policy.RuleCheck):
        return _names_in(rules[check.match], rules) if check.match in rules else frozenset()
    if type(check) in MATCHING_CHECKS:
        return frozenset(_NAME.findall(check.match))
    return frozenset() if type(check) in CONSTANT_CHECKS else None


class PolicyEnforcer:
    """Decides whether a caller may do something.

    oslo.policy's own `enforce` looks at its files each time, and replaces its rules in place when they changed, so that
    other threads see some rules missing meanwhile.  Here files are looked at once per second by one thread, and the
    checks run on a snapshot.
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._source = policy.Enforcer(conf)
        self._source.register_defaults(policies.list_rules())
        self._lock = threading.Lock()
        self._snapshot = self._load()
        self._next_load = time.monotonic() + RELOAD_INTERVAL_S

    def _load(self) -> Snapshot:
        self._source.load_rules()
        return Snapshot(policy.Rules(self._source.rules, self._source.default_rule), self._source.conf)

    def _current(self) -> Snapshot:
        if time.monotonic() >= self._next_load and self._lock.acquire(blocking=False):
            try:
                self._snapshot = self._load()
            finally:
                self._next_load = time.monotonic() + RELOAD_INTERVAL_S
                self._lock.release()
        return self._snapshot

    @property
    def rules(self) -> policy.Rules:
        """The checks of all rules as they are now; not to be changed."""
        return self._current().rules

    def names_in(self, rule: str) -> frozenset[str] | None:
        """Names of the target's values that `rule` looks at (flattened, with dots); None: perhaps all of them.

        Objects that are equal in these need to be asked about only once.
        """
        rules = self._current().rules
        return _names_in(rules[rule], rules) if rule in rules else frozenset()

    def allows(self, rule: str, target: Mapping[str, Any], credentials: Mapping[str, Any]) -> bool:
        """Tell whether `rule` holds.  `target` may be nested; a value of None counts as absent."""
        current = self._current()
        try:
            check = current.rules[rule]
        except KeyError:
            return False
        return _holds(check, Question(dict(flatten(target)), credentials, current, rule))

    def enforce(self, rule: str, target: Mapping[str, Any], credentials: Mapping[str, Any]) -> None:
        """Raise errors.RequestError 403 unless `rule` holds."""
        if not self.allows(rule, target, credentials):
            raise errors.RequestError(403)


def flatten(target: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested objects as (name with dots, value), without those that are None."""
    for name, value in target.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield prefix + name, value
