"""Providers of our own, from the standard ``OTEL_*`` variables, for an app that has none.

What is built here exports by the SDK's own exporters, says once when nobody takes the
telemetry, ends within a time that is given, and counts right in a forked process. No
global is set and nothing is registered to run at exit: that is the caller's.
"""

from __future__ import annotations

import logging
import uuid
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider

from assisters_otel.providers.entry_points import configurator, id_generator, sampler
from assisters_otel.providers.exporter_logs import ExporterLogFilter
from assisters_otel.providers.exporter_specs import exporter_specs
from assisters_otel.providers.exporters import (
    ForkSafeExporter,
    ForkSafeMetricExporter,
    QueueReportingSpanProcessor,
    QuietMetricReader,
)
from assisters_otel.providers.otlp_settings import OtlpArguments
from assisters_otel.providers.owned_providers import (
    OUR_SCOPES,
    OwnedProviders,
    WatchedMeterProvider,
    _Pipeline,
)
from assisters_otel.providers.signals import METRICS, TRACES
from assisters_otel.providers.workers import DaemonWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from assisters_otel.providers.delivery import Receiver
    from assisters_otel.providers.entry_points import Tell
    from assisters_otel.providers.exporter_specs import ExporterSpec


def build_providers(  # noqa: PLR0913 - by name, as in `init`
    *,
    traces: bool,
    metrics: bool,
    service_name: str | None,
    endpoint: str | None,
    headers: Mapping[str, str] | None,
    protocol: str | None,
    tell: Tell | None = None,
) -> OwnedProviders:
    """Build providers from the standard variables, through the SDK's exporter entry points.

    An argument wins over the variables. An endpoint, headers or a protocol mean OTLP,
    also where ``OTEL_TRACES_EXPORTER`` lists others; only ``none`` stays none: a
    provider without an exporter, whose spans still have ids and reach the next service.

    Args:
        traces: Whether to build a tracer provider.
        metrics: Whether to build a meter provider.
        service_name: Wins over ``OTEL_SERVICE_NAME``.
        endpoint: A base URL, ``http://localhost:4318``; for HTTP, ``/v1/traces`` and
            ``/v1/metrics`` are appended.
        headers: For OTLP. Win over those of the variables.
        protocol: ``http/protobuf`` or ``grpc``.
        tell: Gets what is wrong with a variable and what was taken instead, where something can be.

    Raises:
        ValueError: An argument or a variable cannot be used; the message says what to
            write. Nothing is left behind, no thread either.
    """
    arguments = OtlpArguments(endpoint, headers, protocol)
    spans = exporter_specs(TRACES, arguments, tell) if traces else ()
    points = exporter_specs(METRICS, arguments, tell) if metrics else ()
    configured = configurator("meter", tell) if metrics else {}
    reaches: dict[str, Receiver] = {}
    hush = ExporterLogFilter(ForkSafeExporter.send.__code__)
    resource = _resource(service_name)

    def renewed(known: Resource | None) -> _Pipeline[MeterProvider]:
        pushed = tuple(route for route in points if not issubclass(route.kind, MetricReader))
        told = known or _resource(service_name, other_than=resource)
        return _meters(pushed, reaches, told, configured)

    with ExitStack() as undo:
        hush.install()
        undo.callback(hush.remove)
        tracers = meters = None
        if traces:
            tracers = _tracers(spans, reaches, resource, tell)
            undo.callback(_discard, tracers)
        if metrics:
            meters = _meters(points, reaches, resource, configured)
        undo.pop_all()
    texts = [route.text for route in (*spans, *points)]
    texts += ["traces: none"] if traces and not spans else []
    texts += ["metrics: none"] if metrics and not points else []
    return OwnedProviders(
        tracers=tracers,
        meters=meters,
        renew=renewed,
        hush=hush,
        reaches=reaches.values(),
        destinations=tuple(texts),
    )


