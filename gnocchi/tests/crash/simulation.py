"""metricd in simulated time: real workers, janitors and readers as coroutines on one thread, under one seed.

Whenever a process talks to a back end it gives way, and whoever is due next goes on: so any order of
events between processes can happen, and the same seed gives the same one.  A call may fail before or after
it took effect; a process may be frozen for longer than its locks live, or die.
"""

import contextlib
import random
import types
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import greenlet
import tooz
from tooz.coordination import GroupNotCreated

from gnocchi.exceptions import BackendUnavailable

#: Seconds after which the coordination service takes the locks of a session that gives no sign of life.
LEASE_S = 30.0
LATENCY_S_MAX = 0.02
#: How often is looked at whether what is waited for has come.
LOOK_S = 0.5
FREEZE_S_MAX = 90.0
#: Chances of faults at each call to a back end, while there are any.
FAILURE, FREEZE, DEATH = 0.02, 0.004, 0.003

#: Calls that change nothing: they fail before they happen, or not at all.
READ_PREFIXES = ("get", "list", "count", "read", "report")


class Task:
    """A process.  wakes_at : when it goes on;  session : of the coordination service"""

    def __init__(self, name: str, run: Callable[["Task"], None], mortal: bool) -> None:
        self.name = name
        self.run = run
        self.mortal = mortal
        self.wakes_at = 0.0
        self.dead = False
        self.session: Session | None = None
        self.thread = greenlet.greenlet(lambda: run(self))


class Session:
    """What the coordination service knows of a process; its locks are free after `expires_at`.

    dead_s, frozen_s : seconds after which they are when it has died, or gives no sign of life
    """

    def __init__(self, dead_s: float = LEASE_S, frozen_s: float = LEASE_S) -> None:
        self.dead_s = dead_s
        self.frozen_s = frozen_s
        self.expires_at = float("inf")
        #: When the process will notice that it has expired.
        self.noticed_at = float("inf")


