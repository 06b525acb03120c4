"""The older major versions of the `openai` SDK, which send through httpx: the same calls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import passed

SCRIPT = """
import asyncio

import assisters_otel
import openai
from assisters_otel.testing import FakeApi
from memory import Memory

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "Hi."}]}
memory = Memory()


async def in_async(api):
    async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k") as client:
        api.answers("internal_error", "ok")
        await client.chat.completions.create(**CHAT)
        async for _ in await client.chat.completions.create(stream=True, **CHAT):
            pass


with FakeApi() as api, assisters_otel.init(
    hosts=[api.url],
    tracer_provider=memory.tracer_provider,
    meter_provider=memory.meter_provider,
    strict=True,
):
    with openai.OpenAI(base_url=api.url, api_key="ask_k") as client:
        api.answers("rate_limit_exceeded", retry_after=0.05)
        api.answers("model_overloaded", "ok")
        client.chat.completions.create(**CHAT)
        list(client.chat.completions.create(stream=True, **CHAT))
        client.models.list()
        client.with_options(max_retries=0).chat.completions.with_raw_response.create(**CHAT)
        api.answers("api_key_revoked")
        try:
            client.chat.completions.create(**CHAT)
        except openai.AuthenticationError:
            pass
        client.chat.completions.create(stream=True, **CHAT).close()
    asyncio.run(in_async(api))

print(openai.__version__)
for call in memory.calls():
    told = call.attributes
    error = told.get("error.code", "")
    print(call.name, told["assisters.call.outcome"], told["assisters.retry.count"], error)
print([one.attributes.get("http.request.resend_count", 0) for one in memory.attempts()])
"""


FAILED_STREAM = """
import assisters_otel
import openai
from assisters_otel.testing import FakeApi
from memory import Memory

STREAM = {"model": "assisters-chat-v1", "messages": [], "stream": True}
memory = Memory()
errors = []

with FakeApi() as api, assisters_otel.init(
    hosts=[api.url],
    tracer_provider=memory.tracer_provider,
    meter_provider=memory.meter_provider,
    strict=True,
) as telemetry:
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        api.answers(in_stream="internal_error")
        for _ in range(2):
            try:
                list(client.chat.completions.create(**STREAM))
            except openai.APIError as error:
                errors.append(error)  # with which its stream lives on, unclosed
        numbers = [one.attributes.get("http.request.resend_count", 0) for one in memory.attempts()]
        print(openai.__version__, numbers)
        retries = memory.points("assisters.client.retries")
        print(sum(point["value"] for point in retries))
        errors.clear()
"""


@pytest.mark.parametrize("major", ["1", "2"])
def test_a_stream_s_error_event_is_known_before_the_sdk_has_closed_it(major, monkeypatch):
    older = Path(sys.prefix) / f"openai-{major}"
    monkeypatch.setenv("PYTHONPATH", f"{older}:{Path(__file__).parents[1]}")

    said = passed(FAILED_STREAM).out.splitlines()

    assert said[0].startswith(f"{major}.")
    assert said[0].endswith(" [0, 1]")
    assert said[1] == "1"


@pytest.mark.parametrize("major", ["1", "2"])
def test_a_call_is_the_same(major, monkeypatch):
    older = Path(sys.prefix) / f"openai-{major}"
    tests = Path(__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", f"{older}:{tests}")

    version, *lines = passed(SCRIPT).out.splitlines()

    assert version.startswith(f"{major}."), f"{older} is not there; .ci/setup makes it"
    assert lines == [
        "chat assisters-chat-v1 recovered 2 ",
        "chat assisters-chat-v1 ok 0 ",
        "GET /v1/models ok 0 ",
        "chat assisters-chat-v1 ok 0 ",
        "chat assisters-chat-v1 failed 0 api_key_revoked",
        "chat assisters-chat-v1 cancelled 0 ",
        "chat assisters-chat-v1 recovered 1 ",
        "chat assisters-chat-v1 ok 0 ",
        "[0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0]",
    ]
