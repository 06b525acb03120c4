"""One call of an SDK is one span, whatever its retries: each SDK, flavour and outcome."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import threading
from typing import Any, NamedTuple
from zlib import crc32

import anyio
import assisters
import httpx
import openai
import pytest
import tenacity
from opentelemetry import context, trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import assisters_otel
from assisters_otel.sinks import gen_ai_span
from memory import Memory

pytestmark = pytest.mark.usefixtures("telemetry")

DURATION = "gen_ai.client.operation.duration"
ATTEMPTS = "assisters.client.call.attempts"
RETRIES = "assisters.client.retries"
ERRORS = "assisters.client.errors"
COUNT = "http.request.resend_count"
OUTCOME = "assisters.call.outcome"
CHAT = {
    "model": "assisters-chat-v1",
    "messages": [{"role": "user", "content": "Say hello."}],
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0.01)


class Flavour(NamedTuple):
    """One way of asking for a chat.

    ``script(client)`` is an `async def` in every flavour; ``end`` reads an answer to its end.
    """

    name: str
    is_async: bool
    stream: bool
    make: Any
    ask: Any
    end: Any

    def run(self, api, script=None, **options):
        async def whole():
            client = self.make(api, **options)
            try:
                return await (script or self.answered)(client)
            finally:
                closed = client.close()
                if self.is_async:
                    await closed

        if self.is_async:
            return asyncio.run(whole())
        try:
            whole().send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a sync script waited")

    async def answered(self, client):
        return await self.end(await self.asked(client))

    async def asked(self, client):
        asked = self.ask(client)
        return await asked if self.is_async else asked

    def __str__(self):
        return self.name


def of_openai(kind, http=None):
    def make(api, **options):
        options.setdefault("timeout", 5)
        client = http(trust_env=False) if http else None
        return kind(base_url=api.url, api_key="ask_k", http_client=client, **options)

    return make


def of_assisters(api, **options):
    return assisters.Assisters("ask_k", base_url=api.url, **options)


def chat(client, **options):
    return client.chat.completions.create(**CHAT, **options)


def streamed(client):
    return chat(client, stream=True)


def raw(client):
    return client.chat.completions.with_raw_response.create(**CHAT)


async def at_once(answer):
    return answer


async def by_chunks(stream):
    return list(stream)


async def by_chunks_async(stream):
    return [chunk async for chunk in stream]


async def parsed(answer):
    return answer.parse()


FLAVOURS = [
    Flavour("openai", False, False, of_openai(openai.OpenAI), chat, at_once),
    Flavour("openai-async", True, False, of_openai(openai.AsyncOpenAI), chat, at_once),
    Flavour("openai-stream", False, True, of_openai(openai.OpenAI), streamed, by_chunks),
    Flavour(
        "openai-async-stream", True, True, of_openai(openai.AsyncOpenAI), streamed, by_chunks_async
    ),
    Flavour("openai-raw", False, False, of_openai(openai.OpenAI), raw, parsed),
    Flavour("openai-async-raw", True, False, of_openai(openai.AsyncOpenAI), raw, parsed),
    Flavour(
        "openai-own-client",
        False,
        False,
        of_openai(openai.OpenAI, openai.DefaultHttpxClient),
        chat,
        at_once,
    ),
    Flavour(
        "openai-legacy-client", False, False, of_openai(openai.OpenAI, httpx.Client), chat, at_once
    ),
    Flavour(
        "openai-legacy-async-stream",
        True,
        True,
        of_openai(openai.AsyncOpenAI, httpx.AsyncClient),
        streamed,
        by_chunks_async,
    ),
    Flavour("assisters", False, False, of_assisters, chat, at_once),
    Flavour("assisters-stream", False, True, of_assisters, streamed, by_chunks),
]
STREAMS = [flavour for flavour in FLAVOURS if flavour.stream]
RETRYING = [flavour for flavour in FLAVOURS if flavour.name != "assisters-stream"]
OPENAI = [flavour for flavour in FLAVOURS if flavour.name.startswith("openai")]


@pytest.fixture(params=FLAVOURS, ids=str)
def flavour(request):
    return request.param


def check_metrics(memory, outcome, *, attempts=1, code=None):
    """The metrics agree with the one call's span."""
    points = memory.collect()
    call = memory.call()
    (duration,) = points[DURATION]
    (tries,) = points[ATTEMPTS]
    for point in (duration, tries):
        assert point["count"] == 1
        assert point[OUTCOME] == outcome == call.attributes[OUTCOME]
        assert point["gen_ai.operation.name"] == "chat"
        assert point["gen_ai.request.model"] == "assisters-chat-v1"
        assert point["server.address"] == "127.0.0.1"
        assert point.get("error.type") == call.attributes.get("error.type")
        assert point.get("error.code") == code == call.attributes.get("error.code")
        assert [one.span_id for one in point["exemplars"]] == [call.context.span_id]
    assert tries["url.template"] == "/v1/chat/completions"
    assert "url.template" not in duration
    assert tries["exemplars"][0].value == attempts == len(memory.attempts())
    assert call.attributes["assisters.retry.count"] == attempts - 1
    assert sum(point["value"] for point in points.get(RETRIES, ())) == attempts - 1
    errors = sum("error.type" in one.attributes for one in memory.attempts())
    assert sum(point["value"] for point in points.get(ERRORS, ())) == errors
    assert {one.parent.span_id for one in memory.attempts()} == {call.context.span_id}


