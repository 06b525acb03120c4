"""One contract, asked of every client over a real socket, with the real SDK in memory."""

from __future__ import annotations

import asyncio

import httpx
import httpx2
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

import assisters_otel
from assisters_otel import catalog
from memory import Memory, url_of

DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"

pytestmark = pytest.mark.usefixtures("telemetry")


def test_every_documented_error_is_on_its_span_and_in_both_metrics(api, memory, anyone):
    for error in catalog.ERRORS:
        api.answers(error.code, param="model")
        anyone.send("POST", api.url + "/chat/completions", json={})

    assert len(memory.attempts()) == len(catalog.ERRORS) == 15
    for error, span in zip(catalog.ERRORS, memory.attempts(), strict=True):
        assert span.name == "POST /v1/chat/completions"
        assert span.attributes["error.type"] == error.type
        assert span.attributes["error.code"] == error.code
        assert span.attributes["error.param"] == "model"
        assert span.attributes["assisters.error.retryable"] is error.retryable
        assert span.attributes["url.template"] == "/v1/chat/completions"
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == error.code
        assert not span.events
    for name in (DURATION, ERRORS):
        points = {point["error.code"]: point for point in memory.points(name)}
        for error in catalog.ERRORS:
            point = points[error.code]
            assert point["error.type"] == error.type
            assert point["http.response.status_code"] == error.status
            assert point["url.template"] == "/v1/chat/completions"
            assert point["server.address"] == "127.0.0.1"
            assert point["server.port"] == api.port
        assert len(points) == 15
    assert all(point["http.request.method"] == "POST" for point in memory.points(DURATION))


def test_the_id_to_quote_to_support_is_on_every_span(api, memory, anyone):
    api.answers("ok", request_id="req_fine")
    api.answers("internal_error", request_id="req_bad")

    for _ in range(2):
        anyone.send("GET", api.url + "/models")

    ids = [span.attributes["assisters.request.id"] for span in memory.attempts()]
    assert ids == ["req_fine", "req_bad"]
    headers = [span.attributes["http.response.header.x-request-id"] for span in memory.attempts()]
    assert headers == [("req_fine",), ("req_bad",)]


def test_a_success_has_no_error_on_its_span(api, memory, anyone):
    api.answers("ok", headers={"x-processing-time-ms": "250"})

    anyone.send("GET", api.url + "/models/assisters-chat-v1")

    span = memory.attempt()
    assert span.name == "GET /v1/models/{id}"
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["assisters.server.duration"] == 0.25
    assert not [name for name in span.attributes if name.startswith("error.")]
    assert "assisters.error.retryable" not in span.attributes
    assert "assisters.ratelimit.requests.limit" not in span.attributes
    point = memory.point(DURATION)
    assert "error.type" not in point
    assert point["http.response.status_code"] == 200
    assert not memory.points(ERRORS)


def test_a_429_says_what_the_limits_are_and_how_long_to_wait(api, memory, anyone, frozen_time):
    api.answers(
        "rate_limit_exceeded",
        retry_after="7.5",
        headers={
            "x-ratelimit-limit-rpm": "60",
            "x-ratelimit-remaining-rpm": "0",
            "x-ratelimit-limit-tpm": "90000",
            "x-ratelimit-remaining-tpm": "12",
            "x-ratelimit-reset-rpm": str(int(frozen_time) + 30),
            "x-ratelimit-reset-tpm": str(int(frozen_time) - 30),
        },
    )

    anyone.send("GET", api.url + "/models")

    attributes = memory.attempt().attributes
    assert attributes["assisters.retry_after"] == 7.5
    assert attributes["assisters.ratelimit.requests.limit"] == 60
    assert attributes["assisters.ratelimit.requests.remaining"] == 0
    assert attributes["assisters.ratelimit.requests.reset"] == 30 - frozen_time % 1
    assert attributes["assisters.ratelimit.tokens.limit"] == 90000
    assert attributes["assisters.ratelimit.tokens.remaining"] == 12
    assert attributes["assisters.ratelimit.tokens.reset"] == 0.0


