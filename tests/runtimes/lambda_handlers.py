"""A function of AWS Lambda's whose ``init`` is called in another module, at its top."""

from __future__ import annotations

import os
from typing import Any

import httpx
from switched_on import TLS

API = os.environ["API"]


def handler(event: Any, _context: Any) -> str:
    """Send what the event says, and return or raise as it says."""
    if "ask" in event:
        body = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "hello"}]}
        for _ in range(event["ask"]):
            httpx.post(f"{API}/chat/completions", json=body, trust_env=False, verify=TLS)
    else:
        httpx.get(f"{API}/models", trust_env=False, verify=TLS)
    if "raise" in event:
        raise LookupError("as asked for")
    return f"{event['number']} is done"
