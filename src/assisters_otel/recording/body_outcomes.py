"""Returns the outcome of an attempt, with that of its answer's body.

The attempt has been reported as a success. Its body may have failed, or may be no success: an
unusable answer (`unusable_answer`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel.api.body_end import BodyEnd, stream_outcome
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.headers import is_delimited
from assisters_otel.api.unusable_answer import is_page
from assisters_otel.foreign_exceptions import is_cancellation
from assisters_otel.outcomes import AttemptOutcome, StreamOutcome
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.api.event_stream import EventStreamScanner
    from assisters_otel.api.unusable_answer import BodyBeginning
    from assisters_otel.attempts.attempt import Attempt


CALL_OUTCOMES: Final = {
    BodyEnd.COMPLETE.value: names.OK,
    BodyEnd.BROKEN.value: names.FAILED,
    BodyEnd.UNREADABLE.value: names.FAILED,
    names.COMPLETED: names.OK,
    names.STREAM_ERROR: names.FAILED,
    names.TRUNCATED: names.FAILED,
}
"""The outcome of a call by the end of its body. Any other end has cancelled it."""


def end_by(error: BaseException) -> BodyEnd:
    """Return the end of a body by an exception that was raised in place of more bytes."""
    return BodyEnd.CLOSED if is_cancellation(error) else BodyEnd.BROKEN


def error_in_place(attempt: Attempt, beginning: BodyBeginning | None) -> Envelope | None:
    """Return the error in place of the result, as far as the answer itself shows it, or None.

    Args:
        attempt: The attempt that was answered.
        beginning: The first bytes of the body, or None if they are not kept.
    """
    call, headers = attempt.call, attempt.headers
    error = None if beginning is None else beginning.error(headers)
    if error is None and call is not None and call.expected.is_document and is_page(headers):
        return Envelope()
    return error


def of_unusable(
    attempt: Attempt, error: Envelope | None, exception: Exception | None
) -> AttemptOutcome:
    """Return the outcome of an attempt whose answer is unusable.

    Args:
        attempt: The attempt, which was reported as a success.
        error: The error in place of the result, or None.
        exception: The exception with which the SDK has refused to parse it, or None.
    """
    return AttemptOutcome.of(
        attempt.request,
        attempt.duration_s,
        status=attempt.status,
        headers=attempt.headers,
        envelope=None if error is None else attempt.hide_secrets(error),
        exception=None if error is not None or exception is None else type(exception).__qualname__,
        caller=attempt.caller,
        is_unusable=True,
    )


def of_stream_end(attempt: Attempt, events: EventStreamScanner, end: BodyEnd) -> str:
    """Return the outcome of an event stream by its end: one of `names.STREAM_OUTCOMES`."""
    template = attempt.request.template
    return stream_outcome(events, end, template, is_delimited=is_delimited(attempt.headers))


def of_events(
    attempt: Attempt, events: EventStreamScanner, outcome: str, first_chunk_s: float | None
) -> StreamOutcome:
    """Return the outcome of an event stream.

    Args:
        attempt: The attempt that was answered.
        events: The scanner of the stream.
        outcome: The outcome: one of `names.STREAM_OUTCOMES`.
        first_chunk_s: Seconds from the start of the call or attempt to the first event, or None.
    """
    answer = attempt.without_secrets(events.last.answer)
    if answer is not None and outcome != names.COMPLETED:
        # A stream that goes on may have a usage in each event, of the tokens so far.
        answer = answer.without_usage()
    return StreamOutcome(outcome, events.chunks, first_chunk_s, answer)


def of_body(  # noqa: PLR0913 - all that is known of a body
    attempt: Attempt,
    stream: StreamOutcome | None,
    envelope: Envelope | None,
    error: BaseException | None,
    *,
    made: str,
    is_transient: Callable[[BaseException], bool | None],
) -> AttemptOutcome:
    """Return the outcome of an attempt whose body has failed, or is an event stream.

    Args:
        attempt: The attempt.
        stream: The outcome of its event stream, or None if it is none.
        envelope: The error in an event of it, or None.
        error: The exception in place of more bytes, or None.
        made: The outcome that this end means for a call: one of `names.OUTCOMES`.
        is_transient: A function that returns True if an exception means that the connection or the
            peer failed, or that a time limit was reached.
    """
    answered = attempt.outcome
    if answered is None:  # `BodyRecorder.watch` has checked it
        raise RuntimeError("a body without an answer")
    if envelope is not None:
        envelope = attempt.hide_secrets(envelope)
    broke = error is not None and envelope is None and made == names.FAILED
    cancelled = error is not None and made == names.CANCELLED_CALL
    return AttemptOutcome.of(
        answered.request,
        answered.duration_s,
        status=answered.status,
        headers=answered.headers,
        envelope=envelope,
        exception=type(error).__qualname__ if broke or cancelled else None,
        cancelled=cancelled,
        transient=broke and error is not None and bool(is_transient(error)),
        stream=stream,
        caller=answered.caller,
    )
