"""Every way of sending one request, so that a test can ask each of them the same."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, NamedTuple

import httpx
import httpx2
import trio

TLS = ssl.create_default_context()


class Caller(NamedTuple):
    name: str
    module: Any
    run: Any  # None for sync

    def client(self, **options: Any) -> Any:
        options.setdefault("trust_env", False)
        options.setdefault("verify", TLS)  # made once: reading the certificates takes long
        kind = self.module.AsyncClient if self.run else self.module.Client
        return kind(**options)

    def transport(self, **options: Any) -> Any:
        kind = self.module.AsyncHTTPTransport if self.run else self.module.HTTPTransport
        return kind(**options)

    def use(self, client: Any, script: Any) -> Any:
        """Run *script* in *client*; a script is an `async def` in every flavour."""

        async def whole() -> Any:
            if self.run:
                async with client:
                    return await script(_Async(client))
            with client:
                return await script(_Sync(client))

        return (self.run or _run_sync)(whole)

    def send(self, method: str, url: str, *, client: Any = None, **options: Any) -> Any:
        """Send one request and read its answer."""

        async def script(at: Any) -> Any:
            return await at.request(method, url, **options)

        return self.use(client or self.client(), script)

    def __str__(self) -> str:
        return self.name


class _Async:
    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, *args: Any, **options: Any) -> Any:
        return await self.client.request(*args, **options)

    async def open(self, *args: Any) -> Any:
        return await self.client.send(self.client.build_request(*args), stream=True)

    async def read(self, response: Any) -> bytes:
        return await response.aread()

    async def chunks(self, response: Any, how: str) -> list[Any]:
        return [chunk async for chunk in getattr(response, f"a{how}")()]

    async def first(self, response: Any, how: str) -> Any:
        async for chunk in getattr(response, f"a{how}")():
            return chunk
        return None

    async def close(self, response: Any) -> None:
        await response.aclose()


class _Sync:
    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, *args: Any, **options: Any) -> Any:
        return self.client.request(*args, **options)

    async def open(self, *args: Any) -> Any:
        return self.client.send(self.client.build_request(*args), stream=True)

    async def read(self, response: Any) -> bytes:
        return response.read()

    async def chunks(self, response: Any, how: str) -> list[Any]:
        return list(getattr(response, how)())

    async def first(self, response: Any, how: str) -> Any:
        for chunk in getattr(response, how)():
            return chunk
        return None

    async def close(self, response: Any) -> None:
        response.close()


def _run_sync(whole: Any) -> Any:
    try:
        whole().send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("a sync script waited")


def _run_asyncio(whole: Any) -> Any:
    return asyncio.run(whole())


CALLERS = [
    Caller("httpx", httpx, None),
    Caller("httpx2", httpx2, None),
    Caller("httpx-asyncio", httpx, _run_asyncio),
    Caller("httpx2-asyncio", httpx2, _run_asyncio),
    Caller("httpx-trio", httpx, trio.run),
    Caller("httpx2-trio", httpx2, trio.run),
]
