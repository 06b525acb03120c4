"""The documented errors of the Assisters API, as rows.

Source: the API's error-handling page, for types, codes and statuses. The library adds whether a
retry helps, the advice and the messages for end users.
"""

from __future__ import annotations

from typing import Final

from assisters_otel.records import Record

__all__ = ["ERRORS", "TYPES", "Error", "ErrorType", "find", "find_type", "retryable"]


class Error(Record):
    """One documented error code.

    Attributes:
        code: The envelope's ``code``, for example ``rate_limit_exceeded``.
        status: The documented HTTP status. The API sometimes answers with another (429 for an
            empty wallet), so report the status of the response, not this one.
        type: The type of the code. The errors page lists codes and types separately, so it is
            inferred: report the type in the envelope, not this one.
        retryable: True if the same request can succeed if it is sent again soon.
        advice: The advice for the developer, in one or two sentences.
        user_message: A message that an end user may be shown. It never contains the API's own
            message, which may quote the user's input.
    """

    code: str
    status: int
    type: str
    retryable: bool
    advice: str
    user_message: str


class ErrorType(Record):
    """One documented error type.

    Attributes:
        type: The envelope's ``type``, for example ``rate_limit_error``.
        retryable: True if a retry helps against errors of this type whose code is not documented.
        description: The meaning that the errors page gives it.
    """

    type: str
    retryable: bool
    description: str


IN_VAIN: Final = "This feature is not available right now. Trying again will not help."
_INPUT: Final = "Your request could not be processed. Please change it and try again."
BUSY: Final = "The service is busy. Please try again in a moment."
SORRY: Final = "Something went wrong. Please try again in a moment."
_LATER: Final = "This feature is not available at the moment. Please try again later."

ERRORS: Final = (
    Error(
        "invalid_api_key",
        401,
        "authentication_error",
        retryable=False,
        advice="Check that ASSISTERS_API_KEY holds a whole key that begins with ask_, "
        "with no line break at its end, and that the Authorization header says Bearer.",
        user_message=IN_VAIN,
    ),
    Error(
        "api_key_revoked",
        401,
        "authentication_error",
        retryable=False,
        advice="Create a new key in the dashboard, deploy it, "
        "and find out who revoked the old one.",
        user_message=IN_VAIN,
    ),
    Error(
        "origin_not_allowed",
        403,
        "authentication_error",
        retryable=False,
        advice="Add the origin to the key's allowed domains in the dashboard, "
        "or call the API from your server.",
        user_message=IN_VAIN,
    ),
    Error(
        "invalid_model",
        400,
        "invalid_request_error",
        retryable=False,
        advice="Compare the model's name with what GET /v1/models lists.",
        user_message=IN_VAIN,
    ),
    Error(
        "invalid_request",
        400,
        "invalid_request_error",
        retryable=False,
        advice="The body is malformed: check that it is valid JSON of the documented shape.",
        user_message=_INPUT,
    ),
    Error(
        "missing_parameter",
        400,
        "invalid_request_error",
        retryable=False,
        advice="Send the parameter that error.param names.",
        user_message=_INPUT,
    ),
    Error(
        "invalid_parameter",
        400,
        "invalid_request_error",
        retryable=False,
        advice="Correct the value of the parameter that error.param names.",
        user_message=_INPUT,
    ),
    Error(
        "context_length_exceeded",
        400,
        "invalid_request_error",
        retryable=False,
        advice="Shorten the input or the history, or take a model with a larger context.",
        user_message="That is too long. Please shorten it and try again.",
    ),
    Error(
        "rate_limit_exceeded",
        429,
        "rate_limit_error",
        retryable=True,
        advice="Wait as long as Retry-After says, then send again with exponential back-off; "
        "if it stays, spread the load or ask for a higher limit.",
        user_message=BUSY,
    ),
    Error(
        "tokens_exhausted",
        429,
        "tokens_exhausted_error",
        retryable=False,
        advice="The month's tokens are used up and no retry helps before the month turns: "
        "upgrade the plan, and alert on this code.",
        user_message=_LATER,
    ),
    Error(
        "insufficient_funds",
        402,
        "insufficient_funds_error",
        retryable=False,
        advice="Top up the wallet; no retry helps before that.",
        user_message=_LATER,
    ),
    Error(
        "content_filtered",
        400,
        "content_policy_error",
        retryable=False,
        advice="Moderation blocked the content: let the user rephrase it, do not send it again.",
        user_message="This content cannot be processed. Please rephrase it.",
    ),
    Error(
        "prompt_injection_detected",
        400,
        "content_policy_error",
        retryable=False,
        advice="The input looks like a prompt injection: keep it from the model, "
        "and look at where it came from.",
        user_message="This content cannot be processed. Please rephrase it.",
    ),
    Error(
        "model_overloaded",
        503,
        "server_error",
        retryable=True,
        advice="Send again with exponential back-off; if it stays, look at the status page "
        "or take another model.",
        user_message=BUSY,
    ),
    Error(
        "internal_error",
        500,
        "server_error",
        retryable=True,
        advice="Send again with exponential back-off; if it stays, give support the request id.",
        user_message=SORRY,
    ),
)

TYPES: Final = (
    ErrorType("invalid_request_error", False, "parameters are missing, malformed or unsupported"),
    ErrorType("authentication_error", False, "the key is missing, malformed or revoked"),
    ErrorType("rate_limit_error", True, "a rate limit is exceeded"),
    ErrorType("tokens_exhausted_error", False, "the month's tokens are used up"),
    ErrorType("insufficient_funds_error", False, "the wallet's balance is too low"),
    ErrorType("content_policy_error", False, "moderation blocked the content"),
    ErrorType("server_error", True, "something on the API's side"),
)

_BY_CODE: Final = {error.code: error for error in ERRORS}
_BY_TYPE: Final = {row.type: row for row in TYPES}

# Request Timeout, Conflict, Too Many Requests: the statuses below 500 after which a retry can help.
# Source: the retry loop of the official `openai` client, which the API's documentation recommends.
_PASSING_STATUSES: Final = frozenset({408, 409, 429})


def find(code: str) -> Error | None:
    """Return the row of a documented code, or None if the errors page does not list it.

    Args:
        code: The code, for example ``"rate_limit_exceeded"``.
    """
    return _BY_CODE.get(code)


def find_type(type_: str) -> ErrorType | None:
    """Return the row of a documented type, or None if the errors page does not list it.

    Args:
        type_: The type, for example ``"rate_limit_error"``.
    """
    return _BY_TYPE.get(type_)


def retryable(code: str | None, type_: str | None, status: int) -> bool:
    """Return True if a retry can help, judged by code, else by type, else by status.

    Two errors with the status 429 can differ: a rate limit ends within seconds, a month's quota
    next month. So the status decides last.

    Args:
        code: The envelope's code, documented or not, or None.
        type_: The envelope's type, documented or not, or None.
        status: The HTTP status, 400 or above.
    """
    known = (code and _BY_CODE.get(code)) or (type_ and _BY_TYPE.get(type_))
    if known:
        return known.retryable
    return status in _PASSING_STATUSES or status >= 500  # noqa: PLR2004 - 5xx is the server's side
