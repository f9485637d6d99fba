"""Which sacks a worker takes, and in what order."""

import hashlib
from collections.abc import Iterable, Mapping

from tooz import hashring

from gnocchi.incoming import SackBacklog
from gnocchi.processing.locks import sack_name

#: Points of each member on the hash ring.  The same for every member, or they disagree on who owns what.
RING_PARTITIONS = 200

#: A sack whose backlog is older than this many processing delays may be taken by any worker.
STARVING_DELAYS = 3


class Schedule:
    """Orders the sacks that have a backlog, for one worker.

    First those that the ring gives to this worker first of all, then those it shares, then those
    that nobody seems to look after; in each part from an own starting point on, so that workers do
    not all run for the same lock.

    Parameters
    ----------
    member : bytes
        Name of this worker.
    sacks : int
        Number of all sacks.
    replicas : int
        Workers that share each sack.
    delay_s : float
        Processing delay.
    """

    def __init__(self, member: bytes, sacks: int, replicas: int, delay_s: float) -> None:
        self._member = member
        self.sacks = sacks
        self._replicas = replicas
        self._starving_ns = int(STARVING_DELAYS * delay_s * 1e9)
        self._start = int.from_bytes(hashlib.md5(member, usedforsecurity=False).digest()[:8], "big") % sacks
        self._members: frozenset[bytes] = frozenset()
        self._ranks: dict[int, int] = {}

    def set_members(self, members: Iterable[bytes] | None) -> None:
        """Say who works at present; None when that is not known, so that everybody tries every sack."""
        members = frozenset(members or ())
        if members == self._members:
            return
        self._members = members
        self._ranks = self._rank_sacks() if self._member in members else {}

    def _rank_sacks(self) -> dict[int, int]:
        """Return 0 for each sack that is first of all this worker's, 1 for each it shares."""
        ring = hashring.HashRing(self._members, partitions=RING_PARTITIONS)
        ranks = {}
        for sack in range(self.sacks):
            name = sack_name(sack, self.sacks).encode()
            if self._member in ring.get_nodes(name):
                ranks[sack] = 0
            elif self._member in ring.get_nodes(name, replicas=self._replicas):
                ranks[sack] = 1
        return ranks

    @property
    def own(self) -> list[int]:
        """The sacks that are first of all this worker's; none while it is not known who works."""
        return [sack for sack, rank in self._ranks.items() if not rank]

    def order(self, backlogs: Mapping[int, SackBacklog], now_ns: int) -> list[int]:
        """Return the sacks to take, of those that have a backlog, the first one first.

        Parameters
        ----------
        backlogs : Mapping of sack number to SackBacklog
        now_ns : int
            Wall clock.
        """
        chosen = []
        for sack, backlog in backlogs.items():
            rank = self._ranks.get(sack, 2) if self._ranks else 0
            if rank < 2 or now_ns - backlog.oldest_ns > self._starving_ns:
                chosen.append((rank, (sack - self._start) % self.sacks, sack))
        return [sack for _, _, sack in sorted(chosen)]
