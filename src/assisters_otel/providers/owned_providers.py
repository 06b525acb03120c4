"""The providers that the library has built: flush, shutdown within a time, renewal after a fork.

Rules:
* The caller goes on when its time is over, whatever the collector does. The SDK's `force_flush` and
  `shutdown` wait for the exports instead: 10 s for each by default, and a full queue is four.
* An end waits `UNREACHABLE_WAIT_S` only where it is known that no server answers.
* True means that the receivers have taken everything that was recorded, not that time was enough.
* A forked child exports what it records, and nothing of its parent's.

How it works:
* Each pipeline has a daemon thread (`DaemonWorker`) that calls the provider. The caller waits for
  the futures, for all pipelines together (`run_all`, `_wait`).
* When the time of a shutdown is over, the exporters are shut down. That ends their pauses between
  requests, so the threads end soon; they get `STOP_WAIT_S` for it. A request that hangs ends by its
  own timeout, in a daemon thread for which the exit does not wait.
* Success is judged by the deliveries: no export has failed since the call began, and the last one
  of each has succeeded. The SDK's results do not say this: `force_flush` of its span processor
  returns True for a failed export.
* After a fork the child has none of the threads, and locks may be held for ever. So locks and
  workers are replaced. Exporters replace themselves (`ForkSafeExporter`). The sums of the inherited
  meter provider are the parent's, so the library counts in a new one (`renew_after_fork`).

What would break it:
* A thread that is started at the end: CPython 3.12 refuses that at exit. Workers start with the
  pipeline.
* Removing the log filter while a thread still exports: the exporter's lines would appear. It is
  removed with the last future.
* A strong reference from `os.register_at_fork`, which keeps what it gets: hence the `WeakMethod`.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakMethod

from assisters_otel.providers.workers import DaemonWorker, all_succeeded, limited, run_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from assisters_otel.providers.delivery import Receiver
    from assisters_otel.providers.exporter_logs import ExporterLogFilter
    from assisters_otel.providers.pipelines import AnyPipeline, Pipeline

UNREACHABLE_WAIT_S: Final = 1.0
"""How long an end waits for a receiver that is known not to answer, in seconds: enough for one more
request, should it just have come back."""

STOP_WAIT_S: Final = 0.2
"""How long the threads have to end after their exporters are shut down, in seconds. Those that only
pause between requests end at once; a longer wait would only delay the exit."""

_POLL_S: Final = 0.05
"""How often it is looked whether a receiver has become unreachable, in seconds."""


class OwnedProviders:
    """The providers that the library has built, and how they end.

    Attributes:
        tracer_provider: None if no traces were asked for.
        meter_provider: None if no metrics were asked for. Another one after `renew_after_fork`.
        destinations: For people, one text an exporter, for example
            ``traces: otlp_proto_http http://localhost:4318/v1/traces``. They hold no header, user,
            password or query.
    """

    def __init__(  # noqa: PLR0913 - by name, and by `build_providers` alone
        self,
        *,
        tracers: Pipeline[TracerProvider] | None,
        meters: Pipeline[MeterProvider] | None,
        renew: Callable[[Resource | None], Pipeline[MeterProvider]],
        log_filter: ExporterLogFilter,
        receivers: Iterable[Receiver],
        destinations: tuple[str, ...],
    ) -> None:
        self.tracer_provider = tracers.provider if tracers else None
        self.meter_provider = meters.provider if meters else None
        self.destinations = destinations
        self._pipelines: list[AnyPipeline] = []
        self._pipelines += [tracers] if tracers else []
        self._pipelines += [meters] if meters else []
        self._renew = renew
        self._renewed_in_pid = os.getpid()
        self._log_filter = log_filter
        self._receivers = tuple(receivers)
        self._lock = threading.Lock()
        self._is_shut_down = False
        self._is_complete = False
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            weak = WeakMethod(self._after_fork)

            def after_fork() -> None:
                if (call := weak()) is not None:
                    call()

            os.register_at_fork(after_in_child=after_fork)

    def flush(self, timeout_s: float, *, at_end: bool = False) -> bool:
        """Export what has been recorded so far.

        Args:
            timeout_s: How long the caller waits, in seconds. The export goes on after that.
            at_end: True if the process ends. Then the wait for a receiver that is known not to
                answer is `UNREACHABLE_WAIT_S`.

        Returns:
            True if the receivers took everything in time.
        """
        if self._is_shut_down:
            return self._is_complete
        timeout_s = limited(timeout_s)
        millis = int(timeout_s * 1000)
        failures = self._failures()
        started = {
            one.worker.submit(partial(one.provider.force_flush, timeout_millis=millis)): one
            for one in self._pipelines
            if one.is_used
        }
        if at_end and _wait(started, timeout_s):
            timeout_s = 0
        return run_all(list(started), timeout_s) and self._all_delivered(failures)

    def shutdown(self, timeout_s: float = 5.0) -> bool:
        """Export what is left, and shut both providers down, side by side.

        Args:
            timeout_s: How long the caller waits, in seconds, and `STOP_WAIT_S` more. What is not
                exported by then is dropped. The wait for a receiver that is known not to answer is
                `UNREACHABLE_WAIT_S`.

        Returns:
            True if the receivers took everything in time. A second call returns the same at once.
        """
        with self._lock:
            if self._is_shut_down:
                return self._is_complete
            self._is_shut_down = True
        failures = self._failures()
        ends = {
            one.worker.submit(one.provider.shutdown): one for one in self._pipelines if one.is_used
        }
        pending = _wait(ends, timeout_s)
        exporters = [exporter for future in pending for exporter in ends[future].exporters]
        hanging = [exporter for exporter in exporters if exporter.is_busy]
        for exporter in hanging:
            exporter.delivery.timed_out()  # first: to gRPC a shutdown is a cancellation
        for exporter in exporters:
            exporter.shutdown()
        _, still_running = wait(pending, STOP_WAIT_S)
        self._is_complete = not pending and all_succeeded(ends) and self._all_delivered(failures)
        for one in self._pipelines:
            one.worker.stop()
        for future in still_running:
            future.add_done_callback(lambda _: self._remove_log_filter(ends))
        self._remove_log_filter(ends)
        return self._is_complete

    def renew_after_fork(self) -> MeterProvider:
        """Return the meter provider of this process, before the library counts in it.

        A forked process gets a new one, with the same settings, exporters of its own, and the
        ``service.instance.id`` of its tracer provider. The inherited one goes on for the app's own
        instruments, without `OUR_SCOPES`. An exporter that is pulled, such as Prometheus', serves
        the parent alone.

        Returns:
            The provider, the same for every call in one process. In the process that built the
            providers it is the first one.

        Raises:
            RuntimeError: No metrics were asked for.
            ValueError: An exporter cannot be made here.
        """
        if self.meter_provider is None:
            raise RuntimeError("there are no metrics to renew: build them with metrics=True")
        with self._lock:
            if self._renewed_in_pid != os.getpid():
                tracers = self.tracer_provider
                pipeline = self._renew(tracers.resource if tracers else None)
                self._pipelines.append(pipeline)
                self.meter_provider = pipeline.provider
                self._renewed_in_pid = os.getpid()
            return self.meter_provider

    def _failures(self) -> int:
        return sum(e.delivery.failures for one in self._pipelines for e in one.exporters)

    def _all_delivered(self, failures_before: int) -> bool:
        """Return True if every last export succeeded, and none failed since *failures_before*."""
        failing = [e for one in self._pipelines for e in one.exporters if e.delivery.is_failing]
        return not failing and self._failures() == failures_before

    def _remove_log_filter(self, futures: Iterable[Future[object]]) -> None:
        if all(future.done() for future in futures):
            self._log_filter.remove()

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        for receiver in self._receivers:
            receiver.lock = threading.RLock()
        for exporter in [exporter for one in self._pipelines for exporter in one.exporters]:
            exporter.forked()
        if not self._is_shut_down:
            self._pipelines = [replace(one, worker=DaemonWorker()) for one in self._pipelines]


def _wait(started: Mapping[Future[object], AnyPipeline], timeout_s: float) -> set[Future[object]]:
    """Wait for futures, `UNREACHABLE_WAIT_S` only if no receiver of the pending ones answers.

    Returns:
        The futures that are not done.
    """
    started_s, polled_s = time.monotonic(), 0.0
    pending = set(started)
    # A test of the app may have stopped the clock. Each poll that leaves a future has lasted.
    while pending and (left_s := timeout_s - max(polled_s, time.monotonic() - started_s)) > 0:
        waited_s = timeout_s - left_s
        if waited_s >= UNREACHABLE_WAIT_S and all(started[one].is_unreachable for one in pending):
            break
        _, pending = wait(pending, min(left_s, _POLL_S))
        polled_s += _POLL_S
    return pending
