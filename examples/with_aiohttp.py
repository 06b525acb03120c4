"""aiohttp, and what it sends again by itself. python examples/with_aiohttp.py."""

import asyncio
import os

import aiohttp

import assisters_otel

assisters_otel.init("with-aiohttp")


async def main() -> None:
    """Send one request."""
    url = os.environ.get("ASSISTERS_BASE_URL", "https://api.assisters.dev/v1")
    headers = {"Authorization": f"Bearer {os.environ['ASSISTERS_API_KEY']}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"{url}/models") as response,
    ):
        print(assisters_otel.explain(response).what)


asyncio.run(main())
