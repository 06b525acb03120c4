"""Records the demo's telemetry in memory, and exports it if an endpoint is configured."""

from __future__ import annotations

from os import environ
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from assisters_otel.cli.doctor import delivery
from assisters_otel.providers.build import build_providers
from assisters_otel.providers.signals import METRICS, TRACES
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric
    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.providers.signals import Signal

SERVICE: Final = "assisters-otel-demo"
"""The name of the demo's service in the backend."""

_SHUTDOWN_S: Final = 5.0
"""The limit of the last export, as long as an app's exit may take."""


class Recording:
    """Providers that record in memory; a signal with an endpoint is exported as well.

    Args:
        endpoint: The base URL of an OTLP receiver. None means the endpoint in the
            variables ``OTEL_EXPORTER_OTLP_*``. Without that one nothing is sent.

    Attributes:
        tracer_provider: The provider of the clients' spans.
        meter_provider: The provider of the library's metrics.
        destinations: Where telemetry is sent, in words; empty if nowhere.

    Raises:
        ValueError: The endpoint or a variable cannot be used.
    """

    def __init__(self, endpoint: str | None) -> None:
        traces, metrics = (_is_sent(signal, endpoint) for signal in (TRACES, METRICS))
        self._exports = None
        if traces or metrics:
            self._exports = build_providers(
                traces=traces,
                metrics=metrics,
                service_name=SERVICE,
                endpoint=endpoint,
                headers=None,
                protocol=None,
            )
        built = self._exports
        resource = Resource.create({SERVICE_NAME: SERVICE})
        self.tracer_provider = (built and built.tracer_provider) or TracerProvider(
            resource=resource, shutdown_on_exit=False
        )
        self.meter_provider = (built and built.meter_provider) or MeterProvider(
            resource=resource, shutdown_on_exit=False
        )
        self.destinations = built.destinations if built else ()
        # OTEL_TRACES_SAMPLER is for an app's traces. The demo shows all of its own.
        self.tracer_provider.sampler = ALWAYS_ON
        self._spans = InMemorySpanExporter()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meter_provider.add_metric_reader(self._reader)

    def spans(self) -> list[ReadableSpan]:
        """Return every span that has ended, the earliest start first."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    def metrics(self) -> tuple[Metric, ...]:
        """Return the current points of the library's own metrics."""
        data = self._reader.get_metrics_data()
        return tuple(
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            if scope.scope.name == names.SCOPE
            for metric in scope.metrics
        )

    def end(self) -> bool | None:
        """Export what is left, and shut the exporting providers down.

        Returns:
            True if all of it was accepted, None if nothing was to be sent.
        """
        return self._exports.shutdown(_SHUTDOWN_S) if self._exports else None


def _is_sent(signal: Signal, endpoint: str | None) -> bool:
    """Return True if the user has named an endpoint for the signal.

    Raises:
        ValueError: The signal's exporter is ``console``, which prints.
    """
    if not delivery.has_endpoint(signal, endpoint, environ):
        return False
    if "console" in environ.get(signal.exporter, ""):
        raise ValueError(
            f"{signal.exporter}: 'console' would print between the lines of the demo. Write 'otlp'"
        )
    return True
