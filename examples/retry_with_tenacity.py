"""How do I retry with tenacity? python examples/retry_with_tenacity.py."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import httpx
from tenacity import (
    RetryCallState,
    retry,
    retry_if_exception,
    stop_after_attempt,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from assisters_otel import retry_after_s, retryable

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi

longer_each_time = wait_exponential(multiplier=0.5, max=10) + wait_random(0, 0.5)


def pause_s(state: RetryCallState) -> float:
    """Return what the API asks for; else twice as long each time, and no two callers alike."""
    error = state.outcome.exception() if state.outcome else None
    asked_s = None if error is None else retry_after_s(error)
    return asked_s or longer_each_time(state)


@retry(
    retry=retry_if_exception(retryable),  # and not retry_if_exception_type(Exception)
    wait=pause_s,
    stop=stop_after_attempt(4) | stop_after_delay(30),
    reraise=True,
)
def send(client: httpx.Client, text: str) -> list[float]:
    """Ask for an embedding."""
    sent = {"model": "assisters-embed-v1", "input": text}
    response = client.post("/embeddings", json=sent).raise_for_status()
    return list(response.json()["data"][0]["embedding"])


def embed(base_url: str, text: str) -> list[float]:
    """Ask with one key for all attempts, so that none is done twice."""
    headers = {
        "Authorization": f"Bearer {os.environ.get('ASSISTERS_API_KEY', 'ask_example')}",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    with httpx.Client(base_url=base_url, headers=headers, timeout=5) as client:
        return send(client, text)


def call(api: FakeApi) -> None:
    """Call the API once: assisters-otel check-retries retry_with_tenacity:call."""
    embed(api.url, "hello")


if __name__ == "__main__":
    print(embed(os.environ["ASSISTERS_BASE_URL"], "hello"))
