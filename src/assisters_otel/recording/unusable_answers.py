"""Records an answer that has a status of success, and is none, as the failure that it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assisters_otel.api.error_body import Envelope
from assisters_otel.api.unusable_answer import is_page
from assisters_otel.outcomes import AttemptOutcome

if TYPE_CHECKING:
    from assisters_otel.api.unusable_answer import BodyBeginning
    from assisters_otel.attempts.attempt import Attempt


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


def outcome_of(
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
        envelope=None if error is None else attempt.without_secrets(error),
        exception=None if error is not None or exception is None else type(exception).__qualname__,
        is_unusable=True,
    )
