"""Writes failures to the log, so that the request id is known without a backend.

Each failed call is one WARNING, and so is each failed attempt outside of a call. Equal failures
within `WINDOW_S` are a *storm*, which is summed up. The first `MAX_SINGLE_LINES` of a storm have a
line each. Then there is a line whenever the number has doubled, and one at the end. The first
failure of each further key has a line as well, so that one revoked key does not hide another.

A storm's last line does not wait for another failure: after `WINDOW_S` the next collection of the
metrics, or the next flush, has it written. No thread waits for that: Python warns an app that forks
while threads run.

Failures are equal if they have the same error, method and endpoint.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)

from assisters_otel import catalog, logger
from assisters_otel.api import headers as response_headers
from assisters_otel.api import redaction
from assisters_otel.api.headers import header_text
from assisters_otel.fail_safe import fail_safe
from assisters_otel.semconv import attributes as names
from assisters_otel.sinks.known_attempts import span_context_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.trace import Span, SpanContext

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome

    Fields = dict[str, str | int | bool]
    _Kind = tuple[str, str]  # the error, then the method and endpoint
    _Sum = tuple[_Kind, int, Callable[[], Fields]]

WINDOW_S: Final = 60.0
"""The seconds within which equal failures are one storm."""

MAX_SINGLE_LINES: Final = 5
"""The number of a storm's failures that have a line each."""

_UNKNOWN_CODE: Final = "an undocumented code"
_UNKNOWN_PATH: Final = "an undocumented path"
_MAX_KINDS: Final = 256
_MAX_KEYS: Final = 20
"""The keys of a storm whose first failure has a line. As many are labels of metrics."""


class _Burst:
    """The failures of one kind.

    Attributes:
        since: The time of the first one, on a steady clock.
        seen: The number of failures.
        logged: The number of those that are in a line of the log.
        fields: A function that returns the fields of the last one.
        keys: The fingerprints of the keys that failed.
    """

    __slots__ = ("fields", "keys", "logged", "seen", "since")

    def __init__(self, since: float) -> None:
        self.since = since
        self.seen = self.logged = 0
        self.fields: Callable[[], Fields] = dict
        self.keys: set[str] = set()

    def is_new_key(self, key: str | None) -> bool:
        """Return True if this is the first failure of a key."""
        if key is None or key in self.keys or len(self.keys) >= _MAX_KEYS:
            return False
        self.keys.add(key)
        return True

    def take_unreported(self) -> int:
        """Return the number of failures that are in no line yet, and count them as logged."""
        more, self.logged = self.seen - self.logged, self.seen
        return more


class FailureLog:
    """Writes one WARNING for each failed call or attempt, and sums up storms."""

    def __init__(self, now: Callable[[], float]) -> None:
        """Start without a storm.

        Args:
            now: A steady clock, in seconds.
        """
        self._now = now
        self._lock = threading.RLock()  # a signal handler may send a request meanwhile
        self._storms: dict[_Kind, _Burst] = {}

    @fail_safe
    def record_failure(
        self, outcome: AttemptOutcome, span: Span | None = None, attempts: int = 1
    ) -> None:
        """Write a failed attempt's line, or add the attempt to a storm.

        Args:
            outcome: The outcome of the attempt, or of the last one of its call.
            span: The attempt's or the call's span; None for the current one.
            attempts: The number of attempts of the call.
        """
        context = span_context_of(span)
        what = outcome.retry_reason or ""
        # Undocumented codes are one kind: each failure may have another one.
        known = outcome.code is None or catalog.find(what) is not None
        if outcome.status is not None and outcome.code is None and outcome.exception is None:
            ours = what in {str(outcome.status), names.TRUNCATED, names.OTHER}
            known = ours or catalog.find_type(what) is not None
        line = partial(_attempt_message, outcome, attempts, context)
        fields = partial(_attempt_fields, outcome, attempts, context)
        key = outcome.caller.key_fingerprint
        self._record(what if known else _UNKNOWN_CODE, outcome.request, key, line, fields)

    @fail_safe
    def record_call(self, outcome: CallOutcome, span: Span | None = None) -> None:
        """Write a failed call's line, or add the call to a storm."""
        last = outcome.last
        if last is not None and last.failed:
            self.record_failure(last, span, outcome.retries + 1)
            return
        told = outcome, span_context_of(span)
        line, fields = partial(_call_message, *told), partial(_call_fields, *told)
        key = outcome.caller.key_fingerprint
        self._record(outcome.error_type or "", outcome.request, key, line, fields)

    def _record(
        self,
        what: str,
        request: ApiRequest,
        key: str | None,
        line: Callable[[str], str],
        fields: Callable[[], Fields],
    ) -> None:
        """Add a failure to its storm, and write a line if it is due.

        Args:
            what: The error.
            request: The record of the request.
            key: The fingerprint of its key, or None.
            line: A function that returns the line, from the method and endpoint.
            fields: A function that returns the line's fields.
        """
        where = f"{request.method} {request.template or redaction.clean(request.path)}"
        kind = (what, where if request.template else _UNKNOWN_PATH)
        now = self._now()
        with self._lock:
            over = self._take_ended(now)
            if kind not in self._storms and len(self._storms) >= _MAX_KINDS:
                over += self._take_all()
            storm = self._storms.get(kind)
            if storm is None:
                storm = self._storms[kind] = _Burst(now)
            storm.seen += 1
            storm.fields = fields
            is_first = storm.is_new_key(key) or storm.seen <= MAX_SINGLE_LINES
            more = storm.take_unreported() if is_first or storm.seen >= 2 * storm.logged else 0
        for ended in over:
            _log_summary(*ended)
        if is_first:
            logger.warning("%s", line(where), fields={**fields(), names.FAILURES: more})
        elif more:
            _log_summary(kind, more, fields)

    def has_ended_storm(self) -> bool:
        """Return True if `sum_up_ended` may have a line to write."""
        now = self._now()
        with self._lock:
            return any(now - storm.since >= WINDOW_S for storm in self._storms.values())

    @fail_safe
    def sum_up_ended(self) -> None:
        """Write a line for each storm that is over and has failures without one."""
        with self._lock:
            over = self._take_ended(self._now())
        for ended in over:
            _log_summary(*ended)

    def sum_up(self) -> None:
        """Write a line for each storm that has failures without one."""
        with self._lock:
            over = self._take_all()
        for ended in over:
            _log_summary(*ended)

    def _take_ended(self, now: float) -> list[_Sum]:
        ended = [k for k, storm in self._storms.items() if now - storm.since >= WINDOW_S]
        return [self._take(kind) for kind in ended]

    def _take_all(self) -> list[_Sum]:
        return [self._take(kind) for kind in list(self._storms)]

    def _take(self, kind: _Kind) -> _Sum:
        storm = self._storms.pop(kind)
        return kind, storm.take_unreported(), storm.fields


