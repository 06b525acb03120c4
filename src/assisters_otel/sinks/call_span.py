"""Starts the span of an SDK's call, and writes the call's outcome to it.

The span is the library's. If an instrumentation of the SDK has made a span around the call, that
one is used instead, and is not ended here. Inside another instrumentation's inference the library's
span is no inference itself. See `gen_ai_span`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode

from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import header_text
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai
from assisters_otel.sinks import attempt_span, foreign_span
from assisters_otel.sinks.gen_ai_span import find_gen_ai_span
from assisters_otel.sinks.stream_span import stream_attributes

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.attempts.call import Call
    from assisters_otel.attempts.call_request import CallRequest
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome


class CallSpan(Record):
    """The span of a call.

    Attributes:
        span: The span.
        is_ours: True if it is the library's.
        is_inference: True if it is the library's, and has the attributes of the GenAI conventions.
        recorded_elsewhere: The names of the GenAI metrics that another instrumentation records.
    """

    span: Span
    is_ours: bool
    is_inference: bool
    recorded_elsewhere: frozenset[str]


@fail_safe
def start_or_adopt_call_span(
    tracer: Tracer, asked: CallRequest, current: Span, *, is_recorded_apart: bool
) -> CallSpan:
    """Return the span of an SDK's call.

    It is the current span if an instrumentation of the SDK has made that for this call, else a new
    one. If instrumentation is suppressed, a new one records nothing.

    Args:
        tracer: The library's tracer.
        asked: The arguments of the call.
        current: The current span.
        is_recorded_apart: True if another instrumentation records the call in a span that is never
            current.
    """
    found = find_gen_ai_span(current) if current.is_recording() else None
    metrics: frozenset[str] = frozenset() if found is None else found.metrics
    if found is not None and found.is_of_call:
        if asked.baggage:
            current.set_attributes(dict(asked.baggage))
        return CallSpan(current, False, False, metrics)
    if not is_instrumentation_enabled():
        return CallSpan(INVALID_SPAN, False, False, metrics)
    is_inference = found is None and not is_recorded_apart
    span = _start_inference(tracer, asked) if is_inference else _start_inner(tracer, asked)
    return CallSpan(span, True, is_inference, metrics)


def _start_inner(tracer: Tracer, asked: CallRequest) -> Span:
    """Start a span inside an inference of another instrumentation's, which is counted there."""
    return tracer.start_span(
        names.CALL_SPAN,
        kind=SpanKind.INTERNAL,
        attributes={
            SERVER_ADDRESS: asked.request.address,
            SERVER_PORT: asked.request.port,
            **dict(asked.baggage),
        },
    )


def _start_inference(tracer: Tracer, asked: CallRequest) -> Span:
    request = asked.request
    attributes: dict[str, AttributeValue] = {
        **dict(asked.baggage),
        gen_ai.PROVIDER_NAME: gen_ai.PROVIDER,
        SERVER_ADDRESS: request.address,
        SERVER_PORT: request.port,
        **asked.attributes,
    }
    if asked.operation is not None:
        attributes[gen_ai.OPERATION_NAME] = asked.operation
    if asked.model is not None:
        attributes[gen_ai.REQUEST_MODEL] = asked.model
    name = (asked.operation, asked.model)
    if asked.operation is None:
        name = (request.method, request.template)
    return tracer.start_span(
        " ".join(filter(None, name)), kind=SpanKind.CLIENT, attributes=attributes
    )


def write_returned_state(call: Call) -> None:
    """Write to a GenAI instrumentation's span what is known of a call whose stream is open.

    The instrumentation may end the span before the stream ends.
    """
    if not call.span.is_recording():
        return
    found: dict[str, AttributeValue] = {
        names.RETRY_COUNT: call.chain.retries,
        names.RETRY_WAIT: round(call.chain.wait_s, names.DIGITS),
    }
    if call.last is not None:
        found |= _request_id(call.last)
    call.span.set_attributes(found)


