"""`/v1/status`."""

from typing import Any

import pecan

from gnocchi.exceptions import BackendUnavailable
from gnocchi.incoming import BacklogReport
from gnocchi.processing.members import MembersReport, report_members
from gnocchi.rest import arguments, errors
from gnocchi.rest.request import Request


class StatusController:
    @pecan.expose("json")
    def get(self) -> dict[str, Any]:
        request = pecan.request
        request.enforce("get status")
        details = arguments.read_bool(request, "details", default=True)
        try:
            backlog = _report_backlog(request, details)
        except BackendUnavailable as e:
            raise errors.RequestError(503, f"Unable to generate status. Please retry. {e}") from e
        members = _report_members(request)
        storage: dict[str, Any] = {"summary": {"metrics": backlog.metrics, "measures": backlog.bundles}}
        if backlog.bundles_by_metric is not None:
            storage["measures_to_process"] = backlog.bundles_by_metric
        return {"storage": storage,
                "metricd": {"processors": members.processors, "statistics": members.statistics}}


def _report_backlog(request: Request, details: bool) -> BacklogReport:
    services = request.services
    checkpoints = {sack.number: sack.checkpoint for sack in services.indexer.list_sacks()}
    return services.incoming.report_backlog(checkpoints, details)


def _report_members(request: Request) -> MembersReport:
    """Who works; not known while the coordination service is away, which must not hide the backlog."""
    try:
        return report_members(request.services.coordinator)
    except BackendUnavailable:
        return MembersReport(None, {})