@pytest.fixture
def frozen_time(monkeypatch):
    now = 1_800_000_000.25
    monkeypatch.setattr("assisters_otel.recording.recorder.time.time", lambda: now)
    return now


def test_an_agent_s_prompt_is_not_on_its_span(api, memory, anyone):
    anyone.send("GET", api.url + "/agent/stream?prompt=what's my secret plan&x=1")

    span = memory.attempt()
    assert url_of(span) == api.url + "/agent/stream?REDACTED"
    assert span.name == "GET /v1/agent/stream"


def test_a_key_in_a_url_is_not_on_its_span(api, memory, anyone):
    anyone.send("GET", api.url + "/models?api_key=ask_live_0123456789")

    assert url_of(memory.attempt()) == api.url + "/models?api_key=REDACTED"


def test_a_key_that_h11_quotes_is_not_in_the_exception_event(api, memory, caller):
    with pytest.raises(caller.module.LocalProtocolError, match="ask_live_0123456789"):
        caller.send(
            "GET", api.url + "/models", headers={"Authorization": "Bearer ask_live_0123456789\n"}
        )

    span = memory.attempt()
    (event,) = span.events
    assert "ask_live" not in repr(dict(event.attributes))
    assert "REDACTED" in event.attributes["exception.message"]
    assert event.attributes["exception.type"].endswith("LocalProtocolError")
    assert "ask_live" not in span.status.description
    assert span.attributes["error.type"] == "LocalProtocolError"
    assert span.attributes["assisters.error.retryable"] is False


def test_a_refused_connection_is_in_both_metrics(api, memory, anyone):
    api.stop()

    with pytest.raises(anyone.refused) as raised:
        anyone.send("GET", api.url + "/models")

    name = type(raised.value).__qualname__
    span = memory.attempt()
    assert span.attributes["error.type"] == name
    assert span.attributes["assisters.error.retryable"] is True
    assert span.attributes["url.template"] == "/v1/models"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description.startswith(name)
    assert [event.name for event in span.events] == ["exception"]
    for metric in (DURATION, ERRORS):
        assert memory.point(metric)["error.type"] == name
        assert "http.response.status_code" not in memory.point(metric)
    assert memory.point(ERRORS)["assisters.error.retryable"] is True


