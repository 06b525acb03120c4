"""Many calls at once, some of them refused: one trace. python examples/async_batch.py."""

import asyncio
import os

import openai
from opentelemetry import trace

import assisters_otel

telemetry = assisters_otel.init("async-batch")
WORDS = ("one", "two", "three", "four", "five", "six")


async def embed(client: openai.AsyncOpenAI, word: str, turn: asyncio.Semaphore) -> str:
    """Embed one word, three at a time."""
    async with turn:
        try:
            await client.embeddings.create(model="assisters-embed-v1", input=word)
        except openai.OpenAIError as error:
            return f"{word}: {assisters_otel.explain(error).what}"
    return f"{word}: ok"


async def main() -> None:
    """Embed all of them, under one span."""
    client = openai.AsyncOpenAI(
        base_url=os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1"),
        api_key=os.environ["ASSISTERS_API_KEY"],
    )
    turn = asyncio.Semaphore(3)
    async with client:
        with trace.get_tracer("batch").start_as_current_span("embed a batch"):
            for line in await asyncio.gather(*(embed(client, word, turn) for word in WORDS)):
                print(line)


asyncio.run(main())
telemetry.flush(5)
