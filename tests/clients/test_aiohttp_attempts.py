"""One request of an aiohttp session that makes several attempts, of which none has met an error."""

from __future__ import annotations

import asyncio
import inspect

import aiohttp
import pytest
from aiohttp.client_reqrep import ClientResponse

pytestmark = pytest.mark.usefixtures("telemetry")

DURATION = "assisters.client.request.duration"


class Own(ClientResponse):
    """Reads its headers by itself, so that nobody tells us of them."""

    async def start(self, connection):
        return await inspect.unwrap(ClientResponse.start)(self, connection)


async def a_redirect(api):
    """Followed after an answer that was read by a class of the app's own."""
    api.answers(redirect=f"{api.url}/models")
    async with aiohttp.ClientSession(response_class=Own) as session:
        return await _get(session, api)


async def a_hedge(api):
    """A middleware's second attempt, sent while the first one waits for its answer."""
    is_sent = asyncio.Event()

    async def hedge(request, handler):
        first = asyncio.create_task(handler(request))
        await is_sent.wait()
        try:
            return await handler(request)
        finally:
            first.cancel()

    async def sent(*_):
        is_sent.set()

    tracing = aiohttp.TraceConfig()
    tracing.on_request_headers_sent.append(sent)
    api.answers(fault="silence")
    async with aiohttp.ClientSession(middlewares=[hedge], trace_configs=[tracing]) as session:
        return await _get(session, api)


async def _get(session, api):
    async with session.get(f"{api.url}/rate-limit") as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("way", [a_redirect, a_hedge])
def test_an_attempt_that_follows_one_that_has_met_no_error_does_not_fail_it(
    api, memory, telemetry, way
):
    assert asyncio.run(way(api)) == 200

    assert len(api.requests) == 2
    assert telemetry.status().errors == 0
    assert memory.points("assisters.client.errors") == []
    ended_with = {point.get("error.type") for point in memory.points(DURATION)}
    assert ended_with <= {None, "CancelledError"}
    (span,) = memory.attempts()
    assert "error.type" not in span.attributes
    assert "http.request.resend_count" not in span.attributes
