"""`explain`: what an error of the Assisters API means, and what to do about it."""

from __future__ import annotations

from typing import Final, NamedTuple

from assisters_otel import catalog, causes
from assisters_otel.api import redaction
from assisters_otel.api.error_body import Envelope
from assisters_otel.explanation.evidence import (
    _Facts,
    _is_of_network,
    _of_exception,
    _of_outcome,
    _of_response,
    _related,
    _status,
)
from assisters_otel.outcomes import FIRST_ERROR
from assisters_otel.sinks.known_attempts import find_attempt
from assisters_otel.version import __version__

YOUR_APP: Final = "your app"
YOUR_ACCOUNT: Final = "your account"
THE_INPUT: Final = "the input"
THE_API: Final = "the API"
THE_WAY: Final = "the way there"
NOBODY: Final = "nobody: it succeeded"
SIDES: Final = (YOUR_APP, YOUR_ACCOUNT, THE_INPUT, THE_API, THE_WAY, NOBODY)
"""Whose side it is on."""

_BY_TYPE: Final = {
    "invalid_request_error": YOUR_APP,
    "authentication_error": YOUR_ACCOUNT,
    "rate_limit_error": YOUR_ACCOUNT,
    "tokens_exhausted_error": YOUR_ACCOUNT,
    "insufficient_funds_error": YOUR_ACCOUNT,
    "content_policy_error": THE_INPUT,
    "server_error": THE_API,
}
_OF_ACCOUNT: Final = frozenset({401, 402, 403})
_NO_SUCH_PLACE: Final = frozenset({404, 405})
_FIRST_SERVER_ERROR: Final = 500
_FINE: Final = "Nothing to do."
_UNKNOWN: Final = "Look at the API's status page; if it stays, give support the request id."
_REFUSED: Final = (
    "The request was refused, and sent again it will be: look at it, at the parameter if one is "
    "named, and at what stands between you and the API; then ask support with the request id."
)
_NOT_FOUND: Final = (
    "Compare base URL, path and ids with the documentation: the base URL ends in /v1, and the path "
    "follows it."
)
_NETWORK: Final = (
    "Look at name resolution, proxy, outgoing network and time-outs of your service, "
    "then at the API's status page."
)
_CALLER: Final = "The request did not leave: check the base URL, the headers and the body."
_OF_CAUSES: Final = {
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
_OF_FILES: Final = (
    "Look at the path of the CA bundle or certificate: REQUESTS_CA_BUNDLE, SSL_CERT_FILE, or the "
    "client's own option."
)
_CLIENT: Final = "The client itself failed: compare its version with what the API answers."
_OF_BODIES: Final = frozenset(
    {"ChunkedEncodingError", "ClientPayloadError", "IncompleteRead", "RemoteProtocolError"}
)


class Explanation(NamedTuple):
    """What is known of one failure. Nothing in it quotes what somebody typed.

    Attributes:
        what: What happened, in a sentence.
        side: Whose side it is on: one of `SIDES`.
        retryable: Whether the same request can succeed if it is sent again soon.
        retry_after_s: Seconds to wait before that, if the API said so.
        advice: What the developer does next.
        user_message: What an end user may be shown.
        code: The API's error code, as sent, or None.
        type: Its type, or None.
        param: The parameter at fault, or None.
        status: The HTTP status, or None if there was no answer.
        request_id: What to quote to support, or None.
        trace_id: Where to find it in your backend, in hex, or None.
        ticket: All of that on one line, for a support ticket.
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
            response of one of them; or an error code. What we have seen of the attempt or
            call that it is from is used as well, so an `assisters` exception has its code
            and request id again.

    Returns:
        What is known. Of something that has nothing to do with the API that is little.

    Raises:
        ValueError: *thing* is neither an exception, a response nor a code.
    """
    if isinstance(thing, catalog.Error):
        thing = thing.code
    if isinstance(thing, str) and thing.strip():
        row = catalog.find(thing)
        status = None if row is None else row.status
        found = _Facts(status, Envelope(None if row is None else row.type, redaction.clean(thing)))
        return _explained(found)
    met = next(filter(None, map(find_attempt, _related(thing))), None)
    if met is not None:
        found = _of_outcome(met.outcome, met.at_s, met.trace_id)
        if isinstance(thing, BaseException) and not met.outcome.failed:  # it failed afterwards
            name = type(thing).__qualname__
            found = found._replace(exception=name, transient=_is_of_network(thing))
        return _explained(found)
    if isinstance(thing, BaseException):
        return _explained(_of_exception(thing))
    status = _status(thing)
    if status is None:
        what = type(thing).__name__ if thing != "" else "an empty text"
        raise ValueError(f"explain() takes an exception, a response or an error code, not {what}")
    return _explained(_of_response(thing, status))


def _explained(found: _Facts) -> Explanation:
    code, type_ = found.envelope.code, found.envelope.type
    row = catalog.find(code) if code else None
    failed = found.status is None or found.status >= FIRST_ERROR or found.is_stream
    failed = failed or found.exception is not None
    if row is not None:
        retryable, advice, user_message = row.retryable, row.advice, row.user_message
    elif not failed:
        retryable, advice, user_message = False, _FINE, ""
    elif found.status is None and not (code or type_):
        retryable = found.transient
        advice, user_message = (_NETWORK, catalog.BUSY) if retryable else (_CALLER, catalog.SORRY)
        if found.cause is not None:
            advice = _OF_CAUSES.get(found.cause, _OF_FILES)
    elif found.status is not None and found.status < FIRST_ERROR and not (code or type_):
        retryable = found.transient
        helps = _UNKNOWN if found.is_stream else _NETWORK
        advice, user_message = (helps if retryable else _CLIENT), catalog.SORRY
    else:
        retryable = catalog.retryable(code, type_, found.status or FIRST_ERROR)
        advice, user_message = (
            (_UNKNOWN, catalog.SORRY) if retryable else _refused(found.status, type_)
        )
    return Explanation(
        _what(found, failed=failed),
        _side(found, failed=failed),
        retryable,
        found.wait_s if retryable else None,
        advice,
        user_message,
        code,
        type_,
        found.envelope.param,
        found.status,
        found.request_id,
        found.trace_id,
        _ticket(found),
    )


def _refused(status: int | None, type_: str | None) -> tuple[str, str]:
    """Give advice and user message for what no retry helps, and the catalog has no code of."""
    alike = [row for row in catalog.ERRORS if row.type == type_]
    user_message = alike[0].user_message if alike else catalog.IN_VAIN
    if len(alike) == 1:
        return alike[0].advice, user_message
    return _NOT_FOUND if status in _NO_SUCH_PLACE else _REFUSED, user_message


def _what(found: _Facts, *, failed: bool) -> str:
    name = found.envelope.code or found.envelope.type
    about = f", about the parameter {found.envelope.param}" if found.envelope.param else ""
    if not failed:
        return f"The API answered {found.status}."
    if found.is_stream:
        return f"The API answered {found.status}, and its stream failed: {name or found.exception}."
    if found.status is not None and found.exception is not None:
        end = "its body broke off" if found.transient else "the client could not use it"
        return f"The API answered {found.status}, and {end}: {found.exception}."
    if found.status is not None:
        return f"The API answered {found.status}{f' {name}' if name else ''}{about}."
    if name:
        return f"The API refuses with {name}{about}."
    return _why_no_answer(found)


def _why_no_answer(found: _Facts) -> str:
    cause = found.cause
    if cause is not None:
        begin = "There was no answer" if cause.was_asked else "The API was not asked"
        return f"{begin}: {found.exception}, {cause.told}."
    part = ", or not a whole one" if found.exception in _OF_BODIES else ""
    return f"There was no answer{part}: {found.exception}."


def _side(found: _Facts, *, failed: bool) -> str:
    if not failed:
        return NOBODY
    row = catalog.find(found.envelope.code) if found.envelope.code else None
    type_ = row.type if row is not None else found.envelope.type
    if type_ in _BY_TYPE:
        return _BY_TYPE[type_]
    if found.status is None:
        is_ours = found.cause is not None and not found.cause.was_asked
        is_of_way = found.transient or found.cause == causes.CERTIFICATE
        return THE_WAY if is_of_way and not is_ours else YOUR_APP
    if found.is_stream or (found.exception is not None and found.transient):
        return THE_WAY
    if found.status in _OF_ACCOUNT:
        return YOUR_ACCOUNT
    return THE_API if found.status >= _FIRST_SERVER_ERROR else YOUR_APP


def _ticket(found: _Facts) -> str:
    name = found.envelope.code or found.envelope.type or found.exception
    parts = [
        "Assisters API",
        str(found.status or "no answer"),
        name if name and name != str(found.status) else None,
        f"param {found.envelope.param}" if found.envelope.param else None,
        f"request id {found.request_id or 'unknown'}",
        f"trace id {found.trace_id}" if found.trace_id else None,
        f"assisters-otel {__version__}",
    ]
    return ", ".join(part for part in parts if part)
