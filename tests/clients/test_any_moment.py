"""An exception of a signal handler, at each moment at which Python runs one in code of ours.

Python runs a handler where a function starts, and after a function that is written in C. There a
profile function is called, too. So it raises in the handler's place, at one moment after another.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
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
from opentelemetry.sdk.trace import Span, SpanProcessor
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool

import assisters_otel
from assisters_otel.attempts.call import current_call
from callers import _run_asyncio, _run_sync
from raw_server import RawServer
from streamers import settled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import FrameType

    from memory import Memory

OF_OURS = "/assisters_otel/"
ENTERS = "/opentelemetry/context/"
NO_MOMENTS = {"<genexpr>", "__del__", "_collector", "close", "aclose"}
"""A generator that is dropped is entered once more for the profile function alone. What is raised
in a `__del__`, or in what the collector calls, reaches nobody. httpx takes a response for closed
before it closes its stream: an interrupt at that moment leaks the connection without us, too."""

STEP = 7  # each way, with a success and with a refusal, starts at another moment
TASK_STEP = 17
LOOP_STEP = 11
SOON_S = 2.0

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
    """One way of asking, sync or async; see `callers` for what runs it."""

    name: str
    client: Any
    ask: Any
    run: Any = _run_sync
    step: int = STEP

    def __str__(self) -> str:
        return self.name


def of_httpx(module: Any, kind: str = "Client") -> Any:
    limits, timeout = module.Limits(max_connections=1), module.Timeout(60, pool=SOON_S)
    return getattr(module, kind)(trust_env=False, limits=limits, timeout=timeout)


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


def aiohttp_session(_: str) -> Any:
    connector, timeout = aiohttp.TCPConnector(limit=1), aiohttp.ClientTimeout(60, connect=SOON_S)
    return aiohttp.ClientSession(connector=connector, timeout=timeout)


def stream(client: Any, url: str) -> None:
    with client.stream("GET", url) as response:
        response.read()


async def stream_async(client: Any, url: str) -> None:
    async with client.stream("GET", url) as response:
        await response.aread()


async def read_by_aiohttp(client: Any, url: str) -> None:
    async with client.get(url) as response:
        await response.read()


def list_models(client: Any, _: str) -> None:
    with suppress(openai.APIStatusError, assisters.AssistersAPIError):
        client.models.list()


async def list_models_async(client: Any, _: str) -> None:
    with suppress(openai.APIStatusError):
        await client.models.list()


def of_openai(url: str, kind: Any = openai.OpenAI, http: str = "Client") -> Any:
    return kind(api_key="ask_k", base_url=url, max_retries=0, http_client=of_httpx(httpx, http))


def of_openai_async(url: str) -> Any:
    return of_openai(url, openai.AsyncOpenAI, "AsyncClient")


WAYS = [
    Way("httpx", lambda _: of_httpx(httpx), lambda client, url: client.get(url)),
    Way("httpx2-streamed", lambda _: of_httpx(httpx2), stream),
    Way("requests", lambda _: of_requests(), lambda client, url: client.get(url)),
    Way("openai", of_openai, list_models),
    Way("assisters", lambda url: assisters.Assisters("ask_k", base_url=url), list_models),
    Way(
        "httpx-asyncio",
        lambda _: of_httpx(httpx, "AsyncClient"),
        lambda client, url: client.get(url),
        _run_asyncio,
        TASK_STEP,
    ),
    Way(
        "httpx2-trio-streamed",
        lambda _: of_httpx(httpx2, "AsyncClient"),
        stream_async,
        trio.run,
        TASK_STEP,
    ),
    Way("aiohttp", aiohttp_session, read_by_aiohttp, _run_asyncio, TASK_STEP),
    Way("openai-asyncio", of_openai_async, list_models_async, _run_asyncio, TASK_STEP),
]


@asynccontextmanager
async def opened(client: Any) -> AsyncIterator[Any]:
    if hasattr(client, "__aenter__"):
        async with client:
            yield client
    else:
        with client:
            yield client


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


class Open(SpanProcessor):
    """The spans that were started and have not ended."""

    def __init__(self) -> None:
        self.spans: dict[int, str] = {}

    def on_start(self, span: Span, parent_context: Any = None) -> None:  # noqa: ARG002 - as the SDK calls it
        self.spans[span.get_span_context().span_id] = span.name

    def on_end(self, span: Any) -> None:
        self.spans.pop(span.context.span_id, None)


@contextmanager
def interrupted_at(number: int, *, in_task: bool = False) -> Iterator[list[str]]:
    """Raise KeyboardInterrupt at one moment. Yield where that was, in a list, or an empty one.

    With *in_task* only where the task can go on: neither in a callback nor behind an `await`.
    """
    places: list[str] = []
    count = 0

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        code = frame.f_code
        if places or event not in {"call", "c_return"} or code.co_name in NO_MOMENTS:
            return
        if in_task and (not _is_in_task() or (event == "call" and _is_resumed(frame))):
            return
        if OF_OURS in code.co_filename or (ENTERS in code.co_filename and _is_in_ours(frame)):
            count += 1
            if count == number:
                places.append(f"{code.co_filename.rpartition('/')[2]}:{frame.f_lineno} {event}")
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield places
    finally:
        sys.setprofile(None)


def _is_in_task() -> bool:
    """Return False in a callback of the event loop: an exception there ends the loop itself."""
    return asyncio._get_running_loop() is None or asyncio.current_task() is not None


def _is_resumed(frame: FrameType) -> bool:
    """Return True behind an `await`. CPython runs no handler there: what is awaited would leak."""
    flags = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
    return bool(frame.f_code.co_flags & flags) and frame.f_lineno != frame.f_code.co_firstlineno


def _is_in_ours(frame: FrameType | None) -> bool:
    while frame is not None and ENTERS in frame.f_code.co_filename:
        frame = frame.f_back
    return frame is not None and OF_OURS in frame.f_code.co_filename


# An interrupt between the making of aiohttp's own coroutine and its first step.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_interrupt_at_any_moment_leaves_nothing_behind(memory: Memory, way: Way, kind: str):
    open_spans = Open()
    memory.tracer_provider.add_span_processor(open_spans)
    left: list[tuple[str, ...]] = []

    async def ask_and_interrupt(client: Any, url: str, number: int) -> int:
        await settled(way.ask(client, url))
        while True:
            before = context.get_current()
            with interrupted_at(number, in_task=True) as places:
                try:
                    await settled(way.ask(client, url))
                except KeyboardInterrupt:
                    pass
                else:
                    assert not places, f"swallowed at {places}"
                    return number
            assert places
            left.extend((*places, name) for name in open_spans.spans.values())
            if context.get_current() != before or current_call() is not None:
                left.append((*places, "a context"))
                context.attach(before)
            open_spans.spans.clear()
            assert not trace.get_current_span().get_span_context().is_valid
            await settled(way.ask(client, url))  # on another connection at most, and at once
            number += way.step

    with RawServer() as server:
        server.answer = server.usual = ANSWERS[kind], False
        first = 1 + WAYS.index(way) + list(ANSWERS).index(kind)

        async def main() -> int:
            async with opened(way.client(server.url)) as client:
                return await ask_and_interrupt(client, f"{server.url}/models", first)

        with assisters_otel.init(
            hosts=[server.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ):
            moments = way.run(main)

    assert moments > 100  # it was interrupted in many places
    assert left == []


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("ask", ASYNC_WAYS)
def test_an_interrupt_of_an_event_loop_leaves_nothing_behind(memory: Memory, ask: Any, kind: str):
    # It ends the whole loop, as a second Ctrl-C does, so each has one of its own. Coroutines of the
    # client's that are never awaited again are warned of, without us, too.
    open_spans = Open()
    memory.tracer_provider.add_span_processor(open_spans)
    with RawServer() as server:
        server.answer = server.usual = ANSWERS[kind], False
        with assisters_otel.init(
            hosts=[server.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
        ):
            asyncio.run(ask(server.url))
            number, left = 1 + ASYNC_WAYS.index(ask) + list(ANSWERS).index(kind), []
            is_through = False
            while not is_through:
                before = context.get_current()
                with interrupted_at(number) as places:
                    try:
                        asyncio.run(ask(server.url))
                    except KeyboardInterrupt:
                        assert places
                    else:
                        assert not places, f"swallowed at {places}"
                        is_through = True
                gc.collect()  # the client's coroutines, which may hold a span
                left += [(*places, name) for name in open_spans.spans.values()]
                if context.get_current() != before or current_call() is not None:
                    left.append((*places, "a context"))
                    context.attach(before)
                open_spans.spans.clear()
                number += LOOP_STEP

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


def test_an_interrupt_of_what_watches_the_collector_puts_nothing_off(telemetry, monkeypatch):
    deferred = telemetry._instrumentation.recorder.deferred
    deferred.watch_collector()  # as before the first request
    lost = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)  # CPython drops it there

    def profile(frame: FrameType, event: str, _: object) -> None:
        is_watcher = event == "call" and frame.f_code.co_name == "_collector" and not lost
        if is_watcher and frame.f_locals["phase"] == "stop":
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        gc.collect()
    finally:
        sys.setprofile(None)

    assert [type(one.exc_value) for one in lost] == [KeyboardInterrupt]
    assert not deferred.is_collecting()
    inside: list[bool] = []
    with in_collector(lambda: inside.append(deferred.is_collecting())):
        pass
    assert inside == [True]


def test_what_is_put_off_in_the_collector_is_not_run_there(telemetry):
    deferred = telemetry._instrumentation.recorder.deferred
    deferred.watch_collector()  # as before the first request
    places: list[bool] = []
    deferred.put(lambda: places.append(deferred.is_collecting()))

    with in_collector(deferred.run_all):  # as the first step of a request in a finalizer does
        pass
    deferred.run_all()

    assert places == [False]
