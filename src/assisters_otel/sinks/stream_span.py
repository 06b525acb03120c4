"""Writes how an event stream ended, to the call's span or to a span of its own.

A stream inside a call is described on the call's span. Outside of a call it has a span of the
library's, from the response's headers to the end of the body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT
from opentelemetry.trace import SpanKind, StatusCode

from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import header_text
from assisters_otel.fail_safe import fail_safe
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai
from assisters_otel.sinks import attempt_span

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.outcomes import AttemptOutcome, StreamOutcome


def start_stream_span(tracer: Tracer, attempt: Attempt) -> Span | None:
    """Start the span of an event stream: beside its attempt's, or under it if that is a root.

    Args:
        tracer: The library's tracer.
        attempt: The attempt, whose span is open.
    """
    span = attempt.span
    if span is None:
        return None
    above = attempt.origin().parent if attempt.is_own else getattr(span, "parent", None)
    if above is None:
        above = span.get_span_context()
    request = attempt.request
    attributes: dict[str, AttributeValue] = {
        **dict(attempt.caller.baggage),
        SERVER_ADDRESS: request.address,
        SERVER_PORT: request.port,
    }
    if request.template is not None:
        attributes[names.URL_TEMPLATE] = request.template
    return tracer.start_span(
        names.STREAM_SPAN,
        trace.set_span_in_context(trace.NonRecordingSpan(above), Context()),
        SpanKind.INTERNAL,
        attributes,
        [trace.Link(span.get_span_context())],
    )


@fail_safe
def end_stream_span(
    span: Span, outcome: AttemptOutcome, *, end_ns: int | None, capture_message: bool
) -> None:
    """Write an event stream's outcome to its span, and end the span.

    Args:
        span: The span of `start_stream_span`.
        outcome: The attempt's outcome, with that of the stream.
        end_ns: The time of the end in Unix nanoseconds, or None for now.
        capture_message: True if the envelope's message is wanted.
    """
    try:
        _write_stream(span, outcome, capture_message=capture_message)
    finally:  # also with a foreign exception
        span.end(end_ns)


def _write_stream(span: Span, outcome: AttemptOutcome, *, capture_message: bool) -> None:
    found: dict[str, AttributeValue] = {}
    if outcome.stream is not None:
        found |= stream_attributes(outcome.stream)
        if outcome.stream.answer is not None:
            found |= outcome.stream.answer.attributes
    request_id = header_text(outcome.headers.get(response_headers.REQUEST_ID))
    if request_id:
        found[names.REQUEST_ID] = request_id
    if outcome.failed:
        found |= attempt_span.error_attributes(outcome, capture_message=capture_message)
        attempt_span.put_last(found)
    span.set_attributes(found)
    if outcome.failed:
        span.set_status(StatusCode.ERROR, outcome.code or outcome.error_type)


def stream_attributes(stream: StreamOutcome) -> dict[str, AttributeValue]:
    """Return the attributes of an event stream's outcome."""
    found: dict[str, AttributeValue] = {
        names.STREAM_OUTCOME: stream.outcome,
        names.STREAM_CHUNKS: stream.chunks,
    }
    if stream.first_chunk_s is not None:
        found[gen_ai.RESPONSE_FIRST_CHUNK] = stream.first_chunk_s
    return found
