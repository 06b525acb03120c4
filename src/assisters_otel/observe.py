"""Watches calls and attempts: clocks, spans, the sinks; and the one place that catches.

call = observer.call(asked)                if an SDK has calls; its scope is entered
attempt = observer.start(request, …)       what is it a resend of? the clock runs
attempt.answered(status, headers)          the clock stops; is the body wanted?
attempt.ended(body)                        sinks
attempt.raised(error, transient=…)         or this: the clock stops, sinks
"""

from __future__ import annotations

import gc
import logging
import threading
import time
import traceback
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, ParamSpec, TypeVar
from weakref import ref as weakref

from opentelemetry import trace

from assisters_otel import bodies, calls, endpoints, envelope, names, spans, streams
from assisters_otel.attempt import FAILED, REDIRECTED, Outcome, Request, judge
from assisters_otel.logs import Log
from assisters_otel.metrics import Metrics
from assisters_otel.resend import Resends, Sending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, SpanContext, TracerProvider

    from assisters_otel.attempt import CallOutcome, Resend
    from assisters_otel.config import Config, Host
    from assisters_otel.resend import Message

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger(names.SCOPE)
_HTTPS: Final = 443
_HTTP: Final = 80
_SUCCESS: Final = 200


class Seen(NamedTuple):
    """What became of an attempt, for whoever has its response or its exception in hand.

    Attributes:
        outcome: How it ended.
        span: Its span, whose context is not valid if it has none.
        at_s: When, in Unix seconds.
    """

    outcome: Outcome
    span: SpanContext
    at_s: float

    @property
    def trace_id(self) -> str | None:
        """Of its span, in hex; None if it has none."""
        return trace.format_trace_id(self.span.trace_id) if self.span.is_valid else None


# By the app's own object, and gone with it: an attribute of ours on it would show. By its id, since
# it need not be hashable.
_seen: Final[dict[int, tuple[weakref[object], Seen]]] = {}


def seen(thing: object) -> Seen | None:
    """Give what became of the failed attempt that a response or an exception is from."""
    found = _seen.get(id(thing))
    return None if found is None else found[1]


def _remember(thing: object, outcome: Outcome, span: Span | None) -> None:
    _keep(thing, Seen(outcome, _context(span), time.time()))


