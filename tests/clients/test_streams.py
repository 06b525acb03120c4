"""Event streams that end well, badly, early or never, read by real clients."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import sys
import threading
import time
import warnings
import zlib
from contextlib import aclosing

import aiohttp
import assisters
import httpx
import httpx2
import openai
import pydantic
import pytest
import requests
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace

import assisters_otel
from assisters_otel.api.event_stream import EventStreamScanner
from assisters_otel.attempts.attempt import Attempt
from assisters_otel.recording.response_body import ResponseBody
from assisters_otel.testing import FakeApi
from callers import CALLERS, TLS
from memory import Memory

pytestmark = pytest.mark.usefixtures("telemetry")

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "planted-prompt"}]}
EVENTS = "text/event-stream"
TEXT = b'data: {"choices": []}\n\n'
OUTCOME = "assisters.stream.outcome"
CHUNKS = "assisters.stream.chunks"
FIRST = "gen_ai.response.time_to_first_chunk"
ERRORS = "assisters.client.errors"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"


@pytest.fixture(scope="module")
def unwatched():
    with FakeApi() as other:
        yield other


# -- plain clients: a span of its own ---------------------------------------------------------


def url_of(api):
    return f"{api.url}/chat/completions"


def streamed(caller, api, read=None, method="POST", url=None):
    """Send a chat as a stream and read it; what was raised, if anything."""

    async def script(at):
        client = at.client
        body = {"json": {**CHAT, "stream": True}} if method == "POST" else {}
        request = client.build_request(method, url or url_of(api), **body)
        if caller.run:
            response = await client.send(request, stream=True)
            try:
                return await (read or read_async)(response)
            finally:
                await response.aclose()
        response = client.send(request, stream=True)
        try:
            return (read or read_sync)(response)
        finally:
            response.close()

    try:
        return caller.use(caller.client(), script)
    except (httpx.HTTPError, httpx2.HTTPError) as error:
        return error


def read_sync(response):
    return list(response.iter_raw())


async def read_async(response):
    return [chunk async for chunk in response.aiter_raw()]


def stream_of(memory):
    (span,) = [one for one in memory.spans() if one.name == "assisters.stream"]
    return span


def test_a_stream_that_completes_has_a_span_that_says_so(api, memory, caller):
    api.answers("ok", request_id="req_1")

    streamed(caller, api)

    span, attempt = stream_of(memory), memory.attempt()
    assert span.kind is trace.SpanKind.INTERNAL
    assert span.attributes[OUTCOME] == "completed"
    assert span.attributes[CHUNKS] == 7
    assert 0 < span.attributes[FIRST] < 5
    assert span.attributes["assisters.request.id"] == "req_1"
    assert span.attributes["url.template"] == "/v1/chat/completions"
    assert span.status.status_code is trace.StatusCode.UNSET
    assert [link.context.span_id for link in span.links] == [attempt.context.span_id]
    assert span.parent.span_id == attempt.context.span_id, "the attempt is a root"
    points = memory.collect()
    assert ERRORS not in points
    (point,) = points[FIRST_CHUNK]
    assert point["count"] == 1
    assert point["gen_ai.operation.name"] == "chat"
    assert point["assisters.call.outcome"] == "ok"
    assert span.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert point["exemplars"][0].span_id == span.context.span_id


def test_a_stream_of_two_choices_does_not_say_one_s_reason_for_both(api, memory, caller):
    told = [(0, None), (1, None), (0, "stop"), (1, "length")]
    choices = [[{"index": at, "delta": {}, "finish_reason": reason}] for at, reason in told]
    used = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}
    events = [*({"id": "c", "model": "m", "choices": one} for one in choices), used]
    body = [f"data: {json.dumps(one)}\n\n".encode() for one in events] + [b"data: [DONE]\n\n"]
    api.answers(status=200, body=body, content_type="text/event-stream")

    streamed(caller, api)

    said = stream_of(memory).attributes
    assert "gen_ai.response.finish_reasons" not in said
    assert said["gen_ai.usage.output_tokens"] == 7


def test_a_stream_s_span_stands_beside_its_attempt(api, memory, caller):
    tracer = memory.tracer_provider.get_tracer("app")

    with tracer.start_as_current_span("work") as work:
        streamed(caller, api)

    assert stream_of(memory).parent.span_id == work.get_span_context().span_id
    assert work.attributes == {}


FAILURES = {
    "envelope": ({"in_stream": "model_overloaded"}, "error", "server_error",
                 "model_overloaded", True),
    "no retry": ({"in_stream": "tokens_exhausted"}, "error", "tokens_exhausted_error",
                 "tokens_exhausted", False),
    "odd": ({"body": [TEXT, b"event: error\ndata: oh\n\n"], "content_type": EVENTS},
            "error", "_OTHER", None, False),
    "gzip": ({"in_stream": "internal_error", "gzip": True}, "error", "server_error",
             "internal_error", True),
    "truncated": ({"fault": "unfinished"}, "truncated", "truncated", None, True),
    "broken": ({"fault": "truncate"}, "error", "RemoteProtocolError", None, True),
}  # fmt: skip


@pytest.mark.parametrize("failure", FAILURES)
def test_a_stream_that_fails_is_told_counted_and_logged(api, memory, caller, failure, caplog):
    script, outcome, type_, code, retryable = FAILURES[failure]
    api.answers(**script, request_id="req_1")

    streamed(caller, api)

    span = stream_of(memory)
    said = span.attributes
    assert said[OUTCOME] == outcome
    assert (said["error.type"], said.get("error.code")) == (type_, code)
    assert said["assisters.error.retryable"] is retryable
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == (code or type_)
    assert span.events == ()
    assert memory.attempt().status.status_code is trace.StatusCode.UNSET
    point = memory.point(ERRORS)
    assert point["value"] == 1
    assert point["http.response.status_code"] == 200
    assert (point["error.type"], point.get("error.code")) == (type_, code)
    assert point["exemplars"][0].span_id == span.context.span_id
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "req_1" in line
    assert (code or type_) in line
    assert "planted" not in str(said)


def test_a_stream_that_failed_and_is_sent_again_is_a_retry(api, memory, caller):
    async def script(at):
        for _ in range(2):
            response = at.client.post(url_of(api), json={**CHAT, "stream": True})
            await response if caller.run else None

    api.answers(in_stream="model_overloaded")
    caller.use(caller.client(), script)

    first, second = memory.attempts()
    assert second.attributes["assisters.retry.reason"] == "model_overloaded"
    assert second.attributes["assisters.retry.futile"] is False
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


def test_an_agent_s_stream_is_complete_at_its_end(api, memory, caller):
    url = f"{api.url}/agent/stream?prompt=planted-prompt"

    streamed(caller, api, method="GET", url=url)

    assert stream_of(memory).attributes[OUTCOME] == "completed"
    assert "planted" not in str([span.to_json() for span in memory.spans()])


def test_what_is_no_event_stream_has_no_span(api, memory, caller):
    api.answers("ok", "internal_error")
    api.answers("internal_error", content_type=EVENTS)
    for path in ("models", "audio/speech", "models"):
        caller.send("GET", f"{api.url}/{path}")

    assert memory.calls() == []


def test_a_stream_of_another_host_is_not_watched(memory, caller):
    with FakeApi() as other:
        streamed(caller, other)

    assert memory.spans() == []


# -- early ends ------------------------------------------------------------------------------


def one_chunk(response):
    for _ in response.iter_raw():
        break


async def one_chunk_async(response):
    async with aclosing(response.aiter_raw()) as chunks:
        await anext(chunks)


# What trio says of generators that httpx leaves behind is there without us, too: see below.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_that_is_closed_early_was_cancelled(api, memory, caller):
    streamed(caller, api, one_chunk_async if caller.run else one_chunk)

    assert stream_of(memory).attributes[OUTCOME] == "cancelled"
    assert stream_of(memory).attributes[CHUNKS] >= 1
    assert stream_of(memory).status.status_code is trace.StatusCode.UNSET
    assert memory.points(ERRORS) == []


def test_a_stream_that_is_closed_unread_was_cancelled(api, memory, caller):
    async def nothing(_response):
        pass

    streamed(caller, api, nothing if caller.run else lambda _: None)

    said = stream_of(memory).attributes
    assert (said[OUTCOME], said[CHUNKS], FIRST in said) == ("cancelled", 0, False)
    assert memory.points(FIRST_CHUNK) == []


@pytest.mark.parametrize("module", [httpx, httpx2], ids=lambda module: module.__name__)
def test_a_stream_that_is_forgotten_was_abandoned(api, memory, module):
    client = module.Client()
    response = client.send(
        client.build_request("POST", url_of(api), json={**CHAT, "stream": True}), stream=True
    )
    next(response.iter_raw())

    del response
    gc.collect()
    memory.collect()

    # httpx2 closes what its caller drops in the middle; httpx leaves it to the collector.
    told = "abandoned" if module is httpx else "cancelled"
    assert stream_of(memory).attributes[OUTCOME] == told
    client.close()


def test_a_stream_that_is_open_at_the_end_was_abandoned(api, memory, telemetry):
    with httpx.Client() as client:
        request = client.build_request("POST", url_of(api), json={**CHAT, "stream": True})
        response = client.send(request, stream=True)
        chunks = response.iter_raw()
        next(chunks)

        telemetry.shutdown()

        assert stream_of(memory).attributes[OUTCOME] == "abandoned"
        assert len(list(chunks)) == 7, "and the caller reads on"


def test_a_thousand_abandoned_streams_leave_nothing(api, memory):
    def held():
        gc.collect()
        kinds = (EventStreamScanner, ResponseBody, Attempt)
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    before = held()
    with httpx.Client(limits=httpx.Limits(max_connections=None)) as client:
        request = client.build_request("POST", url_of(api), json={**CHAT, "stream": True})
        for number in range(1000):
            response = client.send(request, stream=True)
            if number % 2:
                next(response.iter_raw())
            del response
        gc.collect()
        memory.collect()

        assert held() == before
    streams = [one for one in memory.spans() if one.name == "assisters.stream"]
    assert [one.attributes[OUTCOME] for one in streams] == ["abandoned"] * 1000


def test_a_cancelled_reader_cancels_its_stream(api, memory):
    api.answers(chunk_delay_s=0.2)

    async def whole():
        async with (
            httpx.AsyncClient() as client,
            client.stream("POST", url_of(api), json={**CHAT, "stream": True}) as response,
        ):

            async def read():
                async for _ in response.aiter_raw():
                    pass

            task = asyncio.create_task(read())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(whole())

    assert stream_of(memory).attributes[OUTCOME] == "cancelled"
    assert memory.points(ERRORS) == []


def test_a_stream_may_be_closed_in_another_thread(api, memory, caplog):
    with httpx.Client() as client:
        request = client.build_request("POST", url_of(api), json={**CHAT, "stream": True})
        response = client.send(request, stream=True)
        next(response.iter_raw())
        thread = threading.Thread(target=response.close)
        thread.start()
        thread.join()

    assert stream_of(memory).attributes[OUTCOME] == "cancelled"
    assert "different Context" not in caplog.text


def test_a_stream_may_be_read_and_closed_in_another_task(api, memory, caplog):
    async def whole():
        async with httpx.AsyncClient() as client:
            request = client.build_request("POST", url_of(api), json={**CHAT, "stream": True})
            response = await asyncio.create_task(client.send(request, stream=True))
            await asyncio.create_task(response.aread())
            await asyncio.create_task(response.aclose())

    with caplog.at_level(logging.DEBUG):
        asyncio.run(whole())

    assert stream_of(memory).attributes[OUTCOME] == "completed"
    assert "different Context" not in caplog.text


LONG = [b"x" * 5000] * 40
LEFT_OPEN = 20


@pytest.mark.parametrize(
    ("answer", "chunks"),
    [({}, 1), ({"status": 500}, 1), ({"status": 500}, 30)],
    ids=["a stream", "a failure read ahead", "a failure read on"],
)
def test_trio_says_no_more_of_generators_left_behind_than_without_us(
    api, unwatched, answer, chunks
):
    """httpx2 closes the generators under it: what we put between them has to pass that on."""

    async def read_some(server):
        if answer:
            server.answers(**answer, body=LONG, chunk_delay_s=0.001)
        async with httpx2.AsyncClient(verify=TLS) as client:
            body = {**CHAT, "stream": True}
            async with client.stream("POST", url_of(server), json=body) as response:
                left = chunks
                async for _ in response.aiter_raw():
                    left -= 1
                    if not left:
                        break
            gc.collect()

    def said(server):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trio.run(read_some, server)
            gc.collect()
        return {str(one.message).partition("'")[2].partition("'")[0] for one in caught}

    assert said(api) <= said(unwatched)


@pytest.mark.parametrize("chunks", [1, 30], ids=["read ahead", "read on"])
def test_asyncio_ends_without_a_word_on_failures_that_httpx_has_read_in_part(api, caplog, chunks):
    """At its end asyncio closes each generator by itself, in any order."""
    api.answers(status=500, body=LONG, times=LEFT_OPEN)
    open_ones = []

    async def read_some():
        client = httpx.AsyncClient(verify=TLS)
        for _ in range(LEFT_OPEN):
            request = client.build_request("POST", url_of(api), json={**CHAT, "stream": True})
            response = await client.send(request, stream=True)
            open_ones.append((response, parts := response.aiter_raw()))
            for _ in range(chunks):
                await anext(parts)

    asyncio.run(read_some())

    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


class _Parts:
    """An async iterator that is no generator."""

    def __init__(self, parts):
        self._parts = aiter(parts)

    def __aiter__(self):
        return self

    async def __anext__(self):
        return await anext(self._parts)


@pytest.mark.parametrize("read", [0, 1, 30], ids=["unread", "read ahead", "read on"])
@pytest.mark.parametrize("module", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_a_failure_whose_stream_is_iterated_by_no_generator_may_be_left_at_any_part(
    api, monkeypatch, module, read
):
    """Mocks and transports of an app put their own streams under the client."""
    api.answers(status=500, body=LONG, times=2)
    transports, raised = module._transports.default, []
    original = transports.AsyncResponseStream.__aiter__
    monkeypatch.setattr(
        transports.ResponseStream, "__iter__", lambda stream: map(bytes, stream._httpcore_stream)
    )
    monkeypatch.setattr(
        transports.AsyncResponseStream, "__aiter__", lambda stream: _Parts(original(stream))
    )
    monkeypatch.setattr(sys, "unraisablehook", lambda told: raised.append(told.exc_value))
    with module.Client(verify=TLS) as client:  # noqa: SIM117 - the client closes last
        with client.stream("POST", url_of(api), json=CHAT) as response:
            for _ in zip(range(read), response.iter_raw(), strict=False):
                pass

    async def read_some():
        async with (
            module.AsyncClient(verify=TLS) as client,
            client.stream("POST", url_of(api), json=CHAT) as response,
        ):
            parts = response.aiter_raw()
            for _ in range(read):
                await anext(parts)

    asyncio.run(read_some())
    gc.collect()

    assert raised == []


# -- SDKs: the call's span -------------------------------------------------------------------


def of_openai(api):
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        return list(client.chat.completions.create(**CHAT, stream=True))


def of_openai_async(api):
    async def whole():
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
            stream = await client.chat.completions.create(**CHAT, stream=True)
            return [chunk async for chunk in stream]

    return asyncio.run(whole())


def of_assisters(api):
    with assisters.Assisters("ask_k", base_url=api.url, max_retries=1) as client:
        return list(client.chat.completions.create(**CHAT, stream=True))


SDKS = [of_openai, of_openai_async, of_assisters]


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("failure", [one for one in FAILURES if one != "odd"])
def test_a_failing_stream_fails_its_call(api, memory, sdk, failure, caplog):
    script, outcome, type_, code, retryable = FAILURES[failure]
    api.answers(**script, request_id="req_1")

    try:
        chunks = sdk(api)
    except (openai.OpenAIError, assisters.AssistersAPIError, httpx.HTTPError) as error:
        chunks = error

    call = memory.call()
    said = call.attributes
    assert said["assisters.call.outcome"] == "failed"
    assert said[OUTCOME] == outcome
    assert (said["error.type"], said.get("error.code")) == (type_, code)
    assert said["assisters.error.retryable"] is retryable
    assert said[CHUNKS] >= 1
    assert call.status.description == (code or type_)
    assert memory.point(ERRORS)["value"] == 1
    assert memory.point(ERRORS).get("error.code") == code
    assert memory.point("gen_ai.client.operation.duration")["assisters.call.outcome"] == "failed"
    assert memory.point(FIRST_CHUNK)["gen_ai.request.model"] == "assisters-chat-v1"
    (line,) = [one.getMessage() for one in caplog.records if one.name == "assisters_otel"]
    assert "req_1" in line
    # What the docs say of each SDK: who notices, and what it makes of it.
    if outcome == "truncated":
        assert isinstance(chunks, list)
    elif code and sdk is not of_assisters:
        assert isinstance(chunks, openai.APIError)
    elif code:
        assert chunks[-1]["error"]["code"] == code


@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_that_completes_is_told_on_its_call(api, memory, sdk):
    sdk(api)

    said = memory.call().attributes
    assert said["assisters.call.outcome"] == "ok"
    assert (said[OUTCOME], said[CHUNKS]) == ("completed", 7)
    assert 0 < said[FIRST] < 5


GATEWAYS = {
    "text": "text/plain",
    "JSON": "application/json",
    "bytes": "application/octet-stream",
    "page": "text/html; charset=UTF-8",
    "empty": "",
}
"""The types that gateways give an event stream, in place of its own."""
LAST = b'data: {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'
REFUSED = json.dumps({"error": {"type": "server_error", "code": "internal_error"}}).encode()
ENDS = {
    "done": (TEXT + LAST + b"data: [DONE]\n\n", "ok", "completed", None, 2),
    "nothing is missing": (TEXT + LAST, "ok", "completed", None, 2),
    "half": (TEXT, "failed", "truncated", None, 1),
    "an error": (TEXT + b"data: " + REFUSED + b"\n\n", "failed", "error", "internal_error", 2),
}


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("sent_as", GATEWAYS)
def test_a_stream_that_was_asked_for_is_one_whatever_its_type(api, memory, sdk, end, sent_as):
    """The SDK reads its events all the same. The call had been cancelled, or a success."""
    body, outcome, stream, code, chunks = ENDS[end]
    api.answers(body=body, headers={"content-type": GATEWAYS[sent_as]})

    with contextlib.suppress(openai.OpenAIError):
        sdk(api)

    said = memory.call().attributes
    assert said["assisters.call.outcome"] == outcome
    assert (said[OUTCOME], said.get("error.code"), said[CHUNKS]) == (stream, code, chunks)
    assert 0 < said[FIRST] < 5
    assert len(memory.points(ERRORS)) == (outcome == "failed")


@pytest.mark.parametrize("sdk", SDKS)
@pytest.mark.parametrize("size", [1, 20, 1000])
def test_an_envelope_in_place_of_the_first_event_fails_the_call(api, memory, sdk, size):
    """Gateways begin the stream before they know that there will be none."""
    parts = [REFUSED[at : at + size] for at in range(0, len(REFUSED), size)]
    api.answers(body=parts, content_type=EVENTS)

    sdk(api)

    said = memory.call().attributes
    assert (said["assisters.call.outcome"], said["error.code"]) == ("failed", "internal_error")
    assert memory.point(ERRORS)["error.code"] == "internal_error"
    assert OUTCOME not in said


@pytest.mark.parametrize("sdk", SDKS)
def test_what_a_gateway_answers_in_place_of_a_stream_has_no_stream_outcome(api, memory, sdk):
    api.answers(json={"id": "1", "choices": [], "usage": {"prompt_tokens": 3}})

    sdk(api)

    said = memory.call().attributes
    assert (said["assisters.call.outcome"], said["gen_ai.usage.input_tokens"]) == ("ok", 3)
    assert OUTCOME not in said


def test_time_to_the_first_chunk_counts_a_call_s_retries(api, memory):
    api.answers("rate_limit_exceeded", retry_after=0.3)
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=1) as client:
        list(client.chat.completions.create(**CHAT, stream=True))

    assert memory.call().attributes[FIRST] >= 0.3
    assert memory.call().attributes["assisters.call.outcome"] == "recovered"


def test_a_message_in_a_stream_is_kept_only_if_it_is_asked_for(api, telemetry):
    telemetry.shutdown()
    for wanted in (False, True):
        other = Memory()
        with assisters_otel.init(
            hosts=[api.url],
            tracer_provider=other.tracer_provider,
            meter_provider=other.meter_provider,
            capture_message=wanted,
        ):
            api.answers(in_stream="internal_error", message="planted ask_0123456789")
            with httpx.stream("POST", url_of(api), json={**CHAT, "stream": True}) as response:
                response.read()
        span = stream_of(other)
        other.shutdown()
        assert ("planted" in str(span.attributes)) is wanted
        assert "ask_0" not in str(span.attributes)


# -- neutrality ------------------------------------------------------------------------------

PIECES = st.lists(
    st.sampled_from(
        [
            TEXT,
            b"data: [DONE]\n\n",
            b"data: " + json.dumps({"error": {"code": "internal_error"}}).encode() + b"\r\n\r\n",
            *(b"event: error\n", b"data: x", b"\n", b"\r", b"\xef\xbb\xbf", b": hi\n", b"\xff\x00"),
        ]
    ),
    min_size=1,
    max_size=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    parts=PIECES,
    fault=st.sampled_from([None, "truncate"]),
    gzip=st.booleans(),
    way=st.sampled_from(["iter_raw", "iter_bytes", "iter_lines", "read", "close"]),
)
def test_a_caller_gets_the_same_bytes_in_the_same_chunks(api, unwatched, parts, fault, gzip, way):
    def got(server):
        server.answers(body=parts, content_type=EVENTS, fault=fault, gzip=gzip)
        seen = []
        try:
            with httpx.stream("POST", url_of(server), json=CHAT) as response:
                if way == "read":
                    seen.append(response.read())
                elif way != "close":
                    seen.extend(getattr(response, way)())
        except httpx.HTTPError as error:
            seen.append((type(error), str(error)))
        return seen, response.is_closed, response.is_stream_consumed, response.num_bytes_downloaded

    assert got(api) == got(unwatched)


def test_nothing_is_read_ahead(api, memory, caller):
    """The first chunk is the caller's before the server has sent the second."""
    api.answers(body=[TEXT] * 3, content_type=EVENTS, chunk_delay_s=0.3)
    seen_s = []

    def read(response):
        for _ in response.iter_raw():
            seen_s.append(time.perf_counter())
            assert not any(one.name == "assisters.stream" for one in memory.spans())

    async def read_slowly(response):
        async for _ in response.aiter_raw():
            seen_s.append(time.perf_counter())
            assert not any(one.name == "assisters.stream" for one in memory.spans())

    began_s = time.perf_counter()
    streamed(caller, api, read_slowly if caller.run else read)

    assert len(seen_s) == 3
    assert stream_of(memory).attributes[FIRST] <= seen_s[0] - began_s


