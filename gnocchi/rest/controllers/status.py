"""`/v1/status`."""

import itertools
import uuid
from typing import Any

import pecan

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import BacklogReport
from gnocchi.indexer import Parked
from gnocchi.indexer.statistics import ProcessStatistics
from gnocchi.processing.members import list_processors
from gnocchi.processing.statistics import API, JANITOR, METRICD, list_living, sum_refused
from gnocchi.rest import arguments, errors
from gnocchi.rest.request import Request

#: Damaged packs that are listed one by one.
PACKS_MAX = 100


class StatusController:
    def get(self) -> dict[str, Any]:
        request = pecan.request
        request.enforce("get status")
        details = arguments.read_bool(request, "details", default=True)
        health = request.services.health.check()
        try:
            for name in ("index", "incoming"):
                if (reason := health[name]) is not None:
                    raise BackendUnavailable(reason)
            backlog = _report_backlog(request, details)
            damage = _report_damage(request, details)
            processors = _list_processors(request) if health["coordination"] is None else None
            statistics = list_living(request.services.indexer, processors)
        except BackendUnavailable as e:
            raise errors.RequestError(503, f"Unable to generate status. Please retry. {e}") from e
        storage: dict[str, Any] = {"summary": {"metrics": backlog.metrics, "measures": backlog.bundles}}
        if backlog.bundles_by_metric is not None:
            storage["measures_to_process"] = backlog.bundles_by_metric
        status = {"storage": storage,
                  "metricd": {"processors": processors, "statistics": _select_service(statistics, METRICD)},
                  "damage": damage,
                  "backends": {name: {"available": reason is None, "reason": reason}
                               for name, reason in health.items()}}
        if details:
            status["janitor"] = {"statistics": _select_service(statistics, JANITOR)}
            status["api"] = {"statistics": _select_service(statistics, API)}
            status["refused_measures"] = sum_refused(statistics)
        return status


def _report_backlog(request: Request, details: bool) -> BacklogReport:
    services = request.services
    checkpoints = {sack.number: sack.checkpoint for sack in services.indexer.list_sacks()}
    return services.incoming.report_backlog(checkpoints, details)


def _report_damage(request: Request, details: bool) -> dict[str, Any]:
    """Packs that cannot be read or processed, told by the measures that are parked for them."""
    by_pack: dict[uuid.UUID, list[Parked]] = {}
    for row in request.services.indexer.list_parked():
        by_pack.setdefault(row.pack_id, []).append(row)
    damage: dict[str, Any] = {"packs": len(by_pack),
                              "parked_measures": sum(row.measures for rows in by_pack.values() for row in rows)}
    if details:
        damage["parked"] = [
            {"pack": str(pack_id), "sack": rows[0].sack, "measures": sum(row.measures for row in rows),
             "since": f"{min(row.parked_at for row in rows).isoformat()}+00:00",
             "attempts": max(row.attempts for row in rows), "reason": rows[0].reason}
            for pack_id, rows in itertools.islice(sorted(by_pack.items()), PACKS_MAX)]
    return damage


def _list_processors(request: Request) -> list[str] | None:
    """Who works; not known while the coordination service is away, which must not hide the backlog."""
    try:
        return list_processors(request.services.coordinator)
    except BackendUnavailable:
        return None


def _select_service(statistics: list[ProcessStatistics], service: str) -> dict[str, dict[str, float]]:
    return {row.process: row.counters for row in statistics if row.service == service}
