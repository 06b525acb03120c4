"""A transport that is not built on httpx's own: nobody's HTTP span, and the call's all the same."""

from __future__ import annotations

import asyncio
import json

import httpx2
import openai
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

pytestmark = pytest.mark.usefixtures("telemetry")

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
ANSWER = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": []}
REFUSED = {"error": {"message": "m", "type": "authentication_error", "code": "api_key_revoked"}}


async def answer(_request):
    return JSONResponse(ANSWER)


async def refuse(_request):
    return JSONResponse(REFUSED, status_code=401)


def mocked(status, body):
    return httpx2.MockTransport(lambda _: httpx2.Response(status, content=json.dumps(body)))


def served(endpoint):
    app = Starlette(routes=[Route("/v1/chat/completions", endpoint, methods=["POST"])])
    return httpx2.ASGITransport(app)


def call(api, transport):
    with openai.OpenAI(
        base_url=api.url,
        api_key="ask_k",
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    ) as client:
        return client.chat.completions.create(**CHAT)


def call_async(api, transport):
    async def whole():
        async with openai.AsyncOpenAI(
            base_url=api.url,
            api_key="ask_k",
            max_retries=0,
            http_client=httpx2.AsyncClient(transport=transport),
        ) as client:
            return await client.chat.completions.create(**CHAT)

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("do", "fine", "refused"),
    [
        (call, lambda: mocked(200, ANSWER), lambda: mocked(401, REFUSED)),
        (call_async, lambda: served(answer), lambda: served(refuse)),
    ],
    ids=["mock", "asgi"],
)
def test_the_call_span_covers_it(api, memory, do, fine, refused):
    assert do(api, fine()).id == "c"
    with pytest.raises(openai.AuthenticationError) as raised:
        do(api, refused())

    assert raised.value.code == "api_key_revoked"
    assert memory.attempts() == []
    first, second = memory.calls()
    assert first.attributes["assisters.call.outcome"] == "ok"
    assert second.attributes["assisters.call.outcome"] == "failed"
    assert second.attributes["error.type"] == "AuthenticationError"
    assert api.requests == []
