from __future__ import annotations

import gc
import re

import pytest
from opentelemetry.context import Context

from assisters_otel.api.answer import Answer
from assisters_otel.api.error_body import Envelope
from assisters_otel.api.identity import Identity
from assisters_otel.api.request import ApiRequest
from assisters_otel.outcomes import AttemptOutcome, CallOutcome, Resend, StreamOutcome
from assisters_otel.semconv import attributes as names
from assisters_otel.semconv import metrics as metric_names
from assisters_otel.sinks.label_values import MAX_EXTRA_VALUES, MAX_MODELS, LabelValues
from assisters_otel.sinks.metrics import AttemptMetrics
from assisters_otel.sinks.rate_limits import FRESH_S
from assisters_otel.version import __version__
from memory import Memory

REQUEST = ApiRequest("POST", "/v1/embeddings", "/v1/embeddings", "api.assisters.dev", 443)
ANSWER = Answer(
    "assisters-chat-v1", {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 5}
)
REMAINING = "assisters.client.ratelimit.requests.remaining"


@pytest.fixture
def clock():
    return Clock()


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def metrics(memory, clock):
    return AttemptMetrics(memory.meter_provider, clock, lambda: None)


def failed(status=400, request=REQUEST, **fields):
    return AttemptOutcome.of(request, 0.1, status=status, envelope=Envelope(**fields))


def test_twenty_undocumented_codes_are_labels_and_the_next_is_other(memory, metrics, caplog):
    for n in range(MAX_EXTRA_VALUES + 30):
        metrics.record_attempt(failed(code=f"code_{n}"))
    metrics.record_attempt(failed(code="code_3"))
    metrics.record_attempt(failed(code="invalid_model"))

    points = {
        point["error.code"]: point["value"] for point in memory.points(metric_names.ERRORS.name)
    }
    assert len(points) == MAX_EXTRA_VALUES + 2
    assert points["_OTHER"] == 30
    assert points["code_3"] == 2
    assert points["invalid_model"] == 1
    assert len(caplog.records) == 1
    assert "_OTHER" in caplog.text


def test_types_and_exceptions_are_closed_sets_too(memory, metrics):
    for n in range(100):
        metrics.record_attempt(failed(type=f"type_{n}"))
        metrics.record_attempt(AttemptOutcome.of(REQUEST, 0.1, exception=f"Error{n}"))

    types = {point["error.type"] for point in memory.points(metric_names.ERRORS.name)}
    assert len(types) == 2 * MAX_EXTRA_VALUES + 1
    assert "_OTHER" in types


def call(model):
    fine = AttemptOutcome.of(REQUEST, 0.1, status=200)
    return CallOutcome(REQUEST, "chat", model, "ok", 0.1, 0, 0.0, fine, None)


OVERFLOWS = [
    ("error.code", lambda to, n: to.record_attempt(failed(code=f"code_{n}")), "'code_20'"),
    ("error.type", lambda to, n: to.record_attempt(failed(type=f"type_{n}")), "'type_20'"),
    (
        "error.type",
        lambda to, n: to.record_attempt(AttemptOutcome.of(REQUEST, 0.1, exception=f"E{n}")),
        "'E20'",
    ),
    (
        "gen_ai.request.model",
        lambda to, n: to.calls.record_call(call(f"m-{n}"), Context()),
        "'m-50'",
    ),
]


@pytest.mark.parametrize(
    ("label", "record", "value"), OVERFLOWS, ids=["code", "type", "exception", "model"]
)
def test_a_label_that_has_overflowed_is_warned_of_once_by_its_name(
    metrics, caplog, label, record, value
):
    for n in range(60):
        record(metrics, n)

    (line,) = caplog.messages
    assert line.startswith(f"{label} {value} is on metrics as _OTHER, ")
    assert (
        f" {MAX_MODELS if 'model' in label else MAX_EXTRA_VALUES} undocumented ones at most" in line
    )


def test_a_status_outside_http_is_other(memory, metrics):
    metrics.record_attempt(failed(status=999))

    assert memory.point(metric_names.ERRORS.name)["error.type"] == "_OTHER"


def test_a_closed_set_does_not_take_what_is_not_well_formed():
    closed = LabelValues("x", ["known"], re.compile("[a-z]+\\Z"))

    assert [closed.bounded(v) for v in ("known", "new", "No", "n" * 9)] == [
        "known",
        "new",
        "_OTHER",
        "n" * 9,
    ]


def test_a_rate_limit_is_said_for_two_minutes_and_then_no_more(memory, metrics, clock):
    headers = {b"x-ratelimit-remaining-rpm": b"41"}
    metrics.record_attempt(AttemptOutcome.of(REQUEST, 0.1, status=200, headers=headers))

    clock.now += FRESH_S
    assert memory.point(REMAINING)["value"] == 41
    clock.now += 1
    assert memory.points(REMAINING) == []


