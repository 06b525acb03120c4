"""Sinks: an `Outcome` onto the attempt's client span, a `CallOutcome` onto the call's.

An attempt's span is somebody else's, a call's is ours unless a GenAI instrumentation has one.
The HTTP instrumentation opens the span and still writes to it after the transport
has returned: ``error.type="429"`` and a status without a description. So what we
know of a failure is written by an ``end`` of that span's own, which is the last
to write; test_spans.py proves it in every mode and order.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import (
    is_http_instrumentation_enabled,
    is_instrumentation_enabled,
)
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
)
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_HEADER_TEMPLATE,
    HTTP_REQUEST_METHOD,
    HTTP_REQUEST_RESEND_COUNT,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.semconv.attributes.url_attributes import URL_FULL
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode

from assisters_otel import endpoints, envelope, names

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import Attributes, AttributeValue

    from assisters_otel.attempt import CallOutcome, Outcome, Request, Resend, StreamOutcome
    from assisters_otel.calls import Asked, Call
    from assisters_otel.resend import Sending

HTTP_URL: Final = "http.url"
HTTP_METHOD: Final = "http.method"
"""The names of the old conventions, which the HTTP instrumentation still writes by default."""

_GEN_AI_SCOPES: Final = (
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.util.genai",
    "openinference.instrumentation.openai",
)
"""Under which the instrumentations of the `openai` SDK make the span around a call. Source:
`opentelemetry-instrumentation-openai` and `-openai-v2`, `-genai-openai`, OpenInference."""

_TOO_MANY_REQUESTS: Final = 429
_LIMITS: Final = tuple(
    (names.RATELIMIT.format(kind, what), header, what == "reset")
    for (kind, what), header in envelope.RATELIMITS.items()
)
_MAX_TEXT: Final = 4096


def of_attempt(
    scope: str, method: str, host: str, url: object, *, is_inside: bool = False
) -> Span | None:
    """Find the client span of the attempt that is about to be sent.

    Args:
        scope: The name under which the HTTP instrumentation makes its spans.
        method: The request's, as sent.
        host: The request's host, as it stands in a URL.
        url: The whole URL, whose `str` is asked for only if it is needed.
        is_inside: Whether that instrumentation suppresses any other inside its span.

    Returns:
        The current span if it is that instrumentation's and this request's; None if
        it is the app's own, or sampled out, or instrumentation is suppressed.
    """
    span: Any = trace.get_current_span()
    if not span.is_recording() or getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    made_by = getattr(span, "instrumentation_scope", None)
    if made_by is None or made_by.name != scope:
        return None
    if not is_inside and not is_http_instrumentation_enabled():
        return None
    # A request inside another one's transport, whose span is current: it says another URL.
    # A hook may have taken the query or all of it away, a limit may have cut it.
    said = _said(span)
    told = said.get(HTTP_URL) or said.get(URL_FULL)
    if isinstance(told, str) and host not in told and not str(url).startswith(told):
        return None
    sent = said.get(HTTP_REQUEST_METHOD) or said.get(HTTP_METHOD)
    return None if sent not in (None, names.OTHER, method.upper()) else span


def _said(span: Any) -> dict[str, Any]:
    # A plain dict: the SDK's mapping raises and catches for each name that it has not.
    attributes = getattr(span, "attributes", None)
    return attributes.copy() if attributes else {}


def redact(span: Span, request: Request) -> None:
    """Take keys and the agent's prompt out of what the span says of the request."""
    for name, value in _said(span).items():
        if name in (HTTP_URL, URL_FULL):
            masked = _masked_url(str(value), request)
            if masked != value:
                span.set_attribute(name, masked)
        elif name.startswith(HTTP_REQUEST_HEADER_TEMPLATE):
            span.set_attribute(name, _masked_header(name, value))


def _masked_url(url: str, request: Request) -> str:
    if request.template == endpoints.AGENT_STREAM and "?" in url:
        url = f"{url.partition('?')[0]}?{envelope.REDACTED}"
    return envelope.mask(url)