def write_abandoned_state(call: Call) -> None:
    """Write to a GenAI instrumentation's span the outcome of a call whose stream is abandoned.

    It is written at the first event, and overwritten at another end. If the stream is collected,
    the instrumentation ends the span inside the garbage collector. Nothing is written there.
    """
    if not call.span.is_recording():
        return
    call.span.set_attributes(
        {
            names.CALL_OUTCOME: names.CANCELLED_CALL,
            names.RETRY_COUNT: call.chain.retries,
            names.RETRY_WAIT: round(call.chain.wait_s, names.DIGITS),
            names.STREAM_OUTCOME: names.ABANDONED,
        }
    )


@fail_safe
def end_call_span(
    call: Call, outcome: CallOutcome, end_ns: int | None, *, capture_message: bool
) -> None:
    """Write a call's outcome to its span, and end the span if it is the library's.

    Args:
        call: The call.
        outcome: Its outcome.
        end_ns: The time of its end in Unix nanoseconds, or None for now.
        capture_message: True if the envelope's message is wanted.
    """
    try:
        if call.span.is_recording():
            _write_call(call, outcome, capture_message=capture_message)
    finally:  # also with a foreign exception
        if call.is_ours:
            call.span.end(end_ns)


def _write_call(call: Call, outcome: CallOutcome, *, capture_message: bool) -> None:
    span, chain = call.span, call.chain
    found = _call_attributes(outcome, capture_message=capture_message)
    if not call.is_ours:
        found.pop(gen_ai.RESPONSE_FIRST_CHUNK, None)  # what it says by the conventions is its own
    if call.is_inference and outcome.operation is not None and outcome.answer is not None:
        found |= outcome.answer.attributes
        reasons = outcome.answer.attributes.get(gen_ai.RESPONSE_FINISH_REASONS, ())
        choices = call.asked.attributes.get(gen_ai.REQUEST_CHOICE_COUNT, 1)
        is_stream = outcome.last is not None and outcome.last.stream is not None
        if is_stream and isinstance(reasons, tuple) and len(reasons) != choices:
            # The last events of a stream do not have the reasons of all choices.
            found.pop(gen_ai.RESPONSE_FINISH_REASONS, None)
    if chain.call.number:
        found[names.CALL_RESEND_COUNT] = chain.call.number
    attempt_span.put_last(found)
    span.set_attributes(found)
    if chain.resend_of is not None:
        providers.add_link(span, chain.resend_of)
    if not outcome.failed:
        return
    if call.is_ours:
        span.set_status(StatusCode.ERROR, outcome.code or outcome.error_type)
    else:
        # The span's maker writes the exception's class to ``error.type`` later.
        error: dict[str, AttributeValue] = {
            name: found[name] for name in attempt_span.LAST if name in found
        }
        foreign_span.before_end(span, lambda span: span.set_attributes(error))


def _call_attributes(outcome: CallOutcome, *, capture_message: bool) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {
        names.CALL_OUTCOME: outcome.outcome,
        names.RETRY_COUNT: outcome.retries,
        names.RETRY_WAIT: round(outcome.wait_s, names.DIGITS),
    }
    last = outcome.last
    if last is not None:
        found |= _request_id(last)
        if outcome.failed and last.failed:
            found |= attempt_span.error_attributes(last, capture_message=capture_message)
        if last.stream is not None:
            found |= stream_attributes(last.stream)
    if outcome.error_type is not None:
        found[ERROR_TYPE] = outcome.error_type
        # Also of a client that fails after a success: by it the documented queries find failures.
        found[names.ERROR_RETRYABLE] = outcome.retryable
        if outcome.caller.key_fingerprint is not None:
            found[names.API_KEY_FINGERPRINT] = outcome.caller.key_fingerprint
    return found


def _request_id(last: AttemptOutcome) -> dict[str, AttributeValue]:
    request_id = header_text(last.headers.get(response_headers.REQUEST_ID))
    return {names.REQUEST_ID: request_id} if request_id else {}
