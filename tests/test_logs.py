from __future__ import annotations

import pytest

from assisters_otel.attempt import Outcome, Request
from assisters_otel.envelope import Envelope
from assisters_otel.logs import LINES, WINDOW_S, Log

REQUEST = Request("POST", "/v1/embeddings", "/v1/embeddings", "api.assisters.dev", None)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return Log(clock)


def failed(code="invalid_model", request=REQUEST, status=400):
    envelope = Envelope(type="invalid_request_error", code=code, message="what somebody typed")
    return Outcome(
        request, 0.1, status=status, headers={b"x-request-id": b"req_1"}, envelope=envelope
    )


def test_a_line_has_the_code_the_endpoint_the_request_id_and_the_advice(log, caplog):
    log.record(failed())

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.name == "assisters_otel"
    assert record.message == (
        "Assisters API answered 400 invalid_model on POST /v1/embeddings "
        "(request id req_1): no retry helps"
    )


def test_a_line_without_an_envelope_has_the_status(log, caplog):
    log.record(Outcome(REQUEST, 0.1, status=502))

    assert caplog.messages == [
        "Assisters API answered 502 on POST /v1/embeddings: a retry can help"
    ]


def test_a_line_without_an_answer_has_the_exception(log, caplog):
    log.record(Outcome(REQUEST, 0.1, exception="ReadTimeout", transient=True))

    assert caplog.messages == [
        "Assisters API gave no answer (ReadTimeout) on POST /v1/embeddings: a retry can help"
    ]


def test_an_unknown_path_is_cleaned(log, caplog):
    log.record(failed(request=REQUEST._replace(path="/ask_0123456789\nWARNING", template=None)))

    assert "on POST /REDACTED WARNING (request" in caplog.text
    assert "typed" not in caplog.text


def test_a_storm_is_summed_up(log, clock, caplog):
    for _ in range(100):
        log.record(failed())
    log.record(failed("internal_error"))
    assert len(caplog.records) == LINES + 1 + 1
    assert "invalid_model on POST /v1/embeddings goes on" in caplog.messages[LINES]

    clock.now += WINDOW_S
    caplog.clear()
    log.record(failed())
    assert caplog.messages[0] == (
        "Assisters API: 95 more attempts met invalid_model on POST /v1/embeddings"
    )
    assert len(caplog.records) == 2


def test_what_is_not_said_at_the_end_is_said_then(log, caplog):
    for _ in range(7):
        log.record(failed())
    caplog.clear()

    log.sum_up()
    log.sum_up()

    assert caplog.messages == [
        "Assisters API: 2 more attempts met invalid_model on POST /v1/embeddings"
    ]


def test_a_storm_of_ever_new_codes_and_paths_is_one_storm(log, caplog):
    for n in range(1000):
        path = REQUEST._replace(path=f"/v1/users/{n}", template=None)
        log.record(failed(f"code_{n}", path))

    assert len(caplog.records) == LINES + 1


def test_a_storm_of_ever_new_types_is_one_storm(log, caplog):
    for n in range(100):
        log.record(failed(None)._replace(envelope=Envelope(type=f"type_{n}")))

    assert len(caplog.records) == LINES + 1


def test_the_kinds_of_storms_are_bounded(log):
    for n in range(2000):
        log.record(failed(None, REQUEST._replace(method=f"M{n}")))

    assert len(log._storms) <= 256


def test_a_signal_handler_s_own_failure_is_logged_while_a_line_is_being_counted(log, caplog):
    with log._lock:  # as if the signal came just then
        log.record(failed())

    assert len(caplog.records) == 1
