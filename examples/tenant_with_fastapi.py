"""Whose request was it? The tenant is on spans and metrics, set once it is known. See `Tenant`.

uvicorn tenant_with_fastapi:app, in this folder.
"""

import os

import openai
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from opentelemetry import baggage, context
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

import assisters_otel

assisters_otel.init("shop", baggage=("tenant",))
client = openai.AsyncOpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ.get("ASSISTERS_API_KEY", "ask_missing"),
)
TENANTS = {"Bearer token-of-acme": "acme", "Bearer token-of-umbrella": "umbrella"}


class Tenant:
    """Sets the tenant of a request that is authenticated.

    Baggage that comes with a request is the sender's word, so it is cleared.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, its stream included, as the tenant's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        tenant = TENANTS.get(Headers(scope=scope).get("authorization", ""))
        if tenant is None:
            refusal = JSONResponse({"message": "Please sign in."}, status_code=401)
            await refusal(scope, receive, send)
            return
        token = context.attach(baggage.set_baggage("tenant", tenant, baggage.clear()))
        try:
            await self._app(scope, receive, send)
        finally:
            context.detach(token)


app = FastAPI()
app.add_middleware(Tenant)


@app.get("/greeting")
async def greeting(name: str) -> dict[str, str | None]:
    """Ask for a greeting."""
    answer = await client.chat.completions.create(
        model="assisters-chat-v1", messages=[{"role": "user", "content": f"Greet {name}."}]
    )
    return {"greeting": answer.choices[0].message.content}
