"""The facts of an error, found from the object that the app has of it.

There are two sources:

1. The attempt that the library recorded for the object, or for one of its causes. It comes
   first: it has the code and the request id also where the client's exception has lost
   them, as those of `assisters` have.
2. The object itself: an exception with its response and its causes, or a response.

Nothing is consumed: a body that the app has not read stays unread. Classes are compared by
name, so that no client is imported.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from opentelemetry import trace

from assisters_otel import catalog, causes
from assisters_otel.api import error_body, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.headers import header_text, retry_after_s
from assisters_otel.api.patterns import pattern
from assisters_otel.api.request import CREDENTIALS
from assisters_otel.explanation.app_objects import (
    attribute,
    causes_and_responses,
    header,
    text_of,
)
from assisters_otel.outcomes import FIRST_ERROR
from assisters_otel.records import Record
from assisters_otel.sinks.known_attempts import find_attempt
from assisters_otel.sinks.tracebacks import find_in_traceback

if TYPE_CHECKING:
    from assisters_otel.sinks.known_attempts import KnownAttempt

_NO_TYPE: Final = "api_error"
_NO_ANSWER: Final = "network_error"
"""Two types that the `assisters` SDK invents: for an error without a type, and for no answer."""

_NETWORK_ERRORS: Final = frozenset(
    {
        *("OSError", "TimeoutError", "TransportError", "APIConnectionError"),
        *("ConnectionError", "Timeout", "ChunkedEncodingError"),
        *("ClientConnectionError", "ClientHttpProxyError", "ClientPayloadError"),
    }
)
"""Class names of exceptions for which the network is to blame, also in the middle of a body.

Source: the exceptions of the standard library, httpx, the SDKs, requests and aiohttp.
"""

_CALLER_ERRORS: Final = frozenset({"UnsupportedProtocol", "LocalProtocolError"})
"""Class names of httpx's transport errors for which the app is to blame."""

# The text of urllib3's ResponseError when its `Retry` gives up. requests raises a RetryError
# from it, which has no response.
_STATUS_IN_TEXT: Final = pattern(r"too many (\d{3}) error responses")

_CLIENTS: Final = frozenset(
    {
        *("aiohttp", "assisters", "h11", "h2", "httpcore", "httpcore2", "httpx", "httpx2"),
        *("openai", "requests", "urllib3"),
    }
)
"""The packages of the clients, and of what they raise exceptions of."""


class Evidence(Record):
    """The facts of an error, as far as they are known.

    Attributes:
        status: The HTTP status, or None without an answer.
        envelope: The error in the body, as far as it is known.
        request_id: The API's id of the request, or None.
        retry_after_s: The seconds that the API asked the caller to wait, or None.
        exception: The name of the exception in place of an answer or after it, or None.
        is_transient: True if *exception* is the network's, so that a retry can help.
        trace_id: The trace of the attempt in hex, else the current one, or None.
        is_stream: True if an event stream failed after its status.
        cause: Why there is no answer, where the exception's name does not say it.
        key_fingerprint: The fingerprint of the key that was sent, or None.
        is_foreign: True if the exception is no client's, and no attempt is known for it.
        is_cancelled: True if the app gave up waiting, and *exception* is no network's.
    """

    status: int | None = None
    envelope: Envelope = Envelope()
    request_id: str | None = None
    retry_after_s: float | None = None
    exception: str | None = None
    is_transient: bool = False
    trace_id: str | None = None
    is_stream: bool = False
    cause: causes.Cause | None = None
    key_fingerprint: str | None = None
    is_foreign: bool = False
    is_cancelled: bool = False

    @property
    def has_failed(self) -> bool:
        """True unless there was a whole answer with a status below 400."""
        has_no_success = self.status is None or self.status >= FIRST_ERROR
        return has_no_success or self.is_stream or self.exception is not None


def find_evidence(thing: object) -> Evidence | None:
    """Return the facts of an error.

    Args:
        thing: An exception, a response, an error code or its record in the catalog.

    Returns:
        The evidence, or None if *thing* is nothing of these.
    """
    if isinstance(thing, catalog.Error):
        thing = thing.code
    if isinstance(thing, str) and thing.strip():
        return _of_code(thing)
    known = next(filter(None, map(find_attempt, causes_and_responses(thing))), None)
    if known is None:
        known = next(filter(None, map(find_in_traceback, causes_and_responses(thing))), None)
    if known is not None:
        evidence = _of_attempt(known)
        if isinstance(thing, BaseException) and not known.outcome.failed:
            # The app has cancelled the attempt. Or it succeeded, and then the client raised, for
            # example on invalid JSON.
            is_transient = _is_network_error(thing)
            is_cancelled = known.outcome.cancelled and not is_transient
            evidence = evidence._replace(
                exception=type(thing).__qualname__,
                is_transient=is_transient,
                is_stream=evidence.is_stream and not is_cancelled,
                is_cancelled=is_cancelled,
            )
        return evidence
    if isinstance(thing, BaseException):
        return _of_exception(thing)
    status = _status(thing)
    return None if status is None else _of_response(thing, status)


