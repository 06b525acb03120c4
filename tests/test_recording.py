"""What becomes of an attempt, a call and a body: each fact once, and fast.

The suites of the clients ask all of it of every client, and take minutes. This one asks one client
of each kind, so that who changes what joins the parts hears of it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from zlib import crc32

import assisters
import httpcore
import httpx
import httpx2
import openai
import pytest
import requests
from httpx_retries import Retry, RetryTransport
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

import assisters_otel
from assisters_otel.providers import exporter_logs
from assisters_otel.sinks import failure_log
from assisters_otel.testing import FakeApi
from callers import CALLERS
from leaks import KEY
from memory import Memory

DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"
RETRIES = "assisters.client.retries"
CALL_DURATION = "gen_ai.client.operation.duration"
CALL_ATTEMPTS = "assisters.client.call.attempts"
ATTEMPTS = "assisters.client.call.attempts"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
COUNT = "http.request.resend_count"
REASON = "assisters.retry.reason"
CALL = "assisters.call.outcome"
STREAM = "assisters.stream.outcome"
CHUNKS = "assisters.stream.chunks"
FIRST = "gen_ai.response.time_to_first_chunk"
EVENTS = "text/event-stream"
MODEL = "assisters-chat-v1"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "planted-prompt"}]}
STREAMED = {**CHAT, "stream": True}
BODY = {"model": "assisters-embed-v1", "input": "planted-prompt"}
GEN_AI = "opentelemetry.instrumentation.openai.v1"


def id_of(received):
    return f"chatcmpl-{crc32(received.body):08x}"


@pytest.fixture(params=[CALLERS[0], CALLERS[2]], ids=str)
def caller(request):
    """One sync and one async of the plain clients."""
    return request.param


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0)


@pytest.fixture
def parent(memory):
    tracer = memory.tracer_provider.get_tracer("app")
    return lambda: tracer.start_as_current_span("work")


def started(api, memory, **options):
    options.setdefault("hosts", [api.url])
    options.setdefault("tracer_provider", memory.tracer_provider)
    options.setdefault("strict", True)
    return assisters_otel.init(meter_provider=memory.meter_provider, **options)


class Sdk:
    """`openai`, sync or async; a script is an `async def` for both."""

    def __init__(self, name, kind):
        self.name, self.kind, self.is_async = name, kind, "async" in name

    def __str__(self):
        return self.name

    def use(self, url, script, **options):
        async def whole():
            client = self.kind(base_url=url, api_key="ask_k", **{"max_retries": 2, **options})
            try:
                return await script(client)
            finally:
                await self.done(client.close())

        if self.is_async:
            return asyncio.run(whole())
        try:
            whole().send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("a sync script waited")

    async def done(self, asked):
        return await asked if self.is_async else asked

    async def chat(self, client, **options):
        return await self.done(client.chat.completions.create(**CHAT, **options))

    async def next(self, stream):
        return await anext(stream, None) if self.is_async else next(stream, None)

    async def rest(self, stream):
        while await self.next(stream) is not None:
            pass

    def ask(self, url, **options):
        """Ask for one chat, or for a stream of one, and read the answer."""
        stream = options.pop("stream", False)

        async def script(client):
            answer = await self.chat(client, **({"stream": True} if stream else {}))
            return await self.rest(answer) if stream else answer

        return self.use(url, script, **options)


SDKS = [Sdk("openai", openai.OpenAI), Sdk("openai-async", openai.AsyncOpenAI)]


@pytest.fixture(params=SDKS, ids=str)
def sdk(request):
    return request.param


def of_openai(api, **options):
    return openai.OpenAI(base_url=api.url, api_key="ask_k", **{"max_retries": 0, **options})


def url_of(api, path="chat/completions"):
    return f"{api.url}/{path}"


def numbers(memory):
    return [span.attributes.get(COUNT, 0) for span in memory.attempts()]


def lines(caplog):
    return [one for one in caplog.records if one.name == "assisters_otel"]


def streams(memory):
    return [one for one in memory.spans() if one.name == "assisters.stream"]


def stream_of(memory):
    (span,) = streams(memory)
    return span


@contextlib.contextmanager
def collecting_only_when_asked():
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


# -- whose requests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "is_watched"),
    [
        ("models", True),
        ("models?a=/v1/x", True),
        ("models/m", True),
        ("embeddings?/v1/models", False),
    ],
)
def test_a_path_that_is_not_watched_is_none_of_ours(api, memory, caller, path, is_watched):
    with started(api, memory, hosts=[url_of(api, "models")]) as telemetry:
        caller.send("GET", url_of(api, path))

        assert telemetry.status().attempts == is_watched
    assert len(memory.spans()) == is_watched
    assert len(memory.points(DURATION)) == is_watched


def test_another_port_of_a_watched_host_is_none_of_ours(api, memory, caller, sdk):
    with FakeApi() as other, started(api, memory):
        caller.send("GET", url_of(other, "models"))
        sdk.ask(other.url)

    assert memory.spans() == []
    assert memory.collect() == {}


def test_of_several_hosts_by_one_name_each_is_watched(api, memory, caller):
    hosts = [url_of(api, "models"), url_of(api, "embeddings")]
    with started(api, memory, hosts=hosts) as telemetry:
        for path in ("models", "embeddings", "rate-limit"):
            caller.send("GET", url_of(api, path))

        assert telemetry.status().attempts == 2


def test_a_call_to_another_path_of_a_watched_host_is_none_of_ours(api, memory, sdk):
    with started(api, memory, hosts=[url_of(api, "models")]):
        sdk.ask(api.url)

    assert memory.spans() == []


@pytest.mark.parametrize(("scheme", "port"), [("http", 80), ("https", 443)])
def test_a_url_without_a_port_has_its_scheme_s(memory, api, sdk, scheme, port, monkeypatch):
    def refuse(*_args, **_options):
        raise ConnectionRefusedError

    # Somebody may listen there.
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("anyio.connect_tcp", refuse)
    with (
        started(api, memory, hosts=["127.0.0.1"]),
        pytest.raises(openai.APIConnectionError),
    ):
        sdk.ask(f"{scheme}://127.0.0.1/v1", max_retries=0)

    assert memory.call().attributes.get("server.port") == port
    assert memory.point(DURATION).get("server.port") == port
    assert memory.attempt().attributes["error.type"] == "ConnectError"


def test_an_export_of_our_own_to_a_watched_host_is_none_of_ours(api, memory, telemetry, caller):
    with exporter_logs.capture_exporter_logs(lambda _: None):
        caller.send("GET", url_of(api, "models"))

    assert memory.spans() == []
    assert telemetry.status().attempts == 0


@pytest.mark.parametrize("path", ["/things/a b", "/things/ü", "/things/a%20b", "/things/{x}"])
def test_attempts_are_the_call_s_however_its_path_is_written(api, memory, telemetry, path):
    api.answers("model_overloaded", "ok")
    with of_openai(api, max_retries=1) as client, contextlib.suppress(openai.NotFoundError):
        client.get(path, cast_to=object)

    assert memory.call().attributes["assisters.retry.count"] == 1
    assert {one.parent.span_id for one in memory.attempts()} == {memory.call().context.span_id}
    assert telemetry.status().attempts == 2


# -- an attempt ------------------------------------------------------------------------------------


def test_an_attempt_that_succeeds_is_described_and_counted(api, memory, telemetry, caller, caplog):
    api.answers(delay_s=0.05, request_id="req_1")
    began_s = time.perf_counter()

    caller.send("POST", url_of(api, "embeddings"), json=BODY)

    took_s = time.perf_counter() - began_s
    span, point = memory.attempt(), memory.point(DURATION)
    assert span.name == "POST /v1/embeddings"
    assert span.attributes["url.template"] == "/v1/embeddings"
    assert span.attributes["assisters.request.id"] == "req_1"
    assert span.status.status_code is StatusCode.UNSET
    assert not [name for name in span.attributes if name.startswith(("error.", "assisters.retry"))]
    assert (point["count"], point["http.response.status_code"]) == (1, 200)
    assert (point["server.address"], point["server.port"]) == ("127.0.0.1", api.port)
    assert 0.05 <= point["sum"] <= took_s
    assert {ERRORS, RETRIES, CALL_DURATION, FIRST_CHUNK}.isdisjoint(memory.collect())
    told = telemetry.status()
    assert (told.attempts, told.errors, told.last_failure) == (1, 0, None)
    assert lines(caplog) == []
    assert memory.calls() == []


REFUSALS = {
    "plain": {},
    "gzip": {"gzip": True},
    "chunked": {"chunked": True},
    "a proxy's page": {"body": "<html>", "content_type": "text/html"},
    "nothing": {"body": b""},
    "an unknown coding": {"headers": {"content-encoding": "odd"}, "body": b"odd"},
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_refusal_is_described_counted_logged_and_explained(
    api, memory, telemetry, caller, refusal, caplog
):
    script = REFUSALS[refusal]
    type_, code = "rate_limit_error", "rate_limit_exceeded"
    if "body" in script:
        type_, code = "429", None
        api.answers(status=429, request_id="req_1", **script)
    else:
        api.answers("rate_limit_exceeded", param="model", request_id="req_1", **script)

    async def script_of(at):
        response = await at.open("POST", url_of(api, "embeddings"))
        await at.close(response)
        return assisters_otel.explain(response)

    explained = caller.use(caller.client(), script_of)

    span, point = memory.attempt(), memory.point(ERRORS)
    said = span.attributes
    assert (said["error.type"], said.get("error.code")) == (type_, code)
    assert said.get("error.param") == (code and "model")
    assert said["assisters.error.retryable"] is True
    assert "assisters.error.message" not in said
    assert span.status.description == (code or type_)
    assert (point["value"], point["error.type"], point.get("error.code")) == (1, type_, code)
    assert memory.point(DURATION).get("error.code") == code
    assert explained.code == code
    assert explained.request_id == "req_1"
    assert explained.trace_id == f"{span.context.trace_id:032x}"
    told = telemetry.status()
    assert (told.attempts, told.errors) == (1, 1)
    (line,) = lines(caplog)
    assert line.trace_id == explained.trace_id
    assert "req_1" in line.getMessage()


def test_a_message_is_on_the_spans_only_if_it_is_asked_for(api, memory, sdk):
    for wanted in (False, True):
        memory.clear()
        with started(api, memory, capture_message=wanted):
            api.answers("invalid_model", message="no such model")
            with contextlib.suppress(openai.BadRequestError):
                sdk.ask(api.url, max_retries=0)
            api.answers(in_stream="internal_error", message="no such model")
            httpx.post(url_of(api), json=STREAMED)

        told = [one.attributes.get("assisters.error.message") for one in memory.spans()]
        # The attempt, its call, the stream; not the attempt that was answered well.
        assert sorted(filter(None, told)) == ["no such model"] * (3 if wanted else 0)


def test_an_attempt_without_an_answer_is_described_counted_logged_and_explained(
    api, memory, telemetry, caller, caplog
):
    api.answers(fault="drop")

    with pytest.raises(caller.broken) as met:
        caller.send("POST", url_of(api, "embeddings"), json=BODY)

    span, point = memory.attempt(), memory.point(ERRORS)
    assert span.attributes["error.type"] == "RemoteProtocolError"
    assert span.attributes["assisters.error.retryable"] is True
    assert span.status.status_code is StatusCode.ERROR
    assert (point["value"], point["error.type"]) == (1, "RemoteProtocolError")
    assert point["assisters.error.retryable"] is True
    assert 0 < memory.point(DURATION)["sum"] < 60
    assert assisters_otel.explain(met.value).trace_id == f"{span.context.trace_id:032x}"
    assert telemetry.status().errors == 1
    (line,) = lines(caplog)
    assert "gave no answer (RemoteProtocolError)" in line.getMessage()


def test_a_mistake_of_the_app_s_own_is_not_worth_a_retry_and_quotes_no_key(
    api, memory, telemetry, caller
):
    headers = {"authorization": f"Bearer {KEY}\nx"}
    with pytest.raises(caller.module.LocalProtocolError):
        caller.send("GET", url_of(api, "models"), headers=headers)
    with suppress_instrumentation(), pytest.raises(caller.module.LocalProtocolError):
        caller.send("GET", url_of(api, "models"), headers=headers)

    span = memory.attempt()
    assert span.attributes["assisters.error.retryable"] is False
    (event,) = span.events
    assert "Bearer" not in event.attributes["exception.message"]
    assert KEY not in span.to_json()
    assert telemetry.status().errors == 2


def test_what_a_url_says_of_the_caller_is_not_on_its_span(api, memory, telemetry, caller):
    for query in ("agent/stream?prompt=planted-prompt", f"models?api_key={KEY}"):
        caller.send("GET", url_of(api, query))

    agent, models = memory.attempts()
    assert agent.attributes["url.full"] == url_of(api, "agent/stream?REDACTED")
    assert models.attributes["url.full"] == url_of(api, "models?api_key=REDACTED")
    assert telemetry.status().attempts == 2


def test_a_cancelled_attempt_is_no_error_and_sent_again_a_resend(api, memory, telemetry, caplog):
    api.answers(fault="silence")

    async def main():
        task = asyncio.current_task()

        async def cancel(step, _info):
            if step == "http11.receive_response_headers.started":
                asyncio.get_running_loop().call_soon(task.cancel)

        async with httpx.AsyncClient() as client:
            with pytest.raises(asyncio.CancelledError):
                await client.post(url_of(api), json=BODY, extensions={"trace": cancel})
            await client.post(url_of(api), json=BODY)

    asyncio.run(main())

    assert [one.get("error.type") for one in memory.points(DURATION)] == ["CancelledError", None]
    assert memory.points(ERRORS) == []
    assert memory.attempts()[1].attributes[REASON] == "CancelledError"
    assert memory.attempts()[1].attributes["assisters.retry.futile"] is False
    assert (telemetry.status().attempts, telemetry.status().errors) == (2, 0)
    assert lines(caplog) == []


@pytest.mark.parametrize("why", ["suppressed", "sampled out"])
def test_an_attempt_without_a_span_is_counted_logged_and_known_again(
    api, memory, caller, why, caplog
):
    api.answers("api_key_revoked", "ok")
    sampled_out = Memory(sampler=ALWAYS_OFF)
    provider = (sampled_out if why == "sampled out" else memory).tracer_provider

    async def script(at):
        for _ in range(2):
            await at.request("POST", url_of(api, "embeddings"), json=BODY)
        response = await at.open("POST", url_of(api))
        await at.close(response)

    silent = suppress_instrumentation() if why == "suppressed" else contextlib.nullcontext()
    with started(api, memory, tracer_provider=provider) as telemetry, silent:
        caller.use(caller.client(), script)

        assert (telemetry.status().attempts, telemetry.status().errors) == (3, 1)
    assert memory.spans() == sampled_out.spans() == []
    sampled_out.shutdown()
    assert memory.point(ERRORS)["error.code"] == "api_key_revoked"
    assert memory.point(RETRIES)[REASON] == "api_key_revoked"
    assert len(lines(caplog)) == 1
    assert hasattr(lines(caplog)[0], "trace_id") is (why == "sampled out")


class Never:
    def __await__(self):
        yield


class Hanging:
    """A body that never comes."""

    def __aiter__(self):
        return self

    async def __anext__(self):
        await Never()


def collected(asking):
    """Have the collector find a coroutine that has come to where it waits."""
    step = asking.__await__()
    step.send(None)
    ring = [step]
    ring.append(ring)
    del asking, step, ring
    gc.collect()


def test_a_coroutine_that_the_collector_finds_ends_its_attempt_later(api, memory, telemetry):
    """Not at once: the collector may run where the SDK holds a lock."""

    async def hang(_request):
        await Never()

    client = httpx.AsyncClient()
    client._transport._pool.handle_async_request = hang
    with collecting_only_when_asked():
        with telemetry._instrumentation.recorder.deferred._lock:  # the thread of later steps waits
            collected(client.get(url_of(api, "models")))
            assert telemetry.status().attempts == 0
        telemetry.flush()

    assert telemetry.status().attempts == 1
    assert memory.point(DURATION)["error.type"] == "CancelledError"
    assert memory.points(ERRORS) == []


def test_what_is_sent_again_after_the_collector_has_found_its_read_is_a_resend(
    api, memory, telemetry
):
    async def answer(_request):
        return httpcore.Response(200, headers={"content-type": EVENTS}, content=Hanging())

    client = httpx.AsyncClient()
    client._transport._pool.handle_async_request = answer
    with collecting_only_when_asked():
        with telemetry._instrumentation.recorder.deferred._lock:  # the thread of later steps waits
            collected(client.post(url_of(api), json=STREAMED))
            assert streams(memory) == []
        httpx.post(url_of(api), json=STREAMED)

    assert [one.attributes[STREAM] for one in streams(memory)] == ["cancelled", "completed"]
    assert numbers(memory) == [0, 1]
    assert memory.attempts()[1].attributes[REASON] == "CancelledError"
    assert telemetry.status().errors == 0


# -- resends ---------------------------------------------------------------------------------------


def test_what_is_sent_again_after_it_failed_is_a_retry(api, memory, telemetry, caller):
    api.answers("rate_limit_exceeded", retry_after=30)
    api.answers("api_key_revoked", "ok", "ok")

    async def script(at):
        for _ in range(4):
            await at.request("POST", url_of(api, "embeddings"), json=BODY)

    caller.use(caller.client(), script)

    first, second, third, fourth = memory.attempts()
    assert numbers(memory) == [0, 1, 2, 0], "and after a success it is a first"
    assert second.attributes["assisters.retry.early"] is True
    assert [second.attributes[REASON], third.attributes[REASON]] == [
        "rate_limit_exceeded",
        "api_key_revoked",
    ]
    assert third.attributes["assisters.retry.futile"] is True
    assert [link.context for one in (second, third) for link in one.links] == [
        first.context,
        second.context,
    ]
    assert not fourth.links
    assert [point["value"] for point in memory.points(RETRIES)] == [1, 1]
    assert telemetry.status().attempts == 4


def test_a_redirect_s_hop_is_numbered_and_no_retry(api, memory, telemetry, caller):
    api.answers(redirect=url_of(api, "models"))

    caller.send("GET", url_of(api, "rate-limit"), follow_redirects=True)

    assert numbers(memory) == [0, 1]
    assert REASON not in memory.attempts()[1].attributes
    assert memory.points(RETRIES) == memory.points(ERRORS) == []
    assert telemetry.status().errors == 0


@pytest.mark.parametrize("status", [201, 304, 404])
def test_only_a_redirect_has_a_hop(api, memory, telemetry, caller, status):
    """An answer that was created has a Location, too, and a 304 may have none."""
    headers = None if status == 304 else {"location": url_of(api, "models")}
    api.answers(status=status, headers=headers, body=b"")

    async def script(at):
        for path in ("rate-limit", "models"):
            await at.request("GET", url_of(api, path))

    caller.use(caller.client(), script)

    assert numbers(memory) == [0, 0]
    assert telemetry.status().attempts == 2


def test_of_what_a_transport_sends_again_inside_one_span_the_last_counts(api, memory, telemetry):
    policy = Retry(total=2, backoff_factor=0, allowed_methods={"POST"})
    with httpx.Client(transport=RetryTransport(retry=policy)) as client:
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=memory.tracer_provider)
        for last in ("ok", "internal_error"):
            api.answers("model_overloaded", "model_overloaded", last)
            client.post(url_of(api, "embeddings"), json=BODY)

    fine, failed = memory.attempts()
    assert "error.code" not in fine.attributes
    assert fine.status.status_code is StatusCode.UNSET
    assert failed.attributes["error.code"] == "internal_error"
    assert failed.status.description == "internal_error"
    assert telemetry.status().attempts == 6
    assert sum(point["value"] for point in memory.points(RETRIES)) == 4


# -- a call ----------------------------------------------------------------------------------------


def test_a_call_that_succeeds_has_a_span_around_its_attempt(api, memory, telemetry, sdk, caplog):
    api.answers(delay_s=0.05, request_id="req_1")
    began_s = time.perf_counter()

    sdk.ask(api.url)

    took_s = time.perf_counter() - began_s
    call = memory.call()
    assert (call.name, call.kind) == (f"chat {MODEL}", SpanKind.CLIENT)
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "assisters",
        "gen_ai.request.model": MODEL,
        "server.address": "127.0.0.1",
        "server.port": api.port,
        CALL: "ok",
        "assisters.retry.count": 0,
        "assisters.retry.wait": 0.0,
        "assisters.request.id": "req_1",
        "gen_ai.response.id": id_of(api.requests[0]),
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 5,
    }
    assert call.status.status_code is StatusCode.UNSET
    assert not call.links
    assert memory.attempt().parent.span_id == call.context.span_id
    points = memory.collect()
    assert points[ATTEMPTS][0]["url.template"] == "/v1/chat/completions"
    for (point,) in (points[CALL_DURATION], points[ATTEMPTS]):
        assert (point["count"], point[CALL]) == (1, "ok")
        assert (point["gen_ai.operation.name"], point["gen_ai.request.model"]) == ("chat", MODEL)
        assert [one.span_id for one in point["exemplars"]] == [call.context.span_id]
    assert 0.05 <= points[CALL_DURATION][0]["sum"] <= took_s
    assert points[ATTEMPTS][0]["sum"] == 1
    assert ERRORS not in points
    assert lines(caplog) == []
    assert telemetry.status().attempts == 1


def test_a_call_that_recovers_has_no_error(api, memory, telemetry, sdk, caplog):
    api.answers("model_overloaded", "internal_error", "ok")

    sdk.ask(api.url)

    call, (_, second, third) = memory.call(), memory.attempts()
    waits = [one.attributes["assisters.retry.delay"] for one in (second, third)]
    assert call.attributes[CALL] == "recovered"
    assert call.attributes["assisters.retry.count"] == 2
    assert call.attributes["assisters.retry.wait"] == pytest.approx(sum(waits), abs=2e-6)
    assert "error.type" not in call.attributes
    assert call.status.status_code is StatusCode.UNSET
    assert numbers(memory) == [0, 1, 2]
    assert memory.point(ATTEMPTS)["sum"] == 3
    assert memory.point(CALL_DURATION)[CALL] == "recovered"
    assert lines(caplog) == []
    assert telemetry.status().errors == 2


def test_a_call_that_fails_says_what_its_last_attempt_met(api, memory, telemetry, sdk, caplog):
    api.answers("internal_error")
    api.answers("insufficient_funds", param="model", request_id="req_9")

    with pytest.raises(openai.APIStatusError) as met:
        sdk.ask(api.url)

    call = memory.call()
    told = {name: call.attributes.get(name) for name in ("error.type", "error.code", "error.param")}
    assert list(told.values()) == ["insufficient_funds_error", "insufficient_funds", "model"]
    assert call.attributes[CALL] == "failed"
    assert call.attributes["assisters.error.retryable"] is False
    assert call.attributes["assisters.request.id"] == "req_9"
    assert call.status.description == "insufficient_funds"
    assert memory.point(CALL_DURATION)["error.code"] == "insufficient_funds"
    explained = assisters_otel.explain(met.value)
    assert (explained.request_id, explained.trace_id) == (
        "req_9",
        f"{call.context.trace_id:032x}",
    )
    (line,) = lines(caplog)
    assert "insufficient_funds on POST /v1/chat/completions, 2 attempts" in line.getMessage()
    assert line.span_id == f"{call.context.span_id:016x}"
    assert telemetry.status().errors == 2


def test_a_call_that_fails_after_a_good_answer_is_no_failed_attempt(
    api, memory, telemetry, sdk, caplog
):
    api.answers(body="no JSON", content_type="application/json", request_id="req_1")

    with pytest.raises(ValueError, match="Expecting value"):
        sdk.ask(api.url)

    call = memory.call()
    assert (call.attributes[CALL], call.attributes["error.type"]) == ("failed", "JSONDecodeError")
    assert call.attributes["assisters.error.retryable"] is False
    assert call.attributes["assisters.request.id"] == "req_1"
    assert call.status.description == "JSONDecodeError"
    assert "error.type" not in memory.attempt().attributes
    assert memory.points(ERRORS) == []
    assert telemetry.status().errors == 0
    assert len(lines(caplog)) == 1


def test_a_call_that_sends_nothing_has_failed_by_its_exception(api, memory, telemetry):
    with (
        assisters.Assisters("ask_k", base_url=api.url, max_retries=0) as client,
        pytest.raises(AssertionError) as met,
    ):
        client.chat.completions.create(**CHAT)

    call = memory.call()
    assert (call.attributes[CALL], call.attributes["error.type"]) == ("failed", "AssertionError")
    assert "assisters.request.id" not in call.attributes
    assert assisters_otel.explain(met.value).trace_id is None
    assert telemetry.status().attempts == 0


@pytest.mark.parametrize(
    ("ask", "name", "said"),
    [
        (lambda at: at.embeddings.create(model="m-1", input="x"), "embeddings m-1",
         ("embeddings", "m-1")),
        (lambda at: at.embeddings.create(model="", input="x"), "embeddings", ("embeddings", None)),
        (lambda at: at.embeddings.create(model=5, input="x"), "embeddings", ("embeddings", None)),
        (lambda at: at.embeddings.create(model=f"m {KEY}", input="x"), "embeddings m REDACTED",
         ("embeddings", "m REDACTED")),
        (lambda at: at.models.list(), "GET /v1/models", (None, None)),
        (lambda at: at.get("/odd", cast_to=object), "GET", (None, None)),
        (lambda at: at.post("/rerank", cast_to=object, body={"model": "r-1"}), "rerank r-1",
         ("rerank", "r-1")),
        (lambda at: at.post("/wallet/top-up", cast_to=object, body={"model": "r-1"}),
         "POST /v1/wallet/top-up", (None, "r-1")),
        (lambda at: at.responses.create(model="r-1", input="x"), "chat r-1", ("chat", "r-1")),
        (lambda at: at.completions.create(model="r-1", prompt="x"), "text_completion r-1",
         ("text_completion", "r-1")),
    ],
)  # fmt: skip
def test_a_call_is_named_after_its_operation_else_its_path(api, memory, telemetry, ask, name, said):
    with of_openai(api) as client, contextlib.suppress(openai.NotFoundError):
        ask(client)

    call = memory.call()
    assert call.name == name
    told = [call.attributes.get(f"gen_ai.{name}") for name in ("operation.name", "request.model")]
    assert tuple(told) == said
    assert call.attributes["gen_ai.provider.name"] == "assisters"
    assert telemetry.status().attempts == 1


@pytest.mark.parametrize("is_watched", [True, False])
def test_a_call_by_a_whole_url_goes_where_that_says(api, memory, telemetry, is_watched):
    """As the next page of a list may be."""
    with FakeApi() as other:
        base, asked = (other, api) if is_watched else (api, other)
        with of_openai(base) as client:
            client.get(url_of(asked, "models"), cast_to=object)

    assert [call.name for call in memory.calls()] == ["GET /v1/models"] * is_watched
    assert telemetry.status().attempts == is_watched


def test_what_a_hook_sends_meanwhile_is_no_attempt_of_the_call(api, memory, telemetry):
    with httpx2.Client() as other:

        def hook(_request):
            other.get(url_of(api, "rate-limit"))

        http = openai.DefaultHttpxClient(event_hooks={"request": [hook]})
        with of_openai(api, http_client=http) as client:
            client.chat.completions.create(**CHAT)

    assert memory.call().attributes["assisters.retry.count"] == 0
    assert numbers(memory) == [0, 0]
    assert telemetry.status().attempts == 2


def test_a_redirect_inside_a_call_is_one_of_its_attempts(api, memory, telemetry, sdk):
    api.answers(redirect=url_of(api, "odd"))
    api.answers("internal_error", "ok")

    sdk.ask(api.url)

    assert numbers(memory) == [0, 1, 2]
    assert {one.parent.span_id for one in memory.attempts()} == {memory.call().context.span_id}
    assert memory.call().attributes["assisters.retry.count"] == 1
    assert [point["value"] for point in memory.points(RETRIES)] == [1]
    assert telemetry.status().attempts == 3


@pytest.mark.parametrize("failing", [False, True])
def test_a_call_without_a_span_is_counted(api, memory, telemetry, sdk, failing, caplog):
    if failing:
        api.answers("api_key_revoked")

    with suppress_instrumentation(), contextlib.suppress(openai.AuthenticationError):
        sdk.ask(api.url)

    assert memory.spans() == []
    assert memory.point(CALL_DURATION).get("error.code") == ("api_key_revoked" if failing else None)
    assert memory.point(ATTEMPTS)["count"] == 1
    assert len(lines(caplog)) == failing
    assert telemetry.status().attempts == 1


AROUND = ["a span of ours", "a GenAI span", "no span of its own"]


@pytest.mark.parametrize("around", AROUND)
def test_a_call_repeated_by_another_thread_under_the_same_span_is_a_resend(
    api, memory, telemetry, parent, around
):
    """Of whatever span the call is in, what counts is the one above it."""
    gen_ai = memory.tracer_provider.get_tracer(GEN_AI)
    api.answers("internal_error")

    def ask(context):
        token = trace.context_api.attach(context)
        inside = contextlib.nullcontext()
        if around == AROUND[1]:
            inside = gen_ai.start_as_current_span("chat")
        elif around == AROUND[2]:
            inside = suppress_instrumentation()
        with inside, of_openai(api) as client, contextlib.suppress(openai.InternalServerError):
            client.chat.completions.create(**CHAT)
        trace.context_api.detach(token)

    with parent():
        context = trace.context_api.get_current()
        for _ in range(2):
            thread = threading.Thread(target=ask, args=(context,))
            thread.start()
            thread.join()
    ask(trace.context_api.Context())

    assert memory.point(RETRIES)["value"] == 1
    assert telemetry.status().attempts == 3
    if around != AROUND[2]:
        calls = [one for one in memory.spans() if CALL in one.attributes]
        first, second, third = calls
        assert numbers(memory) == [0, 1, 0]
        assert second.attributes["assisters.call.resend_count"] == 1
        assert [link.context for link in second.links] == [first.context]
        assert "assisters.call.resend_count" not in {**first.attributes, **third.attributes}
        assert not first.links


# -- somebody else's span around a call ------------------------------------------------------------


def test_a_genai_instrumentation_s_span_is_the_call_s_and_is_not_ended(api, memory, telemetry, sdk):
    tracer = memory.tracer_provider.get_tracer(GEN_AI)
    api.answers("insufficient_funds", request_id="req_1")

    with tracer.start_as_current_span("chat") as span:
        with pytest.raises(openai.APIStatusError):
            sdk.ask(api.url)
        assert span.is_recording()
        span.set_attribute("error.type", "APIStatusError")  # as its maker does, and does it late
        span.set_attribute("gen_ai.request.model", "theirs")

    assert memory.calls() == []
    attempt, theirs = memory.spans()
    assert attempt.parent.span_id == theirs.context.span_id
    assert theirs.attributes[CALL] == "failed"
    assert theirs.attributes["assisters.request.id"] == "req_1"
    assert theirs.attributes["error.type"] == "insufficient_funds_error"
    assert theirs.attributes["error.code"] == "insufficient_funds"
    assert theirs.attributes["gen_ai.request.model"] == "theirs"
    assert theirs.status.status_code is StatusCode.UNSET, "what it says of that is its maker's"
    assert memory.points(CALL_DURATION) == [], "its maker records it"
    assert memory.point(CALL_ATTEMPTS)["error.code"] == "insufficient_funds"
    assert telemetry.status().errors == 1


@pytest.mark.parametrize(
    ("scope", "is_taken"),
    [
        ("opentelemetry.instrumentation.openai.v1", True),
        ("opentelemetry.instrumentation.genai.openai", True),
        ("opentelemetry.util.genai.handler", False),
        ("openinference.instrumentation.openai", True),
        ("logfire.openai", True),
        ("app", False),
    ],
)
def test_only_a_genai_instrumentation_s_span_is_taken_for_the_call_s(
    api, memory, telemetry, scope, is_taken
):
    tracer = memory.tracer_provider.get_tracer(scope)
    with tracer.start_as_current_span("around") as span, of_openai(api) as client:
        client.chat.completions.create(**CHAT)

    assert (CALL in span.attributes) is is_taken
    assert len(memory.calls()) == (not is_taken)
    assert telemetry.status().attempts == 1


def test_a_genai_span_is_taken_once_and_only_while_it_is_open(api, memory, telemetry):
    tracer = memory.tracer_provider.get_tracer(GEN_AI)
    with of_openai(api) as client:
        with tracer.start_as_current_span("around") as span:
            client.models.list()
            client.models.list()
        assert CALL in span.attributes
        assert len(memory.calls()) == 1
        over = tracer.start_span("over")
        over.end()
        with trace.use_span(over):
            client.models.list()

    assert CALL not in over.attributes
    assert len(memory.calls()) == 2
    assert telemetry.status().attempts == 3


def test_a_genai_span_says_from_the_first_event_on_what_holds_if_the_stream_is_dropped(
    api, memory, telemetry, sdk
):
    """Its maker ends it as the stream is collected, when we may write to nothing any more."""
    tracer = memory.tracer_provider.get_tracer(GEN_AI)
    api.answers("internal_error")

    async def script(client):
        with tracer.start_as_current_span("chat") as span:
            stream = await sdk.chat(client, stream=True)
            assert CALL not in span.attributes, "it may be ended as the call returns"
            await sdk.next(stream)
            assert span.attributes[CALL] == "cancelled"
            assert span.attributes[STREAM] == "abandoned"
            assert span.attributes["assisters.retry.count"] == 1
            assert span.attributes["assisters.retry.wait"] >= 0
            await sdk.rest(stream)
        assert span.attributes[CALL] == "recovered"
        assert span.attributes[STREAM] == "completed"
        assert span.attributes[CHUNKS] == 7

    sdk.use(api.url, script)

    assert memory.calls() == []
    assert telemetry.status().attempts == 2


def test_a_stream_that_outlives_its_genai_span_writes_nothing_to_it(
    api, memory, telemetry, sdk, caplog
):
    tracer = memory.tracer_provider.get_tracer(GEN_AI)

    async def script(client):
        with tracer.start_as_current_span("chat") as span:
            stream = await sdk.chat(client, stream=True)
        await sdk.rest(stream)
        return span

    span = sdk.use(api.url, script)

    assert CALL not in span.attributes
    assert [one for one in caplog.records if "ended span" in one.getMessage()] == []
    assert memory.point(CALL_ATTEMPTS)[CALL] == "ok"
    assert telemetry.status().attempts == 1


# -- an event stream outside a call ----------------------------------------------------------------


def read_with(caller, api, read, **options):
    """Open an event stream, read it, and close it."""

    async def script(at):
        options.setdefault("json", STREAMED)
        request = at.client.build_request("POST", url_of(api), **options)
        response = at.client.send(request, stream=True)
        response = await response if caller.run else response
        try:
            await read(at, response)
        finally:
            await at.close(response)

    try:
        caller.use(caller.client(), script)
    except httpx.HTTPError as error:
        return error


async def whole(at, response):
    await at.chunks(response, "iter_raw")


async def one(at, response):
    await at.first(response, "iter_raw")


async def none(_at, _response):
    pass


def test_a_stream_that_completes_has_a_span_of_its_own(api, memory, telemetry, caller, caplog):
    api.answers(chunk_delay_s=0.01, delay_s=0.05, request_id="req_1")
    seen_s = []

    async def timed(_at, response):
        if caller.run:
            seen_s.extend([time.perf_counter() async for _ in response.aiter_raw()])
        else:
            seen_s.extend(time.perf_counter() for _ in response.iter_raw())

    began_s = time.perf_counter()

    read_with(caller, api, timed)

    span, attempt = stream_of(memory), memory.attempt()
    assert span.kind is SpanKind.INTERNAL
    first_s = span.attributes[FIRST]
    assert dict(span.attributes) == {
        "server.address": "127.0.0.1",
        "server.port": api.port,
        "url.template": "/v1/chat/completions",
        "assisters.request.id": "req_1",
        STREAM: "completed",
        CHUNKS: 7,
        FIRST: first_s,
        "gen_ai.response.id": id_of(api.requests[0]),
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert 0.05 <= first_s <= seen_s[0] - began_s
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent.span_id == attempt.context.span_id, "the attempt is a root"
    assert [link.context for link in span.links] == [attempt.context]
    assert span.end_time >= attempt.end_time
    points = memory.collect()
    (point,) = points[FIRST_CHUNK]
    assert (point["count"], point["sum"]) == (1, first_s)
    assert [one.span_id for one in point["exemplars"]] == [span.context.span_id]
    assert "gen_ai.request.model" not in point
    assert {ERRORS, CALL_DURATION}.isdisjoint(points)
    assert telemetry.status().errors == 0
    assert lines(caplog) == []


def test_a_stream_s_span_stands_beside_its_attempt(api, memory, telemetry, caller, parent):
    with parent() as work:
        read_with(caller, api, whole)

    assert stream_of(memory).parent.span_id == work.get_span_context().span_id
    assert telemetry.status().attempts == 1


def test_an_answer_without_a_request_id_has_none_on_any_span(api, memory, telemetry, sdk):
    api.answers(headers={"x-request-id": None}, times=2)

    sdk.ask(api.url, stream=True)
    httpx.post(url_of(api), json=STREAMED)

    assert len(memory.spans()) == 4
    assert not any("assisters.request.id" in span.attributes for span in memory.spans())
    assert telemetry.status().attempts == 2


def test_a_stream_of_an_unknown_path_has_no_template(api, memory, telemetry, caller):
    api.answers(body=b"data: {}\n\n", content_type=EVENTS, status=200)

    caller.send("GET", url_of(api, "odd"))

    assert "url.template" not in stream_of(memory).attributes
    assert stream_of(memory).attributes[CHUNKS] == 1
    assert telemetry.status().attempts == 1


TEXT = b'data: {"choices": []}\n\n'
ERROR = b'data: {"error": {"code": "internal_error", "type": "server_error"}}\n\n'
FAILURES = {
    "an error event": ({"in_stream": "model_overloaded"}, "error", "server_error",
                       "model_overloaded", True, "its stream failed"),
    "one that no retry helps": ({"in_stream": "tokens_exhausted"}, "error",
                                "tokens_exhausted_error", "tokens_exhausted", False,
                                "its stream failed"),
    "one that says nothing": ({"body": [TEXT, b"event: error\ndata: oh\n\n"],
                               "content_type": EVENTS}, "error", "_OTHER", None, False,
                              "its stream failed"),
    "no [DONE]": ({"fault": "unfinished"}, "truncated", "truncated", None, True,
                  "its stream failed"),
    "one before the connection breaks": ({"body": [ERROR, TEXT, TEXT, TEXT], "fault": "truncate",
                                          "content_type": EVENTS}, "error", "server_error",
                                         "internal_error", True, "its stream failed"),
    "a broken connection": ({"fault": "truncate"}, "error", "RemoteProtocolError", None, True,
                            "broke off"),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_a_stream_that_fails_is_described_counted_logged_and_sent_again(
    api, memory, telemetry, caller, failure, caplog
):
    script, outcome, type_, code, retryable, line = FAILURES[failure]
    api.answers(**script, request_id="req_1")

    async def twice(at):
        for _ in range(2):
            request = at.client.build_request("POST", url_of(api), json=STREAMED)
            response = at.client.send(request, stream=True)
            response = await response if caller.run else response
            with contextlib.suppress(httpx.HTTPError):
                await at.chunks(response, "iter_raw")
            await at.close(response)

    caller.use(caller.client(), twice)

    span, fine = streams(memory)
    said = span.attributes
    assert said[STREAM] == outcome
    assert (said["error.type"], said.get("error.code")) == (type_, code)
    assert said["assisters.error.retryable"] is retryable
    assert said["assisters.request.id"] == "req_1"
    assert said[CHUNKS] >= 1
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == (code or type_)
    assert fine.attributes[STREAM] == "completed"
    first, second = memory.attempts()
    assert "error.type" not in first.attributes
    assert second.attributes[COUNT] == 1
    assert second.attributes[REASON] == (code or type_)
    assert second.attributes["assisters.retry.futile"] is (not retryable)
    assert [link.context for link in second.links] == [first.context]
    (point,) = memory.points(ERRORS)
    assert (point["value"], point["http.response.status_code"]) == (1, 200)
    assert (point["error.type"], point.get("error.code")) == (type_, code)
    assert point["assisters.error.retryable"] is retryable
    assert [one.span_id for one in point["exemplars"]] == [span.context.span_id]
    assert [one["count"] for one in memory.points(DURATION)] == [2]
    assert (telemetry.status().attempts, telemetry.status().errors) == (2, 1)
    (record,) = lines(caplog)
    assert line in record.getMessage()
    assert record.span_id == f"{span.context.span_id:016x}"


def test_what_httpx_raises_for_a_broken_stream_is_explained(api, memory, telemetry, caller):
    api.answers(fault="truncate", request_id="req_1")

    with pytest.raises(caller.broken) as met:
        caller.send("POST", url_of(api), json=STREAMED)

    explained = assisters_otel.explain(met.value)
    assert explained.request_id == "req_1"
    assert explained.trace_id == f"{stream_of(memory).context.trace_id:032x}"
    assert telemetry.status().errors == 1


def test_a_stream_that_has_not_failed_explains_nothing(api, telemetry):
    response = httpx.post(url_of(api), json=STREAMED)

    error = httpx.ReadTimeout("another one's", request=response.request)
    assert assisters_otel.explain(error).trace_id is None
    assert telemetry.status().attempts == 1


def test_what_requests_raises_for_a_broken_stream_is_explained(api, memory, telemetry):
    api.answers(fault="truncate", request_id="req_1")
    with requests.Session() as session, pytest.raises(requests.RequestException) as met:
        session.post(url_of(api), json=STREAMED, timeout=60)

    assert assisters_otel.explain(met.value).request_id == "req_1"
    assert stream_of(memory).attributes["error.type"] == "ChunkedEncodingError"
    assert telemetry.status().errors == 1


def test_after_an_error_event_a_resend_is_expected_before_the_stream_is_closed(
    api, memory, telemetry, caller
):
    """Once, however much follows the event, and another one among it."""
    api.answers(body=[TEXT, ERROR, TEXT, ERROR, TEXT], content_type=EVENTS)

    async def script(at):
        request = at.client.build_request("POST", url_of(api), json=STREAMED)
        response = at.client.send(request, stream=True)
        response = await response if caller.run else response
        chunks = response.aiter_raw() if caller.run else response.iter_raw()
        for number in (2, 2, 1):
            for _ in range(number):
                assert await anext(chunks) if caller.run else next(chunks)
            await at.request("POST", url_of(api), json=STREAMED)
        await at.close(response)
        await at.request("POST", url_of(api), json=STREAMED)

    caller.use(caller.client(), script)

    assert numbers(memory) == [0, 1, 0, 0, 0]
    assert memory.attempts()[1].attributes[REASON] == "internal_error"
    assert memory.point(ERRORS)["value"] == 1
    assert telemetry.status().errors == 1


@pytest.mark.parametrize("read", [one, none])
def test_a_stream_that_is_closed_early_was_cancelled(api, memory, telemetry, caller, read, caplog):
    """And what follows is a first: who has had enough has not been refused."""
    api.answers(body=[TEXT] * 3, content_type=EVENTS, chunk_delay_s=0.01, times=2)

    for _ in range(2):
        read_with(caller, api, read)

    for span in streams(memory):
        assert span.attributes[STREAM] == "cancelled"
        assert (span.attributes[CHUNKS] >= 1) is (FIRST in span.attributes) is (read is one)
        assert span.status.status_code is StatusCode.UNSET
    assert numbers(memory) == [0, 0]
    assert [point["count"] for point in memory.points(FIRST_CHUNK)] == ([2] if read is one else [])
    assert memory.points(ERRORS) == []
    assert telemetry.status().errors == 0
    assert lines(caplog) == []


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"body": TEXT, "content_type": "application/json"},
        {"body": TEXT, "content_type": EVENTS, "status": 404},
        {"body": TEXT, "content_type": EVENTS, "redirect": "/v1/models"},
    ],
    ids=str,
)
def test_what_is_no_event_stream_or_no_success_has_no_span_of_its_own(
    api, memory, telemetry, caller, answer
):
    api.answers(**answer)

    caller.send("GET", url_of(api, "models"))

    assert memory.calls() == []
    assert memory.points(FIRST_CHUNK) == []
    assert telemetry.status().attempts == 1


def test_a_stream_without_a_span_is_counted_and_logged(api, memory, telemetry, caller, caplog):
    api.answers(in_stream="internal_error")
    with suppress_instrumentation():
        read_with(caller, api, whole)

    assert memory.spans() == []
    assert memory.point(ERRORS)["error.code"] == "internal_error"
    assert memory.point(FIRST_CHUNK)["count"] == 1
    assert telemetry.status().errors == 1
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize("met_by", ["its sender", "another thread"])
def test_a_stream_s_failure_is_its_sender_s_whoever_reads_it(api, memory, telemetry, met_by):
    api.answers(in_stream="internal_error")
    with httpx.Client() as client, ThreadPoolExecutor(1) as pool:

        def send():
            return client.send(request, stream=True)

        request = client.build_request("POST", url_of(api), json=STREAMED)
        response = send()
        if met_by == "another thread":
            pool.submit(response.read).result()
            pool.submit(lambda: send().read()).result()
        else:
            response.read()
        send().read()

    assert numbers(memory) == ([0, 0, 1] if met_by == "another thread" else [0, 1])
    assert telemetry.status().errors == 1


def test_threads_that_close_one_stream_at_once_end_it_once(api, memory, telemetry):
    def slowly(frame, _event, _arg):
        """Let the other threads come to the same line of ours."""
        if "assisters_otel" in frame.f_code.co_filename:
            time.sleep(0.001)
        return slowly

    with httpx.Client() as client:
        request = client.build_request("POST", url_of(api), json=STREAMED)
        response = client.send(request, stream=True)
        next(response.iter_raw())
        barrier = threading.Barrier(4)

        def close():
            barrier.wait()
            sys.settrace(slowly)
            response.stream.close()
            sys.settrace(None)

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert stream_of(memory).attributes[STREAM] == "cancelled"
    assert memory.point(FIRST_CHUNK)["count"] == 1
    assert telemetry.status().attempts == 1


def test_a_task_that_is_cancelled_in_its_read_has_cancelled_its_stream(api, memory, telemetry):
    api.answers(fault="stall")

    async def main():
        task = asyncio.current_task()

        async def cancel(step, _info):
            if step == "http11.receive_response_body.started":
                asyncio.get_running_loop().call_soon(task.cancel)

        async with httpx.AsyncClient() as client:
            with pytest.raises(asyncio.CancelledError):
                await client.post(url_of(api), json=STREAMED, extensions={"trace": cancel})
            await client.post(url_of(api), json=STREAMED)

    asyncio.run(main())

    assert [one.attributes[STREAM] for one in streams(memory)] == ["cancelled", "completed"]
    assert memory.attempts()[1].attributes[REASON] == "CancelledError"
    assert memory.points(ERRORS) == []
    assert telemetry.status().errors == 0


# -- a stream in a call ----------------------------------------------------------------------------


def test_a_stream_that_completes_is_told_on_its_call(api, memory, telemetry, sdk):
    api.answers("model_overloaded", delay_s=0.05)
    api.answers("ok", request_id="req_2")
    began_s = time.perf_counter()

    sdk.ask(api.url, stream=True)

    took_s = time.perf_counter() - began_s
    (call,) = memory.calls()
    said = call.attributes
    assert (said[CALL], said[STREAM], said[CHUNKS]) == ("recovered", "completed", 7)
    assert said["assisters.request.id"] == "req_2"
    assert 0.05 <= said[FIRST] <= took_s, "the call's, with its first attempt"
    (point,) = memory.points(FIRST_CHUNK)
    assert (point["count"], point["sum"]) == (1, said[FIRST])
    assert point["gen_ai.request.model"] == MODEL
    assert [one.span_id for one in point["exemplars"]] == [call.context.span_id]
    assert said[FIRST] <= memory.point(CALL_DURATION)["sum"] <= took_s
    assert telemetry.status().errors == 1


@pytest.mark.parametrize("failure", FAILURES)
def test_a_stream_that_fails_fails_its_call(api, memory, telemetry, sdk, failure, caplog):
    script, outcome, type_, code, retryable, line = FAILURES[failure]
    api.answers(**script, request_id="req_1")

    try:
        sdk.ask(api.url, stream=True, max_retries=0)
    except (openai.APIError, httpx2.HTTPError, ValueError) as error:
        explained = assisters_otel.explain(error)
        assert (explained.code, explained.request_id) == (code, "req_1")
        assert explained.trace_id == f"{memory.call().context.trace_id:032x}"
    else:
        assert outcome == "truncated"

    call = memory.call()
    said = call.attributes
    if failure == "one that says nothing":  # the SDK cannot read it, and says so
        type_ = said["error.type"]
    assert (said[CALL], said[STREAM]) == ("failed", outcome)
    assert (said["error.type"], said.get("error.code")) == (type_, code)
    assert said["assisters.error.retryable"] is retryable
    assert call.status.description == (code or type_)
    assert "error.type" not in memory.attempt().attributes
    (point,) = memory.points(ERRORS)
    assert (point["value"], point["error.type"], point.get("error.code")) == (1, type_, code)
    assert [one.span_id for one in point["exemplars"]] == [call.context.span_id]
    assert memory.point(CALL_DURATION)[CALL] == "failed"
    assert telemetry.status().errors == 1
    (record,) = lines(caplog)
    assert line in record.getMessage()
    assert record.span_id == f"{call.context.span_id:016x}"


@pytest.mark.parametrize("begun", [True, False])
def test_a_stream_that_is_closed_early_has_cancelled_its_call(
    api, memory, telemetry, sdk, begun, caplog
):
    async def script(client):
        stream = await sdk.chat(client, stream=True)
        if begun:
            await sdk.next(stream)
        assert memory.calls() == []
        await sdk.done(stream.close())

    sdk.use(api.url, script)

    call = memory.call()
    assert (call.attributes[CALL], call.attributes[STREAM]) == ("cancelled", "cancelled")
    assert call.status.status_code is StatusCode.UNSET
    assert memory.point(CALL_DURATION)[CALL] == "cancelled"
    assert memory.points(ERRORS) == []
    assert lines(caplog) == []
    assert telemetry.status().errors == 0


BODIES = {
    "read": ("ok", {}, lambda answer: answer.read()),
    "left unread": ("cancelled", {}, lambda _: None),
    "broken off": ("failed", {"fault": "truncate"}, lambda answer: answer.read()),
}


@pytest.mark.parametrize("body", BODIES)
def test_a_raw_answer_s_call_ends_with_its_body(api, memory, telemetry, body):
    outcome, script, read = BODIES[body]
    api.answers(**script)
    with (
        of_openai(api) as client,
        contextlib.suppress(httpx2.HTTPError, openai.APIError),
        client.chat.completions.with_streaming_response.create(**CHAT) as answer,
    ):
        assert memory.calls() == []
        read(answer)

    said = memory.call().attributes
    assert said[CALL] == outcome
    assert said.get("error.type") == ("RemoteProtocolError" if outcome == "failed" else None)
    assert STREAM not in said
    assert telemetry.status().errors == len(memory.points(ERRORS)) == (outcome == "failed")


def test_a_body_that_breaks_off_inside_a_call_counts_once_and_is_sent_again(
    api, memory, telemetry, sdk
):
    api.answers(fault="truncate", size=5000)

    sdk.ask(api.url)

    first, second = memory.attempts()
    assert "error.type" not in first.attributes
    assert second.attributes[REASON] == "RemoteProtocolError"
    assert second.attributes["assisters.retry.futile"] is False
    assert memory.call().attributes[CALL] == "recovered"
    error = memory.point(ERRORS)
    assert (error["value"], error["http.response.status_code"]) == (1, 200)
    assert error["assisters.error.retryable"] is True
    assert telemetry.status().errors == 1


# -- what nobody ends ------------------------------------------------------------------------------


def forgotten_httpx(api):
    with httpx.Client() as client:
        request = client.build_request("POST", url_of(api), json=STREAMED)
        response = client.send(request, stream=True)
        next(response.iter_raw())
        del response
        gc.collect()


def forgotten_call(api):
    with of_openai(api) as client:
        stream = client.chat.completions.create(**STREAMED)
        next(stream)
        del stream
        gc.collect()


def forgotten_in_a_ring(api):
    """The SDK's generator closes the stream, wherever the collector has been called."""
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        stream = client.chat.completions.create(**STREAMED)
        next(stream)
        ring = [stream]
        ring.append(ring)
        del stream, ring
        gc.collect()