# -- the four outcomes --------------------------------------------------------------------------


def test_a_call_is_ok(api, memory, flavour):
    api.answers("ok", request_id="req_1")

    flavour.run(api)

    call = memory.call()
    assert call.name == "chat assisters-chat-v1"
    assert call.kind is trace.SpanKind.CLIENT
    streamed = {
        "assisters.stream.outcome": "completed",
        "assisters.stream.chunks": 7,
        "gen_ai.response.time_to_first_chunk": pytest.approx(2.5, abs=2.5),
        "gen_ai.request.stream": True,
    }
    tokens = {
        "gen_ai.usage.input_tokens": len(CHAT["messages"][0]["content"].split()),
        "gen_ai.usage.output_tokens": 5,
    }
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "assisters",
        "gen_ai.request.model": "assisters-chat-v1",
        "server.address": "127.0.0.1",
        "server.port": api.port,
        "assisters.call.outcome": "ok",
        "assisters.retry.count": 0,
        "assisters.retry.wait": 0.0,
        "assisters.request.id": "req_1",
        "gen_ai.response.id": f"chatcmpl-{crc32(api.requests[0].body):08x}",
        "gen_ai.response.model": "assisters-chat-v1",
        "gen_ai.response.finish_reasons": ("stop",),
        **(streamed if flavour.stream else tokens),
    }
    assert call.status.status_code is trace.StatusCode.UNSET
    assert not call.events
    scope = call.instrumentation_scope
    assert (scope.version, scope.schema_url[:8]) == (assisters_otel.__version__, "https://")
    assert call.end_time >= memory.attempt().end_time
    check_metrics(memory, "ok")


@pytest.mark.parametrize("flavour", RETRYING, ids=str)
def test_a_call_has_recovered(api, memory, flavour, caplog):
    api.answers("rate_limit_exceeded", retry_after=0.5)
    api.answers("model_overloaded", "ok")

    flavour.run(api)

    call = memory.call()
    assert call.attributes[OUTCOME] == "recovered"
    assert not [name for name in call.attributes if name.startswith("error.")]
    assert call.status.status_code is trace.StatusCode.UNSET
    first, second, third = memory.attempts()
    delays = [one.attributes["assisters.retry.delay"] for one in (second, third)]
    assert call.attributes["assisters.retry.wait"] == pytest.approx(sum(delays), abs=2e-6)
    assert [one.attributes[COUNT] for one in (second, third)] == [1, 2]
    assert second.attributes["assisters.retry.reason"] == "rate_limit_exceeded"
    assert second.attributes["assisters.retry.early"] is True
    assert third.attributes["assisters.retry.reason"] == "model_overloaded"
    assert [link.context for one in (second, third) for link in one.links] == [
        first.context,
        second.context,
    ]
    check_metrics(memory, "recovered", attempts=3)
    assert not [one for one in caplog.records if one.name == "assisters_otel"]


def test_a_call_has_failed(api, memory, flavour, caplog):
    api.answers("insufficient_funds", param="model", request_id="req_9")

    with pytest.raises((openai.APIStatusError, assisters.AssistersAPIError)):
        flavour.run(api)

    call = memory.call()
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "assisters",
        "gen_ai.request.model": "assisters-chat-v1",
        "server.address": "127.0.0.1",
        "server.port": api.port,
        "assisters.call.outcome": "failed",
        "assisters.retry.count": 0,
        "assisters.retry.wait": 0.0,
        "assisters.request.id": "req_9",
        "assisters.error.retryable": False,
        "error.type": "insufficient_funds_error",
        "error.code": "insufficient_funds",
        "error.param": "model",
        **({"gen_ai.request.stream": True} if flavour.stream else {}),
    }
    assert call.status.status_code is trace.StatusCode.ERROR
    assert call.status.description == "insufficient_funds"
    assert not call.events
    check_metrics(memory, "failed", code="insufficient_funds")
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "insufficient_funds on POST /v1/chat/completions (request id req_9, trace id " in line


