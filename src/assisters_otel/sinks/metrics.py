"""Records outcomes in the instruments, with a bounded number of label sets (`label_values`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)

from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.call_metrics import CallMetrics
from assisters_otel.sinks.caller_labels import CallerLabels, LabelSets
from assisters_otel.sinks.label_values import (
    METHODS,
    error_labels,
    label_set,
    outcome_labels,
    reason_label,
)
from assisters_otel.sinks.rate_limits import RateLimits
from assisters_otel.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome, Resend
    from assisters_otel.sinks.label_values import LabelsKey

_END_LABELS: Final = (ERROR_TYPE, names.ERROR_CODE, HTTP_RESPONSE_STATUS_CODE)
_ERROR_LABELS: Final = (*_END_LABELS, names.ERROR_RETRYABLE)
_ATTEMPT_LABELS: Final = (*_END_LABELS, HTTP_REQUEST_METHOD)
_RETRY_LABELS: Final = (names.RETRY_REASON, names.RETRY_EARLY, names.RETRY_FUTILE)


class AttemptMetrics:
    """The instruments of one provider.

    Attributes:
        calls: Those for calls.
    """

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
        self._labels = outcome_labels()
        self._callers = CallerLabels(now)
        self.calls = CallMetrics(meter, self._labels, self._callers)
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
        self._error_sets = LabelSets(metric_names.ERRORS.name, _ERROR_LABELS)
        self._rate_limits = RateLimits(provider, meter, self._callers, now, collect)

    @fail_safe
    def record_attempt(self, outcome: AttemptOutcome) -> None:
        """Record one attempt. The attempt's span must be current, for the exemplars."""
        request = outcome.request
        error_type, code = outcome.error_type, None
        if error_type is not None:
            error_type, code = error_labels(self._labels, error_type, outcome.code, outcome)
        end = error_type, code, outcome.status
        if outcome.failed:
            self._errors.add(1, self._error_labels(outcome, *end))
        method = request.method if request.method in METHODS else names.OTHER
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
        error_type = outcome.error_type or names.OTHER
        end = *error_labels(self._labels, error_type, outcome.code, outcome), outcome.status
        self._errors.add(1, self._error_labels(outcome, *end), context)

    @fail_safe
    def record_retry(self, request: ApiRequest, resend: Resend) -> None:
        """Count one retry when it is sent. Its span must be current, for the exemplars."""
        reason = None if resend.reason is None else reason_label(self._labels, resend.reason)
        self._retries.add(
            1, label_set(_endpoint(request), _RETRY_LABELS, reason, resend.early, resend.futile)
        )

    def _error_labels(
        self, outcome: AttemptOutcome, *end: AttributeValue | None
    ) -> Mapping[str, AttributeValue]:
        key, said, caller = _endpoint(outcome.request), (*end, outcome.retryable), outcome.caller
        if caller.key_fingerprint is None and not caller.baggage:
            return label_set(key, _ERROR_LABELS, *said)
        groups = self._callers.baggage(caller), self._callers.key(caller)
        return self._error_sets.labels(key, said, *groups)


def _endpoint(request: ApiRequest) -> LabelsKey:
    return request.address, request.port, request.template
