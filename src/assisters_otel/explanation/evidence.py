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
from assisters_otel.api.unusable_answer import error_in_result
from assisters_otel.explanation import exception_classes
from assisters_otel.explanation.app_objects import (
    attribute,
    causes_and_responses,
    causes_of,
    exceptions_in,
    header,
    is_made_up,
    status_of,
    text_of,
)
from assisters_otel.outcomes import FIRST_ERROR
from assisters_otel.records import Record
from assisters_otel.sinks.known_attempts import find_attempt
from assisters_otel.sinks.tracebacks import find_in_traceback

if TYPE_CHECKING:
    from assisters_otel.sinks.known_attempts import KnownAttempt

_INVENTED: Final = frozenset({"api_error", exception_classes.NO_ANSWER})
"""Two types that the `assisters` SDK invents: for an error without a type, and for no answer."""

# The text of urllib3's ResponseError when its `Retry` gives up. requests raises a RetryError
# from it, which has no response.
_STATUS_IN_TEXT: Final = pattern(r"too many (\d{3}) error responses")


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
        is_cancelled: True if the app gave up waiting.
        is_answered: True if *exception* is of an answer that came, of which nothing is known.
        is_unusable: True if an error or a page is in place of the result, after a status below 400.
        is_group: True if the exception is a group in which several are a client's.
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
    is_answered: bool = False
    is_unusable: bool = False
    is_group: bool = False

    @property
    def has_failed(self) -> bool:
        """True unless there was a whole and usable answer with a status below 400."""
        has_no_success = self.status is None or self.status >= FIRST_ERROR or self.is_unusable
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
        return _of_code(thing.strip())
    known = next(filter(None, map(find_attempt, causes_and_responses(thing))), None)
    if known is None:
        known = next(filter(None, map(find_in_traceback, causes_and_responses(thing))), None)
    if known is not None:
        evidence = _of_attempt(known)
        return _after(evidence, known, thing) if isinstance(thing, BaseException) else evidence
    if isinstance(thing, BaseException):
        found = _of_clients(exceptions_in(thing))
        evidence = found[0] if len(found) == 1 else _of_exception(thing)
        return evidence._replace(is_group=len(found) > 1)
    raw = attribute(thing, "http_response")  # of a raw response of `openai`
    response = thing if status_of(raw) is None else raw
    status = status_of(response)
    return None if status is None else _of_response(response, status)


def _of_clients(members: list[BaseException]) -> list[Evidence]:
    """Return the evidence of each exception in a group that is a client's."""
    return [one for one in map(find_evidence, members) if one is not None and not one.is_foreign]


def _after(evidence: Evidence, known: KnownAttempt, error: BaseException) -> Evidence:
    """Add the exception that the app has of a known attempt, which has not failed itself.

    The app has cancelled the attempt. Or it succeeded, and then the client raised, for example on
    invalid JSON.
    """
    if known.outcome.failed:
        return evidence
    chain = list(causes_of(error))
    is_cancelled = known.outcome.cancelled
    return evidence._replace(
        exception=_name_of(chain),
        is_transient=not is_cancelled and exception_classes.is_network_error(chain),
        is_stream=evidence.is_stream and not is_cancelled,
        is_cancelled=is_cancelled,
    )


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
        is_unusable=outcome.is_unusable,
    )


def _of_exception(error: BaseException) -> Evidence:
    chain = list(causes_of(error))
    # An exception of another package has a status and a code of another server, or of none.
    of_clients = filter(exception_classes.is_of_client, chain)
    sources = [one for one in of_clients if not exception_classes.has_invented_answer(one)]
    received = (one for one in sources if not is_made_up(attribute(one, "response")))
    source = next(received, sources[0] if sources else None)
    evidence = Evidence() if source is None else _of_client_exception(source)
    has_fields = any(evidence.envelope[:3])
    if evidence.status is None or evidence.status < FIRST_ERROR:
        cause = _cause_of(chain)
        is_cancelled = exception_classes.is_given_up(error)
        may_be_network = not has_fields and not is_cancelled
        is_transient = may_be_network and exception_classes.is_network_error(chain)
        is_after_answer = source is not None and exception_classes.is_after_answer(source)
        evidence = evidence._replace(
            exception=_name_of(chain),
            is_transient=is_transient and (cause is None or cause.is_transient),
            cause=cause,
            is_foreign=not (source or is_transient or cause or is_cancelled),
            is_cancelled=is_cancelled,
            is_answered=is_after_answer or exception_classes.is_undecodable(chain),
        )
    return evidence._replace(trace_id=_current_trace_id())


def _of_client_exception(error: BaseException) -> Evidence:
    response = attribute(error, "response")
    if response is None:
        response = error  # aiohttp's ClientResponseError has status and headers itself
    # A status with which a proxy has refused a CONNECT is none of an answer.
    status = None if causes.proxy_status(error) is not None else status_of(response)
    if status is None:
        evidence = Evidence(_status_retry_gave_up_on(error))
    else:
        evidence = _of_response(response, status)
    # The SDKs put the envelope's fields on the exception.
    secrets = _secrets(response)
    fields = Envelope(*(_text(error, name) for name in ("type", "code", "param")))
    fields = error_body.without_keys(fields, secrets)
    if any(fields[:3]) and not any(evidence.envelope[:3]):
        evidence = evidence._replace(envelope=fields)
    request_id = evidence.request_id or redaction.without(_text(error, "request_id") or "", secrets)
    return evidence._replace(request_id=request_id or None)


def _cause_of(chain: list[BaseException]) -> causes.Cause | None:
    of_clients = filter(exception_classes.is_of_client_or_python, chain)
    return next(filter(None, map(causes.of, of_clients)), None)


def _name_of(chain: list[BaseException]) -> str:
    """Return the name of the first exception of a chain, or that of a circle of redirects.

    `openai` raises an APIConnectionError for that, as for a connection that is refused.
    """
    if exception_classes.is_circle_of_redirects(chain):
        return exception_classes.TOO_MANY_REDIRECTS
    return type(chain[0]).__qualname__


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
    document = error_body.parse_object(body) if isinstance(body, bytes) else {}
    is_refusal = status >= FIRST_ERROR  # after a success, a result may have an error of its own
    found = error_body.envelope_of(document.get("error"))
    envelope = found if is_refusal else error_in_result(document)
    secrets = _secrets(response)
    request_id = redaction.without(header_text(header(response, "x-request-id")) or "", secrets)
    return Evidence(
        status,
        error_body.without_keys(envelope or Envelope(), secrets),
        request_id or None,
        retry_after_s(header(response, "retry-after"), time.time()),
        trace_id=_current_trace_id(),
        is_unusable=not is_refusal and envelope is not None,
    )


def _secrets(response: object) -> list[str]:
    """Return the keys in the headers of a response's request, which its answer may quote."""
    request = attribute(response, "request") or attribute(response, "request_info")  # aiohttp's
    values = (header(request, name) or b"" for name in CREDENTIALS)
    return [words[-1].decode("latin-1") for value in values if (words := value.rsplit(None, 1))]


def _text(error: BaseException, name: str) -> str | None:
    """Return an attribute of the exception if it is a text from the API, or None.

    It is read from ``__dict__``: a property may warn, as ``code`` of aiohttp's does.
    """
    value = getattr(error, "__dict__", {}).get(name)
    if not isinstance(value, str) or value in _INVENTED:
        return None
    return redaction.clean(value) or None


def _current_trace_id() -> str | None:
    context = trace.get_current_span().get_span_context()
    return trace.format_trace_id(context.trace_id) if context.is_valid else None
