"""The catalogue in memory, for simulations: what processing and readers need of the index, under the same contract.

`test_simulation.py` runs the same simulations on SQLite, so that both cannot drift apart unnoticed.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence

import numpy

from gnocchi import metric_ids
from gnocchi.archive_policy import ArchivePolicy
from gnocchi.catalogue import Block, Pack, Parked, Sack, SackCommit, SackContents, find_object
from gnocchi.exceptions import CommitLost, NoSuchMetric
from gnocchi.indexer import Metric, MetricPolicy
from gnocchi.indexer.commits import find_won


class MemoryIndex:
    """Parameters: number of sacks, and a module like `time` that tells how old garbage is."""

    def __init__(self, sacks: int, clock) -> None:
        self._clock = clock
        self._sacks = [Sack(number, 0, {}) for number in range(sacks)]
        self._policies: dict[uuid.UUID, ArchivePolicy] = {}
        self._metrics: dict[uuid.UUID, uuid.UUID] = {}
        self._deleted: dict[uuid.UUID, uuid.UUID] = {}
        self._packs: dict[uuid.UUID, Pack] = {}
        self._blocks: dict[uuid.UUID, Block] = {}
        self._parked: dict[uuid.UUID, Parked] = {}
        self._garbage: dict[str, float] = {}

    # Metrics

    def add_metrics(self, policy: ArchivePolicy, ids: Iterable[uuid.UUID]) -> None:
        self._policies[policy.id] = policy
        self._metrics.update((i, policy.id) for i in ids)

    def delete_metrics(self, ids: Iterable[uuid.UUID]) -> None:
        for i in ids:
            self._deleted[i] = self._metrics.pop(i)

    def get_metric(self, metric_id: uuid.UUID) -> Metric:
        if metric_id not in self._metrics:
            raise NoSuchMetric(metric_id)
        return Metric(metric_id, self._policies[self._metrics[metric_id]], None, None, None, None)

    def list_metric_policies(self, ids: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        found = [i for i in metric_ids.unpack_ids(ids) if i in self._metrics]
        return metric_ids.pack_ids(found), metric_ids.pack_ids(self._metrics[i] for i in found)

    def list_deleted_metrics(self, limit: int, after: uuid.UUID | None = None) -> list[MetricPolicy]:
        chosen = sorted(i for i in self._deleted if after is None or i > after)
        return [MetricPolicy(i, self._deleted[i]) for i in chosen[:limit]]

    def expunge_metrics(self, ids: Iterable[uuid.UUID]) -> None:
        for i in ids:
            self._deleted.pop(i, None)

    @staticmethod
    def list_metrics_to_truncate(limit: int, after: uuid.UUID | None = None) -> list[MetricPolicy]:
        return []       # policies never change

    # Sacks, packs, blocks

    def count_sacks(self) -> int:
        return len(self._sacks)

    def list_sacks(self) -> list[Sack]:
        return list(self._sacks)

    def get_sack(self, number: int) -> Sack:
        return self._sacks[number]

    def list_sack_contents(self, numbers: Sequence[int]) -> list[SackContents]:
        return [self.get_sack_contents(number) for number in numbers]

    def get_sack_contents(self, number: int) -> SackContents:
        return SackContents(self._sacks[number], len(self._sacks),
                            [pack for pack in self._packs.values() if pack.sack == number], dict(self._policies),
                            tuple(row for row in self._parked.values() if row.sack == number))

    def list_pack_blocks(self, ids: Sequence[uuid.UUID]) -> list[Block]:
        return [block for block in self._blocks.values() if block.pack_id in ids]

    def list_blocks(self, numbers: Sequence[int]) -> dict[int, list[Block]]:
        return {number: self.list_sack_blocks(number) for number in numbers}

    def list_sack_blocks(self, number: int) -> list[Block]:
        return [block for block in self._blocks.values() if self._packs[block.pack_id].sack == number]

    def get_pack_catalogue(self, policy_id: uuid.UUID, low: int, granularities: Sequence[int] | None = None,
                           start: int | None = None, stop: int | None = None) -> tuple[Pack | None, list[Block]]:
        assert start is None and stop is None
        for pack in self._packs.values():
            if pack.policy_id == policy_id and low & (1 << pack.bits) - 1 == pack.low:
                return pack, [block for block in self._blocks.values() if block.pack_id == pack.id
                              and (granularities is None or block.granularity in granularities)]
        return None, []

    def commit_sacks(self, commits: Sequence[SackCommit]) -> set[int]:
        won = find_won(commits, {sack.number: sack.sequence for sack in self._sacks})
        for commit in won:
            self._commit(commit)
        return {commit.sack for commit in commits} - {commit.sack for commit in won}

    def commit_sack(self, commit: SackCommit) -> None:
        if self.commit_sacks([commit]):
            raise CommitLost(commit.sack, commit.sequence)

    def _commit(self, commit: SackCommit) -> None:
        sack = self._sacks[commit.sack]
        checkpoint = sack.checkpoint if commit.checkpoint is None else commit.checkpoint
        self._sacks[commit.sack] = Sack(commit.sack, sack.sequence + 1, checkpoint)
        for table, removed in ((self._blocks, commit.blocks_removed), (self._packs, commit.packs_removed),
                               (self._parked, commit.parked_removed)):
            for i in removed:
                table.pop(i, None)
        for i, block in list(self._blocks.items()):
            if block.pack_id in commit.packs_removed:
                del self._blocks[i]
        for table, rows in ((self._packs, commit.packs), (self._blocks, commit.blocks), (self._parked, commit.parked)):
            table.update((row.id, row) for row in rows)
        self._garbage.update((find_object(key), self._clock.time()) for key in commit.garbage)

    def list_parked(self) -> list[Parked]:
        return list(self._parked.values())

    def publish_statistics(self, service: str, process: str, counters: Mapping[str, float]) -> None:
        pass

    def delete_old_statistics(self, older_than_s: float) -> None:
        pass

    # Garbage

    def _list_references(self) -> set[str]:
        sections = [section for pack in self._packs.values() for section in (pack.base, pack.delta)]
        sections += [row.section for row in (*self._blocks.values(), *self._parked.values())]
        return {find_object(section.key) for section in sections if section is not None}

    def list_collectable_garbage(self, older_than_s: float, limit: int) -> list[str]:
        before, named = self._clock.time() - older_than_s, self._list_references()
        return [key for key, since in self._garbage.items() if since <= before and key not in named][:limit]

    def list_known_objects(self, keys: Sequence[str]) -> set[str]:
        return set(keys) & (self._list_references() | self._garbage.keys())

    def delete_garbage_rows(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._garbage.pop(key, None)
