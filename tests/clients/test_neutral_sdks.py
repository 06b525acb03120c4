"""The same calls of an SDK, with us and without: the app must not be able to tell."""

from __future__ import annotations

import asyncio
import gc
import inspect
import io
import logging
import re
import warnings
import weakref

import assisters
import httpx
import openai
import pytest
from opentelemetry import context

import assisters_otel
from assisters_otel.testing import FakeApi
from callers import TLS
from sizes import shared, sized

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "Say hello."}]}
ERROR_EVENT = 'data: {"choices": []}\n\ndata: {"error": {"message": "no", "code": "x"}}\n\n'

ANSWERS = {
    "a success": [{}],
    "a failure": [{"code": "insufficient_funds", "param": "model"}],
    "a recovery": [{"code": "rate_limit_exceeded"}, {"code": "model_overloaded"}, {}],
    "failures to the end": [{"code": "internal_error", "times": 5}],
    "a page of a proxy": [
        {"status": 502, "body": "<html>no</html>", "content_type": "text/html", "times": 5}
    ],
    "no answer": [{"fault": "drop", "times": 5}],
    "no http": [{"fault": "garbage", "times": 5}],
    "silence": [{"fault": "silence", "times": 5}],
    "a body that breaks off": [{"fault": "truncate"}, {}],
    "bodies that break off": [{"fault": "truncate", "times": 5}],
    "no json": [{"body": "no json", "content_type": "application/json"}],
    "nothing": [{"body": b""}],
    "small pieces": [{"chunked": True}],
    "gzip": [{"gzip": True}],
    "an error event": [{"body": ERROR_EVENT, "content_type": "text/event-stream"}],
    "no end": [{"body": "data: {}\n\n", "content_type": "text/event-stream"}],
}
PATIENCE_S = 0.3  # with a server that says nothing; else longer than any machine is busy


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0.01)
    for module in ("httpx", "httpx2"):  # reading the certificates takes long
        name = f"{module}._transports.default.create_ssl_context"
        monkeypatch.setattr(name, lambda **_kwargs: TLS)
    gc.freeze()  # what is there already, the last test's too, need not be looked through each time


# -- what is asked, the same in sync and async --------------------------------------------------


async def settled(value):
    return await value if inspect.isawaitable(value) else value


async def each(stream):
    if hasattr(stream, "__aiter__"):
        async for chunk in stream:
            yield chunk
    else:
        for chunk in stream:
            yield chunk


def seen_of(value):
    if isinstance(value, (str, bytes, dict, list, int, type(None))):
        return type(value).__name__, value
    dump = getattr(value, "model_dump", None)
    return type(value).__name__, dump() if dump else type(value).__module__


async def chat(client):
    return [seen_of(await settled(client.chat.completions.create(**CHAT)))]


async def embeddings(client):
    made = await settled(client.embeddings.create(model="assisters-embed-v1", input="hello"))
    return [seen_of(made)]


async def models(client):
    listed = await settled(client.models.list())
    return [type(listed).__name__, [seen_of(one) async for one in each(listed)]]


async def speech(client):
    made = await settled(client.audio.speech.create(model="m", input="hello", voice="a"))
    return [seen_of(made), seen_of(getattr(made, "content", None))]


async def upload(client):
    file = io.BytesIO(b"audio")
    made = await settled(client.audio.transcriptions.create(model="m", file=file))
    return [seen_of(made), file.closed]


async def streamed(client):
    stream = await settled(client.chat.completions.create(**CHAT, stream=True))
    seen = [type(stream).__name__, inspect.isgenerator(stream), getattr(stream, "__name__", "")]
    return seen + [seen_of(chunk) async for chunk in each(stream)]


async def one_chunk(client):
    stream = await settled(client.chat.completions.create(**CHAT, stream=True))
    seen = []
    async for chunk in each(stream):
        seen.append(seen_of(chunk))
        break
    close = getattr(stream, "close", None)
    await settled(close())
    response = getattr(stream, "response", None)
    return [*seen, response is None or state(response)]


async def unread(client):
    stream = await settled(client.chat.completions.create(**CHAT, stream=True))
    await settled(stream.close())
    return [type(stream).__name__]


async def raw(client):
    answer = await settled(client.chat.completions.with_raw_response.create(**CHAT))
    return [type(answer).__name__, state(answer.http_response), seen_of(answer.parse())]


async def raw_stream(client):
    answer = await settled(client.chat.completions.with_raw_response.create(**CHAT, stream=True))
    seen = [type(answer).__name__, answer.retries_taken]
    seen += [seen_of(chunk) async for chunk in each(answer.parse())]
    return [*seen, state(answer.http_response)]


