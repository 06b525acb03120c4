"""aiohttp over a real socket: what its attempts say, and that the app cannot tell."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import logging
import sys
import warnings
import weakref
from contextlib import asynccontextmanager, suppress
from http.cookies import SimpleCookie
from unittest import mock

import aiohttp
import httpx
import httpx2
import pytest
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.connector import BaseConnector
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp_retry import ExponentialRetry, RetryClient
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict, CIMultiDictProxy
from openai import (
    APIConnectionError,
    AsyncOpenAI,
    DefaultAioHttpClient,
    OpenAIError,
    RateLimitError,
)
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.aiohttp_client import (
    AioHttpClientInstrumentor,
    create_trace_config,
)
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import StatusCode

import assisters_otel
from assisters_otel import catalog
from assisters_otel.testing import FakeApi
from memory import Memory

DURATION = "assisters.client.request.duration"
ERRORS = "assisters.client.errors"
RETRIES = "assisters.client.retries"
CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(params=["by us", "by the app before us", "by the app after us", "by the session"])
def watched(request, api, memory):
    """Whoever switches the HTTP instrumentation on, what is seen is the same."""
    options = {
        "tracer_provider": memory.tracer_provider,
        "meter_provider": memory.meter_provider,
    }
    theirs = AioHttpClientInstrumentor()
    if request.param == "by the app before us":
        theirs.instrument(**options)
    with assisters_otel.init(hosts=[api.url], strict=True, **options):
        if request.param == "by the app after us":
            theirs.instrument(**options)
        own = [create_trace_config(**options)] if request.param == "by the session" else []

        @asynccontextmanager
        async def open_session(**more):
            async with aiohttp.ClientSession(trace_configs=own, **more) as session:
                yield session

        yield open_session
        if theirs.is_instrumented_by_opentelemetry:
            theirs.uninstrument()


def attributes_of(span):
    return dict(span.attributes)


# -- what is seen --------------------------------------------------------------------------------


def test_every_documented_error_is_on_its_span_and_in_both_metrics(api, memory, watched):
    async def main():
        async with watched() as session:
            for error in catalog.ERRORS:
                api.answers(error.code, param="model", request_id="req_1")
                body = {"n": error.code}
                async with session.post(f"{api.url}/chat/completions", json=body) as response:
                    assert (await response.json())["error"]["code"] == error.code

    asyncio.run(main())

    assert len(memory.attempts()) == 15
    for error, span in zip(catalog.ERRORS, memory.attempts(), strict=True):
        said = span.attributes
        assert span.name == "POST /v1/chat/completions"
        assert (said["error.type"], said["error.code"]) == (error.type, error.code)
        assert said["error.param"] == "model"
        assert said["assisters.error.retryable"] is error.retryable
        assert said["assisters.request.id"] == "req_1"
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, error.code)
        assert not span.events
    points = memory.collect()
    for name in (DURATION, ERRORS):
        assert {point["error.code"] for point in points[name]} == {e.code for e in catalog.ERRORS}
        for point in points[name]:
            ids = {span.context.span_id for span in memory.attempts()}
            assert {one.span_id for one in point["exemplars"]} <= ids


def test_a_session_made_before_us_is_watched_as_well(api, memory):
    async def main():
        async with aiohttp.ClientSession() as session:
            with assisters_otel.init(
                hosts=[api.url],
                tracer_provider=memory.tracer_provider,
                meter_provider=memory.meter_provider,
                strict=True,
            ):
                AioHttpClientInstrumentor().instrument(tracer_provider=memory.tracer_provider)
                try:
                    await (await session.get(f"{api.url}/models")).read()
                finally:
                    AioHttpClientInstrumentor().uninstrument()
            await (await session.get(f"{api.url}/models")).read()

    asyncio.run(main())

    assert memory.attempt().name == "GET /v1/models"


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("named", [0, 1, 2])
def test_a_session_of_the_app_s_may_name_its_arguments(api, memory, named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # aiohttp's, of each such class

        class Session(aiohttp.ClientSession):
            async def _request(self, *args, **more):
                at = len(args) - named
                more |= dict(zip(["method", "str_or_url"][at:], args[at:], strict=True))
                return await super()._request(*args[:at], **more)

    async def ask():
        async with Session() as session, session.get(f"{api.url}/models") as response:
            return await response.read()

    asyncio.run(ask())

    assert len(memory.attempts()) == 1


@pytest.mark.parametrize("mode", ["", "http", "http/dup"])
def test_in_every_convention_mode_ours_is_what_is_exported(api, memory, monkeypatch, mode):
    from opentelemetry.instrumentation._semconv import _OpenTelemetrySemanticConventionStability

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", mode)
    monkeypatch.setattr(_OpenTelemetrySemanticConventionStability, "_initialized", False)
    api.answers("insufficient_funds")
    theirs = AioHttpClientInstrumentor()
    theirs.instrument(tracer_provider=memory.tracer_provider)
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ):
        asyncio.run(_get(f"{api.url}/models"))
    theirs.uninstrument()

    said = attributes_of(memory.attempt())
    assert said["error.type"] == "insufficient_funds_error"
    url = f"{api.url}/models"
    assert (said.get("url.full") == url) == bool(mode)


async def _get(url, **options):
    async with aiohttp.ClientSession() as session, session.get(url, **options) as response:
        return await response.read()


@pytest.mark.parametrize("answer", [{}, {"gzip": True}, {"chunked": True},
                                    {"chunked": True, "gzip": True}])  # fmt: skip
@pytest.mark.parametrize("unpacks", [True, False])
def test_an_envelope_is_read_in_every_form(api, memory, watched, answer, unpacks):
    api.answers("insufficient_funds", **answer)

    async def main():
        async with (
            watched(auto_decompress=unpacks) as session,
            session.get(f"{api.url}/models") as response,
        ):
            return await response.read()

    body = asyncio.run(main())

    assert memory.attempt().attributes["error.code"] == "insufficient_funds"
    assert (b"insufficient_funds" in body) == (unpacks or "gzip" not in answer)


def test_the_session_s_own_raise_for_status_comes_after_the_envelope(api, memory, watched):
    api.answers("insufficient_funds", chunk_delay_s=0.05)

    async def main():
        async with watched(raise_for_status=True) as session:
            await session.get(f"{api.url}/agent/stream?prompt=planted")

    with pytest.raises(aiohttp.ClientResponseError) as raised:
        asyncio.run(main())

    span = memory.attempt()
    assert span.attributes["error.code"] == "insufficient_funds"
    assert span.status.description == "insufficient_funds"
    assert "planted" not in span.to_json()
    told = assisters_otel.explain(raised.value)
    assert (told.code, told.status) == ("insufficient_funds", 402)
    assert told.trace_id == trace.format_trace_id(span.context.trace_id)


async def raise_for_status_itself(response):
    if response.status >= 400:
        raise aiohttp.ClientResponseError(response.request_info, (), status=response.status)


@pytest.mark.parametrize(
    ("answer", "options", "told"),
    [
        (
            {"code": "insufficient_funds"},
            {"raise_for_status": raise_for_status_itself},
            ("insufficient_funds", 402),
        ),
        ({"redirect": "/v1/models", "times": 3}, {"max_redirects": 2}, (None, 307)),
    ],
    ids=["the app's own function", "too many redirects"],
)
def test_what_a_session_raises_of_its_last_answer_is_explained(
    api, memory, watched, answer, options, told
):
    api.answers(**answer)

    async def main():
        async with watched() as session:
            await session.get(f"{api.url}/models", **options)

    with pytest.raises(aiohttp.ClientResponseError) as raised:
        asyncio.run(main())

    explained = assisters_otel.explain(raised.value)
    assert (explained.code, explained.status) == told
    span = memory.attempts()[-1]
    assert explained.trace_id == trace.format_trace_id(span.context.trace_id)
    assert explained.request_id == span.attributes["assisters.request.id"]


def test_a_connection_that_aiohttp_finds_stale_is_an_attempt_of_its_own(api, memory, watched):
    api.answers("ok")
    api.answers(fault="drop")
    api.answers("ok")

    async def main():
        async with watched() as session:
            for _ in range(2):
                async with session.get(f"{api.url}/models") as response:
                    assert response.status == 200

    asyncio.run(main())

    assert len(api.requests) == 3
    again = memory.attempts()[-1]  # OpenTelemetry's instrumentation makes one for both
    assert again.attributes["http.request.resend_count"] == 1
    assert again.attributes["assisters.retry.reason"] == "ServerDisconnectedError"
    assert again.status.status_code is StatusCode.UNSET
    assert "error.type" not in again.attributes
    points = memory.collect()
    assert sum(point["count"] for point in points[DURATION]) == 3
    assert [point["error.type"] for point in points[ERRORS]] == ["ServerDisconnectedError"]


@pytest.mark.parametrize("fault", ["drop", "garbage", "a refused connection"])
def test_an_attempt_without_an_answer_is_described_before_its_span_ends(
    api, memory, watched, fault
):
    if fault == "a refused connection":
        api.stop()
    else:
        api.answers(fault=fault)

    async def main():
        async with watched() as session:
            await session.post(f"{api.url}/embeddings", json={"input": "x"})

    with pytest.raises(aiohttp.ClientError) as raised:
        asyncio.run(main())

    told = memory.attempt().attributes
    assert told["error.type"] == type(raised.value).__qualname__
    assert told["assisters.error.retryable"] is True


def test_a_time_out_of_the_whole_is_no_cancellation(api, memory, watched):
    api.answers(fault="silence")

    async def main():
        async with watched() as session:
            await session.get(f"{api.url}/models", timeout=aiohttp.ClientTimeout(total=0.2))

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())

    assert memory.attempt().attributes["error.type"] == "TimeoutError"
    assert memory.attempt().attributes["assisters.error.retryable"] is True
    assert memory.point(ERRORS)["error.type"] == "TimeoutError"


def test_a_connection_that_takes_too_long_has_the_name_that_the_app_sees(memory, watched, api):
    class Slow(aiohttp.TCPConnector):
        async def _create_connection(self, *_args, **_kwargs):
            await asyncio.sleep(5)

    async def main():
        async with watched(connector=Slow()) as session:
            timeout = aiohttp.ClientTimeout(connect=0.1)
            await session.get(f"{api.url}/agent/stream?prompt=planted", timeout=timeout)

    with pytest.raises(aiohttp.ConnectionTimeoutError, match="planted"):
        asyncio.run(main())

    assert memory.attempt().attributes["error.type"] == "ConnectionTimeoutError"
    assert "planted" not in memory.attempt().to_json()


def test_a_cancelled_attempt_is_in_the_durations_and_not_an_error(api, memory, watched):
    api.answers(fault="silence")

    async def main():
        async with watched() as session:
            await asyncio.wait_for(session.get(f"{api.url}/models"), 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())

    assert memory.point(DURATION)["error.type"] == "CancelledError"
    assert not memory.points(ERRORS)


def test_an_app_s_loop_is_seen_as_retries(api, memory, watched):
    api.answers("rate_limit_exceeded", "model_overloaded", retry_after=30)

    async def main():
        async with watched() as session:
            for _ in range(3):
                async with session.post(f"{api.url}/embeddings", json={"input": "same"}):
                    pass

    asyncio.run(main())

    told = [span.attributes.get("http.request.resend_count") for span in memory.attempts()]
    assert told == [None, 1, 2]
    last = memory.attempts()[-1]
    assert last.attributes["assisters.retry.reason"] == "model_overloaded"
    assert last.attributes["assisters.retry.early"] is True
    assert [link.context for link in last.links] == [memory.attempts()[1].context]


def test_aiohttp_retry_s_attempts_are_retries(api, memory, watched):
    api.answers("rate_limit_exceeded", "model_overloaded", retry_after=0)

    async def main():
        async with watched() as session:
            options = ExponentialRetry(3, start_timeout=0.01, statuses={429})
            client = RetryClient(session, retry_options=options)
            async with client.post(f"{api.url}/embeddings", json={"input": "same"}) as response:
                return response.status

    assert asyncio.run(main()) == 200
    told = [span.attributes.get("assisters.retry.reason") for span in memory.attempts()]
    assert told == [None, "rate_limit_exceeded", "model_overloaded"]
    assert memory.attempts()[-1].attributes["http.request.resend_count"] == 2


def test_what_a_middleware_sends_again_is_a_retry(api, memory, watched):
    async def again(request, handler):
        response = await handler(request)
        while response.status == 503:
            response.release()
            response = await handler(request)
        return response

    api.answers("model_overloaded", times=2)

    async def main():
        async with (
            watched(middlewares=[again]) as session,
            session.post(f"{api.url}/embeddings", json={"input": "x"}) as response,
        ):
            return response.status

    assert asyncio.run(main()) == 200
    *before, span = memory.attempts()  # OpenTelemetry's instrumentation makes one for all
    assert span.attributes["http.request.resend_count"] == 2
    assert span.attributes["assisters.retry.reason"] == "model_overloaded"
    assert span.status.status_code is StatusCode.UNSET
    linked = [link.context.span_id for link in span.links]
    assert linked == [one.context.span_id for one in before[-1:]], "none to itself"
    assert memory.point(ERRORS)["value"] == 2


def test_a_redirect_from_another_host_is_an_attempt_and_none_of_its_span(
    request, api, memory, watched
):
    api.answers("internal_error", fault=None)

    async def main(other):
        url = f"http://localhost:{other.port}/v1/models"
        other.answers(redirect=f"{api.url}/models")
        async with watched() as session, session.get(url) as response:
            assert response.status == 500
        other.answers(redirect=f"{api.url}/models")
        api.answers(fault="garbage")
        async with watched() as session:
            await session.get(url)

    with FakeApi() as other, pytest.raises(aiohttp.ClientResponseError):
        asyncio.run(main(other))

    kinds = [point["error.type"] for point in memory.points(ERRORS)]
    assert sorted(kinds) == ["ClientResponseError", "server_error"]
    told = [s.name for s in memory.attempts() if "error.code" in s.attributes]
    # The app's own span is around the whole of it, and tells of the other host.
    assert told == ["GET /v1/models"] * ("by us" in request.node.name)


@pytest.mark.usefixtures("telemetry")
def test_a_stream_behind_a_redirect_from_another_host_is_read_as_the_client_decodes_it(api, memory):
    async def main(other):
        other.answers(redirect=f"{api.url}/chat/completions")
        api.answers(in_stream="model_overloaded", gzip=True)
        async with aiohttp.ClientSession() as session:
            url = f"http://localhost:{other.port}/v1/chat/completions"
            async with session.post(url, json={**CHAT, "stream": True}) as response:
                assert response.headers["Content-Encoding"] == "gzip"
                await response.read()

    with FakeApi() as other:
        asyncio.run(main(other))

    (span,) = (span for span in memory.spans() if span.name == "assisters.stream")
    assert span.attributes["error.code"] == "model_overloaded"


# -- whose requests, whose spans -----------------------------------------------------------------


@pytest.mark.usefixtures("telemetry")
def test_another_host_gets_no_span_no_header_and_no_frame(api, memory):
    async def main(other):
        async with aiohttp.ClientSession() as session:
            api.answers(redirect=f"{other.url}/models")
            async with session.get(f"{api.url}/models") as response:
                (first,) = response.history
                assert "traceparent" not in first.request_info.headers
            async with session.get(f"{other.url}/models"):
                pass
            sending = session._request("GET", f"{other.url}/models")
            assert "assisters_otel" not in sending.cr_code.co_filename
            (await sending).close()

    with FakeApi() as other:
        asyncio.run(main(other))
        assert all("traceparent" not in one.headers for one in other.requests)
    assert "traceparent" in api.requests[0].headers
    assert len(memory.attempts()) == 1


@pytest.mark.usefixtures("telemetry")
def test_the_app_s_own_headers_are_the_same_afterwards(api):
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    mine = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

    async def main():
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{api.url}/models") as response:
                assert "traceparent" not in response.request_info.headers
            async with session.get(f"{api.url}/models", headers=mine) as response:
                assert response.request_info.headers["traceparent"] == mine["traceparent"]
            async with session.get(f"{api.url}/models", headers={"baggage": "mine=1"}):
                pass

    try:
        asyncio.run(main())
    finally:
        context.detach(token)

    first, second, third = api.requests
    assert "traceparent" in first.headers
    assert "baggage" not in first.headers
    assert second.headers["traceparent"] != mine["traceparent"], "as OpenTelemetry alone"
    assert third.headers["baggage"] == "mine=1"


def test_the_app_s_own_span_is_never_written_to(api, memory, watched):
    api.answers("rate_limit_exceeded", times=2)
    tracer = memory.tracer_provider.get_tracer("app")

    async def main():
        with tracer.start_as_current_span("work", kind=trace.SpanKind.CLIENT) as span:
            before = span.to_json()
            async with watched() as session:
                await (await session.get(f"{api.url}/models")).read()
                with suppress_instrumentation():
                    await (await session.get(f"{api.url}/models")).read()
            assert trace.get_current_span() is span
            assert span.to_json() == before

    asyncio.run(main())

    assert len(memory.attempts()) == 1
    assert memory.point(ERRORS)["value"] == 2


def test_shutdown_puts_the_very_same_functions_back(api):
    def functions():
        return (
            aiohttp.ClientSession._request,
            BaseConnector.connect,
            ClientRequest.send,
            ClientResponse.start,
            ClientResponse.raise_for_status,
        )

    before = functions()
    with assisters_otel.init(hosts=[api.url], tracer_provider=Memory().tracer_provider):
        assert not set(functions()) & set(before)
        for ours, theirs in zip(functions(), before, strict=True):
            assert inspect.signature(ours) == inspect.signature(theirs)
            is_one = asyncio.iscoroutinefunction
            assert is_one(ours) == is_one(theirs), "a mock asks"
    assert functions() == before


def test_no_instrumentation_need_be_installed_for_a_span(api, memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.aiohttp_client", None)
    api.answers("insufficient_funds")
    with assisters_otel.init(
        hosts=[api.url],
        tracer_provider=memory.tracer_provider,
        meter_provider=memory.meter_provider,
        strict=True,
    ) as telemetry:
        assert b"insufficient_funds" in asyncio.run(_get(f"{api.url}/models"))
        by = {client.name: client.http_spans_by for client in telemetry.status().clients}

    assert memory.attempt().attributes["error.code"] == "insufficient_funds"
    assert memory.point(ERRORS)["error.code"] == "insufficient_funds"
    assert by["aiohttp"] == "assisters_otel"


@pytest.mark.usefixtures("telemetry")
def test_what_the_session_refuses_it_refuses_in_its_own_words(api, memory, caplog):
    async def main():
        async with aiohttp.ClientSession() as session:
            for wrong in ("http://", "nonsense://host", f"http://127.0.0.1:{api.port}:7/x", None):
                with pytest.raises((aiohttp.ClientError, TypeError, ValueError)):
                    await session.get(wrong)
        with pytest.raises(RuntimeError, match="Session is closed"):
            await (await session.get(f"{api.url}/models")).read()

    asyncio.run(main())

    assert memory.spans() == []
    assert "trouble of our own" not in caplog.text


# -- event streams -------------------------------------------------------------------------------

READS_STREAM = {
    "lines": lambda r: _all(r.content),
    "any": lambda r: _all(r.content.iter_any()),
    "chunked": lambda r: _all(r.content.iter_chunked(7)),
    "chunks": lambda r: _all(r.content.iter_chunks()),
    "text": lambda r: r.text(),
}


async def _all(chunks):
    return [chunk async for chunk in chunks]


def test_a_stream_that_was_read_to_its_end_is_completed(api, memory, watched):
    async def main():
        async with watched() as session:
            for read in READS_STREAM.values():
                body = {**CHAT, "stream": True}
                async with session.post(f"{api.url}/chat/completions", json=body) as response:
                    await read(response)
                    assert type(response.content) is aiohttp.StreamReader

    asyncio.run(main())

    streams = [span for span in memory.spans() if span.name == "assisters.stream"]
    assert len(streams) == len(READS_STREAM)
    for span in streams:
        assert span.attributes["assisters.stream.outcome"] == "completed"
        assert span.attributes["assisters.stream.chunks"] == 7
        assert 0 < span.attributes["gen_ai.response.time_to_first_chunk"] < 5
    points = memory.points("gen_ai.client.operation.time_to_first_chunk")
    assert [point["count"] for point in points] == [len(READS_STREAM)]


@pytest.mark.parametrize(
    ("answer", "outcome", "error"),
    [
        ({"in_stream": "model_overloaded"}, "error", "server_error"),
        ({"fault": "unfinished"}, "truncated", "truncated"),
        ({"fault": "truncate"}, "error", "ClientPayloadError"),
        ({"fault": "truncate", "gzip": True}, "error", "ClientPayloadError"),
        ({"gzip": True}, "completed", None),
        ({"fault": "stall"}, "error", "TimeoutError"),
    ],
    ids=str,
)
def test_a_stream_that_fails_after_its_200_says_how(api, memory, watched, answer, outcome, error):
    api.answers(**answer)

    async def main():
        async with watched() as session:
            timeout = aiohttp.ClientTimeout(total=0.3 if "stall" in str(answer) else 5)
            url = f"{api.url}/chat/completions"
            async with session.post(url, json={**CHAT, "stream": True}, timeout=timeout) as got:
                try:
                    await _all(got.content)
                except (aiohttp.ClientError, asyncio.TimeoutError) as raised:
                    return raised, assisters_otel.explain(got)
        return None, None

    raised, told = asyncio.run(main())

    (span,) = (span for span in memory.spans() if span.name == "assisters.stream")
    assert span.attributes["assisters.stream.outcome"] == outcome
    assert span.attributes.get("error.type") == error
    assert (raised is None) == (error in {None, "server_error", "truncated"})
    assert len(memory.points(ERRORS)) == (error is not None)
    if raised is not None:
        assert told.retryable is True
        assert told.status == 200


def test_a_stream_closed_early_is_cancelled_and_one_dropped_is_abandoned(api, memory, watched):
    async def main():
        async with watched() as session:
            body = {**CHAT, "stream": True}
            api.answers(chunk_delay_s=0.05)
            async with session.post(f"{api.url}/chat/completions", json=body) as response:
                await response.content.readline()
            api.answers(chunk_delay_s=0.05)
            response = await session.post(f"{api.url}/chat/completions", json=body)
            gone = weakref.ref(response)
            await response.content.readline()
            del response  # the connection knows it until the session is closed
        gc.collect()
        assert gone() is None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # aiohttp says so too
        asyncio.run(main())
    memory.collect()

    outcomes = [
        span.attributes["assisters.stream.outcome"]
        for span in memory.spans()
        if span.name == "assisters.stream"
    ]
    assert outcomes == ["cancelled", "abandoned"]
    assert not memory.points(ERRORS)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (aiohttp.ClientConnectionError("Connection closed"), "cancelled"),
        (aiohttp.ClientConnectionError("Failed to send bytes"), "error"),
        (aiohttp.ClientPayloadError("Connection closed"), "error"),
    ],
    ids=repr,
)
@pytest.mark.usefixtures("telemetry")
def test_what_aiohttp_raises_for_a_close_alone_is_a_cancelled_stream(api, memory, error, outcome):
    api.answers(chunk_delay_s=0.05)

    async def main():
        async with aiohttp.ClientSession() as session:
            body = {**CHAT, "stream": True}
            async with session.post(f"{api.url}/chat/completions", json=body) as response:
                await response.content.readline()
                response.content.set_exception(error)

    asyncio.run(main())

    (stream,) = (span for span in memory.spans() if span.name == "assisters.stream")
    assert stream.attributes["assisters.stream.outcome"] == outcome


def test_a_cancelled_read_is_not_the_stream_s_end(api, memory, watched):
    api.answers(chunk_delay_s=0.1)

    async def main():
        async with watched() as session:
            body = {**CHAT, "stream": True}
            async with session.post(f"{api.url}/chat/completions", json=body) as response:
                lines = []
                while not lines or lines[-1]:
                    with suppress(asyncio.TimeoutError):
                        lines.append(await asyncio.wait_for(response.content.readline(), 0.03))
                return lines

    assert b"data: [DONE]\n" in asyncio.run(main())
    (span,) = (span for span in memory.spans() if span.name == "assisters.stream")
    assert span.attributes["assisters.stream.outcome"] == "completed"


# -- the SDK over aiohttp --------------------------------------------------------------------------


def legacy():
    return httpx.AsyncClient(transport=AiohttpTransport())


@pytest.fixture(params=[DefaultAioHttpClient, legacy], ids=["openai[aiohttp]", "httpx-aiohttp"])
def over_aiohttp(request, api):
    def openai(**options):
        options["http_client"] = request.param()
        return AsyncOpenAI(base_url=api.url, api_key="ask_test_0", **options)

    return openai


def test_openai_s_call_span_covers_aiohttp_s_attempts(api, memory, watched, over_aiohttp):
    api.answers("rate_limit_exceeded", "model_overloaded", retry_after="0.01")

    async def main():
        async with over_aiohttp() as client:
            await client.chat.completions.create(**CHAT)

    asyncio.run(main())

    first, second, third = memory.attempts()
    (call,) = (span for span in memory.spans() if span.name == "chat assisters-chat-v1")
    assert call.attributes["assisters.call.outcome"] == "recovered"
    assert call.attributes["assisters.retry.count"] == 2
    if watched is not None:
        assert {span.parent.span_id for span in (first, second, third)} == {call.context.span_id}
    assert [span.attributes.get("http.request.resend_count") for span in memory.attempts()] == [
        None,
        1,
        2,
    ]
    assert second.attributes["assisters.retry.reason"] == "rate_limit_exceeded"


def test_openai_s_error_over_aiohttp_is_explained(api, watched, over_aiohttp):
    api.answers("tokens_exhausted", request_id="req_7", param="model")

    async def main():
        async with over_aiohttp(max_retries=0) as client:
            await client.chat.completions.create(**CHAT)

    with pytest.raises(RateLimitError) as raised:
        asyncio.run(main())

    told = assisters_otel.explain(raised.value)
    assert (told.code, told.request_id, told.param) == ("tokens_exhausted", "req_7", "model")
    assert watched is not None


@pytest.mark.parametrize(
    ("answer", "outcome", "of_call"),
    [
        ({}, "completed", "ok"),
        ({"gzip": True}, "completed", "ok"),
        ({"in_stream": "model_overloaded"}, "error", "failed"),
        ({"fault": "truncate"}, "error", "failed"),
        ({"fault": "unfinished"}, "truncated", "failed"),
    ],
    ids=str,
)
def test_openai_s_stream_over_aiohttp_says_how_it_ended(
    api, memory, watched, over_aiohttp, answer, outcome, of_call
):
    api.answers(**answer)

    async def main():
        async with over_aiohttp(max_retries=0) as client:
            try:
                async for _ in await client.chat.completions.create(**CHAT, stream=True):
                    pass
            except (OpenAIError, httpx.HTTPError, httpx2.HTTPError) as error:
                return error
            return None

    error = asyncio.run(main())

    (call,) = (span for span in memory.spans() if span.name == "chat assisters-chat-v1")
    assert call.attributes["assisters.stream.outcome"] == outcome
    assert call.attributes["assisters.call.outcome"] == of_call
    assert (error is None) == (outcome in {"completed", "truncated"})
    assert watched is not None


def test_a_body_that_breaks_off_in_a_call_fails_it(api, memory, watched, over_aiohttp):
    api.answers(fault="truncate", times=2)

    async def main():
        async with over_aiohttp(max_retries=1) as client:
            await client.chat.completions.create(**CHAT)

    with pytest.raises((APIConnectionError, httpx.HTTPError, httpx2.HTTPError)):
        asyncio.run(main())

    (call,) = (span for span in memory.spans() if span.name == "chat assisters-chat-v1")
    assert call.attributes["assisters.call.outcome"] == "failed"
    assert call.attributes["error.type"] == "ClientPayloadError"
    assert {point["error.type"] for point in memory.points(ERRORS)} == {"ClientPayloadError"}
    assert watched is not None


# -- the app cannot tell ---------------------------------------------------------------------------

ANSWERS = [
    {},
    {"chunked": True},
    *({"status": 500, "size": size, **form}
      for size in (10, 70_000, 300_000, 900_000)
      for form in ({}, {"chunked": True}, {"gzip": True}, {"chunked": True, "gzip": True})),
    {"status": 500, "fault": "truncate", "size": 1000},
    {"status": 500, "fault": "truncate", "size": 200_000},
    {"status": 500, "fault": "truncate", "chunked": True, "size": 1000},
    {"status": 500, "fault": "truncate", "chunked": True, "gzip": True, "size": 1000},
    {"status": 500, "body": b""},
    {"status": 404, "body": "<html>"},
]  # fmt: skip


async def _joined(chunks):
    return b"".join([chunk async for chunk in chunks])  # where it is cut is a matter of chance


async def _exactly(response):
    return await response.content.readexactly(5_000)


READS = {
    "read": lambda r: r.read(),
    "text": lambda r: r.text(),
    "json": lambda r: r.json(content_type=None),
    "lines": lambda r: _all(r.content),
    "chunked": lambda r: _joined(r.content.iter_chunked(1000)),
    "any": lambda r: _joined(r.content.iter_any()),
    "exactly": _exactly,
    "unread": None,
}


async def seen_of(server, answer, read, **options):
    """What an app can see of one answer, and whether its connection serves another one."""
    connections = server.connections
    server.answers(**{"headers": {"x-request-id": "req"}, **answer})
    told = []
    async with aiohttp.ClientSession(**options) as session:
        try:
            async with session.get(f"{server.url}/models") as response:
                told += [response.status, response.reason, type(response).__name__]
                told += [type(response.content).__name__, response.ok, response.method]
                told += [sorted(response.request_info.headers)]
                if READS[read] is not None:
                    told += [await READS[read](response)]
                told += [response.content.total_bytes if read == "read" else None]
            told += [response.closed, response.content.exception().__class__]
        except (aiohttp.ClientError, HttpProcessingError, ValueError, EOFError) as error:
            told += [type(error), str(error).replace(str(server.port), "")]
            told += [type(error.__cause__)]
        async with session.get(f"{server.url}/models") as response:
            told += [len(await response.read())]
    return told, server.connections - connections


@pytest.mark.sampled
@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("answer", ANSWERS, ids=str)
@pytest.mark.parametrize("read", READS)
def test_a_caller_sees_the_same_with_us_and_without(api, answer, read, caplog):
    async def both():
        return await seen_of(api, answer, read), await seen_of(bare, answer, read)

    with caplog.at_level(logging.CRITICAL), FakeApi() as bare:
        (ours, our_connections), (theirs, their_connections) = asyncio.run(both())
    assert ours == theirs
    # Of what is not waited for, it is a matter of chance, in both.
    if answer.get("size", 70_000) < 64 * 1024 and "fault" not in answer:
        assert our_connections <= their_connections


@pytest.mark.usefixtures("telemetry")
def test_what_came_before_a_body_broke_off_is_read_before_it_raises(api):
    api.answers(status=500, fault="truncate", size=1000)

    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{api.url}/models") as response,
        ):
            first = await response.content.readany()
            with pytest.raises(aiohttp.ClientPayloadError) as raised:
                await response.content.readany()
            with pytest.raises(aiohttp.ClientPayloadError) as again:
                await response.content.readany()
            assert again.value is raised.value is response.content.exception()
            return first

    assert asyncio.run(main()).startswith(b'{"error"')


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("limit", [2**10, 2**16])
def test_a_large_failed_body_is_not_waited_for_and_streams_through(api, limit):
    api.answers(status=500, size=3_000_000)

    async def main():
        async with (
            aiohttp.ClientSession(read_bufsize=limit) as session,
            session.get(f"{api.url}/models") as response,
        ):
            assert response.content._size < 600_000
            return sum([len(chunk) async for chunk in response.content.iter_any()])

    assert asyncio.run(main()) == 3_000_000


@pytest.mark.usefixtures("telemetry")
def test_a_failed_body_that_stalls_is_waited_for_five_seconds_at_most(api, memory, monkeypatch):
    monkeypatch.setattr("assisters_otel.clients.aiohttp.stream_reader.READ_AHEAD_S", 0.2)
    api.answers(status=500, fault="stall", size=1000)

    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{api.url}/models", timeout=aiohttp.ClientTimeout(total=5)) as response,
        ):
            assert memory.attempt().attributes["error.type"] == "500"
            return await response.content.read(10)

    assert asyncio.run(main()).startswith(b'{"error"')


@pytest.mark.usefixtures("telemetry")
def test_an_app_that_gives_up_on_a_stalling_failed_answer_is_counted_once(api, memory):
    api.answers(status=500, fault="stall", size=1000)

    async def main():
        async with aiohttp.ClientSession() as session:
            await asyncio.wait_for(session.get(f"{api.url}/models"), 0.2)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(main())

    assert memory.point(DURATION)["http.response.status_code"] == 500
    assert memory.point(DURATION)["count"] == 1


@pytest.mark.usefixtures("telemetry")
def test_fifty_at_once_are_fifty_attempts(api, memory):
    api.answers("rate_limit_exceeded", times=50)

    async def main():
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(session.get(f"{api.url}/models") for _ in range(50)))

    asyncio.run(main())

    assert len(memory.attempts()) == 50
    assert memory.point(ERRORS)["value"] == 50
    assert not memory.points(RETRIES)


@pytest.mark.usefixtures("telemetry")
def test_nothing_of_ours_is_left_of_a_thousand_requests(api):
    from assisters_otel.clients.aiohttp import hidden_failure, stream_reader

    api.answers("internal_error", times=100)
    api.answers(fault="truncate", status=500, size=1000, times=100)

    async def main():
        async with aiohttp.ClientSession() as session:
            for _ in range(300):
                async with session.post(
                    f"{api.url}/chat/completions", json={**CHAT, "stream": True}
                ) as response:
                    assert response.status

    asyncio.run(main())
    gc.collect()

    assert not stream_reader._watched
    assert not hidden_failure._pending_failures
    assert not [one for one in gc.get_objects() if type(one).__name__ == "SessionRequest"]


def test_a_coroutine_that_nobody_awaits_any_more_ends_its_span(api, memory, watched, caplog):
    api.answers(fault="silence")

    async def main():
        async with watched() as session:
            sending = session._request("GET", f"{api.url}/models")
            sending.send(None)
            await asyncio.sleep(0)
            sending.close()

    asyncio.run(main())

    assert memory.point(DURATION)["error.type"] == "CancelledError"
    assert len(memory.attempts()) == 1
    assert "Failed to detach" not in caplog.text


@pytest.mark.usefixtures("telemetry")
def test_a_coroutine_that_is_closed_in_another_context_ends_its_span(api, memory, caplog):
    api.answers(fault="silence")

    async def main():
        async with aiohttp.ClientSession() as session:
            sending = session._request("GET", f"{api.url}/models")
            sending.send(None)
            contextvars.Context().run(sending.close)

    asyncio.run(main())

    assert len(memory.attempts()) == 1
    assert "Failed to detach" not in caplog.text


def test_httpx2_is_not_touched_by_the_transport_for_httpx(api, memory, watched):
    """httpx-aiohttp knows httpx alone; openai 3's own client is httpx2, beside it."""

    async def main():
        async with httpx2.AsyncClient(trust_env=False) as client:
            await client.get(f"{api.url}/models")
        async with watched() as session:
            await (await session.get(f"{api.url}/models")).read()

    asyncio.run(main())

    assert len(memory.attempts()) == 2


