"""The scenes of the demo: what the API answers, what a real client does, what is expected."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import httpx
import openai
from opentelemetry import baggage, context

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from assisters_otel.testing import FakeApi

_KEY: Final = "ask_demo-key-of-the-shop"
_OTHER_KEY: Final = "ask_demo-key-of-the-office"
_HEADERS: Final = {"authorization": f"Bearer {_KEY}"}
_CHAT_MODEL: Final = "assisters-chat-v1"
TENANT: Final = "tenant"
"""The baggage entry that tells whose request it is."""

_PROXY_PAGE: Final = "<html><h1>502 Bad Gateway</h1></html>"
_NO_REQUEST_ID: Final = {"x-request-id": None}

_TIMEOUT_S: Final = 0.25
"""The timeout of the client that gets no answer. The demo waits for it."""


class Scene(Record):
    """One scene.

    Attributes:
        title: The scene in a few words.
        play: The function that scripts the API's answers, and calls the API.
        errors: The expected ``error.code``, else ``error.type``, of each attempt's span;
            None for a success.
        resends: The expected ``http.request.resend_count`` of each attempt's span; 0 for
            none.
        outcomes: The expected ``assisters.call.outcome`` of each SDK call's span.
        streams: The expected ``assisters.stream.outcome`` of each event stream, and its
            error as in *errors*.
    """

    title: str
    play: Callable[[FakeApi], None]
    errors: tuple[str | None, ...]
    resends: tuple[int, ...]
    outcomes: tuple[str, ...] = ()
    streams: tuple[tuple[str, str | None], ...] = ()


def _sdk_retries(api: FakeApi) -> None:
    api.answers("rate_limit_exceeded", retry_after=0.2)
    api.answers("model_overloaded", "ok")
    with openai.OpenAI(
        base_url=api.url, api_key=_KEY, http_client=openai.DefaultHttpxClient(trust_env=False)
    ) as client:
        client.chat.completions.create(
            model=_CHAT_MODEL, messages=[{"role": "user", "content": "Say hello."}]
        )


def _hasty_loops(api: FakeApi) -> None:
    with httpx.Client(base_url=api.url, headers=_HEADERS, trust_env=False) as client:
        api.answers("api_key_revoked", "api_key_revoked")
        for _ in range(2):
            client.get("/models")
        api.answers("rate_limit_exceeded", retry_after=30)
        for _ in range(2):
            client.post("/moderate", json={"input": "hello"})


def _permanent_errors(api: FakeApi) -> None:
    api.answers("tokens_exhausted", "api_key_revoked", "missing_parameter", "insufficient_funds")
    with httpx.Client(base_url=api.url, headers=_HEADERS, trust_env=False) as client:
        client.post("/embeddings", json={"model": "assisters-embed-v1", "input": "hello"})
        client.get("/models")
        client.post("/chat/completions", json={"model": _CHAT_MODEL})
        client.post("/images/generations", json={"prompt": "a lighthouse"})


def _network_trouble(api: FakeApi) -> None:
    api.answers(status=502, body=_PROXY_PAGE, content_type="text/html", headers=_NO_REQUEST_ID)
    api.answers(fault="silence")
    asyncio.run(_call_through_trouble(api.url))


async def _call_through_trouble(url: str) -> None:
    async with httpx.AsyncClient(
        base_url=url, headers=_HEADERS, timeout=_TIMEOUT_S, trust_env=False
    ) as client:
        await client.post("/translate", json={"text": "hello", "target_language": "de"})
        with suppress(httpx.TimeoutException):
            await client.post("/rerank", json={"query": "hello", "documents": ["hi", "no"]})
        with socket.socket() as closed, suppress(httpx.ConnectError):
            closed.bind(("127.0.0.1", 0))  # no other process can take the port and listen
            await client.get(f"http://127.0.0.1:{closed.getsockname()[1]}/v1/models")
        await client.get("/wallet/balance")


def _failing_streams(api: FakeApi) -> None:
    api.answers(in_stream="model_overloaded")
    with openai.OpenAI(
        base_url=api.url, api_key=_KEY, http_client=openai.DefaultHttpxClient(trust_env=False)
    ) as client:
        stream = client.chat.completions.create(
            model=_CHAT_MODEL, messages=[{"role": "user", "content": "Say hello."}], stream=True
        )
        with suppress(openai.APIError):
            list(stream)
    api.answers(fault="unfinished")
    with (
        httpx.Client(base_url=api.url, headers=_HEADERS, trust_env=False) as other,
        other.stream(
            "POST", "/chat/completions", json={"model": _CHAT_MODEL, "stream": True}
        ) as response,
    ):
        response.read()


def _keys_and_tenants(api: FakeApi) -> None:
    api.answers("ok", "api_key_revoked")
    for key, tenant in ((_KEY, "acme"), (_OTHER_KEY, "globex")):
        # A web app does this in a middleware, after authentication.
        token = context.attach(baggage.set_baggage(TENANT, tenant))
        try:
            with (
                openai.OpenAI(
                    base_url=api.url,
                    api_key=key,
                    http_client=openai.DefaultHttpxClient(trust_env=False),
                ) as client,
                suppress(openai.AuthenticationError),
            ):
                client.chat.completions.create(
                    model=_CHAT_MODEL, messages=[{"role": "user", "content": f"Hello {tenant}."}]
                )
        finally:
            context.detach(token)


SCENES: Final = (
    Scene(
        "openai retries by itself",
        _sdk_retries,
        ("rate_limit_exceeded", "model_overloaded", None),
        (0, 1, 2),
        ("recovered",),
    ),
    Scene(
        "whose key, whose request, how many tokens",
        _keys_and_tenants,
        (None, "api_key_revoked"),
        (0, 0),
        ("ok", "failed"),
    ),
    Scene(
        "httpx, loops that try too hard",
        _hasty_loops,
        ("api_key_revoked", "api_key_revoked", "rate_limit_exceeded", None),
        (0, 1, 0, 1),
    ),
    Scene(
        "httpx, errors that no retry helps",
        _permanent_errors,
        ("tokens_exhausted", "api_key_revoked", "missing_parameter", "insufficient_funds"),
        (0, 0, 0, 0),
    ),
    Scene(
        "httpx, trouble on the way",
        _network_trouble,
        ("502", "ReadTimeout", "ConnectError", None),
        (0, 0, 0, 0),
    ),
    Scene(
        "streams that fail after their 200",
        _failing_streams,
        (None, None),
        (0, 0),
        ("failed",),
        (("error", "model_overloaded"), ("truncated", "truncated")),
    ),
)
