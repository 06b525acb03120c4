"""What a chunk of an event stream costs with us, beyond OpenTelemetry's httpx instrumentation.

pytest tests/bench/test_stream_cost.py --benchmark-only

Blocks of both alternate, so that the machine's drift cancels in the differences. A stream has
so many chunks that what its request costs does not show.
"""

from __future__ import annotations

import gc
import json
import time
from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

from bench.cases import API, CASES, OTEL, Bench

if TYPE_CHECKING:
    import pytest

_ROUNDS = 40
_CHUNKS = 20_000
_GOAL_US = 1.0
_EVENT = {
    "id": "chatcmpl-7Qx3",
    "object": "chat.completion.chunk",
    "created": 1767000000,
    "model": "assisters-chat-v1",
    "choices": [{"index": 0, "delta": {"content": " something"}, "finish_reason": None}],
}
_CHUNK = b"data: " + json.dumps(_EVENT).encode() + b"\n\n"
WITH_US = next(case for case in CASES if case.name == "200, theirs and we")


class _Events:
    """A body of many chunks, from memory."""

    def __iter__(self) -> Any:
        yield from [_CHUNK] * _CHUNKS
        yield b"data: [DONE]\n\n"

    def close(self) -> None:
        pass


def _read(bench: Bench) -> None:
    core = bench._pool._core

    def handle_request(_: Any) -> Any:
        headers = [(b"Content-Type", b"text/event-stream")]
        extensions = {"http_version": b"HTTP/1.1"}
        return core.Response(200, headers=headers, content=_Events(), extensions=extensions)

    bench._pool.handle_request = handle_request  # type: ignore[method-assign]
    with bench._client.stream("POST", API, content=b"{}") as response:
        for _ in response.iter_raw():
            pass


def test_cost_of_a_chunk(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    theirs: list[float] = []
    stack = ExitStack()

    def theirs_first() -> tuple[tuple[Any, ...], dict[str, Any]]:
        with ExitStack() as inner:
            bench = Bench(CASES[OTEL], inner)
            gc.collect()
            start = time.thread_time()
            _read(bench)
            theirs.append(time.thread_time() - start)
        bench = Bench(WITH_US, stack)
        gc.collect()
        return (bench,), {}

    benchmark._timer = time.thread_time
    benchmark.pedantic(_read, setup=theirs_first, teardown=lambda *_: stack.close(), rounds=_ROUNDS)

    if benchmark.stats is None:  # --benchmark-disable
        return
    ours = benchmark.stats.stats.data
    more_us = [1e6 * (o - t) / _CHUNKS for o, t in zip(ours, theirs, strict=True)]
    with capsys.disabled():
        whole_us = 1e6 * median(theirs) / _CHUNKS
        print(  # noqa: T201 - that is what it is for
            f"\n\na chunk of {len(_CHUNK)} bytes: {whole_us:.2f} µs with OpenTelemetry's, "
            f"{median(more_us):+.2f} µs with us (goal {_GOAL_US})"
        )
