"""The sinks of this process that are no spans: metrics, log, resends, and the counts of `status`.

A forked child starts with new ones: the parent's counts and the parent's failed attempts are not
the child's.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from assisters_otel.resends.tracker import ResendTracker
from assisters_otel.sinks.failure_log import FailureLog
from assisters_otel.sinks.metrics import AttemptMetrics

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider


class ProcessSinks:
    """Metrics, log and resends of this process.

    Attributes:
        metrics: The instruments.
        log: The log of failures.
        resends: The tracker that recognises resends.
        attempts: The number of attempts that have ended in this process.
        errors: The number of them that failed.
    """

    def __init__(
        self, meter_provider: MeterProvider, before_collection: Callable[[], object]
    ) -> None:
        """Start without an attempt.

        Args:
            meter_provider: The provider for the library's metrics.
            before_collection: A function that is called before each collection of the metrics. The
                first one may come at once.
        """
        self._before_collection = before_collection
        self.forked()
        self.use_meter_provider(meter_provider)

    def forked(self) -> None:
        """Start anew in a forked child, where other threads' locks stay held for ever."""
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self.attempts = self.errors = 0
        self.log = FailureLog(time.monotonic)
        self.resends = ResendTracker(time.monotonic)

    def use_meter_provider(self, meter_provider: MeterProvider) -> None:
        """Record in the instruments of a provider from now on."""
        self.metrics = AttemptMetrics(meter_provider, time.monotonic, self._collecting)

    def _collecting(self) -> None:
        self._before_collection()
        # Not here: the SDK holds a lock, for which a log handler of the app's may wait.
        if self.log.has_ended_storm():
            with suppress(RuntimeError):  # no thread can be started at the interpreter's exit
                threading.Thread(target=self.log.sum_up_ended, daemon=True).start()

    def count(self, attempts: int, errors: int) -> None:
        """Count attempts that have ended, and those that failed."""
        with self._lock:
            self.attempts += attempts
            self.errors += errors

    def stop(self) -> None:
        """Log the failures that are counted and not logged yet."""
        self.log.sum_up()
