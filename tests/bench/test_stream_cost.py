"""What a chunk of an event stream costs with us, beyond OpenTelemetry's httpx instrumentation.

pytest tests/bench/test_stream_cost.py --benchmark-only

Blocks of both alternate, so that the machine's drift cancels in the differences. A stream has
so many chunks that what its request costs does not show.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

import httpcore
import httpx
import pytest

from bench.cases import API, CASES, OTEL, Bench

_ROUNDS = 40
CHUNKS = 20_000
GOAL_US = 1.0
_EVENT = {
    "id": "chatcmpl-7Qx3",
    "object": "chat.completion.chunk",
    "created": 1767000000,
    "model": "assisters-chat-v1",
    "choices": [{"index": 0, "delta": {"content": " something"}, "finish_reason": None}],
}
_CHUNK = b"data: " + json.dumps(_EVENT).encode() + b"\n\n"
WITHOUT_US = CASES[OTEL]
WITH_US = next(case for case in CASES if case.name == "200, on top")


class _Events:
    """A body of many chunks, from memory."""

    def __iter__(self) -> Any:
        yield from [_CHUNK] * CHUNKS
        yield b"data: [DONE]\n\n"

    def close(self) -> None:
        pass


class _AsyncEvents:
    async def __aiter__(self) -> Any:
        for _ in range(CHUNKS):
            yield _CHUNK
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        pass


def _answer(content: Any) -> Any:
    headers = [(b"Content-Type", b"text/event-stream")]
    extensions = {"http_version": b"HTTP/1.1"}
    return httpcore.Response(200, headers=headers, content=content, extensions=extensions)


class _Pool:
    """Stands in the place of a transport's connection pool."""

    def handle_request(self, _: Any) -> Any:
        return _answer(_Events())

    async def handle_async_request(self, _: Any) -> Any:
        return _answer(_AsyncEvents())


def read_stream(_: Bench) -> None:
    transport = httpx.HTTPTransport(verify=False)
    transport._pool = _Pool()  # type: ignore[assignment]
    with httpx.Client(transport=transport).stream("POST", API, content=b"{}") as response:
        for _chunk in response.iter_raw():
            pass


def read_async_stream(_: Bench) -> None:
    transport = httpx.AsyncHTTPTransport(verify=False)
    transport._pool = _Pool()  # type: ignore[assignment]

    async def whole() -> None:
        client = httpx.AsyncClient(transport=transport)
        async with client.stream("POST", API, content=b"{}") as response:
            async for _chunk in response.aiter_raw():
                pass

    asyncio.run(whole())


@pytest.mark.parametrize("read", [read_stream, read_async_stream])
def test_cost_of_a_chunk(read: Any, benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    theirs: list[float] = []
    stack = ExitStack()

    def theirs_first() -> tuple[tuple[Any, ...], dict[str, Any]]:
        with ExitStack() as inner:
            bench = Bench(WITHOUT_US, inner)
            gc.collect()
            start = time.thread_time()
            read(bench)
            theirs.append(time.thread_time() - start)
        bench = Bench(WITH_US, stack)
        gc.collect()
        return (bench,), {}

    benchmark._timer = time.thread_time
    benchmark.pedantic(read, setup=theirs_first, teardown=lambda *_: stack.close(), rounds=_ROUNDS)

    if benchmark.stats is None:  # --benchmark-disable
        return
    ours = benchmark.stats.stats.data
    more_us = [1e6 * (o - t) / CHUNKS for o, t in zip(ours, theirs, strict=True)]
    with capsys.disabled():
        whole_us = 1e6 * median(theirs) / CHUNKS
        print(  # noqa: T201 - that is what it is for
            f"\n\n{read.__name__}, a chunk of {len(_CHUNK)} bytes: {whole_us:.2f} µs with "
            f"OpenTelemetry's, {median(more_us):+.2f} µs with us (goal {GOAL_US})"
        )
