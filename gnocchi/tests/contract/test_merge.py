"""Storage stays bounded: over months of simulated time, few blocks, few dead rows, and every read right."""

import uuid

import numpy
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gnocchi.incoming.memory import MemoryDriver as MemoryIncoming
from gnocchi.indexer import migration
from gnocchi.indexer.sqlalchemy import Indexer
from gnocchi.processing.merge import merge_sack
from gnocchi.storage import merge
from gnocchi.storage.drivers.memory import MemoryDriver
from gnocchi.storage.store import Store
from gnocchi.tests.engine import Engine, key, make_policy
from gnocchi.tests.unit.carbonara.model import Model

HOUR = 3600 * 10**9
START = 472_222 * HOUR
POLICY = make_policy("months", [(3600, 100), (21600, 200), (86400, None)], ("mean", "count", "std"))
SACKS = 2


def readable_rows(engine, ids, granularity):
    """Return how many sealed buckets a reader can get at, told by reading."""
    span = numpy.timedelta64(granularity, "ns")
    return sum(len(engine.read(i, "count", granularities=(span,))[key(span)]) for i in ids)


class Months(RuleBasedStateMachine):
    """Metrics come, change their rate, fall silent and are deleted, while the janitor goes its rounds."""

    @initialize()
    def set_up(self):
        self.path = f"/dev/shm/gnocchi-merge-{uuid.uuid4()}.db"
        indexer = Indexer(f"sqlite:///{self.path}")
        migration.upgrade(indexer)
        indexer.create_sacks(SACKS)
        self.engine = Engine(indexer, MemoryIncoming(SACKS), Store(MemoryDriver(), cache_bytes=1 << 20), SACKS)
        self.now = START
        self.models = {}
        self.deleted = set()
        self.create(4)

    def teardown(self):
        if hasattr(self, "engine"):
            self.engine.indexer.close()

    @rule(count=st.integers(1, 3))
    def create(self, count):
        for metric_id in self.engine.create_metrics(POLICY, count):
            self.models[metric_id] = Model(POLICY.window_policy)

    @rule(hours=st.integers(1, 400), step=st.sampled_from([1, 1, 2, 7, 30]), silent=st.integers(0, 7))
    def let_time_pass(self, hours, step, silent):
        """Some days of measures, a day per commit; the metrics that `silent` names send none."""
        for begin in range(0, hours, 24):
            self._commit(range(begin, min(begin + 24, hours), step), silent)
        self.now += hours * HOUR

    def _commit(self, hours, silent):
        times = numpy.array([self.now + hour * HOUR for hour in hours], numpy.int64)
        talking = [metric for place, metric in enumerate(self.models) if not silent >> place % 3 & 1]
        if not talking or not len(times):
            return
        values = numpy.round(numpy.sin(times / 1e13), 2)
        self.engine.post(talking, [(times, values)] * len(talking))
        self.engine.process()
        for metric_id in talking:
            self.models[metric_id].process_points((times.view("M8[ns]"), values))

    @rule(place=st.integers(0, 7))
    def delete(self, place):
        if len(self.models) > 1:
            metric_id = list(self.models)[place % len(self.models)]
            del self.models[metric_id]
            self.engine.indexer.delete_metrics([metric_id])
            self.engine.expunge()

    @rule()
    def go_a_round(self):
        """The janitor comes to an end, and then the bound holds."""
        for number in range(SACKS):
            while merge_sack(number, self.engine.indexer, self.engine.store, suspects=None).removed:
                pass
        self.engine.store.driver.delete_many(self.engine.indexer.list_collectable_garbage(-1, 100_000))
        blocks = [block for number in range(SACKS) for block in self.engine.indexer.list_sack_blocks(number)]
        for granularity in {block.granularity for block in blocks}:
            those = [block for block in blocks if block.granularity == granularity]
            packs = {block.pack_id for block in those}
            largest = {}
            for block in those:
                slot = (block.pack_id, block.level)
                largest[slot] = max(largest.get(slot, 0), block.rows)
            bound = 2 * readable_rows(self.engine, self.models, granularity) + sum(largest.values())
            assert sum(block.rows for block in those) <= bound
            for pack_id in packs:
                levels = [block.level for block in those if block.pack_id == pack_id]
                assert all(levels.count(level) < merge.FAN_IN for level in levels)

    @invariant()
    def reads_are_right(self):
        if not hasattr(self, "models"):
            return
        for metric_id, model in self.models.items():
            got = self.engine.read(metric_id, "mean")
            for granularity, _ in model.policy.items:
                stamps, values = model.read(granularity, "mean")
                assert list(zip(stamps.view("i8").tolist(), values.tolist(), strict=True)) == got[key(granularity)]


TestMonths = Months.TestCase
TestMonths.settings = settings(max_examples=12, stateful_step_count=12, deadline=None,
                               phases=[Phase.explicit, Phase.reuse, Phase.generate])
