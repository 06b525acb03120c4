"""The log line of a call that failed though its last attempt had not: an SDK could not read it."""

from __future__ import annotations

import asyncio

import assisters
import openai
import pytest

ASKED = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for kind in (openai.OpenAI, openai.AsyncOpenAI):
        monkeypatch.setattr(kind, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0)


def of_openai(api):
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=3) as client:
        client.chat.completions.create(**ASKED)


def of_openai_async(api):
    async def main():
        async with openai.AsyncOpenAI(base_url=api.url, api_key="ask_k", max_retries=3) as client:
            await client.chat.completions.create(**ASKED)

    asyncio.run(main())


def of_assisters(api):
    with assisters.Assisters("ask_k", base_url=api.url, max_retries=4) as client:
        client.chat.completions.create(**ASKED)


@pytest.mark.parametrize("ask", [of_openai, of_openai_async, of_assisters])
@pytest.mark.parametrize("refused", [0, 1, 3])
def test_a_call_whose_answer_an_sdk_cannot_read_says_in_its_line_how_many_attempts_there_were(
    api, memory, telemetry, caplog, ask, refused
):
    if refused:
        api.answers("model_overloaded", times=refused, retry_after=0)
    api.answers(body="no JSON", content_type="application/json", request_id="req_1")

    with pytest.raises(ValueError, match="Expecting value"):
        ask(api)

    (record,) = (one for one in caplog.records if one.name == "assisters_otel")
    call, last = memory.call(), memory.attempts()[-1]
    assert record.getMessage() == (
        "Assisters API: the client failed (JSONDecodeError) on POST /v1/chat/completions "
        f"(request id req_1, trace id {call.context.trace_id:032x})"
    )
    told = {name: value for name, value in vars(record).items() if "." in name or "_id" in name}
    assert told == {
        "assisters.attempts": refused + 1,
        "assisters.failures": 1,
        "assisters.error.retryable": False,
        "assisters.request.id": "req_1",
        "error.type": "JSONDecodeError",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.template": "/v1/chat/completions",
        "trace_id": f"{call.context.trace_id:032x}",
        "span_id": f"{call.context.span_id:016x}",
    }
    assert "error.type" not in last.attributes
    assert telemetry.status().attempts == refused + 1