async def streaming_response(client):
    manager = client.chat.completions.with_streaming_response.create(**CHAT)
    seen = [type(manager).__name__]
    if hasattr(manager, "__aenter__"):
        async with manager as answer:
            seen += [type(answer).__name__, await answer.read(), state(answer.http_response)]
    else:
        with manager as answer:
            seen += [type(answer).__name__, answer.read(), state(answer.http_response)]
    return seen


async def no_retries(client):
    return [seen_of(await settled(client.with_options(max_retries=0).models.list()))]


async def thrown_into(client):
    stream = client.chat.completions.create(**CHAT, stream=True)
    seen = [seen_of(next(stream)), stream.gi_yieldfrom is not None or stream.gi_frame is not None]
    try:
        stream.throw(KeyError("mine"))
    except KeyError as error:
        seen.append(str(error))
    return [*seen, list(stream)]


OPENAI = [
    chat,
    embeddings,
    models,
    speech,
    upload,
    streamed,
    one_chunk,
    unread,
    raw,
    raw_stream,
    streaming_response,
    no_retries,
]
ASSISTERS = [
    chat,
    embeddings,
    lambda client: speech(Without(client, "voice")),
    upload,
    streamed,
    one_chunk,
    unread,
    thrown_into,
]


class Without:
    """The `assisters` SDK names nothing else than `openai` does here."""

    def __init__(self, client, _name):
        self.audio = client.audio


# -- with what ----------------------------------------------------------------------------------


def of_openai(kind, http=None, **options):
    def make(api, timeout_s=30):
        own = http(trust_env=False, timeout=timeout_s) if http else None
        return kind(
            base_url=api.url, api_key="ask_k", http_client=own, timeout=timeout_s, **options
        )

    return make


def of_assisters(**options):
    def make(api, timeout_s=30):
        return assisters.Assisters("ask_k", base_url=api.url, timeout=timeout_s, **options)

    return make


CLIENTS = {
    "openai": (of_openai(openai.OpenAI), OPENAI),
    "openai-async": (of_openai(openai.AsyncOpenAI), OPENAI),
    "openai-no-retries": (of_openai(openai.OpenAI, max_retries=0), [chat, streamed]),
    "openai-own": (of_openai(openai.OpenAI, openai.DefaultHttpxClient), [chat, one_chunk]),
    "openai-legacy": (of_openai(openai.OpenAI, httpx.Client), [chat, streamed, raw]),
    "openai-legacy-async": (of_openai(openai.AsyncOpenAI, httpx.AsyncClient), [chat, one_chunk]),
    "assisters": (of_assisters(), ASSISTERS),
    "assisters-no-retries": (of_assisters(max_retries=0), [chat]),
}
CASES = [
    pytest.param(row + column, make, ask, id=f"{name}-{getattr(ask, '__name__', 'speech')}")
    for row, (name, (make, asks)) in enumerate(CLIENTS.items())
    for column, ask in enumerate(asks)
]


def state(response):
    headers = {
        name: value
        for name, value in response.headers.items()
        if name not in {"date", "x-processing-time-ms"} and "ratelimit" not in name
    }
    try:
        elapsed = response.elapsed.total_seconds() >= 0
    except RuntimeError as error:
        elapsed = str(error)
    return (
        response.status_code,
        headers,
        elapsed,
        response.is_closed,
        response.is_stream_consumed,
        response.http_version,
        sorted(response.extensions),
        sorted(response.request.headers),
    )


def told_of(error):
    """Class, text, attributes, causes, and the function in which it was raised."""
    told = []
    while error is not None and len(told) < 9:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        code = trace.tb_frame.f_code if trace else None
        told.append(
            (
                type(error).__qualname__,
                re.sub(r"[0-9a-f]{12}", "(address)", str(error)),
                code and (code.co_filename, code.co_name),
                {
                    name: getattr(error, name)
                    for name in ("status_code", "status", "code", "type", "param", "body")
                    if hasattr(error, name)
                },
                state(error.response) if hasattr(error, "response") else None,
                error.__suppress_context__,
            )
        )
        error = error.__cause__ or error.__context__
    return told


def sent(api):
    """What the server got: all but the times, and the `traceparent` that tracing is."""
    return [
        (
            request.method,
            request.path,
            b""
            if b"multipart" in request.headers.get("content-type", "").encode()
            else request.body,
            sorted(name for name in request.headers if name != "traceparent"),
            request.headers.get("x-stainless-retry-count"),
        )
        for request in api.requests
    ]


class Lines(logging.Handler):
    def __init__(self):
        super().__init__(logging.INFO)
        self.lines = []

    def emit(self, record):
        self.lines.append((record.name, record.levelname, record.msg))


async def observed(api, make, ask, timeout_s):
    before = context.get_current()
    client = make(api, timeout_s)
    try:
        seen = await ask(client)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        seen = told_of(error)
    requests = sent(api)
    api.reset()
    try:
        after = await models(client)  # by a connection that can be used again, or not
    except AssertionError as error:  # what assisters has instead of max_retries=0
        after = told_of(error)
    await settled(client.close())
    return [seen, requests, after, context.get_current() is before]