def test_who_records_later_in_one_provider_is_whom_its_gauges_ask(memory, clock):
    """The SDK keeps the callbacks that an instrument was made with first."""
    first = AttemptMetrics(memory.meter_provider, clock, lambda: None)
    first.record_attempt(
        AttemptOutcome.of(REQUEST, 0.1, status=200, headers={b"x-ratelimit-remaining-rpm": b"41"})
    )
    second = AttemptMetrics(memory.meter_provider, clock, lambda: None)
    second.record_attempt(
        AttemptOutcome.of(REQUEST, 0.1, status=200, headers={b"x-ratelimit-remaining-rpm": b"7"})
    )

    assert memory.point(REMAINING)["value"] == 7
    del second
    gc.collect()
    assert memory.points(REMAINING) == []


def test_an_answer_without_limits_does_not_wipe_the_last_ones(memory, metrics):
    headers = {b"x-ratelimit-remaining-rpm": b"41"}
    metrics.record_attempt(AttemptOutcome.of(REQUEST, 0.1, status=200, headers=headers))
    metrics.record_attempt(
        AttemptOutcome.of(REQUEST, 0.1, status=502, headers={b"x-request-id": b"1"})
    )

    assert memory.point(REMAINING)["value"] == 41


def test_a_limit_beyond_int64_is_not_said(memory, metrics):
    headers = {
        b"x-ratelimit-remaining-rpm": str(2**63).encode(),
        b"x-ratelimit-limit-rpm": b"7",
    }
    metrics.record_attempt(AttemptOutcome.of(REQUEST, 0.1, status=200, headers=headers))

    assert memory.points(REMAINING) == []
    assert memory.point("assisters.client.ratelimit.requests.limit")["value"] == 7


def test_limits_of_many_servers_are_bounded(memory, metrics, clock):
    headers = {b"x-ratelimit-remaining-rpm": b"41"}
    for n in range(200):
        clock.now += 2
        request = REQUEST._replace(address=f"host-{n}")
        metrics.record_attempt(AttemptOutcome.of(request, 0.1, status=200, headers=headers))

    assert 0 < len(memory.points(REMAINING)) <= 64
    for n in range(200):
        request = REQUEST._replace(address=f"at-once-{n}")
        metrics.record_attempt(AttemptOutcome.of(request, 0.1, status=200, headers=headers))
    assert 0 < len(memory.points(REMAINING)) <= 64


def test_every_metric_is_as_names_describes_it(metrics, clock):
    memory = Memory()
    metrics = AttemptMetrics(memory.meter_provider, clock, lambda: None)
    all_limits = {
        b"x-ratelimit-limit-rpm": b"1",
        b"x-ratelimit-remaining-rpm": b"1",
        b"x-ratelimit-limit-tpm": b"1",
        b"x-ratelimit-remaining-tpm": b"1",
    }
    metrics.record_attempt(
        AttemptOutcome.of(
            REQUEST._replace(port=8080),
            0.1,
            status=429,
            headers=all_limits,
            envelope=Envelope(type="rate_limit_error", code="rate_limit_exceeded"),
            caller=Identity("1a2b3c4d", (), 1),
        )
    )
    request = REQUEST._replace(port=8080)
    told = Resend(1, reason="rate_limit_exceeded", early=True, futile=False)
    metrics.record_retry(request, told)
    last = AttemptOutcome.of(
        request,
        0.1,
        status=200,
        envelope=Envelope("server_error", "internal_error"),
        stream=StreamOutcome("error", 7, 0.5),
    )
    call = CallOutcome(
        request,
        "chat",
        "assisters-chat-v1",
        "failed",
        1.0,
        2,
        0.5,
        last,
        "APIError",
        ANSWER,
        Identity("1a2b3c4d"),
    )
    metrics.calls.record_call(call, Context())
    data = memory._reader.get_metrics_data()
    (scope,) = data.resource_metrics[0].scope_metrics
    found = {metric.name: metric for metric in scope.metrics}

    assert (scope.scope.name, scope.scope.version) == ("assisters_otel", __version__)
    assert scope.schema_url == names.SCHEMA_URL
    assert set(found) == {metric.name for metric in metric_names.METRICS}
    kinds = {"Histogram": "histogram", "Sum": "counter", "Gauge": "gauge"}
    for described in metric_names.METRICS:
        metric = found[described.name]
        assert metric.unit == described.unit
        assert metric.description == described.description
        assert kinds[type(metric.data).__name__] == described.instrument
        for point in metric.data.data_points:
            assert set(point.attributes) == set(described.attributes)
    (duration,) = found[metric_names.REQUEST_DURATION.name].data.data_points
    assert duration.explicit_bounds == metric_names.DURATION_BOUNDARIES
    (duration,) = found[metric_names.OPERATION_DURATION.name].data.data_points
    assert duration.explicit_bounds == metric_names.DURATION_BOUNDARIES
    (attempts,) = found[metric_names.CALL_ATTEMPTS.name].data.data_points
    assert attempts.explicit_bounds == metric_names.ATTEMPTS_BOUNDARIES
    assert attempts.sum == 3
    tokens = found[metric_names.TOKEN_USAGE.name].data.data_points
    assert {point.explicit_bounds for point in tokens} == {metric_names.TOKEN_BOUNDARIES}
    assert sorted(point.sum for point in tokens) == [5, 9]
    memory.shutdown()
