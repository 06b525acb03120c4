"""The advice for a failed call, from its spans alone, also where the API gave no code.

It is that of `explain`, which the app would get for the same failure. A call's span has the error,
and the span of its last attempt has the status, and the exception that came in place of an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from assisters_otel import catalog, causes
from assisters_otel.api.error_body import Envelope
from assisters_otel.cli import span_text
from assisters_otel.explanation.evidence import Evidence
from assisters_otel.explanation.explain import explain_evidence
from assisters_otel.outcomes import FIRST_ERROR, FIRST_REDIRECT
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from assisters_otel.cli.watch.calls import Shown

_NO_RESULT: Final = (
    "The status was a success, and the body no result: compare the base URL (it ends in /v1) with "
    "the documentation, and look for a proxy or a login page on the way."
)
_OF_REDIRECTS: Final = "TooManyRedirects"
"""The clients' exception for a last answer that is a redirect. An SDK hides it in its own."""

_FAILED_STREAMS: Final = (names.STREAM_ERROR, names.TRUNCATED)


def advice(shown: Shown) -> str | None:
    """Return the advice for what has failed, or None if its head has no error."""
    attributes = shown.head.attributes
    code, error = attributes.get(names.ERROR_CODE), span_text.error_name(attributes)
    if error is None:
        return None
    type_ = str(attributes.get(ERROR_TYPE, error))
    status = _status(shown)
    has_success = status is not None and status < FIRST_ERROR
    # The type is the envelope's; else a word of the library's; else the exception's name.
    is_sent = code is not None or catalog.find_type(type_) is not None
    is_word = type_ in {names.OTHER, names.TRUNCATED, str(status)}
    is_stream = span_text.stream_outcome(attributes) in _FAILED_STREAMS
    if has_success and type_ == names.OTHER and not (is_sent or is_stream):
        return _NO_RESULT
    is_named = is_sent or not (is_word or has_success or status is None)
    exception = None if is_sent or (is_word and not is_stream) else type_
    if status is not None and FIRST_REDIRECT <= status < FIRST_ERROR and not is_sent:
        exception = _OF_REDIRECTS
    is_transient = attributes.get(names.ERROR_RETRYABLE) is True
    return explain_evidence(
        Evidence(
            status,
            Envelope(type_ if is_named else None, None if code is None else str(code)),
            exception=exception,
            # A stream that fails without a name is the API's, as a status 500 without one is.
            is_transient=is_transient or (is_stream and is_word),
            is_stream=is_stream,
            cause=None if status is not None else _cause(shown, type_),
        )
    ).advice


def _status(shown: Shown) -> int | None:
    spans = (shown.head, *shown.attempts[-1:])
    found = (span_text.http_status(one.attributes) for one in spans)
    return next(filter(None, found), None)


def _cause(shown: Shown, name: str) -> causes.Cause | None:
    """Return why there is no answer, from the last attempt or the name of its exception."""
    told = (one.cause for one in (shown.head, *shown.attempts[-1:]))
    return next(filter(None, told), causes.of_text(name, ""))