@pytest.mark.parametrize("flavour", RETRYING, ids=str)
def test_a_call_has_failed_although_it_was_retried(api, memory, flavour, caplog):
    api.answers("rate_limit_exceeded", times=3)

    with pytest.raises((openai.RateLimitError, assisters.AssistersAPIError)):
        flavour.run(api)

    check_metrics(memory, "failed", attempts=3, code="rate_limit_exceeded")
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "rate_limit_exceeded on POST /v1/chat/completions, 3 attempts (request id" in line


def test_a_call_that_gets_no_answer_has_failed(api, memory, flavour):
    api.answers(fault="drop", times=3)

    with pytest.raises((openai.APIConnectionError, assisters.AssistersAPIError, httpx.HTTPError)):
        flavour.run(api)

    call = memory.call()
    assert call.attributes["error.type"] == "RemoteProtocolError"
    assert call.status.description == "RemoteProtocolError"
    check_metrics(memory, "failed", attempts=len(api.requests))


def test_a_call_was_cancelled(api, memory, flavour):
    """By a task's cancellation, or what stands for it where there is none."""
    api.answers(delay_s=3)

    async def script(client):
        if flavour.is_async:
            task = asyncio.create_task(flavour.answered(client))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            with interrupted(client), pytest.raises(KeyboardInterrupt):
                await flavour.answered(client)

    flavour.run(api, script)

    call = memory.call()
    assert call.status.status_code is trace.StatusCode.UNSET
    assert not [name for name in call.attributes if name.startswith("error.")]
    assert memory.point(DURATION)[OUTCOME] == "cancelled" == call.attributes[OUTCOME]
    assert memory.points(ERRORS) == []


@contextlib.contextmanager
def interrupted(client):
    """A Ctrl-C that is met where the answer is waited for."""
    http = getattr(client, "_http", None) or client._client

    def interrupt(_request):
        raise KeyboardInterrupt

    http._transport._pool.handle_request = interrupt
    yield


# -- what the call is named after ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "name", "operation", "model"),
    [
        (
            lambda at: at.embeddings.create(model="assisters-embed-v1", input="x"),
            "embeddings assisters-embed-v1",
            "embeddings",
            "assisters-embed-v1",
        ),
        (lambda at: at.models.list(), "GET /v1/models", None, None),
        (lambda at: at.models.retrieve("assisters-chat-v1"), "GET /v1/models/{id}", None, None),
        (
            lambda at: at.audio.speech.create(model="assisters-tts-v1", input="x", voice="a"),
            "speech assisters-tts-v1",
            "speech",
            "assisters-tts-v1",
        ),
        (
            lambda at: at.audio.transcriptions.create(model="m-1", file=io.BytesIO(b"audio")),
            "transcription m-1",
            "transcription",
            "m-1",
        ),
    ],
)
@pytest.mark.parametrize("sdk", ["openai", "assisters"])
def test_a_call_is_named_after_its_operation_else_its_path(
    api, memory, sdk, ask, name, operation, model
):
    make = of_openai(openai.OpenAI) if sdk == "openai" else of_assisters
    with make(api) as client:
        answer = ask(client)

    assert answer
    call = memory.call()
    assert call.name == name
    assert call.attributes.get("gen_ai.operation.name") == operation
    assert call.attributes.get("gen_ai.request.model") == model
    assert (DURATION in memory.collect()) == (operation is not None)
    assert memory.point(ATTEMPTS)["count"] == 1
    assert memory.attempt().parent.span_id == call.context.span_id


def test_what_a_user_has_typed_as_a_model_is_clean_and_no_label(api, memory):
    with of_openai(openai.OpenAI)(api) as client:
        client.embeddings.create(model="ask_0123456789 \x00" + "x" * 500, input="x")

    model = memory.call().attributes["gen_ai.request.model"]
    assert len(model) <= 128
    assert "ask_0123456789" not in memory.call().to_json()
    assert memory.point(DURATION)["gen_ai.request.model"] == "_OTHER"


