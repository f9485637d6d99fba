"""Archive policies and the rules that choose one by a metric's name."""

import fnmatch
import uuid
from collections.abc import Sequence
from typing import Any

import numpy
import sqlalchemy as sa
from sqlalchemy import exc

from gnocchi import exceptions
from gnocchi.archive_policy import ArchivePolicy, ArchivePolicyItem
from gnocchi.indexer import ArchivePolicyRule
from gnocchi.indexer.checks import check_text
from gnocchi.indexer.models import archive_policy, archive_policy_rule, metric
from gnocchi.indexer.prepared import PreparedSelect
from gnocchi.indexer.transactions import Connections, retried

#: Largest back window that the column takes.
BACK_WINDOW_MAX = 2 ** 31 - 1

LIST_POLICIES = sa.select(archive_policy).order_by(archive_policy.c.name)
GET_POLICY = sa.select(archive_policy).where(archive_policy.c.name == sa.bindparam("name"))
GET_POLICY_FAST = PreparedSelect(GET_POLICY)
LIST_POLICIES_FAST = PreparedSelect(LIST_POLICIES)
LIST_POLICIES_BY_ID = PreparedSelect(sa.select(archive_policy).where(
    archive_policy.c.id.in_(sa.bindparam("ids", type_=archive_policy.c.id.type, expanding=True))))

#: The order in which rules are tried: longer prefixes come before shorter ones, `*` near the end.
SELECT_RULES = sa.select(
    archive_policy_rule.c.name, archive_policy.c.name.label("archive_policy_name"),
    archive_policy_rule.c.metric_pattern,
).join(archive_policy).order_by(archive_policy_rule.c.metric_pattern.desc(), archive_policy_rule.c.name)


def _encode_ns(value: numpy.timedelta64 | None) -> int | None:
    return None if value is None else int(value.astype("m8[ns]").astype(numpy.int64))


def _encode_definition(definition: Sequence[ArchivePolicyItem]) -> list[dict[str, int | None]]:
    return [{"granularity": _encode_ns(item.granularity), "timespan": _encode_ns(item.timespan), "points": item.points}
            for item in definition]


def _decode_item(item: dict[str, Any]) -> ArchivePolicyItem:
    timespan = item["timespan"]
    return ArchivePolicyItem(granularity=numpy.timedelta64(item["granularity"], "ns"), points=item["points"],
                             timespan=None if timespan is None else numpy.timedelta64(timespan, "ns"))


def decode_policy(id: uuid.UUID, name: str, back_window: int, definition: list[dict[str, Any]],
                  aggregation_methods: list[str]) -> ArchivePolicy:
    """Return the policy that the columns of a row of `archive_policy` hold, given in their order."""
    return ArchivePolicy(id=id, name=name, back_window=back_window,
                         definition=tuple(_decode_item(item) for item in definition),
                         aggregation_methods=tuple(aggregation_methods))


def match_archive_policy(rules: Sequence[ArchivePolicyRule], metric_name: str | None) -> str:
    """Return the name of the policy of the first rule that matches; a nameless metric counts as ''.

    Raises NoArchivePolicyRuleMatch.
    """
    for rule in rules:
        if fnmatch.fnmatchcase(metric_name or "", rule.metric_pattern):
            return rule.archive_policy_name
    raise exceptions.NoArchivePolicyRuleMatch(metric_name)


def _check_back_window(back_window: int) -> None:
    if not 0 <= back_window <= BACK_WINDOW_MAX:
        raise exceptions.InvalidInput(f"back_window must be between 0 and {BACK_WINDOW_MAX}")


def _check_definition(policy: ArchivePolicy, definition: Sequence[ArchivePolicyItem]) -> None:
    """Raise UnsupportedArchivePolicyChange unless only points and timespans differ."""
    if len(policy.definition) != len(definition):
        raise exceptions.UnsupportedArchivePolicyChange(policy.name, "Cannot add or drop granularities")
    granularities = sorted(item.granularity for item in definition)
    for old, new in zip(policy.granularities, granularities, strict=True):
        if old != new:
            seconds = old / numpy.timedelta64(1, "s")
            raise exceptions.UnsupportedArchivePolicyChange(
                policy.name, f"{float(seconds)} granularity interval was changed")