def _masked_header(name: str, values: Any) -> list[str]:
    if name.endswith("authorization"):
        return [envelope.REDACTED]
    return [envelope.mask(str(value)) for value in values]


def describe(span: Span, outcome: Outcome, now: float, *, capture_message: bool) -> None:
    """Write what is known of an attempt to its span.

    Args:
        span: The attempt's client span, open.
        outcome: How the attempt ended.
        now: Unix seconds, when it ended.
        capture_message: Whether the envelope's message is wanted.
    """
    span.set_attributes(_attributes(outcome, now, capture_message=capture_message))
    if outcome.status is None:
        _mask_status(span)
    elif outcome.failed:
        span.set_status(StatusCode.ERROR, outcome.code or outcome.error_type)


def _attributes(
    outcome: Outcome, now: float, *, capture_message: bool
) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {}
    headers = outcome.headers
    if outcome.request.template:
        found[names.URL_TEMPLATE] = outcome.request.template
    request_id = envelope.text(headers.get(envelope.REQUEST_ID))
    if request_id:
        found[names.REQUEST_ID] = request_id
        found[names.RESPONSE_HEADER_REQUEST_ID] = (request_id,)
    took_ms = envelope.number(headers.get(envelope.PROCESSING_TIME_MS))
    if took_ms is not None:
        found[names.SERVER_DURATION] = took_ms / 1000
    wait_s = envelope.seconds_to_wait(headers.get(envelope.RETRY_AFTER), now)
    if wait_s is not None:
        found[names.RETRY_AFTER] = wait_s
    if outcome.failed:
        found |= _error(outcome, capture_message=capture_message)
        if outcome.status == _TOO_MANY_REQUESTS:
            for name, header, is_reset in _LIMITS:
                sent = headers.get(header)
                limit = envelope.seconds_to_reset(sent, now) if is_reset else envelope.integer(sent)
                if limit is not None:
                    found[name] = limit
    return found


def _error(outcome: Outcome, *, capture_message: bool) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        ERROR_TYPE: outcome.error_type or names.OTHER,
        names.ERROR_RETRYABLE: outcome.retryable,
    }
    error = outcome.envelope
    if error is not None:
        if error.code:
            found[names.ERROR_CODE] = error.code
        if error.param:
            found[names.ERROR_PARAM] = error.param
        if capture_message and error.message:
            found[names.ERROR_MESSAGE] = envelope.clean(error.message, envelope.MAX_MESSAGE)
    return found


def rename(span: Span, request: Request) -> None:
    """Name the span ``{METHOD} {url.template}``, unless somebody has named it already."""
    name = getattr(span, "name", None)
    if request.template and name in (request.method, request.method.upper(), "HTTP"):
        span.update_name(f"{name} {request.template}")


class _LateEnd:
    """An ``end`` for one span, which writes last and then calls the class's own."""

    def __init__(self, span: Span, write: Callable[[Span], object]) -> None:
        self._span = span
        self.write: Callable[[Span], object] | None = write

    def __call__(self, end_time: int | None = None) -> None:
        own = vars(self._span)
        own.pop("end", None)
        own.pop("record_exception", None)
        if self.write is not None:
            self.write(self._span)
        self._span.end(end_time)


def write_last(span: Span, write: Callable[[Span], object]) -> None:
    """Have *write* called when the span ends, after everybody else's writing.

    A later call for the same span takes the place of an earlier one: of a transport
    that retries inside one HTTP span, the last attempt counts.

    Args:
        span: An open span.
        write: Gets the span. Must not raise.
    """
    try:
        own = vars(span)  # of a proxy, as OpenInference has one, this is the span's behind it
    except TypeError:  # a foreign span with slots: what is written now is better than nothing
        write(span)
        return
    late = own.get("end")
    if isinstance(late, _LateEnd):
        late.write = write
    else:
        own["end"] = _LateEnd(span, write)


def forget_last(span: Span) -> None:
    """Drop what `write_last` was to write: a later attempt on this span has succeeded."""
    # Not by `vars`: once it was asked for, each look into the span takes longer, also the SDK's.
    late = getattr(getattr(span, "__wrapped__", span), "end", None)
    if isinstance(late, _LateEnd):
        late.write = None


