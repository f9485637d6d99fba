"""Whether the back ends answer: for `/healthcheck`, `/v1/status` and the log."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import webob
import webob.exc
from oslo_config import cfg
from oslo_middleware import healthcheck
from oslo_middleware.healthcheck.pluginbase import HealthcheckResult

from gnocchi.backends import Backends
from gnocchi.exceptions import BackendUnavailable, GnocchiError

LOG = logging.getLogger(__name__)

#: Seconds for which an answer counts: however often somebody looks, each process asks each back end once in that time.
FRESH_S = 1.0

#: Seconds that a back end may take to answer.
ANSWER_S = 3.0


class Probe:
    """Asks one back end, in a thread, for it may never answer; there is one such thread at most.

    Parameters
    ----------
    name : str
        For the log.
    ask : callable
        Raises what is wrong.
    """

    def __init__(self, name: str, ask: Callable[[], object]) -> None:
        self._name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._done: threading.Event | None = None
        self._begun_at = self._told_at = float("-inf")
        self._reason: str | None = None

    def begin(self) -> None:
        """Have the back end asked, unless it is being asked or what it said is fresh."""
        with self._lock:
            now = time.monotonic()
            if self._done is None and now - self._told_at > FRESH_S:
                self._done, self._begun_at = threading.Event(), now
                threading.Thread(target=self._run, name=f"health of {self._name}", daemon=True).start()

    def finish(self) -> str | None:
        """Return what is wrong, None if nothing is; to be called after `begin`."""
        with self._lock:
            done, begun_at = self._done, self._begun_at
        late = done is not None and not done.wait(max(0.0, begun_at + ANSWER_S - time.monotonic()))
        if late and self._done is done:
            self._tell(f"no answer within {ANSWER_S:g} seconds")
        return self._reason

    def _run(self) -> None:
        reason = None
        try:
            self._ask()
        except GnocchiError as e:
            reason = str(e).partition("\n")[0]
        except Exception as e:
            LOG.exception("Unexpected error")
            reason = f"{type(e).__name__}; see the log of the server"
        self._tell(reason)
        with self._lock:
            done, self._done, self._told_at = self._done, None, time.monotonic()
        assert done is not None
        done.set()

    def _tell(self, reason: str | None) -> None:
        """Note the outcome, and log it if it is another kind than before."""
        with self._lock:
            before, self._reason = self._reason, reason
        if reason is not None and before is None:
            LOG.error("The %s is not available, and requests that need it are answered 503: %s", self._name, reason)
        elif reason is None and before is not None:
            LOG.info("The %s is available again", self._name)


class Health:
    """The back ends of one process.  Makes no thread before it is asked, so that a server may fork before."""

    def __init__(self, backends: Backends) -> None:
        self._backends = backends
        self._probes = {"index": Probe("index", self._ask_index),
                        "incoming": Probe("incoming storage", lambda: backends.incoming.check()),
                        "storage": Probe("storage", lambda: backends.storage_driver.check()),
                        "coordination": Probe("coordination service", self._ask_coordination)}

    def check(self, names: Iterable[str] | None = None) -> dict[str, str | None]:
        """Return what is wrong with each back end (all if no names are given), None if nothing is.

        Takes ANSWER_S at most, and next to nothing when they were asked within FRESH_S.
        """
        probes = {name: self._probes[name] for name in (self._probes if names is None else names)}
        for probe in probes.values():
            probe.begin()
        return {name: probe.finish() for name, probe in probes.items()}

    def _ask_index(self) -> None:
        if not self._backends.indexer.count_sacks():
            raise BackendUnavailable("index: there are no sacks; gnocchi-upgrade has to be run")

    def _ask_coordination(self) -> None:
        if self._backends.coordinator.lost:
            raise BackendUnavailable("Coordination service is away")


class _Check(NamedTuple):
    """A back end as oslo.middleware takes its own checks."""

    name: str
    health: Health

    @property
    def obj(self) -> "_Check":
        return self

    def healthcheck(self, server_port: int) -> HealthcheckResult:
        reason = self.health.check([self.name])[self.name]
        # Who asks needs no credentials, so the reason itself, which may name hosts, is for the log.
        return HealthcheckResult(reason is None, "" if reason is None else f"{self.name} is not available")


class Healthcheck(healthcheck.Healthcheck):
    """oslo.middleware's, with checks of our back ends after those that `[healthcheck] backends` names."""

    def __init__(self, conf: cfg.ConfigOpts, health: Health) -> None:
        super().__init__(webob.exc.HTTPNotFound(), conf)
        self._health = health
        self._names = conf.api.healthcheck_backends
        self._backends: Any = [*self._backends, *(_Check(name, health) for name in self._names)]

    def __call__(self, environ, start_response):
        self._health.check(self._names)     # at once, of which the checks get the outcomes
        return super().__call__(environ, start_response)

    def _make_json_response(self, results: list[HealthcheckResult], healthy: bool) -> tuple[str, str]:
        """Without those that have nothing to tell."""
        return super()._make_json_response([result for result in results if result.reason], healthy)
