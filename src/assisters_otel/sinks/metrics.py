"""Records outcomes in the instruments, with a bounded number of label sets (`label_values`)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import ref as weakref

from opentelemetry.metrics import Observation
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)

from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import header_integer
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.call_metrics import CallMetrics
from assisters_otel.sinks.label_values import (
    METHODS,
    error_type_label,
    label_set,
    outcome_labels,
    reason_label,
    server_labels,
)
from assisters_otel.version import __version__
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider

    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome, Resend

FRESH_S: Final = 120.0
"""The seconds for which a rate limit's last value is reported. Later it may have changed."""
# The servers whose rate limits are kept. At this number the old ones are dropped.
_MAX_SERVERS: Final = 64
_END_LABELS: Final = (ERROR_TYPE, names.ERROR_CODE, HTTP_RESPONSE_STATUS_CODE)
_ERROR_LABELS: Final = (*_END_LABELS, names.ERROR_RETRYABLE)
_ATTEMPT_LABELS: Final = (*_END_LABELS, HTTP_REQUEST_METHOD)
_RETRY_LABELS: Final = (names.RETRY_REASON, names.RETRY_EARLY, names.RETRY_FUTILE)

_GAUGES: Final = (
    (metric_names.REQUESTS_LIMIT, response_headers.RATELIMITS["requests", "limit"]),
    (metric_names.REQUESTS_REMAINING, response_headers.RATELIMITS["requests", "remaining"]),
    (metric_names.TOKENS_LIMIT, response_headers.RATELIMITS["tokens", "limit"]),
    (metric_names.TOKENS_REMAINING, response_headers.RATELIMITS["tokens", "remaining"]),
)
_LIMIT_HEADERS: Final = frozenset(header for _, header in _GAUGES)


class _GaugeCallbacks:
    """The callbacks of one provider's observable gauges.

    An instrument keeps the callbacks that it was created with. So a second `init` must be reached
    through them. The app's provider may also live longer than the library's instruments.
    """

    __slots__ = ("metrics",)

    def __init__(self, meter: Meter) -> None:
        self.metrics: Callable[[], AttemptMetrics | None] = _no_metrics
        for metric, header in _GAUGES:
            observe = partial(self._observe, header)
            meter.create_observable_gauge(metric.name, [observe], metric.unit, metric.description)

    def _observe(self, header: bytes, _options: CallbackOptions) -> Iterable[Observation]:
        metrics = self.metrics()
        return () if metrics is None else metrics.rate_limit_observations(header)


def _no_metrics() -> None:
    """Return None: no `AttemptMetrics` exists yet."""


_gauge_callbacks_by_provider: Final[WeakIdentityDict[_GaugeCallbacks]] = WeakIdentityDict()


def _gauge_callbacks(provider: MeterProvider, meter: Meter) -> _GaugeCallbacks:
    latest = _gauge_callbacks_by_provider.get(provider)
    if latest is None:
        latest = _GaugeCallbacks(meter)
        _gauge_callbacks_by_provider.put_for_ever(provider, latest)
    return latest


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
        self._now = now
        self._collect = collect
        self._labels = outcome_labels()
        self.calls = CallMetrics(meter, self._labels)
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
        latest = _gauge_callbacks(provider, meter)
        latest.metrics = weakref(self)
        self._limits: dict[tuple[str, int], tuple[float, Mapping[bytes, bytes]]] = {}

    @fail_safe
    def record_attempt(self, outcome: AttemptOutcome) -> None:
        """Record one attempt. The attempt's span must be current, for the exemplars."""
        request = outcome.request
        error_type, code = outcome.error_type, None
        if error_type is not None:
            error_type, code = (
                error_type_label(self._labels, error_type, outcome),
                self._code(outcome),
            )
        end = error_type, code, outcome.status
        if outcome.failed:
            self._errors.add(
                1, label_set(request.labels_key, _ERROR_LABELS, *end, outcome.retryable)
            )
        method = request.method if request.method in METHODS else names.OTHER
        self._duration.record(
            outcome.duration_s, label_set(request.labels_key, _ATTEMPT_LABELS, *end, method)
        )
        if not _LIMIT_HEADERS.isdisjoint(outcome.headers):
            self._keep_limits(request, outcome.headers)

    @fail_safe
    def record_late_error(self, outcome: AttemptOutcome, context: Context | None) -> None:
        """Count one error: an answer that was counted as a success has failed after its status.

        Args:
            outcome: The attempt's outcome, with that of the body.
            context: A context in which the call's or stream's span is current, for the exemplars.
        """
        error_type = error_type_label(self._labels, outcome.error_type or names.OTHER, outcome)
        said = error_type, self._code(outcome), outcome.status, outcome.retryable
        self._errors.add(1, label_set(outcome.request.labels_key, _ERROR_LABELS, *said), context)

    @fail_safe
    def record_retry(self, request: ApiRequest, resend: Resend) -> None:
        """Count one retry when it is sent. Its span must be current, for the exemplars."""
        reason = None if resend.reason is None else reason_label(self._labels, resend.reason)
        self._retries.add(
            1, label_set(request.labels_key, _RETRY_LABELS, reason, resend.early, resend.futile)
        )

    def _code(self, outcome: AttemptOutcome) -> str | None:
        return None if outcome.code is None else self._labels.code.bounded(outcome.code)

    def _keep_limits(self, request: ApiRequest, headers: Mapping[bytes, bytes]) -> None:
        # The four integers are parsed at a collection, and not on each response.
        now = self._now()
        if len(self._limits) >= _MAX_SERVERS:
            fresh = {k: kept for k, kept in self._limits.items() if kept[0] >= now - FRESH_S}
            self._limits = fresh if len(fresh) < _MAX_SERVERS else {}
        self._limits[request.address, request.port] = (now, headers)

    def rate_limit_observations(self, header: bytes) -> Iterable[Observation]:
        """Return each server's last value of a rate limit, unless it is older than `FRESH_S`.

        Args:
            header: The header that has the value.
        """
        self._collect()
        oldest = self._now() - FRESH_S
        observations = []
        for (address, port), (at, headers) in list(self._limits.items()):
            value = header_integer(headers.get(header))
            if value is not None and at >= oldest:
                observations.append(Observation(value, server_labels(address, port)))
        return observations