class Simulation:
    """The clock, who runs, and what goes wrong."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.faulty = True
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self.clock = types.SimpleNamespace(
            time=lambda: self.now, monotonic=lambda: self.now, time_ns=lambda: int(self.now * 1e9))
        self.events: list[str] = []

    def start(self, name: str, run: Callable[[Task], None], mortal: bool = True) -> None:
        task = Task(name, run, mortal)
        task.wakes_at = self.now + self.rng.random()
        self.tasks.append(task)

    def run(self, until: Callable[[], bool], deadline: float) -> None:
        """Let everybody work until a condition holds.  Raises AssertionError at the deadline."""
        looked_at = 0.0
        while True:
            if self.now > looked_at + LOOK_S:
                if until():
                    return
                looked_at = self.now
            task = min(self.tasks, key=lambda task: task.wakes_at)
            assert task.wakes_at <= deadline, f"not done at {deadline}: {self.events[-20:]}"
            self.now = max(self.now, task.wakes_at)
            self.current = task
            task.thread.switch()
            self.current = None
            if task.thread.dead and not task.dead:
                self.tasks.remove(task)    # its work is done

    def sleep(self, seconds: float) -> None:
        """Give way to others for a while; whoever is killed meanwhile never goes on."""
        task = self.current
        if task is None or task.dead:
            return
        task.wakes_at = self.now + seconds
        task.thread.parent.switch()
        if task.session is not None and task.session.expires_at < self.now and task.session.noticed_at > self.now:
            task.session.noticed_at = self.now + self.rng.random()

    def meet_fault(self) -> None:
        """What may befall a process whenever it talks to somebody."""
        task = self.current
        if task is None or task.dead:
            return
        chance = self.rng.random() if self.faulty and task.mortal else 1.0
        if chance < DEATH:
            self._kill(task)
        elif chance < DEATH + FREEZE:
            seconds = self.rng.uniform(1.0, FREEZE_S_MAX)
            self.events.append(f"{self.now:.2f} {task.name} is frozen for {seconds:.1f} s")
            if task.session is not None:
                task.session.expires_at = min(task.session.expires_at, self.now + task.session.frozen_s)
            self.sleep(seconds)
            if task.session is not None and task.session.expires_at > self.now:
                task.session.expires_at = float("inf")
        else:
            self.sleep(self.rng.random() * LATENCY_S_MAX)

    def _kill(self, task: Task) -> None:
        """End the current process here and now, and start another one in its place a second later."""
        self.events.append(f"{self.now:.2f} {task.name} dies")
        task.dead = True
        if task.session is not None:
            task.session.expires_at = min(task.session.expires_at, self.now + task.session.dead_s)
        self.tasks.remove(task)
        self.start(task.name, task.run)
        self.tasks[-1].wakes_at = self.now + 1.0
        raise greenlet.GreenletExit    # what it unwinds can no longer reach anybody

    def wrap(self, target: Any) -> Any:
        """Return a back end that takes time, and fails."""
        return _Remote(self, target)

    def call(self, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        if self.current is not None and self.current.dead:
            raise greenlet.GreenletExit
        self.meet_fault()
        if self.fails():
            raise BackendUnavailable(f"{function.__name__}: away")
        result = function(*arguments, **keywords)
        if not function.__name__.startswith(READ_PREFIXES):
            self.meet_fault()
            if self.fails():
                raise BackendUnavailable(f"{function.__name__}: the answer was lost")
        return list(result) if isinstance(result, Iterator) else result

    def fails(self) -> bool:
        return self.faulty and self.current is not None and self.rng.random() < FAILURE


class _Remote:
    def __init__(self, simulation: Simulation, target: Any) -> None:
        self._simulation = simulation
        self._target = target

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._target, name)
        if not callable(function):
            return function

        def call(*arguments: Any, **keywords: Any) -> Any:
            return self._simulation.call(function, *arguments, **keywords)

        return call


class CoordinationService:
    """Locks and members.

    kind : "leases": forgets sessions after a while, members too; "files": frees a dead process's locks at once, and
        never forgets a member; "no groups"; "liar": grants everything to everybody and names nobody else
    """

    KINDS = ("leases", "files", "no groups", "liar")

    def __init__(self, simulation: Simulation, kind: str) -> None:
        self.simulation = simulation
        self.kind = kind
        self.holders: dict[bytes, Session] = {}
        self.members: dict[bytes, Session] = {}

    def open_session(self) -> Session:
        return Session(0.0, float("inf")) if self.kind == "files" else Session()

    def is_alive(self, session: Session) -> bool:
        return session.expires_at > self.simulation.now

    def is_free(self, name: bytes) -> bool:
        return self.kind == "liar" or name not in self.holders or not self.is_alive(self.holders[name])


class SimulatedCoordinator:
    """One process's side of it, as gnocchi.processing.locks.Coordinator."""

    def __init__(self, service: CoordinationService, task: Task) -> None:
        self._service = service
        self._simulation = service.simulation
        self.member_id = f"{task.name}-{uuid.UUID(int=service.simulation.rng.getrandbits(128))}".encode()
        self._task = task
        self._session = task.session = service.open_session()
        self.locks_max = service.simulation.rng.choice((1, 64))

    @property
    def expires_members(self) -> bool:
        return self._service.kind != "files"

    @property
    def lost(self) -> bool:
        if self._session.noticed_at > self._simulation.now:
            return False
        # The thread that gives signs of life opens another session: with the next round all goes on.
        self._session = self._task.session = self._service.open_session()
        return True

    def call(self, method: str, *arguments: Any) -> Any:
        return self._simulation.call(getattr(self, f"_{method}"), *arguments)

    def _get_members(self, group: bytes) -> list[bytes]:
        kind = self._service.kind
        if kind == "no groups":
            raise tooz.NotImplemented
        if kind == "liar":
            return [self.member_id]
        if not self._service.members:
            raise GroupNotCreated(group)
        return [member for member, session in self._service.members.items()
                if kind == "files" or self._service.is_alive(session)]

    def _create_group(self, group: bytes) -> None:
        return

    def _join_group(self, group: bytes, capabilities: dict) -> None:
        self._service.members[self.member_id] = self._session

    def _update_capabilities(self, group: bytes, capabilities: dict) -> None:
        return

    def acquire(self, name: bytes) -> bytes | None:
        holder = self._service.holders.get(name)
        try:
            return self._simulation.call(self._acquire, name)
        except BackendUnavailable:
            if self._service.holders.get(name) is not holder:
                # The answer was lost: nobody keeps that lock alive.
                self._service.holders[name] = forgotten = Session()
                forgotten.expires_at = self._simulation.now + LEASE_S
            raise

    def _acquire(self, name: bytes) -> bytes | None:
        if not self._service.is_free(name):
            return None
        self._service.holders[name] = self._session
        return name

    def release(self, lock: bytes) -> None:
        if not self._task.dead and self._service.holders.get(lock) is self._session:
            del self._service.holders[lock]

    @contextlib.contextmanager
    def try_lock(self, name: bytes) -> Iterator[bool]:
        lock = self.acquire(name)
        try:
            yield lock is not None
        finally:
            if lock is not None:
                self.release(lock)
