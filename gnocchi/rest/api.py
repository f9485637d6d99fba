"""The table of routes."""

import importlib.metadata
from typing import Any

import pecan

from gnocchi.rest import errors, headers, routing
from gnocchi.rest.controllers import (
    aggregates,
    aggregation,
    archive_policy,
    archive_policy_rule,
    batch,
    capabilities,
    influxdb,
    measures,
    metric,
    otlp,
    prometheus,
    resource,
    resource_type,
    search,
    status,
)
from gnocchi.rest.request import Request

BUILD = importlib.metadata.version("gnocchi")
VERSION = {"id": "v1.0", "status": "CURRENT", "updated": "2015-03-19"}


class VersionsDocument:
    """`/`: which versions there are."""

    def any(self) -> dict[str, Any]:
        self_url = headers.url_for(pecan.request, "v1", "")
        return {
            "build": BUILD,
            "versions": [VERSION | {"links": [{"rel": "self", "href": self_url}]}],
        }


class VersionsController(routing.Routes):
    routes = {"/": VersionsDocument()}


class V1Document:
    """`/v1/`: what there is below."""

    LINKS = ("aggregates", "aggregation", "archive_policy", "archive_policy_rule", "batch", "capabilities", "influxdb",
             "metric", "resource", "resource_type", "search", "status")

    def any(self) -> dict[str, Any]:
        request = pecan.request
        if not request.path_info and request.method == "GET":
            raise errors.RequestError(302, "", {"Location": headers.url_for(request, "")})
        links = [{"rel": "self", "href": headers.url_for(request)}]
        links += [{"rel": name, "href": headers.url_for(request, name)} for name in self.LINKS]
        return {"version": "1.0", "links": links}


class V1Controller(routing.Routes):
    """Everything here needs credentials; `prepare` sees to that before the path is looked at."""

    routes = {
        "/": V1Document(),
        "/aggregates": aggregates.AggregatesController(),
        "/aggregation/metric": aggregation.MetricsAggregationController(),
        "/aggregation/resource": aggregation.PartialController(),
        "/aggregation/resource/{type}": aggregation.PartialController(),
        "/aggregation/resource/{type}/metric": aggregation.PartialController(),
        "/aggregation/resource/{type}/metric/{name}": aggregation.ResourcesAggregationController(),
        "/archive_policy": archive_policy.ArchivePoliciesController(),
        "/archive_policy/{name}": archive_policy.ArchivePolicyController(),
        "/archive_policy_rule": archive_policy_rule.ArchivePolicyRulesController(),
        "/archive_policy_rule/{name}": archive_policy_rule.ArchivePolicyRuleController(),
        "/batch/metrics/measures": batch.MetricsMeasuresController(),
        "/batch/resources/metrics/measures": batch.ResourcesMetricsMeasuresController(),
        "/capabilities": capabilities.CapabilitiesController(),
        "/influxdb/ping": influxdb.PingController(),
        "/influxdb/query": influxdb.QueryController(),
        "/influxdb/write": influxdb.WriteController(),
        "/metric": metric.MetricsController(),
        "/metric/{id}": metric.MetricController(),
        "/metric/{id}/measures": measures.MeasuresController(),
        "/otlp/v1/metrics": otlp.MetricsController(),
        "/prometheus/write": prometheus.WriteController(),
        "/resource": resource.ResourceIndexController(),
        "/resource/{type}": resource.ResourcesController(),
        "/resource/{type}/{id}": resource.ResourceController(),
        "/resource/{type}/{id}/history": resource.HistoryController(),
        "/resource/{type}/{id}/metric": resource.ResourceMetricsController(),
        "/resource/{type}/{id}/metric/{name}": resource.NamedMetricController(),
        "/resource/{type}/{id}/metric/{name}/measures": resource.NamedMeasuresController(),
        "/resource_type": resource_type.ResourceTypesController(),
        "/resource_type/{name}": resource_type.ResourceTypeController(),
        "/search/metric": search.MetricSearchController(),
        "/search/resource": search.NoTypeController(),
        "/search/resource/{type}": search.ResourceSearchController(),
        "/status": status.StatusController(),
    }

    def prepare(self, request: Request) -> None:
        request.environ["gnocchi.identity"] = request.services.auth.identify(request.environ)