@pytest.mark.parametrize("fault", ["drop", "garbage", "silence"])
def test_an_attempt_without_an_answer_is_in_both_metrics(api, memory, anyone, fault):
    api.answers(fault=fault)

    with pytest.raises(anyone.broken) as raised:  # a GET that is dropped, aiohttp sends again
        anyone.send("POST", api.url + "/models", timeout=0.3)

    name = type(raised.value).__qualname__
    assert ("Timeout" in name) == (fault == "silence")
    assert memory.attempt().attributes["error.type"] == name
    assert memory.attempt().attributes["assisters.error.retryable"] is True
    assert memory.point(DURATION)["error.type"] == memory.point(ERRORS)["error.type"] == name


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_a_cancelled_attempt_is_in_the_durations_and_not_an_error(api, memory, module):
    api.answers(fault="silence")

    async def impatient():
        async with module.AsyncClient(trust_env=False) as client:
            await asyncio.wait_for(client.get(api.url + "/models"), 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(impatient())

    assert memory.point(DURATION)["error.type"] == "CancelledError"
    assert not memory.points(ERRORS)
    assert "error.type" not in memory.attempt().attributes
    assert memory.attempt().status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_trio_s_cancellation_has_the_same_name_as_asyncio_s(api, memory, module):
    import trio

    api.answers(fault="silence")

    async def impatient():
        async with module.AsyncClient(trust_env=False) as client:
            with trio.move_on_after(0.2):
                await client.get(api.url + "/models")

    trio.run(impatient)

    assert memory.point(DURATION)["error.type"] == "CancelledError"
    assert not memory.points(ERRORS)


@pytest.mark.parametrize("own", [ValueError, FileNotFoundError])
def test_an_error_of_the_app_s_own_body_is_no_reason_to_retry(api, memory, anyone, own):
    async def body_async():
        yield b"{"
        raise own("the app's own")

    def body():
        yield b"{"
        raise own("the app's own")

    with pytest.raises((own, *anyone.wraps)) as raised:
        anyone.send("POST", api.url + "/models", content=(body_async if anyone.run else body)())

    assert memory.attempt().attributes["error.type"] == type(raised.value).__qualname__
    assert memory.attempt().attributes["assisters.error.retryable"] is False


def test_the_span_says_what_a_proxy_s_page_allows(api, memory, anyone):
    api.answers(status=502, body="<html>Bad Gateway</html>", content_type="text/html")

    anyone.send("GET", api.url + "/models")

    span = memory.attempt()
    assert span.attributes["error.type"] == "502"
    assert span.status.description == "502"
    assert span.attributes["assisters.error.retryable"] is True
    assert "error.code" not in span.attributes
    assert memory.point(ERRORS)["error.type"] == "502"


def test_an_unknown_code_is_not_a_new_label(api, memory, anyone):
    api.answers(status=400, code="user-7f3a-is-odd")

    anyone.send("GET", api.url)

    assert memory.attempt().attributes["error.code"] == "user-7f3a-is-odd"
    assert memory.point(ERRORS)["error.code"] == "_OTHER"


def test_a_compressed_envelope_is_read(api, memory, anyone):
    api.answers("insufficient_funds", gzip=True)

    response = anyone.send("GET", api.url + "/models")

    assert response.json()["error"]["code"] == "insufficient_funds"
    assert memory.attempt().attributes["error.code"] == "insufficient_funds"


def test_a_chunked_envelope_is_read(api, memory, anyone):
    api.answers("insufficient_funds", chunked=True)

    anyone.send("GET", api.url + "/models")

    assert memory.attempt().attributes["error.code"] == "insufficient_funds"


def test_a_redirect_s_hops_have_a_span_each(api, memory, anyone):
    api.answers(redirect="/v1/models")
    api.answers("model_overloaded")

    anyone.send("GET", api.url + "/agent/run", follow_redirects=True)

    first, second = memory.attempts()
    assert first.name == "GET /v1/agent/run"
    assert first.status.status_code is StatusCode.UNSET
    assert second.name == "GET /v1/models"
    assert second.status.description == "model_overloaded"
    assert second.attributes["http.request.resend_count"] == 1
    assert "assisters.retry.reason" not in second.attributes


def test_a_method_outside_the_conventions_is_no_label(api, memory, anyone):
    anyone.send("FROBNICATE", api.url + "/models")

    assert memory.point(DURATION)["http.request.method"] == "_OTHER"
    assert memory.attempt().name == "HTTP /v1/models"


def test_an_unknown_path_is_no_label(api, memory, anyone):
    anyone.send("GET", api.url + "/users/7f3a")

    assert "url.template" not in memory.point(DURATION)
    assert "url.template" not in memory.attempt().attributes
    assert memory.attempt().name == "GET"


def test_the_message_is_on_the_span_only_if_it_is_asked_for(api, memory, telemetry, anyone):
    api.answers("invalid_request", message="You said: tell me ask_live_0123456789")
    anyone.send("GET", api.url + "/models")
    assert "tell me" not in repr(dict(memory.attempt().attributes))

    telemetry.shutdown()
    other = Memory()
    with assisters_otel.init(
        hosts=[api.url],
        capture_message=True,
        tracer_provider=other.tracer_provider,
        meter_provider=other.meter_provider,
        strict=True,
    ):
        api.answers("invalid_request", message="You said: tell me ask_live_0123456789" + "x" * 999)
        anyone.send("GET", api.url + "/models")
    message = other.attempt().attributes["assisters.error.message"]
    assert message.startswith("You said: tell me REDACTED")
    assert len(message) <= 256
    other.shutdown()


# -- whose requests, whose spans --------------------------------------------------------------


def test_another_host_gets_no_span_and_no_header(api, memory, anyone, other_api):
    anyone.send("GET", other_api.url + "/models")
    anyone.send("GET", api.url + "/models")

    assert len(memory.attempts()) == 1
    assert "traceparent" not in other_api.requests[0].headers
    assert "traceparent" in api.requests[0].headers
    assert memory.point(DURATION)["server.port"] == api.port


def test_another_host_that_refuses_raises_what_the_client_raises(memory, anyone, other_api):
    other_api.stop()

    with pytest.raises(anyone.refused):
        anyone.send("GET", other_api.url + "/models")

    assert memory.attempts() == []
    assert memory.points(DURATION) == []


def test_a_redirect_to_another_host_carries_no_traceparent_on(api, memory, anyone, other_api):
    api.answers(redirect=other_api.url + "/models")

    anyone.send("GET", api.url + "/models", follow_redirects=True)

    assert len(memory.attempts()) == 1
    assert "traceparent" in api.requests[0].headers
    assert "traceparent" not in other_api.requests[0].headers


def test_the_app_s_baggage_does_not_go_to_the_api(api, anyone):
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    try:
        anyone.send("GET", api.url + "/models")
        anyone.send("GET", api.url + "/models", headers={"baggage": "mine=1"})
    finally:
        context.detach(token)

    first, second = api.requests
    assert "baggage" not in first.headers
    assert second.headers["baggage"] == "mine=1"
    assert "traceparent" in first.headers


@pytest.mark.parametrize("module", [httpx, httpx2])
def test_one_request_sent_twice_at_once_keeps_its_headers(api, module):
    async def twice():
        async with module.AsyncClient(trust_env=False) as client:
            request = client.build_request("GET", api.url + "/models")
            await asyncio.gather(client.send(request), client.send(request))
            return request

    assert "traceparent" not in asyncio.run(twice()).headers
    assert all("traceparent" in request.headers for request in api.requests)


def test_the_request_s_headers_are_the_very_same_object_afterwards(api, caller):
    async def script(at):
        request = at.client.build_request("GET", api.url + "/models")
        headers = request.headers
        result = at.client.send(request)
        response = await result if caller.run else result
        assert response.request.headers is headers
        assert "traceparent" not in headers

    caller.use(caller.client(), script)


def test_the_app_s_own_span_is_never_written_to(api, memory, anyone):
    tracer = memory.tracer_provider.get_tracer("app")
    api.answers("rate_limit_exceeded", times=2)

    with tracer.start_as_current_span("work", kind=trace.SpanKind.CLIENT) as span:
        before = span.to_json()
        anyone.send("GET", api.url + "/models")
        with suppress_instrumentation():
            anyone.send("GET", api.url + "/models")
        assert span.to_json() == before

    assert memory.attempt().name == "GET /v1/models"  # the suppressed one has none
    assert memory.point(ERRORS)["value"] == 2


def test_metrics_do_not_depend_on_sampling(api, telemetry, anyone):
    telemetry.shutdown()
    memory = Memory(sampler=ALWAYS_OFF)
    api.answers("api_key_revoked")
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        anyone.send("GET", api.url + "/models")

    assert memory.spans() == []
    assert memory.point(ERRORS)["error.code"] == "api_key_revoked"
    memory.shutdown()


def test_an_exemplar_ties_an_error_to_its_span(api, memory, anyone):
    api.answers("api_key_revoked")

    anyone.send("GET", api.url + "/models")

    span_id = memory.attempt().context.span_id
    collected = memory.collect()
    for name in (DURATION, ERRORS):
        (point,) = collected[name]
        assert [exemplar.span_id for exemplar in point["exemplars"]] == [span_id]


def test_the_gauges_say_what_the_last_response_left(api, memory, anyone):
    for left in ("41", "40"):
        api.answers("ok", headers={"x-ratelimit-remaining-rpm": left})
        anyone.send("GET", api.url + "/models")

    point = memory.point("assisters.client.ratelimit.requests.remaining")
    assert (point["value"], point["server.port"]) == (40, api.port)
    assert memory.points("assisters.client.ratelimit.requests.limit")
    assert memory.points("assisters.client.ratelimit.tokens.limit")
    assert memory.points("assisters.client.ratelimit.tokens.remaining")


@pytest.fixture
def other_api():
    from assisters_otel.testing import FakeApi

    with FakeApi() as api:
        yield api
