"""How do I retry with backoff? python examples/retry_with_backoff.py."""

from __future__ import annotations

import os
import random
import uuid
from typing import TYPE_CHECKING, Any

import backoff
import httpx

from assisters_otel import retry_after_s, retryable

if TYPE_CHECKING:
    from collections.abc import Generator

    from assisters_otel.testing import FakeApi


def no_use(error: Exception) -> bool:
    """Return True if no retry helps: `giveup` is the negation of `retryable`."""
    return not retryable(error)


def pauses_s() -> Generator[float, Any, None]:
    """Give what the API asks for; else twice as long each time, and no two callers alike."""
    error = yield 0.0
    longer_s = 0.5
    while True:
        error = yield retry_after_s(error) or random.uniform(0.5, 1) * longer_s  # noqa: S311 - no secret
        longer_s *= 2


@backoff.on_exception(
    pauses_s,
    httpx.HTTPError,
    giveup=no_use,
    max_tries=4,
    max_time=30,
    jitter=None,  # backoff's own would cut what the API asks for
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
    """Call the API once: assisters-otel check-retries retry_with_backoff:call."""
    embed(api.url, "hello")


if __name__ == "__main__":
    print(embed(os.environ["ASSISTERS_BASE_URL"], "hello"))
