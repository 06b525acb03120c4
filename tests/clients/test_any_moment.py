"""An exception of a signal handler, at each moment at which Python runs one in code of ours."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import assisters
import httpx
import httpx2
import openai
import pytest
import requests
import trio
from opentelemetry import context, trace
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

import assisters_otel
from assisters_otel.attempts.attempt import current_call
from callers import _run_asyncio
from moments import Open, interrupted_at, left_behind
from raw_server import RawServer
from sizes import SIZE, WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from assisters_otel.testing import FakeApi
    from memory import Memory

STEP = 7  # each way, with a success and with a refusal, starts at another moment
TASK_STEP = 17
LOOP_STEP = 11
BODY_STEP = 3 if SIZE >= WHOLE else 23
SOON_S = 2.0

ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ENVELOPE = {"error": {"type": "authentication_error", "code": "invalid_api_key", "message": "m"}}


def answer(status: int, document: object) -> bytes:
    body = json.dumps(document).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


ANSWERS = {"success": answer(200, {"data": []}), "refusal": answer(401, ENVELOPE)}


class Way(NamedTuple):
    name: str
    client: Any
    ask: Any
    run: Any = None  # of an async one

    def __str__(self) -> str:
        return self.name


def of_httpx(module: Any) -> Any:
    limits, timeout = module.Limits(max_connections=1), module.Timeout(60, pool=SOON_S)
    return module.Client(trust_env=False, limits=limits, timeout=timeout)


class Pool(HTTPConnectionPool):
    """Raises soon if its connection does not come back. Without a limit it waits for ever."""

    def urlopen(self, *args: Any, **options: Any) -> Any:
        return super().urlopen(*args, **options | {"pool_timeout": SOON_S})


class OneConnection(HTTPAdapter):
    def init_poolmanager(self, *_: Any, **options: Any) -> None:
        super().init_poolmanager(1, 1, **options | {"block": True})
        self.poolmanager.pool_classes_by_scheme = {"http": Pool}


def of_requests() -> Any:
    session = requests.Session()
    session.trust_env = False
    session.mount("http://", OneConnection())
    return session


def stream(client: Any, url: str) -> None:
    with client.stream("GET", url) as response:
        response.read()


def list_models(client: Any, _: str) -> None:
    with suppress(openai.APIStatusError, assisters.AssistersAPIError):
        client.models.list()


def of_openai(url: str) -> Any:
    return openai.OpenAI(api_key="ask_k", base_url=url, max_retries=0, http_client=of_httpx(httpx))


WAYS = [
    Way("httpx", lambda _: of_httpx(httpx), lambda client, url: client.get(url)),
    Way("httpx2-streamed", lambda _: of_httpx(httpx2), stream),
    Way("requests", lambda _: of_requests(), lambda client, url: client.get(url)),
    Way("openai", of_openai, list_models),
    Way("assisters", lambda url: assisters.Assisters("ask_k", base_url=url), list_models),
]


async def of_async_httpx(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        await client.get(f"{url}/models")


async def of_async_httpx2(url: str) -> None:
    async with (
        httpx2.AsyncClient(trust_env=False) as client,
        client.stream("GET", f"{url}/models") as response,
    ):
        await response.aread()


async def of_aiohttp(url: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/models") as response:
        await response.read()


async def of_async_openai(url: str) -> None:
    async with openai.AsyncOpenAI(api_key="ask_k", base_url=url, max_retries=0) as client:
        with suppress(openai.APIStatusError):
            await client.models.list()


ASYNC_WAYS = [of_async_httpx, of_async_httpx2, of_aiohttp, of_async_openai]


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_interrupt_at_any_moment_leaves_nothing_behind(memory: Memory, way: Way, kind: str):
    open_spans = Open()
    memory.tracer_provider.add_span_processor(open_spans)
    with RawServer() as server:
        server.answer = server.usual = ANSWERS[kind], False
        url = f"{server.url}/models"
        with (
            assisters_otel.init(
                hosts=[server.url],
                tracer_provider=memory.tracer_provider,
                meter_provider=memory.meter_provider,
            ),
            way.client(server.url) as client,
        ):
            way.ask(client, url)
            number, left = 1 + WAYS.index(way) + list(ANSWERS).index(kind), []
            while True:
                before = context.get_current()
                with interrupted_at(number) as places:
                    try:
                        way.ask(client, url)
                    except KeyboardInterrupt:
                        pass
                    else:
                        assert not places, f"swallowed at {places}"
                        break
                assert places
                left += [(*places, name) for name in open_spans.spans.values()]
                if context.get_current() != before or current_call() is not None:
                    left.append((*places, "a context"))
                    context.attach(before)
                open_spans.spans.clear()
                assert not trace.get_current_span().get_span_context().is_valid
                way.ask(client, url)  # on another connection at most, and at once
                number += STEP

    assert number > 100  # it was interrupted in many places
    assert left == []


# An interrupt of an event loop ends it whole, so each run has one of its own. Coroutines of the
# client's that are never awaited again are warned of, without us, too.
of_a_loop = pytest.mark.filterwarnings(
    "ignore::RuntimeWarning",
    "ignore::ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@of_a_loop
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("ask", ASYNC_WAYS)
def test_an_interrupt_of_an_event_loop_leaves_nothing_behind(memory: Memory, ask: Any, kind: str):
    with RawServer() as server:
        server.answer = server.usual = ANSWERS[kind], False
        with assisters_otel.init(
            hosts=[server.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ) as telemetry:
            asyncio.run(ask(server.url))
            start = 1 + ASYNC_WAYS.index(ask) + list(ANSWERS).index(kind)
            number, left = left_behind(
                memory, telemetry, lambda: asyncio.run(ask(server.url)), start=start, step=LOOP_STEP
            )

    assert number > 100  # it was interrupted in many places
    assert left == []


async def get(client: Any, url: str) -> None:
    await client.get(f"{url}/models")


async def read(client: Any, url: str) -> None:
    async with client.stream("GET", f"{url}/models") as response:
        await response.aread()


async def read_by_aiohttp(client: Any, url: str) -> None:
    async with client.get(f"{url}/models") as response:
        await response.read()


async def list_models_async(client: Any, _: str) -> None:
    with suppress(openai.APIStatusError):
        await client.models.list()


def of_one_connection(module: Any) -> Any:
    limits, timeout = module.Limits(max_connections=1), module.Timeout(60, pool=SOON_S)
    return module.AsyncClient(trust_env=False, limits=limits, timeout=timeout)


def aiohttp_session(_: str) -> Any:
    connector, timeout = aiohttp.TCPConnector(limit=1), aiohttp.ClientTimeout(60, connect=SOON_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def openai_client(url: str) -> Any:
    http = of_one_connection(httpx)
    return openai.AsyncOpenAI(api_key="ask_k", base_url=url, max_retries=0, http_client=http)


TASKS = [
    Way("httpx-asyncio", lambda _: of_one_connection(httpx), get, _run_asyncio),
    Way("httpx2-trio-streamed", lambda _: of_one_connection(httpx2), read, trio.run),
    Way("aiohttp", aiohttp_session, read_by_aiohttp, _run_asyncio),
    Way("openai-asyncio", openai_client, list_models_async, _run_asyncio),
]


# An interrupt between the making of aiohttp's own coroutine and its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("way", TASKS, ids=str)
def test_a_task_that_goes_on_after_an_interrupt_has_its_connection(
    memory: Memory, way: Way, kind: str
):
    open_spans = Open()
    memory.tracer_provider.add_span_processor(open_spans)
    left: list[tuple[str, ...]] = []

    async def interrupt(client: Any, url: str, number: int) -> int:
        await way.ask(client, url)
        while True:
            before = context.get_current()
            with interrupted_at(number, in_task=True) as places:
                try:
                    await way.ask(client, url)
                except KeyboardInterrupt:
                    assert places
                else:
                    assert not places, f"swallowed at {places}"
                    return number
            left.extend((*places, name) for name in open_spans.spans.values())
            if context.get_current() != before or current_call() is not None:
                left.append((*places, "a context"))
                context.attach(before)
            open_spans.spans.clear()
            await way.ask(client, url)  # on another connection at most, and at once
            number += TASK_STEP

    with RawServer() as server:
        server.answer = server.usual = ANSWERS[kind], False

        async def main() -> int:
            async with way.client(server.url) as client:
                return await interrupt(client, server.url, 1 + list(ANSWERS).index(kind))

        with assisters_otel.init(
            hosts=[server.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ):
            moments = way.run(main)

    assert moments > 100  # it was interrupted in many places
    assert left == []


def with_openai(**options: Any) -> Any:
    """Return a decorator of a way through `openai`, which gets the method that asks."""

    def of(ask: Any) -> Any:
        @wraps(ask)
        def run(api: FakeApi) -> None:
            with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=2) as client:
                ask(client.chat.completions, ASKED | options)

        return run

    return of


@with_openai(stream=True)
def read_stream(chat: Any, asked: Any) -> None:
    for _ in chat.create(**asked):
        pass


@with_openai(stream=True)
def leave_stream(chat: Any, asked: Any) -> None:
    stream = chat.create(**asked)
    next(iter(stream))
    stream.close()


@with_openai()
def parse_raw(chat: Any, asked: Any) -> None:
    chat.with_raw_response.create(**asked).parse()


@with_openai()
def read_raw(chat: Any, asked: Any) -> None:
    with chat.with_streaming_response.create(**asked) as response:
        response.read()


def retry(api: FakeApi) -> None:
    api.answers("rate_limit_exceeded", times=1)
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=2) as client:
        client.chat.completions.create(**ASKED)


def read_with_requests(api: FakeApi) -> None:
    with requests.Session() as session:
        session.trust_env = False
        url = f"{api.url}/chat/completions"
        for _ in session.post(url, json=ASKED | {"stream": True}, stream=True).iter_content(64):
            pass


def read_with_httpx(api: FakeApi) -> None:
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{api.url}/chat/completions", json=ASKED | {"stream": True}) as got,
    ):
        for _ in got.iter_bytes():
            pass


async def read_with_aiohttp(api: FakeApi) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{api.url}/chat/completions", json=ASKED | {"stream": True}) as response,
    ):
        async for _ in response.content.iter_any():
            pass


async def be_dropped(api: FakeApi) -> None:
    api.answers(fault="drop")
    async with aiohttp.ClientSession() as session:
        with suppress(aiohttp.ClientError):
            await session.post(f"{api.url}/chat/completions", json=ASKED)


def read_assisters_stream(api: FakeApi) -> None:
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        for _ in client.chat.completions.create(**ASKED, stream=True):
            pass


def be_refused_an_assisters_stream(api: FakeApi) -> None:
    api.answers("invalid_api_key")
    with suppress(assisters.AssistersAPIError):
        read_assisters_stream(api)


async def read_async_stream(api: FakeApi) -> None:
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
        async for _ in await client.chat.completions.create(**ASKED, stream=True):
            pass


BODIES = [
    *(read_stream, leave_stream, parse_raw, read_raw, retry, read_with_requests, read_with_httpx),
    *(read_with_aiohttp, be_dropped, read_async_stream),
    *(read_assisters_stream, be_refused_an_assisters_stream),
]


@of_a_loop
@pytest.mark.parametrize("use", BODIES)
def test_an_interrupt_while_a_body_is_read_leaves_nothing_behind(
    api: FakeApi, memory: Memory, telemetry, monkeypatch, use: Any
):
    monkeypatch.setattr(openai.OpenAI, "_calculate_retry_timeout", lambda *_, **__: 0.0)

    def run() -> None:
        api.reset()
        made = use(api)
        if made is not None:
            asyncio.run(made)

    run()
    start = BODIES.index(use) + 1
    number, left = left_behind(memory, telemetry, run, start=start, step=BODY_STEP)

    assert number > 100  # it was interrupted in many places
    assert left == []


@contextmanager
def in_collector(step: Any) -> Iterator[None]:
    """Collect an object in a cycle at the end, whose finalizer calls *step*."""

    class Finalized:
        def __del__(self) -> None:
            step()

    yield
    one: Any = Finalized()
    one.itself = one
    del one
    gc.collect()


def _is_of_hypothesis(callback: Any) -> bool:
    return str(getattr(callback, "__module__", "")).startswith("hypothesis.")


def test_what_a_signal_s_handler_raises_in_a_collection_is_met(telemetry, monkeypatch):
    """By the app, as without us. In a collector's callback in Python it would be lost."""
    deferred = telemetry._instrumentation.recorder.deferred
    deferred.watch_collector()  # as before the first request
    lost: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    grown = [[number] for number in range(300_000)]  # so that a collection takes long enough

    def limit(*_: object) -> None:
        raise TimeoutError("the job's")

    def collect_in_vain() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.002)
        gc.collect()
        time.sleep(1)

    # hypothesis times collections by a callback in Python, which stays.
    callbacks = gc.callbacks[:]
    gc.callbacks[:] = [one for one in callbacks if not _is_of_hypothesis(one)]
    before = signal.signal(signal.SIGALRM, limit)
    try:
        for _ in range(20):
            with pytest.raises(TimeoutError, match="the job's"):
                collect_in_vain()
    finally:
        gc.callbacks[:] = callbacks
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert lost == []
    assert len(grown) == 300_000


def test_the_collector_is_in_the_thread_that_collects_and_in_no_other(telemetry):
    deferred = telemetry._instrumentation.recorder.deferred
    deferred.watch_collector()  # as before the first request
    inside: list[bool] = []
    beside: list[bool] = []

    def ask() -> None:
        inside.append(deferred.is_collecting())
        thread = threading.Thread(target=lambda: beside.append(deferred.is_collecting()))
        thread.start()
        thread.join()

    for _ in range(3):
        ask()
        with in_collector(ask):
            pass

    assert inside == [False, True] * 3
    assert beside == [False] * 6
    telemetry.shutdown()
    with in_collector(ask):
        pass
    assert inside[6:] == beside[6:] == [False]


def test_what_is_put_off_in_the_collector_is_not_run_there(telemetry):
    deferred = telemetry._instrumentation.recorder.deferred
    deferred.watch_collector()  # as before the first request
    places: list[bool] = []
    deferred.put(lambda: places.append(deferred.is_collecting()))

    with in_collector(deferred.run_all):  # as the first step of a request in a finalizer does
        pass
    deferred.run_all()

    assert places == [False]
