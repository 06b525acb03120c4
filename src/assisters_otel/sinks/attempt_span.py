"""Writes an attempt to its client span, the library's or the app's: request, resend and outcome.

The library's span has its name and its URL from the start, and is written to at once. The app's
span is redacted and named first. A failure is written to it just before it ends, because its HTTP
instrumentation writes ``error.type`` and the status after the transport has returned.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_HEADER_TEMPLATE,
    HTTP_REQUEST_RESEND_COUNT,
    HTTP_RESPONSE_HEADER_TEMPLATE,
)
from opentelemetry.semconv.attributes.url_attributes import URL_FULL
from opentelemetry.trace import StatusCode

from assisters_otel.api import endpoints, redaction
from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import header_number, header_text, rate_limits, retry_after_s
from assisters_otel.api.limits import MAX_MESSAGE
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv.attributes import HTTP_URL
from assisters_otel.sinks.foreign_span import (
    attributes_of,
    before_end,
    cancel_before_end,
    mask_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.attempts.attempt import Attempt
    from assisters_otel.config import Config
    from assisters_otel.outcomes import AttemptOutcome, Resend

LAST: Final = (names.REQUEST_ID, ERROR_TYPE, names.ERROR_CODE)
"""The attributes of a failure that are written last. The SDK's limit drops the oldest first."""

_TOO_MANY_REQUESTS: Final = 429
_LIMITS: Final = {key: names.RATELIMIT.format(*key) for key in response_headers.RATELIMITS}


