"""The handle that `init` returns."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from assisters_otel import process
from assisters_otel.fail_safe import fail_safe, own_errors
from assisters_otel.instrumentor import AssistersInstrumentor
from assisters_otel.otel_api import providers
from assisters_otel.providers import owned_providers, workers
from assisters_otel.variables import corrections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from typing_extensions import Self

    from assisters_otel.config import InitArguments
    from assisters_otel.instrumentation import Client, Instrumentation

NOT_SEEN: Final = ("http.client", "urllib.request", "urllib3", "pycurl", "niquests")
"""Clients of which no request is seen; urllib3's only under requests."""


class Status(NamedTuple):
    """What `Telemetry.status` tells.

    Attributes:
        active: Whether anything is watched.
        clients: What is watched: every client that is installed, imported or not, and by
            whom its HTTP spans are made.
        not_seen: Clients of which no request is seen, whatever is switched on.
        hosts: Which hosts are watched, as ``host[:port][/path-prefix]``.
        destinations: Where telemetry goes.
        attempts: How many attempts have ended in this process.
        errors: How many of them had failed.
        last_failure: The last trouble of our own, as one line, or None.
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
    """What `init` switched on. A context manager: leaving it shuts down.

    Attributes:
        is_recording: True if it is that of a recording of `testing`, which alone ends it.
        suspended: The handle that a recording's stands in for, or None.
    """

    def __init__(
        self,
        arguments: InitArguments,
        instrumentation: Instrumentation | None = None,
        exports: owned_providers.OwnedProviders | None = None,
        reused: tuple[Any, ...] = (),
    ) -> None:
        """Made by `init`.

        Args:
            arguments: What `init` was called with, to compare a second call's.
            instrumentation: What is patched, or None: then this handle is inert.
            exports: The providers that we built, or None.
            reused: The app's own providers that we record in. Never shut down by us.
        """
        self.arguments = arguments
        self._instrumentation = instrumentation
        self._exports = exports
        self._reused = reused
        self.is_recording = False
        self.suspended: Telemetry | None = None
        self._workers = workers.DaemonWorkers(len(providers.flushes(reused)))

    def is_over(self) -> bool:
        """Say whether what `init` patched has been taken out by somebody."""
        on = self._instrumentation
        return on is not None and AssistersInstrumentor().active is not on

    def status(self) -> Status:
        """Say what is patched, watched, sent and seen, and what went wrong."""
        on = self._instrumentation
        if on is None:
            return Status(False, (), NOT_SEEN, (), (), 0, 0, own_errors.last_failure)
        destinations = tuple(f"the application's {type(p).__name__}" for p in self._reused)
        if self._exports is not None:
            destinations += self._exports.destinations
        is_active = process.PROCESS.current is self and not self.is_over()
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
            timeout_s: Seconds to wait for it, at most. Infinity is no limit.

        Returns:
            Whether it was done in time, and the collector has taken all of it.

        Raises:
            ValueError: *timeout_s* is no number of 0 or more.
        """
        if not isinstance(timeout_s, (int, float)) or not timeout_s >= 0:
            raise ValueError(f"timeout_s is a number of seconds, not {timeout_s!r}. Write flush(5)")
        return bool(self._flush(timeout_s))

    def flush_at_end(self, timeout_s: float) -> bool:
        """Send what is queued, as `flush` does, and do not wait long for who is known to be dead.

        Args:
            timeout_s: Seconds to wait for it, at most.

        Returns:
            True if it was done in time, and the collector has taken all of it.
        """
        return bool(self._flush(timeout_s, at_end=True))

    @property
    def has_app_providers(self) -> bool:
        """True if this records in a provider of the app's own."""
        return bool(self._reused)

    @fail_safe
    def _flush(self, timeout_s: float, *, at_end: bool = False) -> bool:
        until_s = time.monotonic() + workers.limited(timeout_s)
        if self._instrumentation is not None:
            self._instrumentation.recorder.deferred.run_all(timeout_s)
        begun = self._workers.submit(providers.flushes(self._reused))
        left_s = max(until_s - time.monotonic(), 0)
        done = self._exports is None or self._exports.flush(left_s, at_end=at_end)
        return workers.run_all(begun, max(until_s - time.monotonic(), 0)) and done

    def shutdown(self) -> None:
        """Take every patch out, send the rest and end the providers that we built.

        The app's own providers go on. Called again, it does nothing; neither does it inside a
        recording of `testing`, which goes on until its own end.
        """
        if not self.is_recording:
            self.end(process.END_S)

    def end(self, timeout_s: float) -> None:
        """Do what `shutdown` does, and wait *timeout_s* seconds for it at most."""
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
            flushed = self._begin_last_flush()
            self._end_exports(timeout_s)
            self._end_flush(flushed or (), until_s)

    @fail_safe
    def _begin_last_flush(self) -> list[Future[object]]:
        """Flush those of the app's providers that do not end by themselves."""
        return self._workers.submit(providers.flushes(providers.without_exit_hook(self._reused)))

    @fail_safe
    def _end_flush(self, flushed: Sequence[Future[object]], until_s: float) -> None:
        workers.run_all(flushed, max(until_s - time.monotonic(), 0))
        self._workers.stop()

    @fail_safe
    def _uninstrument(self) -> None:
        if self._instrumentation is not None and not self.is_over():
            AssistersInstrumentor().uninstrument()

    @fail_safe
    def _end_exports(self, timeout_s: float) -> None:
        if self._exports is not None:
            for provider in (self._exports.tracer_provider, self._exports.meter_provider):
                if provider is not None:
                    process.PROCESS.note_shut_down(provider)
            self._exports.shutdown(timeout_s)

    def forked(self) -> None:
        """Begin anew in a forked child: own counts, own metrics, a flush at its exit."""
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
                self._instrumentation.record_in(self._exports.renew_after_fork())

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