@pytest.mark.parametrize("moment", ["the next attempt", "a flush", "an export", "the shutdown"])
@pytest.mark.parametrize(
    ("forget", "call", "stream"),
    [
        (forgotten_httpx, None, "abandoned"),
        (forgotten_call, "cancelled", "abandoned"),
        (forgotten_in_a_ring, "cancelled", "cancelled"),
    ],
)
def test_what_the_collector_finds_ended_when_it_was_dropped_and_is_there_at_the_next_moment(
    api, memory, telemetry, forget, call, stream, moment, caplog
):
    with collecting_only_when_asked():
        began_ns = time.time_ns()
        forget(api)
        ended_ns = time.time_ns()
        if moment == "the next attempt":
            httpx.get(url_of(api, "models"))
        elif moment == "a flush":
            telemetry.flush()
        elif moment == "an export":
            memory.collect()
        else:
            telemetry.shutdown()

    (span,) = memory.calls()
    assert (span.attributes.get(CALL), span.attributes[STREAM]) == (call, stream)
    assert began_ns <= span.end_time <= ended_ns
    assert span.status.status_code is StatusCode.UNSET
    if call is not None:
        assert memory.point(CALL_DURATION)["sum"] <= (ended_ns - began_ns) / 1e9
    assert memory.points(ERRORS) == []
    assert lines(caplog) == []