@pytest.mark.usefixtures("telemetry")
def test_a_header_that_is_there_twice_is_sent_twice(api):
    tags = [("X-Tag", "one"), ("X-Tag", "two")]

    async def main():
        async with aiohttp.ClientSession() as session, session.get(api.url, headers=tags):
            pass

    asyncio.run(main())

    assert api.requests[0].headers["x-tag"] == "one, two"
    assert "traceparent" in api.requests[0].headers


@pytest.mark.usefixtures("telemetry")
def test_a_response_class_that_keeps_no_headers_as_they_were_sent_is_counted_by_those_it_has(
    api, memory
):
    class Own(ClientResponse):
        async def start(self, connection):
            self.status = 429
            self.cookies = SimpleCookie()
            self._headers = CIMultiDictProxy(
                CIMultiDict({"X-Request-ID": "req_own", "X-Odd": "\udcff"})
            )
            connection.close()
            return self

    async def main():
        async with (
            aiohttp.ClientSession(response_class=Own) as session,
            session.get(f"{api.url}/models") as response,
        ):
            assert response.raw_headers is None

    asyncio.run(main())

    (attempt,) = memory.attempts()
    assert attempt.attributes["assisters.request.id"] == "req_own"
    assert attempt.attributes["error.type"] == "429"


def test_a_read_limit_of_0_is_none(api, memory, telemetry):
    api.answers("invalid_model", chunk_delay_s=0.05)

    async def get():
        timeout = aiohttp.ClientTimeout(sock_read=0)
        async with aiohttp.request("GET", api.url + "/models", timeout=timeout):
            return

    asyncio.run(get())

    assert memory.attempt().attributes["error.code"] == "invalid_model"
    assert telemetry.status().attempts == 1


