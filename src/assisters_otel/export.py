"""Providers of our own, from the standard ``OTEL_*`` variables, for an app that has none.

What is built here exports by the SDK's own exporters, says once when nobody takes the
telemetry, ends within a time that is given, and counts right in a forked process. No
global is set and nothing is registered to run at exit: that is the caller's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast
from weakref import WeakMethod

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider

from assisters_otel.clients.aiohttp import adapter as aiohttp_adapter
from assisters_otel.clients.httpx import adapter as httpx_adapter
from assisters_otel.clients.requests import adapter as requests_adapter
from assisters_otel.courier import (
    Courier,
    QuietMetricExporter,
    QuietMetricReader,
    QuietSpanProcessor,
)
from assisters_otel.exporters import METRICS, TRACES, Arguments, routes
from assisters_otel.hand import Hand, in_time, limited, succeeded
from assisters_otel.quiet import Hush
from assisters_otel.registered import configurator, id_generator, sampler
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import Attributes, AttributeValue

    from assisters_otel.exporters import Route
    from assisters_otel.quiet import Reach
    from assisters_otel.registered import Tell

OUR_SCOPES: Final = (
    names.SCOPE,
    httpx_adapter.SCOPE,
    requests_adapter.SCOPE,
    aiohttp_adapter.SCOPE,
)
"""The meters that get a provider of their own in a forked process. What they counted
before the fork is the parent's, and the parent exports it."""

DEAD_S: Final = 1.0
"""How long an end waits for a place that is known not to answer, in seconds: enough for
one more attempt, should it just have come back."""

GRACE_S: Final = 0.2
"""How long threads that were told to stop have for it, in seconds."""

Provider = TypeVar("Provider", TracerProvider, MeterProvider)


@dataclass(frozen=True)
class _Part(Generic[Provider]):
    """A provider with what carries its data away, and the thread that flushes and ends it."""

    provider: Provider
    couriers: Sequence[Courier[SpanExporter] | Courier[MetricExporter]]
    hand: Hand

    @property
    def is_used(self) -> bool:
        """Whether anything may be in it."""
        return not isinstance(self.provider, WatchedMeterProvider) or self.provider.is_used

    @property
    def hopeless(self) -> bool:
        """Whether nobody answers at any of the places that this goes to."""
        return bool(self.couriers) and all(c.destination.unreachable for c in self.couriers)


_AnyPart: TypeAlias = "_Part[TracerProvider] | _Part[MeterProvider]"