@pytest.mark.parametrize("by", ["httpx", "openai"])
def test_what_is_open_at_the_shutdown_is_told_then_and_read_on(api, memory, telemetry, by):
    with httpx.Client() as client, of_openai(api) as sdk:
        if by == "httpx":
            request = client.build_request("POST", url_of(api), json=STREAMED)
            stream = client.send(request, stream=True).iter_raw()
        else:
            stream = sdk.chat.completions.create(**STREAMED)
        next(stream)
        telemetry.shutdown()

        (span,) = memory.calls()
        assert span.attributes[STREAM] == "abandoned"
        assert span.attributes.get(CALL) == (None if by == "httpx" else "cancelled")
        assert len(list(stream)) > 1, "and the caller reads on"
    assert len(memory.calls()) == 1
    assert memory.point(FIRST_CHUNK)["count"] == 1


def test_what_is_over_is_not_held(api, memory, telemetry):
    def held():
        gc.collect()
        modules = (str(type(one).__module__) for one in gc.get_objects())
        return Counter(one for one in modules if one.startswith("assisters_otel"))

    def ask():
        client.chat.completions.create(**CHAT)
        list(client.chat.completions.create(**STREAMED))
        http.post(url_of(api), json=STREAMED)

    with of_openai(api) as client, httpx.Client() as http:
        ask()
        before = held()
        for _ in range(5):
            ask()
        api.reset()  # which keeps what it was asked
        assert held() <= before
    assert len(memory.calls()) == 18
    assert telemetry.status().attempts == 18


