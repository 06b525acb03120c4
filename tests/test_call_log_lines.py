"""The log line of a call that failed though its last attempt had not: an SDK could not read it."""

from __future__ import annotations

import asyncio

import assisters
import httpx
import openai
import pydantic
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
    tried = f", {refused + 1} attempts" if refused else ""
    assert record.getMessage() == (
        "Assisters API answered 200, and the client failed (JSONDecodeError), on "
        f"POST /v1/chat/completions{tried} "
        f"(request id req_1, trace id {call.context.trace_id:032x}): no retry helps"
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
    assert call.attributes["assisters.error.retryable"] is False
    assert telemetry.status().attempts == refused + 1


class Out(pydantic.BaseModel):
    """What a model is asked for."""

    a: int


CUT = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "finish_reason": "length",
                 "message": {"role": "assistant", "content": "{"}}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}  # fmt: skip


def cut_short(api, client):
    api.answers(status=200, json=CUT)
    chats = client.chat.completions
    chats = chats if hasattr(chats, "parse") else client.beta.chat.completions
    chats.parse(**ASKED, response_format=Out)


def in_a_circle(api, client):
    api.answers(status=307, redirect=f"{api.url}/models", times=50)
    client.models.list()


@pytest.mark.usefixtures("telemetry")
@pytest.mark.parametrize(
    ("ask", "status", "error"),
    [(cut_short, 200, "LengthFinishReasonError"), (in_a_circle, 307, "APIConnectionError")],
)
def test_each_call_that_fails_is_found_by_the_documented_query_and_its_line_has_the_status(
    api, memory, caplog, ask, status, error
):
    with (
        openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client,
        pytest.raises(openai.OpenAIError),
    ):
        ask(api, client)

    (record,) = (one for one in caplog.records if one.name == "assisters_otel")
    assert f"answered {status}, and the client failed ({error}), on " in record.getMessage()
    assert record.getMessage().endswith("): no retry helps")
    told = memory.call().attributes
    assert (told["error.type"], told["assisters.error.retryable"]) == (error, False)


@pytest.mark.usefixtures("telemetry")
def test_a_call_of_whose_requests_nothing_is_seen_says_what_its_exception_says(memory, caplog):
    def refuse(request):
        raise httpx.ConnectError("no", request=request)

    transport = httpx.MockTransport(refuse)
    with (
        httpx.Client(transport=transport) as http_client,
        openai.OpenAI(api_key="ask_k", max_retries=0, http_client=http_client,
                      base_url="https://api.assisters.dev/v1") as client,
        pytest.raises(openai.APIConnectionError),
    ):  # fmt: skip
        client.models.list()

    (record,) = (one for one in caplog.records if one.name == "assisters_otel")
    assert record.getMessage().startswith(
        "Assisters API: the client failed (APIConnectionError) on "
    )
    assert record.getMessage().endswith("): a retry can help")
    assert memory.call().attributes["assisters.error.retryable"] is True