def _log_summary(kind: _Kind, more: int, fields: Callable[[], Fields]) -> None:
    if more:
        named = {**fields(), names.FAILURES: more}
        logger.warning("Assisters API: %d more met %s on %s", more, *kind, fields=named)


def _attempt_fields(outcome: AttemptOutcome, attempts: int, span: SpanContext) -> Fields:
    """Return the fields of a line, for machines. They have the same names as on the span."""
    fields = _location_fields(outcome.request, span)
    fields[names.ATTEMPTS] = attempts
    fields[ERROR_TYPE] = outcome.error_type or names.OTHER
    fields[names.ERROR_RETRYABLE] = outcome.retryable
    if outcome.code is not None:
        fields[names.ERROR_CODE] = outcome.code
    if outcome.status is not None:
        fields[HTTP_RESPONSE_STATUS_CODE] = outcome.status
    request_id = header_text(outcome.headers.get(response_headers.REQUEST_ID))
    if request_id:
        fields[names.REQUEST_ID] = request_id
    if outcome.caller.key_fingerprint is not None:
        fields[names.API_KEY_FINGERPRINT] = outcome.caller.key_fingerprint
    return fields


def _call_fields(outcome: CallOutcome, span: SpanContext) -> Fields:
    last, attempts = outcome.last, outcome.retries + 1
    fields = {} if last is None else _attempt_fields(last, attempts, span)
    what: Fields = {ERROR_TYPE: outcome.error_type or names.OTHER, names.ATTEMPTS: attempts}
    return fields | _location_fields(outcome.request, span) | what


def _location_fields(request: ApiRequest, span: SpanContext) -> Fields:
    fields: Fields = {HTTP_REQUEST_METHOD: request.method}
    if request.template is not None:
        fields[names.URL_TEMPLATE] = request.template
    if span.is_valid:
        fields[names.TRACE_ID] = trace.format_trace_id(span.trace_id)
        fields[names.SPAN_ID] = trace.format_span_id(span.span_id)
    return fields


def _attempt_message(outcome: AttemptOutcome, attempts: int, span: SpanContext, where: str) -> str:
    what = outcome.retry_reason
    cause = outcome.cause
    if cause is not None:
        begin = "gave no answer" if cause.was_asked else "was not asked"
        met = f"{begin} ({what}: {cause.told})"
    elif outcome.status is None:
        met = f"gave no answer ({what})"
    elif outcome.is_unusable:
        met = f"answered {outcome.status}, which is no success ({what}),"
    elif outcome.exception is not None:
        met = f"answered {outcome.status}, and broke off ({what}),"
    elif outcome.stream is not None:
        met = f"answered {outcome.status}, and its stream failed ({what}),"
    else:
        met = f"answered {outcome.status}" + ("" if what == str(outcome.status) else f" {what}")
    tried = f", {attempts} attempts" if attempts > 1 else ""
    advice = "a retry can help" if outcome.retryable else "no retry helps"
    return f"Assisters API {met} on {where}{tried}{_ids(outcome, span)}: {advice}"


def _call_message(outcome: CallOutcome, span: SpanContext, where: str) -> str:
    last = outcome.last
    met = f"the client failed ({outcome.error_type})"
    met = f" answered {last.status}, and {met}," if last and last.status else f": {met}"
    tried = f", {outcome.retries + 1} attempts" if outcome.retries else ""
    advice = "a retry can help" if outcome.retryable else "no retry helps"
    return f"Assisters API{met} on {where}{tried}{_ids(last, span)}: {advice}"


def _ids(outcome: AttemptOutcome | None, span: SpanContext) -> str:
    """Return the ids of a failure in brackets, as a line of the log quotes them."""
    ids = []
    if outcome is not None:
        ids += [("request id", header_text(outcome.headers.get(response_headers.REQUEST_ID)))]
    if span.is_valid:
        ids += [("trace id", trace.format_trace_id(span.trace_id))]
    if outcome is not None:
        ids += [("key", outcome.caller.key_fingerprint)]
    quoted = ", ".join(f"{name} {value}" for name, value in ids if value)
    return f" ({quoted})" if quoted else ""
