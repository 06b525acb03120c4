"""A failed answer of aiohttp's that is not whole when its caller's time is up, with us and without.

The library waits for its beginning. What came in time, and what then is raised, is the caller's.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
import pytest
from aiohttp.base_protocol import BaseProtocol

import assisters_otel
from assisters_otel.clients.aiohttp import stream_reader
from exception_chains import kinds
from memory import watching

READS = {
    "read": lambda content: content.read(),
    "readany": lambda content: content.readany(),
    "read(10)": lambda content: content.read(10),
    "readexactly": lambda content: content.readexactly(10),
    "readchunk": lambda content: content.readchunk(),
    "readline": lambda content: content.readline(),
}
LIMITS = {
    "total": aiohttp.ClientTimeout(total=0.5),
    "sock_read": aiohttp.ClientTimeout(sock_read=0.5),
    "total before sock_read": aiohttp.ClientTimeout(total=0.5, sock_read=60),
}


async def _read(url, limit, read):
    """Return what is read, step by step, until something is raised twice."""
    seen, raised = [], 0
    async with aiohttp.ClientSession(timeout=limit) as session:
        response = await session.get(f"{url}/models")
        while raised < 2:
            try:
                seen.append(await read(response.content))
            except (aiohttp.ClientError, asyncio.TimeoutError) as error:  # noqa: PERF203 - it goes on
                seen.append(kinds(error) if not raised else type(error))
                raised += 1
        response.close()
    return seen


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("read", READS)
def test_a_failed_answer_that_is_late_is_read_as_without_us(api, memory, read, limit):
    def met():
        api.answers(status=500, body=b"{" + b"x" * 200 + b"}", fault="stall")
        return asyncio.run(_read(api.url, LIMITS[limit], READS[read]))

    # On a busy machine the limit may be over before the app begins to read, now and then.
    for _ in range(3):
        expected = met()
        memory.clear()
        with watching(api, memory):
            found = met()
        assert memory.attempt().attributes["http.response.status_code"] == 500
        if found == expected:
            return
    assert found == expected


HEAD = b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"


def test_both_clocks_may_ring_in_one_step_of_the_loop(memory):
    """The library's own, and that of aiohttp, which begins again with each part of a body."""

    writers = []

    async def answer(reader, writer):
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        await asyncio.sleep(0.05)
        writer.write(b"{begun")
        asyncio.get_running_loop().call_later(0.3, time.sleep, 0.5)  # until both are due

    async def whole():
        limit = aiohttp.ClientTimeout(sock_read=0.5)
        async with (
            await asyncio.start_server(answer, "127.0.0.1", 0) as server,
            aiohttp.ClientSession(timeout=limit) as session,
        ):
            port = server.sockets[0].getsockname()[1]
            with assisters_otel.init(
                hosts=[f"127.0.0.1:{port}"],
                tracer_provider=memory.tracer_provider,
                meter_provider=memory.meter_provider,
                strict=True,
            ):
                response = await session.get(f"http://127.0.0.1:{port}/v1/models")
                first = await response.content.readany()
                with pytest.raises(aiohttp.SocketTimeoutError):
                    await response.content.readany()
                response.close()
                for writer in writers:
                    writer.close()
                    await writer.wait_closed()
                return first

    assert asyncio.run(whole()) == b"{begun"


def test_a_body_that_breaks_right_behind_its_first_bytes_is_read_as_far_as_it_came():
    """As of a chunked body with one good chunk: aiohttp reports both in one step."""

    async def read():
        loop = asyncio.get_running_loop()
        protocol = BaseProtocol(loop)
        protocol.connection_made(asyncio.Transport())
        reader = aiohttp.StreamReader(protocol, 2**16, loop=loop)
        waiting = asyncio.create_task(stream_reader.wait_for_read_ahead(reader, 60))
        await asyncio.sleep(0)
        reader.feed_data(b"first")
        reader.set_exception(aiohttp.ClientPayloadError("broke off"))
        await waiting
        assert await reader.readany() == b"first"
        with pytest.raises(aiohttp.ClientPayloadError, match="broke off"):
            await reader.readany()

    asyncio.run(read())


@pytest.mark.usefixtures("telemetry")
def test_the_time_before_a_request_is_awaited_is_not_of_its_limit(api, memory):
    """Its body comes late, and within the limit."""
    whole = b'{"error": {"type": "invalid_request_error", "code": "invalid_model"}}'
    api.answers(status=400, body=[whole[:20], whole[20:]], chunk_delay_s=0.1)

    async def main():
        async with aiohttp.ClientSession(timeout=LIMITS["total"]) as session:
            made = session.get(f"{api.url}/models")
            await asyncio.sleep(0.6)
            async with made as response:
                return await response.read()

    assert asyncio.run(main()) == whole
    assert memory.attempt().attributes["error.code"] == "invalid_model"
