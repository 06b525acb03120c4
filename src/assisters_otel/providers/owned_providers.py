"""Providers that the library has built: flush, shutdown in time, renewal after a fork."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar, cast
from weakref import WeakMethod

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

from assisters_otel.clients.aiohttp import adapter as aiohttp_adapter
from assisters_otel.clients.httpx import adapter as httpx_adapter
from assisters_otel.clients.requests import adapter as requests_adapter
from assisters_otel.providers.workers import DaemonWorker, all_succeeded, limited, run_all
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import Meter
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.util.types import Attributes

    from assisters_otel.providers.delivery import Receiver
    from assisters_otel.providers.exporter_logs import ExporterLogFilter
    from assisters_otel.providers.exporters import (
        ForkSafeExporter,
    )

OUR_SCOPES: Final = (
    names.SCOPE,
    httpx_adapter.SCOPE,
    requests_adapter.SCOPE,
    aiohttp_adapter.SCOPE,
)
"""The meters that get a provider of their own in a forked process. What they counted
before the fork is the parent's, and the parent exports it."""

UNREACHABLE_WAIT_S: Final = 1.0
"""How long an end waits for a place that is known not to answer, in seconds: enough for
one more attempt, should it just have come back."""

STOP_WAIT_S: Final = 0.2
"""How long threads that were told to stop have for it, in seconds."""

Provider = TypeVar("Provider", TracerProvider, MeterProvider)


@dataclass(frozen=True)
class _Pipeline(Generic[Provider]):
    """A provider with what carries its data away, and the thread that flushes and ends it."""

    provider: Provider
    couriers: Sequence[ForkSafeExporter[SpanExporter] | ForkSafeExporter[MetricExporter]]
    hand: DaemonWorker

    @property
    def is_used(self) -> bool:
        """Whether anything may be in it."""
        return not isinstance(self.provider, WatchedMeterProvider) or self.provider.is_used

    @property
    def hopeless(self) -> bool:
        """Whether nobody answers at any of the places that this goes to."""
        return bool(self.couriers) and all(c.destination.unreachable for c in self.couriers)


_AnyPart: TypeAlias = "_Pipeline[TracerProvider] | _Pipeline[MeterProvider]"


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


class OwnedProviders:
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
        tracers: _Pipeline[TracerProvider] | None,
        meters: _Pipeline[MeterProvider] | None,
        renew: Callable[[Resource | None], _Pipeline[MeterProvider]],
        hush: ExporterLogFilter,
        reaches: Iterable[Receiver],
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
                `UNREACHABLE_WAIT_S` only.

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
        return run_all(list(begun), timeout_s) and self._taken(lost)

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Export what is left and end both providers, side by side.

        A place that is known not to answer is given `UNREACHABLE_WAIT_S` only.

        Args:
            timeout_s: After so many seconds, and `STOP_WAIT_S`, the caller goes on; the
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
        _, late = wait(pending, STOP_WAIT_S)
        self._complete = not pending and all_succeeded(ends) and self._taken(lost)
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
            self._parts = [replace(part, hand=DaemonWorker()) for part in self._parts]


def _pending(
    begun: Mapping[Future[object], _Pipeline[TracerProvider] | _Pipeline[MeterProvider]],
    timeout_s: float,
) -> set[Future[object]]:
    """Wait for what has begun, for `UNREACHABLE_WAIT_S` only where nobody answers.

    Returns:
        What is not done after that.
    """
    started_s = time.monotonic()
    pending = set(begun)
    while pending and (left_s := started_s + timeout_s - time.monotonic()) > 0:
        given_s = time.monotonic() - started_s
        if given_s >= UNREACHABLE_WAIT_S and all(begun[future].hopeless for future in pending):
            break
        _, pending = wait(pending, min(left_s, 0.05))
    return pending
