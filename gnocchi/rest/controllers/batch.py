"""`/v1/batch`: measures of many metrics in one request."""

from collections.abc import Iterable

import numpy
import pecan

from gnocchi import metric_ids
from gnocchi.rest import errors, formats, measures
from gnocchi.rest.controllers.measures import accept_measures
from gnocchi.rest.request import Request

POST = "post measures"


class MetricsMeasuresController:
    """`/v1/batch/metrics/measures`."""

    @pecan.expose("json")
    def post(self) -> None:
        request = pecan.request
        body = request.read_body()
        with request.services.turns.decoding(len(body)):
            batch = measures.decode_batch(body)
        wanted = numpy.unique(batch.metric_ids)
        names = request.services.policy.names_in(POST)
        if names is not None and names <= formats.CREATOR_KEYS:
            _check_by_creator(request, wanted)
        else:
            _check_one_by_one(request, wanted)
        accept_measures(request, pecan.response, batch)


def _check_by_creator(request: Request, wanted: numpy.ndarray) -> None:
    """Check metrics, shape (m,), `S16`, of which the policy looks at the creator only: ask once for each creator.

    Fast path, 1 us for each metric instead of 20.
    """
    found, creators = request.services.indexer.list_metric_creators(wanted)
    if len(found) < len(wanted):
        known = set(metric_ids.unpack_ids(found))
        _refuse(metric_id for metric_id in metric_ids.unpack_ids(wanted) if metric_id not in known)
    for creator in creators:
        request.enforce(POST, formats.format_creator(creator))


def _check_one_by_one(request: Request, wanted: numpy.ndarray) -> None:
    ids = metric_ids.unpack_ids(wanted)
    metrics = request.services.indexer.list_metrics_by_id(ids)
    known = {metric.id for metric in metrics}
    if len(known) < len(ids):
        _refuse(metric_id for metric_id in ids if metric_id not in known)
    for metric in metrics:
        request.enforce(POST, formats.metric_target(metric))


def _refuse(unknown: Iterable[object]) -> None:
    raise errors.RequestError(400, f"Unknown metrics: {', '.join(sorted(map(str, unknown)))}")
