"""A service of yours: its spans are the parents, its users get a sentence. See `app` below.

uvicorn fastapi_service:app, in this folder.
"""

import os

import openai
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from opentelemetry import trace

import assisters_otel

assisters_otel.init("shop")
app = FastAPI()
client = openai.AsyncOpenAI(
    base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
    api_key=os.environ.get("ASSISTERS_API_KEY", "ask_missing"),
)


@app.exception_handler(openai.OpenAIError)
async def refused(_: Request, error: openai.OpenAIError) -> JSONResponse:
    """Tell users what they may know, and support where to look."""
    told = assisters_otel.explain(error)
    body = {"message": told.user_message, "reference": told.trace_id}
    return JSONResponse(body, status_code=503 if told.retryable else 502)


@app.get("/greeting")
async def greeting(name: str) -> dict[str, str | None]:
    """Ask for a greeting."""
    with trace.get_tracer("shop").start_as_current_span("greeting"):
        answer = await client.chat.completions.create(
            model="assisters-chat-v1", messages=[{"role": "user", "content": f"Greet {name}."}]
        )
    return {"greeting": answer.choices[0].message.content}