def test_fifty_models_are_labels_and_the_next_is_other(api, memory):
    with of_openai(openai.OpenAI)(api) as client:
        for number in range(55):
            client.embeddings.create(model=f"model-{number}", input="x")

    labels = {point["gen_ai.request.model"] for point in memory.points(DURATION)}
    assert len(labels) == 51
    assert "_OTHER" in labels


# -- whose calls --------------------------------------------------------------------------------


def test_a_whole_url_is_asked_for_what_it_says(api, memory):
    """As the next page of a list may be."""
    make = of_openai(openai.OpenAI)
    with make(api) as client, client.with_options(base_url="http://localhost:1") as elsewhere:
        elsewhere.get(f"{api.url}/models", cast_to=object)

    assert memory.call().name == "GET /v1/models"
    assert memory.attempt().parent.span_id == memory.call().context.span_id


def test_another_path_of_a_watched_host_is_none_of_ours(api, memory, telemetry):
    telemetry.shutdown()
    with (
        assisters_otel.init(
            hosts=[f"{api.url}/v1"],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ),
        of_openai(openai.OpenAI)(api) as client,
    ):
        client.models.list()

    assert memory.spans() == []


def test_a_call_of_another_host_is_none_of_ours(api, memory, telemetry, flavour):
    telemetry.shutdown()
    with assisters_otel.init(
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        flavour.run(api)

    assert memory.spans() == []
    assert DURATION not in memory.collect()


def test_an_sdk_s_methods_are_the_very_same_after_shutdown(telemetry):
    base = openai._base_client
    methods = [
        (base.SyncAPIClient, "request"),
        (base.AsyncAPIClient, "request"),
        (assisters.Assisters, "_request"),
        (assisters.Assisters, "_request_bytes"),
        (assisters.Assisters, "_stream"),
    ]
    on = [vars(owner)[name] for owner, name in methods]
    telemetry.shutdown()
    off = [vars(owner)[name] for owner, name in methods]

    assert all(one.__wrapped__ is other for one, other in zip(on, off, strict=True))
    assert not any(hasattr(one, "__wrapped__") for one in off)
    assert "request" not in vars(openai.OpenAI)


def test_suppressed_instrumentation_has_metrics_only(api, memory, flavour):
    api.answers("api_key_revoked")

    with (
        suppress_instrumentation(),
        pytest.raises((openai.APIStatusError, assisters.AssistersAPIError)),
    ):
        flavour.run(api)

    assert memory.spans() == []
    assert memory.point(DURATION)["error.code"] == "api_key_revoked"
    assert memory.point(ATTEMPTS)["count"] == 1


def test_calls_are_counted_where_nothing_is_sampled(api, telemetry, flavour):
    telemetry.shutdown()
    memory = Memory(sampler=ALWAYS_OFF)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        flavour.run(api)

    assert memory.spans() == []
    assert memory.point(DURATION)[OUTCOME] == "ok"
    memory.shutdown()


def test_the_span_around_a_call_is_its_parent_and_not_written_to(api, memory, flavour):
    tracer = memory.tracer_provider.get_tracer("app")
    with tracer.start_as_current_span("work", kind=trace.SpanKind.CLIENT) as span:
        before = span.to_json()
        flavour.run(api)
        assert span.to_json() == before

    assert memory.call().parent.span_id == span.context.span_id


# -- what is inside a call ----------------------------------------------------------------------


@pytest.mark.parametrize("flavour", OPENAI, ids=str)
def test_an_answer_that_cannot_be_parsed_fails_the_call(api, memory, flavour):
    api.answers(body="no JSON", content_type="application/json", request_id="req_1")

    async def script(client):
        asked = client.embeddings.create(model="assisters-embed-v1", input="x")
        return await asked if flavour.is_async else asked

    with pytest.raises(ValueError, match="Expecting value"):
        flavour.run(api, script)

    call = memory.call()
    assert call.attributes[OUTCOME] == "failed"
    assert call.attributes["error.type"] == "JSONDecodeError"
    assert call.attributes["assisters.request.id"] == "req_1"
    assert call.status.description == "JSONDecodeError"
    assert "error.type" not in memory.attempt().attributes
    assert memory.points(ERRORS) == []
    assert memory.point(DURATION)["error.type"] == "JSONDecodeError"


def test_max_retries_of_0_is_the_assisters_sdk_s_own_fault(api, memory):
    with of_assisters(api, max_retries=0) as client, pytest.raises(AssertionError):
        chat(client)

    call = memory.call()
    assert call.attributes["error.type"] == "AssertionError"
    assert memory.attempts() == []
    assert memory.point(ATTEMPTS)["error.type"] == "AssertionError"


@pytest.mark.parametrize("flavour", [one for one in OPENAI if not one.stream], ids=str)
def test_an_answer_that_breaks_off_counts_once_and_is_sent_again(api, memory, flavour):
    api.answers(fault="truncate", size=5000)
    api.answers("ok")

    flavour.run(api)

    first, second = memory.attempts()
    assert "error.type" not in first.attributes
    assert second.attributes[COUNT] == 1
    assert second.attributes["assisters.retry.reason"] == "RemoteProtocolError"
    assert [link.context for link in second.links] == [first.context]
    assert memory.call().attributes[OUTCOME] == "recovered"
    error = memory.point(ERRORS)
    assert error["value"] == 1
    assert error["error.type"] == "RemoteProtocolError"
    assert error["http.response.status_code"] == 200
    assert error["assisters.error.retryable"] is True
    assert [one.trace_id for one in error["exemplars"]] == [first.context.trace_id]
    assert memory.point(RETRIES)["value"] == 1


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_a_stream_that_breaks_off_fails_its_call(api, memory, flavour, caplog):
    api.answers(fault="truncate")

    with pytest.raises((openai.APIConnectionError, httpx.RemoteProtocolError)):
        flavour.run(api)

    call = memory.call()
    assert call.attributes[OUTCOME] == "failed"
    assert call.attributes["error.type"] == "RemoteProtocolError"
    assert memory.point(ERRORS)["value"] == 1
    assert memory.point(ATTEMPTS)[OUTCOME] == "failed"
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "answered 200, and broke off (RemoteProtocolError)" in line


@pytest.mark.parametrize("flavour", [one for one in OPENAI if "legacy" not in one.name], ids=str)
def test_a_redirect_inside_a_call_is_no_retry(api, memory, flavour):
    api.answers(status=307, redirect=api.url + "/moved/chat/completions")
    api.answers("internal_error", "ok")

    flavour.run(api)

    call = memory.call()
    assert [one.attributes.get(COUNT) for one in memory.attempts()] == [None, 1, 2]
    assert {one.parent.span_id for one in memory.attempts()} == {call.context.span_id}
    assert call.attributes["assisters.retry.count"] == 1
    assert call.attributes[OUTCOME] == "recovered"
    points = memory.collect()
    assert [point["value"] for point in points[RETRIES]] == [1]
    assert points[ATTEMPTS][0]["exemplars"][0].value == 2


def test_what_a_hook_sends_meanwhile_is_no_attempt_of_the_call(api, memory):
    other = httpx.Client(trust_env=False)

    def hook(_request):
        other.get(api.url + "/rate-limit")

    http = openai.DefaultHttpxClient(trust_env=False, event_hooks={"request": [hook]})
    api.answers(status=503, times=2)
    with other, openai.OpenAI(base_url=api.url, api_key="ask_k", http_client=http) as client:
        chat(client)

    call = memory.call()
    assert call.attributes["assisters.retry.count"] == 1
    counts = {one.name: one.attributes.get(COUNT) for one in memory.attempts()}
    assert counts == {"GET /v1/rate-limit": 1, "POST /v1/chat/completions": 1}


def test_a_task_that_outlives_the_call_is_no_part_of_it(api, memory):
    tasks = []

    async def main():
        async def later():
            await asyncio.sleep(0.3)
            async with httpx.AsyncClient(trust_env=False) as other:
                await other.post(api.url + "/chat/completions", json={})

        async def hook(_request):
            tasks.append(asyncio.create_task(later()))

        http = openai.DefaultAsyncHttpxClient(trust_env=False, event_hooks={"request": [hook]})
        async with openai.AsyncOpenAI(
            base_url=api.url, api_key="ask_k", http_client=http
        ) as client:
            await chat(client)
        await asyncio.gather(*tasks)

    asyncio.run(main())

    assert memory.call().attributes["assisters.retry.count"] == 0
    assert [one.attributes.get(COUNT) for one in memory.attempts()] == [None, None]


def test_a_call_inside_a_call_is_a_call_of_its_own(api, memory):
    inner = of_openai(openai.OpenAI)(api)

    def key():
        inner.models.list()
        return "ask_k"

    api.answers("internal_error", "ok", "ok")
    with inner, openai.OpenAI(base_url=api.url, api_key=key) as outer:
        chat(outer)

    first, second = memory.calls()
    assert first.attributes[OUTCOME] == "recovered"
    assert (second.name, second.attributes[OUTCOME]) == ("chat assisters-chat-v1", "ok")
    assert second.attributes["assisters.retry.count"] == 0


# -- a loop around the SDK ----------------------------------------------------------------------


@pytest.mark.parametrize("flavour", RETRYING, ids=str)
def test_a_loop_outside_the_sdk_goes_on_counting(api, memory, flavour):
    api.answers("model_overloaded", times=4)

    async def script(client):
        async for attempt in tenacity.AsyncRetrying(
            sleep=lambda _: at_once(None), stop=tenacity.stop_after_attempt(3), reraise=True
        ):
            with attempt:
                await flavour.answered(client)

    flavour.run(api, script)

    first, second = memory.calls()
    assert [one.attributes.get(COUNT, 0) for one in memory.attempts()] == [0, 1, 2, 3, 4]
    assert "assisters.call.resend_count" not in first.attributes
    assert second.attributes["assisters.call.resend_count"] == 1
    assert second.attributes["assisters.retry.count"] == 1
    assert [link.context for link in second.links] == [first.context]
    third, fourth = memory.attempts()[2:4]
    assert [link.context for link in fourth.links] == [third.context]
    assert sum(point["value"] for point in memory.points(RETRIES)) == 4


def test_the_third_call_is_the_second_resend(api, memory):
    api.answers("tokens_exhausted", times=3)
    with of_openai(openai.OpenAI, None)(api, max_retries=0) as client:
        for _ in range(3):
            with pytest.raises(openai.RateLimitError):
                chat(client)

    counts = [one.attributes.get("assisters.call.resend_count") for one in memory.calls()]
    assert counts == [None, 1, 2]
    assert [one.attributes.get("assisters.retry.futile") for one in memory.attempts()] == [
        None,
        True,
        True,
    ]


def test_a_call_after_one_that_recovered_is_a_first(api, memory):
    api.answers("internal_error", "ok")
    with of_openai(openai.OpenAI)(api) as client:
        chat(client)
        chat(client)

    assert [one.attributes.get(COUNT) for one in memory.attempts()] == [None, 1, None]
    assert "assisters.call.resend_count" not in memory.calls()[1].attributes


def test_multipart_is_a_resend_inside_a_call(api, memory):
    api.answers("internal_error", "ok")
    with of_openai(openai.OpenAI)(api) as client:
        client.audio.transcriptions.create(model="m", file=io.BytesIO(b"audio"))

    assert [one.attributes.get(COUNT) for one in memory.attempts()] == [None, 1]
    assert memory.call().attributes[OUTCOME] == "recovered"


def test_fifty_calls_at_once_are_fifty_firsts(api, memory):
    api.answers("rate_limit_exceeded", retry_after=0, times=50)

    async def main():
        # The fifty refusals may fall to fewer calls, some of which then meet several.
        async with of_openai(openai.AsyncOpenAI)(api, timeout=30, max_retries=50) as client:
            await asyncio.gather(*(chat(client) for _ in range(50)))

    asyncio.run(main())

    attempts = memory.attempts()
    assert len(attempts) == 100
    assert len([one for one in attempts if COUNT not in one.attributes]) == 50
    assert sum(one.attributes["assisters.retry.count"] for one in memory.calls()) == 50


# -- streams ------------------------------------------------------------------------------------


async def first_of(stream):
    if hasattr(stream, "__anext__"):
        return await anext(stream)
    return next(stream)


async def closed(stream):
    close = getattr(stream, "aclose", None) or stream.close
    result = close()
    if result is not None:
        await result


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_a_call_ends_with_its_stream(api, memory, flavour):
    api.answers(chunked=True, chunk_delay_s=0.02)

    async def script(client):
        stream = await flavour.asked(client)
        await first_of(stream)
        assert memory.calls() == []
        await flavour.end(stream)
        assert memory.call().attributes[OUTCOME] == "ok"

    flavour.run(api, script)

    check_metrics(memory, "ok")


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_a_stream_that_is_closed_early_was_cancelled(api, memory, flavour):
    async def script(client):
        stream = await flavour.asked(client)
        await first_of(stream)
        await closed(stream)
        assert memory.call().attributes[OUTCOME] == "cancelled"

    flavour.run(api, script)

    check_metrics(memory, "cancelled")


@pytest.mark.parametrize("gzip", [False, True])
@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_a_stream_that_is_closed_at_done_is_ok(api, memory, flavour, gzip):
    """What comes after ``[DONE]``, the end of the body among it, is not waited for."""
    events = 'data: {"choices": []}\n\ndata: [DONE]\n\n'
    api.answers(body=events + ": more\n\n" * 1000, content_type="text/event-stream", gzip=gzip)

    async def script(client):
        stream = await flavour.asked(client)
        await flavour.end(stream)

    flavour.run(api, script)

    check_metrics(memory, "ok")


@pytest.mark.parametrize("flavour", [one for one in STREAMS if one.is_async], ids=str)
def test_a_stream_that_is_cancelled_was_cancelled(api, memory, flavour):
    api.answers(chunked=True, chunk_delay_s=0.3)

    async def script(client):
        task = asyncio.create_task(flavour.answered(client))
        await asyncio.sleep(0.4)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    flavour.run(api, script)

    check_metrics(memory, "cancelled")


async def forget(flavour, client):
    stream = await flavour.asked(client)
    await first_of(stream)
    del stream
    gc.collect()
    if flavour.is_async:
        await asyncio.sleep(0)


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_a_stream_that_is_forgotten_was_cancelled(api, memory, flavour):
    flavour.run(api, lambda client: forget(flavour, client))
    gc.collect()

    check_metrics(memory, "cancelled")


@contextlib.contextmanager
def collecting_only_when_asked():
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("moment", ["the next call", "a flush", "an export of metrics"])
def test_a_forgotten_call_ends_at(api, memory, telemetry, moment):
    """Not in the garbage collector, which may run inside a provider's own lock."""
    with of_openai(openai.OpenAI)(api) as client, collecting_only_when_asked():
        for begun in (True, False):
            stream = streamed(client)
            if begun:
                next(stream)
            del stream
        gc.collect()
        if moment == "the next call":
            client.models.list()
        elif moment == "a flush":
            telemetry.flush()
        else:
            memory.collect()

    assert [one.attributes[OUTCOME] for one in memory.calls()[:2]] == ["cancelled"] * 2


def test_a_stream_that_the_collector_closes_does_not_end_its_call_there(api, memory):
    """The SDK's generator closes it, wherever the collector has been called."""
    ended_in = []

    class Noted(SpanProcessor):
        def on_end(self, span):  # noqa: ARG002 - the SDK's
            ended_in.append(threading.current_thread())

    memory.tracer_provider.add_span_processor(Noted())
    with of_assisters(api) as client, collecting_only_when_asked():
        stream = streamed(client)
        next(stream)
        ended_in.clear()
        cycle = [stream]
        cycle.append(cycle)
        del stream, cycle
        gc.collect()
        # The thread that looks after open streams may have ended it meanwhile.
        assert threading.current_thread() not in ended_in
        client.models.list()

    assert memory.calls()[0].attributes[OUTCOME] == "cancelled"


def test_a_stream_that_is_open_at_shutdown_was_cancelled(api, memory, telemetry):
    with of_openai(openai.OpenAI)(api) as client:
        stream = streamed(client)
        next(stream)
        telemetry.shutdown()
        assert memory.call().attributes[OUTCOME] == "cancelled"
        assert len(list(stream)) > 1
        assert memory.call()


def test_a_stream_nobody_begins_to_read_sends_nothing_with_assisters(api, memory):
    with of_assisters(api) as client:
        stream = streamed(client)
        assert api.requests == []
        stream.close()

    assert memory.spans() == []


@pytest.mark.parametrize("flavour", STREAMS, ids=str)
def test_a_stream_may_be_read_and_closed_elsewhere(api, memory, flavour, caplog):
    """In another thread or task, where a context token of the first would be of no use."""

    async def script(client):
        stream = await flavour.asked(client)
        await first_of(stream)

        async def rest():
            await first_of(stream)
            await closed(stream)

        if flavour.is_async:
            await asyncio.create_task(rest())
        else:
            thread = threading.Thread(target=stream.close)
            thread.start()
            thread.join()

    flavour.run(api, script)

    check_metrics(memory, "cancelled")
    assert not [one for one in caplog.records if "context" in one.getMessage().lower()]


def test_a_raw_stream_ends_its_call_with_its_body(api, memory):
    with of_openai(openai.OpenAI)(api) as client:
        with client.chat.completions.with_streaming_response.create(**CHAT) as answer:
            assert memory.calls() == []
            assert answer.read()
        assert memory.call().attributes[OUTCOME] == "ok"
        with client.audio.speech.with_streaming_response.create(model="m", input="x", voice="a"):
            pass

    assert memory.calls()[1].attributes[OUTCOME] == "cancelled"


# -- what is left behind ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [{}, {"code": "api_key_revoked", "status": 401}, {"fault": "drop"}]
)
def test_no_scope_is_left(api, flavour, answer):
    api.answers(**answer, times=3)

    async def script(client):
        before = context.get_current()
        with contextlib.suppress(
            openai.OpenAIError, assisters.AssistersAPIError, httpx.TransportError
        ):
            await flavour.answered(client)
        assert context.get_current() is before

    flavour.run(api, script)


