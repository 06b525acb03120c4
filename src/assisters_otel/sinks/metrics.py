"""Records outcomes in the instruments, with a bounded number of label sets (`label_values`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)

from assisters_otel import catalog
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.caller_labels import CallerLabels, LabelSets
from assisters_otel.sinks.label_values import (
    _EXCEPTION_NAME,
    _METHODS,
    _MODEL,
    _STATUSES,
    _WELL_FORMED,
    MAX_MODELS,
    LabelValues,
    label_set,
)
from assisters_otel.sinks.rate_limits import RateLimits
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.identity import Entries
    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome, Resend
    from assisters_otel.sinks.label_values import LabelsKey

_END_LABELS: Final = (ERROR_TYPE, names.ERROR_CODE, HTTP_RESPONSE_STATUS_CODE)
_ERROR_LABELS: Final = (*_END_LABELS, names.ERROR_RETRYABLE)
_ATTEMPT_LABELS: Final = (*_END_LABELS, HTTP_REQUEST_METHOD)
_RETRY_LABELS: Final = (names.RETRY_REASON, names.RETRY_EARLY, names.RETRY_FUTILE)
_CALL_LABELS: Final = (
    ERROR_TYPE,
    names.ERROR_CODE,
    names.CALL_OUTCOME,
    names.GEN_AI_OPERATION_NAME,
)


class AttemptMetrics:
    """The instruments of one provider."""

    def __init__(
        self, provider: MeterProvider, now: Callable[[], float], collect: Callable[[], object]
    ) -> None:
        """Create the instruments.

        Args:
            provider: The provider of the instruments.
            now: A steady clock, in seconds.
            collect: A function that is called before each collection. So an idle process, too,
                records the ends of collected bodies.
        """
        meter = providers.meter(
            provider.get_meter(names.SCOPE, __version__, schema_url=names.SCHEMA_URL)
        )
        self._duration = meter.create_histogram(
            metric_names.REQUEST_DURATION.name,
            metric_names.REQUEST_DURATION.unit,
            metric_names.REQUEST_DURATION.description,
            explicit_bucket_boundaries_advisory=metric_names.DURATION_BOUNDARIES,
        )
        self._errors = meter.create_counter(
            metric_names.ERRORS.name, metric_names.ERRORS.unit, metric_names.ERRORS.description
        )
        self._retries = meter.create_counter(
            metric_names.RETRIES.name, metric_names.RETRIES.unit, metric_names.RETRIES.description
        )
        self._call_duration = meter.create_histogram(
            metric_names.CALL_DURATION.name,
            metric_names.CALL_DURATION.unit,
            metric_names.CALL_DURATION.description,
            explicit_bucket_boundaries_advisory=metric_names.DURATION_BOUNDARIES,
        )
        self._call_attempts = meter.create_histogram(
            metric_names.CALL_ATTEMPTS.name,
            metric_names.CALL_ATTEMPTS.unit,
            metric_names.CALL_ATTEMPTS.description,
            explicit_bucket_boundaries_advisory=metric_names.ATTEMPTS_BOUNDARIES,
        )
        self._first_chunk = meter.create_histogram(
            metric_names.FIRST_CHUNK.name,
            metric_names.FIRST_CHUNK.unit,
            metric_names.FIRST_CHUNK.description,
            explicit_bucket_boundaries_advisory=metric_names.DURATION_BOUNDARIES,
        )
        self._callers = CallerLabels(now)
        self._error_sets = LabelSets(metric_names.ERRORS.name, _ERROR_LABELS)
        self._duration_sets = LabelSets(metric_names.CALL_DURATION.name, _CALL_LABELS)
        self._attempts_sets = LabelSets(metric_names.CALL_ATTEMPTS.name, _CALL_LABELS)
        self._first_chunk_sets = LabelSets(metric_names.FIRST_CHUNK.name, ())
        self._rate_limits = RateLimits(provider, meter, self._callers, now, collect)
        self._code = LabelValues(names.ERROR_CODE, (e.code for e in catalog.ERRORS), _WELL_FORMED)
        types = (names.TRUNCATED, names.OTHER, *(t.type for t in catalog.TYPES))
        self._type = LabelValues(ERROR_TYPE, types, _WELL_FORMED)
        self._exception = LabelValues(ERROR_TYPE, (names.CANCELLED,), _EXCEPTION_NAME)
        self._model = LabelValues(names.GEN_AI_REQUEST_MODEL, (), _MODEL, MAX_MODELS)

    @fail_safe
    def record_attempt(self, outcome: AttemptOutcome) -> None:
        """Record one attempt. The attempt's span must be current, for the exemplars."""
        request = outcome.request
        error_type, code = outcome.error_type, None
        if error_type is not None:
            error_type, code = self._error_type(error_type, outcome), self._known_code(outcome)
        end = error_type, code, outcome.status
        if outcome.failed:
            self._errors.add(1, self._error_labels(outcome, *end))
        method = request.method if request.method in _METHODS else names.OTHER
        self._duration.record(
            outcome.duration_s, label_set(_endpoint(request), _ATTEMPT_LABELS, *end, method)
        )
        self._rate_limits.record(outcome)

    @fail_safe
    def record_late_error(self, outcome: AttemptOutcome, context: Context | None) -> None:
        """Count one error: an answer that was counted as a success has failed after its status.

        Args:
            outcome: The attempt's outcome, with that of the body.
            context: A context in which the call's or stream's span is current, for the exemplars.
        """
        error_type = self._error_type(outcome.error_type or names.OTHER, outcome)
        end = error_type, self._known_code(outcome), outcome.status
        self._errors.add(1, self._error_labels(outcome, *end), context)

    @fail_safe
    def record_stream(
        self, outcome: AttemptOutcome, model: str | None, context: Context | None
    ) -> None:
        """Record the time to the first chunk of an event stream, if it had one.

        Args:
            outcome: The attempt's outcome, with that of the stream.
            model: The call's model, cleaned, or None.
            context: A context in which the call's or stream's span is current, for the exemplars.
        """
        stream = outcome.stream
        if stream is None or stream.first_chunk_s is None:
            return
        key, groups = _endpoint(outcome.request), ((), (), self._model_label(model))
        shared = self._first_chunk_sets.labels(key, (), *groups)
        self._first_chunk.record(stream.first_chunk_s, shared, context)

    @fail_safe
    def record_retry(self, request: ApiRequest, resend: Resend) -> None:
        """Count one retry when it is sent. Its span must be current, for the exemplars."""
        reason = None if resend.reason is None else self._reason(resend.reason)
        self._retries.add(
            1, label_set(_endpoint(request), _RETRY_LABELS, reason, resend.early, resend.futile)
        )

    @fail_safe
    def record_call(self, outcome: CallOutcome, context: Context) -> None:
        """Record one call of an SDK.

        Args:
            outcome: The outcome.
            context: A context in which the call's span is current, for the exemplars.
        """
        error_type = outcome.error_type
        if error_type is not None:
            error_type = self._error_type(error_type, outcome.last)
        said = error_type, self._known_code(outcome), outcome.outcome, outcome.operation
        fixed = _endpoint(outcome.request), said
        model, baggage = self._model_label(outcome.model), self._callers.baggage(outcome.caller)
        shared = self._duration_sets.labels(*fixed, (), (), model)
        self._call_duration.record(outcome.duration_s, shared, context)
        shared = self._attempts_sets.labels(*fixed, baggage, (), model)
        self._call_attempts.record(outcome.retries + 1, shared, context)

    def _error_labels(
        self, outcome: AttemptOutcome, *end: AttributeValue | None
    ) -> Mapping[str, AttributeValue]:
        key, said, caller = _endpoint(outcome.request), (*end, outcome.retryable), outcome.caller
        if caller.key_fingerprint is None and not caller.baggage:
            return label_set(key, _ERROR_LABELS, *said)
        groups = self._callers.baggage(caller), self._callers.key(caller)
        return self._error_sets.labels(key, said, *groups)

    def _model_label(self, model: str | None) -> Entries:
        if model is None:
            return ()
        return ((names.GEN_AI_REQUEST_MODEL, self._model.bounded(model)),)

    def _known_code(self, outcome: AttemptOutcome | CallOutcome) -> str | None:
        code = outcome.code
        return None if code is None else self._code.bounded(code)

    def _error_type(self, value: str, outcome: AttemptOutcome | None) -> str:
        if outcome is None or not outcome.failed or outcome.error_type == outcome.exception:
            return self._exception.bounded(value)
        return value if value in _STATUSES else self._type.bounded(value)

    def _reason(self, value: str) -> str:
        """Return the label under which the previous attempt was counted."""
        known = (_STATUSES, self._code, self._type, self._exception)
        return value if any(value in labels for labels in known) else names.OTHER


def _endpoint(request: ApiRequest) -> LabelsKey:
    return request.address, request.port, request.template
