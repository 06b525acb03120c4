"""A storm: 50 threads or 500 tasks send requests, a tenth of which fail; are all counted?

python tests/load/storm.py threads
python tests/load/storm.py tasks

Give another number of requests as a second argument. They go through httpx's own transport,
with answers from memory in place of its connection pool. Of those that fail, every other one is
a 429 and every other one a refused connection. Where ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set,
`init` builds the providers and exports; else spans are counted and dropped.

It prints a line of JSON: what was counted, and what memory there was after each tenth of it:
memory blocks that Python holds, and the resident set in KiB.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpcore
import httpx
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

import assisters_otel
from assisters_otel.testing import answers

URL = "https://api.assisters.dev/v1/chat/completions"
THREADS = 50
TASKS = 500
FAILING = 10
STEPS = 10
COUNTED = {
    "assisters.client.request.duration",
    "assisters.client.errors",
    "assisters.client.retries",
}
_OK = b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": []}'
_LIMITED = answers.envelope(429, "rate_limit_exceeded", param="requests")
_HEADERS = [
    (b"Content-Type", b"application/json"),
    (b"X-Request-ID", b"req_01JZK4T9V3M8Q2"),
    (b"X-RateLimit-Limit-RPM", b"60"),
    (b"X-RateLimit-Remaining-RPM", b"59"),
]


def _answer(request: httpcore.Request) -> httpcore.Response:
    number = int(dict(request.headers)[b"X-Number"])
    if number % FAILING:
        return httpcore.Response(200, headers=_HEADERS, content=_OK)
    if number % (2 * FAILING):
        return httpcore.Response(429, headers=_HEADERS, content=_LIMITED)
    raise httpcore.ConnectError("refused")


class Pool:
    """Stands in the place of a transport's connection pool."""

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        return _answer(request)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        await asyncio.sleep(0)  # so that the others come in between
        return _answer(request)


class Spans(SpanProcessor):
    """Counts and drops."""

    def __init__(self) -> None:
        self.ended = itertools.count()

    def on_end(self, _span: Any) -> None:
        next(self.ended)


def _arguments(number: int) -> dict[str, Any]:
    return {"content": b'{"n": %d}' % number, "headers": {"X-Number": str(number)}}


def threads(numbers: range) -> None:
    transport = httpx.HTTPTransport(verify=False)
    transport._pool = Pool()
    left = iter(numbers)
    lock = threading.Lock()

    def send() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            try:
                client.post(URL, **_arguments(number))
            except httpx.ConnectError:
                assert not number % (2 * FAILING)

    client = httpx.Client(transport=transport)
    crowd = [threading.Thread(target=send) for _ in range(THREADS)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()


def tasks(numbers: range) -> None:
    transport = httpx.AsyncHTTPTransport(verify=False)
    transport._pool = Pool()
    left = iter(numbers)

    async def one(client: httpx.AsyncClient, number: int) -> None:
        try:
            await client.post(URL, **_arguments(number))
        except httpx.ConnectError:
            assert not number % (2 * FAILING)

    async def send(client: httpx.AsyncClient) -> None:
        for number in left:
            await one(client, number)

    async def whole() -> None:
        client = httpx.AsyncClient(transport=transport)
        await asyncio.gather(*(send(client) for _ in range(TASKS)))

    asyncio.run(whole())


def _resident_kib() -> int:
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def _counts(reader: InMemoryMetricReader) -> dict[str, int]:
    data = reader.get_metrics_data()
    counts: dict[str, int] = {}
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    if metric.name in COUNTED:
                        number = getattr(point, "count", None) or point.value
                        counts[metric.name] = counts.get(metric.name, 0) + number
    return counts


def main(way: str, requests: int) -> dict[str, Any]:
    logging.getLogger("assisters_otel").setLevel(logging.ERROR)
    spans, reader, own = Spans(), InMemoryMetricReader(), {}
    if "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ:
        tracers = TracerProvider(shutdown_on_exit=False)
        tracers.add_span_processor(spans)
        meters = MeterProvider([reader], shutdown_on_exit=False)
        own = {"tracer_provider": tracers, "meter_provider": meters}
    telemetry = assisters_otel.init("storm", strict=True, **own)
    storm = {"threads": threads, "tasks": tasks}[way]
    memory = []
    started_s = time.perf_counter()
    for step in range(STEPS):
        storm(range(step * requests // STEPS, (step + 1) * requests // STEPS))
        gc.collect()
        memory.append((sys.getallocatedblocks(), _resident_kib()))
    took_s = time.perf_counter() - started_s
    status = telemetry.status()
    told = {
        "attempts": status.attempts,
        "errors": status.errors,
        "last_failure": status.last_failure,
        "spans": next(spans.ended) if own else None,
        "metrics": _counts(reader) if own else None,
        "memory": memory,
        "took_s": round(took_s, 1),
    }
    telemetry.shutdown()
    return told


if __name__ == "__main__":
    sys.stdout.write(
        json.dumps(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)) + "\n"
    )
