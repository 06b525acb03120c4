"""`explain`: what an error of the Assisters API means, and what to do about it."""

from __future__ import annotations

from typing import Final

from assisters_otel import catalog
from assisters_otel.explanation.advice import OF_PROXY, advise
from assisters_otel.explanation.evidence import Evidence, find_evidence
from assisters_otel.explanation.exception_classes import TOO_MANY_REDIRECTS
from assisters_otel.outcomes import FIRST_REDIRECT
from assisters_otel.records import Record
from assisters_otel.version import __version__

YOUR_APP: Final = "your app"
YOUR_ACCOUNT: Final = "your account"
THE_INPUT: Final = "the input"
THE_API: Final = "the API"
THE_WAY: Final = "the way there"
NOBODY: Final = "nobody: it succeeded"
SIDES: Final = (YOUR_APP, YOUR_ACCOUNT, THE_INPUT, THE_API, THE_WAY, NOBODY)
"""Every value of `Explanation.side`."""

_SIDE_BY_TYPE: Final = {
    "invalid_request_error": YOUR_APP,
    "authentication_error": YOUR_ACCOUNT,
    "rate_limit_error": YOUR_ACCOUNT,
    "tokens_exhausted_error": YOUR_ACCOUNT,
    "insufficient_funds_error": YOUR_ACCOUNT,
    "content_policy_error": THE_INPUT,
    "server_error": THE_API,
}
# Statuses without a code or type, for example a proxy's own.
_OF_ACCOUNT: Final = frozenset({401, 402, 403})
_FIRST_SERVER_ERROR: Final = 500

_BODY_ERRORS: Final = frozenset(
    {"ChunkedEncodingError", "ClientPayloadError", "IncompleteRead", "RemoteProtocolError"}
)
"""Class names of exceptions that clients also raise in the middle of a body."""


class Explanation(Record):
    """The meaning of one failure. It quotes nothing that a user typed.

    Attributes:
        what: The event in one sentence.
        side: Whose side the failure is on: one of `SIDES`.
        retryable: True if the same request can succeed if it is sent again soon.
        retry_after_s: The seconds to wait before that, or None if the API named none.
        advice: The developer's next step.
        user_message: A message for an end user.
        code: The API's error code, as sent, or None.
        type: The API's error type, as sent, or None.
        param: The parameter at fault, or None.
        status: The HTTP status, or None without an answer.
        request_id: The id to quote to support, or None.
        trace_id: The trace in your backend, in hex, or None.
        ticket: All of that on one line, for a support ticket, with the fingerprint of the key.
    """

    what: str
    side: str
    retryable: bool
    retry_after_s: float | None
    advice: str
    user_message: str
    code: str | None
    type: str | None
    param: str | None
    status: int | None
    request_id: str | None
    trace_id: str | None
    ticket: str

    def __str__(self) -> str:
        wait = "" if self.retry_after_s is None else f", after {self.retry_after_s:g} s"
        lines = [
            self.what,
            f"Whose side: {self.side}.",
            f"A retry {'can help' + wait if self.retryable else 'does not help'}.",
            self.advice,
            f"For users: {self.user_message}",
            f"For support: {self.ticket}",
        ]
        return "\n".join(lines)


def explain(thing: object) -> Explanation:
    """Explain an error of the Assisters API.

    Args:
        thing: An exception of openai, assisters, httpx, httpx2, requests or aiohttp; a
            response of one of them; or an error code. What the library has recorded of
            the attempt or the call is used as well. So an exception of `assisters` has
            its code and request id again.

    Returns:
        The explanation. It says little of an exception that is not the API's.

    Raises:
        ValueError: *thing* is neither an exception, a response nor a code.
    """
    return explain_for("explain", thing)


def explain_for(function: str, thing: object) -> Explanation:
    """Return what *thing* means; the ValueError names the public *function* that was called."""
    evidence = find_evidence(thing)
    if evidence is None:
        what = "an empty text" if isinstance(thing, str) else type(thing).__name__
        raise ValueError(
            f"{function}() takes an exception, a response or an error code, not {what}"
        )
    return explain_evidence(evidence)


