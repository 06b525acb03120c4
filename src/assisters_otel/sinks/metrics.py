"""Records outcomes in the instruments, with a bounded number of label sets (`label_values`)."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final
from weakref import ref as weakref

from opentelemetry.metrics import Observation
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.semconv.attributes.server_attributes import SERVER_ADDRESS, SERVER_PORT

from assisters_otel import catalog
from assisters_otel.api import headers as response_headers
from assisters_otel.api.headers import header_integer
from assisters_otel.fail_safe import fail_safe
from assisters_otel.otel_api import providers
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.label_values import (
    _EXCEPTION_NAME,
    _METHODS,
    _MODEL,
    _STATUSES,
    _WELL_FORMED,
    MAX_MODELS,
    LabelValues,
)
from assisters_otel.version import __version__
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.context import Context
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.request import ApiRequest, LabelsKey
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome, Resend

FRESH_S: Final = 120.0
"""The seconds for which a rate limit's last value is reported. Later it may have changed."""
# The servers whose rate limits are kept. At this number the old ones are dropped.
_MAX_SERVERS: Final = 64
# The label sets that are cached, since creating one costs more than finding it.
_MAX_SETS: Final = 512
_END_LABELS: Final = (ERROR_TYPE, names.ERROR_CODE, HTTP_RESPONSE_STATUS_CODE)
_ERROR_LABELS: Final = (*_END_LABELS, names.ERROR_RETRYABLE)
_ATTEMPT_LABELS: Final = (*_END_LABELS, HTTP_REQUEST_METHOD)
_RETRY_LABELS: Final = (names.RETRY_REASON, names.RETRY_EARLY, names.RETRY_FUTILE)
_CALL_LABELS: Final = (
    ERROR_TYPE,
    names.ERROR_CODE,
    names.CALL_OUTCOME,
    names.GEN_AI_OPERATION_NAME,
    names.GEN_AI_REQUEST_MODEL,
)
_STREAM_LABELS: Final = (names.GEN_AI_REQUEST_MODEL,)

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
        self._now = now
        self._collect = collect
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
        latest = _gauge_callbacks(provider, meter)
        latest.metrics = weakref(self)
        self._limits: dict[tuple[str, int | None], tuple[float, Mapping[bytes, bytes]]] = {}
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
            self._errors.add(1, _labels(request.labels_key, _ERROR_LABELS, *end, outcome.retryable))
        method = request.method if request.method in _METHODS else names.OTHER
        self._duration.record(
            outcome.duration_s, _labels(request.labels_key, _ATTEMPT_LABELS, *end, method)
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
        error_type = self._error_type(outcome.error_type or names.OTHER, outcome)
        said = error_type, self._known_code(outcome), outcome.status, outcome.retryable
        self._errors.add(1, _labels(outcome.request.labels_key, _ERROR_LABELS, *said), context)

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
        model = None if model is None else self._model.bounded(model)
        shared = _labels(outcome.request.labels_key, _STREAM_LABELS, model)
        self._first_chunk.record(stream.first_chunk_s, shared, context)

    @fail_safe
    def record_retry(self, request: ApiRequest, resend: Resend) -> None:
        """Count one retry when it is sent. Its span must be current, for the exemplars."""
        reason = None if resend.reason is None else self._reason(resend.reason)
        self._retries.add(
            1, _labels(request.labels_key, _RETRY_LABELS, reason, resend.early, resend.futile)
        )

    @fail_safe
    def record_call(self, outcome: CallOutcome, context: Context) -> None:
        """Record one call of an SDK.

        Args:
            outcome: The outcome.
            context: A context in which the call's span is current, for the exemplars.
        """
        model = None if outcome.model is None else self._model.bounded(outcome.model)
        error_type = outcome.error_type
        if error_type is not None:
            error_type = self._error_type(error_type, outcome.last)
        said = error_type, self._known_code(outcome), outcome.outcome, outcome.operation, model
        shared = _labels(outcome.request.labels_key, _CALL_LABELS, *said)
        self._call_duration.record(outcome.duration_s, shared, context)
        self._call_attempts.record(outcome.retries + 1, shared, context)

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
                observations.append(Observation(value, _server(address, port)))
        return observations


@lru_cache(_MAX_SETS)
def _labels(
    labels_key: LabelsKey, others: tuple[str, ...], *values: AttributeValue | None
) -> Mapping[str, AttributeValue]:
    """Return a set of labels: those of the endpoint, and those of *others* that have a value."""
    address, port, template = labels_key
    named = {names.URL_TEMPLATE: template, **dict(zip(others, values, strict=True))}
    known = {name: value for name, value in named.items() if value is not None}
    return _server(address, port) | known


def _server(address: str, port: int | None) -> dict[str, AttributeValue]:
    if port is None:
        return {SERVER_ADDRESS: address}
    return {SERVER_ADDRESS: address, SERVER_PORT: port}