def mask_exceptions(span: Span, error: BaseException) -> None:
    """Keep keys and prompts out of the exception event that the span is about to get.

    h11 quotes a header that it refuses: ``Illegal header value b'Bearer ask_…'``.

    Args:
        span: The attempt's client span, open, for which `write_last` has been called.
        error: What is on its way through the HTTP instrumentation.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if envelope.mask(text) == text:
        return

    def record_exception(
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        stack = traceback.format_exception(type(exception), exception, exception.__traceback__)
        masked = {
            EXCEPTION_MESSAGE: envelope.mask(str(exception)),
            EXCEPTION_STACKTRACE: envelope.mask("".join(stack)),
            **(attributes or {}),
        }
        type(span).record_exception(span, exception, masked, timestamp, escaped)

    vars(span)["record_exception"] = record_exception


def tell_of_exception(span: Span, tell: Callable[[BaseException], object] | None) -> None:
    """Have *tell* called with the exception that the span is about to record, and ends with.

    Args:
        span: The attempt's client span, open.
        tell: Gets the exception; must not raise. None for: not any more.
    """
    own: dict[str, Any] = getattr(span, "__dict__", {})  # none: a foreign span with slots
    own.pop("record_exception", None)
    if tell is None:
        return

    def record_exception(exception: BaseException, *args: Any, **kwargs: Any) -> None:
        own.pop("record_exception", None)
        tell(exception)
        mask_exceptions(span, exception)
        span.record_exception(exception, *args, **kwargs)

    own["record_exception"] = record_exception


def _mask_status(span: Span) -> None:
    """Keep keys and prompts out of the description that an exception's text became."""
    status = getattr(span, "status", None)
    description = getattr(status, "description", None)
    if description and envelope.mask(description) != description:
        span.set_status(StatusCode.ERROR, envelope.clean(description, _MAX_TEXT))


def describe_resend(span: Span, resend: Resend) -> None:
    """Write what is known of a resend to its span, and link it to the attempt before.

    Args:
        span: The resend's client span, open.
        resend: What it is.
    """
    found: dict[str, AttributeValue] = {HTTP_REQUEST_RESEND_COUNT: resend.number}
    if resend.reason is not None:
        found[names.RETRY_REASON] = resend.reason
    if resend.delay_s is not None:
        found[names.RETRY_DELAY] = resend.delay_s
    if resend.early is not None:
        found[names.RETRY_EARLY] = resend.early
    if resend.futile is not None:
        found[names.RETRY_FUTILE] = resend.futile
    span.set_attributes(found)
    # A transport that sends again inside one span is its own predecessor.
    if resend.span is not None and resend.span != span.get_span_context():
        span.add_link(resend.span)


# -- calls --------------------------------------------------------------------------------------


def of_call(tracer: Tracer, asked: Asked) -> tuple[Span, bool]:
    """Give the span around an SDK's call.

    Returns:
        The current span and False, if a GenAI instrumentation has made it for this call;
        else a new one and True; one that records nothing and False, if instrumentation
        is suppressed.
    """
    if not is_instrumentation_enabled():
        return INVALID_SPAN, False
    current: Any = trace.get_current_span()
    made_by = getattr(current, "instrumentation_scope", None)
    is_gen_ai = made_by is not None and made_by.name.startswith(_GEN_AI_SCOPES)
    # One that has been told of a call already is around several of them.
    if is_gen_ai and current.is_recording() and names.CALL_OUTCOME not in _said(current):
        return current, False
    request = asked.request
    attributes: dict[str, AttributeValue] = {
        names.GEN_AI_PROVIDER_NAME: names.PROVIDER,
        SERVER_ADDRESS: request.address,
    }
    if asked.operation is not None:
        attributes[names.GEN_AI_OPERATION_NAME] = asked.operation
    if asked.model is not None:
        attributes[names.GEN_AI_REQUEST_MODEL] = asked.model
    if request.port is not None:
        attributes[SERVER_PORT] = request.port
    name = (asked.operation, asked.model)
    if asked.operation is None:
        name = (request.method, request.template)
    span = tracer.start_span(
        " ".join(filter(None, name)), kind=SpanKind.CLIENT, attributes=attributes
    )
    return span, True


