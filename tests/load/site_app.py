"""The web site that the servers of test_processes.py run: each request is one at the API.

``init`` is called where this is imported: in gunicorn's master if it preloads, else in each
worker. ``IN_MASTER`` is how many requests are sent there and then.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

import httpx

import assisters_otel

API = os.environ["API"]
TLS = ssl.create_default_context()  # once: reading the certificates takes long
assisters_otel.init("site", hosts=[API])

for _ in range(int(os.environ.get("IN_MASTER", "0"))):
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)


def wsgi(_environ: Any, start_response: Any) -> list[bytes]:
    httpx.get(f"{API}/models", trust_env=False, verify=TLS)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        await client.get(f"{API}/models")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(os.getpid()).encode()})
