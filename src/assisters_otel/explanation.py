"""`explain`: what an error of the Assisters API means, and what to do about it."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace

from assisters_otel import catalog, causes
from assisters_otel.api import error_body, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.error_body import Envelope
from assisters_otel.outcomes import FAILED
from assisters_otel.sinks import known_attempts
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.outcomes import Outcome

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
_NO_TYPE: Final = "api_error"
_NO_ANSWER: Final = "network_error"
"""The two types that the `assisters` SDK has invented."""

_OF_NETWORK: Final = frozenset(
    {
        *("OSError", "TimeoutError", "TransportError", "APIConnectionError"),
        *("ConnectionError", "Timeout", "ChunkedEncodingError"),
        *("ClientConnectionError", "ClientPayloadError"),
    }
)
_OF_BODIES: Final = frozenset(
    {"ChunkedEncodingError", "ClientPayloadError", "IncompleteRead", "RemoteProtocolError"}
)
_OF_MISTAKES: Final = frozenset({"UnsupportedProtocol", "LocalProtocolError"})
"""Names of the classes of what the way there, or the app itself, is to blame for; in the middle of
a body, too, those of bodies. Source: the
standard library's, httpx's, the SDKs', requests' and aiohttp's exceptions."""

# What urllib3's `Retry` gave up on, which requests makes a RetryError of. Source: `ResponseError`.
_GAVE_UP: Final = re.compile(r"too many (\d{3}) error responses")

_CHAIN: Final = 5
"""How many causes of an exception are looked at."""


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


class _Facts(NamedTuple):
    """What was found, from what we saw of the attempt or from the thing itself."""

    status: int | None = None
    envelope: Envelope = Envelope()
    request_id: str | None = None
    wait_s: float | None = None
    exception: str | None = None
    transient: bool = False
    trace_id: str | None = None
    is_stream: bool = False
    cause: causes.Cause | None = None


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
    met = next(filter(None, map(known_attempts.of, _related(thing))), None)
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


def _related(thing: object) -> Iterator[object]:
    """Give the thing, its response and request, and the same of its causes."""
    for _ in range(_CHAIN):
        yield thing
        yield _get(thing, "response")
        if isinstance(thing, BaseException):  # a response's request may have been sent again
            yield _get(thing, "request")
        cause = getattr(thing, "__cause__", None) or getattr(thing, "__context__", None)
        if cause is None:
            return
        thing = cause


def _get(thing: object, name: str) -> object:
    # httpx raises where nobody has set it.
    with suppress(AttributeError, RuntimeError):
        value: object = getattr(thing, name)
        return value
    return None


def _of_outcome(outcome: Outcome, at_s: float, trace_id: str | None) -> _Facts:
    headers = outcome.headers
    return _Facts(
        outcome.status,
        outcome.envelope or Envelope(),
        response_headers.text(headers.get(response_headers.REQUEST_ID)),
        response_headers.seconds_to_wait(headers.get(response_headers.RETRY_AFTER), at_s),
        outcome.error_type if outcome.exception or outcome.stream else None,
        outcome.retryable,
        trace_id,
        outcome.stream is not None,
        outcome.cause,
    )


def _of_exception(error: BaseException) -> _Facts:
    response = _get(error, "response")
    if response is None:
        response = error  # aiohttp's has the headers itself
    status = _status(response)
    found = _Facts(_given_up_on(error)) if status is None else _of_response(response, status)
    told = Envelope(*(_text(error, name) for name in ("type", "code", "param")))
    if any(told[:3]) and not any(found.envelope[:3]):
        found = found._replace(envelope=told)
    if found.status is None or found.status < FAILED:
        name, transient = type(error).__qualname__, not any(told[:3]) and _is_of_network(error)
        cause = causes.of(error)
        transient = transient and (cause is None or cause.is_transient)
        found = found._replace(exception=name, transient=transient, cause=cause)
    request_id = found.request_id or _text(error, "request_id")
    return found._replace(request_id=request_id, trace_id=_current_trace())


def _given_up_on(error: BaseException) -> int | None:
    texts = (str(one) for one in _related(error) if type(one).__name__ == "ResponseError")
    found = next(filter(None, map(_GAVE_UP.search, texts)), None)
    return None if found is None else int(found[1])


def _of_response(response: object, status: int) -> _Facts:
    body = getattr(response, "_content", None)  # what has been read; nothing is read here
    found = error_body.parse(body) if isinstance(body, bytes) else None
    return _Facts(
        status,
        found or Envelope(),
        response_headers.text(_header(response, "x-request-id")),
        response_headers.seconds_to_wait(_header(response, "retry-after"), time.time()),
        trace_id=_current_trace(),
    )


def _header(response: object, name: str) -> bytes | None:
    get = getattr(getattr(response, "headers", None), "get", None)
    value = get(name) if callable(get) else None
    return value.encode("latin-1", "replace") if isinstance(value, str) else None


def _status(thing: object) -> int | None:
    for name in ("status_code", "status"):
        status = getattr(thing, name, None)
        if isinstance(status, int) and status > 0:  # assisters says 0 where there was no answer
            return status
    return None


def _text(thing: object, name: str) -> str | None:
    value = getattr(thing, "__dict__", {}).get(name)  # a property may warn, as aiohttp's ``code``
    if not isinstance(value, str) or value in {_NO_TYPE, _NO_ANSWER}:
        return None
    return redaction.clean(value) or None


def _is_of_network(error: BaseException) -> bool:
    if getattr(error, "type", None) == _NO_ANSWER:
        return True
    kinds: set[str] = set()
    for cause in _related(error):
        names_of = {kind.__name__ for kind in type(cause).__mro__}
        if "RequestException" in names_of:  # each of requests' is an OSError
            names_of.discard("OSError")
        kinds |= names_of
    return kinds.isdisjoint(_OF_MISTAKES) and not kinds.isdisjoint(_OF_NETWORK)


def _current_trace() -> str | None:
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None


def _explained(found: _Facts) -> Explanation:
    code, type_ = found.envelope.code, found.envelope.type
    row = catalog.find(code) if code else None
    failed = found.status is None or found.status >= FAILED or found.is_stream
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
    elif found.status is not None and found.status < FAILED and not (code or type_):
        retryable = found.transient
        helps = _UNKNOWN if found.is_stream else _NETWORK
        advice, user_message = (helps if retryable else _CLIENT), catalog.SORRY
    else:
        retryable = catalog.retryable(code, type_, found.status or FAILED)
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
