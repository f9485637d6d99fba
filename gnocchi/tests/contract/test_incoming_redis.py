"""What is particular to measures that wait in Redis: its failures, restores, other numbers of sacks, waking."""

import random
import threading
import time

import pytest

from gnocchi.common.redis import make_client
from gnocchi.exceptions import BackendUnavailable, UnknownFormat
from gnocchi.incoming import batch as batches
from gnocchi.incoming.redis import RedisDriver
from gnocchi.incoming.redis_streams import COUNTS, DAMAGED, Lane
from gnocchi.tests.backlog import drain, drain_all, list_series, make_batch, make_id
from gnocchi.tests.coordination import make_redis, serve
from gnocchi.tests.databases import DEADLINE_S
from gnocchi.tests.faulty import faulty

SACKS = 4
EMPTY = {sack: {} for sack in range(SACKS)}


def request(number, sacks=range(SACKS)):
    return make_batch(*[(make_id(sack), [(number, float(number))]) for sack in sacks])


def series(*numbers, sack=0):
    return [(make_id(sack), [(number, float(number))]) for number in numbers]


@pytest.fixture
def make_driver(empty_redis):
    drivers = []

    def make(sacks=SACKS):
        drivers.append(RedisDriver(empty_redis, sacks))
        return drivers[-1]
    yield make
    for driver in drivers:
        driver.close()


@pytest.fixture
def driver(make_driver):
    return make_driver()


@pytest.fixture
def client(empty_redis):
    return make_client(empty_redis)


def test_full_memory(driver, client):
    """A request is refused as a whole; what waits can be read and freed, and then there is room again."""
    driver.write_measures(request(1))
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(BackendUnavailable, match="redis: cannot store measures: .*maxmemory"):
            driver.write_measures(request(2))
        assert dict.fromkeys(range(SACKS), 1) == {
            sack: waiting.bundles for sack, waiting in driver.list_backlogs(EMPTY).items()}
        read, checkpoints = drain_all(driver, SACKS)
        assert {sack: series(1, sack=sack) for sack in range(SACKS)} == read
        driver.acknowledge(checkpoints)
    finally:
        client.config_set("maxmemory", 0)
    assert {} == driver.list_backlogs(EMPTY)
    driver.write_measures(request(3))
    assert series(3) == drain(driver, 0, checkpoints[0])[0]


@pytest.mark.parametrize("key", [Lane(SACKS, 3).sizes, Lane(SACKS, 3).batches, COUNTS])
def test_request_that_fails_in_one_sack(driver, client, key):
    """It leaves nothing in the others."""
    client.set(key, "of another kind")
    with pytest.raises(BackendUnavailable, match="WRONGTYPE"):
        driver.write_measures(request(1))
    client.delete(key)
    assert (0, 0, {}) == driver.report_backlog(EMPTY, details=True)
    driver.write_measures(request(2))
    assert {sack: series(2, sack=sack) for sack in range(SACKS)} == drain_all(driver, SACKS)[0]
    assert {(1, 1)} == {waiting[:2] for waiting in driver.list_backlogs(EMPTY).values()}


def test_damaged_batch(driver, client, caplog):
    """It is named, kept, and left out; what comes before and behind is read."""
    for number in range(3):
        driver.write_measures(request(number))
    lane = Lane(SACKS, 0)
    (first, _), (second, fields), (third, last) = client.xrange(lane.batches)
    damaged = fields[b"batch"][:-1] + b"!"
    client.delete(lane.batches)
    for id, batch in ((first, b""), (second, damaged), (third, last[b"batch"])):
        client.xadd(lane.batches, {"batch": batch} if batch else {"other": b"x"}, id=id)
    for _ in range(2):
        read, checkpoint = drain(driver, 0)
        assert series(2) == read
    assert 2 == driver.damaged_count
    assert 2 == caplog.text.count("lost to damage")
    assert {f"{lane.batches} {second.decode()}".encode(): damaged,
            f"{lane.batches} {first.decode()}".encode(): b""} == client.hgetall(DAMAGED)
    assert driver.read_backlog(0, checkpoint, 10) is None


