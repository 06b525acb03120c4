"""Every way of reading one event stream, so that a test can ask each of them the same."""

from __future__ import annotations

import inspect
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import assisters
import openai
import requests

from callers import CALLERS, TLS, _run_asyncio, _run_sync

if TYPE_CHECKING:
    from collections.abc import Callable

CHAT = {"model": "assisters-chat-v1", "messages": [{"role": "user", "content": "planted-prompt"}]}
KEY = "ask_k"


async def settled(answer: Any) -> Any:
    """Give what a method has returned, of a sync client or an async one."""
    return await answer if inspect.isawaitable(answer) else answer


class Stream:
    """An event stream that is open."""

    def __init__(self, response: Any, chunks: Any, *, is_async: bool) -> None:
        self._response = response
        self._chunks = chunks
        self._is_async = is_async

    async def read(self) -> Any:
        """Read the next chunk; None at the end."""
        if self._is_async:
            return await anext(self._chunks, None)
        return next(self._chunks, None)

    async def rest(self) -> None:
        while await self.read() is not None:
            pass

    async def close_answer(self) -> None:
        """Close the answer alone, whose chunks the caller keeps."""
        await _closed(self._response, is_async=self._is_async)

    async def close(self) -> None:
        for one in (self._chunks, self._response):
            await _closed(one, is_async=self._is_async)


async def _closed(one: Any, *, is_async: bool) -> None:
    close = getattr(one, "close", None)
    if is_async:
        close = getattr(one, "aclose", close)
    if close is not None:
        await settled(close())


class Streamer(NamedTuple):
    """A client that streams chats.

    Attributes:
        name: For the ids of tests.
        run: Runs an `async def`.
        make: Makes a client of a base URL, a file of certificates and the number of its retries.
        ask: Asks it, with a base URL, for a chat.
        chunks: Gives the chunks of the answer.
        is_call: Whether it is an SDK, whose call has a span.
    """

    name: str
    run: Callable[[Any], Any]
    make: Callable[..., Any]
    ask: Callable[[Any, str], Any]
    chunks: Callable[[Any], Any]
    is_call: bool

    @property
    def is_async(self) -> bool:
        return self.run is not _run_sync

    def use(self, url: str, script: Any, *, cafile: str | None = None, retries: int = 0) -> Any:
        """Run *script*, an `async def` in every flavour; it gets a function that opens a stream.

        Args:
            url: The base URL.
            script: What is to be done.
            cafile: Where the certificates are, for plain clients; SDKs ask the environment.
            retries: How often an SDK sends again by itself.
        """

        async def whole() -> Any:
            client = self.make(url, cafile, retries)

            async def opened() -> Stream:
                response = await settled(self.ask(client, url))
                return Stream(response, self.chunks(response), is_async=self.is_async)

            try:
                return await script(opened)
            finally:
                await _closed(client, is_async=self.is_async)

        return self.run(whole)

    def __str__(self) -> str:
        return self.name


def _trusting(cafile: str | None) -> ssl.SSLContext:
    return TLS if cafile is None else ssl.create_default_context(cafile=cafile)


def _of_httpx(caller: Any) -> Streamer:
    def ask(client: Any, url: str) -> Any:
        body = {**CHAT, "stream": True}
        request = client.build_request("POST", f"{url}/chat/completions", json=body)
        return client.send(request, stream=True)

    return Streamer(
        caller.name,
        caller.run or _run_sync,
        lambda _, cafile, __: caller.client(verify=_trusting(cafile)),
        ask,
        lambda response: response.aiter_raw() if caller.run else response.iter_raw(),
        is_call=False,
    )


def _session(_: str, cafile: str | None, __: int) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    session.verify = cafile or True
    return session


def _aiohttp_session(_: str, cafile: str | None, __: int) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=_trusting(cafile)))


def _post(session: Any, url: str, **options: Any) -> Any:
    return session.post(f"{url}/chat/completions", json={**CHAT, "stream": True}, **options)


def _of_openai(name: str, kind: Any, run: Any) -> Streamer:
    def make(url: str, _: str | None, retries: int) -> Any:
        return kind(base_url=url, api_key=KEY, max_retries=retries)

    return Streamer(name, run, make, _chat, lambda stream: stream, is_call=True)


def _chat(client: Any, _: str = "") -> Any:
    return client.chat.completions.create(**CHAT, stream=True)


def _raw_chat(client: Any, _: str) -> Any:
    return client.chat.completions.with_raw_response.create(**CHAT, stream=True)


def _raw(streamer: Streamer) -> Streamer:
    """Read as it comes, which no error event ends: so did `openai` before its version 2.9."""

    def chunks(answer: Any) -> Any:
        response = answer.http_response
        return response.aiter_raw() if streamer.is_async else response.iter_raw()

    return streamer._replace(name=f"{streamer.name}-raw", ask=_raw_chat, chunks=chunks)


def _of_assisters(url: str, _: str | None, retries: int) -> assisters.Assisters:
    return assisters.Assisters(KEY, base_url=url, max_retries=retries + 1)  # it counts attempts


PLAIN = [
    *map(_of_httpx, CALLERS),
    Streamer(
        "requests",
        _run_sync,
        _session,
        lambda session, url: _post(session, url, stream=True),
        lambda response: response.iter_content(None),
        is_call=False,
    ),
    Streamer(
        "aiohttp",
        _run_asyncio,
        _aiohttp_session,
        _post,
        lambda response: response.content.iter_any(),
        is_call=False,
    ),
]
OPENAI = [
    _of_openai("openai", openai.OpenAI, _run_sync),
    _of_openai("openai-async", openai.AsyncOpenAI, _run_asyncio),
]
ASSISTERS = Streamer("assisters", _run_sync, _of_assisters, _chat, lambda stream: stream, True)
SDKS = [*OPENAI, ASSISTERS]
UNPARSED = [*PLAIN, *map(_raw, OPENAI), ASSISTERS]
"""Those that read on behind an error event."""

STREAMERS = [*PLAIN, *SDKS]


def _unstreamed(sdk: Streamer) -> Streamer:
    async def nothing() -> Any:
        for chunk in ():
            yield chunk

    def ask(client: Any, _: str) -> Any:
        return client.chat.completions.create(**CHAT)

    return sdk._replace(
        name=f"{sdk.name}-unstreamed",
        ask=ask,
        chunks=lambda _: nothing() if sdk.is_async else iter(()),
    )


UNSTREAMED = [*map(_unstreamed, SDKS)]
"""The SDKs' calls without a stream, of which there is nothing more to read."""