def _of_code(code: str) -> Evidence:
    row = catalog.find(code)
    if row is None:
        return Evidence(None, Envelope(None, redaction.clean(code)))
    return Evidence(row.status, Envelope(row.type, redaction.clean(code)))


def _of_attempt(known: KnownAttempt) -> Evidence:
    outcome = known.outcome
    headers = outcome.headers
    return Evidence(
        outcome.status,
        outcome.envelope or Envelope(),
        header_text(headers.get(response_headers.REQUEST_ID)),
        retry_after_s(headers.get(response_headers.RETRY_AFTER), known.at_s),
        outcome.error_type if outcome.exception or outcome.stream else None,
        outcome.retryable,
        known.trace_id,
        outcome.stream is not None,
        outcome.cause,
        outcome.caller.key_fingerprint,
    )


def _of_exception(error: BaseException) -> Evidence:
    response = attribute(error, "response")
    if response is None:
        response = error  # aiohttp's ClientResponseError has status and headers itself
    # A status with which a proxy has refused a CONNECT is none of an answer.
    status = None if causes.proxy_status(error) is not None else _status(response)
    if status is None:
        evidence = Evidence(_status_retry_gave_up_on(error))
    else:
        evidence = _of_response(response, status)
    # The SDKs put the envelope's fields on the exception.
    secrets = _secrets(response)
    fields = Envelope(*(_text(error, name) for name in ("type", "code", "param")))
    fields = error_body.without_keys(fields, secrets)
    has_fields = any(fields[:3])
    if has_fields and not any(evidence.envelope[:3]):
        evidence = evidence._replace(envelope=fields)
    if evidence.status is None or evidence.status < FIRST_ERROR:
        cause = causes.of(error)
        is_transient = not has_fields and _is_network_error(error)
        evidence = evidence._replace(
            exception=type(error).__qualname__,
            is_transient=is_transient and (cause is None or cause.is_transient),
            cause=cause,
            is_foreign=not (has_fields or is_transient or cause or _is_of_client(error)),
        )
    request_id = evidence.request_id or redaction.without(_text(error, "request_id") or "", secrets)
    return evidence._replace(request_id=request_id or None, trace_id=_current_trace_id())


def _status_retry_gave_up_on(error: BaseException) -> int | None:
    """Return the status of the last answer that urllib3's `Retry` hides, or None."""
    texts = (
        text_of(cause)
        for cause in causes_and_responses(error)
        if type(cause).__name__ == "ResponseError"
    )
    found = next(filter(None, map(_STATUS_IN_TEXT.search, texts)), None)
    return None if found is None else int(found[1])


def _of_response(response: object, status: int) -> Evidence:
    body = attribute(response, "_content")  # of httpx and requests: what the app has read
    envelope = error_body.parse_error_body(body) if isinstance(body, bytes) else None
    secrets = _secrets(response)
    request_id = redaction.without(header_text(header(response, "x-request-id")) or "", secrets)
    return Evidence(
        status,
        error_body.without_keys(envelope or Envelope(), secrets),
        request_id or None,
        retry_after_s(header(response, "retry-after"), time.time()),
        trace_id=_current_trace_id(),
    )


def _secrets(response: object) -> list[str]:
    """Return the keys in the headers of a response's request, which its answer may quote."""
    request = attribute(response, "request") or attribute(response, "request_info")  # aiohttp's
    values = (header(request, name) or b"" for name in CREDENTIALS)
    return [words[-1].decode("latin-1") for value in values if (words := value.rsplit(None, 1))]


def _status(thing: object) -> int | None:
    for name in ("status_code", "status"):
        status = attribute(thing, name)
        if isinstance(status, int) and status > 0:  # assisters has 0 where there was no answer
            return status
    return None


def _text(error: BaseException, name: str) -> str | None:
    """Return an attribute of the exception if it is a text from the API, or None.

    It is read from ``__dict__``: a property may warn, as ``code`` of aiohttp's does.
    """
    value = getattr(error, "__dict__", {}).get(name)
    if not isinstance(value, str) or value in {_NO_TYPE, _NO_ANSWER}:
        return None
    return redaction.clean(value) or None


def _is_network_error(error: BaseException) -> bool:
    """Return True if the network is to blame for the exception or one of its causes."""
    kind = attribute(error, "type")
    if isinstance(kind, str) and kind == _NO_ANSWER:
        return True
    found: set[str] = set()
    for cause in causes_and_responses(error):
        classes = {kind.__name__ for kind in type(cause).__mro__}
        if "RequestException" in classes:  # each exception of requests is an OSError
            classes.discard("OSError")
        found |= classes
    return found.isdisjoint(_CALLER_ERRORS) and not found.isdisjoint(_NETWORK_ERRORS)


def _is_of_client(error: BaseException) -> bool:
    """Return True if the exception or one of its causes is of a client's package."""
    return any(
        kind.__module__.partition(".")[0] in _CLIENTS
        for cause in causes_and_responses(error)
        if isinstance(cause, BaseException)
        for kind in type(cause).__mro__
    )


def _current_trace_id() -> str | None:
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
