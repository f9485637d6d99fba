"""`/v1/batch`: measures of many metrics in one request."""

import pecan

from gnocchi import metric_ids
from gnocchi.rest import errors, formats, measures
from gnocchi.rest.controllers.measures import accept_measures


class MetricsMeasuresController:
    """`/v1/batch/metrics/measures`."""

    @pecan.expose("json")
    def post(self) -> None:
        request = pecan.request
        batch = measures.decode_batch(request.read_body())
        wanted = set(metric_ids.unpack_ids(batch.metric_ids))
        metrics = request.services.indexer.list_metrics_by_id(list(wanted))
        unknown = wanted - {metric.id for metric in metrics}
        if unknown:
            raise errors.RequestError(400, f"Unknown metrics: {', '.join(sorted(map(str, unknown)))}")
        for metric in metrics:
            request.enforce("post measures", formats.metric_target(metric))
        accept_measures(request, pecan.response, batch)
