"""The web site that the servers run: each request to it is one attempt at the API.

``IN_MASTER`` is how many attempts are made where this is imported: in gunicorn's master if it
preloads.
"""

from __future__ import annotations

import os
from typing import Any

import httpx
from switched_on import TLS

API = os.environ["API"]

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
