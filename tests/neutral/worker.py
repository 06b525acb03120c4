"""A process that plays scenarios and tells what an app can see: python worker.py bare|otel|ours.

It reads a scenario from each line of its input, a Python literal, and writes one line for it.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import logging
import re
import sys
import traceback
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import assisters
import httpx
import httpx2
import openai
import requests
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scenario import HTTPX, KIB, Scenario

import assisters_otel
from assisters_otel.testing import FakeApi
from callers import CALLERS, TLS

BY_NAME = {caller.name: caller for caller in CALLERS}
JSON = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "h\u00e9"}]}
STYLES = {"raw": "iter_raw", "bytes": "iter_bytes", "lines": "iter_lines", "text": "iter_text"}
CLIENTS = ("httpx", "httpcore", "requests", "urllib3", "aiohttp", "openai", "assisters", "h11")
VOLATILE = {"date", "x-processing-time-ms", "x-request-id"}
ADDED = {"traceparent", "tracestate"}


def switch_on(mode: str, api: FakeApi) -> None:
    """Switch telemetry on, or nothing."""
    if mode == "bare":
        return
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))
    meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
    options: dict[str, Any] = {"tracer_provider": tracers, "meter_provider": meters}
    if mode == "ours":
        assisters_otel.init(hosts=[api.url], strict=True, **options)
        return
    from opentelemetry.instrumentation import aiohttp_client
    from opentelemetry.instrumentation import httpx as httpx_
    from opentelemetry.instrumentation import requests as requests_

    aiohttp_client.AioHttpClientInstrumentor().instrument(**options)
    httpx_.HTTPXClientInstrumentor().instrument(**options)
    httpx_.HTTPX2ClientInstrumentor().instrument(**options)
    requests_.RequestsInstrumentor().instrument(**options)


class Events(logging.Handler):
    """What happened, in its order: the client's log, hooks, and what the app did."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        # The server's is of another thread: it comes before the client's line or after it.
        if not record.name.startswith(("assisters_otel", "opentelemetry", "asyncio", "uvicorn")):
            self.seen.append((record.name, record.levelname, record.getMessage()))

    def tell(self, *what: Any) -> None:
        self.seen.append(tuple(map(short, what)))


def short(told: Any) -> Any:
    """A large body's length and digest, in place of it; all else as it is."""
    if isinstance(told, (str, bytes)) and len(told) > 4 * KIB:
        data = told.encode("utf-8", "surrogatepass") if isinstance(told, str) else told
        return type(told).__name__, len(told), sha256(data).hexdigest()
    return told


def told(error: BaseException) -> list[Any]:
    """An exception, its causes, and where in the client each was raised."""
    chain: list[Any] = []
    one: BaseException | None = error
    while one is not None and len(chain) < 4:
        frames = traceback.extract_tb(one.__traceback__)
        where = []
        for frame in frames:
            _, _, within = frame.filename.partition("site-packages/")
            if within.startswith(CLIENTS):
                where.append(f"{within.partition('/')[0]}:{frame.name}")
        if where[-1:] == ["aiohttp:_wait"]:
            where.pop()  # what has waited behind bytes read ahead, a `_wait` of ours raises
        kind = type(one)
        chain.append((kind.__module__, kind.__qualname__, short(str(one)), where))
        chain.append(sorted(name for name in vars(one) if not name.startswith("_")))
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return chain


def headers_of(headers: Any) -> list[Any]:
    return sorted(
        (name.lower(), value)
        for name, value in headers.items()
        if name.lower() not in VOLATILE | ADDED and not name.lower().startswith("x-ratelimit")
    )


def body_of(scenario: Scenario, *, is_async: bool, content: str = "content") -> dict[str, Any]:
    def generator() -> Any:
        yield b'{"a": '
        yield b"1}"

    async def generator_async() -> Any:
        yield b'{"a": '
        yield b"1}"

    if scenario.body == "json":
        return {"json": JSON}
    if scenario.body == "multipart":
        boundary = {"content-type": "multipart/form-data; boundary=b"}
        if content == "content":
            return {"files": {"file": ("a.txt", b"text")}, "headers": boundary}
        part = b'--b\r\ncontent-disposition: form-data; name="f"\r\n\r\ntext\r\n--b--\r\n'
        return {content: part, "headers": boundary}
    if scenario.body == "generator":
        return {content: generator_async() if is_async else generator()}
    bodies = {"bytes": b"{}", "large": b'{"a": "' + b"x" * 200 * KIB + b'"}'}
    return {content: bodies[scenario.body]} if scenario.body in bodies else {}