def test_a_coroutine_that_nobody_awaits_any_more_leaves_nothing(api, memory, caplog):
    """Its context is gone with its task; the token must not be used in another one."""
    api.answers(delay_s=1)
    held = []

    async def main():
        client = of_openai(openai.AsyncOpenAI)(api)
        held.append(client)
        coroutine = client.models.list().__await__()
        task = asyncio.create_task(step(coroutine))
        await task

    async def step(coroutine):
        coroutine.send(None)
        held.append(coroutine)

    asyncio.run(main())
    before = context.get_current()
    held.pop().close()

    assert context.get_current() is before
    assert not [one for one in caplog.records if "detach" in one.getMessage()]
    assert memory.call().attributes[OUTCOME] == "cancelled"


# What openai leaves of its own generators, with us and without.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object")
def test_openai_on_trio_is_the_same(api, memory):
    api.answers("internal_error", "ok")

    async def main():
        async with of_openai(openai.AsyncOpenAI)(api) as client:
            await chat(client)
            with anyio.move_on_after(0.2):
                api.answers(delay_s=3)
                await chat(client)
            stream = await streamed(client)
            assert len([chunk async for chunk in stream]) > 1

    anyio.run(main, backend="trio")

    outcomes = [one.attributes[OUTCOME] for one in memory.calls()]
    assert outcomes == ["recovered", "cancelled", "ok"]
    counts = [one.attributes.get(COUNT) for one in memory.attempts()]
    # The third is sent after one that was cancelled, by the same task, with another body.
    assert counts == [None, 1, None, None]


