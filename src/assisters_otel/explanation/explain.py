"""`explain`: what an error of the Assisters API means, and what to do about it."""

from __future__ import annotations

from typing import Final

from assisters_otel import catalog, causes
from assisters_otel.explanation.evidence import Evidence, find_evidence
from assisters_otel.outcomes import FIRST_ERROR
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
_OF_URL: Final = frozenset({404, 405})
_FIRST_SERVER_ERROR: Final = 500

_DO_NOTHING: Final = "Nothing to do."
_ASK_SUPPORT: Final = "Look at the API's status page; if it stays, give support the request id."
_CHECK_REQUEST: Final = (
    "The request was refused, and sent again it will be: look at it, at the parameter if one is "
    "named, and at what stands between you and the API; then ask support with the request id."
)
_CHECK_URL: Final = "Compare base URL (it ends in /v1), path and ids with the documentation."
_CHECK_NETWORK: Final = (
    "Look at name resolution, proxy, outgoing network and time-outs of your service, "
    "then at the API's status page."
)
_CHECK_UNSENT: Final = "The request did not leave: check the base URL, the headers and the body."
_CHECK_ORIGIN: Final = (
    "This is no exception of the API's clients, and no request is known for it: look at where it "
    "was raised."
)
_CHECK_LIMIT: Final = (
    "The app, or the runtime that it runs in, has ended the request: look at its time limits, at "
    "what cancels its tasks, and at what stops it."
)
_CHECK_CLIENT: Final = "The client itself failed: compare its version with what the API answers."
_CHECK_TLS_FILES: Final = (
    "Look at the path of the CA bundle or certificate: REQUESTS_CA_BUNDLE, SSL_CERT_FILE, or the "
    "client's own option."
)
_CHECK_PROXY: Final = (
    "The request did not reach the API: look at the proxy's URL with its user name and password "
    "(HTTPS_PROXY, or the client's own option), and at whether the proxy lets the API's host pass."
)
_TOO_MANY_REDIRECTS: Final = "TooManyRedirects"  # the same in httpx, requests and aiohttp
_OF_PROXY: Final = 407
"""The status that only a proxy answers with. Source: RFC 9110, 15.5.8."""

_ADVICE_BY_CAUSE: Final = {
    causes.POOL: (
        "All connections of the client's own pool were in use: close what is streamed and not "
        "read to its end, share one client, or raise its limit of connections or its time-out "
        "for the pool."
    ),
    causes.CERTIFICATE: (
        "A proxy that opens TLS may be in between: add its CA to the bundle that the client reads "
        "(SSL_CERT_FILE; REQUESTS_CA_BUNDLE for requests; or the client's own option), or compare "
        "the host's name."
    ),
}
"""The advice for a cause. All others are a proxy's refusal, or files for TLS that are not there."""

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
        what = type(thing).__name__ if thing != "" else "an empty text"
        raise ValueError(
            f"{function}() takes an exception, a response or an error code, not {what}"
        )
    return explain_evidence(evidence)


def explain_evidence(evidence: Evidence) -> Explanation:
    """Return what the evidence means."""
    retryable, advice, user_message = _advise(evidence)
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