class ArchivePolicies(Connections):

    @retried
    def create_archive_policy(self, policy: ArchivePolicy) -> None:
        """Raises ArchivePolicyAlreadyExists, InvalidInput."""
        check_text("Archive policy name", policy.name)
        _check_back_window(policy.back_window)
        with self.writing() as connection:
            try:
                connection.execute(sa.insert(archive_policy), {
                    "id": policy.id, "name": policy.name, "back_window": policy.back_window,
                    "definition": _encode_definition(policy.definition),
                    "aggregation_methods": list(policy.aggregation_methods)})
            except exc.IntegrityError as e:
                raise exceptions.ArchivePolicyAlreadyExists(policy.name) from e

    @retried
    def get_archive_policy(self, name: str) -> ArchivePolicy:
        """Raises NoSuchArchivePolicy."""
        with self.reading() as connection:
            return self._get_archive_policy(connection, GET_POLICY, name)

    @retried
    def list_archive_policies(self) -> list[ArchivePolicy]:
        """Return all policies by name."""
        with self.reading() as connection:
            return [decode_policy(*row) for row in connection.execute(LIST_POLICIES)]

    @retried
    def update_archive_policy(self, name: str, definition: Sequence[ArchivePolicyItem] | None,
                              back_window: int | None) -> ArchivePolicy:
        """Change points, timespans and the back window; None leaves one as it is.

        Lowering the back window marks the policy's metrics, whose raw measures are then too many.

        Raises NoSuchArchivePolicy, UnsupportedArchivePolicyChange, InvalidInput.
        """
        with self.writing() as connection:
            policy = self._get_archive_policy(connection, GET_POLICY.with_for_update(), name)
            changes: dict[str, Any] = {}
            if definition is not None:
                _check_definition(policy, definition)
                changes["definition"] = _encode_definition(definition)
            if back_window is not None:
                _check_back_window(back_window)
                changes["back_window"] = back_window
            if changes:
                connection.execute(sa.update(archive_policy).where(archive_policy.c.id == policy.id), changes)
            if back_window is not None and back_window < policy.back_window:
                connection.execute(sa.update(metric).where(metric.c.archive_policy_id == policy.id)
                                   .values(needs_raw_data_truncation=True))
            return self._get_archive_policy(connection, GET_POLICY, name)

    @retried
    def delete_archive_policy(self, name: str) -> None:
        """Delete a policy that no rule and no metric refers to, deleted metrics that still have data included.

        Raises NoSuchArchivePolicy, ArchivePolicyInUse.
        """
        with self.writing() as connection:
            try:
                deleted = connection.execute(sa.delete(archive_policy).where(archive_policy.c.name == name)).rowcount
            except exc.IntegrityError as e:
                raise exceptions.ArchivePolicyInUse(name) from e
            if not deleted:
                raise exceptions.NoSuchArchivePolicy(name)

    @retried
    def create_archive_policy_rule(self, rule: ArchivePolicyRule) -> None:
        """Raises ArchivePolicyRuleAlreadyExists, NoSuchArchivePolicy, InvalidInput."""
        check_text("Archive policy rule name", rule.name)
        check_text("metric_pattern", rule.metric_pattern)
        with self.writing() as connection:
            # The lock keeps the policy until our rule refers to it.
            policy = self._get_archive_policy(connection, GET_POLICY.with_for_update(read=True),
                                              rule.archive_policy_name)
            try:
                connection.execute(sa.insert(archive_policy_rule), {
                    "name": rule.name, "archive_policy_id": policy.id, "metric_pattern": rule.metric_pattern})
            except exc.IntegrityError as e:
                raise exceptions.ArchivePolicyRuleAlreadyExists(rule.name) from e

    @retried
    def get_archive_policy_rule(self, name: str) -> ArchivePolicyRule:
        """Raises NoSuchArchivePolicyRule."""
        with self.reading() as connection:
            return self._get_archive_policy_rule(connection, name)

    @retried
    def list_archive_policy_rules(self) -> list[ArchivePolicyRule]:
        """Return all rules in the order in which they are tried."""
        with self.reading() as connection:
            return self._list_archive_policy_rules(connection)

    @retried
    def update_archive_policy_rule(self, name: str, new_name: str) -> ArchivePolicyRule:
        """Rename a rule.  Raises NoSuchArchivePolicyRule, UnsupportedArchivePolicyRuleChange, InvalidInput."""
        check_text("Archive policy rule name", new_name)
        with self.writing() as connection:
            self._get_archive_policy_rule(connection, name)
            try:
                connection.execute(sa.update(archive_policy_rule).where(archive_policy_rule.c.name == name)
                                   .values(name=new_name))
            except exc.IntegrityError as e:
                raise exceptions.UnsupportedArchivePolicyRuleChange(
                    name, f"Archive policy rule {new_name} already exists.") from e
            return self._get_archive_policy_rule(connection, new_name)

    @retried
    def delete_archive_policy_rule(self, name: str) -> None:
        """Raises NoSuchArchivePolicyRule."""
        with self.writing() as connection:
            statement = sa.delete(archive_policy_rule).where(archive_policy_rule.c.name == name)
            deleted = connection.execute(statement).rowcount
            if not deleted:
                raise exceptions.NoSuchArchivePolicyRule(name)

    @staticmethod
    def _get_archive_policy(connection: sa.Connection, statement: sa.Select[Any], name: str) -> ArchivePolicy:
        row = connection.execute(statement, {"name": name}).first()
        if row is None:
            raise exceptions.NoSuchArchivePolicy(name)
        return decode_policy(*row)

    @staticmethod
    def _get_archive_policy_rule(connection: sa.Connection, name: str) -> ArchivePolicyRule:
        row = connection.execute(SELECT_RULES.where(archive_policy_rule.c.name == name)).first()
        if row is None:
            raise exceptions.NoSuchArchivePolicyRule(name)
        return ArchivePolicyRule(*row)

    @staticmethod
    def _list_archive_policy_rules(connection: sa.Connection) -> list[ArchivePolicyRule]:
        return [ArchivePolicyRule(*row) for row in connection.execute(SELECT_RULES)]


def list_policies_by_name(connection: sa.Connection, names: set[str]) -> dict[str, ArchivePolicy]:
    """Return the policies with these names that exist."""
    if len(names) == 1:     # the usual request
        return {row[1]: decode_policy(*row) for row in GET_POLICY_FAST.fetch(connection, {"name": next(iter(names))})}
    return {row.name: decode_policy(*row)
            for row in connection.execute(sa.select(archive_policy).where(archive_policy.c.name.in_(names)))}


def list_policies_by_id(connection: sa.Connection, ids: set[uuid.UUID]) -> dict[uuid.UUID, ArchivePolicy]:
    """Return the policies with these ids, one at least, that exist."""
    return {row[0]: decode_policy(*row) for row in LIST_POLICIES_BY_ID.fetch(connection, {"ids": list(ids)})}