def _resource(service_name: str | None, other_than: Resource | None = None) -> Resource:
    named = {SERVICE_NAME: service_name} if service_name else {}
    with _detectors_are_quiet():
        resource = _encodable(Resource.create(named))
    taken = other_than and other_than.attributes.get(SERVICE_INSTANCE_ID)
    if resource.attributes.get(SERVICE_INSTANCE_ID) in {None, taken}:
        # OTEL_RESOURCE_ATTRIBUTES names one instance, and a forked process is another.
        resource = resource.merge(Resource({SERVICE_INSTANCE_ID: str(uuid.uuid4())}))
    return resource


@contextmanager
def _detectors_are_quiet() -> Iterator[None]:
    """Keep from the log what `variables` says of OTEL_RESOURCE_ATTRIBUTES.

    The SDK reads it in threads of its own, where `variables.corrected` does not reach.
    """

    def is_news(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Invalid key value resource attribute pair")

    logger = logging.getLogger("opentelemetry.sdk.resources")
    logger.addFilter(is_news)
    try:
        yield
    finally:
        logger.removeFilter(is_news)


def _encodable(resource: Resource) -> Resource:
    """Replace what is no text, from a variable that is not in UTF-8: it would lose every batch."""

    def clean(value: AttributeValue) -> AttributeValue:
        return value.encode(errors="replace").decode() if isinstance(value, str) else value

    cleaned = {str(clean(key)): clean(value) for key, value in resource.attributes.items()}
    return resource if cleaned == resource.attributes else Resource(cleaned, resource.schema_url)


def _tracers(
    spans: Sequence[ExporterSpec],
    reaches: dict[str, Receiver],
    resource: Resource,
    tell: Tell | None,
) -> _Pipeline[TracerProvider]:
    chosen, ids = sampler(tell), id_generator(tell)
    make = partial(cast("Callable[..., TracerProvider]", TracerProvider), chosen, resource)
    configured = configurator("tracer", tell)
    with ExitStack() as undo:
        couriers = []
        for route in spans:
            destination = route.destination(TRACES, reaches)
            couriers.append(ForkSafeExporter(route.span_exporter, destination))
            undo.callback(couriers[-1].end)
        with _explain_sdk_errors():
            provider = make(shutdown_on_exit=False, id_generator=ids, **configured)
            for courier in couriers:
                provider.add_span_processor(QueueReportingSpanProcessor(courier))
        undo.pop_all()
    return _Pipeline(provider, couriers, DaemonWorker())


def _meters(
    points: Sequence[ExporterSpec],
    reaches: dict[str, Receiver],
    resource: Resource,
    configured: Mapping[str, Callable[..., object]],
) -> _Pipeline[MeterProvider]:
    with _explain_sdk_errors():
        # It refuses a variable before a thread runs.
        MeterProvider(resource=resource, shutdown_on_exit=False)
    with ExitStack() as undo:
        couriers = []
        readers: list[MetricReader] = []
        for route in points:
            if issubclass(route.kind, MetricReader):
                readers.append(route.metric_reader())
                undo.callback(readers[-1].shutdown)
            else:
                destination = route.destination(METRICS, reaches)
                couriers.append(ForkSafeExporter(route.metric_exporter, destination))
                undo.callback(couriers[-1].end)
        with _explain_sdk_errors():
            readers += [
                QuietMetricReader(ForkSafeMetricExporter(courier, OUR_SCOPES))
                for courier in couriers
            ]
            provider = WatchedMeterProvider(readers, resource, configured)
        undo.pop_all()
    return _Pipeline(provider, couriers, DaemonWorker())


def _discard(part: _Pipeline[TracerProvider]) -> None:
    part.provider.shutdown()
    part.hand.rest()


@contextmanager
def _explain_sdk_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"the SDK refuses a variable: {error} Look at OTEL_BSP_*, OTEL_SPAN_*, "
            "OTEL_METRIC_EXPORT_INTERVAL and OTEL_METRICS_EXEMPLAR_FILTER"
        ) from error