def test_where_the_app_switches_its_own_off_ours_come_on(api, memory):
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}
    theirs = AioHttpClientInstrumentor()
    theirs.instrument(**options)
    with assisters_otel.init(hosts=[api.url], strict=True, **options):
        asyncio.run(_get(f"{api.url}/models"))
        theirs.uninstrument()
        asyncio.run(_get(f"{api.url}/models"))

    assert len(memory.attempts()) == 2


@pytest.mark.usefixtures("telemetry")
def test_a_request_whose_task_is_cancelled_before_it_begins_is_no_forgotten_one(api, recwarn):
    async def main():
        async with aiohttp.ClientSession() as session:
            task = asyncio.ensure_future(session.get(f"{api.url}/models"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
            gc.collect()

    asyncio.run(main())

    assert [str(one.message) for one in recwarn if one.category is RuntimeWarning] == []
    assert api.requests == []


@pytest.mark.usefixtures("telemetry")
def test_a_request_that_nobody_awaits_is_said_once_to_be_forgotten(api):
    async def main():
        async with aiohttp.ClientSession() as session:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                session._request("GET", f"{api.url}/models")
                gc.collect()
            return [str(one.message) for one in told]

    assert asyncio.run(main()) == ["coroutine 'ClientSession._request' was never awaited"]


def test_a_mock_in_a_request_s_place_is_called_once(api, memory):
    mocked = mock.AsyncMock(return_value="answer")
    options = {"tracer_provider": memory.tracer_provider, "meter_provider": memory.meter_provider}

    async def main():
        async with aiohttp.ClientSession() as session:
            return await session._request("GET", f"{api.url}/models")

    with (
        mock.patch.object(aiohttp.ClientSession, "_request", mocked),
        assisters_otel.init(hosts=[api.url], strict=True, **options),
    ):
        assert asyncio.run(main()) == "answer"
    assert mocked.call_count == mocked.await_count == 1


class _Stop(BaseException):
    def __init__(self, why):
        super().__init__(why)
        self.why = why


@pytest.mark.usefixtures("telemetry")
def test_what_is_thrown_into_a_read_comes_out_as_it_was(api):
    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{api.url}/chat/completions", json={"stream": True}) as response,
        ):
            reading = response.content.readuntil(b"never there")
            reading.send(None)
            reading.throw(_Stop("enough"))

    api.answers(chunk_delay_s=0.3)
    with pytest.raises(_Stop, match="enough"):
        asyncio.run(main())


@pytest.mark.usefixtures("telemetry")
def test_a_stream_whose_session_the_app_has_closed_is_cancelled(api, memory, caplog):
    async def main():
        session = aiohttp.ClientSession()
        response = await session.post(f"{api.url}/chat/completions", json={"stream": True})
        await response.content.readany()
        await session.close()
        with pytest.raises(RuntimeError, match="Connection closed"):
            await response.content.read()
        response.close()

    api.answers(chunk_delay_s=0.3)
    asyncio.run(main())

    (span,) = memory.calls()
    assert span.attributes["assisters.stream.outcome"] == "cancelled"
    assert memory.points(ERRORS) == []
    assert caplog.messages == []


@pytest.mark.usefixtures("telemetry")
def test_a_second_reader_that_aiohttp_refuses_ends_no_stream(api, memory):
    async def main():
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{api.url}/chat/completions", json={"stream": True}) as response,
        ):
            reading = asyncio.create_task(response.content.readuntil(b"never there"))
            await asyncio.sleep(0.01)  # it has taken what is there, and waits
            with pytest.raises(RuntimeError, match="already waiting"):
                await response.content.read()
            return await reading

    api.answers(chunk_delay_s=0.1)
    assert asyncio.run(main()).endswith(b"data: [DONE]\n\n")

    (span,) = memory.calls()
    assert span.attributes["assisters.stream.outcome"] == "completed"
    assert memory.points(ERRORS) == []
