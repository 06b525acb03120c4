"""Watches calls and attempts: clocks, spans, the sinks.

call = observer.call(asked)                if an SDK has calls; its scope is entered
attempt = observer.start(request, …)       what is it a resend of? the clock runs
attempt.answered(status, headers)          the clock stops; is the body wanted?
attempt.ended(body)                        sinks
attempt.raised(error, transient=…)         or this: the clock stops, sinks
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from opentelemetry import trace

from assisters_otel import own_export
from assisters_otel.api import endpoints, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.request import ApiRequest
from assisters_otel.attempts import call as attempts_call
from assisters_otel.attempts.attempt import Sending
from assisters_otel.fail_safe import fail_safe
from assisters_otel.recording.attempt import Attempt
from assisters_otel.resends.tracker import ResendTracker
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks import attempt_span, foreign_span, known_attempts, stream_span
from assisters_otel.sinks.call_span import end_call_span, start_or_adopt_call_span
from assisters_otel.sinks.failure_log import FailureLog
from assisters_otel.sinks.known_attempts import find_attempt, remember_attempt
from assisters_otel.sinks.metrics import AttemptMetrics
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from assisters_otel.api.request import RequestReader
    from assisters_otel.attempts import clock
    from assisters_otel.config import Config
    from assisters_otel.hosts import Host
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome, Resend
    from assisters_otel.recording.response_body import Answer

# What clients leave as it is in a path: RFC 3986's reserved characters, and the sign of an escape.
_UNQUOTED: Final = "%/:=&?~#+!$,;'@()*[]"
_HTTPS: Final = 443
_HTTP: Final = 80


class Observer:
    """What all clients report to.

    Attributes:
        attempts: How many have ended.
        errors: How many of them had failed.
    """

    def __init__(
        self,
        config: Config,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider,
    ) -> None:
        """Begin.

        Args:
            config: What was decided.
            tracer_provider: For the spans of calls; None for the global one.
            meter_provider: For our metrics.
        """
        self.attempts = 0
        self.errors = 0
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self._capture_message = config.capture_message
        self._captures_headers = config.captures_headers
        self._hosts = config.hosts_by_name()
        self._log = FailureLog(time.monotonic)
        self._resends = ResendTracker(time.monotonic)
        self._waiting: set[attempts_call.Call | Answer] = set()
        self._put_off: deque[Callable[[], object]] = deque()
        self._collecting = 0
        self._is_begun = False
        self._before_first: Callable[[], object] | None = self._watch_collector
        self._tracer = trace.get_tracer(names.SCOPE, __version__, tracer_provider, names.SCHEMA_URL)
        # Last: from now on a reader may ask.
        self._metrics = AttemptMetrics(meter_provider, time.monotonic, self.collect)

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Begin anew in a forked child, where another thread's locks are held for ever.

        Args:
            before_next: Run once before the child's first attempt, or None.
        """
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self.attempts = self.errors = 0
        self._log = FailureLog(time.monotonic)
        self._resends = ResendTracker(time.monotonic)
        # The parent's calls, which it ends itself.
        self._waiting = set()
        self._put_off = deque()

        def first() -> None:
            self._watch_collector()
            if before_next is not None:
                before_next()

        self._before_first, self._is_begun = first, False

    def record_in(self, meter_provider: MeterProvider) -> None:
        """Record in other instruments from now on."""
        self._metrics = AttemptMetrics(meter_provider, time.monotonic, self.collect)

    @fail_safe
    def collect(self) -> None:
        """Do what was put off inside the garbage collector."""
        while True:
            try:
                step = self._put_off.popleft()
            except IndexError:  # nothing left; another thread may have taken the last
                return
            _run(step)

    def watch(self, config: Config) -> None:
        """Watch the hosts of *config* from now on: other ones, or the same again after `stop`."""
        self._hosts = config.hosts_by_name()
        if self._is_begun:
            self._watch_collector()

    @fail_safe
    def stop(self) -> None:
        """Watch no host any more, end what is open, and say what is still to be said."""
        self._hosts = {}
        if self._collector in gc.callbacks:
            gc.callbacks.remove(self._collector)
        self._collecting = 0
        self.collect()
        for waiting in list(self._waiting):
            waiting.abandon()
        self._log.sum_up()

    def hosts(self, name: str) -> tuple[Host, ...] | None:
        """Give the hosts that are watched under a name, or None: then it is none of ours.

        Args:
            name: In lower case.
        """
        return self._hosts.get(name)

    def request(
        self, hosts: tuple[Host, ...], method: str, port: int, target: bytes
    ) -> ApiRequest | None:
        """Say what a request is, if it goes to a port and path that are watched.

        Args:
            hosts: What `hosts` gave for its name.
            method: As sent.
            port: Where it goes.
            target: The path and query as sent.

        Returns:
            The request, or None if it is none of ours.
        """
        if own_export.log_listener.get() is not None:
            return None  # an export of ours, to a collector on a watched host
        path = target.partition(b"?")[0].decode("latin-1")
        for host in hosts:
            if host.covers(port, path):
                break
        else:
            return None
        if not self._is_begun:
            self._begin()
        if self._put_off:
            self.collect()
        at = None if port == _HTTPS else port
        return ApiRequest(method, path, endpoints.template(path), host.name, at)

    def _begin(self) -> None:
        with self._lock:  # another thread's attempt waits until there is something to record in
            # Taken away first: a signal handler may send a request meanwhile.
            step, self._before_first = self._before_first, None
            if step is not None:
                _run(step)
                self._is_begun = True

    # -- calls ------------------------------------------------------------------------------

    def call(self, asked: attempts_call.Asked) -> attempts_call.Call:
        """Begin watching a call, in a span of ours or in the one around it.

        Args:
            asked: What it is for.
        """
        around = trace.get_current_span()
        nothing = trace.INVALID_SPAN, False
        span, is_ours = start_or_adopt_call_span(self._tracer, asked) or nothing
        above = around if span is not around else getattr(around, "parent", None)
        context = above.get_span_context() if isinstance(above, trace.Span) else above
        if context is None:
            context = trace.INVALID_SPAN_CONTEXT
        return attempts_call.Call(asked, span, context, self, is_ours=is_ours)

    def call_of(  # noqa: PLR0913, PLR0917 - a URL has that many parts
        self, method: str, scheme: str, host: str, port: int | None, path: str, model: object = None
    ) -> attempts_call.Call | None:
        """Begin watching what an SDK is asked for, if it goes to a host that is watched.

        Args:
            method: In any case.
            scheme: ``https`` or ``http``.
            host: In lower case.
            port: None for the scheme's own.
            path: As asked for, without the query; the client may still encode some of it.
            model: As the caller named it, or None.
        """
        hosts = self.hosts(host)
        if hosts is None:
            return None
        port = port or (_HTTPS if scheme == "https" else _HTTP)
        target = quote(path, safe=_UNQUOTED).encode()
        request = self.request(hosts, method.upper(), port, target)
        if request is None:
            return None
        operation = endpoints.OPERATIONS.get(request.template or "")
        name = redaction.clean(model) or None if isinstance(model, str) else None
        return self.call(attempts_call.Asked(request, operation, name))

    def raised(self, call: attempts_call.Call, error: BaseException) -> None:
        """Remember a call's last attempt by what the SDK has raised, for `explain`."""
        if call.last is not None:
            remember_attempt(error, call.last, call.span)

    @fail_safe
    def raised_for(self, response: object, error: BaseException) -> None:
        """Remember the attempt of a response by what the client has raised for it."""
        found = find_attempt(response)
        if found is not None:
            known_attempts.keep(error, found)

    def waits(self, one: attempts_call.Call | Answer) -> None:
        """Take note of a call that has returned, or a stream outside one, with its body open."""
        self._waiting.add(one)

    def is_collecting(self) -> bool:
        """Say whether this is running inside the garbage collector."""
        return self._collecting == threading.get_ident()

    def put_off(self, step: Callable[[], object]) -> None:
        """Do something before the next attempt, at a flush, or when metrics are asked for."""
        self._put_off.append(step)

    def _watch_collector(self) -> None:
        if self._collector not in gc.callbacks:
            gc.callbacks.append(self._collector)

    def _collector(self, phase: str, _info: dict[str, int]) -> None:
        self._collecting = threading.get_ident() if phase == "start" else 0

    def ended(self, call: attempts_call.Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Hand a call's outcome to the sinks, each guarded for itself."""
        self._waiting.discard(call)
        self._metrics.record_call(outcome, call.context)
        if outcome.failed:
            self._log_call(outcome, call.span)
        end_call_span(
            call,
            outcome,
            end_ns,
            capture_message=self._capture_message,
        )

    # -- attempts ---------------------------------------------------------------------------

    def start(
        self,
        request: ApiRequest,
        message: RequestReader,
        span: Span | None,
        around: Span | None = None,
    ) -> Attempt:
        """Begin watching an attempt.

        Args:
            request: What is about to be sent.
            message: For more of it.
            span: Its client span, open, or None: then there are metrics only.
            around: What was current before that span, if that is known.
        """
        call = attempts_call.current()
        if call is not None and not call.takes(request, message):
            call = None
        sending = Sending(
            request,
            message,
            span,
            around if call is None else call.around,
            None if call is None else call.chain,
        )
        resend = self._resends.started(sending)
        if span is not None:
            self._introduce(span, request, resend)
        if resend is not None and resend.is_retry:
            self._metrics.record_retry(request, resend)
        return Attempt(self, sending, call)

    @staticmethod
    @fail_safe
    def _introduce(span: Span, request: ApiRequest, resend: Resend | None) -> None:
        attempt_span.redact_request(span, request)
        attempt_span.set_span_name(span, request)
        if resend is not None:
            attempt_span.write_resend(span, resend)

    def finish(
        self, outcome: AttemptOutcome, sending: Sending, call: attempts_call.Call | None
    ) -> None:
        """Hand an attempt's outcome to the sinks, each guarded for itself."""
        failed = outcome.failed
        span = sending.span
        with self._lock:
            self.attempts += 1
            self.errors += failed
        if span is not None:
            if failed:
                # Now is when the answer came, not when the span ends.
                describe = partial(self._describe, now=time.time(), outcome=outcome)
                if self._captures_headers:
                    describe = partial(self._describe_captured, describe, sending)
                foreign_span.before_end(span, describe)
            else:
                foreign_span.cancel_before_end(span)
                self._describe(span, time.time(), outcome)
                if self._captures_headers:
                    redact = partial(self._redact_answer, sending)
                    foreign_span.before_end(span, redact)
        self._metrics.record(outcome)
        if call is not None:
            call.last = outcome
        elif failed:
            self._log_attempt(outcome, span)
        if failed or outcome.cancelled:
            self._resends.failed(sending, outcome, time.time())
            return
        is_watched = call is not None or response_headers.is_event_stream(outcome.headers)
        is_open = is_watched and not outcome.is_redirect
        self._resends.answered(sending, is_open=is_open)
        if response_headers.LOCATION in outcome.headers and outcome.is_redirect:
            location = outcome.headers[response_headers.LOCATION].decode("latin-1")
            self._resends.redirected(sending, location)

    def _describe_captured(
        self, describe: Callable[[Span], object], sending: Sending, span: Span
    ) -> None:
        describe(span)
        self._redact_answer(sending, span)

    @staticmethod
    def _redact_answer(sending: Sending, span: Span) -> None:
        attempt_span.redact_answer(span, sending.secrets())

    # -- bodies -----------------------------------------------------------------------------

    @fail_safe
    def open_stream(self, sending: Sending) -> Span | None:
        """Begin the span of an event stream outside a call, if its attempt has one."""
        return (
            None if sending.span is None else stream_span.start_stream_span(self._tracer, sending)
        )

    def body_failed(self, answer: Answer, outcome: AttemptOutcome) -> None:
        """Take note of an answer's event stream that will have failed, before its end."""
        self._resends.failed(answer.sending, outcome, time.time())

    def body_ended(self, answer: Answer, outcome: AttemptOutcome, at: clock.Moment | None) -> None:
        """Take the end of an answer's body, after its attempt and with all that it counts for.

        Args:
            answer: Whose body it was.
            outcome: The attempt's, with what became of the body.
            at: When, or None for now.
        """
        call = answer.call
        shown = answer.sending.span if answer.span is None else answer.span
        context = None
        if call is not None:
            call.last = outcome
            context = call.context
        elif shown is not None:
            context = trace.set_span_in_context(shown)
        if outcome.failed:
            with self._lock:
                self.errors += 1
            self._metrics.record_broken(outcome, context)
        if (outcome.failed or outcome.cancelled) and not answer.body.has_failed:
            self._resends.failed(answer.sending, outcome, time.time())
        else:
            self._resends.closed(answer.sending)
        if outcome.stream is not None:
            model = None if call is None else call.asked.model
            self._metrics.record_stream(outcome, model, context)
        if call is not None:
            call.body_ended(answer.body, at)
            return
        self._waiting.discard(answer)
        if outcome.failed:
            self._log_attempt(outcome, shown)
        if answer.span is not None:
            end_ns = None if at is None else at.unix_ns
            capture = self._capture_message
            stream_span.end_stream_span(
                answer.span,
                outcome,
                end_ns=end_ns,
                capture_message=capture,
            )

    @fail_safe
    def _log_call(self, outcome: CallOutcome, span: Span) -> None:
        self._log.record_call(outcome, foreign_span.span_context_of(span))

    @fail_safe
    def _log_attempt(self, outcome: AttemptOutcome, span: Span | None) -> None:
        self._log.record(outcome, foreign_span.span_context_of(span))

    @fail_safe
    def _describe(self, span: Span, now: float, outcome: AttemptOutcome) -> None:
        attempt_span.write_outcome(span, outcome, now, capture_message=self._capture_message)


@fail_safe
def _run(step: Callable[[], object]) -> None:
    step()
