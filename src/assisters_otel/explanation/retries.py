"""`retryable` and `retry_after_s`: the facts of `explain` for code that decides on a retry."""

from __future__ import annotations

from assisters_otel.explanation.explain import explain_for


def retryable(thing: object) -> bool:
    """Return True if the same request can succeed if it is sent again soon.

    For tenacity's ``retry_if_exception``, stamina's ``on``, a loop of one's own; its negation for
    backoff's ``giveup``. Two errors of status 429 differ here: a retry helps against
    ``rate_limit_exceeded``, and not against ``tokens_exhausted`` before the month turns.

    Args:
        thing: As `explain` takes it: an exception, a response or a code. Any other exception than
            those of the API's clients is none that a retry helps.

    Raises:
        ValueError: *thing* is neither an exception, a response nor a code.
    """
    return explain_for("retryable", thing).retryable


def retry_after_s(thing: object) -> float | None:
    """Return how long to wait before the next attempt, in seconds, or None if the API did not say.

    It is the ``Retry-After`` header, in seconds or as a date, of an error that a retry helps
    against. The seconds count from the answer on, and not from when this is called.

    Args:
        thing: As `explain` takes it: an exception, a response or a code.

    Raises:
        ValueError: *thing* is neither an exception, a response nor a code.
    """
    return explain_for("retry_after_s", thing).retry_after_s
