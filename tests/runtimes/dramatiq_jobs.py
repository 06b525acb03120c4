"""The actors that Dramatiq's workers run: each is one attempt at the API, or as many as it says."""

from __future__ import annotations

import os
import time

import dramatiq
import httpx
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO
from dramatiq.middleware.time_limit import TimeLimitExceeded
from switched_on import TLS

API = os.environ["API"]
broker = RedisBroker(url=os.environ["REDIS"])
if "WITHOUT_LOOP" not in os.environ:  # its thread hangs at a second signal, without us too
    broker.add_middleware(AsyncIO())
dramatiq.set_broker(broker)


@dramatiq.actor
def once() -> None:
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)


@dramatiq.actor
async def once_async() -> None:
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        await client.get(f"{API}/models")


@dramatiq.actor(max_retries=0)
def fails() -> None:
    once()
    raise LookupError("as asked for")


@dramatiq.actor(time_limit=3_000, max_retries=0)
def too_long() -> None:
    """Wait for an answer that does not come, until the time limit's exception is injected."""
    once()
    try:
        while True:
            time.sleep(0.05)
    except TimeLimitExceeded:
        print("stopped in time", flush=True)  # noqa: T201 - the test reads it
        raise


@dramatiq.actor(max_retries=0)
def asks(text: str) -> None:
    """Ask for one text; what it gets does not matter."""
    body = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": text}]}
    httpx.post(f"{API}/chat/completions", json=body, trust_env=False, verify=TLS)


@dramatiq.actor(max_retries=0)
async def asks_async(text: str) -> None:
    """As above."""
    body = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": text}]}
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        await client.post(f"{API}/chat/completions", json=body)


@dramatiq.actor(max_retries=2, min_backoff=1, max_backoff=1)
def asks_again(text: str) -> None:
    """Ask for one text, and have Dramatiq send the message again until that was three times."""
    asks(text)
    raise LookupError("once more")
