"""`/v1/batch`: measures of many metrics in one request."""

from collections.abc import Iterable, Sequence

import numpy
import pecan

from gnocchi import metric_ids
from gnocchi.exceptions import ClientError, NoSuchMetric, NoSuchResource
from gnocchi.ingest.batch import NamedBatch, WantedMetric
from gnocchi.rest import arguments, errors, formats, measures
from gnocchi.rest.controllers.measures import accept_measures
from gnocchi.rest.ingest import POST, RequestGuard, looks_at
from gnocchi.rest.named_measures import decode_named_batch
from gnocchi.rest.request import Request


class MetricsMeasuresController:
    """`/v1/batch/metrics/measures`."""

    def post(self) -> None:
        request = pecan.request
        body = request.read_body()
        with request.services.turns.decoding(len(body)):
            batch = measures.decode_batch(body)
        wanted = numpy.unique(batch.metric_ids)
        if looks_at(request, POST, formats.CREATOR_KEYS):
            _check_by_creator(request, wanted)
        else:
            _check_one_by_one(request, wanted)
        accept_measures(request, pecan.response, batch)


class ResourcesMetricsMeasuresController:
    """`/v1/batch/resources/metrics/measures`."""

    def post(self) -> None:
        request = pecan.request
        create = arguments.read_bool(request, "create_metrics", default=False)
        body = request.read_body()
        with request.services.turns.decoding(len(body)):
            batch = decode_named_batch(body, request.identity.creator)
        request.services.finder.write_measures(batch, request.identity.creator, BatchGuard(request, batch),
                                                 create=create)
        pecan.response.status = 202


class BatchGuard(RequestGuard):
    """Tells all that is missing at once."""

    def __init__(self, request: Request, batch: NamedBatch) -> None:
        super().__init__(request)
        self._batch = batch

    def check_refusals(self, refused: Sequence[tuple[WantedMetric, ClientError]]) -> None:
        unknown = {wanted.resource_id for wanted, error in refused if isinstance(error, NoSuchResource)}
        if unknown:
            raise errors.RequestError(400, {"cause": "Unknown resources", "detail": [
                {"resource_id": str(id), "original_resource_id": resource.original_id}
                for id, resource in self._batch.resources.items() if id in unknown]})
        metrics = [error.metric for _, error in refused if isinstance(error, NoSuchMetric)]
        if metrics:
            _refuse(metrics)
        super().check_refusals(refused)


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
