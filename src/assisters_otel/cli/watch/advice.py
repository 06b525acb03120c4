"""The advice for the error on a span, also where the API gave no code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from assisters_otel import catalog
from assisters_otel.cli import span_text
from assisters_otel.explanation.evidence import Evidence
from assisters_otel.explanation.explain import explain_evidence
from assisters_otel.semconv import attributes as names

if TYPE_CHECKING:
    from collections.abc import Mapping

STATUS: Final = ("http.response.status_code", "http.status_code")
"""The attribute of the new conventions, and that of the old."""

_FIRST_FAILED: Final = 400
_BROKEN_STREAM: Final = 500
"""A stream that fails without a code is the API's, as a status 500 without one is."""


def status(attributes: Mapping[str, object]) -> int | None:
    """Return the HTTP status on a span, or None."""
    found = next((attributes[name] for name in STATUS if name in attributes), None)
    return found if isinstance(found, int) else None


def advice(attributes: Mapping[str, object]) -> str | None:
    """Return the advice for the error on a span, or None if the span has no error."""
    error = span_text.error_name(attributes)
    if error is None:
        return None
    known = catalog.find(error)
    if known is not None:
        return known.advice
    answered = status(attributes)
    if span_text.stream_outcome(attributes) is not None:
        answered = _BROKEN_STREAM
    if answered is not None and answered >= _FIRST_FAILED:
        return explain_evidence(Evidence(answered)).advice
    # Without an answer a retry helps where the way there is to blame, and not the app.
    is_on_the_way = attributes.get(names.ERROR_RETRYABLE) is not False
    return explain_evidence(Evidence(exception=error, is_transient=is_on_the_way)).advice
