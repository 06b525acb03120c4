"""An interpreter that exits while streams are open: it ends at once, and each stream is told of."""

from __future__ import annotations

import pytest

from otlp import Collector
from scripts import run

SLACK_S = 10  # on a busy machine; without a limit it would be for ever

HEAD = """
import asyncio, atexit, sys, threading, time
atexit.register(lambda: print(time.time()))  # registered first, it runs last
import assisters_otel
assisters_otel.init("exits", hosts=[URL])
import httpx
import openai

asked = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}

def by_httpx():
    client = httpx.Client(trust_env=False, verify=False)
    request = client.build_request("POST", URL + "/chat/completions", json=asked)
    chunks = client.send(request, stream=True).iter_raw()
    next(chunks)
    return client, chunks

def by_openai():
    client = openai.OpenAI(base_url=URL, api_key="ask_x", max_retries=0)
    stream = client.chat.completions.create(**asked)
    next(iter(stream))
    return client, stream

async def by_openai_async():
    client = openai.AsyncOpenAI(base_url=URL, api_key="ask_x", max_retries=0)
    chunks = (await client.chat.completions.create(**asked)).__aiter__()
    await chunks.__anext__()
    return client, chunks
"""

SYNC = """
kept = [by_httpx(), by_openai()]
"""
EXIT = """
kept = [by_httpx(), by_openai()]
print(time.time())
sys.exit(0)
"""
THREADS = """
ready = threading.Barrier(5)

def read(begin):
    kept = begin()
    ready.wait()
    for _ in kept[-1]:
        pass

for begin in (by_httpx, by_httpx, by_openai, by_openai):
    threading.Thread(target=read, args=(begin,), daemon=True).start()
ready.wait()
"""
LOOP_IN_A_THREAD = """
ready = threading.Event()

async def main():
    kept = [await by_openai_async(), await by_openai_async()]
    ready.set()
    async for _ in kept[-1][1]:
        pass

threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
ready.wait()
"""
LOOP = """
async def main():
    return [await by_openai_async(), await by_openai_async()]

kept = asyncio.run(main())
"""
WAYS = [
    # script, streams, how they have ended: asyncio.run closes what is open in its loop
    pytest.param(SYNC, 2, "abandoned", id="sync"),
    pytest.param(EXIT, 2, "abandoned", id="sys.exit"),
    pytest.param(THREADS, 4, "abandoned", id="daemon threads that read"),
    pytest.param(LOOP_IN_A_THREAD, 2, "abandoned", id="a loop that runs in a daemon thread"),
    pytest.param(LOOP, 2, "cancelled", id="a loop that has ended"),
]


@pytest.mark.parametrize(("way", "streams", "outcome"), WAYS)
def test_a_stream_that_is_open_at_exit_is_exported_and_holds_nothing_up(api, way, streams, outcome):
    # Half of the answer, and then nothing: whoever reads waits for ever.
    api.answers(fault="stall", times=streams)
    with Collector() as collector:
        done = run(
            f"URL = {api.url!r}\n{HEAD}\n{way}\nprint(time.time())\n",
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        )

        assert done.code == 0
        # What asyncio says of generators that it cannot close it says without us as well.
        assert "assisters_otel" not in done.err
        assert way is LOOP or not done.err
        left_at, ended_at = map(float, done.out.split())
        assert ended_at - left_at < 5 + SLACK_S
        spans = [s.attributes for s in collector.spans()]
        told = [one for one in spans if "assisters.stream.outcome" in one]
        assert [one["assisters.stream.outcome"] for one in told] == [outcome] * streams
        calls = [one["assisters.call.outcome"] for one in told if "assisters.call.outcome" in one]
        assert set(calls) == {"cancelled"}
        points = collector.points("assisters.client.request.duration")
        assert sum(point.count for point in points) == streams
        assert not collector.points("assisters.client.errors")