@pytest.mark.parametrize("path", ["/things/a b", "/things/ü", "/things/a%20b", "/things/{x}"])
def test_attempts_are_the_call_s_however_the_client_writes_its_path(api, memory, caplog, path):
    api.answers("internal_error", "model_overloaded", retry_after=0.01)
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=1) as client,
        pytest.raises(openai.InternalServerError),
    ):
        client.get(path, cast_to=object)

    told = memory.call().attributes
    assert told["assisters.retry.count"] == 1
    assert told["error.code"] == "model_overloaded"
    (line,) = [one for one in caplog.messages if "Assisters API" in one]
    assert line.isascii()


@pytest.mark.parametrize("enclosed", ["before us", "while we are on"])
def test_a_function_on_a_client_that_encloses_its_request_is_no_way_around_us(
    api, memory, telemetry, enclosed
):
    """As logfire's `instrument_openai` leaves one on a client."""
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    telemetry.shutdown()
    original = openai.OpenAI.request
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=1) as client:

        def enclose():
            method = client.request

            def request(*args, **kwargs):
                return method(*args, **kwargs)

            client.request = request

        if enclosed == "before us":
            enclose()
        with assisters_otel.init(hosts=[api.url], strict=True, **options):
            if enclosed == "while we are on":
                enclose()
            api.answers("model_overloaded", "ok", retry_after=0.01)
            client.chat.completions.create(model="assisters-chat-v1", messages=[])
        assert client.request.__closure__[0].cell_contents.__func__ is original
        with assisters_otel.init(hosts=[api.url], strict=True, **options):
            client.chat.completions.create(model="assisters-chat-v1", messages=[])

    assert [call.attributes["assisters.call.outcome"] for call in memory.calls()] == [
        "recovered",
        "ok",
    ]


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("scope", gen_ai_span.SDK_SCOPES)
def test_a_span_of_each_known_genai_instrumentation_is_the_call_s(api, memory, scope):
    tracer = memory.tracer_provider.get_tracer(scope)
    with (
        tracer.start_as_current_span("Chat Completion"),
        openai.OpenAI(base_url=api.url, api_key="ask_k") as client,
    ):
        client.chat.completions.create(model="assisters-chat-v1", messages=[])

    attempt, around = memory.spans()
    assert around.attributes["assisters.call.outcome"] == "ok"
    assert attempt.parent.span_id == around.context.span_id