def explain_evidence(evidence: Evidence) -> Explanation:
    """Return what the evidence means."""
    retryable, advice, user_message = advise(evidence)
    return Explanation(
        _what(evidence),
        _side(evidence),
        retryable,
        evidence.retry_after_s if retryable else None,
        advice,
        user_message,
        evidence.envelope.code,
        evidence.envelope.type,
        evidence.envelope.param,
        evidence.status,
        evidence.request_id,
        evidence.trace_id,
        _ticket(evidence),
    )


def _what(evidence: Evidence) -> str:
    status, exception = evidence.status, evidence.exception
    name = evidence.envelope.code or evidence.envelope.type
    param = evidence.envelope.param
    about = f", about the parameter {param}" if param else ""
    if not evidence.has_failed:
        return f"The API answered {status}."
    if evidence.is_stream:
        return f"The API answered {status}, and its stream failed: {name or exception}."
    if status is not None and exception is not None:
        end = "its body broke off" if evidence.is_transient else "the client could not use it"
        is_elsewhere = evidence.is_transient and status >= FIRST_REDIRECT
        end = "where that led gave no answer" if is_elsewhere else end
        end = "the app itself gave up waiting for the rest" if evidence.is_cancelled else end
        end = "redirected once too often" if exception == TOO_MANY_REDIRECTS else end
        return f"The API answered {status}, and {end}: {exception}."
    if status is not None:
        who = "The API" if name or status != OF_PROXY else "A proxy, and not the API,"
        is_not = ", which is no success" if evidence.is_unusable else ""
        named = f"{':' if is_not else ''} {name}" if name else ""
        return f"{who} answered {status}{is_not}{named}{about}."
    if name:
        return f"The API refuses with {name}{about}."
    return _why_no_answer(evidence)


def _why_no_answer(evidence: Evidence) -> str:
    cause = evidence.cause
    if evidence.is_cancelled:
        return f"The app itself gave up waiting for the answer: {evidence.exception}."
    if evidence.exception == TOO_MANY_REDIRECTS:  # httpx's names no answer
        return f"The API redirected once too often: {evidence.exception}."
    if cause is not None:
        start = "There was no answer" if cause.was_asked else "The API was not asked"
        return f"{start}: {evidence.exception}, {cause.told}."
    if evidence.is_foreign:
        return f"No answer of the API is known for this exception: {evidence.exception}."
    if evidence.is_answered:
        return f"An answer came, and the client could not use it: {evidence.exception}."
    part = ", or not a whole one" if evidence.exception in _BODY_ERRORS else ""
    return f"There was no answer{part}: {evidence.exception}."


def _side(evidence: Evidence) -> str:
    if not evidence.has_failed:
        return NOBODY
    status, cause = evidence.status, evidence.cause
    row = catalog.find(evidence.envelope.code) if evidence.envelope.code else None
    type_ = row.type if row is not None else evidence.envelope.type
    if type_ in _SIDE_BY_TYPE:
        return _SIDE_BY_TYPE[type_]
    if status is None:
        is_of_network = evidence.is_transient if cause is None else cause.was_asked
        return THE_WAY if is_of_network else YOUR_APP
    is_broken = evidence.exception is not None and evidence.is_transient
    if evidence.is_stream or is_broken or status == OF_PROXY:
        return THE_WAY
    if status in _OF_ACCOUNT:
        return YOUR_ACCOUNT
    return THE_API if status >= _FIRST_SERVER_ERROR else YOUR_APP


def _ticket(evidence: Evidence) -> str:
    name = evidence.envelope.code or evidence.envelope.type or evidence.exception
    param, trace_id = evidence.envelope.param, evidence.trace_id
    parts = [
        "Assisters API",
        str(evidence.status or _without_status(evidence)),
        name if name and name != str(evidence.status) else None,
        f"param {param}" if param else None,
        f"request id {evidence.request_id or 'unknown'}",
        f"trace id {trace_id}" if trace_id else None,
        f"key {evidence.key_fingerprint}" if evidence.key_fingerprint else None,
        f"assisters-otel {__version__}",
    ]
    return ", ".join(part for part in parts if part)


def _without_status(evidence: Evidence) -> str:
    if evidence.is_answered:
        return "status unknown"
    return "no answer known" if evidence.is_foreign else "no answer"
