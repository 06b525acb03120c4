"""The fake API's books: the usage that its clients have been told."""

import asyncio
import json
from contextlib import suppress
from itertools import pairwise

import httpx
import httpx2
import openai
import pytest

from assisters_otel.testing import SentUsage

CHAT = {
    "model": "assisters-chat-v1",
    "messages": [{"role": "user", "content": "how many words are these"}],
}
STREAM = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
BOOKED = SentUsage("/v1/chat/completions", "assisters-chat-v1", 5, 5)


@pytest.fixture
def client(assisters_api):
    with openai.OpenAI(base_url=assisters_api.url, api_key="ask_test", max_retries=0) as client:
        yield client


def test_what_openai_reads_of_a_chat_is_in_the_books(assisters_api, client):
    usage = client.chat.completions.create(**CHAT).usage

    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 5, 10)
    assert assisters_api.usage == [BOOKED]


def test_a_stream_tells_its_usage_where_it_is_asked_for(assisters_api, client):
    chunks = list(client.chat.completions.create(**STREAM))

    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [5]
    assert chunks[-1].choices == []
    assert assisters_api.usage == [BOOKED]


def test_a_stream_that_is_not_asked_for_its_usage_has_none(assisters_api, client):
    chunks = list(client.chat.completions.create(**CHAT, stream=True))

    assert not any(chunk.usage for chunk in chunks)
    assert assisters_api.usage == []


def test_embeddings_have_tokens_of_the_request_alone(assisters_api, client):
    reply = client.embeddings.create(model="assisters-embed-v1", input=["one two", "three"])

    assert reply.usage.prompt_tokens == 3
    assert assisters_api.usage == [SentUsage("/v1/embeddings", "assisters-embed-v1", 3, 0)]


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        *((CHAT, fault) for fault in ("drop", "truncate", "garbage")),
        *((STREAM, fault) for fault in ("drop", "truncate", "garbage", "unfinished")),
    ],
)
def test_what_was_not_sent_to_its_end_is_not_in_the_books(assisters_api, client, asked, fault):
    assisters_api.answers(fault=fault)
    with suppress(openai.APIError, httpx.HTTPError, httpx2.HTTPError):
        answer = client.chat.completions.create(**asked)
        if asked is STREAM:
            list(answer)

    assert assisters_api.usage == []


def test_what_the_caller_has_cancelled_is_not_in_the_books(assisters_api):
    assisters_api.answers(chunk_delay_s=0.2)

    async def cancel():
        async with httpx.AsyncClient() as client:
            url = f"{assisters_api.url}/chat/completions"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.post(url, json=STREAM), 0.1)

    asyncio.run(cancel())
    assisters_api.stop()

    assert len(assisters_api.requests) == 1
    assert assisters_api.usage == []


def test_an_error_has_no_usage(assisters_api):
    assisters_api.answers("rate_limit_exceeded")
    httpx.post(f"{assisters_api.url}/chat/completions", json=CHAT)

    assert assisters_api.usage == []


SCRIPTED = [
    ({"usage": {"input_tokens": 7, "output_tokens": 2}}, (7, 2)),
    ({"usage": {"prompt_tokens": 7}}, (7, 0)),
    ({"usage": {"searches": 1}}, None),
    ({"usage": None}, None),
    ([1], None),
]


HOSTILE = [
    "[" * 45_000,
    '{"usage": ' + "[" * 45_000,
    '{"usage": {"prompt_tokens": "7"}}',
    '{"usage": {"prompt_tokens": true}}',
    '{"usage": {"prompt_tokens": NaN}}',
    '{"usage": [1]}',
    '"\\ud800"',
    b"\xff\xfe",
]


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream"])
@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_script_sends_the_books_do_not_keep_it_back(assisters_api, body, content_type):
    events = content_type == "text/event-stream"
    raw = body if isinstance(body, bytes) else body.encode()
    raw = b"data: " + raw + b"\n\n" if events else raw
    assisters_api.answers(status=200, body=raw, content_type=content_type)

    assert httpx.post(f"{assisters_api.url}/rerank", content=b"[" * 45_000).content == raw
    assert assisters_api.usage == []


@pytest.mark.parametrize(("body", "tokens"), SCRIPTED)
def test_the_books_have_what_a_scripted_body_says(assisters_api, body, tokens):
    assisters_api.answers(json=body)
    httpx.post(f"{assisters_api.url}/rerank", json={"model": "m"})

    said = [] if tokens is None else [SentUsage("/v1/rerank", "m", *tokens)]
    assert assisters_api.usage == said


def test_the_last_event_of_responses_holds_the_usage(assisters_api):
    events = [
        {"type": "response.created", "response": {"usage": None}},
        {"type": "response.completed", "response": {"usage": {"input_tokens": 3}}},
    ]
    body = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
    assisters_api.answers(status=200, body=body, content_type="text/event-stream")
    httpx.post(f"{assisters_api.url}/responses", json={})

    assert assisters_api.usage == [SentUsage("/v1/responses", None, 3, 0)]


def test_a_reset_closes_the_books(assisters_api, client):
    client.chat.completions.create(**CHAT)
    assisters_api.reset()

    assert assisters_api.usage == []


def test_every_choice_that_is_asked_for_is_answered_and_counted(assisters_api, client):
    answer = client.chat.completions.create(**CHAT, n=3)
    streamed = list(client.chat.completions.create(**STREAM, n=3))

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    ends = [c.index for chunk in streamed for c in chunk.choices if c.finish_reason == "stop"]
    assert ends == [0, 1, 2]
    assert all(a == b for a, b in pairwise(assisters_api.usage))
    assert assisters_api.usage[0].output_tokens == 15


def test_two_requests_that_differ_get_two_ids(client):
    other = {**CHAT, "messages": [{"role": "user", "content": "another"}]}

    assert client.chat.completions.create(**CHAT).id != client.chat.completions.create(**other).id
