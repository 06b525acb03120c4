"""How do I retry with httpx-retries? python examples/retry_with_httpx_retries.py."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING

import httpx
from httpx_retries import Retry, RetryTransport

from assisters_otel import retryable

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi


class BusyError(Exception):
    """The API is busy, and a retry helps."""


def look(response: httpx.Response) -> None:
    """Raise where a retry helps. A status alone does not say so: two errors are a 429."""
    if response.is_error:
        response.read()  # the code is in the body
        if retryable(response):
            raise BusyError


policy = Retry(
    total=3,
    allowed_methods=["GET", "POST"],
    status_forcelist=[503],  # the rest is for `look`; an empty list would mean the usual ones
    retry_on_exceptions=[BusyError, *Retry.RETRYABLE_EXCEPTIONS],
    validate_response=look,
    backoff_factor=0.25,  # Retry-After is kept by itself
)


def embed(base_url: str, text: str) -> list[float]:
    """Ask with one key for all attempts, so that none is done twice."""
    headers = {
        "Authorization": f"Bearer {os.environ.get('ASSISTERS_API_KEY', 'ask_example')}",
        "Idempotency-Key": str(uuid.uuid4()),
    }
    sent = {"model": "assisters-embed-v1", "input": text}
    transport = RetryTransport(retry=policy)
    with httpx.Client(base_url=base_url, headers=headers, timeout=5, transport=transport) as client:
        response = client.post("/embeddings", json=sent).raise_for_status()
    return list(response.json()["data"][0]["embedding"])


def call(api: FakeApi) -> None:
    """Call the API once: assisters-otel check-retries retry_with_httpx_retries:call."""
    embed(api.url, "hello")


if __name__ == "__main__":
    print(embed(os.environ["ASSISTERS_BASE_URL"], "hello"))
