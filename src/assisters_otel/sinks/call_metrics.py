"""Records calls in the instruments of the GenAI conventions, and event streams outside of calls.

An endpoint without an operation is in the number of attempts alone: the conventions demand the
operation's name on each of their metrics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE

from assisters_otel.api import endpoints
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import gen_ai
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.caller_labels import LabelSets
from assisters_otel.sinks.label_values import error_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.metrics import Histogram, Meter
    from opentelemetry.util.types import AttributeValue

    from assisters_otel.api.answer import Answer
    from assisters_otel.api.identity import Entries, Identity
    from assisters_otel.api.request import ApiRequest
    from assisters_otel.outcomes import AttemptOutcome, CallOutcome, StreamOutcome
    from assisters_otel.sinks.caller_labels import CallerLabels
    from assisters_otel.sinks.label_values import LabelsKey, OutcomeLabels

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


_MAX_KNOWN: Final = 256
"""The kinds of calls whose labels are kept. Those of a further kind are made for each call."""


class _EndLabels(Record):
    """The labels of how a call or an event stream ended.

    Attributes:
        labels: Those of its durations.
        server: Those of the server, and `said` and `models`: the values that those of its tokens
            have in common with them.
        tokens: Those of its tokens by their kind, as far as they name no caller and are known.
    """

    labels: Mapping[str, AttributeValue]
    server: LabelsKey
    said: tuple[str, str, str]
    models: Entries
    tokens: dict[str, Mapping[str, AttributeValue]]


class _CallLabels(Record):
    """The labels of a call: of its number of attempts, and of its end if it has an operation."""

    attempts: Mapping[str, AttributeValue]
    end: _EndLabels | None


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
        self._known: dict[tuple[object, ...], _CallLabels] = {}
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
    def record_call(
        self,
        outcome: CallOutcome,
        context: Context,
        recorded_elsewhere: frozenset[str] = frozenset(),
    ) -> None:
        """Record one call of an SDK.

        Args:
            outcome: The outcome.
            context: A context in which the call's span is current, for the exemplars.
            recorded_elsewhere: The names of the GenAI metrics that another instrumentation records.
        """
        request, caller, answer = outcome.request, outcome.caller, outcome.answer
        answered_by = None if answer is None else answer.model
        # A label's value stays what it is for good, but that of a caller. So the labels of equal
        # calls are found once (``openai, alone``). Those of failures are not: they are few.
        is_common = outcome.outcome != names.FAILED and not caller.baggage
        asked = request.address, request.port, request.template, outcome.operation, outcome.model
        kind = asked, outcome.outcome, answered_by
        known = self._known.get(kind) if is_common else None
        if known is None:
            known = self._labels_of(outcome, answered_by)
            if is_common and len(self._known) < _MAX_KNOWN:
                self._known[kind] = known
        self._attempts.record(outcome.retries + 1, known.attempts, context)
        end = known.end
        if end is None:
            return
        if metric_names.OPERATION_DURATION.name not in recorded_elsewhere:
            self._duration.record(outcome.duration_s, end.labels, context)
        stream = None if outcome.last is None else outcome.last.stream
        if stream is not None and metric_names.FIRST_CHUNK.name not in recorded_elsewhere:
            self._record_first_chunk(end, stream, context)
        if answer is not None and metric_names.TOKEN_USAGE.name not in recorded_elsewhere:
            self._record_tokens(end, answer, caller, context)

    def _labels_of(self, outcome: CallOutcome, answered_by: str | None) -> _CallLabels:
        request, operation = outcome.request, outcome.operation
        error_type, code = None, None
        if outcome.outcome == names.FAILED:
            error_type = outcome.error_type or names.OTHER
            error_type, code = error_labels(self._labels, error_type, outcome.code, outcome.last)
        model = None if outcome.model is None else self._labels.model.bounded(outcome.model)
        said = outcome.outcome, error_type, code
        endpoint = request.address, request.port, request.template
        baggage = self._callers.baggage(outcome.caller) if outcome.caller.baggage else ()
        groups = baggage, (), _models(model, None)
        attempts = self._attempts_sets.labels(endpoint, (operation, *said), *groups)
        if operation is None:
            return _CallLabels(attempts, None)
        return _CallLabels(attempts, self._end_labels(request, operation, model, said, answered_by))

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
        error_type, code, answer = None, None, stream.answer
        if outcome.failed:
            error_type = outcome.error_type or names.OTHER
            error_type, code = error_labels(self._labels, error_type, outcome.code, outcome)
        answered_by = None if answer is None else answer.model
        end = self._end_labels(request, operation, None, (made, error_type, code), answered_by)
        self._record_first_chunk(end, stream, context)
        if answer is not None:
            self._record_tokens(end, answer, outcome.caller, context)

    def _end_labels(
        self,
        request: ApiRequest,
        operation: str,
        model: str | None,
        said: tuple[str, str | None, str | None],
        answered_by: str | None,
    ) -> _EndLabels:
        """Return the labels of an end.

        Args:
            request: The request that was sent.
            operation: The ``gen_ai.operation.name``.
            model: The label of the model that was asked for, or None.
            said: The outcome, and the labels of the type of error and of the code.
            answered_by: The model that answered, or None.
        """
        if answered_by is not None and answered_by != model:
            answered_by = self._labels.model.bounded(answered_by)
        server = request.address, request.port, None
        outcome, *error = said
        shared = gen_ai.PROVIDER, operation, outcome
        models = _models(model, answered_by)
        # Durations and first chunks have the same sets.
        labels = self._duration_sets.labels(server, (*shared, *error), (), (), models)
        return _EndLabels(labels, server, shared, models, {})

    def _record_first_chunk(
        self, end: _EndLabels, stream: StreamOutcome, context: Context | None
    ) -> None:
        if stream.first_chunk_s is not None:
            self._first_chunk.record(stream.first_chunk_s, end.labels, context)

    def _record_tokens(
        self, end: _EndLabels, answer: Answer, caller: Identity, context: Context | None
    ) -> None:
        known = {} if caller.baggage or caller.key_fingerprint is not None else end.tokens
        for kind, attribute in _TOKENS:
            tokens = answer.attributes.get(attribute)
            if isinstance(tokens, int):
                labels = known.get(kind)
                if labels is None:
                    groups = self._callers.baggage(caller), self._callers.key(caller), end.models
                    said = (*end.said, kind)
                    labels = known[kind] = self._tokens_sets.labels(end.server, said, *groups)
                self._tokens.record(tokens, labels, context)


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