# -- begin, end, fork ------------------------------------------------------------------------------


def test_the_collector_is_watched_from_the_first_attempt_to_the_shutdown(api, memory, caller):
    before = gc.callbacks.copy()
    with started(api, memory):
        assert gc.callbacks == before
        for _ in range(2):
            caller.send("GET", url_of(api, "models"))
            assert len(gc.callbacks) == len(before) + 3
    assert gc.callbacks == before

    with started(api, memory):
        pass
    assert gc.callbacks == before


def test_a_storm_is_summed_up_at_the_shutdown(api, memory, caplog, caller):
    api.answers("internal_error", times=7)

    async def script(at):
        for _ in range(7):
            await at.request("GET", url_of(api, "models"))

    with started(api, memory):
        caller.use(caller.client(), script)
        assert len(lines(caplog)) == 5

    assert lines(caplog)[-1].getMessage() == (
        "Assisters API: 2 more met internal_error on GET /v1/models"
    )


@pytest.mark.parametrize("then", ["a collection", "a flush", "nothing"])
def test_the_end_of_a_storm_waits_for_no_other_failure(
    api, memory, caplog, caller, monkeypatch, then
):
    api.answers("internal_error", times=7)

    async def script(at):
        for _ in range(7):
            await at.request("GET", url_of(api, "models"))

    async def succeed(at):
        await at.request("GET", url_of(api, "models"))

    with started(api, memory) as handle:
        caller.use(caller.client(), script)
        # In its window each is silent.
        caller.use(caller.client(), succeed)
        memory.collect()
        handle.flush(5)
        assert len(lines(caplog)) == 5
        monkeypatch.setattr(failure_log, "WINDOW_S", 0.0)
        if then == "a collection":
            memory.collect()
            deadline_s = time.monotonic() + 10
            while len(lines(caplog)) < 6 and time.monotonic() < deadline_s:
                time.sleep(0.01)  # it is written beside the collection
        elif then == "a flush":
            assert handle.flush(5)

        told = [line.getMessage() for line in lines(caplog)[5:]]

    summary = "Assisters API: 2 more met internal_error on GET /v1/models"
    assert told == ([] if then == "nothing" else [summary])
    assert [line.getMessage() for line in lines(caplog)[5:]] == [summary]


