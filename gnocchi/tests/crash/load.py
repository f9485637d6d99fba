"""Clients that post measures whatever happens, note the answers, and know what has to be stored in the end.

Time in the measures goes by rounds, not by any clock: round n of every client has timestamps in the
same few seconds, and no client runs ahead of the slowest.  So it is certain that nothing accepted
is too old, on the slowest machine too.  Each timestamp belongs to one client, which may post it
again with another value: the order of the posts of one timestamp is known.
"""

import itertools
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy

from gnocchi.tests.crash.service import Client, NoAnswer

#: Begin of the measures' time, in seconds.
EPOCH_S = 1_750_000_000

CLIENTS = 4

#: Seconds of the measures' time in one round: each client has one of them.
ROUND_S = CLIENTS

#: Rounds that a client may be ahead of the slowest, and how far back it posts again.
AHEAD_MAX = 60
AGAIN_MAX = 40

METRICS_PER_POLICY = 20

METHODS = ("count", "sum", "last", "mean")

#: Pause after a request without an answer and, at most, between two requests: kills shall happen under load,
#: but clients shall leave processors to those who start again.
PAUSE_S = 0.03


class Policy(NamedTuple):
    """granularities_s: ascending, the first one so fine that no two timestamps share a bucket."""

    name: str
    granularities_s: tuple[int, ...]
    back_window: int


#: The back windows are 1,200 s: 300 rounds.
POLICIES = (Policy("fine", (1, 60), 20), Policy("coarse", (1, 10, 300), 4))


class Post(NamedTuple):
    """One request: values by (metric, timestamp in ns); stored is None when there was no answer.

    in_time : bool; the request cannot be under way any more
    """

    points: dict[tuple[str, int], float]
    stored: bool | None
    in_time: bool