# -- httpx and httpx2 --------------------------------------------------------------------------


def state(response: Any, *, counted: bool) -> list[Any]:
    try:
        elapsed: Any = response.elapsed.total_seconds() >= 0
    except RuntimeError as error:
        elapsed = str(error)
    return [
        response.status_code,
        response.reason_phrase,
        response.http_version,
        headers_of(response.headers),
        elapsed,
        response.num_bytes_downloaded if counted else None,
        (response.is_closed, response.is_stream_consumed, response.encoding),
        sorted(response.extensions),
        len(response.history),
        response.next_request is not None,
        headers_of(response.request.headers),
        sorted(response.request.extensions),
        [type(response).__name__, type(response.request.stream).__name__],
    ]


def by_httpx(scenario: Scenario, url: str, events: Events) -> None:  # noqa: C901, PLR0915 - a script, told in its order
    caller = BY_NAME[scenario.client]
    is_async = caller.run is not None
    # What has arrived by the first chunk is a matter of chance.
    counted = scenario.read not in {"first", "none"} and scenario.cancel_s is None

    def hook(name: str) -> Any:
        def sync(message: Any) -> None:
            events.tell("hook", name, type(message).__name__, message.extensions.keys() >= {"x"})

        async def asynchronous(message: Any) -> None:
            sync(message)

        return asynchronous if is_async else sync

    async def once(at: Any) -> None:
        body = body_of(scenario, is_async=is_async)
        request = at.client.build_request(scenario.method, url, **body)
        own = request.headers
        result = at.client.send(request, stream=scenario.stream, follow_redirects=scenario.follow)
        response = await result if is_async else result
        events.tell("answered", state(response, counted=counted))
        events.tell("same request", request.headers is own, response.request is request)
        try:
            if not scenario.stream:
                events.tell("content", response.content, response.text)
            elif scenario.read == "all":
                events.tell("read", await at.read(response))
            elif scenario.read == "first":
                events.tell("first", await at.first(response, "iter_raw") is not None)
            elif scenario.read != "none":
                chunks = await at.chunks(response, STYLES[scenario.read])
                exact = scenario.apart or scenario.read == "lines"
                events.tell("chunks", chunks if exact else joined(chunks))
            events.tell("read", state(response, counted=counted))
        finally:
            if scenario.close != "dropped":
                for _ in range(2 if scenario.close == "twice" else 1):
                    await at.close(response)
                events.tell("closed", state(response, counted=counted))

    async def script(at: Any) -> None:
        try:
            if scenario.cancel_s is not None and is_async:
                await asyncio.wait_for(once(at), scenario.cancel_s)
            else:
                await once(at)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            events.tell("raised", told(error))
            if hasattr(error, "_request"):
                events.tell("its request", headers_of(error.request.headers))
            del error
        gc.collect()
        try:
            after = await at.request("GET", url, timeout=scenario.timeout_after_s)
            events.tell("after", after.status_code)
        except Exception as error:  # noqa: BLE001 - what it meets is what was left of the script
            events.tell("after", told(error))
            del error

    options = {
        "limits": caller.module.Limits(max_connections=2),
        "timeout": scenario.timeout_s,
        "event_hooks": {"request": [hook("request")], "response": [hook("response")]},
    }
    caller.use(caller.client(**options), script)


def joined(chunks: list[Any]) -> Any:
    return type(chunks[0])().join(chunks) if chunks else None


# -- requests ------------------------------------------------------------------------------------


