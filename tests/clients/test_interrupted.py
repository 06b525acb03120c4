"""A caller that gives up: by Ctrl-C, by an alarm of its own, or by a cancelled task."""

from __future__ import annotations

import signal
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple

import aiohttp
import anyio
import assisters
import httpx
import httpx2
import openai
import pytest
import requests
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.trace import StatusCode

from assisters_otel import explain

pytestmark = pytest.mark.usefixtures("telemetry")

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
STREAMED = {**CHAT, "stream": True}
STREAM = "assisters.stream.outcome"
CALL = "assisters.call.outcome"


class Way(NamedTuple):
    """One way of asking for a chat.

    Attributes:
        name: Of it.
        client: Opens one; gets the API, and what to call once the headers are there.
        ask: Gets that client, the API, and the same to call; reads the answer to its end.
        outcomes: Under which names the spans of ours say how it ended.
        backend: Of an async one.
    """

    name: str
    client: Any
    ask: Any
    outcomes: tuple[str, ...]
    backend: str = ""

    def __str__(self) -> str:
        return self.name


def url_of(api):
    return f"{api.url}/chat/completions"


# -- Ctrl-C, and a time limit of the app's own by SIGALRM ------------------------------------------


class JobTimeoutError(Exception):
    """As RQ's and Celery's: an ordinary exception, which the app's signal handler raises."""


# Where the clients wait for more of a body: a function of httpcore's, and one of requests'.
READS_BODY = {"_receive_response_body", "generate"}
READS_SOCKET = {"read", "readinto"}
# Where they wait for the answer's headers: functions of httpcore's, and one of `http.client`'s.
READS_HEADERS = {"_receive_response_headers", "getresponse"}


@contextmanager
def interrupt(raises, waits_in=frozenset(READS_BODY)):
    """Interrupt once, as soon as this thread waits for more of a body.

    Not by one signal at a moment that seems right: one that comes between two steps of Python's
    is met after the wait.
    """
    is_told = []

    def handler(_signal, frame):
        names = [frame.f_code.co_name]
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        if not is_told and names[0] in READS_SOCKET and not waits_in.isdisjoint(names):
            is_told.append(True)
            raise raises

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def by_httpx(client, api):
    with client.stream("POST", url_of(api), json=STREAMED) as response:
        for _ in response.iter_raw():
            pass


def by_requests(client, api):
    with client.post(url_of(api), json=STREAMED, stream=True, timeout=60) as response:
        for _ in response.iter_content(None):
            pass


def by_requests_at_once(client, api):
    client.post(url_of(api), json=STREAMED, timeout=60)


def of_openai(api):
    return openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0)


def of_assisters(api):
    return assisters.Assisters("ask_k", base_url=api.url, max_retries=1)


def chat(client, _api):
    client.chat.completions.create(**CHAT)


def chat_streamed(client, _api):
    list(client.chat.completions.create(**STREAMED))