class WatchedMeterProvider(MeterProvider):
    """The SDK's provider, which knows whether anybody but us records in it.

    If nobody does, a forked child leaves the inherited one alone. A thread of the parent's that
    was recording at the fork may hold its locks, and for those a flush would wait in vain.
    """

    def __init__(
        self,
        readers: Sequence[MetricReader],
        resource: Resource,
        configured: Mapping[str, Callable[..., object]],
    ) -> None:
        self._born = os.getpid()
        self._is_shared = False
        make = cast("Callable[..., None]", super().__init__)
        make(readers, resource=resource, shutdown_on_exit=False, **configured)

    @property
    def is_used(self) -> bool:
        """Whether anything may be in it that this process measures."""
        return self._is_shared or self._born == os.getpid()

    def get_meter(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Meter:
        """Return a meter."""
        self._is_shared = self._is_shared or name not in OUR_SCOPES
        return super().get_meter(name, version, schema_url, attributes)


class Exports:
    """The providers that we built, and how to end them.

    Attributes:
        tracer_provider: Or None, if no traces were asked for.
        meter_provider: Or None, if no metrics were asked for. Another one after
            `renew_metrics`.
        destinations: For people, one text an exporter, for example
            ``traces: otlp_proto_http http://localhost:4318/v1/traces``. They hold no
            header, no user, no password and no query.
    """

    def __init__(  # noqa: PLR0913 - by name, and by `build` alone
        self,
        *,
        tracers: _Part[TracerProvider] | None,
        meters: _Part[MeterProvider] | None,
        renew: Callable[[Resource | None], _Part[MeterProvider]],
        hush: Hush,
        reaches: Iterable[Reach],
        destinations: tuple[str, ...],
    ) -> None:
        self.tracer_provider = tracers.provider if tracers else None
        self.meter_provider = meters.provider if meters else None
        self.destinations = destinations
        self._parts: list[_AnyPart] = []
        self._parts += [tracers] if tracers else []
        self._parts += [meters] if meters else []
        self._renew = renew
        self._renewed_in = os.getpid()
        self._hush = hush
        self._reaches = tuple(reaches)
        self._lock = threading.Lock()
        self._ended = False
        self._complete = False
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            weak = WeakMethod(self._after_fork)

            def after_fork() -> None:
                if (here := weak()) is not None:
                    here()

            os.register_at_fork(after_in_child=after_fork)

    def flush(self, timeout_s: float, *, at_end: bool = False) -> bool:
        """Export what has been recorded so far.

        Args:
            timeout_s: After so many seconds the caller goes on, whatever is done by then.
            at_end: Whether the process ends: then a place that is known not to answer is given
                `DEAD_S` only.

        Returns:
            Whether all of it was taken in time. False also if no collector answers.
        """
        if self._ended:
            return self._complete
        timeout_s = limited(timeout_s)
        millis = int(timeout_s * 1000)
        lost = self._failures()
        begun = {
            part.hand.do(partial(part.provider.force_flush, timeout_millis=millis)): part
            for part in self._parts
            if part.is_used
        }
        if at_end and _pending(begun, timeout_s):
            timeout_s = 0
        return in_time(list(begun), timeout_s) and self._taken(lost)

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Export what is left and end both providers, side by side.

        A place that is known not to answer is given `DEAD_S` only.

        Args:
            timeout_s: After so many seconds, and `GRACE_S`, the caller goes on; the
                rest is dropped.

        Returns:
            Whether everything was taken in time. A second call returns the same at once.
        """
        with self._lock:
            if self._ended:
                return self._complete
            self._ended = True
        lost = self._failures()
        ends = {part.hand.do(part.provider.shutdown): part for part in self._parts if part.is_used}
        pending = _pending(ends, timeout_s)
        couriers = [courier for future in pending for courier in ends[future].couriers]
        hung = [courier for courier in couriers if courier.busy]
        for courier in couriers:
            courier.end()
        for courier in hung:
            courier.destination.failed()
        _, late = wait(pending, GRACE_S)
        self._complete = not pending and succeeded(ends) and self._taken(lost)
        for part in self._parts:
            part.hand.rest()
        for future in late:
            future.add_done_callback(lambda _: self._unhush(ends))
        self._unhush(ends)
        return self._complete

    def renew_metrics(self) -> MeterProvider:
        """Give a forked process a meter provider of its own; call it before it counts.

        The new one has the same settings, exporters of its own and the
        ``service.instance.id`` of this process's tracer provider. The inherited one goes
        on for the application's own instruments, without `OUR_SCOPES`. An exporter that
        is pulled, such as Prometheus', serves the parent alone.

        Returns:
            The provider, the same for every call in one process. In the process that
            built the providers, that is the first one.

        Raises:
            RuntimeError: No metrics were asked for.
            ValueError: An exporter cannot be made here.
        """
        if self.meter_provider is None:
            raise RuntimeError("there are no metrics to renew: build them with metrics=True")
        with self._lock:
            if self._renewed_in != os.getpid():
                tracers = self.tracer_provider
                part = self._renew(tracers.resource if tracers else None)
                self._parts.append(part)
                self.meter_provider = part.provider
                self._renewed_in = os.getpid()
            return self.meter_provider

    def _failures(self) -> int:
        return sum(c.destination.failures for part in self._parts for c in part.couriers)

    def _taken(self, before: int) -> bool:
        """Say whether the last exports were taken, and all since there were *before* failures."""
        failing = [c for part in self._parts for c in part.couriers if c.destination.failing]
        return not failing and self._failures() == before

    def _unhush(self, futures: Iterable[Future[object]]) -> None:
        if all(future.done() for future in futures):
            self._hush.remove()

    def _after_fork(self) -> None:
        # A lock may have been held by a thread that is not here, and no hand is.
        self._lock = threading.Lock()
        for reach in self._reaches:
            reach.lock = threading.RLock()
        for courier in [courier for part in self._parts for courier in part.couriers]:
            courier.forked()
        if not self._ended:
            self._parts = [replace(part, hand=Hand()) for part in self._parts]


def _pending(
    begun: Mapping[Future[object], _Part[TracerProvider] | _Part[MeterProvider]], timeout_s: float
) -> set[Future[object]]:
    """Wait for what has begun, for `DEAD_S` only where nobody answers.

    Returns:
        What is not done after that.
    """
    started_s = time.monotonic()
    pending = set(begun)
    while pending and (left_s := started_s + timeout_s - time.monotonic()) > 0:
        given_s = time.monotonic() - started_s
        if given_s >= DEAD_S and all(begun[future].hopeless for future in pending):
            break
        _, pending = wait(pending, min(left_s, 0.05))
    return pending


def build(  # noqa: PLR0913 - by name, as in `init`
    *,
    traces: bool,
    metrics: bool,
    service_name: str | None,
    endpoint: str | None,
    headers: Mapping[str, str] | None,
    protocol: str | None,
    tell: Tell | None = None,
) -> Exports:
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
    arguments = Arguments(endpoint, headers, protocol)
    spans = routes(TRACES, arguments, tell) if traces else ()
    points = routes(METRICS, arguments, tell) if metrics else ()
    configured = configurator("meter", tell) if metrics else {}
    reaches: dict[str, Reach] = {}
    hush = Hush(Courier.send.__code__)
    resource = _resource(service_name)

    def renewed(known: Resource | None) -> _Part[MeterProvider]:
        pushed = tuple(route for route in points if not issubclass(route.kind, MetricReader))
        told = known or _resource(service_name, other_than=resource)
        return _meters(pushed, reaches, told, configured)

    with ExitStack() as undo:
        hush.install()
        undo.callback(hush.remove)
        tracers = meters = None
        if traces:
            tracers = _tracers(spans, reaches, resource, tell)
            undo.callback(_end, tracers)
        if metrics:
            meters = _meters(points, reaches, resource, configured)
        undo.pop_all()
    texts = [route.text for route in (*spans, *points)]
    texts += ["traces: none"] if traces and not spans else []
    texts += ["metrics: none"] if metrics and not points else []
    return Exports(
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
    spans: Sequence[Route], reaches: dict[str, Reach], resource: Resource, tell: Tell | None
) -> _Part[TracerProvider]:
    chosen, ids = sampler(tell), id_generator(tell)
    make = partial(cast("Callable[..., TracerProvider]", TracerProvider), chosen, resource)
    configured = configurator("tracer", tell)
    with ExitStack() as undo:
        couriers = []
        for route in spans:
            destination = route.destination(TRACES, reaches)
            couriers.append(Courier(route.span_exporter, destination))
            undo.callback(couriers[-1].end)
        with _sdk_errors():
            provider = make(shutdown_on_exit=False, id_generator=ids, **configured)
            for courier in couriers:
                provider.add_span_processor(QuietSpanProcessor(courier))
        undo.pop_all()
    return _Part(provider, couriers, Hand())


def _meters(
    points: Sequence[Route],
    reaches: dict[str, Reach],
    resource: Resource,
    configured: Mapping[str, Callable[..., object]],
) -> _Part[MeterProvider]:
    with _sdk_errors():
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
                couriers.append(Courier(route.metric_exporter, destination))
                undo.callback(couriers[-1].end)
        with _sdk_errors():
            readers += [
                QuietMetricReader(QuietMetricExporter(courier, OUR_SCOPES)) for courier in couriers
            ]
            provider = WatchedMeterProvider(readers, resource, configured)
        undo.pop_all()
    return _Part(provider, couriers, Hand())


def _end(part: _Part[TracerProvider]) -> None:
    part.provider.shutdown()
    part.hand.rest()


@contextmanager
def _sdk_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"the SDK refuses a variable: {error} Look at OTEL_BSP_*, OTEL_SPAN_*, "
            "OTEL_METRIC_EXPORT_INTERVAL and OTEL_METRICS_EXEMPLAR_FILTER"
        ) from error