def by_requests(scenario: Scenario, url: str, events: Events) -> None:  # noqa: C901 - a script, told in its order
    def hook(response: Any, **_: Any) -> None:
        events.tell("hook", response.status_code, response.elapsed.total_seconds() >= 0)

    def state(response: Any) -> list[Any]:
        raw = response.raw
        return [
            response.status_code,
            response.reason,
            headers_of(response.headers),
            response.elapsed.total_seconds() >= 0,
            [one.status_code for one in response.history],
            headers_of(response.request.headers),
            (response.encoding, response.ok, response.is_redirect),
            (type(response).__name__, type(raw).__name__, response._content_consumed),
        ]

    with requests.Session() as session:
        session.trust_env = False
        session.hooks["response"].append(hook)
        try:
            response = session.request(
                scenario.method,
                url,
                allow_redirects=scenario.follow,
                stream=scenario.stream,
                timeout=scenario.timeout_s,
                **body_of(scenario, is_async=False, content="data"),
            )
            events.tell("answered", state(response))
            if scenario.read == "raw" and scenario.stream:
                events.tell("raw", response.raw.read(), response.raw.tell(), response.raw.closed)
            elif scenario.apart:
                events.tell("chunks", list(response.iter_content(None)))
            elif scenario.read == "bytes":
                events.tell("bytes", b"".join(response.iter_content(1000)))
            elif scenario.read == "lines":
                events.tell("lines", list(response.iter_lines()))
            elif scenario.read == "first":
                events.tell("first", next(response.iter_content(10), None))
            elif scenario.read != "none":
                events.tell("content", response.content, response.text)
            if scenario.close != "dropped":
                response.close()
            events.tell("closed", state(response))
            del response
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            events.tell("raised", told(error))
            del error
        gc.collect()
        try:
            events.tell("after", session.get(url, timeout=scenario.timeout_after_s).status_code)
        except Exception as error:  # noqa: BLE001 - what it meets is what was left of the script
            events.tell("after", told(error))
            del error


# -- aiohttp -------------------------------------------------------------------------------------


