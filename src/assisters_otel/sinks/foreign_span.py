"""What is written to somebody else's span as it ends, after everybody else's writing.

The HTTP instrumentation opens an attempt's span and still writes to it after the transport
has returned: ``error.type="429"`` and a status without a description. So what we
know of a failure is written by an ``end`` of that span's own, which is the last
to write; test_spans.py proves it in every mode and order.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_http_instrumentation_enabled
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
)
from opentelemetry.semconv.attributes.http_attributes import HTTP_REQUEST_METHOD
from opentelemetry.semconv.attributes.url_attributes import URL_FULL
from opentelemetry.trace import SpanKind, StatusCode

from assisters_otel.api import redaction
from assisters_otel.fail_safe import fail_safe
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv.attributes import HTTP_METHOD, HTTP_URL

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, SpanContext
    from opentelemetry.util.types import Attributes


class _EndHook:
    """An ``end`` for one span, which writes last and then calls the class's own."""

    def __init__(self, span: Span, write: Callable[[Span], object]) -> None:
        self._span = span
        self.write: Callable[[Span], object] | None = write

    def __call__(self, end_time: int | None = None) -> None:
        own = vars(self._span)
        own.pop("end", None)
        own.pop("record_exception", None)
        try:
            if self.write is not None:
                _write(self.write, self._span)
        finally:  # whatever comes out of it
            self._span.end(end_time)


@fail_safe
def before_end(span: Span, write: Callable[[Span], object]) -> None:
    """Have *write* called when the span ends, after everybody else's writing.

    A later call for the same span takes the place of an earlier one: of a transport
    that retries inside one HTTP span, the last attempt counts.

    Args:
        span: An open span.
        write: Gets the span.
    """
    # Of a proxy, as OpenInference has one, these are those of the span behind it.
    own: dict[str, object] = getattr(span, "__dict__", {})
    late = own.get("end")
    if isinstance(late, _EndHook):
        late.write = write
        return
    own["end"] = late = _EndHook(span, write)
    if getattr(span, "end", None) is not late:
        # A class with slots: what is written now is better than nothing.
        own.pop("end", None)
        _write(write, span)


@fail_safe
def _write(write: Callable[[Span], object], span: Span) -> None:
    write(span)


@fail_safe
def cancel_before_end(span: Span) -> None:
    """Drop what `before_end` was to write: a later attempt on this span has succeeded."""
    # Not by `vars`: once it was asked for, each look into the span takes longer, also the SDK's.
    late = getattr(getattr(span, "__wrapped__", span), "end", None)
    if isinstance(late, _EndHook):
        late.write = None


def find_app_span(
    scope: str, method: str, host: str, url: object, *, is_inside: bool = False
) -> Span | None:
    """Find the client span of the attempt that is about to be sent.

    Args:
        scope: The name under which the HTTP instrumentation makes its spans.
        method: The request's, as sent.
        host: The request's host, as it stands in a URL.
        url: The whole URL, whose `str` is asked for only if it is needed.
        is_inside: Whether that instrumentation suppresses any other inside its span.

    Returns:
        The current span if it is that instrumentation's and this request's; None if
        it is the app's own, or sampled out, or instrumentation is suppressed.
    """
    span: Any = trace.get_current_span()
    if not span.is_recording() or getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    made_by = getattr(span, "instrumentation_scope", None)
    if getattr(made_by, "name", None) != scope:
        return None
    if not is_inside and not is_http_instrumentation_enabled():
        return None
    # A request inside another one's transport, whose span is current: it says another URL.
    # A hook may have taken the query or all of it away, a limit may have cut it.
    attributes = attributes_of(span)
    told = attributes.get(HTTP_URL) or attributes.get(URL_FULL)
    if isinstance(told, str) and host not in told and not str(url).startswith(told):
        return None
    sent = attributes.get(HTTP_REQUEST_METHOD) or attributes.get(HTTP_METHOD)
    return None if sent not in (None, names.OTHER, method.upper()) else span


def is_in_app_span(scope: str) -> bool:
    """Return True if the current span is one of the app's HTTP instrumentation, of any request."""
    made_by = getattr(trace.get_current_span(), "instrumentation_scope", None)
    return getattr(made_by, "name", None) == scope


_MAX_TEXT: Final = 4096


def span_context_of(span: Span | None) -> SpanContext:
    """Give a span's context; the current one's for None."""
    return (trace.get_current_span() if span is None else span).get_span_context()


def attributes_of(span: Any) -> dict[str, Any]:
    """Copy what a span says: none of its attributes, where it does not tell."""
    # A plain dict: the SDK's mapping raises and catches for each name that it has not.
    attributes = getattr(span, "attributes", None)
    copy = getattr(attributes, "copy", None)
    return copy() if attributes and copy is not None else dict(attributes or {})


@fail_safe
def mask_recorded_exception(span: Span, error: BaseException) -> None:
    """Keep keys and prompts out of the exception event that the span is about to get.

    h11 quotes a header that it refuses: ``Illegal header value b'Bearer ask_…'``.

    Args:
        span: The attempt's client span, open, for which `foreign_span.before_end` has been called.
        error: What is on its way through the HTTP instrumentation.
    """
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if _masked(text) == text:
        return

    def record_exception(
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,  # noqa: FBT001, FBT002 - OpenTelemetry's signature
    ) -> None:
        masked = {**_masked_exception(exception), **(attributes or {})}
        type(span).record_exception(span, exception, masked, timestamp, escaped)

    own: dict[str, Any] = getattr(span, "__dict__", {})  # none: a foreign span with slots
    own["record_exception"] = record_exception


def record_masked_exception(span: Span, error: BaseException) -> None:
    """Record an exception as an event of a span of the library's, without keys and prompts."""
    span.record_exception(error, _masked_exception(error))


def _masked_exception(error: BaseException) -> dict[str, str]:
    stack = traceback.format_exception(type(error), error, error.__traceback__)
    return {
        EXCEPTION_MESSAGE: _masked(str(error)),
        EXCEPTION_STACKTRACE: _masked("".join(stack)),
    }


def _masked(text: str) -> str:
    return redaction.encodable(redaction.redact(text))


def on_recorded_exception(span: Span, tell: Callable[[BaseException], object] | None) -> None:
    """Have *tell* called with the exception that the span is about to record, and ends with.

    Args:
        span: The attempt's client span, open.
        tell: Gets the exception; must not raise. None for: not any more.
    """
    own: dict[str, Any] = getattr(span, "__dict__", {})  # none: a foreign span with slots
    own.pop("record_exception", None)
    if tell is None:
        return

    def record_exception(exception: BaseException, *args: Any, **kwargs: Any) -> None:
        own.pop("record_exception", None)
        tell(exception)
        mask_recorded_exception(span, exception)
        span.record_exception(exception, *args, **kwargs)

    own["record_exception"] = record_exception


def mask_status(span: Span) -> None:
    """Keep keys and prompts out of the description that an exception's text became."""
    status = getattr(span, "status", None)
    description = getattr(status, "description", None)
    if description and _masked(description) != description:
        span.set_status(StatusCode.ERROR, redaction.clean(description, _MAX_TEXT))