def test_the_time_to_the_first_chunk_does_not_wait_for_a_second(api, memory, caller):
    """A comment before it had hidden the first one."""
    api.answers(
        body=[b": keep-alive\n\n", b"data: {}\n\n", b"data: {}\n\n", b"data: [DONE]\n\n"],
        content_type="text/event-stream",
        chunk_delay_s=0.2,
    )

    def read(response):
        return [time.perf_counter() for chunk in response.iter_raw() if b"data" in chunk]

    async def read_slowly(response):
        return [time.perf_counter() async for one in response.aiter_raw() if b"data" in one]

    began_s = time.perf_counter()
    seen_s = streamed(caller, api, read_slowly if caller.run else read)

    stream = stream_of(memory)
    assert stream.attributes[CHUNKS] == 2
    assert 0.1 < stream.attributes[FIRST] <= seen_s[0] - began_s


BROKEN = {
    "no JSON": b"data: {bad json\n\n",
    "no UTF-8": b'data: {"a": "\xff"}\n\n',
    "a long error": b'data: {"error": {"code": "internal_error", "message": "'
    + b"x" * 70_000
    + b'"}}\n\n',
}


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("is_one", [False, True], ids=["in pieces", "in one piece with its end"])
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("ask", [of_openai, of_openai_async])
def test_a_stream_that_an_sdk_cannot_read_has_failed(api, memory, ask, broken, is_one):
    """The SDK closes it as its exception passes: it had been cancelled by the caller."""
    chunk = b'data: {"id": "1", "choices": []}\n\n'
    parts = [chunk, BROKEN[broken], chunk, DONE]
    api.answers(body=[b"".join(parts)] if is_one else parts[:3], content_type=EVENTS)

    with contextlib.suppress(openai.OpenAIError, ValueError):
        ask(api)

    told = memory.call().attributes
    assert told["assisters.call.outcome"] == "failed"
    assert told["assisters.stream.outcome"] == "error"
    assert told["error.type"] in {"JSONDecodeError", "UnicodeDecodeError", "_OTHER", "APIError"}
    assert memory.points("assisters.client.errors")[0]["value"] == 1