def by_aiohttp(scenario: Scenario, url: str, events: Events) -> None:  # noqa: C901 - a script, told in its order
    def state(response: Any) -> list[Any]:
        return [
            response.status,
            response.reason,
            str(response.version),
            headers_of(response.headers),
            [one.status for one in response.history],
            headers_of(response.request_info.headers),
            (response.method, response.ok, type(response).__name__),
        ]

    async def once(session: Any) -> None:
        async with session.request(
            scenario.method,
            url,
            allow_redirects=scenario.follow,
            **body_of(scenario, is_async=True, content="data"),
        ) as response:
            events.tell("answered", state(response))
            if scenario.apart:
                events.tell("chunks", [one async for one in response.content.iter_chunks()])
            elif scenario.read == "lines":
                events.tell("lines", [line async for line in response.content])
            elif scenario.read in {"raw", "bytes"}:
                events.tell("bytes", b"".join([c async for c in response.content.iter_any()]))
            elif scenario.read == "first":
                events.tell("first", await response.content.read(10))
            elif scenario.read == "text":
                events.tell("text", await response.text())
            elif scenario.read != "none":
                events.tell("content", await response.read())
            if scenario.close == "twice":
                response.close()
        events.tell("closed", state(response), response.closed)

    async def main() -> None:
        timeout = aiohttp.ClientTimeout(sock_read=scenario.timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                await asyncio.wait_for(once(session), scenario.cancel_s)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
                events.tell("raised", told(error))
                del error
            gc.collect()
            try:
                async with session.get(
                    url, timeout=aiohttp.ClientTimeout(total=scenario.timeout_after_s)
                ) as response:
                    events.tell("after", response.status, len(await response.read()) > 0)
            except Exception as error:  # noqa: BLE001 - it meets what was left of the script
                events.tell("after", told(error))
                del error

    asyncio.run(main())


# -- SDKs ----------------------------------------------------------------------------------------


def by_openai(scenario: Scenario, url: str, events: Events) -> None:  # noqa: C901 - a script, told in its order
    base = url.rpartition("/")[0]
    kind: Any = openai.OpenAI if scenario.client == "openai" else openai.AsyncOpenAI
    options = {"base_url": base, "api_key": "ask_test_0", "timeout": scenario.timeout_s}
    retries = len(scenario.answers) - 1

    async def once(client: Any) -> None:
        result = client.chat.completions.create(**JSON, stream=scenario.stream)
        made = await result if scenario.client != "openai" else result
        events.tell("made", type(made).__name__)
        if not scenario.stream:
            events.tell("model", made.model_dump() if hasattr(made, "model_dump") else repr(made))
            return
        events.tell("response", headers_of(made.response.headers), made.response.status_code)
        chunks = []
        if scenario.client == "openai":
            for chunk in made:
                chunks.append(chunk.model_dump())
                if scenario.read == "first":
                    break
            made.close()
        else:
            async for chunk in made:
                chunks.append(chunk.model_dump())
                if scenario.read == "first":
                    break
            await made.close()
        events.tell("chunks", chunks, made.response.is_closed)

    async def script() -> None:
        http = (
            {"http_client": openai.DefaultAioHttpClient()} if "aiohttp" in scenario.client else {}
        )
        client = kind(max_retries=retries, **options, **http)
        try:
            if scenario.client == "openai":
                await once(client)
            else:
                await asyncio.wait_for(once(client), scenario.cancel_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
            events.tell("raised", told(error))
            if isinstance(error, openai.APIStatusError):
                events.tell("its answer", short(repr(error.body)), error.code, error.status_code)
                events.tell("its headers", headers_of(error.response.headers))
            del error
        gc.collect()
        if scenario.client == "openai":
            client.close()
        else:
            await client.close()

    if scenario.client == "openai":
        with_suppress(script())
    else:
        asyncio.run(script())


def with_suppress(script: Any) -> None:
    try:
        script.send(None)
    except StopIteration:
        return
    raise AssertionError("a sync script waited")


def by_assisters(scenario: Scenario, url: str, events: Events) -> None:
    client = assisters.Assisters(
        base_url=url.rpartition("/")[0],
        api_key="ask_test_0",
        max_retries=len(scenario.answers) - 1,
        timeout=scenario.timeout_s,
    )
    try:
        made: Any = client.chat.completions.create(**JSON, stream=scenario.stream)
        events.tell("made", type(made).__name__)
        if scenario.stream:
            made = list(made) if scenario.read != "first" else next(iter(made))
        events.tell("told", repr(made))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is compared
        events.tell("raised", told(error))
        del error
    gc.collect()
    client.close()


# -- one scenario ----------------------------------------------------------------------------------


def play(scenario: Scenario, api: FakeApi, events: Events) -> list[Any]:
    """Play one scenario, and give what could be seen of it."""
    api.reset()
    connections = api.connections
    events.seen.clear()
    for answer in scenario.answers:
        api.answers(**{"request_id": "req_1", **answer})
    url = f"{api.url}/models"
    if scenario.client in HTTPX:
        by: Any = by_httpx
    else:
        by = {"requests": by_requests, "aiohttp": by_aiohttp, "assisters": by_assisters}.get(
            scenario.client, by_openai
        )
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        by(scenario, url, events)
        gc.collect()
    server = [
        (one.method, one.path, one.query, headers_of(one.headers), short(one.body))
        for one in api.requests
    ]
    kinds = sorted({warning.category.__name__ for warning in warned})
    return [list(events.seen), kinds, server, api.connections - connections]


_VARIES = re.compile(
    r"(?<=127\.0\.0\.1:)\d+|(?<=port=)\d+|(?<=0x)[0-9a-f]+|(?<=chatcmpl-)\w+|(?<=created': )\d+"
    r"|(?<=created=)\d+|(?<=req_)\w+"
)


def main() -> None:
    """Serve."""
    openai.OpenAI._calculate_retry_timeout = lambda *_a, **_k: 0.0  # type: ignore[method-assign]
    openai.AsyncOpenAI._calculate_retry_timeout = lambda *_a, **_k: 0.0  # type: ignore[method-assign]
    for module in (httpx, httpx2):  # reading the certificates takes long
        module._transports.default.create_ssl_context = lambda **_: TLS
    events = Events()
    logging.getLogger().addHandler(events)
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger("assisters_otel").propagate = False
    with FakeApi() as api:
        switch_on(sys.argv[1], api)
        gc.freeze()  # what is there already need not be collected anew each time
        for line in sys.stdin:
            scenario = Scenario(**ast.literal_eval(line))
            try:
                seen = repr(play(scenario, api, events))
            except BaseException as error:  # noqa: BLE001 - the test is told
                seen = repr(["the worker failed", *traceback.format_exception(error)])
            sys.stdout.write(_VARIES.sub("0", seen) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