def test_batch_of_a_later_release(driver, client, monkeypatch):
    """It is no damage: the sack waits for a release that reads it."""
    with monkeypatch.context() as patch:
        patch.setattr(batches, "_VERSION", 2)
        driver.write_measures(request(0, [0]))
    driver.write_measures(request(1))
    with pytest.raises(UnknownFormat, match="a batch of format 2"):
        driver.read_backlog(0, {}, 1000)
    assert series(1, sack=1) == drain(driver, 1)[0]
    assert (0, {}) == (driver.damaged_count, client.hgetall(DAMAGED))
    monkeypatch.setattr(batches, "_VERSION", 2)
    assert series(0) == list_series(driver.read_backlog(0, {}, 1).batch)


def test_figures_after_a_part_was_freed(driver):
    """Sums begin anew in a stream that was emptied, and go on in one that was not."""
    for number in range(10):
        driver.write_measures(make_batch((make_id(0), [(number, 1.0)] * 2), (make_id(0, 1), [(number, 1.0)])))
    first = driver.read_backlog(0, {}, 12)
    assert (8, 12) == (first.bundles, len(first.batch.values))
    for freed in (False, True):
        if freed:
            driver.acknowledge({**EMPTY, 0: first.checkpoint})
        assert (12, 18) == driver.list_backlogs({0: first.checkpoint})[0][:2]
        assert 12 == driver.report_backlog({0: first.checkpoint}, details=False).bundles
    _, checkpoint = drain(driver, 0, first.checkpoint)
    driver.acknowledge({**EMPTY, 0: checkpoint})
    driver.acknowledge({**EMPTY, 0: first.checkpoint})      # of somebody who comes late
    driver.write_measures(request(1))
    assert (1, 1) == driver.list_backlogs({0: checkpoint})[0][:2]


def test_server_that_was_emptied(driver, client):
    """What is posted then is read, although a checkpoint names entries with higher ids, and freed only then."""
    driver.write_measures(request(1))
    client.execute_command("XSETID", Lane(SACKS, 0).batches, "99999999999999-5")
    client.execute_command("XSETID", Lane(SACKS, 0).sizes, "99999999999999-5")
    driver.write_measures(request(2))
    read, checkpoint = drain(driver, 0)
    assert series(1, 2) == read
    assert "99999999999999-6" == checkpoint["streams"]["4-0"][0]
    client.flushall()
    driver.write_measures(request(3))
    driver.acknowledge({**EMPTY, 0: checkpoint})
    assert (1, 1) == driver.list_backlogs({0: checkpoint})[0][:2]
    read, checkpoint = drain(driver, 0, checkpoint)
    assert series(3) == read
    driver.acknowledge({**EMPTY, 0: checkpoint})
    assert {} == driver.list_backlogs({0: {}})


def test_server_that_was_restored(driver, client):
    """An older state, to which others were added with ids that are taken: nothing that came then is passed over."""
    lane = Lane(SACKS, 0)
    driver.write_measures(request(1))
    for name in (lane.batches, lane.sizes):
        client.execute_command("XSETID", name, "99999999999999-0")
    copies = {name: client.dump(name) for name in (lane.batches, lane.sizes)}
    driver.write_measures(request(2))
    driver.write_measures(request(3))
    _, checkpoint = drain(driver, 0)
    for name, copy in copies.items():
        client.restore(name, 0, copy, replace=True)
    for number in (4, 5, 6):
        driver.write_measures(request(number))
    driver.acknowledge({**EMPTY, 0: checkpoint})
    assert series(1, 4, 5, 6) == drain(driver, 0, checkpoint)[0]


