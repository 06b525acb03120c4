"""How do I retry with stamina? python examples/retry_with_stamina.py."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import httpx
import stamina

from assisters_otel import retry_after_s, retryable

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi


def on(error: Exception) -> bool | float:
    """Return how long to wait if the API asks for it; else whether a retry helps."""
    return retry_after_s(error) or retryable(error)


@stamina.retry(on=on, attempts=4, wait_initial=0.5)
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
    """Call the API once: assisters-otel check-retries retry_with_stamina:call."""
    embed(api.url, "hello")


if __name__ == "__main__":
    print(embed(os.environ["ASSISTERS_BASE_URL"], "hello"))