SYNC = [
    Way("httpx", lambda _: httpx.Client(), by_httpx, (STREAM,)),
    Way("httpx2", lambda _: httpx2.Client(), by_httpx, (STREAM,)),
    Way("requests", lambda _: requests.Session(), by_requests, (STREAM,)),
    Way("requests-at-once", lambda _: requests.Session(), by_requests_at_once, (STREAM,)),
    Way("openai", of_openai, chat, (CALL,)),
    Way("openai-stream", of_openai, chat_streamed, (CALL, STREAM)),
    Way("assisters", of_assisters, chat, (CALL,)),
    Way("assisters-stream", of_assisters, chat_streamed, (CALL, STREAM)),
]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer sends a signal here")
@pytest.mark.parametrize("way", SYNC, ids=str)
def test_ctrl_c_in_the_middle_of_a_body_is_a_cancelled_attempt(api, memory, way):
    api.answers(fault="stall")

    with way.client(api) as client:
        with interrupt(KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
            way.ask(client, api)
        way.ask(client, api)

    _was_cancelled_and_sent_again(memory, way)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer sends a signal here")
@pytest.mark.parametrize("waits_in", [READS_HEADERS, READS_BODY], ids=["headers", "body"])
@pytest.mark.parametrize("way", SYNC, ids=str)
def test_an_attempt_that_the_app_s_own_time_limit_ends_is_cancelled_and_no_error_of_the_api(
    api, memory, way, waits_in, caplog
):
    api.answers(fault="stall" if waits_in is READS_BODY else "silence")

    with way.client(api) as client:
        # `openai` raises an APIConnectionError for it.
        with interrupt(JobTimeoutError, waits_in), pytest.raises(Exception) as met:  # noqa: PT011
            way.ask(client, api)
        limit = met.value.__cause__ or met.value
        assert isinstance(limit, JobTimeoutError)
        if waits_in is READS_HEADERS:
            told = explain(limit)
            assert "itself gave up" in told.what
            assert "time limits" in told.advice
            assert told.side == "your app"
        assert caplog.messages == []
        way.ask(client, api)

    _was_cancelled_and_sent_again(memory, way, has_answered=waits_in is READS_BODY)
    assert memory.attempts()[0].status.status_code is StatusCode.UNSET
    assert memory.attempts()[0].events == ()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer sends a signal here")
@pytest.mark.parametrize(
    ("theirs", "post"),
    [(HTTPXClientInstrumentor, httpx.post), (RequestsInstrumentor, requests.post)],
    ids=["httpx", "requests"],
)
def test_a_key_that_the_app_s_own_time_limit_quotes_is_not_on_the_app_s_span(
    api, memory, theirs, post
):
    api.answers(fault="silence")
    theirs().instrument(tracer_provider=memory.tracer_provider)
    try:
        limit = JobTimeoutError("job api_key=ask_live_0123456789 took too long")
        with interrupt(limit, READS_HEADERS), pytest.raises(JobTimeoutError):
            post(url_of(api), json=CHAT, timeout=10)
    finally:
        theirs().uninstrument()

    (span,) = memory.attempts()
    assert span.instrumentation_scope.name.startswith("opentelemetry.instrumentation")
    assert "took too long" in span.to_json()
    assert "ask_live" not in span.to_json()


# -- a cancelled task ----------------------------------------------------------------------------


async def given_up(ask):
    """Cancel what *ask* waits for, in this task, as soon as the headers are there."""
    has_headers, scope = anyio.Event(), anyio.CancelScope()

    async def cancel():
        await has_headers.wait()
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with scope:
            await ask(has_headers.set)
    assert scope.cancelled_caught


async def by_httpx_async(client, api, has_headers):
    async with client.stream("POST", url_of(api), json=STREAMED) as response:
        has_headers()
        async for _ in response.aiter_raw():
            pass


async def by_aiohttp(client, api, has_headers):
    async with client.post(url_of(api), json=STREAMED) as response:
        has_headers()
        async for _ in response.content:
            pass


def of_openai_async(http):
    @asynccontextmanager
    async def client(api):
        async with openai.AsyncOpenAI(
            base_url=api.url, api_key="ask_k", max_retries=0, http_client=http()
        ) as client:
            yield client

    return client


async def chat_async(client, _api, has_headers):
    async def told(_response):
        has_headers()

    client._client.event_hooks = {"response": [told]}
    answer = await client.chat.completions.create(**CHAT)
    assert answer.id


async def chat_streamed_async(client, _api, has_headers):
    stream = await client.chat.completions.create(**STREAMED)
    has_headers()
    async for _ in stream:
        pass


ASYNC = [
    *(
        Way(
            f"{module.__name__}-{backend}",
            lambda _, module=module: module.AsyncClient(),
            by_httpx_async,
            (STREAM,),
            backend,
        )
        for module in (httpx, httpx2)
        for backend in ("asyncio", "trio")
    ),
    Way("aiohttp", lambda _: aiohttp.ClientSession(), by_aiohttp, (STREAM,), "asyncio"),
    *(
        Way(f"openai-{kind}{what}", of_openai_async(http), ask, outcomes, backend)
        for kind, http, backend in (
            ("asyncio", openai.DefaultAsyncHttpxClient, "asyncio"),
            ("trio", openai.DefaultAsyncHttpxClient, "trio"),
            ("aiohttp", openai.DefaultAioHttpClient, "asyncio"),
        )
        for what, ask, outcomes in (
            ("", chat_async, (CALL,)),
            ("-stream", chat_streamed_async, (CALL, STREAM)),
        )
    ),
]


# What openai leaves of its own generators on trio, with us and without.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator object")
@pytest.mark.parametrize("way", ASYNC, ids=str)
def test_a_task_that_is_cancelled_in_the_middle_of_a_body_is_a_cancelled_attempt(api, memory, way):
    api.answers(fault="stall")

    async def main():
        async with way.client(api) as client:
            await given_up(lambda has_headers: way.ask(client, api, has_headers))
            await way.ask(client, api, lambda: None)

    anyio.run(main, backend=way.backend)

    _was_cancelled_and_sent_again(memory, way)


def _was_cancelled_and_sent_again(memory, way, *, has_answered=True):
    spans = memory.calls()
    for outcome in way.outcomes if has_answered else {CALL} & set(way.outcomes):
        ends = [span.attributes[outcome] for span in spans if outcome in span.attributes]
        assert ends == ["cancelled", "ok" if outcome == CALL else "completed"]
    first, second = memory.attempts()
    assert "error.type" not in first.attributes
    assert second.attributes["http.request.resend_count"] == 1
    assert second.attributes["assisters.retry.reason"] == "CancelledError"
    assert second.attributes["assisters.retry.futile"] is False
    assert [link.context for link in second.links] == [first.context]
    if CALL in way.outcomes:
        assert spans[-1].attributes["assisters.call.resend_count"] == 1
    assert memory.points("assisters.client.errors") == []
