from __future__ import annotations

import json
import logging
from io import StringIO

import pytest
from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext
from pythonjsonlogger.json import JsonFormatter

from assisters_otel.api.error_body import Envelope
from assisters_otel.api.identity import Identity
from assisters_otel.api.request import ApiRequest
from assisters_otel.outcomes import AttemptOutcome, CallOutcome
from assisters_otel.sinks.failure_log import MAX_SINGLE_LINES, WINDOW_S, FailureLog

REQUEST = ApiRequest("POST", "/v1/embeddings", "/v1/embeddings", "api.assisters.dev", 443)


FIELDS = {
    *("error.type", "error.code", "assisters.error.retryable", "assisters.request.id"),
    *("assisters.attempts", "assisters.failures", "http.request.method", "url.template"),
    *("http.response.status_code", "trace_id", "span_id"),
}


def stands_for(record):
    return vars(record)["assisters.failures"]


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return FailureLog(clock)


def failed(code="invalid_model", request=REQUEST, status=400):
    envelope = Envelope(type="invalid_request_error", code=code, message="what somebody typed")
    return AttemptOutcome.of(
        request, 0.1, status=status, headers={b"x-request-id": b"req_1"}, envelope=envelope
    )


def test_a_line_has_the_code_the_endpoint_all_ids_and_the_advice(log, caplog):
    outcome = failed()._replace(caller=Identity("1a2b3c4d"))
    log.record_failure(outcome, NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False)))

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.name == "assisters_otel"
    assert record.message == (
        "Assisters API answered 400 invalid_model on POST /v1/embeddings (request id req_1, "
        f"trace id {0xABC:032x}, key 1a2b3c4d): no retry helps"
    )
    assert vars(record)["assisters.api_key.fingerprint"] == "1a2b3c4d"


def test_a_line_says_of_the_ids_what_is_known(log, caplog):
    log.record_failure(failed())
    log.record_failure(AttemptOutcome.of(REQUEST, 0.1, status=400, caller=Identity("1a2b3c4d")))

    first, second = caplog.messages
    assert "on POST /v1/embeddings (request id req_1): no retry helps" in first
    assert "on POST /v1/embeddings (key 1a2b3c4d): no retry helps" in second


def test_a_line_without_an_envelope_has_the_status(log, caplog):
    log.record_failure(AttemptOutcome.of(REQUEST, 0.1, status=502))

    assert caplog.messages == [
        "Assisters API answered 502 on POST /v1/embeddings: a retry can help"
    ]


def test_a_line_without_an_answer_has_the_exception(log, caplog):
    log.record_failure(AttemptOutcome.of(REQUEST, 0.1, exception="ReadTimeout", transient=True))

    assert caplog.messages == [
        "Assisters API gave no answer (ReadTimeout) on POST /v1/embeddings: a retry can help"
    ]


def test_an_unknown_path_is_cleaned(log, caplog):
    unknown = REQUEST._replace(path="/ask_0123456789\nWARNING", template=None)
    log.record_failure(failed(request=unknown))

    assert "on POST /REDACTED WARNING (request" in caplog.text
    assert "typed" not in caplog.text


def test_a_storm_is_summed_up(log, clock, caplog):
    for _ in range(100):
        log.record_failure(failed())
    log.record_failure(failed("internal_error"))
    assert [stands_for(record) for record in caplog.records] == [1] * MAX_SINGLE_LINES + [
        5,
        10,
        20,
        40,
        1,
    ]
    assert caplog.messages[MAX_SINGLE_LINES] == (
        "Assisters API: 5 more met invalid_model on POST /v1/embeddings"
    )

    clock.now += WINDOW_S
    caplog.clear()
    log.record_failure(failed())
    assert caplog.messages[0] == ("Assisters API: 20 more met invalid_model on POST /v1/embeddings")
    assert [stands_for(record) for record in caplog.records] == [20, 1]


def test_a_storm_of_one_key_does_not_hide_the_first_failure_of_another(log, caplog):
    for n in range(1000):
        key = "bbbbbbbb" if n in {500, 501} else "aaaaaaaa"
        log.record_failure(failed("api_key_revoked", status=401)._replace(caller=Identity(key)))

    single = [one for one in caplog.messages if "answered 401" in one]
    assert len(single) == MAX_SINGLE_LINES + 1
    assert "key bbbbbbbb" in single[-1]
    assert sum(stands_for(record) for record in caplog.records) <= 1000


