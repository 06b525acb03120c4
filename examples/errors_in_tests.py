"""How do I test what my code does about an error? Run it: pytest examples/errors_in_tests.py."""
# ruff: noqa: S101 - pytest asserts

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi


def ask(base_url: str, question: str) -> str:
    """Ask, and wait as long as the API says while its rate limit is exceeded."""
    sent = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": question}]}
    for _ in range(3):
        response = httpx.post(f"{base_url}/chat/completions", json=sent)
        if response.status_code < httpx.codes.BAD_REQUEST:
            return str(response.json()["choices"][0]["message"]["content"])
        if response.json()["error"]["code"] != "rate_limit_exceeded":
            break
        time.sleep(float(response.headers["Retry-After"]))
    raise RuntimeError("no answer: " + response.json()["error"]["code"])


def test_a_rate_limit_is_waited_for(assisters_api: FakeApi) -> None:
    """The fixture comes with assisters-otel[testing]; the script answers one request each."""
    assisters_api.answers("rate_limit_exceeded", retry_after=0.1)

    assert ask(assisters_api.url, "Say hello.") == "Hello from the fake API."
    assert len(assisters_api.requests) == 1 + 1


def test_used_up_tokens_are_not_asked_for_again(assisters_api: FakeApi) -> None:
    """The other 429: it looks the same, and waiting does not help before the month turns."""
    assisters_api.answers("tokens_exhausted")

    with pytest.raises(RuntimeError, match="tokens_exhausted"):
        ask(assisters_api.url, "Say hello.")
    assert len(assisters_api.requests) == 1
