"""The jobs that RQ's workers perform: each is one attempt at the API."""

from __future__ import annotations

import os
import time

import httpx
from switched_on import TLS

API = os.environ["API"]


def once() -> int:
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)
    return os.getpid()


def fails() -> None:
    once()
    raise LookupError("as asked for")


def too_long() -> None:
    once()
    while True:
        time.sleep(0.05)


def asks(text: str) -> None:
    """Ask for one text; what it gets does not matter."""
    body = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": text}]}
    httpx.post(f"{API}/chat/completions", json=body, trust_env=False, verify=TLS)
