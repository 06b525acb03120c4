"""Builds providers from the standard ``OTEL_*`` variables, for an app that has none.

The SDK has an auto-configuration of its own, which does not fit the contract of `init`. It sets the
global providers and returns none. It exports by gRPC unless a variable says otherwise. It raises
for a wrong value, and at exit it waits for as long as the exporters do.

So the providers are built here, from the SDK's classes and entry points. They log one warning if
exports fail, end within a time, and count right in a forked process. Setting them globally and
ending them at exit is up to the caller.
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
    ForkSafeMetricReader,
    QueueReportingSpanProcessor,
)
from assisters_otel.providers.otlp_settings import OtlpArguments
from assisters_otel.providers.owned_providers import OwnedProviders
from assisters_otel.providers.pipelines import OUR_SCOPES, Pipeline, WatchedMeterProvider
from assisters_otel.providers.signals import METRICS, TRACES
from assisters_otel.providers.workers import DaemonWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

    from assisters_otel.providers.delivery import Receiver
    from assisters_otel.providers.entry_points import Warn
    from assisters_otel.providers.exporter_specs import ExporterSpec


def build_providers(  # noqa: PLR0913 - by name, as in `init`
    *,
    traces: bool,
    metrics: bool,
    service_name: str | None,
    endpoint: str | None,
    headers: Mapping[str, str] | None,
    protocol: str | None,
    warn: Warn | None = None,
) -> OwnedProviders:
    """Build providers from the standard variables, through the SDK's exporter entry points.

    An argument wins over the variables. An endpoint, headers or a protocol mean OTLP, also where
    ``OTEL_TRACES_EXPORTER`` lists others. Only ``none`` stays none: a provider without an exporter,
    whose spans still have ids and reach the next service.

    Args:
        traces: True to build a tracer provider.
        metrics: True to build a meter provider.
        service_name: Wins over ``OTEL_SERVICE_NAME``.
        endpoint: A base URL, ``http://localhost:4318``. For HTTP ``/v1/traces`` and ``/v1/metrics``
            are appended.
        headers: For OTLP. They win over those of the variables.
        protocol: ``http/protobuf`` or ``grpc``.
        warn: Gets what is wrong with a variable and what was taken instead. None: raise it.

    Raises:
        ValueError: An argument or a variable cannot be used, and nothing can be taken instead. The
            message says what to write. No thread and no filter is left behind.
    """
    arguments = OtlpArguments(endpoint, headers, protocol)
    span_specs = exporter_specs(TRACES, arguments, warn) if traces else ()
    metric_specs = exporter_specs(METRICS, arguments, warn) if metrics else ()
    configured = configurator("meter", warn) if metrics else {}
    receivers: dict[str, Receiver] = {}
    log_filter = ExporterLogFilter(ForkSafeExporter.send.__code__)
    resource = _resource(service_name)

    def renew(known: Resource | None) -> Pipeline[MeterProvider]:
        pushed = tuple(spec for spec in metric_specs if not issubclass(spec.kind, MetricReader))
        own_resource = known or _resource(service_name, other_than=resource)
        return _meters(pushed, receivers, own_resource, configured)

    with ExitStack() as undo:
        log_filter.install()
        undo.callback(log_filter.remove)
        tracers = meters = None
        if traces:
            tracers = _tracers(span_specs, receivers, resource, warn)
            undo.callback(_discard, tracers)
        if metrics:
            meters = _meters(metric_specs, receivers, resource, configured)
        undo.pop_all()
    texts = [spec.text for spec in (*span_specs, *metric_specs)]
    texts += ["traces: none"] if traces and not span_specs else []
    texts += ["metrics: none"] if metrics and not metric_specs else []
    return OwnedProviders(
        tracers=tracers,
        meters=meters,
        renew=renew,
        log_filter=log_filter,
        receivers=receivers.values(),
        destinations=tuple(texts),
    )


def _resource(service_name: str | None, other_than: Resource | None = None) -> Resource:
    """Return the resource of the variables, with a ``service.instance.id``.

    Args:
        service_name: Wins over the variables.
        other_than: The resource of the parent process, whose instance this one is not.
    """
    named = {SERVICE_NAME: service_name} if service_name else {}
    with _detectors_are_quiet():
        resource = _encodable(Resource.create(named))
    parent_id = other_than and other_than.attributes.get(SERVICE_INSTANCE_ID)
    if resource.attributes.get(SERVICE_INSTANCE_ID) in {None, parent_id}:
        # OTEL_RESOURCE_ATTRIBUTES may name an instance. A forked process is another one.
        resource = resource.merge(Resource({SERVICE_INSTANCE_ID: str(uuid.uuid4())}))
    return resource


@contextmanager
def _detectors_are_quiet() -> Iterator[None]:
    """Drop the SDK's line about OTEL_RESOURCE_ATTRIBUTES, of which `variables` warns already.

    The SDK reads the variable in threads of its own, and there it reads what is set, not what
    `variables.corrected` puts in its place.
    """

    def is_other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Invalid key value resource attribute pair")

    logger = logging.getLogger("opentelemetry.sdk.resources")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _encodable(resource: Resource) -> Resource:
    """Return *resource* with text that can be encoded.

    A variable that is not in UTF-8 has lone surrogates. With one of those in the resource the
    encoder drops every batch.
    """

    def clean(value: AttributeValue) -> AttributeValue:
        return value.encode(errors="replace").decode() if isinstance(value, str) else value

    cleaned = {str(clean(key)): clean(value) for key, value in resource.attributes.items()}
    return resource if cleaned == resource.attributes else Resource(cleaned, resource.schema_url)


def _tracers(
    specs: Sequence[ExporterSpec],
    receivers: dict[str, Receiver],
    resource: Resource,
    warn: Warn | None,
) -> Pipeline[TracerProvider]:
    chosen, ids = sampler(warn), id_generator(warn)
    # `configurator` gives a private argument, which a later version may drop. So it is not typed.
    create = partial(cast("Callable[..., TracerProvider]", TracerProvider), chosen, resource)
    configured = configurator("tracer", warn)
    with ExitStack() as undo:
        exporters = []
        for spec in specs:
            delivery = spec.delivery(TRACES, receivers)
            exporters.append(ForkSafeExporter(spec.span_exporter, delivery))
            undo.callback(exporters[-1].shutdown)
        with _explain_sdk_errors():
            provider = create(shutdown_on_exit=False, id_generator=ids, **configured)
            for exporter in exporters:
                provider.add_span_processor(QueueReportingSpanProcessor(exporter))
        undo.pop_all()
    return Pipeline(provider, exporters, DaemonWorker())


def _meters(
    specs: Sequence[ExporterSpec],
    receivers: dict[str, Receiver],
    resource: Resource,
    configured: Mapping[str, Callable[..., object]],
) -> Pipeline[MeterProvider]:
    with _explain_sdk_errors():
        # It raises for a wrong variable. A reader is made before the provider and starts a thread,
        # so a provider without readers is made first.
        MeterProvider(resource=resource, shutdown_on_exit=False)
    with ExitStack() as undo:
        exporters = []
        readers: list[MetricReader] = []
        for spec in specs:
            if issubclass(spec.kind, MetricReader):
                readers.append(spec.metric_reader())
                undo.callback(readers[-1].shutdown)
            else:
                delivery = spec.delivery(METRICS, receivers)
                exporters.append(ForkSafeExporter(spec.metric_exporter, delivery))
                undo.callback(exporters[-1].shutdown)
        with _explain_sdk_errors():
            readers += [
                ForkSafeMetricReader(ForkSafeMetricExporter(exporter, OUR_SCOPES))
                for exporter in exporters
            ]
            provider = WatchedMeterProvider(readers, resource, configured)
        undo.pop_all()
    return Pipeline(provider, exporters, DaemonWorker())


def _discard(pipeline: Pipeline[TracerProvider]) -> None:
    pipeline.provider.shutdown()
    pipeline.worker.stop()


@contextmanager
def _explain_sdk_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ValueError(f"the SDK cannot make its providers: {error}") from error
    except Exception as error:
        raise ValueError(
            f"the SDK refuses a variable: {error} Look at OTEL_BSP_*, OTEL_SPAN_*, "
            "OTEL_METRIC_EXPORT_INTERVAL and OTEL_METRICS_EXEMPLAR_FILTER"
        ) from error


def build_one(
    build: Callable[..., OwnedProviders], wrong: ValueError
) -> tuple[OwnedProviders | None, str]:
    """Build the provider of one signal: a wrong variable of the other does not cost this one.

    Args:
        build: `build_providers`, with its arguments.
        wrong: The exception of building both.

    Returns:
        The providers, or None if neither could be built, and the text of what is lost and why.
    """
    try:
        return build(traces=True, metrics=False), f"no metrics are sent: {wrong}"
    except ValueError as error:
        wrong = error
    try:
        return build(traces=False, metrics=True), f"no spans are sent: {wrong}"
    except ValueError as error:
        reasons = dict.fromkeys((str(wrong), str(error)))
        return None, f"no telemetry is sent: {'. '.join(reasons)}"