def _keep(thing: object, what: Seen) -> None:
    key = id(thing)
    try:
        gone = weakref(thing, partial(_seen.pop, key))
    except TypeError:  # what cannot be referred to weakly is not kept
        return
    _seen[key] = gone, what


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

    def __init__(
        self,
        config: Config,
        guard: Guard,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider,
    ) -> None:
        """Begin.

        Args:
            config: What was decided.
            guard: Runs whatever of ours could fail.
            tracer_provider: For the spans of calls; None for the global one.
            meter_provider: For our metrics.
        """
        self.guard = guard
        self.attempts = 0
        self.errors = 0
        self._before_next: Callable[[], object] | None
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self._capture_message = config.capture_message
        self._hosts = config.hosts_by_name()
        self._log = Log(time.monotonic)
        self._metrics = Metrics(meter_provider, time.monotonic, self.collect)
        self._resends = Resends(time.monotonic)
        self._tracer = trace.get_tracer(
            names.SCOPE, names.__version__, tracer_provider, names.SCHEMA_URL
        )
        self._waiting: set[calls.Call | Answer] = set()
        self._put_off: deque[Callable[[], object]] = deque()
        self._collecting = 0
        self._before_next = self._watch_collector

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Begin anew in a forked child, where another thread's locks are held for ever.

        Args:
            before_next: Run once before the child's first attempt, or None.
        """
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self.attempts = self.errors = 0
        self._log = Log(time.monotonic)
        self._resends = Resends(time.monotonic)
        # The parent's calls, which it ends itself.
        self._waiting = set()
        self._put_off = deque()

        def first() -> None:
            self._watch_collector()
            if before_next is not None:
                before_next()

        self._before_next = first

    def record_in(self, meter_provider: MeterProvider) -> None:
        """Record in other instruments from now on."""
        self._metrics = Metrics(meter_provider, time.monotonic, self.collect)

    def collect(self) -> None:
        """Do what was put off inside the garbage collector."""
        while self._put_off:
            self.guard(self._put_off.popleft())

    def stop(self) -> None:
        """Watch no host any more, end what is open, and say what is still to be said."""
        self._hosts = {}
        if self._collector in gc.callbacks:
            gc.callbacks.remove(self._collector)
        self._collecting = 0
        self.collect()
        for waiting in list(self._waiting):
            self.guard(waiting.abandon)
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
        if self._put_off:
            self.collect()
        at = None if port == _HTTPS else port
        return Request(method, path, endpoints.template(path), host.name, at)

    # -- calls ------------------------------------------------------------------------------

    def call(self, asked: calls.Asked) -> calls.Call:
        """Begin watching a call, in a span of ours or in the one around it.

        Args:
            asked: What it is for.
        """
        around = trace.get_current_span()
        span, is_ours = spans.of_call(self._tracer, asked)
        above = around if span is not around else getattr(around, "parent", None)
        context = above.get_span_context() if isinstance(above, trace.Span) else above
        return calls.Call(asked, span, context or trace.INVALID_SPAN_CONTEXT, self, is_ours=is_ours)

    def call_of(  # noqa: PLR0913, PLR0917 - a URL has that many parts
        self, method: str, scheme: str, host: str, port: int | None, path: str, model: object = None
    ) -> calls.Call | None:
        """Begin watching what an SDK is asked for, if it goes to a host that is watched.

        Args:
            method: In any case.
            scheme: ``https`` or ``http``.
            host: In lower case.
            port: None for the scheme's own.
            path: As sent, without the query.
            model: As the caller named it, or None.
        """
        hosts = self.hosts(host)
        if hosts is None:
            return None
        port = port or (_HTTPS if scheme == "https" else _HTTP)
        request = self.request(hosts, method.upper(), port, path.encode())
        if request is None:
            return None
        operation = endpoints.OPERATIONS.get(request.template or "")
        name = envelope.clean(model) or None if isinstance(model, str) else None
        return self.call(calls.Asked(request, operation, name))

    def raised(self, call: calls.Call, error: BaseException) -> None:
        """Remember a call's last attempt by what the SDK has raised, for `explain`."""
        if call.last is not None:
            self.guard(_remember, error, call.last, call.span)

    def raised_for(self, response: object, error: BaseException) -> None:
        """Remember the attempt of a response by what the client has raised for it."""
        found = seen(response)
        if found is not None:
            self.guard(_keep, error, found)

    def waits(self, one: calls.Call | Answer) -> None:
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

    def ended(self, call: calls.Call, outcome: CallOutcome, end_ns: int | None) -> None:
        """Hand a call's outcome to the sinks, each guarded for itself."""
        self._waiting.discard(call)
        self.guard(self._metrics.record_call, outcome, call.context)
        if outcome.failed:
            self.guard(self._log.record_call, outcome, _context(call.span))
        self.guard(
            spans.end_call, call, outcome, end_ns=end_ns, capture_message=self._capture_message
        )

    # -- attempts ---------------------------------------------------------------------------

    def start(
        self, request: Request, message: Message, span: Span | None, around: Span | None = None
    ) -> Attempt:
        """Begin watching an attempt.

        Args:
            request: What is about to be sent.
            message: For more of it.
            span: Its client span, open, or None: then there are metrics only.
            around: What was current before that span, if that is known.
        """
        call = calls.current()
        if call is not None and not self.guard(call.takes, request, message):
            call = None
        sending = Sending(
            request,
            message,
            span,
            around if call is None else call.around,
            None if call is None else call.chain,
        )
        resend = self.guard(self._resends.begin, sending)
        if span is not None:
            self.guard(self._introduce, span, request, resend)
        if resend is not None and resend.is_retry:
            self.guard(self._metrics.record_retry, request, resend)
        return Attempt(self, sending, call)

    @staticmethod
    def _introduce(span: Span, request: Request, resend: Resend | None) -> None:
        spans.redact(span, request)
        spans.rename(span, request)
        if resend is not None:
            spans.describe_resend(span, resend)

    def finish(self, outcome: Outcome, sending: Sending, call: calls.Call | None) -> None:
        """Hand an attempt's outcome to the sinks, each guarded for itself."""
        failed = outcome.failed
        span = sending.span
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
        if call is not None:
            call.last = outcome
        elif failed:
            self.guard(self._log.record, outcome, _context(span))
        if failed or outcome.cancelled:
            self.guard(self._resends.failed, sending, outcome, time.time())
        elif envelope.LOCATION in outcome.headers and outcome.is_redirect:
            location = outcome.headers[envelope.LOCATION].decode("latin-1")
            self.guard(self._resends.redirected, sending, location)

    # -- bodies -----------------------------------------------------------------------------

    def open_stream(self, sending: Sending) -> Span | None:
        """Begin the span of an event stream outside a call, if its attempt has one."""
        return None if sending.span is None else spans.of_stream(self._tracer, sending)

    def body_ended(self, answer: Answer, outcome: Outcome, at: bodies.Moment | None) -> None:
        """Take the end of an answer's body, after its attempt and with all that it counts for.

        Args:
            answer: Whose body it was.
            outcome: The attempt's, with what became of the body.
            at: When, or None for now.
        """
        call = answer.call
        shown = answer.span or answer.sending.span
        context = trace.set_span_in_context(shown) if shown is not None else None
        if call is not None:
            call.last = outcome
            context = call.context
        if outcome.failed:
            with self._lock:
                self.errors += 1
            self.guard(self._metrics.record_broken, outcome, context)
        if outcome.failed or outcome.cancelled:
            self.guard(self._resends.failed, answer.sending, outcome, time.time())
        if outcome.stream is not None:
            model = None if call is None else call.asked.model
            self.guard(self._metrics.record_stream, outcome, model, context)
        if call is not None:
            call.body_ended(answer.body, at)
            return
        self._waiting.discard(answer)
        if outcome.failed:
            self.guard(self._log.record, outcome, _context(shown))
        if answer.span is not None:
            end_ns = None if at is None else at.unix_ns
            capture = self._capture_message
            self.guard(
                spans.end_stream, answer.span, outcome, end_ns=end_ns, capture_message=capture
            )

    def _describe(self, span: Span, now: float, outcome: Outcome) -> None:
        spans.describe(span, outcome, now, capture_message=self._capture_message)


