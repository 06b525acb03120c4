"""The tokens on the metric are those that the API has told, whatever becomes of the calls."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import assisters
import httpx
import httpx2
import openai
import pytest

TOKENS = "gen_ai.client.token.usage"
ATTEMPTS = "assisters.client.call.attempts"
USED = {"stream": True, "stream_options": {"include_usage": True}}
BROKEN = (openai.APIError, httpx.HTTPError, httpx2.HTTPError)
ROUNDS = 50
WORKERS = 8


def asked(number, words=1):
    content = " ".join(["word"] * (1 + (number * words) % 17))
    model = f"assisters-chat-v{1 + number % 3}"
    return {"model": model, "messages": [{"role": "user", "content": content}]}


def plain(client, _api, number):
    client.chat.completions.create(**asked(number))


def several(client, _api, number):
    client.chat.completions.create(**asked(number), n=1 + number % 3)


def raw(client, _api, number):
    client.chat.completions.with_raw_response.create(**asked(number)).parse()


def streamed(client, _api, number):
    for _ in client.chat.completions.create(**asked(number), **USED, n=1 + number % 3):
        pass


def raw_and_streamed(client, _api, number):
    list(client.chat.completions.with_raw_response.create(**asked(number), **USED).parse())


def without_usage(client, _api, number):
    list(client.chat.completions.create(**asked(number), stream=True))


def embedded(client, _api, number):
    client.embeddings.create(model="assisters-embed-v1", input=["one two"] * (1 + number % 5))


CONCURRENT = (plain, several, raw, streamed, raw_and_streamed, without_usage, embedded)


def retried(client, api, number):
    api.answers("rate_limit_exceeded", "internal_error", retry_after=0)
    (streamed if number % 2 else plain)(client, api, number)


def failed(client, api, number):
    api.answers("api_key_revoked")
    with suppress(openai.AuthenticationError):
        plain(client, api, number)


def broken_off(client, api, number):
    api.answers(fault="truncate")
    with suppress(*BROKEN):
        (streamed if number % 2 else plain)(client.with_options(max_retries=0), api, number)


def without_done(client, api, number):
    api.answers(fault="unfinished")
    with suppress(*BROKEN):
        streamed(client.with_options(max_retries=0), api, number)


def failed_in_stream(client, api, number):
    api.answers(in_stream="internal_error")
    with suppress(*BROKEN):
        streamed(client.with_options(max_retries=0), api, number)


def closed_early(client, api, number):
    api.answers(chunk_delay_s=0.02)
    stream = client.chat.completions.create(**asked(number), **USED)
    next(iter(stream))
    stream.close()


SCRIPTED = (retried, failed, broken_off, without_done, failed_in_stream, closed_early)


async def in_async(api, number):
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
        await client.chat.completions.create(**asked(number))
        await client.chat.completions.with_raw_response.create(**asked(number))
        async for _ in await client.chat.completions.create(**asked(number), **USED):
            pass


async def cancelled(api, number):
    api.answers(chunk_delay_s=0.2)
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.chat.completions.create(**asked(number)), 0.1)


async def many(api):
    for start in range(0, ROUNDS, WORKERS):
        numbers = range(start, min(start + WORKERS, ROUNDS))
        await asyncio.gather(*(in_async(api, number) for number in numbers))


def sums(points, *labels):
    found = Counter()
    for point in points:
        found[tuple(point[label] for label in labels)] += point["sum"]
    return dict(found)


@pytest.mark.usefixtures("telemetry")
def test_the_tokens_of_a_thousand_mixed_calls_are_those_of_the_books(api, memory, monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0)
    calls = 0
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        with ThreadPoolExecutor(WORKERS) as pool:
            steps = [partial(one, client, api, n) for n in range(ROUNDS) for one in CONCURRENT]
            for step in [pool.submit(step) for step in steps]:
                step.result()
        calls += len(steps)
        # What follows takes the next answers of the script, so it goes one by one.
        for number in range(ROUNDS):
            for one in SCRIPTED:
                one(client, api, number)
        calls += ROUNDS * len(SCRIPTED)
    asyncio.run(many(api))
    calls += 3 * ROUNDS
    for number in range(10):
        asyncio.run(cancelled(api, number))
    calls += 10
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        for number in range(ROUNDS * 4):
            client.chat.completions.create(**asked(number))
    calls += ROUNDS * 4
    time.sleep(0.5)  # the server sees that it was left alone

    points, booked = memory.points(TOKENS), Counter()
    for sent in api.usage:
        booked[sent.model, "input"] += sent.input_tokens
        if sent.output_tokens:
            booked[sent.model, "output"] += sent.output_tokens
    assert calls > 1000
    assert sum(point["count"] for point in memory.points(ATTEMPTS)) == calls
    assert sums(points, "gen_ai.request.model", "gen_ai.token.type") == booked
    assert sums(points, "gen_ai.response.model", "gen_ai.token.type") == booked
    by_kind = Counter()
    for point in points:
        by_kind[point["gen_ai.token.type"]] += point["count"]
    assert by_kind["input"] == len(api.usage), "once a call"
    print(calls, len(api.usage), sum(booked.values()))  # noqa: T201 - the figures
