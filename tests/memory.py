"""The real SDK, in memory: what a test reads in place of a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import assisters_otel
import leaks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExportResult


_RESOURCE = (
    Resource.create()
)  # looks for installed detectors: 2 ms, and each test would do it twice


class _Spans(InMemorySpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            leaks.look_at_span(span)
        return super().export(spans)


def is_of_http(span: Any) -> bool:
    """Return True if it is an HTTP client span, whoever has made it."""
    if span.instrumentation_scope.name.endswith(("httpx", "requests", "aiohttp_client")):
        return True
    if span.instrumentation_scope.name != "assisters_otel":
        return False
    told = (span.attributes or {}).keys()
    if told & {"assisters.call.outcome", "assisters.retry.count"}:
        return False
    # A limit may have dropped what was written first.
    return "http.request.method" in told or span.name.partition(" ")[0].isupper()


def url_of(span: Any) -> str:
    """Return the URL of an HTTP client span, in whichever mode of the conventions it is made."""
    return str(span.attributes.get("url.full") or span.attributes["http.url"])


class Memory:
    def __init__(self, **tracing: Any) -> None:
        self._spans = _Spans()
        self.tracer_provider = TracerProvider(
            **{"resource": _RESOURCE, **tracing}, shutdown_on_exit=False
        )
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self._reader], _RESOURCE, shutdown_on_exit=False)

    def spans(self) -> list[Any]:
        return list(self._spans.get_finished_spans())

    def attempts(self) -> list[Any]:
        """The client spans of HTTP requests, in the order in which they ended."""
        return [span for span in self.spans() if is_of_http(span)]

    def calls(self) -> list[Any]:
        """Our spans around SDKs' calls, in the order in which they ended."""
        return [
            span
            for span in self.spans()
            if span.instrumentation_scope.name == "assisters_otel" and not is_of_http(span)
        ]

    def call(self) -> Any:
        (span,) = self.calls()
        return span

    def clear(self) -> None:
        self._spans.clear()

    def attempt(self) -> Any:
        (span,) = self.attempts()
        return span

    def collect(self) -> dict[str, list[dict[str, Any]]]:
        """The points of each metric: attributes, ``value`` or ``count`` and ``sum``, exemplars."""
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        leaks.look_at_points(metric.name, point.attributes)
                        for exemplar in getattr(point, "exemplars", ()):
                            leaks.look_at_points(metric.name, exemplar.filtered_attributes or {})
        return {
            metric.name: [
                {
                    **point.attributes,
                    "value": getattr(point, "value", None),
                    "count": getattr(point, "count", None),
                    "sum": getattr(point, "sum", None),
                    "exemplars": list(getattr(point, "exemplars", ())),
                }
                for point in metric.data.data_points
            ]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[dict[str, Any]]:
        return self.collect().get(name, [])

    def point(self, name: str) -> dict[str, Any]:
        (point,) = self.points(name)
        return point

    def shutdown(self) -> None:
        self.collect()  # which looks for what must not be there
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def watching(api: Any, memory: Memory, **options: Any) -> Any:
    """Switch on for an API or a URL, strictly, and record in *memory*. Used by ``with``."""
    return assisters_otel.init(
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        **{"hosts": [getattr(api, "url", api)], "strict": True, **options},
    )
