"""Keeps the telemetry of the demo in memory, and sends it to a collector if one is configured."""

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
"""The service's name in the backend."""

_SHUTDOWN_S: Final = 5.0
"""What sending may take at the end, in seconds."""


class Recording:
    """Providers that record in memory; a signal with an endpoint is exported as well.

    Args:
        endpoint: The base URL of an OTLP receiver. None means the variables' endpoint,
            and if there is none, nothing is sent.

    Attributes:
        tracer_provider: For the clients' spans.
        meter_provider: For their metrics.
        destinations: Where telemetry goes, for people; empty if it goes nowhere.

    Raises:
        ValueError: The endpoint, or a variable, cannot be used.
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
        self.tracer_provider.sampler = ALWAYS_ON  # whatever share of an app's traces is kept
        self._spans = InMemorySpanExporter()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._spans))
        self._reader = InMemoryMetricReader()
        self.meter_provider.add_metric_reader(self._reader)

    def spans(self) -> list[ReadableSpan]:
        """Give every span that has ended, the earliest start first."""
        return sorted(self._spans.get_finished_spans(), key=lambda span: span.start_time or 0)

    def metrics(self) -> tuple[Metric, ...]:
        """Give our own metrics as they stand now."""
        data = self._reader.get_metrics_data()
        return tuple(
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            if scope.scope.name == names.SCOPE
            for metric in scope.metrics
        )

    def end(self) -> bool | None:
        """Send what is left.

        Returns:
            Whether all of it was taken, or None if it was to go nowhere.
        """
        return self._exports.shutdown(_SHUTDOWN_S) if self._exports else None


def _is_sent(signal: Signal, endpoint: str | None) -> bool:
    """Say whether a signal has an endpoint; a default one, such as localhost, does not count."""
    if not delivery.has_endpoint(signal, endpoint, environ):
        return False
    if "console" in environ.get(signal.exporter, ""):
        raise ValueError(
            f"{signal.exporter}: 'console' would print between the lines of the demo. Write 'otlp'"
        )
    return True
