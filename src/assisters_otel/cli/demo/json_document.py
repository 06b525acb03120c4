"""The demo as one JSON document, for machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.sdk.metrics.export import NumberDataPoint
from opentelemetry.trace import format_span_id

from assisters_otel.cli.demo.recording import SERVICE
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import DataPointT, Metric
    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.cli.demo.playing import DemoResult, PlayedScene


def document(result: DemoResult) -> dict[str, object]:
    """Return the scenes with their calls and attempts, and the metrics with their points."""
    return {
        "version": __version__,
        "service": SERVICE,
        "ok": not result.problems,
        "problems": result.problems,
        "destinations": result.destinations,
        "sent": result.sent,
        "scenes": [_scene(played) for played in result.played],
        "metrics": [_metric(metric) for metric in result.metrics],
        "log": result.log,
    }


def _scene(played: PlayedScene) -> dict[str, object]:
    return {
        "title": played.scene.title,
        "trace_id": played.trace_id,
        "span_id": format_span_id(played.span.context.span_id),
        "calls": [_span(span) for span in played.calls],
        "attempts": [_span(span) for span in played.attempts],
        "streams": [_span(span) for span in played.streams],
    }


def _span(span: ReadableSpan) -> dict[str, object]:
    return {
        "name": span.name,
        "span_id": format_span_id(span.context.span_id),
        "parent_span_id": format_span_id(span.parent.span_id) if span.parent else None,
        "duration_s": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
        "status": span.status.status_code.name,
        "description": span.status.description,
        "attributes": dict(span.attributes or {}),
        "links": [format_span_id(link.context.span_id) for link in span.links],
    }


def _metric(metric: Metric) -> dict[str, object]:
    return {
        "name": metric.name,
        "unit": metric.unit,
        "points": [_point(point) for point in metric.data.data_points],
    }


def _point(point: DataPointT) -> dict[str, object]:
    attributes = dict(point.attributes or {})
    if isinstance(point, NumberDataPoint):
        return {"attributes": attributes, "value": point.value}
    return {"attributes": attributes, "count": point.count, "sum": point.sum}