class Load:
    """Makes metrics and posts to them from several threads until told to stop.

    Parameters
    ----------
    seed : int
    addresses : int, or sequence of int or str
        Of the API, as of a Client; clients share several evenly.
    refusals_certain : bool
        Whether 503 means that nothing was stored.
    """

    def __init__(self, seed: int, addresses: int | Sequence[int | str], *, refusals_certain: bool = True) -> None:
        self._seed = seed
        self._addresses = [addresses] if isinstance(addresses, int) else addresses
        self._refusals_certain = refusals_certain
        self._metrics: dict[str, Policy] = {}
        self._posts: list[list[Post]] = [[] for _ in range(CLIENTS)]
        self._rounds = [0] * CLIENTS
        self._turn = threading.Condition()
        self._stop = threading.Event()
        self._values = itertools.count(1)
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        self._failures: list[BaseException] = []

    def start(self) -> None:
        client = Client(self._addresses[0])
        for policy in POLICIES:
            client.create_policy(policy.name, [{"granularity": width, "points": 1_000_000 // width}
                                               for width in policy.granularities_s], list(METHODS), policy.back_window)
            self._metrics.update(dict.fromkeys(client.create_metrics(policy.name, METRICS_PER_POLICY), policy))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        with self._turn:
            self._turn.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def check(self) -> None:
        """Fail when a client met something that must never happen."""
        if self._failures:
            raise self._failures[0]

    def count(self, stored: bool | None) -> int:
        """Return how many requests were stored (True), refused (False) or had no answer (None)."""
        return sum(post.stored is stored for posts in self._posts for post in tuple(posts))

    def count_values(self) -> int:
        """Return how many values were made; each is its own number."""
        return next(self._values)

    def count_by_client(self) -> list[int]:
        """Return how many requests of each client were stored."""
        return [sum(post.stored is True for post in tuple(posts)) for posts in self._posts]

    def _run(self, number: int) -> None:
        rng = random.Random(f"{self._seed} {number}")
        client = Client(self._addresses[number % len(self._addresses)])
        try:
            while self._take_turn(number):
                self._post(client, rng, number)
                self._stop.wait(rng.uniform(0, PAUSE_S))
        except BaseException as e:    # told by `check` in the main thread
            self._failures.append(e)

    def _take_turn(self, number: int) -> bool:
        """Begin the next round once the others are near; False at the end."""
        with self._turn:
            self._rounds[number] += 1
            self._turn.notify_all()
            while self._rounds[number] > min(self._rounds) + AHEAD_MAX and not self._stop.is_set():
                self._turn.wait()
        return not self._stop.is_set()

    def _post(self, client: Client, rng: random.Random, number: int) -> None:
        single = rng.random() < 0.3
        metrics = rng.sample(sorted(self._metrics), 1 if single else rng.randint(2, METRICS_PER_POLICY))
        points = {(metric, self._choose_time(rng, number)): float(next(self._values))
                  for metric in metrics for _ in range(rng.randint(1, 3))}
        body: dict[str, list[dict[str, object]]] = {}
        for (metric, ns), value in points.items():
            text = str(numpy.datetime64(ns, "ns")) + "Z"
            body.setdefault(metric, []).append({"timestamp": text, "value": value})
        try:
            if single:
                reply = client.request("POST", f"/v1/metric/{metrics[0]}/measures", body[metrics[0]])
            else:
                reply = client.request("POST", "/v1/batch/metrics/measures", body)
        except NoAnswer as e:
            self._posts[number].append(Post(points, None, e.in_time))
            self._stop.wait(PAUSE_S)
            return
        assert reply.status in (202, 503), f"{reply.status} {reply.body}"
        if reply.status == 503 and not self._refusals_certain:
            self._posts[number].append(Post(points, None, False))
            self._stop.wait(PAUSE_S)
        else:
            self._posts[number].append(Post(points, reply.status == 202, True))

    def _choose_time(self, rng: random.Random, number: int) -> int:
        """Return a timestamp (ns) of this client: of this round, now and then of an earlier one."""
        back = rng.randint(0, AGAIN_MAX) if rng.random() < 0.3 else 0
        second = EPOCH_S + max(1, self._rounds[number] - back) * ROUND_S + number
        return second * 10**9 + second % 7 * 10**8

    # What has to be there

    def verify(self) -> None:
        """Compare what is stored with what was answered.  To be called once the backlog is empty."""
        client = Client(self._addresses[0])
        expected = self._list_candidates()
        stored = {}
        for metric, policy in self._metrics.items():
            series = {method: _read(client, metric, method) for method in METHODS}
            finest = policy.granularities_s[0]
            mine = {second: candidates for (name, second), candidates in expected.items() if name == metric}
            kept = {int(second): value for second, value in series["last"].get(finest, ())}
            _check_points(metric, mine, kept, lambda second, metric=metric: self._tell_history(metric, second))
            stored.update({(metric, second): value for second, value in kept.items()})
            _check_aggregates(metric, policy, series)
        self._check_all_or_nothing(stored)

    def _tell_history(self, metric: str, second: int) -> str:
        """Return what was posted for one point, in order."""
        posts = [(number, post) for number, posts in enumerate(self._posts) for post in posts]
        outcomes = {True: "stored", False: "refused", None: "in doubt"}
        return f"{second}: " + ", ".join(
            f"{value} by client {number}: {outcomes[post.stored]}{'' if post.in_time else ', perhaps late'}"
            for number, post in posts for (name, ns), value in post.points.items()
            if name == metric and ns // 10**9 == second)

    def _list_candidates(self) -> dict[tuple[str, int], set[float | None]]:
        """Return, by metric and second, the values that may be stored; None means that there may be nothing."""
        found: dict[tuple[str, int], set[float | None]] = {}
        late: dict[tuple[str, int], set[float | None]] = {}
        for post in itertools.chain.from_iterable(self._posts):
            for (metric, ns), value in post.points.items():
                key = metric, ns // 10**9
                if post.stored:
                    found[key] = {value} | late.get(key, set())
                elif post.stored is None:
                    found.setdefault(key, {None}).add(value)
                    if not post.in_time:
                        late.setdefault(key, set()).add(value)
        return found

    def _check_all_or_nothing(self, stored: dict[tuple[str, int], float]) -> None:
        """Of a request without an answer, either all points are there or none, but for those posted again later."""
        later: set[tuple[str, int]] = set()
        for posts in self._posts:
            for post in reversed(posts):
                kept = {stored.get((metric, ns // 10**9)) == value
                        for (metric, ns), value in post.points.items() if (metric, ns) not in later}
                assert post.stored is not None or not post.in_time or len(kept) < 2, f"half a request: {post}"
                if post.stored is not False:
                    later.update(post.points)


def _read(client: Client, metric: str, method: str) -> dict[float, list[tuple[float, float]]]:
    """Return (second, value) pairs by granularity."""
    series: dict[float, list[tuple[float, float]]] = {}
    for text, granularity, value in client.read(metric, method):
        at = numpy.datetime64(text.removesuffix("+00:00"), "s").astype(int)
        series.setdefault(granularity, []).append((int(at), value))
    return series


def _check_points(metric: str, expected: dict[int, set[float | None]], kept: dict[int, float],
                  tell_history: Callable[[int], str]) -> None:
    invented = {second: value for second, value in kept.items() if value not in expected.get(second, ())}
    histories = [tell_history(second) for second in itertools.islice(invented, 5)]
    assert not invented, f"metric {metric} has what nobody posted, or what was replaced: {invented}; {histories}"
    lost = {second: values for second, values in expected.items() if None not in values and second not in kept}
    assert not lost, f"metric {metric} has lost what was acknowledged: {lost}"


def _check_aggregates(metric: str, policy: Policy, series: dict[str, dict[float, list[tuple[float, float]]]]) -> None:
    """Compare every aggregate with those of the points, which are those of the finest granularity."""
    points = numpy.array(series["last"].get(policy.granularities_s[0], []), float).reshape(-1, 2)
    for width in policy.granularities_s:
        starts, first, counts = numpy.unique(points[:, 0] // width * width, return_index=True, return_counts=True)
        sums = numpy.add.reduceat(points[:, 1], first) if len(first) else points[:, 1]
        columns = {"count": counts, "sum": sums, "last": points[first + counts - 1, 1], "mean": sums / counts}
        for method, column in columns.items():
            found = series[method].get(width, [])
            expected = list(zip(starts.tolist(), column.tolist(), strict=True))
            assert expected == found, f"metric {metric}: {method} of {width} s: {_differ(expected, found)}"


def _differ(expected: Iterable[tuple[float, float]], found: Iterable[tuple[float, float]]) -> str:
    return f"expected {sorted(set(expected) - set(found))[:5]}, found {sorted(set(found) - set(expected))[:5]}"
