"""Finds the span that the app's HTTP instrumentation has opened for an attempt, and writes to it.

Rules.

* Only the client span of the attempt is written to, and never the app's own parent span.
* What the library writes of a failure is exported, whatever the instrumentation writes.
* Keys and prompts do not leave by the instrumentation's exception event or status.

How it works. The instrumentation still writes to the span after the transport has returned:
``error.type="429"``, and a status without a description. The SDK calls the processors when the span
takes no attribute any more. So `before_end` gives this one span an ``end`` of its own, as an
attribute of the object. It writes, and then calls the ``end`` of the class. test_spans.py proves it
in each mode and order. `mask_recorded_exception` and `on_recorded_exception` do the same with
``record_exception``.

What would break it.

* A span with slots takes no attribute. Then the failure is written at once, and the instrumentation
  may overwrite a part of it.
* A proxy of a span, as OpenInference has one: its ``__dict__`` is that of the span behind it.
* A hook that stays after the end would be a reference cycle. So `_EndHook` removes both hooks first
  (test_a_followed_redirect_leaves_the_app_s_span_in_no_reference_cycle).
* `vars` of a span that has no hook: it creates the dictionary. Then each later look-up in that span
  is slower, also the SDK's own.
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

    from opentelemetry.trace import Span
    from opentelemetry.util.types import Attributes


class _EndHook:
    """An ``end`` for one span. It writes to the span, and then calls the ``end`` of the class."""

    def __init__(self, span: Span, write: Callable[[Span], object]) -> None:
        self._span = span
        self.write: Callable[[Span], object] | None = write

    def __call__(self, end_time: int | None = None) -> None:
        try:
            own = vars(self._span)
            own.pop("end", None)
            own.pop("record_exception", None)
            if self.write is not None:
                _write(self.write, self._span)
        finally:  # also with a foreign exception; before the `pop` it calls this again
            self._span.end(end_time)


@fail_safe
def before_end(span: Span, write: Callable[[Span], object]) -> None:
    """Call *write* just before the span ends, after all other code has written to it.

    A later call for the same span replaces an earlier one: if a transport retries inside one HTTP
    span, the last attempt counts.

    Args:
        span: An open span.
        write: A function that gets the span.
    """
    # The attributes of a proxy, as OpenInference has one, are those of the span behind it.
    own: dict[str, object] = getattr(span, "__dict__", {})
    late = own.get("end")
    if isinstance(late, _EndHook):
        late.write = write
        return
    own["end"] = late = _EndHook(span, write)
    if getattr(span, "end", None) is not late:
        # The span's class has slots. So it is written now: later writes may replace a part of it.
        own.pop("end", None)
        _write(write, span)


@fail_safe
def _write(write: Callable[[Span], object], span: Span) -> None:
    write(span)


@fail_safe
def cancel_before_end(span: Span) -> None:
    """Cancel `before_end`: a later attempt on this span has succeeded."""
    # Not by `vars`: after it each look-up in the span takes longer, also the SDK's.
    late = getattr(getattr(span, "__wrapped__", span), "end", None)
    if isinstance(late, _EndHook):
        late.write = None


def find_app_span(
    scope: str, method: str, host: str, url: str, *, is_inside: bool = False
) -> Span | None:
    """Return the app's client span of the attempt that is about to be sent.

    Args:
        scope: The scope of the HTTP instrumentation's spans.
        method: The request's method, as sent.
        host: The request's host, as it stands in a URL.
        url: The whole URL.
        is_inside: True if that instrumentation suppresses all others inside its span.

    Returns:
        The current span if the instrumentation has made it for this request. None if it is the
        app's own parent span, or sampled out, or if instrumentation is suppressed.
    """
    span: Any = trace.get_current_span()
    if scope_of(span) != scope or not span.is_recording():
        return None
    if getattr(span, "kind", None) is not SpanKind.CLIENT:
        return None
    if not is_inside and not is_http_instrumentation_enabled():
        return None
    # A request may be sent inside the transport of another request, whose span is current and has
    # another URL. The app's hook may have removed the query or the URL, or a limit may have cut it.
    attributes = attributes_of(span)
    told = attributes.get(HTTP_URL) or attributes.get(URL_FULL)
    if isinstance(told, str) and host not in told and not url.startswith(told):
        return None
    sent = attributes.get(HTTP_REQUEST_METHOD) or attributes.get(HTTP_METHOD)
    return None if sent not in (None, names.OTHER, method.upper()) else span


def scope_of(span: Span) -> object:
    """Return the name of the scope of a span, or None if the span does not show it."""
    return getattr(getattr(span, "instrumentation_scope", None), "name", None)


def is_in_app_span(scope: str) -> bool:
    """Return True if the current span is one of the app's HTTP instrumentation, of any request."""
    return scope_of(trace.get_current_span()) == scope


_MAX_TEXT: Final = 4096


def attributes_of(span: Any) -> dict[str, Any]:
    """Return a copy of a span's attributes; an empty one if the span does not show them."""
    # A plain dict: the SDK's mapping raises and catches an exception for each missing name.
    attributes = getattr(span, "attributes", None)
    copy = getattr(attributes, "copy", None)
    return dict(attributes or {}) if copy is None else copy()


@fail_safe
def mask_recorded_exception(span: Span, error: BaseException) -> None:
    """Redact keys and prompts in the exception event that the span is about to get.

    h11 quotes a header that it refuses: ``Illegal header value b'Bearer ask_…'``.

    Args:
        span: The attempt's client span, open. `before_end` has been called for it.
        error: The exception that passes through the HTTP instrumentation.
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
    """Call *tell* with the exception that the instrumentation records on a span before its end.

    Args:
        span: The attempt's client span, open.
        tell: A function that gets the exception and must not raise. None cancels an earlier one.
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
    """Redact keys and prompts in a span's status, whose description is an exception's text."""
    status = getattr(span, "status", None)
    description = getattr(status, "description", None)
    if description and _masked(description) != description:
        span.set_status(StatusCode.ERROR, redaction.clean(description, _MAX_TEXT))