class Attempt:
    """One attempt on its way. Every way out of it passes `Observer.finish` once."""

    __slots__ = (
        "_call",
        "_duration_s",
        "_headers",
        "_observer",
        "_outcome",
        "_sending",
        "_started",
        "_status",
    )

    def __init__(self, observer: Observer, sending: Sending, call: calls.Call | None) -> None:
        self._observer = observer
        self._sending = sending
        self._call = call
        self._duration_s = 0.0
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._outcome: Outcome | None = None
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

    def ended(self, body: bytes | None = None, *, is_plain: bool = False) -> None:
        """Report an answer.

        Args:
            body: What was read of a failed answer's body, as sent; None if nothing was.
            is_plain: Whether its content encoding has been undone already.
        """
        headers = {} if is_plain else self._headers
        error = self._observer.guard(_envelope, body, headers) if body else None
        self._finish(
            judge(
                self._sending.request,
                self._duration_s,
                status=self._status,
                headers=self._headers,
                envelope=error,
            )
        )

    @property
    def is_to_be_watched(self) -> bool:
        """Whether anybody wants to know how the body of a successful answer ends."""
        return self._call is not None or envelope.is_event_stream(self._headers)

    def body(
        self, is_transient: Callable[[BaseException], bool], sent: object
    ) -> bodies.Body | None:
        """Begin watching the body of a successful answer, once `ended` has reported that.

        Returns:
            None if nobody asks.

        Args:
            sent: The app's request or response, by which `explain` finds what became of its
                stream.
            is_transient: Says of an exception whether the connection, the peer or the
                clock failed, and not we.
        """
        if not _SUCCESS <= self._status < REDIRECTED:
            return None
        events = streams.events(self._headers)
        call, outcome = self._call, self._outcome
        if outcome is None or (call is None and events is None):
            return None
        answer = Answer(self._observer, self._sending, call, outcome, is_transient, sent)
        began_s = self._started if call is None else call.started_s
        answer.body = bodies.Body(answer, events, self._sending.request.template, began_s)
        if call is not None:
            call.answered(answer.body)
        else:
            answer.span = self._observer.guard(self._observer.open_stream, self._sending)
            self._observer.waits(answer)
        return answer.body

    def raised(self, error: BaseException, *, transient: bool) -> None:
        """Report that there is no answer. The caller raises *error* again.

        Args:
            error: What came in its place. What is no `Exception` is the caller giving up.
            transient: Whether the connection, the peer or the clock failed, and not we.
        """
        outcome = judge(
            self._sending.request,
            time.perf_counter() - self._started,
            exception=type(error).__qualname__,
            cancelled=not isinstance(error, Exception),
            transient=transient,
        )
        self._finish(outcome)
        self.is_what_became_of(error)
        span = self._sending.span
        if span is not None and outcome.failed:
            self._observer.guard(spans.mask_exceptions, span, error)

    def is_what_became_of(self, response: object) -> None:
        """Remember a failed attempt by the response that the app gets of it, for `explain`."""
        if self._outcome is not None:
            self._observer.guard(_remember, response, self._outcome, self._sending.span)

    def _finish(self, outcome: Outcome) -> None:
        observer = self._observer
        self._outcome = outcome
        if observer.is_collecting():  # a coroutine that nobody awaits any more
            observer.put_off(partial(observer.finish, outcome, self._sending, self._call))
        else:
            observer.finish(outcome, self._sending, self._call)


