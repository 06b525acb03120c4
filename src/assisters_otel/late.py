"""What is written to somebody else's span as it ends, after everybody else's writing.

The HTTP instrumentation opens an attempt's span and still writes to it after the transport
has returned: ``error.type="429"`` and a status without a description. So what we
know of a failure is written by an ``end`` of that span's own, which is the last
to write; test_spans.py proves it in every mode and order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span

    from assisters_otel.fail_safe import Guard


class _LateEnd:
    """An ``end`` for one span, which writes last and then calls the class's own."""

    def __init__(self, span: Span, write: Callable[[Span], object], guard: Guard) -> None:
        self._span = span
        self._guard = guard
        self.write: Callable[[Span], object] | None = write

    def __call__(self, end_time: int | None = None) -> None:
        own = vars(self._span)
        own.pop("end", None)
        own.pop("record_exception", None)
        try:
            if self.write is not None:
                self._guard(self.write, self._span)
        finally:  # whatever comes out of it
            self._span.end(end_time)


def write(span: Span, write: Callable[[Span], object], guard: Guard) -> None:
    """Have *write* called when the span ends, after everybody else's writing.

    A later call for the same span takes the place of an earlier one: of a transport
    that retries inside one HTTP span, the last attempt counts.

    Args:
        span: An open span.
        write: Gets the span.
        guard: Runs *write*, which then is nobody's trouble but ours.
    """
    # Of a proxy, as OpenInference has one, these are those of the span behind it.
    own: dict[str, object] = getattr(span, "__dict__", {})
    late = own.get("end")
    if isinstance(late, _LateEnd):
        late.write = write
        return
    own["end"] = late = _LateEnd(span, write, guard)
    if getattr(span, "end", None) is not late:
        # A class with slots: what is written now is better than nothing.
        own.pop("end", None)
        guard(write, span)


def forget(span: Span) -> None:
    """Drop what `write` was to write: a later attempt on this span has succeeded."""
    # Not by `vars`: once it was asked for, each look into the span takes longer, also the SDK's.
    late = getattr(getattr(span, "__wrapped__", span), "end", None)
    if isinstance(late, _LateEnd):
        late.write = None
