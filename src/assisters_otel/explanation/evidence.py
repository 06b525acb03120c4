"""What a response or an exception tells of an error."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import trace

from assisters_otel import causes
from assisters_otel.api import error_body, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.headers import header_text, retry_after_s
from assisters_otel.outcomes import FIRST_ERROR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.outcomes import AttemptOutcome

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
_OF_MISTAKES: Final = frozenset({"UnsupportedProtocol", "LocalProtocolError"})
"""Names of the classes of what the way there, or the app itself, is to blame for; in the middle of
a body, too, those of bodies. Source: the
standard library's, httpx's, the SDKs', requests' and aiohttp's exceptions."""

# What urllib3's `Retry` gave up on, which requests makes a RetryError of. Source: `ResponseError`.
_GAVE_UP: Final = re.compile(r"too many (\d{3}) error responses")

_CHAIN: Final = 5
"""How many causes of an exception are looked at."""


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


def _of_outcome(outcome: AttemptOutcome, at_s: float, trace_id: str | None) -> _Facts:
    headers = outcome.headers
    return _Facts(
        outcome.status,
        outcome.envelope or Envelope(),
        header_text(headers.get(response_headers.REQUEST_ID)),
        retry_after_s(headers.get(response_headers.RETRY_AFTER), at_s),
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
    if found.status is None or found.status < FIRST_ERROR:
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
    found = error_body.parse_error_body(body) if isinstance(body, bytes) else None
    return _Facts(
        status,
        found or Envelope(),
        header_text(_header(response, "x-request-id")),
        retry_after_s(_header(response, "retry-after"), time.time()),
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
