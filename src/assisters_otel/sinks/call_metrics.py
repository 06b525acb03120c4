"""Records calls in the instruments of the GenAI conventions, and event streams outside of calls.

An endpoint without an operation is in the number of attempts alone: the conventions demand the
operation's name on each of their metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from assisters_otel.api import endpoints
from assisters_otel.fail_safe import fail_safe
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.caller_labels import LabelSets
from assisters_otel.sinks.label_values import error_type_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.identity import Entries, Identity
    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome, StreamOutcome
    from assisters_otel.sinks.caller_labels import CallerLabels
    from assisters_otel.sinks.label_values import OutcomeLabels

_ATTEMPTS_LABELS: Final = (
    gen_ai.OPERATION_NAME,
    names.CALL_OUTCOME,
    ERROR_TYPE,
    names.ERROR_CODE,
)
_USAGE_LABELS: Final = (
    gen_ai.PROVIDER_NAME,
    gen_ai.OPERATION_NAME,
    names.CALL_OUTCOME,
    gen_ai.TOKEN_TYPE,
)
_TOKENS: Final = (
    (gen_ai.INPUT, gen_ai.USAGE_INPUT_TOKENS),
    (gen_ai.OUTPUT, gen_ai.USAGE_OUTPUT_TOKENS),
)
_DURATION_LABELS: Final = (*_USAGE_LABELS[:-1], ERROR_TYPE, names.ERROR_CODE)


class _Ended(NamedTuple):
    """The values that a call and an event stream outside of calls have in common."""

    request: ApiRequest
    operation: str
    model: str | None
    outcome: str
    error_type: str | None
    code: str | None
    answer: Answer | None
    stream: StreamOutcome | None
    caller: Identity


class CallMetrics:
    """The instruments for calls, of one provider."""

    def __init__(self, meter: Meter, labels: OutcomeLabels, callers: CallerLabels) -> None:
        """Create the instruments.

        Args:
            meter: The meter of the instruments.
            labels: The values of labels, which the attempts' instruments share.
            callers: The labels of callers, which they share as well.
        """
        self._labels = labels
        self._callers = callers
        self._attempts_sets = LabelSets(metric_names.CALL_ATTEMPTS.name, _ATTEMPTS_LABELS)
        self._duration_sets = LabelSets(metric_names.OPERATION_DURATION.name, _DURATION_LABELS)
        self._tokens_sets = LabelSets(metric_names.TOKEN_USAGE.name, _USAGE_LABELS)
        self._attempts = _histogram(
            meter, metric_names.CALL_ATTEMPTS, metric_names.ATTEMPTS_BOUNDARIES
        )
        seconds = metric_names.DURATION_BOUNDARIES
        self._duration = _histogram(meter, metric_names.OPERATION_DURATION, seconds)
        self._first_chunk = _histogram(meter, metric_names.FIRST_CHUNK, seconds)
        self._tokens = _histogram(meter, metric_names.TOKEN_USAGE, metric_names.TOKEN_BOUNDARIES)

    @fail_safe
    def record_call(self, outcome: CallOutcome, context: Context) -> None:
        """Record one call of an SDK.

        Args:
            outcome: The outcome.
            context: A context in which the call's span is current, for the exemplars.
        """
        request, operation = outcome.request, outcome.operation
        error_type, code = None, None
        if outcome.outcome == names.FAILED:
            error_type = error_type_label(
                self._labels, outcome.error_type or names.OTHER, outcome.last
            )
            code = self._code(outcome)
        model = None if outcome.model is None else self._labels.model.bounded(outcome.model)
        said = outcome.outcome, error_type, code
        endpoint = request.address, request.port, request.template
        baggage = self._callers.baggage(outcome.caller) if outcome.caller.baggage else ()
        groups = baggage, (), _models(model, None)
        counted = self._attempts_sets.labels(endpoint, (operation, *said), *groups)
        self._attempts.record(outcome.retries + 1, counted, context)
        if operation is None:
            return
        stream = None if outcome.last is None else outcome.last.stream
        ended = _Ended(request, operation, model, *said, outcome.answer, stream, outcome.caller)
        self._record_end(ended, outcome.duration_s, context)

    @fail_safe
    def record_stream(self, outcome: AttemptOutcome, made: str, context: Context | None) -> None:
        """Record an event stream outside of calls, which has no duration of a call.

        Args:
            outcome: The attempt's outcome, with that of the stream.
            made: How a call with this stream would have ended, one of `names.OUTCOMES`.
            context: A context in which the stream's span is current, for the exemplars.
        """
        request, stream = outcome.request, outcome.stream
        operation = endpoints.OPERATIONS.get(request.template or "")
        if request.template is None:
            operation = endpoints.gateway_operation(request.path)
        if operation is None or stream is None:
            return
        error_type = outcome.error_type if outcome.failed else None
        if error_type is not None:
            error_type = error_type_label(self._labels, error_type, outcome)
        said = operation, None, made, error_type, self._code(outcome)
        ended = _Ended(request, *said, stream.answer, stream, outcome.caller)
        self._record_end(ended, None, context)

    def _record_end(self, ended: _Ended, duration_s: float | None, context: Context | None) -> None:
        answer, stream = ended.answer, ended.stream
        answered_by = None if answer is None else answer.model
        if answered_by is not None and answered_by != ended.model:
            answered_by = self._labels.model.bounded(answered_by)
        server = ended.request.address, ended.request.port, None
        shared = gen_ai.PROVIDER, ended.operation, ended.outcome
        models = _models(ended.model, answered_by)
        said = (*shared, ended.error_type, ended.code)
        # Both instruments have the same sets.
        labels = self._duration_sets.labels(server, said, (), (), models)
        if duration_s is not None:
            self._duration.record(duration_s, labels, context)
        if stream is not None and stream.first_chunk_s is not None:
            self._first_chunk.record(stream.first_chunk_s, labels, context)
        if answer is None:
            return
        groups: tuple[Entries, Entries] = (), ()
        if ended.caller.baggage or ended.caller.key_fingerprint is not None:
            groups = self._callers.baggage(ended.caller), self._callers.key(ended.caller)
        for kind, attribute in _TOKENS:
            tokens = answer.attributes.get(attribute)
            if isinstance(tokens, int):
                counted = self._tokens_sets.labels(server, (*shared, kind), *groups, models)
                self._tokens.record(tokens, counted, context)

    def _code(self, outcome: AttemptOutcome | CallOutcome) -> str | None:
        return None if outcome.code is None else self._labels.code.bounded(outcome.code)


def _models(asked: str | None, answered: str | None) -> Entries:
    """Return the labels of the model that was asked for and of the one that answered."""
    found = ((gen_ai.REQUEST_MODEL, asked), (gen_ai.RESPONSE_MODEL, answered))
    return tuple((name, model) for name, model in found if model is not None)


def _histogram(meter: Meter, metric: metric_names.Metric, boundaries: Sequence[float]) -> Histogram:
    return meter.create_histogram(
        metric.name,
        metric.unit,
        metric.description,
        explicit_bucket_boundaries_advisory=boundaries,
    )