@pytest.mark.parametrize(("written_for", "read_for"), [(1, 8), (2, 8), (8, 2), (16, 1)])
def test_other_number_of_sacks(make_driver, client, written_for, read_for):
    """Streams for more or fewer sacks are cut again by metric id: each measure once, figures exact."""
    writers = [make_driver(written_for), make_driver(read_for)]
    reader = make_driver(read_for)
    generator = random.Random(1)
    empty = {sack: {} for sack in range(read_for)}
    assert {} == reader.list_backlogs(empty)
    expected = {sack: [] for sack in range(read_for)}
    for number in range(30):
        posted = [(make_id(generator.randrange(32), number), [(number, float(number))] * generator.randrange(3))
                  for _ in range(6)]
        writers[number % 2].write_measures(make_batch(*posted))
        for id, points in posted:
            expected[id.int % read_for].append((id, points))
    figures = {sack: (len(s), sum(len(points) for _, points in s)) for sack, s in expected.items() if s}
    assert figures == {sack: backlog[:2] for sack, backlog in reader.list_backlogs(empty).items()}
    half = reader.read_backlogs(empty, 50)
    checkpoints = {sack: half[sack].checkpoint if half.get(sack) else {} for sack in empty}
    reader.acknowledge(checkpoints)
    report = reader.report_backlog(checkpoints, details=True)
    assert 180 - sum(backlog.bundles for backlog in half.values() if backlog) == report.bundles
    assert report.metrics == len(report.bundles_by_metric)
    read = {sack: [] for sack in empty}
    for sack, backlog in half.items():
        read[sack] += [] if backlog is None else [(i, n) for i, n in zip(
            backlog.batch.metric_ids.tolist(), backlog.batch.counts.tolist(), strict=True)]
    for sack in empty:
        while (backlog := reader.read_backlog(sack, checkpoints[sack], 7)) is not None:
            read[sack] += zip(backlog.batch.metric_ids.tolist(), backlog.batch.counts.tolist(), strict=True)
            checkpoints[sack] = backlog.checkpoint
            reader.acknowledge(checkpoints)
    assert {s: sorted((i.bytes.rstrip(b"\0"), len(points)) for i, points in v)
            for s, v in expected.items()} == {s: sorted(v) for s, v in read.items()}
    reader.acknowledge(checkpoints)
    assert {str(read_for).encode()} == client.smembers(COUNTS)
    assert not client.keys(f"gnocchi:incoming:{written_for}-*")
    writers[0].write_measures(request(99))
    assert [99.0] * SACKS == sorted(
        point[1] for sack in empty for _, points in drain_all_from(reader, sack, checkpoints) for point in points)


def drain_all_from(reader, sack, checkpoints):
    reader.list_backlogs(checkpoints)
    return drain(reader, sack, checkpoints[sack])[0]


def test_writers_of_other_numbers_are_read_in_the_order_of_their_stamps(make_driver):
    """Those who count otherwise do not come first or last."""
    writers, reader = [make_driver(1), make_driver(8), make_driver(2)], make_driver(2)
    for number in range(60):
        writers[number % 3].write_measures(request(number, [0]))
    for measures_max in (1, 7, 1000):
        assert series(*range(60)) == drain(reader, 0, None, measures_max)[0]


@pytest.mark.parametrize("sacks", [4, 64])
def test_number_of_questions(make_driver, client, sacks):
    """What is asked of the server does not grow with the number of sacks."""
    driver = make_driver(sacks)
    batch = request(1, range(sacks))
    empty = {sack: {} for sack in range(sacks)}

    def count(act):
        client.config_resetstat()
        act()
        stats = client.info("commandstats")
        return {name: stats[f"cmdstat_{name}"]["calls"] for name in ("evalsha", "get", "smembers")
                if f"cmdstat_{name}" in stats}

    driver.write_measures(batch)
    driver.list_backlogs(empty)
    driver.read_backlogs(empty, 10_000)
    assert {"evalsha": 1} == count(lambda: driver.write_measures(batch))
    assert {"evalsha": 1, "smembers": 1} == count(lambda: driver.list_backlogs(empty))
    assert {"evalsha": 2} == count(lambda: driver.read_backlogs(empty, 10_000))
    assert {"get": 1} == count(driver.get_position)


@pytest.fixture
def durable_redis():
    yield from serve(lambda: make_redis(durable=True))


