"""Exporters of our own around the real ones: quiet, and fit for a forked process.

They lie between the SDK's processors and the exporters that we made, and see to it that
a forked process neither shares its parent's connection nor exports its parent's counts.
"""

from __future__ import annotations

import gc
import netrc  # noqa: F401 - see below
import os
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from assisters_otel.own_export import here
from assisters_otel.providers.exporter_logs import capture_exporter_logs, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.providers.delivery import DeliveryState

# `netrc` is what requests imports with its first request. With ours that would be in a thread of
# our own, beside the app's: a child that is forked meanwhile has the lock of that import and nobody
# who gives it back, and all that it exports would wait for it (test_an_export_imports_nothing).

Inner = TypeVar("Inner", SpanExporter, MetricExporter)
Result = TypeVar("Result", SpanExportResult, MetricExportResult)


class ForkSafeExporter(Generic[Inner]):
    """Holds one real exporter, and a new one in every forked process.

    An inherited exporter is never used: its kept-alive connection is the parent's, and
    two processes that write on one socket read each other's answers. Nor is it closed,
    since its locks may have been held at the fork: it is kept, so that nothing ends it.

    Attributes:
        inner: The exporter.
        destination: Where it sends to.
        born: The process that this was made in.
        busy: Whether an export is under way.
    """

    def __init__(self, make: Callable[[], Inner], destination: DeliveryState) -> None:
        self._make: Callable[[], Inner] = make
        self.inner: Inner = make()
        self.destination = destination
        self.born = self._owner = os.getpid()
        self.busy = False
        self._ended = False
        self._inherited: list[Inner] = []

    def send(
        self, export: Callable[[Inner], Result], *, success: Result, failure: Result
    ) -> Result:
        """Export, and keep in mind how it went.

        What the exporter raises is told as a warning. The SDK would log it, and what the app
        has plugged into logging may raise in its turn: that would end the SDK's thread.
        """
        if self._ended:
            return failure
        destination = self.destination
        destination.begin()
        self.busy = True
        try:
            with capture_exporter_logs(destination.hear):
                result = export(self._mine())
        except Exception as error:  # noqa: BLE001 - handed over to who is told, not swallowed
            destination.failed(failure_of(error))
            return failure
        finally:
            self.busy = False
        if result is success:
            destination.arrived()
        else:
            destination.failed()
        return result

    def end(self) -> None:
        """Close the exporter, which breaks off its pauses; exports fail from now on."""
        if not self._ended:
            self._ended = True
            if self._owner == os.getpid():
                with capture_exporter_logs(self.destination.hear):
                    self.inner.shutdown()

    def forked(self) -> None:
        """Begin anew in a forked child: no export is under way, and none has failed."""
        if self.busy:
            _release_pools()
        self.busy = False
        self.destination.failing = self.destination.unreachable = False

    def _mine(self) -> Inner:
        if self._owner != os.getpid():
            inner = self._make()
            self._inherited.append(self.inner)
            self.inner, self._owner = inner, os.getpid()
        return self.inner


def _release_pools() -> None:
    """Release the queues of connections that an export in the parent held at the fork.

    urllib3 empties each when the process exits, and would wait for it for ever.
    """
    urllib3 = sys.modules.get("urllib3.connectionpool")
    if urllib3 is None:
        return
    for pool in gc.get_objects():
        # By its type: a proxy's class is that of what it stands for.
        if issubclass(type(pool), urllib3.HTTPConnectionPool):
            queue = getattr(pool, "pool", None)
            if queue is not None and queue.mutex.locked():
                queue.mutex.release()


class ForkSafeSpanExporter(SpanExporter):
    """Exports spans by a courier."""

    def __init__(self, courier: ForkSafeExporter[SpanExporter]) -> None:
        self._courier = courier

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export *spans*."""
        return self._courier.send(
            lambda inner: inner.export(spans),
            success=SpanExportResult.SUCCESS,
            failure=SpanExportResult.FAILURE,
        )

    def shutdown(self) -> None:
        """End the courier."""
        self._courier.end()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Ask the exporter to flush what it holds; the time is in milliseconds."""
        return self._courier.inner.force_flush(timeout_millis)


class QueueReportingSpanProcessor(BatchSpanProcessor):
    """The SDK's batches, whose "Queue full" is ours to tell."""

    def __init__(self, courier: ForkSafeExporter[SpanExporter]) -> None:
        super().__init__(ForkSafeSpanExporter(courier))
        self._overflow = courier.destination.overflow

    def on_end(self, span: ReadableSpan) -> None:
        """Put *span* in the queue."""
        # By hand, not by `capture_exporter_logs`: this is on the path of every span.
        token = here.set(self._overflow)
        try:
            super().on_end(span)
        finally:
            here.reset(token)


class ForkSafeMetricExporter(MetricExporter):
    """Exports metrics by a courier.

    Args:
        courier: Of the real exporter.
        scopes: The names of the meters whose sums a forked process does not export from
            here: they are its parent's.
    """

    def __init__(self, courier: ForkSafeExporter[MetricExporter], scopes: Sequence[str]) -> None:
        inner = courier.inner
        # The reader asks its exporter for these two; there is no public name for them.
        super().__init__(inner._preferred_temporality, inner._preferred_aggregation)  # noqa: SLF001
        self._courier = courier
        self._scopes = scopes

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: object,
    ) -> MetricExportResult:
        """Export *metrics_data*; the time is in milliseconds."""
        if self._courier.born != os.getpid():
            metrics_data = without_scopes(metrics_data, self._scopes)
            if not metrics_data.resource_metrics:
                return MetricExportResult.SUCCESS
        return self._courier.send(
            lambda inner: inner.export(metrics_data, timeout_millis, **kwargs),
            success=MetricExportResult.SUCCESS,
            failure=MetricExportResult.FAILURE,
        )

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:  # noqa: ARG002 - the SDK's signature
        """End the courier."""
        self._courier.end()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Ask the exporter to flush what it holds; the time is in milliseconds."""
        return self._courier.inner.force_flush(timeout_millis)


class QuietMetricReader(PeriodicExportingMetricReader):
    """The SDK's reader, whose lock a forked child has anew.

    It is held for as long as an export takes, and no thread of the parent's is there to give it
    back: the child's metrics would wait for ever, and its exit for as long as it may.
    """

    def _at_fork_reinit(self) -> None:
        self._export_lock = threading.Lock()
        super()._at_fork_reinit()  # type: ignore[no-untyped-call] # it has no types


def without_scopes(data: MetricsData, scopes: Sequence[str]) -> MetricsData:
    """Leave out what the meters called *scopes* have measured."""
    kept = (
        replace(
            resource,
            scope_metrics=[s for s in resource.scope_metrics if s.scope.name not in scopes],
        )
        for resource in data.resource_metrics
    )
    return replace(data, resource_metrics=[resource for resource in kept if resource.scope_metrics])
