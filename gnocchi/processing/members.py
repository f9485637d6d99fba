"""Who works: the group of processing workers, and what each tells about itself."""

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import tooz
from tooz.coordination import GroupAlreadyExist, GroupNotCreated, MemberAlreadyExist, MemberNotJoined

from gnocchi.processing.locks import Coordinator

LOG = logging.getLogger(__name__)

GROUP = b"gnocchi-processing"

#: Beginning of the names of counters of measures that were not stored; the reason follows.
REFUSED = "refused measures: "


class MembersReport(NamedTuple):
    """processors : names of the workers, or None when the coordination service keeps no groups

    statistics : worker -> counter -> value since its start
    """

    processors: list[str] | None
    statistics: dict[str, dict[str, float]]

    def sum_refused(self) -> dict[str, int]:
        """Return how many measures the workers of now did not store since they were started, by reason."""
        totals: Counter[str] = Counter()
        for counters in self.statistics.values():
            totals.update({name.removeprefix(REFUSED): int(value) for name, value in counters.items()
                           if name.startswith(REFUSED)})
        return dict(totals)


def report_members(coordinator: Coordinator) -> MembersReport:
    """Return what `/v1/status` tells about metricd.  Raises BackendUnavailable."""
    try:
        members = sorted(list_members(coordinator))
    except tooz.NotImplemented:
        return MembersReport(None, {})
    statistics = {}
    for member in members:
        with contextlib.suppress(GroupNotCreated, MemberNotJoined):
            capabilities = coordinator.call("get_member_capabilities", GROUP, member) or {}
            statistics[member.decode()] = {name: value for name, value in capabilities.items() if name != "weight"}
    return MembersReport([member.decode() for member in members], statistics)


def list_members(coordinator: Coordinator) -> set[bytes]:
    """Return the workers of the group that are alive.

    A member whose life lock can be taken is dead: tooz's file driver would keep it in the group,
    and its share of the sacks would starve.

    Raises BackendUnavailable, tooz.NotImplemented (no groups).
    """
    try:
        members = {_to_bytes(member) for member in coordinator.call("get_members", GROUP)}
    except GroupNotCreated:
        return set()
    if coordinator.expires_members:
        return members
    return {member for member in members if member == coordinator.member_id or not _is_dead(coordinator, member)}


def _to_bytes(member: str | bytes) -> bytes:
    return member.encode() if isinstance(member, str) else member


def _life_lock(member: bytes) -> bytes:
    return b"member-" + member


def _is_dead(coordinator: Coordinator, member: bytes) -> bool:
    with coordinator.try_lock(_life_lock(member)) as held:
        return held


class Membership:
    """This worker's place in the group."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator
        self._life: Any = None
        self._publishes = True

    def join(self) -> set[bytes] | None:
        """Return the living members, this one among them, or None when there are no groups.

        Joins if it is not in (a restarted coordination service may have forgotten everything).
        Raises BackendUnavailable.
        """
        try:
            members = list_members(self._coordinator)
            if self._coordinator.member_id not in members:
                self._enter()
                members.add(self._coordinator.member_id)
        except tooz.NotImplemented:
            return None
        return members

    def _enter(self) -> None:
        if self._life is None and not self._coordinator.expires_members:
            self._life = self._coordinator.acquire(_life_lock(self._coordinator.member_id))
        with contextlib.suppress(GroupAlreadyExist):
            self._coordinator.call("create_group", GROUP)
        with contextlib.suppress(MemberAlreadyExist):
            self._coordinator.call("join_group", GROUP, {"weight": 1})
        LOG.info("Joined coordination group: %s", GROUP.decode())

    def publish(self, counters: Mapping[str, float]) -> None:
        """Show counters in `/v1/status`, where the coordination service can.  Raises BackendUnavailable."""
        if not self._publishes:
            return
        try:
            self._coordinator.call("update_capabilities", GROUP, {"weight": 1, **counters})
        except tooz.NotImplemented:
            self._publishes = False
        except (GroupNotCreated, MemberNotJoined):
            # Forgotten by a restarted service; `join` sees to it before the next round.
            LOG.debug("Not in the group: counters are not published")

    def leave(self) -> None:
        """Leave the group, so that others take over at once.  Raises BackendUnavailable."""
        with contextlib.suppress(GroupNotCreated, MemberNotJoined, tooz.NotImplemented):
            self._coordinator.call("leave_group", GROUP)
        if self._life is not None:
            self._coordinator.discard(self._life)
            self._life = None
