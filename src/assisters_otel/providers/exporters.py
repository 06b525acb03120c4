"""The layers between the SDK's processors and the real exporters, which make them fork-safe.

For spans, and in the same way for metrics:

* `QueueReportingSpanProcessor`, `ForkSafeMetricReader`: subclasses of the SDK's.
* `ForkSafeSpanExporter`, `ForkSafeMetricExporter`: the exporters that these know.
* `ForkSafeExporter`: one class for both, which reports each export to the delivery.
* The real exporter, from an entry point.

A forked process inherits its parent's exporter, with a connection and locks, and its parent's sums.
It uses none of the three:

* `ForkSafeExporter` makes a new exporter with the child's first export.
* `ForkSafeMetricExporter` leaves the library's own sums out; the child counts in a provider of its
  own (`OwnedProviders.renew_after_fork`).
* `ForkSafeMetricReader` and `_release_pools` replace or release locks that a thread of the parent
  held at the fork.
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

from assisters_otel.own_export import log_listener
from assisters_otel.providers.exporter_logs import capture_exporter_logs
from assisters_otel.providers.failures import failure_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from assisters_otel.providers.delivery import DeliveryState

# requests imports `netrc` with its first request, which an export sends in a thread of its own. A
# child that is forked meanwhile inherits the lock of that import, and has no thread to release it:
# its exports would wait for ever. So it is imported here (test_an_export_imports_nothing).

Inner = TypeVar("Inner", SpanExporter, MetricExporter)
Result = TypeVar("Result", SpanExportResult, MetricExportResult)


class ForkSafeExporter(Generic[Inner]):
    """Holds one real exporter, and makes a new one in every forked process.

    An inherited exporter is never used: two processes that write on one kept-alive connection read
    each other's answers. It is not closed either, since its locks may have been held at the fork.
    A reference to it is kept, so that it is not finalized.

    Args:
        create: Makes the exporter. It gets the delivery, to which a watched transport reports.
        delivery: Where the exporter sends to.

    Attributes:
        exporter: The real exporter of this process.
        delivery: Where it sends to.
        created_in_pid: The process that this object was made in.
        is_busy: True if an export is under way.
    """

    def __init__(self, create: Callable[[DeliveryState], Inner], delivery: DeliveryState) -> None:
        self._create: Callable[[DeliveryState], Inner] = create
        self.exporter: Inner = create(delivery)
        self.delivery = delivery
        self.created_in_pid = self._exporter_pid = os.getpid()
        self.is_busy = False
        self._is_shut_down = False
        self._inherited: list[Inner] = []

    def send(
        self, export: Callable[[Inner], Result], *, success: Result, failure: Result
    ) -> Result:
        """Export, record in the delivery how it ended, and return the exporter's result.

        An exception of the exporter becomes *failure*. The SDK would log it, and what the app has
        plugged into logging may raise then, which ends the SDK's thread.
        """
        if self._is_shut_down:
            return failure
        delivery = self.delivery
        delivery.start()
        self.is_busy = True
        try:
            with capture_exporter_logs(delivery.note_exporter_log):
                result = export(self._exporter_of_this_process())
        except Exception as error:  # noqa: BLE001 - reported by the delivery's warning
            delivery.failed(failure_of(error))
            return failure
        finally:
            self.is_busy = False
        if result is success:
            delivery.succeeded()
        else:
            delivery.failed()
        return result

    def shutdown(self) -> None:
        """Close the exporter, which ends its pauses between requests. Later exports fail."""
        if not self._is_shut_down:
            self._is_shut_down = True
            if self._exporter_pid == os.getpid():
                with capture_exporter_logs(self.delivery.note_exporter_log):
                    self.exporter.shutdown()

    def forked(self) -> None:
        """Start anew in a forked child: no export is under way, and none has failed."""
        if self.is_busy:
            _release_pools()
        self.is_busy = False
        self.delivery.forked()

    def _exporter_of_this_process(self) -> Inner:
        if self._exporter_pid != os.getpid():
            exporter = self._create(self.delivery)
            self._inherited.append(self.exporter)
            self.exporter, self._exporter_pid = exporter, os.getpid()
        return self.exporter


def _release_pools() -> None:
    """Release the locks of urllib3's queues of connections that an export held at the fork.

    urllib3 empties each queue when the process exits, and would wait for its lock for ever.
    """
    urllib3 = sys.modules.get("urllib3.connectionpool")
    if urllib3 is None:
        return
    for pool in gc.get_objects():
        # `type`, not `isinstance`: a proxy claims the class of what it stands for.
        if issubclass(type(pool), urllib3.HTTPConnectionPool):
            queue = getattr(pool, "pool", None)
            if queue is not None and queue.mutex.locked():
                queue.mutex.release()


class ForkSafeSpanExporter(SpanExporter):
    """The SDK's interface of a span exporter, on top of a `ForkSafeExporter`."""

    def __init__(self, fork_safe: ForkSafeExporter[SpanExporter]) -> None:
        self._fork_safe = fork_safe

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export *spans*."""
        return self._fork_safe.send(
            lambda exporter: exporter.export(spans),
            success=SpanExportResult.SUCCESS,
            failure=SpanExportResult.FAILURE,
        )

    def shutdown(self) -> None:
        """Close the real exporter."""
        self._fork_safe.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the real exporter, within a time in milliseconds."""
        return self._fork_safe.exporter.force_flush(timeout_millis)