def by_httpx(caller, how):
    async def read_decoded(response):
        if how == "read":
            return await response.aread() if caller.run else response.read()
        if caller.run:
            return [part async for part in getattr(response, f"a{how}")()]
        return list(getattr(response, how)())

    def read(response):
        with contextlib.suppress(StopIteration):
            read_decoded(response).send(None)

    return lambda api: streamed(caller, api, read_decoded if caller.run else read)


def by_requests(api):
    return requests.post(url_of(api), json=CHAT, timeout=30).content


def by_requests_in_lines(api):
    with requests.post(url_of(api), json=CHAT, timeout=30, stream=True) as response:
        return list(response.iter_lines())


def by_aiohttp(api):
    async def whole():
        async with (
            aiohttp.ClientSession() as session,
            session.post(url_of(api), json=CHAT) as response,
        ):
            return [part async for part in response.content.iter_any()]

    return asyncio.run(whole())


DECODERS = {
    **{
        f"{caller}, {how}": by_httpx(caller, how)
        for caller in CALLERS
        for how in ("iter_bytes", "iter_lines", "read")
    },
    "requests": by_requests,
    "requests, lines": by_requests_in_lines,
    "aiohttp": by_aiohttp,
    "openai": of_openai,
    "openai async": of_openai_async,
    "assisters": of_assisters,
}
FAILED = (
    openai.OpenAIError,
    assisters.AssistersAPIError,
    httpx.HTTPError,
    requests.RequestException,
    aiohttp.ClientError,
)
UNDECODABLE = {"DecodingError", "ContentDecodingError", "ClientPayloadError"}


