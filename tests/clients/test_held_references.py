"""A call that is over keeps nothing of the app's alive, and its tokens count however it ended."""

from __future__ import annotations

import gc
import gzip
import json
import weakref

import assisters
import openai
import pydantic
import pytest

from assisters_otel.api.unusable_answer import BodyBeginning
from gen_ai_calls import ASKED, COMPLETION, MODEL, OF_ASSISTERS, OF_OPENAI

pytestmark = pytest.mark.usefixtures("telemetry")

CHAT = {"model": MODEL, "messages": ASKED["messages"]}


class Greeting(pydantic.BaseModel):
    text: str


@pytest.fixture
def client(api):
    with openai.OpenAI(base_url=api.url, api_key="ask_k", max_retries=0) as client:
        yield client


def alive_after(http_client, call):
    """Return the number of requests that only the garbage collector would free."""
    sent = []
    hooks = {"request": [lambda request: sent.append(weakref.ref(request))], "response": []}
    http_client.event_hooks = hooks
    call()  # imports and caches of the SDK
    sent.clear()
    gc.collect()
    gc.disable()
    try:
        call()
        alive = [one for one in sent if one() is not None]
    finally:
        gc.enable()
    assert sent
    return len(alive)


@pytest.mark.parametrize("kind", OF_OPENAI)
def test_a_call_that_is_over_is_in_no_cycle(api, client, telemetry, kind):
    def call():
        OF_OPENAI[kind](client, api)
        telemetry.flush(5)  # an answer that is dropped ends its call here

    with_us = alive_after(client._client, call)
    telemetry.shutdown()

    assert with_us <= alive_after(client._client, call)


@pytest.mark.parametrize("kind", OF_ASSISTERS)
def test_a_call_of_assisters_that_is_over_is_in_no_cycle(api, telemetry, kind):
    with assisters.Assisters("ask_k", base_url=api.url) as client:
        http_client = client._http
        with_us = alive_after(http_client, lambda: OF_ASSISTERS[kind](client))
        telemetry.shutdown()

        assert with_us <= alive_after(http_client, lambda: OF_ASSISTERS[kind](client))


def test_a_raw_answer_that_the_app_keeps_is_not_kept_twice(api, client):
    body = json.dumps(COMPLETION | {"object": "x" * 60_000})
    api.answers(status=200, body=body, content_type="application/json")
    answer = client.chat.completions.with_raw_response.create(**CHAT)
    answer.parse()

    gc.collect()

    assert not [one for one in gc.get_objects() if isinstance(one, BodyBeginning) and one.size]
    assert answer.http_response.content == body.encode()


@pytest.mark.parametrize("how", ["raw", "parsed"])
def test_of_a_result_that_the_sdk_parses_itself_nothing_is_kept(client, how):
    def beginnings(_response=None):
        kept.append([one for one in gc.get_objects() if isinstance(one, BodyBeginning)])

    gc.collect()
    kept, chat = [], client.chat.completions
    beginnings()
    client._client.event_hooks = {"response": [beginnings]}  # its body is not read

    (chat.with_raw_response.create if how == "raw" else chat.create)(**CHAT)

    before, meanwhile = map(len, kept)
    assert meanwhile - before == (how == "raw")


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize(
    ("reason", "text", "raised"),
    [
        ("length", '{"te', "LengthFinishReasonError"),
        ("content_filter", "", "ContentFilterFinishReasonError"),
        ("stop", '{"other": 1}', "ValidationError"),
    ],
)
def test_the_tokens_count_of_an_answer_that_the_sdk_s_helper_refuses(
    api, client, memory, reason, text, raised, is_compressed
):
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL}
    body = json.dumps({**head, "choices": [choice], "usage": COMPLETION["usage"]}).encode()
    headers = {"content-encoding": "gzip"} if is_compressed else {}
    body = gzip.compress(body) if is_compressed else body
    api.answers(status=200, body=body, content_type="application/json", headers=headers)

    with pytest.raises((openai.OpenAIError, pydantic.ValidationError)) as caught:
        client.chat.completions.parse(**CHAT, response_format=Greeting)

    assert type(caught.value).__name__ == raised
    attributes = memory.call().attributes
    assert attributes["assisters.call.outcome"] == "failed"
    assert attributes["error.type"] == raised
    assert attributes["gen_ai.response.finish_reasons"] == (reason,)
    points = memory.points("gen_ai.client.token.usage")
    assert {one["gen_ai.token.type"]: one["sum"] for one in points} == {
        "input": COMPLETION["usage"]["prompt_tokens"],
        "output": COMPLETION["usage"]["completion_tokens"],
    }