class AttemptSpans:
    """Writes attempts to spans, according to the settings."""

    def __init__(self, config: Config) -> None:
        """Read the settings."""
        self._capture_message = config.capture_message
        self._captures_headers = config.captures_headers

    @staticmethod
    @fail_safe
    def started(attempt: Attempt) -> None:
        """Write what is known when an attempt starts, if it has a span."""
        span = attempt.span
        if span is None:
            return
        if not attempt.is_own:
            _redact_and_name(span, attempt)
        if attempt.caller.baggage:
            span.set_attributes(dict(attempt.caller.baggage))
        if attempt.resend is not None:
            write_resend(span, attempt.resend)

    @fail_safe
    def ended(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        """Write how an attempt ended, if it has a span that is not used for another attempt."""
        span, now = attempt.span, time.time()  # the time of the answer, not of the span's end
        if span is None:
            return
        if attempt.is_own:
            if not attempt.is_followed:
                further = attempt.answer_attributes or {}
                write_outcome(span, outcome, now, further, capture_message=self._capture_message)
        elif outcome.failed:
            describe = partial(self._describe, now=now, outcome=outcome)
            if self._captures_headers:
                describe = partial(self._describe_captured, describe, attempt)
            before_end(span, describe)
        else:
            cancel_before_end(span)
            self._describe(span, now, outcome)
            if self._captures_headers:
                before_end(span, partial(_redact_answer, attempt))

    @fail_safe
    def _describe(self, span: Span, now: float, outcome: AttemptOutcome) -> None:
        write_outcome(span, outcome, now, capture_message=self._capture_message)

    @staticmethod
    def _describe_captured(
        describe: Callable[[Span], object], attempt: Attempt, span: Span
    ) -> None:
        describe(span)
        _redact_answer(attempt, span)


@fail_safe
def _redact_and_name(span: Span, attempt: Attempt) -> None:
    redact_request(span, attempt.request)
    set_span_name(span, attempt.request)


def redact_request(span: Span, request: ApiRequest) -> None:
    """Redact keys and the agent's prompt in the span's attributes of the request."""
    for name, value in attributes_of(span).items():
        if name in (HTTP_URL, URL_FULL):
            if value == request.clean_url:  # `masked_url` costs a tenth of all (``200, on top``)
                continue
            masked = endpoints.masked_url(str(value), request.template)
            if masked != value:
                span.set_attribute(name, masked)
        elif name.startswith(HTTP_REQUEST_HEADER_TEMPLATE):
            span.set_attribute(name, _masked_header(name, value))


@fail_safe
def _redact_answer(attempt: Attempt, span: Span) -> None:
    redact_answer(span, attempt.secrets())


def redact_answer(span: Span, secrets: Sequence[str]) -> None:
    """Redact keys in the response headers that the app's HTTP instrumentation has captured.

    Args:
        span: The attempt's span, about to end.
        secrets: The keys in the request's own headers.
    """
    for name, value in attributes_of(span).items():
        if name.startswith(HTTP_RESPONSE_HEADER_TEMPLATE):
            masked = [redaction.without(one, secrets) for one in _masked_header(name, value)]
            if masked != list(value):
                span.set_attribute(name, masked)


def _masked_header(name: str, values: Any) -> list[str]:
    if redaction.is_secret(name.rpartition(".")[2]):
        return [redaction.REDACTED]
    return [redaction.redact(str(value)) for value in values]


def write_outcome(
    span: Span,
    outcome: AttemptOutcome,
    now: float,
    further: Mapping[str, AttributeValue] | None = None,
    *,
    capture_message: bool,
) -> None:
    """Write an attempt's outcome to its span.

    Args:
        span: The attempt's client span, open.
        outcome: The outcome.
        now: The time of the attempt's end, in Unix seconds.
        further: Attributes of the answer that are not of the outcome, for a span of the library's.
            It has had its ``url.template`` from its start. None for a span of the app's.
        capture_message: True if the envelope's message is wanted.
    """
    found: dict[str, AttributeValue] = {}
    if further is not None:
        found.update(further)
    elif outcome.request.template:
        found[names.URL_TEMPLATE] = outcome.request.template
    _put_outcome(found, outcome, now, capture_message=capture_message)
    span.set_attributes(found)  # in one call: a span's attribute costs 1 % of an HTTP span
    if outcome.status is None:
        mask_status(span)
    elif outcome.failed:
        span.set_status(StatusCode.ERROR, outcome.code or outcome.error_type)


def _put_outcome(
    found: dict[str, AttributeValue], outcome: AttemptOutcome, now: float, *, capture_message: bool
) -> None:
    headers = outcome.headers
    request_id = header_text(headers.get(response_headers.REQUEST_ID))
    if request_id:
        found[names.RESPONSE_HEADER_REQUEST_ID] = (request_id,)
    took_ms = header_number(headers.get(response_headers.PROCESSING_TIME_MS))
    if took_ms is not None:
        found[names.SERVER_DURATION] = round(took_ms / 1000, names.DIGITS)
    asked = headers.get(response_headers.RETRY_AFTER)
    wait_s = None if asked is None else retry_after_s(asked, now)
    if wait_s is not None:
        found[names.RETRY_AFTER] = round(wait_s, names.DIGITS)
    if outcome.failed and outcome.status == _TOO_MANY_REQUESTS:
        for key, limit in rate_limits(headers, now).items():
            found[_LIMITS[key]] = round(limit, names.DIGITS)
    if request_id:
        found[names.REQUEST_ID] = request_id
    if outcome.failed:
        found |= error_attributes(outcome, capture_message=capture_message)
        put_last(found)


def put_last(found: dict[str, AttributeValue]) -> None:
    """Move the attributes of `LAST` to the end: the SDK's limit drops the oldest first."""
    for name in LAST:
        if name in found:
            found[name] = found.pop(name)


def error_attributes(
    outcome: AttemptOutcome, *, capture_message: bool
) -> dict[str, AttributeValue]:
    """Return the attributes of a failed attempt's error."""
    found: dict[str, AttributeValue] = {
        ERROR_TYPE: outcome.error_type or names.OTHER,
        names.ERROR_RETRYABLE: outcome.retryable,
    }
    if outcome.caller.key_fingerprint is not None:
        found[names.API_KEY_FINGERPRINT] = outcome.caller.key_fingerprint
    sent = outcome.envelope
    if sent is not None:
        if sent.code:
            found[names.ERROR_CODE] = sent.code
        if sent.param:
            found[names.ERROR_PARAM] = sent.param
        if capture_message and sent.message:
            found[names.ERROR_MESSAGE] = redaction.clean(sent.message, MAX_MESSAGE)
    return found


def set_span_name(span: Span, request: ApiRequest) -> None:
    """Name the span ``{METHOD} {url.template}``, unless the app has given it a name of its own."""
    name = getattr(span, "name", None)
    if not request.template or not isinstance(name, str):
        return
    # A span around all hops of a redirect has the name of the previous hop.
    method, _, before = name.partition(" ")
    is_ours = not before or (before != request.template and before in endpoints.TEMPLATES)
    if is_ours and method in {request.method, request.method.upper(), "HTTP"}:
        span.update_name(f"{method} {request.template}")


def write_resend(span: Span, resend: Resend) -> None:
    """Write a resend to its span, with a link to the span of the attempt before.

    Args:
        span: The resend's client span, open.
        resend: The record of the resend.
    """
    found: dict[str, AttributeValue] = {HTTP_REQUEST_RESEND_COUNT: resend.number}
    if resend.reason is not None:
        found[names.RETRY_REASON] = resend.reason
    if resend.delay_s is not None:
        found[names.RETRY_DELAY] = round(resend.delay_s, names.DIGITS)
    if resend.early is not None:
        found[names.RETRY_EARLY] = resend.early
    if resend.futile is not None:
        found[names.RETRY_FUTILE] = resend.futile
    span.set_attributes(found)
    # A transport may send again inside one span. Then the span would link to itself.
    before = resend.previous_span
    if before is not None and not providers.are_same(before, span.get_span_context()):
        providers.add_link(span, before)
