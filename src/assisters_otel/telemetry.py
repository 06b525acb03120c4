"""The handle that `init` returns: its status, its flush, its end.

The app's own providers are flushed and never shut down. The providers that `init` has built are
shut down with the handle.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, cast

from assisters_otel import process
from assisters_otel.fail_safe import fail_safe, own_errors
from assisters_otel.instrumentation import SWITCH
from assisters_otel.otel_api import providers
from assisters_otel.providers import workers
from assisters_otel.records import Record
from assisters_otel.variables import corrections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from typing_extensions import Self

    from assisters_otel.config import InitArguments
    from assisters_otel.instrumentation import Client, Instrumentation
    from assisters_otel.providers.owned_providers import OwnedProviders

NOT_SEEN: Final = ("http.client", "urllib.request", "urllib3", "pycurl", "niquests")
"""The clients whose requests are not seen. Those of urllib3 are seen under requests only."""


class Status(Record):
    """The result of `Telemetry.status`.

    Attributes:
        active: True if requests are watched.
        clients: The watched clients: each one that is installed, imported or not.
        not_seen: The clients whose requests are not seen, whatever is switched on.
        hosts: The watched hosts, as ``host[:port][/path-prefix]``.
        destinations: The destinations of the telemetry.
        attempts: The number of attempts that have ended in this process.
        errors: The number of them that failed.
        last_failure: The last fault of the library, as one line, or None.
    """

    active: bool
    clients: tuple[Client, ...]
    not_seen: tuple[str, ...]
    hosts: tuple[str, ...]
    destinations: tuple[str, ...]
    attempts: int
    errors: int
    last_failure: str | None


class Telemetry:
    """The handle of what `init` has switched on. As a context manager it shuts down at its end.

    Attributes:
        is_recording: True if the handle is that of a recording of `testing`, which alone ends it.
        suspended: The handle that is replaced while the recording lasts, or None.
    """

    def __init__(
        self,
        arguments: InitArguments,
        instrumentation: Instrumentation | None = None,
        exports: OwnedProviders | None = None,
        reused: tuple[Any, ...] = (),
    ) -> None:
        """Create the handle. `init` alone does so.

        Args:
            arguments: The arguments of `init`, for the comparison with a second call's.
            instrumentation: The patches and the recorder. None for an inert handle.
            exports: The providers that `init` has built, or None.
            reused: The app's own providers. The library records in them, and never shuts them down.
        """
        self.arguments = arguments
        self._instrumentation = instrumentation
        self._exports = exports
        self._reused = reused
        self.is_recording = False
        self.suspended: Telemetry | None = None
        self._workers = workers.DaemonWorkers(len(providers.flushes(reused)))

    def was_uninstrumented(self) -> bool:
        """Return True if the app has taken out the patches of `init`, by `uninstrument`."""
        on = self._instrumentation
        return on is not None and SWITCH.active is not on

    def status(self) -> Status:
        """Return what is watched, where telemetry goes, the counts, and the last fault."""
        on = self._instrumentation
        if on is None:
            return Status(False, (), NOT_SEEN, (), (), 0, 0, own_errors.last_failure)
        destinations = tuple(f"the application's {type(p).__name__}" for p in self._reused)
        if self._exports is not None:
            destinations += self._exports.destinations
        is_active = process.PROCESS.current is self and not self.was_uninstrumented()
        return Status(
            active=is_active,
            clients=on.clients() if is_active else (),
            not_seen=NOT_SEEN,
            hosts=tuple(map(str, on.config.hosts)),
            destinations=destinations,
            attempts=on.recorder.sinks.attempts,
            errors=on.recorder.sinks.errors,
            last_failure=own_errors.last_failure,
        )

    def flush(self, timeout_s: float = process.END_S) -> bool:
        """Send what is queued.

        Args:
            timeout_s: The longest time to wait, in seconds. Infinity is no limit.

        Returns:
            True if all was sent in time, and the collector has taken all of it.

        Raises:
            ValueError: *timeout_s* is no number of 0 or more.
        """
        if not isinstance(timeout_s, (int, float)) or not timeout_s >= 0:
            raise ValueError(f"timeout_s is a number of seconds, not {timeout_s!r}. Write flush(5)")
        return bool(self._flush(timeout_s))

    def flush_at_end(self, timeout_s: float) -> bool:
        """Send what is queued, as `flush` does, with a short wait for a collector known as dead.

        Args:
            timeout_s: The longest time to wait, in seconds.

        Returns:
            True if all was sent in time, and the collector has taken all of it.
        """
        return bool(self._flush(timeout_s, at_end=True))

    @property
    def has_app_providers(self) -> bool:
        """True if the library records in a provider of the app's own."""
        return bool(self._reused)

    @fail_safe
    def _flush(self, timeout_s: float, *, at_end: bool = False) -> bool:
        until_s = time.monotonic() + workers.limited(timeout_s)
        if self._instrumentation is not None:
            self._instrumentation.recorder.settle(timeout_s)
        started = self._workers.submit(providers.flushes(self._reused))
        left_s = max(until_s - time.monotonic(), 0)
        done = self._exports is None or self._exports.flush(left_s, at_end=at_end)
        return workers.run_all(started, max(until_s - time.monotonic(), 0)) and done

    def shutdown(self) -> None:
        """Remove all patches, send what is queued, and shut down the providers that `init` built.

        The app's own providers go on. A second call does nothing. Inside a recording of `testing` a
        call does nothing either: the recording goes on until its own end.
        """
        if not self.is_recording:
            self.end(process.END_S)

    def end(self, timeout_s: float) -> None:
        """Do what `shutdown` does, and wait for *timeout_s* seconds at most."""
        with process.PROCESS.lock:
            current = cast("Telemetry | None", process.PROCESS.current)
            if current is not self:
                if current is not None and current.suspended is self:
                    current.suspended = None
                    self._end_exports(timeout_s)
                return
            if self.suspended is not None:  # the process ends inside a recording
                self.suspended.end(timeout_s)
            process.PROCESS.current = None
            until_s = time.monotonic() + timeout_s
            self._uninstrument()
            flushed = self._start_last_flush()
            self._end_exports(timeout_s)
            self._end_flush(flushed or (), until_s)

    @fail_safe
    def _start_last_flush(self) -> list[Future[object]]:
        """Start flushing those of the app's providers that have no exit hook of their own."""
        return self._workers.submit(providers.flushes(providers.without_exit_hook(self._reused)))

    @fail_safe
    def _end_flush(self, flushed: Sequence[Future[object]], until_s: float) -> None:
        workers.run_all(flushed, max(until_s - time.monotonic(), 0))
        self._workers.stop()

    @fail_safe
    def _uninstrument(self) -> None:
        if self._instrumentation is not None and not self.was_uninstrumented():
            SWITCH.off()

    @fail_safe
    def _end_exports(self, timeout_s: float) -> None:
        if self._exports is not None:
            for provider in (self._exports.tracer_provider, self._exports.meter_provider):
                if provider is not None:
                    process.PROCESS.note_shut_down(provider)
            self._exports.shutdown(timeout_s)

    def forked(self) -> None:
        """Start anew in a forked child, with counts and metrics of its own."""
        if self.suspended is not None:
            self.suspended.forked()
        if self._instrumentation is None:
            return
        ours = self._exports
        renew = None if ours is None or ours.meter_provider is None else self._renew_metrics
        self._instrumentation.forked(renew)

    def _renew_metrics(self) -> None:
        if self._exports is not None and self._instrumentation is not None:
            with corrections.corrected():
                self._instrumentation.use_meter_provider(self._exports.renew_after_fork())

    def __repr__(self) -> str:
        told = self.status()
        state = "active" if told.active else "inactive"
        return f"<Telemetry {', '.join((state, f'{len(told.hosts)} hosts', *told.destinations))}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()