class QueueReportingSpanProcessor(BatchSpanProcessor):
    """The SDK's batch processor, whose "Queue full" goes to the delivery in place of the log."""

    def __init__(self, fork_safe: ForkSafeExporter[SpanExporter]) -> None:
        super().__init__(ForkSafeSpanExporter(fork_safe))
        self._note_full_queue = fork_safe.delivery.note_full_queue

    def on_end(self, span: ReadableSpan) -> None:
        """Queue *span*."""
        # Not by `capture_exporter_logs`, which costs more: every span passes here.
        token = log_listener.set(self._note_full_queue)
        try:
            super().on_end(span)
        finally:
            log_listener.reset(token)


class ForkSafeMetricExporter(MetricExporter):
    """The SDK's interface of a metric exporter, on top of a `ForkSafeExporter`.

    Args:
        fork_safe: Holds the real exporter.
        scopes: The names of the meters whose sums a forked process leaves out: they are its
            parent's.
    """

    def __init__(self, fork_safe: ForkSafeExporter[MetricExporter], scopes: Sequence[str]) -> None:
        exporter = fork_safe.exporter
        # The reader reads these two of its exporter. They have no public name.
        super().__init__(
            exporter._preferred_temporality,  # noqa: SLF001
            exporter._preferred_aggregation,  # noqa: SLF001
        )
        self._fork_safe = fork_safe
        self._scopes = scopes

    def export(
        self,
        metrics_data: MetricsData,
        timeout_millis: float = 10_000,
        **kwargs: object,
    ) -> MetricExportResult:
        """Export *metrics_data*, within a time in milliseconds."""
        if self._fork_safe.created_in_pid != os.getpid():
            metrics_data = without_scopes(metrics_data, self._scopes)
            if not metrics_data.resource_metrics:
                return MetricExportResult.SUCCESS
        return self._fork_safe.send(
            lambda exporter: exporter.export(metrics_data, timeout_millis, **kwargs),
            success=MetricExportResult.SUCCESS,
            failure=MetricExportResult.FAILURE,
        )

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: object) -> None:  # noqa: ARG002 - the SDK's signature
        """Close the real exporter."""
        self._fork_safe.shutdown()

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush the real exporter, within a time in milliseconds."""
        return self._fork_safe.exporter.force_flush(timeout_millis)


class ForkSafeMetricReader(PeriodicExportingMetricReader):
    """The SDK's reader, with a new lock in a forked child.

    The SDK holds that lock during an export. A child that is forked then would wait for it with its
    metrics and at its exit, and no thread of its own releases it.
    """

    def _at_fork_reinit(self) -> None:
        self._export_lock = threading.Lock()
        super()._at_fork_reinit()  # type: ignore[no-untyped-call] # it has no types


def without_scopes(data: MetricsData, scopes: Sequence[str]) -> MetricsData:
    """Return *data* without what the meters called *scopes* have measured."""
    kept = (
        replace(
            resource,
            scope_metrics=[s for s in resource.scope_metrics if s.scope.name not in scopes],
        )
        for resource in data.resource_metrics
    )
    return replace(data, resource_metrics=[resource for resource in kept if resource.scope_metrics])