def test_a_storm_of_ever_new_keys_is_one_storm(log, caplog):
    for n in range(10_000):
        log.record_failure(failed()._replace(caller=Identity(f"{n:08x}")))
    log.sum_up()

    assert len(caplog.records) < 50
    assert sum(stands_for(record) for record in caplog.records) == 10_000


def test_a_storm_of_ten_thousand_is_some_lines_that_stand_for_all_of_it(log, caplog):
    for _ in range(10_000):
        log.record_failure(failed())
    log.sum_up()

    assert len(caplog.records) < 30
    assert sum(stands_for(record) for record in caplog.records) == 10_000


def test_a_line_s_fields_are_for_machines(log, caplog):
    span = NonRecordingSpan(SpanContext(0xABC, 0xDEF, is_remote=False))

    log.record_failure(failed("rate_limit_exceeded", status=429), span, attempts=3)

    (record,) = caplog.records
    told = {name: value for name, value in vars(record).items() if name in FIELDS}
    assert told == {
        "error.type": "invalid_request_error",
        "error.code": "rate_limit_exceeded",
        "assisters.error.retryable": True,
        "assisters.request.id": "req_1",
        "assisters.attempts": 3,
        "assisters.failures": 1,
        "http.request.method": "POST",
        "http.response.status_code": 429,
        "url.template": "/v1/embeddings",
        "trace_id": f"{0xABC:032x}",
        "span_id": f"{0xDEF:016x}",
    }
    assert "typed" not in str(vars(record))


def test_what_is_not_said_at_the_end_is_said_then(log, caplog):
    for _ in range(7):
        log.record_failure(failed())
    caplog.clear()

    log.sum_up()
    log.sum_up()

    assert caplog.messages == ["Assisters API: 2 more met invalid_model on POST /v1/embeddings"]


def test_a_storm_of_ever_new_codes_and_paths_is_one_storm(log, caplog):
    for n in range(1000):
        path = REQUEST._replace(path=f"/v1/users/{n}", template=None)
        log.record_failure(failed(f"code_{n}", path))

    assert len(caplog.records) < 30


def test_a_storm_of_ever_new_types_is_one_storm(log, caplog):
    for n in range(100):
        log.record_failure(failed(None)._replace(envelope=Envelope(type=f"type_{n}")))

    assert len(caplog.records) < 30


def test_the_kinds_of_storms_are_bounded(log):
    for n in range(2000):
        log.record_failure(failed(None, REQUEST._replace(method=f"M{n}")))
        assert len(log._storms) <= 256


def test_a_signal_handler_s_own_failure_is_logged_while_a_line_is_being_counted(log, caplog):
    with log._lock:  # as if the signal came just then
        log.record_failure(failed())

    assert len(caplog.records) == 1


def test_a_call_s_line_says_what_the_client_failed_with(log, caplog):
    fine = AttemptOutcome.of(REQUEST, 0.1, status=200, headers={b"x-request-id": b"req_1"})
    call = CallOutcome(REQUEST, "chat", "m", "failed", 1.0, 0, 0.0, fine, "ValidationError")

    log.record_call(call, NonRecordingSpan(SpanContext(1, 2, is_remote=False)))
    log.record_call(call._replace(last=None))

    first, second = (vars(record) for record in caplog.records)
    assert first["error.type"] == second["error.type"] == "ValidationError"
    assert (first["assisters.request.id"], first["trace_id"]) == ("req_1", f"{1:032x}")
    assert second["url.template"] == "/v1/embeddings"


def test_a_json_formatter_and_opentelemetry_s_handler_have_the_fields(log, memory):
    logs = InMemoryLogRecordExporter()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(logs))
    text = StringIO()
    to_json = logging.StreamHandler(text)
    to_json.setFormatter(JsonFormatter("{message}{levelname}", style="{"))
    logger = logging.getLogger("assisters_otel")
    handlers = [LoggingHandler(logger_provider=provider), to_json]
    for handler in handlers:
        logger.addHandler(handler)
    try:
        with memory.tracer_provider.get_tracer("app").start_as_current_span("work") as span:
            log.record_failure(failed(), span)
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        provider.shutdown()

    line = json.loads(text.getvalue())
    (record,) = (one.log_record for one in logs.get_finished_logs())
    for told in (line, record.attributes):
        assert told["error.code"] == "invalid_model"
        assert told["assisters.request.id"] == "req_1"
    assert line["trace_id"] == f"{record.trace_id:032x}"