@pytest.mark.parametrize("is_of_another", [True, False], ids=["another answer's", "no answer's"])
@pytest.mark.parametrize("caller", CALLERS)
def test_an_answer_that_the_app_cannot_decode_meanwhile_closes_the_stream(
    api, memory, caller, is_of_another
):
    """By the exception's class alone it was this stream's, which had failed."""
    error = caller.module.DecodingError("the app's own")
    if is_of_another:
        error.request = caller.module.Request("GET", "http://other.example/")

    def read(_):
        raise error

    async def read_later(_):
        raise error

    assert streamed(caller, api, read_later if caller.run else read) is error

    said = stream_of(memory).attributes
    assert (said[OUTCOME], "error.type" in said) == ("cancelled", False)


# Trio tells of httpx's generators that its exceptions leave open, with us and without.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_stream_that_the_client_cannot_decode_has_failed(api, memory, decoder, is_late):
    """It had been cancelled with httpx, and so with its SDKs."""
    parts = [b"data: {}\n\n", TEXT, TEXT]
    if is_late:
        compress = zlib.compressobj(wbits=31)
        parts[0] = compress.compress(TEXT) + compress.flush(zlib.Z_SYNC_FLUSH)
        parts[1] = b"\xff" * 100
    headers = {"content-type": EVENTS, "content-encoding": "gzip"}
    api.answers(body=parts, headers=headers, chunk_delay_s=0.02)

    with contextlib.suppress(*FAILED):
        assert isinstance(DECODERS[decoder](api), Exception)

    (told,) = [one for one in memory.spans() if OUTCOME in one.attributes]
    assert told.attributes[OUTCOME] == "error"
    assert told.attributes["error.type"] in UNDECODABLE
    assert told.attributes["assisters.error.retryable"] is False
    assert told.attributes.get("assisters.call.outcome") in {"failed", None}
    assert memory.point(ERRORS)["error.type"] in UNDECODABLE


