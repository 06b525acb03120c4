from __future__ import annotations

from contextlib import suppress

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

from assisters_otel.api.identity import Identity
from assisters_otel.api.request import ApiRequest
from assisters_otel.outcomes import AttemptOutcome
from assisters_otel.sinks import attempt_span, foreign_span
from moments import interrupted_at

SCOPE = "opentelemetry.instrumentation.httpx"
URL = "https://api.assisters.dev/v1/models"
REQUEST = ApiRequest("GET", "/v1/models", "/v1/models", "api.assisters.dev", 443)


@pytest.fixture
def tracer(memory):
    return memory.tracer_provider.get_tracer(SCOPE)


def test_what_is_written_last_wins_over_what_was_written_after(tracer, memory):
    span = tracer.start_span("GET", kind=SpanKind.CLIENT)
    foreign_span.before_end(span, lambda span: span.set_attribute("error.type", "ours"))
    span.set_attribute("error.type", "429")
    span.end()

    assert memory.attempt().attributes["error.type"] == "ours"
    assert "end" not in vars(span)


def test_the_last_of_several_attempts_on_one_span_counts(tracer, memory):
    span = tracer.start_span("GET", kind=SpanKind.CLIENT)
    foreign_span.before_end(span, lambda span: span.set_attribute("first", 1))
    foreign_span.before_end(span, lambda span: span.set_attribute("second", 2))
    span.end()

    assert dict(memory.attempt().attributes) == {"second": 2}


def test_an_end_time_that_is_given_is_kept(tracer, memory):
    span = tracer.start_span("GET", kind=SpanKind.CLIENT)
    foreign_span.before_end(span, lambda _: None)
    span.end(span.start_time + 5)

    assert memory.attempt().end_time == memory.attempt().start_time + 5


def test_an_interrupt_before_its_end_does_not_keep_the_app_s_span_open(tracer):
    number, still_open = 2, []  # at the first moment nothing of it has run
    while True:
        span = tracer.start_span("GET", kind=SpanKind.CLIENT)
        foreign_span.before_end(span, lambda span: span.set_attribute("written", 1))
        with interrupted_at(number) as places, suppress(KeyboardInterrupt):
            span.end()
        if not places:
            break
        still_open += [place for place in places if span.is_recording()]
        number += 1

    assert number > 4
    assert still_open == []


def test_a_span_without_room_for_an_end_of_its_own_is_written_at_once():
    class Slotted:
        __slots__ = ("written",)

    span = Slotted()
    foreign_span.before_end(span, lambda span: setattr(span, "written", True))
    foreign_span.cancel_before_end(span)

    assert span.written


def test_a_span_that_others_made_is_not_the_attempt_s(memory, tracer):
    other = memory.tracer_provider.get_tracer("app")
    for span in (
        other.start_as_current_span("GET", kind=SpanKind.CLIENT),
        tracer.start_as_current_span("GET", kind=SpanKind.INTERNAL),
        tracer.start_as_current_span(
            "GET", kind=SpanKind.CLIENT, attributes={"http.url": "https://elsewhere.example/"}
        ),
        tracer.start_as_current_span(
            "POST", kind=SpanKind.CLIENT, attributes={"http.url": URL, "http.method": "POST"}
        ),
    ):
        with span:
            assert foreign_span.find_app_span(SCOPE, "GET", "api.assisters.dev", URL) is None


def test_a_span_whose_url_a_hook_has_taken_away_is_still_the_attempt_s(tracer):
    with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT) as span:
        assert foreign_span.find_app_span(SCOPE, "GET", "api.assisters.dev", URL) is span


def test_a_span_whose_url_a_limit_has_cut_is_still_the_attempt_s(tracer):
    told = {"url.full": URL[:12], "http.request.method": "GET"}
    with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=told) as span:
        assert foreign_span.find_app_span(SCOPE, "GET", "api.assisters.dev", URL) is span


def test_a_name_that_somebody_gave_is_kept(tracer, memory):
    span = tracer.start_span("list the models", kind=SpanKind.CLIENT)
    attempt_span.set_span_name(span, REQUEST)
    span.end()

    assert memory.attempt().name == "list the models"


def test_a_key_in_a_header_that_was_captured_is_redacted(tracer, memory):
    name = "http.request.header.authorization"
    captured = {
        name: ["Basic dXNlcjpw"],
        "http.request.header.x_api_key": ["ask_live_0123456789"],
        "http.request.header.accept": ["*/*"],
    }
    span = tracer.start_span("GET", attributes=captured)
    attempt_span.redact_request(span, REQUEST)
    span.end()

    (span,) = memory.spans()
    assert span.attributes == {
        name: ("REDACTED",),
        "http.request.header.x_api_key": ("REDACTED",),
        "http.request.header.accept": ("*/*",),
    }


def test_a_status_that_the_app_s_hook_made_ok_stays_ok(tracer, memory):
    span = tracer.start_span("GET", kind=SpanKind.CLIENT)
    span.set_status(StatusCode.OK)
    outcome = AttemptOutcome.of(REQUEST, 0.1, status=404)
    attempt_span.write_outcome(span, outcome, 0.0, capture_message=False)
    span.end()

    assert memory.attempt().status.status_code is StatusCode.OK
    assert memory.attempt().attributes["error.type"] == "404"


def test_a_long_exception_s_description_is_masked_and_cut(tracer, memory):
    span = tracer.start_span("GET", kind=SpanKind.CLIENT)
    text = "ConnectError: /v1/agent/stream?prompt=secret " + "x" * 9999
    span.set_status(StatusCode.ERROR, text)
    outcome = AttemptOutcome.of(REQUEST, 0.1, exception="ConnectError")
    attempt_span.write_outcome(span, outcome, 0.0, capture_message=False)
    span.end()

    description = memory.attempt().status.description
    assert description.startswith("ConnectError: /v1/agent/stream?REDACTED x")
    assert len(description) < 5000


def test_a_span_that_does_not_record_is_nobody_s():
    from opentelemetry import trace

    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(0))
    with trace.use_span(NonRecordingSpan(context)):
        assert foreign_span.find_app_span(SCOPE, "GET", "api.assisters.dev", URL) is None


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_a_success_is_the_same_outcome_however_it_is_made(status):
    headers, caller = {b"x-request-id": b"req_1"}, Identity("1a2b3c4d")

    assert AttemptOutcome.of_success(REQUEST, 0.1, status, headers, caller) == AttemptOutcome.of(
        REQUEST, 0.1, status=status, headers=headers, caller=caller
    )
