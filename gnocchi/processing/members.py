"""Who works: the group of processing workers."""

import contextlib
import logging
from typing import Any

import tooz
from tooz.coordination import GroupAlreadyExist, GroupNotCreated, MemberAlreadyExist, MemberNotJoined

from gnocchi.processing.locks import Coordinator

LOG = logging.getLogger(__name__)

GROUP = b"gnocchi-processing"


def list_processors(coordinator: Coordinator) -> list[str] | None:
    """Return the names of the workers that live, None when that cannot be known.  Raises BackendUnavailable."""
    try:
        return [member.decode() for member in sorted(list_members(coordinator))]
    except tooz.NotImplemented:
        return None


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

    def leave(self) -> None:
        """Leave the group, so that others take over at once.  Raises BackendUnavailable."""
        with contextlib.suppress(GroupNotCreated, MemberNotJoined, tooz.NotImplemented):
            self._coordinator.call("leave_group", GROUP)
        if self._life is not None:
            self._coordinator.release(self._life)
            self._life = None