def test_killed_server(durable_redis):
    """With `appendfsync always` all that was accepted is there again, and checkpoints hold; in between: errors."""
    driver = RedisDriver(f"redis://127.0.0.1:{durable_redis.port}", SACKS)
    for number in range(20):
        driver.write_measures(request(number))
    checkpoint = driver.read_backlog(0, {}, 5).checkpoint
    durable_redis.kill()
    for act in (lambda: driver.write_measures(request(99)), lambda: driver.list_backlogs(EMPTY),
                lambda: driver.report_backlog(EMPTY, details=True), lambda: driver.read_backlog(0, {}, 1),
                lambda: driver.read_backlogs(EMPTY, 1), lambda: driver.acknowledge(EMPTY), driver.get_position,
                lambda: driver.wait([0], 1.0), driver.upgrade):
        with pytest.raises(BackendUnavailable, match="^redis: cannot"):
            act()
    durable_redis.start()
    assert series(*range(5, 20)) == drain(driver, 0, checkpoint)[0]
    driver.write_measures(request(20))
    assert series(*range(21), sack=1) == drain(driver, 1)[0]
    driver.close()


def test_wait(make_driver):
    """It ends with what comes into the sacks given, also if that came before; and with nothing after its time."""
    reader, writer = make_driver(), make_driver()
    assert set() == reader.wait([0, 1], 0.01)
    for number in range(3):
        writer.write_measures(request(number, [1, 2]))
        assert {1} == reader.wait([0, 1], DEADLINE_S)
        assert {1} == reader.wait([0, 1], DEADLINE_S)       # until it is read
        reader.read_backlogs({1: {}}, 100)
        assert set() == reader.wait([0, 1], 0.01)
    poster = threading.Timer(0.1, writer.write_measures, [request(9, [0, 3])])
    poster.start()
    assert {0} == reader.wait([0, 1], DEADLINE_S)
    poster.join()


def test_wait_while_connections_break(make_driver, kept_redis):
    """A server that falls silent, or breaks the connection, is an error after `socket_timeout`; then all goes on."""
    writer = make_driver()
    with faulty(kept_redis.port) as proxy:
        reader = RedisDriver(f"redis://127.0.0.1:{proxy.port}?socket_timeout=3", SACKS)
        for fault in (proxy.swallow, proxy.reset):
            assert set() == reader.wait([0], 0.01)
            fault()
            with pytest.raises(BackendUnavailable, match="redis: cannot wait for measures"):
                reader.wait([0], DEADLINE_S)
            proxy.pass_on()
            writer.write_measures(request(1, [0]))
            deadline = time.monotonic() + DEADLINE_S
            while reader.wait([0], DEADLINE_S) != {0}:      # for no longer than half of `socket_timeout`
                assert time.monotonic() < deadline
            reader.read_backlog(0, {}, 100)
        reader.close()


def test_wait_does_not_tell_twice_of_what_others_took(make_driver):
    """A reader that has looked in vain is woken by what comes then."""
    reader, other = make_driver(), make_driver()
    other.write_measures(request(1, [0]))
    _, checkpoint = drain(other, 0)
    assert {0} == reader.wait([0], DEADLINE_S)
    assert reader.read_backlog(0, checkpoint, 10) is None
    assert set() == reader.wait([0], 0.01)
    other.write_measures(request(2, [0]))
    assert {0} == reader.wait([0], DEADLINE_S)


def test_stamps_of_a_clock_that_was_set_back(driver, monkeypatch):
    """A writer's order is that of the server all the same."""
    driver.write_measures(request(1))
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
    driver.write_measures(request(2))
    assert series(1, 2) == drain(driver, 0)[0]


def test_upgrade_tells_what_is_not_safe(make_driver, durable_redis, caplog):
    """A server that forgets, or that would throw away what waits, is named."""
    make_driver().upgrade()
    assert "appendonly no, appendfsync everysec; to be safe: appendonly yes" in caplog.text
    caplog.clear()
    RedisDriver(f"redis://127.0.0.1:{durable_redis.port}", SACKS).upgrade()
    assert "" == caplog.text
