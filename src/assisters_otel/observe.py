"""Watches an attempt: a clock, its span, the sinks; and the one place that catches.

attempt = observer.start(request, span)    the clock runs
attempt.answered(status, headers)          the clock stops; is the body wanted?
attempt.ended(body)                        sinks
attempt.raised(error, transient=…)         or this: the clock stops, sinks
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

from assisters_otel import endpoints, envelope, names, spans
from assisters_otel.attempt import FAILED, Outcome, Request
from assisters_otel.logs import Log
from assisters_otel.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span

    from assisters_otel.config import Config, Host

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(names.SCOPE)
_HTTPS: Final = 443


class Guard:
    """Runs our own code so that its trouble never reaches the app: the one place that catches.

    Attributes:
        strict: Raise it all the same, which `init` offers for tests.
        last_failure: The last trouble, as one line, or None.
    """

    def __init__(self, *, strict: bool = False, passing: type[Exception] | None = None) -> None:
        """Begin without trouble.

        Args:
            strict: Raise it.
            passing: What is raised in any case: the user's own mistake.
        """
        self.strict = strict
        self._passing = passing
        self.last_failure: str | None = None

    def __call__(self, step: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Run *step*; return what it returns, or None if it raised."""
        try:
            return step(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - that is what it is for
            self.note(error)
            return None

    def note(self, error: Exception) -> None:
        """Keep and log a trouble of ours; the same one again is logged at DEBUG only.

        Raises:
            Exception: *error*, if the guard is strict or lets it pass.
        """
        if self.strict or (self._passing is not None and isinstance(error, self._passing)):
            raise error
        failure = envelope.clean(f"{type(error).__name__}: {error}", envelope.MAX_MESSAGE)
        level = logging.DEBUG if failure == self.last_failure else logging.WARNING
        self.last_failure = failure
        _log.log(level, "trouble of our own, the app is not touched: %s", failure)
        if _log.isEnabledFor(logging.DEBUG):
            trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
            _log.debug("where it came from:\n%s", envelope.mask(trace))


class Observer:
    """What all clients report to.

    Attributes:
        guard: Runs whatever of ours could fail.
        attempts: How many have ended.
        errors: How many of them had failed.
    """

    def __init__(self, config: Config, guard: Guard, meter_provider: MeterProvider) -> None:
        self.guard = guard
        self.attempts = 0
        self.errors = 0
        self._before_next: Callable[[], object] | None = None
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self._capture_message = config.capture_message
        self._hosts = config.hosts_by_name()
        self._log = Log(time.monotonic)
        self._metrics = Metrics(meter_provider, time.monotonic)

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Begin anew in a forked child, where another thread's locks are held for ever.

        Args:
            before_next: Run once before the child's first attempt, or None.
        """
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self.attempts = self.errors = 0
        self._log = Log(time.monotonic)
        self._before_next = before_next

    def record_in(self, meter_provider: MeterProvider) -> None:
        """Record in other instruments from now on."""
        self._metrics = Metrics(meter_provider, time.monotonic)

    def stop(self) -> None:
        """Watch no host any more, and say what is still to be said."""
        self._hosts = {}
        self._log.sum_up()

    def hosts(self, name: str) -> tuple[Host, ...] | None:
        """Give the hosts that are watched under a name, or None: then it is none of ours.

        Args:
            name: In lower case.
        """
        return self._hosts.get(name)

    def request(
        self, hosts: tuple[Host, ...], method: str, port: int, target: bytes
    ) -> Request | None:
        """Say what a request is, if it goes to a port and path that are watched.

        Args:
            hosts: What `hosts` gave for its name.
            method: As sent.
            port: Where it goes.
            target: The path and query as sent.

        Returns:
            The request, or None if it is none of ours.
        """
        path = target.partition(b"?")[0].decode("latin-1")
        for host in hosts:
            if host.covers(port, path):
                break
        else:
            return None
        if self._before_next is not None:
            step, self._before_next = self._before_next, None
            self.guard(step)
        at = None if port == _HTTPS else port
        return Request(method, path, endpoints.template(path), host.name, at)

    def start(self, request: Request, span: Span | None) -> Attempt:
        """Begin watching an attempt.

        Args:
            request: What is about to be sent.
            span: Its client span, open, or None: then there are metrics only.
        """
        if span is not None:
            self.guard(self._introduce, span, request)
        return Attempt(self, request, span)

    @staticmethod
    def _introduce(span: Span, request: Request) -> None:
        spans.redact(span, request)
        spans.rename(span, request)

    def finish(self, outcome: Outcome, span: Span | None) -> None:
        """Hand an outcome to the sinks, each guarded for itself."""
        failed = outcome.failed
        with self._lock:
            self.attempts += 1
            self.errors += failed
        if span is not None:
            if failed:
                # Now is when the answer came, not when the span ends.
                late = partial(self._describe, now=time.time(), outcome=outcome)
                self.guard(spans.write_last, span, partial(self.guard, late))
            else:
                spans.forget_last(span)
                self.guard(self._describe, span, time.time(), outcome)
        self.guard(self._metrics.record, outcome)
        if failed:
            self.guard(self._log.record, outcome)

    def _describe(self, span: Span, now: float, outcome: Outcome) -> None:
        spans.describe(span, outcome, now, capture_message=self._capture_message)


class Attempt:
    """One attempt on its way. Every way out of it passes `Observer.finish` once."""

    __slots__ = ("_duration_s", "_headers", "_observer", "_request", "_span", "_started", "_status")

    def __init__(self, observer: Observer, request: Request, span: Span | None) -> None:
        self._observer = observer
        self._request = request
        self._span = span
        self._duration_s = 0.0
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._started = time.perf_counter()

    def answered(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Take the response's headers, which end the attempt's duration.

        Args:
            status: The HTTP status.
            headers: Names and values as sent.

        Returns:
            Whether it failed, so the body is wanted by `ended`.
        """
        self._duration_s = time.perf_counter() - self._started
        self._status = status
        self._headers = envelope.pick(headers)
        return status >= FAILED

    def body_may_be_read(self) -> bool:
        """Say whether the body of what `answered` took may be read ahead."""
        return envelope.may_be_read(self._headers)

    def ended(self, body: bytes | None = None) -> None:
        """Report an answer.

        Args:
            body: What was read of a failed answer's body, as sent; None if nothing was.
        """
        error = self._observer.guard(_envelope, body, self._headers) if body else None
        self._observer.finish(
            Outcome(
                self._request,
                self._duration_s,
                status=self._status,
                headers=self._headers,
                envelope=error,
            ),
            self._span,
        )

    def raised(self, error: BaseException, *, transient: bool) -> None:
        """Report that there is no answer. The caller raises *error* again.

        Args:
            error: What came in its place. What is no `Exception` is the caller giving up.
            transient: Whether the connection, the peer or the clock failed, and not we.
        """
        outcome = Outcome(
            self._request,
            time.perf_counter() - self._started,
            exception=type(error).__qualname__,
            cancelled=not isinstance(error, Exception),
            transient=transient,
        )
        self._observer.finish(outcome, self._span)
        if self._span is not None and outcome.failed:
            self._observer.guard(spans.mask_exceptions, self._span, error)


def _envelope(body: bytes, headers: Mapping[bytes, bytes]) -> envelope.Envelope | None:
    encoding = headers.get(envelope.CONTENT_ENCODING, b"").decode("latin-1")
    plain = envelope.decompress(body, encoding) if encoding else body
    return None if plain is None else envelope.parse(plain)
