"""Drivers that keep groups in a store of objects: each slice is taken once and in order, whatever a store shows."""

import json

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming.group import PREFIX
from gnocchi.incoming.keyed import KeyedDriver
from gnocchi.tests.backlog import list_series, make_batch, make_id
from gnocchi.tests.keyed import MemoryStore

SACKS = 2
#: The numbers of sacks that each writer cuts for.
WRITERS = (SACKS, SACKS, 1, 4)
READERS = 2
SOME_SACKS = st.sets(st.integers(0, SACKS - 1), min_size=1)


class Service(RuleBasedStateMachine):
    """Processes that write and read, in an order that nobody chose.

    What is posted is its number, `posted` says by whom for which sacks; a sack's `applied` lists what commits brought.
    """

    @initialize()
    def start(self):
        self.store = MemoryStore()
        self.writers = [KeyedDriver(self.store, sacks) for sacks in WRITERS]
        self.readers = [KeyedDriver(self.store, SACKS) for _ in range(READERS)]
        self.checkpoints = {sack: (0, {}) for sack in range(SACKS)}
        self.applied = {sack: [] for sack in range(SACKS)}
        self.slices = {}
        self.posted = []
        self.stored = set()
        self.hidden, self.away = set(), set()

    @rule(writer=st.sampled_from(range(len(WRITERS))), sacks=SOME_SACKS,
          fates=st.lists(st.sampled_from(["stored", "stored", "hidden", "away", "refused", "answer lost"]), min_size=1,
                         max_size=4))
    def post(self, writer, sacks, fates):
        for fate in fates:
            self.post_one(writer, sacks, fate)

    def post_one(self, writer, sacks, fate):
        number = len(self.posted)
        self.posted.append((self.writers[writer], sacks))
        before = set(self.store.objects)
        put = self.store.put

        def fail(key, data):
            if fate == "answer lost":
                put(key, data)
            raise BackendUnavailable("memory: cannot put")

        if fate in ("refused", "answer lost"):
            self.store.put = fail
        try:
            self.writers[writer].write_measures(make_batch(*[
                (make_id(sack, i), [(0, float(number))]) for sack in sorted(sacks) for i in (0, SACKS)]))
            self.stored.add(number)
        except BackendUnavailable:
            assert fate in ("refused", "answer lost")
        finally:
            self.store.put = put
        for shown_late, name in ((self.hidden, "hidden"), (self.away, "away")):
            if fate == name:
                shown_late.add(number)
                getattr(self.store, name).update(self.store.objects.keys() - before)

    @rule(reader=st.integers(0, READERS - 1), sacks=SOME_SACKS, measures_max=st.sampled_from([1, 6, 1000]))
    def read(self, reader, sacks, measures_max):
        checkpoints = {sack: self.checkpoints[sack] for sack in sorted(sacks)}
        found = self.readers[reader].read_backlogs({s: json.loads(json.dumps(c)) for s, (_, c) in checkpoints.items()},
                                                   measures_max)
        for sack, backlog in found.items():
            if backlog is not None:
                self.slices[reader, sack] = (checkpoints[sack][0], backlog)

    @rule(reader=st.integers(0, READERS - 1), sack=st.integers(0, SACKS - 1))
    def commit(self, reader, sack):
        """Of two that read from the same place one loses."""
        sequence, backlog = self.slices.pop((reader, sack), (None, None))
        if sequence == self.checkpoints[sack][0]:
            self.checkpoints[sack] = (sequence + 1, json.loads(json.dumps(backlog.checkpoint)))
            self.note(sack, backlog)

    @rule(reader=st.integers(0, READERS - 1), sacks=SOME_SACKS, measures_max=st.sampled_from([1, 6, 1000]))
    def process(self, reader, sacks, measures_max):
        self.read(reader, sacks, measures_max)
        for sack in sacks:
            self.commit(reader, sack)

    def note(self, sack, backlog):
        numbers = []
        for id, points in list_series(backlog.batch):
            assert id.int % SACKS == sack
            numbers += [int(value) for _, value in points if id == make_id(sack)]
        self.applied[sack] += numbers

    @rule(reader=st.integers(0, READERS - 1),
          deletes=st.sampled_from(["done", "listed still", "there still", "refused"]))
    def acknowledge(self, reader, deletes):
        before = dict(self.store.objects)
        if deletes == "refused":
            self.store.fail("delete")
        try:
            self.readers[reader].acknowledge({sack: c for sack, (_, c) in self.checkpoints.items()})
        except BackendUnavailable:
            assert deletes == "refused"
        finally:
            self.store.fail()
        for key in before.keys() - self.store.objects.keys():
            if deletes != "done":
                self.store.ghosts[key] = before[key] if deletes == "there still" else None

    @rule()
    def lay_ghosts(self):
        self.store.ghosts = {}

    @rule()
    def reveal(self):
        self.store.hidden, self.store.away = set(), set()

    @rule()
    def reveal_newest(self):
        """Of what cannot be read."""
        self.store.away = set(sorted(self.store.away)[:-1])

    @rule(reader=st.integers(0, READERS - 1))
    def restart_reader(self, reader):
        self.readers[reader] = KeyedDriver(self.store, SACKS)
        self.slices = {place: held for place, held in self.slices.items() if place[0] != reader}

    @rule(writer=st.sampled_from(range(len(WRITERS))))
    def restart_writer(self, writer):
        self.writers[writer] = KeyedDriver(self.store, WRITERS[writer])

    @rule(reader=st.integers(0, READERS - 1))
    def look(self, reader):
        """The figures tell of what was not applied."""
        if self.store.hidden or self.store.away or self.store.ghosts:
            return
        checkpoints = {sack: c for sack, (_, c) in self.checkpoints.items()}
        backlogs = self.readers[reader].list_backlogs(checkpoints)
        waiting = {sack: sum(sack in self.posted[n][1] and n not in self.applied[sack] for n in self.stored)
                   for sack in range(SACKS)}
        for sack, count in waiting.items():
            assert (backlogs[sack].bundles if sack in backlogs else 0) >= 2 * count
        report = self.readers[reader].report_backlog(checkpoints, details=True)
        assert report.bundles == sum(backlog.bundles for backlog in backlogs.values())
        assert sum(report.bundles_by_metric.values()) == report.bundles

    def teardown(self):
        if not hasattr(self, "store"):
            return
        self.reveal()
        for sack in range(SACKS):
            while (backlog := KeyedDriver(self.store, SACKS).read_backlog(sack, self.checkpoints[sack][1], 10)):
                self.checkpoints[sack] = (0, backlog.checkpoint)
                self.note(sack, backlog)
            applied = self.applied[sack]
            assert len(set(applied)) == len(applied), applied
            wanted = [n for n in sorted(self.stored) if sack in self.posted[n][1]]
            assert set(wanted) <= set(applied), (wanted, applied)
            place = {number: i for i, number in enumerate(applied)}
            for i, first in enumerate(wanted):
                for second in wanted[i + 1:]:
                    if self.is_ordered(first, second):
                        assert place[first] < place[second], (first, second, applied)
        self.store.ghosts = {}
        driver = KeyedDriver(self.store, SACKS)
        driver.acknowledge({sack: c for sack, (_, c) in self.checkpoints.items()})
        assert [] == list(self.store.list(PREFIX, ""))

    def is_ordered(self, first, second):
        """Return whether one is taken before another for sure.

        What no listing shows is looked for when the same process wrote something later, and all in between can be read.
        """
        if first in self.away:
            return False
        writer = self.posted[first][0]
        between = self.away.intersection(range(first, second))
        return first not in self.hidden or (
            self.posted[second][0] == writer and all(self.posted[number][0] != writer for number in between))


TestService = Service.TestCase
TestService.settings = settings(max_examples=150, stateful_step_count=40, phases=(Phase.generate,))