class Answer:
    """A successful answer whose body is on its way to the caller.

    Attributes:
        sending: Its attempt.
        call: The call of an SDK that it belongs to, or None.
        span: Around its event stream, outside a call; or None.
        body: Its body.
    """

    __slots__ = (
        "_is_transient",
        "_observer",
        "_outcome",
        "_sent",
        "body",
        "call",
        "sending",
        "span",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - made in one place, `Attempt.body`
        self,
        observer: Observer,
        sending: Sending,
        call: calls.Call | None,
        outcome: Outcome,
        is_transient: Callable[[BaseException], bool],
        sent: object,
    ) -> None:
        self.sending = sending
        self.call = call
        self.span: Span | None = None
        self.body: bodies.Body
        self._observer = observer
        self._outcome = outcome
        self._is_transient = is_transient
        self._sent = weakref(sent)

    def is_collecting(self) -> bool:
        """Say whether this is running inside the garbage collector."""
        return self._observer.is_collecting()

    def put_off(self, step: Callable[[], object]) -> None:
        """Do something soon, outside the garbage collector."""
        self._observer.put_off(step)

    def abandon(self) -> None:
        """End it: nobody else will."""
        self.body.abandon()

    def body_ended(self, body: bodies.Body, end: bodies.End) -> None:
        """Report what became of the attempt with its body."""
        error = end.error
        said = None if body.events is None else body.events.error
        broke = error is not None and said is None and body.made == names.FAILED
        cancelled = error is not None and body.made == names.CANCELLED_CALL
        outcome = judge(
            self._outcome.request,
            self._outcome.duration_s,
            status=self._outcome.status,
            headers=self._outcome.headers,
            envelope=said,
            exception=type(error).__qualname__ if broke or cancelled else None,
            cancelled=cancelled,
            transient=broke and error is not None and self._is_transient(error),
            stream=end.stream,
        )
        if outcome.failed:
            shown = self.call.span if self.call is not None else self.span
            for thing in (self._sent(), error):
                if thing is not None:
                    self._observer.guard(_remember, thing, outcome, shown)
        self._observer.body_ended(self, outcome, end.at)


def _context(span: Span | None) -> SpanContext:
    return (trace.get_current_span() if span is None else span).get_span_context()


def _envelope(body: bytes, headers: Mapping[bytes, bytes]) -> envelope.Envelope | None:
    encoding = headers.get(envelope.CONTENT_ENCODING, b"").decode("latin-1")
    plain = envelope.decompress(body, encoding) if encoding else body
    return None if plain is None else envelope.parse(plain)