def test_a_repeat_of_a_stream_that_an_sdk_cannot_read_is_not_called_futile(api, memory):
    api.answers(body=[BROKEN["no JSON"]], content_type=EVENTS)
    with contextlib.suppress(ValueError):
        of_openai(api)
    of_openai(api)

    told = memory.attempts()[1].attributes
    assert told["assisters.retry.reason"] == "JSONDecodeError"
    assert told["assisters.retry.futile"] is False


@pytest.mark.parametrize("is_one", [False, True], ids=["in pieces", "in one piece"])
def test_a_chat_that_the_helper_cannot_put_together_has_failed(api, memory, is_one):
    class Answer(pydantic.BaseModel):
        number: int

    if is_one:
        delta = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
        chat = {"id": "1", "object": "chat.completion.chunk", "choices": [delta]}
        api.answers(body=[b"data: %s\n\n" % json.dumps(chat).encode() + DONE], content_type=EVENTS)
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k") as client,
        contextlib.suppress(ValueError),
        client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "x"}], response_format=Answer
        ) as stream,
    ):
        list(stream)

    told = memory.call().attributes
    assert told["assisters.call.outcome"] == "failed"
    assert told["error.type"] in {"ValueError", "ValidationError"}


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("how", ["in the caller's with", "in the caller's handler"])
def test_an_exception_of_the_caller_s_own_cancels_the_stream(api, memory, how):
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        chat = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
        if how == "in the caller's with":
            with (
                contextlib.suppress(KeyError),
                client.chat.completions.create(**chat) as stream,
            ):
                next(stream)
                raise KeyError
        else:
            api.answers("invalid_model")
            try:
                client.models.list()
            except openai.BadRequestError:
                stream = client.chat.completions.create(**chat)
                next(stream)
                stream.close()

    told = memory.calls()[-1].attributes
    assert told["assisters.call.outcome"] == "cancelled"
    assert told["assisters.stream.outcome"] == "cancelled"


@pytest.mark.usefixtures("telemetry")
def test_a_stream_read_inside_another_one_s_with_fails_alone(api, memory):
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        api.answers("ok")
        api.answers(body=[b"data: {bad json\n\n"], content_type="text/event-stream")
        with (
            contextlib.suppress(ValueError),
            client.chat.completions.stream(**chat) as outer,
        ):
            next(outer)
            with client.chat.completions.stream(**chat) as inner:
                list(inner)

    told = [call.attributes["assisters.call.outcome"] for call in memory.calls()]
    assert sorted(told) == ["cancelled", "failed"]
    assert memory.points("assisters.client.errors")[0]["value"] == 1