def _advise(evidence: Evidence) -> tuple[bool, str, str]:
    """Return whether a retry helps, what the developer does, what a user may be shown."""
    code, type_, status = evidence.envelope.code, evidence.envelope.type, evidence.status
    row = catalog.find(code) if code else None
    if row is not None:
        return row.retryable, row.advice, row.user_message
    if not evidence.has_failed:
        return False, _DO_NOTHING, ""
    if code or type_ or (status is not None and status >= FIRST_ERROR):
        if catalog.retryable(code, type_, status or FIRST_ERROR):
            return True, _ASK_SUPPORT, catalog.SORRY
        return False, *_advise_against_retry(status, type_)
    if status is not None:  # a status below 400, and then the body or the stream failed
        advice = _ASK_SUPPORT if evidence.is_stream else _CHECK_NETWORK
        advice = advice if evidence.is_transient else _CHECK_CLIENT
        advice = _CHECK_LIMIT if evidence.is_cancelled else advice
        advice = _CHECK_URL if evidence.exception == _TOO_MANY_REDIRECTS else advice
        return evidence.is_transient, advice, catalog.SORRY
    advice = _CHECK_NETWORK if evidence.is_transient else _CHECK_UNSENT
    if evidence.is_cancelled:
        advice = _CHECK_LIMIT
    elif evidence.exception == _TOO_MANY_REDIRECTS:
        advice = _CHECK_URL
    elif evidence.is_foreign:
        advice = _CHECK_ORIGIN
    elif evidence.cause is not None:
        other = _CHECK_PROXY if evidence.cause.is_of_proxy else _CHECK_TLS_FILES
        advice = _ADVICE_BY_CAUSE.get(evidence.cause, other)
    user_message = catalog.BUSY if evidence.is_transient else catalog.SORRY
    return evidence.is_transient, advice, user_message


def _advise_against_retry(status: int | None, type_: str | None) -> tuple[str, str]:
    """Return advice and user message for a code that is not documented, where no retry helps."""
    rows = [row for row in catalog.ERRORS if row.type == type_]
    user_message = rows[0].user_message if rows else catalog.IN_VAIN
    if len(rows) == 1:  # the type's only documented code has the advice of the type
        return rows[0].advice, user_message
    if status == _OF_PROXY and type_ is None:
        return _CHECK_PROXY, user_message
    return _CHECK_URL if status in _OF_URL else _CHECK_REQUEST, user_message


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
        end = "the app itself gave up waiting for the rest" if evidence.is_cancelled else end
        end = "redirected once too often" if exception == _TOO_MANY_REDIRECTS else end
        return f"The API answered {status}, and {end}: {exception}."
    if status is not None:
        who = "The API" if name or status != _OF_PROXY else "A proxy, and not the API,"
        return f"{who} answered {status}{f' {name}' if name else ''}{about}."
    if name:
        return f"The API refuses with {name}{about}."
    return _why_no_answer(evidence)


def _why_no_answer(evidence: Evidence) -> str:
    cause = evidence.cause
    if evidence.is_cancelled:
        return f"The app itself gave up waiting for the answer: {evidence.exception}."
    if evidence.exception == _TOO_MANY_REDIRECTS:  # httpx's names no answer
        return f"The API redirected once too often: {evidence.exception}."
    if cause is not None:
        start = "There was no answer" if cause.was_asked else "The API was not asked"
        return f"{start}: {evidence.exception}, {cause.told}."
    if evidence.is_foreign:
        return f"No answer of the API is known for this exception: {evidence.exception}."
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
        is_of_app = cause is not None and not cause.was_asked
        is_of_proxy = cause is not None and cause.is_of_proxy
        is_of_network = evidence.is_transient or is_of_proxy or cause == causes.CERTIFICATE
        return THE_WAY if is_of_network and not is_of_app else YOUR_APP
    is_broken = evidence.exception is not None and evidence.is_transient
    if evidence.is_stream or is_broken or status == _OF_PROXY:
        return THE_WAY
    if status in _OF_ACCOUNT:
        return YOUR_ACCOUNT
    return THE_API if status >= _FIRST_SERVER_ERROR else YOUR_APP


def _ticket(evidence: Evidence) -> str:
    name = evidence.envelope.code or evidence.envelope.type or evidence.exception
    param, trace_id = evidence.envelope.param, evidence.trace_id
    parts = [
        "Assisters API",
        str(evidence.status or ("no answer known" if evidence.is_foreign else "no answer")),
        name if name and name != str(evidence.status) else None,
        f"param {param}" if param else None,
        f"request id {evidence.request_id or 'unknown'}",
        f"trace id {trace_id}" if trace_id else None,
        f"key {evidence.key_fingerprint}" if evidence.key_fingerprint else None,
        f"assisters-otel {__version__}",
    ]
    return ", ".join(part for part in parts if part)