def test_a_function_of_ours_that_somebody_has_kept_watches_nothing_after_the_shutdown(
    api, memory, telemetry, monkeypatch
):
    ours = vars(httpx.HTTPTransport)["handle_request"]
    telemetry.shutdown()
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", ours)

    httpx.get(url_of(api, "models"))

    assert memory.spans() == []
    assert telemetry.status().attempts == 0


def test_in_a_child_nobody_sends_before_there_is_something_to_record_in(api, memory, telemetry):
    other, is_renewing, may_go_on, renewed = Memory(), threading.Event(), threading.Event(), []

    def renew():
        is_renewing.set()
        renewed.append(may_go_on.wait())
        telemetry._instrumentation.use_meter_provider(other.meter_provider)

    client = httpx.Client()
    ask = partial(client.get, url_of(api, "models"))
    ask()
    telemetry._instrumentation.forked(renew)
    assert telemetry.status().attempts == 0
    first, second = (threading.Thread(target=ask, daemon=True) for _ in range(2))
    first.start()
    is_renewing.wait()
    second.start()
    until_s = time.monotonic() + 0.3
    while len(api.requests) == 1 and time.monotonic() < until_s:
        time.sleep(0.01)
    sent = len(api.requests) - 1
    may_go_on.set()
    first.join()
    second.join()
    client.close()

    assert sent == 0, "it waits"
    assert renewed == [True]
    assert telemetry.status().attempts == 2
    assert memory.point(DURATION)["count"] == 1
    assert other.point(DURATION)["count"] == 2
    other.shutdown()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_has_nothing_of_its_parent_s(api, memory, telemetry, caplog):
    api.answers("internal_error", times=8)
    with httpx.Client() as client, collecting_only_when_asked():
        for _ in range(7):
            client.post(url_of(api, "embeddings"), json=BODY)
        request = client.build_request("POST", url_of(api), json=STREAMED)
        api.reset()
        open_stream = client.send(request, stream=True).iter_raw()
        next(open_stream)
        forgotten_httpx(api)
        api.answers("internal_error")

        def child():
            memory.clear()
            caplog.clear()
            before = telemetry.status()[-3:]
            httpx.post(url_of(api, "embeddings"), json=BODY)
            telemetry.shutdown()
            return {
                "counted before": before,
                "numbers": numbers(memory),
                "streams": len(streams(memory)),
                "lines": [vars(one)["assisters.failures"] for one in lines(caplog)],
            }

        told = _in_a_child(child)
        list(open_stream)
        telemetry.flush()

    assert told == {
        "counted before": [0, 0, None],
        "numbers": [0],
        "streams": 0,
        "lines": [1],
    }
    ended = sorted(one.attributes[STREAM] for one in streams(memory))
    assert ended == ["abandoned", "completed"]
    assert telemetry.status().attempts == 9


def _in_a_child(act):
    """Fork; give what *act* has returned there."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        told = file.read()
    os.waitpid(pid, 0)
    return json.loads(told)
