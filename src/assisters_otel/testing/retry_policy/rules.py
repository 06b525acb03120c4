"""The rules of a good retry policy, as rows. Pure.

Source of the rules: the API's error-handling page (codes, back-off for rate limits and server
errors, handle each type) and its page on headers (Retry-After, Idempotency-Key). The rest is ours,
and a remark.
"""

from __future__ import annotations

from typing import Final, Literal

from assisters_otel import catalog
from assisters_otel.records import Record

Kind = Literal["error", "remark"]

_BACK_OFF: Final = "Error Handling: exponential back-off for rate limits and server errors"
_CODES: Final = "Error Handling: the table of codes"
_TYPES: Final = "Error Handling: handle each type of error"
_OURS: Final = "good practice; not in the documentation"

HOPELESS: Final = tuple(row.code for row in catalog.ERRORS if not row.retryable)
"""The twelve codes that no retry helps."""

SAME_STATUS: Final = "tokens_exhausted"
"""The code among them that has the status of a rate limit, which the `openai` SDK sends again."""


class Rule(Record):
    """One rule.

    Attributes:
        name: The name, as `leave_out` takes it.
        kind: ``"error"`` if `check_retries` raises where it is broken, else ``"remark"``.
        expected: The behaviour of a good policy.
        advice: The change that mends a policy which breaks the rule.
        source: The place in the documentation of the API.
    """

    name: str
    kind: Kind
    expected: str
    advice: str
    source: str


RULES: Final = (
    Rule(
        "rate_limited",
        "error",
        "a call that meets rate_limit_exceeded once succeeds",
        "Send it again after Retry-After: retry what assisters_otel.retryable says yes to.",
        _BACK_OFF,
    ),
    Rule(
        "overloaded",
        "error",
        "a call that meets model_overloaded once succeeds",
        "Send it again after a pause: retry what assisters_otel.retryable says yes to.",
        _BACK_OFF,
    ),
    Rule(
        "internal_error",
        "error",
        "a call that meets internal_error once succeeds",
        "Send it again after a pause: retry what assisters_otel.retryable says yes to.",
        _BACK_OFF,
    ),
    Rule(
        "retry_after",
        "error",
        "after Retry-After, in seconds or as a date, nothing is sent sooner",
        "Wait for assisters_otel.retry_after_s(error) where it is not None, or give up.",
        "the response headers: Retry-After, on a 429",
    ),
    Rule(
        "hopeless",
        "error",
        f"after the {len(HOPELESS)} codes that no retry helps the same request is not sent again",
        "Retry only what assisters_otel.retryable says yes to: "
        "tenacity retry_if_exception(retryable), stamina on=retryable.",
        _CODES,
    ),
    Rule(
        "outage",
        "error",
        "a call ends, also while every attempt fails",
        "Limit the attempts, and the time in all: stop_after_attempt(4) | stop_after_delay(30).",
        _OURS,
    ),
    Rule(
        "surfaced",
        "error",
        "a call that has failed raises, or succeeded= says that it has failed",
        "Raise what the last attempt raised (response.raise_for_status(), reraise=True), "
        "or give succeeded=lambda result: …",
        _TYPES,
    ),
    Rule(
        "back_off",
        "remark",
        "each pause is longer than the one before",
        "Double the pause after each attempt: wait_random_exponential of tenacity, stamina.",
        _BACK_OFF,
    ),
    Rule(
        "jitter",
        "remark",
        "callers that failed at the same time do not come back at the same time",
        "Draw the pause at random: random.uniform(0, 2**attempt), wait_random_exponential.",
        _OURS,
    ),
    Rule(
        "layers",
        "remark",
        "one layer sends again, not two, one in the other",
        "Keep one of them: OpenAI(max_retries=0), Assisters(max_retries=1), Router(num_retries=0).",
        _OURS,
    ),
    Rule(
        "idempotency",
        "remark",
        "a POST that may have been done is sent again with the same Idempotency-Key",
        "Make one key for each call, before the first attempt: "
        'headers={"Idempotency-Key": str(uuid4())}.',
        "the request headers: Idempotency-Key, to retry a POST safely",
    ),
    Rule(
        "streams",
        "remark",
        "an event stream that breaks off is noticed",
        "Look for the last chunk's finish_reason, and take an answer without one for a failed one.",
        "Streaming: an event stream ends with data: [DONE]",
    ),
    Rule(
        "own_timeout",
        "remark",
        "an attempt without an answer ends within 5 s",
        "Nothing, if that is meant. Else set the client's own timeout=.",
        _OURS,
    ),
)

NAMES: Final = tuple(rule.name for rule in RULES)

ADVICE_SAME_STATUS: Final = (
    "It is a 429 that no pause helps before the month turns. The openai SDK sends every 429 again: "
    "OpenAI(max_retries=0), and a loop of your own that asks assisters_otel.retryable."
)
"""For `hopeless`, where `SAME_STATUS` alone is sent again."""