def end_call(
    call: Call, outcome: CallOutcome, *, end_ns: int | None, capture_message: bool
) -> None:
    """Write how a call ended to its span, and end that if it is ours.

    Args:
        call: Which.
        outcome: How it ended.
        end_ns: When, in Unix nanoseconds, or None for now.
        capture_message: Whether the envelope's message is wanted.
    """
    span = call.span
    if span.is_recording():
        found = _call_attributes(outcome, capture_message=capture_message)
        chain = call.chain
        if chain.call.number:
            found[names.CALL_RESEND_COUNT] = chain.call.number
        span.set_attributes(found)
        if chain.resend_of is not None:
            span.add_link(chain.resend_of)
        if outcome.failed and call.is_ours:
            span.set_status(StatusCode.ERROR, outcome.code or outcome.error_type)
        elif outcome.failed:
            # The span's maker says the exception's class in ``error.type``, and says it later.
            error = {name: value for name, value in found.items() if name.startswith("error.")}
            write_last(span, lambda span: span.set_attributes(error))
    if call.is_ours:
        span.end(end_ns)


def _call_attributes(outcome: CallOutcome, *, capture_message: bool) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        names.CALL_OUTCOME: outcome.outcome,
        names.RETRY_COUNT: outcome.retries,
        names.RETRY_WAIT: outcome.wait_s,
    }
    last = outcome.last
    if last is not None:
        request_id = envelope.text(last.headers.get(envelope.REQUEST_ID))
        if request_id:
            found[names.REQUEST_ID] = request_id
        if outcome.failed and last.failed:
            found |= _error(last, capture_message=capture_message)
        if last.stream is not None:
            found |= _stream(last.stream)
    if outcome.error_type is not None:
        found[ERROR_TYPE] = outcome.error_type
    return found


# -- streams outside a call ---------------------------------------------------------------------


def of_stream(tracer: Tracer, sending: Sending) -> Span | None:
    """Begin the span of an event stream: beside its attempt's, or under it if that is a root.

    Args:
        tracer: Ours.
        sending: The attempt, whose span is open.
    """
    attempt = sending.span
    if attempt is None:
        return None
    above = getattr(attempt, "parent", None) or attempt.get_span_context()
    request = sending.request
    attributes: dict[str, AttributeValue] = {SERVER_ADDRESS: request.address}
    if request.port is not None:
        attributes[SERVER_PORT] = request.port
    if request.template is not None:
        attributes[names.URL_TEMPLATE] = request.template
    return tracer.start_span(
        names.STREAM_SPAN,
        trace.set_span_in_context(trace.NonRecordingSpan(above), Context()),
        SpanKind.INTERNAL,
        attributes,
        [trace.Link(attempt.get_span_context())],
    )


def end_stream(span: Span, outcome: Outcome, *, end_ns: int | None, capture_message: bool) -> None:
    """Write how an event stream ended to its span, and end that.

    Args:
        span: Of `of_stream`.
        outcome: What became of its attempt.
        end_ns: When, in Unix nanoseconds, or None for now.
        capture_message: Whether the envelope's message is wanted.
    """
    if outcome.stream is not None:
        span.set_attributes(_stream(outcome.stream))
    request_id = envelope.text(outcome.headers.get(envelope.REQUEST_ID))
    if request_id:
        span.set_attribute(names.REQUEST_ID, request_id)
    if outcome.failed:
        span.set_attributes(_error(outcome, capture_message=capture_message))
        span.set_status(StatusCode.ERROR, outcome.code or outcome.error_type)
    span.end(end_ns)


def _stream(stream: StreamOutcome) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        names.STREAM_OUTCOME: stream.outcome,
        names.STREAM_CHUNKS: stream.chunks,
    }
    if stream.first_chunk_s is not None:
        found[names.STREAM_FIRST_CHUNK] = stream.first_chunk_s
    return found
