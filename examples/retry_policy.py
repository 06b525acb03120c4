"""How do I retry right? In this folder: assisters-otel check-retries retry_policy:call."""

from __future__ import annotations

import os
import random
import time
import uuid
from typing import TYPE_CHECKING

import httpx

from assisters_otel import retry_after_s, retryable

if TYPE_CHECKING:
    from assisters_otel.testing import FakeApi

ATTEMPTS = 4
LONGEST_S = 30.0


def embed(base_url: str, text: str) -> list[float]:
    """Ask for an embedding, and again where that helps, as often and as soon as is polite."""
    sent = {"model": "assisters-embed-v1", "input": text}
    headers = {
        "Authorization": f"Bearer {os.environ.get('ASSISTERS_API_KEY', 'ask_example')}",
        "Idempotency-Key": str(uuid.uuid4()),  # one for all attempts: none is done twice
    }
    with httpx.Client(base_url=base_url, headers=headers, timeout=5) as client:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = client.post("/embeddings", json=sent).raise_for_status()
            except httpx.HTTPError as error:  # noqa: PERF203 - what costs is the request
                # What the API asks for; else twice as long each time, and no two callers alike.
                pause_s = retry_after_s(error) or random.uniform(0.25, 0.5) * 2**attempt  # noqa: S311 - no secret
                if attempt == ATTEMPTS or pause_s > LONGEST_S or not retryable(error):
                    raise
                time.sleep(pause_s)
            else:
                return list(response.json()["data"][0]["embedding"])
    raise AssertionError("the last attempt returns or raises")


def call(api: FakeApi) -> None:
    """Call the API once: assisters-otel check-retries retry_policy:call."""
    embed(api.url, "hello")


if __name__ == "__main__":
    print(embed(os.environ["ASSISTERS_BASE_URL"], "hello"))
