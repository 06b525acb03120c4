"""A request that nobody awaits any more, and which the garbage collector closes anywhere.

It runs also where the SDK, a span processor or an exporter of the app's holds a lock.
"""

from __future__ import annotations

import asyncio
import gc
import threading

import aiohttp
import pytest
from opentelemetry.sdk.trace import SpanProcessor

from callers import CALLERS

ASYNCIO = [one for one in CALLERS if "asyncio" in one.name]


class Locked(SpanProcessor):
    """Takes its lock for each span, as many do, and is met by the collector inside it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.refused = []
        self.is_collecting = False

    def on_end(self, span):
        if not self.lock.acquire(blocking=False):  # it would wait for ever
            self.refused.append(span.name)
            return
        try:
            if self.is_collecting:
                self.is_collecting = False
                gc.collect()
        finally:
            self.lock.release()


@pytest.fixture
def processor(memory):
    processor = Locked()
    memory.tracer_provider.add_span_processor(processor)
    gc.collect()
    gc.disable()
    yield processor
    gc.enable()


async def _by_httpx(caller, url, leave):
    async with caller.client() as client:
        await leave(client.get(url))


async def _by_aiohttp(_, url, leave):
    async with aiohttp.ClientSession() as session:
        await leave(session._request("GET", url))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize("caller", [*ASYNCIO, "aiohttp"], ids=str)
def test_a_request_that_is_collected_ends_its_span_outside_the_collector(
    api, memory, processor, caller, caplog
):
    api.answers(fault="silence")

    async def begin(sending):
        sending.send(None)
        ring = [sending]
        ring.append(ring)

    async def leave(sending):
        await asyncio.create_task(begin(sending))
        del sending
        await asyncio.sleep(0.05)
        processor.is_collecting = True
        memory.tracer_provider.get_tracer("app").start_span("work").end()

    send = _by_aiohttp if caller == "aiohttp" else _by_httpx
    asyncio.run(send(caller, f"{api.url}/models", leave))
    memory.collect()

    assert processor.refused == []
    (span,) = memory.attempts()
    (point,) = memory.points("assisters.client.request.duration")
    assert (span.end_time - span.start_time) / 1e9 == pytest.approx(point["sum"], abs=0.05)
    assert not [one for one in caplog.records if "ended span" in one.getMessage()]
