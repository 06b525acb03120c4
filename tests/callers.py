"""Every way of sending one request, so that a test can ask each of them the same."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any, NamedTuple

import aiohttp
import httpx
import httpx2
import requests
import trio

import leaks

TLS = ssl.create_default_context()
PLANTED = {"Authorization": f"Bearer {leaks.KEY}"}  # what every request has and no telemetry may


class Caller(NamedTuple):
    name: str
    module: Any
    run: Any  # None for sync
    hops_have_spans = True  # of the app's HTTP instrumentation; otherwise one for all
    wraps: tuple[type[Exception], ...] = ()  # what the app's own exceptions may become

    @property
    def refused(self) -> type[Exception]:
        return self.module.ConnectError

    @property
    def broken(self) -> type[Exception]:
        return self.module.TransportError

    def client(self, **options: Any) -> Any:
        options.setdefault("trust_env", False)
        options.setdefault("headers", PLANTED)
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


AMPLE_S = 30
"""The limit of what has none of its own: a busy machine takes its time to connect."""


def _of_httpx(options: dict[str, Any]) -> dict[str, Any]:
    """Make a time-out one of reading alone, as it is in aiohttp's `sock_read`."""
    if isinstance(read_s := options.get("timeout"), float):
        options["timeout"] = (AMPLE_S, read_s, AMPLE_S, AMPLE_S)
    return options


def _of_requests(options: dict[str, Any]) -> dict[str, Any]:
    if isinstance(read_s := options.get("timeout"), float):
        options["timeout"] = (AMPLE_S, read_s)
    return options


class _Async:
    def __init__(self, client: Any) -> None:
        self.client = client

    async def request(self, *args: Any, **options: Any) -> Any:
        return await self.client.request(*args, **_of_httpx(options))

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
        return self.client.request(*args, **_of_httpx(options))

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


class Answer(NamedTuple):
    """What a test asks of an answer, whoever has read it."""

    status_code: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Requests(NamedTuple):
    name: str = "requests"
    module: Any = requests
    run: Any = None
    hops_have_spans = False
    wraps: Any = (requests.ConnectionError,)
    refused = requests.ConnectionError
    broken = requests.RequestException

    def send(self, method: str, url: str, **options: Any) -> Answer:
        follow = options.pop("follow_redirects", False)
        body = options.pop("content", options.pop("data", None))
        with requests.Session() as session:
            session.trust_env = False
            session.headers.update(PLANTED)
            options = _of_requests(options)
            response = session.request(method, url, allow_redirects=follow, data=body, **options)
            return Answer(response.status_code, response.content)

    def __str__(self) -> str:
        return self.name


class Aiohttp(NamedTuple):
    name: str = "aiohttp"
    module: Any = aiohttp
    run: Any = _run_asyncio
    hops_have_spans = False
    wraps: Any = (aiohttp.ClientConnectionError,)
    refused = aiohttp.ClientConnectorError
    broken = (aiohttp.ClientError, asyncio.TimeoutError)

    def send(self, method: str, url: str, **options: Any) -> Answer:
        options["allow_redirects"] = options.pop("follow_redirects", False)
        if "content" in options:
            options["data"] = options.pop("content")
        timeout = aiohttp.ClientTimeout(sock_read=options.pop("timeout", None))

        async def whole() -> Answer:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=PLANTED) as session,
                session.request(method, url, **options) as response,
            ):
                return Answer(response.status, await response.read())

        return asyncio.run(whole())

    def __str__(self) -> str:
        return self.name


ANYONE = [*CALLERS, Requests(), Aiohttp()]


def in_client(anyone: Any, script: Any, **options: Any) -> Any:
    """Run *script*, an `async def` in every flavour, in a client of its own.

    Args:
        anyone: Of `ANYONE`.
        script: Gets a function that sends a request and reads its answer, to be awaited.
        options: The client's.

    Returns:
        What the script returns.
    """
    if anyone.name == "requests":
        return _run_sync(lambda: _in_requests(script))
    if anyone.name == "aiohttp":
        return asyncio.run(_in_aiohttp(script, options))

    async def of_httpx(at: Any) -> Any:
        return await script(at.request)

    return anyone.use(anyone.client(**options), of_httpx)


async def _in_requests(script: Any) -> Any:
    with requests.Session() as session:
        session.trust_env = False
        session.headers.update(PLANTED)

        async def request(method: str, url: str, **options: Any) -> Any:
            follow = options.pop("follow_redirects", False)
            body = options.pop("content", None)
            options = _of_requests(options)
            return session.request(method, url, allow_redirects=follow, data=body, **options)

        return await script(request)


async def _in_aiohttp(script: Any, made_with: dict[str, Any]) -> Any:
    async with aiohttp.ClientSession(headers=PLANTED, **made_with) as session:

        async def request(method: str, url: str, **options: Any) -> Any:
            options["allow_redirects"] = options.pop("follow_redirects", False)
            options["data"] = options.pop("content", None)
            if "timeout" in options:
                options["timeout"] = aiohttp.ClientTimeout(sock_read=options["timeout"])
            async with session.request(method, url, **options) as response:
                await response.read()
                return response

        return await script(request)
