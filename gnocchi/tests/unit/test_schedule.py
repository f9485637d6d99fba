"""Which sacks a worker takes."""

from gnocchi.incoming import SackBacklog
from gnocchi.processing.schedule import Schedule

NOW = 10 ** 18
FRESH = SackBacklog(1, 1, NOW)
SACKS = 128
MEMBERS = [b"host.0.a", b"host.1.b", b"host.2.c", b"host.3.d"]


def make_schedule(member, members, replicas=3, delay_s=1.0):
    schedule = Schedule(member, SACKS, replicas, delay_s)
    schedule.set_members(members)
    return schedule


def backlogs(oldest_ns=NOW):
    return dict.fromkeys(range(SACKS), SackBacklog(1, 1, oldest_ns))


def test_each_sack_belongs_to_as_many_members_as_there_are_replicas():
    """All members together take each sack exactly `processing_replicas` times."""
    taken = [sack for member in MEMBERS for sack in make_schedule(member, MEMBERS).order(backlogs(), NOW)]
    assert sorted(list(range(SACKS)) * 3) == sorted(taken)


def test_each_sack_is_first_choice_of_one_member():
    """With one replica the sacks are spread without overlap."""
    shares = [make_schedule(member, MEMBERS, replicas=1).order(backlogs(), NOW) for member in MEMBERS]
    assert list(range(SACKS)) == sorted(sum(shares, []))
    assert all(shares)


def test_own_sacks_come_before_shared_ones():
    """A worker begins with what is first of all its own, so that locks are seldom contended."""
    own = set(make_schedule(MEMBERS[0], MEMBERS, replicas=1).order(backlogs(), NOW))
    order = make_schedule(MEMBERS[0], MEMBERS).order(backlogs(), NOW)
    assert own == set(order[:len(own)])


def test_only_sacks_with_a_backlog_are_taken():
    """A sack without measures is not looked at."""
    assert [5] == make_schedule(MEMBERS[0], MEMBERS, replicas=4).order({5: FRESH}, NOW)


def test_starving_sacks_are_taken_by_everybody():
    """Measures older than three delays are taken by members that do not own the sack."""
    starving = backlogs(NOW - 3 * 10 ** 9 - 1)
    for member in MEMBERS:
        assert set(range(SACKS)) == set(make_schedule(member, MEMBERS, replicas=1).order(starving, NOW))


def test_sacks_not_quite_starving_are_left_to_their_owner():
    """Three delays exactly are not yet too old."""
    waiting = backlogs(NOW - 3 * 10 ** 9)
    assert len(make_schedule(MEMBERS[0], MEMBERS, replicas=1).order(waiting, NOW)) < SACKS


def test_without_groups_everybody_takes_everything_from_an_own_start():
    """Workers that do not know of each other begin at different sacks."""
    orders = [make_schedule(member, None).order(backlogs(), NOW) for member in MEMBERS]
    assert all(set(range(SACKS)) == set(order) for order in orders)
    assert len(MEMBERS) == len({order[0] for order in orders})
    start = orders[0][0]
    assert [*range(start, SACKS), *range(start)] == orders[0]


def test_worker_missing_in_the_group_takes_everything():
    """A worker that the ring does not know does not stop working."""
    assert set(range(SACKS)) == set(make_schedule(b"stranger", MEMBERS).order(backlogs(), NOW))


def test_members_that_leave_are_replaced():
    """What the others had is taken once they are gone."""
    schedule = make_schedule(MEMBERS[0], MEMBERS, replicas=1)
    schedule.set_members(MEMBERS[:1])
    assert set(range(SACKS)) == set(schedule.order(backlogs(), NOW))
