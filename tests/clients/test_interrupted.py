"""A caller that gives up: by Ctrl-C, by an alarm of its own, or by a cancelled task."""

from __future__ import annotations

import asyncio
import signal
import time
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


# -- what a hook of the app's raises, while a failed answer's body is still on its way -------------

READ_S = 1.0
"""The caller's limit for a read. The body is never complete."""

AT_ONCE_S = 0.6
"""Far below that limit, and far above what a busy machine takes."""


class Hooked(NamedTuple):
    """One way of sending with a hook that gets the answer.

    Attributes:
        name: Of it.
        send: Gets the URL of the API and the hook.
        is_async: True if it is a coroutine function.
    """

    name: str
    send: Any
    is_async: bool = False

    def __str__(self) -> str:
        return self.name


def hooked_requests(url, hook):
    told = {"response": lambda response, **_: hook(response)}
    requests.get(f"{url}/models", hooks=told, timeout=(30, READ_S))


def hooked_requests_twice(url, hook):
    """An auth handler's hook sends again; then the second hook raises."""

    def again(response, **options):
        if "X-Again" not in response.request.headers:
            request = response.request.copy()
            request.headers["X-Again"] = "1"
            return response.connection.send(request, **options)
        return None

    told = {"response": [again, lambda response, **_: hook(response)]}
    requests.get(f"{url}/models", hooks=told, timeout=(30, READ_S))


def _hooked_httpx(module):
    def send(url, hook):
        with module.Client(event_hooks={"response": [hook]}, timeout=READ_S) as client:
            client.get(f"{url}/models")

    return send


def _hooked_httpx_async(module):
    async def send(url, hook):
        async def told(response):
            hook(response)

        async with module.AsyncClient(event_hooks={"response": [told]}, timeout=READ_S) as client:
            await client.get(f"{url}/models")

    return send


def hooked_openai(url, hook):
    http = httpx.Client(event_hooks={"response": [hook]}, timeout=READ_S)
    with openai.OpenAI(base_url=url, api_key="ask_k", max_retries=1, http_client=http) as client:
        client.chat.completions.create(**CHAT)


async def hooked_openai_async(url, hook):
    async def told(response):
        hook(response)

    http = httpx.AsyncClient(event_hooks={"response": [told]}, timeout=READ_S)
    options = {"api_key": "ask_k", "max_retries": 1, "http_client": http}
    async with openai.AsyncOpenAI(base_url=url, **options) as client:
        await client.chat.completions.create(**CHAT)


async def hooked_aiohttp(url, hook):
    async def told(_session, _context, params):
        hook(params.response)

    config, timeout = aiohttp.TraceConfig(), aiohttp.ClientTimeout(sock_read=READ_S)
    config.on_request_end.append(told)
    async with aiohttp.ClientSession(trace_configs=[config], timeout=timeout) as client:
        await client.get(f"{url}/models")


async def hooked_aiohttp_status(url, hook):
    async def told(response):
        hook(response)

    timeout = aiohttp.ClientTimeout(sock_read=READ_S)
    async with aiohttp.ClientSession(raise_for_status=told, timeout=timeout) as client:
        await client.get(f"{url}/models")


HOOKED = [
    Hooked("requests", hooked_requests),
    Hooked("requests-again", hooked_requests_twice),
    Hooked("httpx", _hooked_httpx(httpx)),
    Hooked("httpx2", _hooked_httpx(httpx2)),
    Hooked("openai", hooked_openai),
    Hooked("httpx-async", _hooked_httpx_async(httpx), is_async=True),
    Hooked("httpx2-async", _hooked_httpx_async(httpx2), is_async=True),
    Hooked("openai-async", hooked_openai_async, is_async=True),
    Hooked("aiohttp", hooked_aiohttp, is_async=True),
    Hooked("aiohttp-status", hooked_aiohttp_status, is_async=True),
]


@contextmanager
def _time_limit():
    """A time limit of the app's, as a signal's handler; it is there until the end."""

    def handler(*_):
        raise JobTimeoutError

    before = signal.signal(signal.SIGALRM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


RAISED = [
    (way, kind)
    for way in HOOKED
    for kind in (
        KeyboardInterrupt,
        SystemExit,
        *((asyncio.CancelledError,) if way.is_async else (GeneratorExit, JobTimeoutError)),
    )
]


@pytest.mark.parametrize(
    ("way", "kind"), RAISED, ids=lambda one: getattr(one, "__name__", str(one))
)
def test_an_interrupt_in_a_hook_does_not_wait_for_a_failed_answer_s_body(api, memory, way, kind):
    api.answers("internal_error", fault="stall", size=1000, times=3)
    raised_s = []

    def hook(_response):
        raised_s.append(time.monotonic())
        if kind is JobTimeoutError:
            signal.raise_signal(signal.SIGALRM)
        raise kind

    with _time_limit(), pytest.raises(kind):
        _ = asyncio.run(way.send(api.url, hook)) if way.is_async else way.send(api.url, hook)
    held_up_s = time.monotonic() - raised_s[0]

    assert held_up_s < AT_ONCE_S
    assert len(raised_s) == 1
    assert memory.attempts()[-1].attributes["error.type"] == "500"


def test_an_exception_of_a_hook_leaves_the_failed_answer_s_code_to_its_span(api, memory):
    api.answers("internal_error")

    with pytest.raises(requests.HTTPError):
        requests.get(
            f"{api.url}/models",
            hooks={"response": lambda response, **_: response.raise_for_status()},
            timeout=30,
        )

    (span,) = memory.attempts()
    assert span.attributes["error.code"] == "internal_error"