def all_of_it(api, make, ask, answers):
    api.reset()
    connections = api.connections
    for answer in answers:
        api.answers(**{"request_id": "req_1", **answer})
    log = Lines()
    for name in ("openai", "httpx", "httpx2"):
        logging.getLogger(name).addHandler(log)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        is_silent = any(answer.get("fault") == "silence" for answer in answers)
        seen = asyncio.run(observed(api, make, ask, PATIENCE_S if is_silent else 30))
        gc.collect()
    for name in ("openai", "httpx", "httpx2"):
        logging.getLogger(name).removeHandler(log)
    warned = sorted(str(one.message).partition(" 0x")[0] for one in warned)
    return (seen, log.lines, warned), api.connections - connections


@pytest.mark.sampled
@pytest.mark.parametrize(("number", "make", "ask"), CASES)
def test_an_sdk_s_caller_cannot_tell_that_we_are_there(number, make, ask, memory):
    with FakeApi() as api:
        different = {}
        connections = {}
        for name, answers in shared(ANSWERS.items(), number, 2):
            if name == "silence" and ask not in (chat, streamed):
                continue  # waiting it out takes long, and is the same for all
            without, connected = all_of_it(api, make, ask, answers)
            with assisters_otel.init(
                hosts=[api.url],
                tracer_provider=memory.tracer_provider,
                meter_provider=memory.meter_provider,
                strict=True,
            ):
                ours, reconnected = all_of_it(api, make, ask, answers)
            if ours != without:
                different[name] = (without, ours)
            if reconnected > connected:  # fewer is what reading a failed answer does
                connections[name] = (connected, reconnected)

    assert not different
    assert not connections
    assert memory.calls()


@pytest.mark.parametrize(
    "path",
    [
        "openai._base_client.SyncAPIClient.request",
        "openai._base_client.AsyncAPIClient.request",
        "assisters.Assisters._request",
        "assisters.Assisters._request_bytes",
        "assisters.Assisters._stream",
    ],
)
def test_a_method_looks_the_same(path, telemetry):
    def looks():
        method = {"openai": openai, "assisters": assisters}[path.partition(".")[0]]
        for name in path.split(".")[1:]:
            method = getattr(method, name)
        return (
            str(inspect.signature(method)),
            method.__name__,
            method.__qualname__,
            method.__module__,
            method.__doc__,
            inspect.isfunction(method),
            inspect.iscoroutinefunction(method),
            inspect.isgeneratorfunction(method),
        )

    ours = looks()
    telemetry.shutdown()

    assert looks() == ours


def cancelled_calls(api):
    """A task is cancelled while it waits for the answer, and while it reads the stream."""

    async def main():
        seen = []
        before = context.get_current()
        async with of_openai(openai.AsyncOpenAI)(api) as client:
            api.answers(delay_s=60)
            for ask in (chat, streamed):
                task = asyncio.create_task(ask(client))
                while not api.requests:  # noqa: ASYNC110 - a server in another thread sets no event
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError as error:
                    seen.append((type(error), str(error)))
                api.reset()
                api.answers(chunked=True, chunk_delay_s=60)
            api.reset()
            api.answers(delay_s=60)
            try:
                await asyncio.wait_for(chat(client), 0.5)
            except asyncio.TimeoutError as error:
                seen.append(type(error))
            api.reset()
            seen.append(await chat(client))
        return [*seen, context.get_current() is before]

    connections = api.connections
    return asyncio.run(main()), api.connections - connections


def test_a_cancelled_task_cannot_tell(memory):
    with FakeApi() as api:
        without = cancelled_calls(api)
        with assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ):
            ours = cancelled_calls(api)

    assert ours == without
    outcomes = [one.attributes["assisters.call.outcome"] for one in memory.calls()]
    assert outcomes == ["cancelled", "cancelled", "cancelled", "ok"]


@pytest.mark.parametrize(
    "make", [of_openai(openai.OpenAI), of_assisters()], ids=["openai", "assisters"]
)
def test_streams_that_nobody_closes_are_freed_and_told_of_once(make, telemetry, memory):
    many = sized(50)
    with FakeApi() as api:
        telemetry.shutdown()
        with assisters_otel.init(
            hosts=[api.url],
            tracer_provider=memory.tracer_provider,
            meter_provider=memory.meter_provider,
            strict=True,
        ) as on:
            for _ in range(many):
                client = make(api)
                stream = client.chat.completions.create(**CHAT, stream=True)
                next(stream)
                del stream
                client.close()
            freed = weakref.ref(client)
            del client
            gc.collect()
            assert freed() is None
            on.flush()
            outcomes = [one.attributes["assisters.call.outcome"] for one in memory.calls()]

    assert outcomes == ["cancelled"] * many
