"""Whether an answer has a body, and where that ends, is for the client's own parser to say."""

from __future__ import annotations

import asyncio
import gzip
import re
from itertools import product
from typing import Any, NamedTuple

import aiohttp
import anyio
import httpx
import httpx2
import pytest
import requests

from callers import CALLERS
from memory import watching
from raw_server import RawServer
from sizes import shared

ENVELOPE = b'{"error": {"type": "server_error", "code": "internal_error", "message": "m"}}'
ZIPPED = gzip.compress(ENVELOPE, mtime=0)
TIMEOUT_S = 10  # none of these answers is waited for, with us or without


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


class Framing(NamedTuple):
    """How an answer is laid out on its connection.

    Attributes:
        headers: That say so.
        body: As sent.
        closes: Whether the connection ends with it.
        version: Of HTTP.
    """

    headers: bytes
    body: bytes
    closes: bool = False
    version: bytes = b"1.1"


def of_length(length: int) -> bytes:
    return b"Content-Length: %d\r\n" % length


CHUNKED = b"Transfer-Encoding: chunked\r\n"
GZIP = b"Content-Encoding: gzip\r\n"
FRAMINGS = {
    "a length": Framing(of_length(len(ENVELOPE)), ENVELOPE),
    "more than its length": Framing(of_length(len(ENVELOPE)), ENVELOPE + b"\r\nmore"),
    "less than its length": Framing(of_length(len(ENVELOPE) + 9), ENVELOPE, closes=True),
    "no length": Framing(b"", ENVELOPE, closes=True),
    "HTTP/1.0": Framing(b"", ENVELOPE, closes=True, version=b"1.0"),
    "Connection: close": Framing(
        of_length(len(ENVELOPE)) + b"Connection: close\r\n", ENVELOPE, closes=True
    ),
    "chunked": Framing(CHUNKED, chunked(ENVELOPE)),
    "more than its chunks": Framing(CHUNKED, chunked(ENVELOPE) + b"more"),
    "gzip, chunked": Framing(b"Transfer-Encoding: gzip, chunked\r\n", chunked(ZIPPED)),
    "gzip in chunks": Framing(CHUNKED + GZIP, chunked(ZIPPED)),
    "gzip of a length": Framing(of_length(len(ZIPPED)) + GZIP, ZIPPED),
}
ANSWERS = [("GET", 404), ("HEAD", 404), ("GET", 204), ("GET", 205), ("GET", 304)]
BODILESS = {("HEAD", 404), ("GET", 204), ("GET", 304)}


def told(error: BaseException) -> tuple[object, ...]:
    """What the app sees of an exception, but the places in memory that some texts name."""
    return type(error), re.sub(r"0x[0-9a-f]+|:\d{4,5}", "", str(error))


def use_httpx(caller: Any, url: str, method: str, *, reads: bool) -> list[object]:
    seen: list[object] = []

    async def script(at: Any) -> None:
        try:
            response = await at.open(method, f"{url}/asked")
            try:
                seen.extend((response.status_code, list(response.headers.items())))
                seen.append(await at.read(response) if reads else None)
            finally:
                await at.close(response)
        except caller.module.HTTPError as error:
            seen.append(told(error))
        try:
            seen.append((await at.request("GET", f"{url}/models")).status_code)
        except caller.module.HTTPError as error:
            seen.append(told(error))

    caller.use(caller.client(timeout=TIMEOUT_S), script)
    return seen


def use_requests(_: Any, url: str, method: str, *, reads: bool) -> list[object]:
    seen: list[object] = []
    with requests.Session() as session:
        session.trust_env = False
        try:
            with session.request(
                method, f"{url}/asked", stream=True, timeout=TIMEOUT_S
            ) as response:
                seen.extend((response.status_code, list(response.headers.items())))
                seen.append(response.content if reads else None)
        except requests.RequestException as error:
            seen.append(told(error))
        try:
            seen.append(session.get(f"{url}/models", timeout=TIMEOUT_S).status_code)
        except requests.RequestException as error:
            seen.append(told(error))
    return seen


def use_aiohttp(_: Any, url: str, method: str, *, reads: bool) -> list[object]:
    async def script() -> list[object]:
        seen: list[object] = []
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                async with session.request(method, f"{url}/asked") as response:
                    seen.extend((response.status, list(response.raw_headers)))
                    seen.append(await response.read() if reads else None)
            except aiohttp.ClientError as error:
                seen.append(told(error))
            try:
                async with session.get(f"{url}/models") as response:
                    seen.append((response.status, await response.read()))
            except aiohttp.ClientError as error:
                seen.append(told(error))
        return seen

    return asyncio.run(script())


CLIENTS = [
    *((str(caller), use_httpx, caller) for caller in CALLERS),
    ("requests", use_requests, None),
    ("aiohttp", use_aiohttp, None),
]


@pytest.fixture
def server():
    with RawServer() as server:
        yield server


def answers(*, reads):
    """Give what may be asked and answered: method, status, name of a framing, body, and its end."""
    for (method, status), (name, framing) in product(ANSWERS, FRAMINGS.items()):
        if (method, status) not in BODILESS:
            yield method, status, name, framing.body, framing.closes
            continue
        # Some send one all the same. Without, requests waits for the chunks of a 204 for ever.
        yield method, status, name, framing.body, False
        if method == "HEAD" or not reads or b"chunked" not in framing.headers:
            yield method, status, name, b"", False


@pytest.mark.sampled
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
@pytest.mark.parametrize(
    ("use", "caller"), [one[1:] for one in CLIENTS], ids=[one[0] for one in CLIENTS]
)
def test_no_answer_is_longer_or_shorter_than_without_us(server, memory, use, caller, reads):
    # Six callers have httpx's one stream: each takes half of it.
    halves = 1 if caller is None else 2
    number = 0 if caller is None else CALLERS.index(caller) + reads

    def seen():
        found, connections = {}, {}
        for method, status, name, body, closes in shared(answers(reads=reads), number, halves):
            framing = FRAMINGS[name]
            head = b"HTTP/%s %d So\r\n%s\r\n" % (framing.version, status, framing.headers)
            server.answer = head + body, closes
            server.connections = 0
            one = method, status, name, body
            found[one] = use(caller, server.url, method, reads=reads)
            connections[one] = server.connections
        return found, connections

    bare, needed = seen()
    with watching(server.url, memory):
        ours, used = seen()

    assert {one: (got, bare[one]) for one, got in ours.items() if got != bare[one]} == {}
    assert {one: count for one, count in used.items() if count > needed[one]} == {}
    codes = [span.attributes.get("error.code") for span in memory.attempts()]
    assert codes.count("internal_error") >= 3


BOUNDED = {
    "length": (b"Content-Length: 300000", b""),
    "chunked": (b"Transfer-Encoding: chunked", b"40000\r\n"),
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("module", [httpx, httpx2], ids=lambda module: module.__name__)
@pytest.mark.parametrize(("header", "size"), BOUNDED.values(), ids=BOUNDED)
@pytest.mark.parametrize("status", [b"200", b"500"])
def test_what_follows_a_close_in_a_cancelled_scope_is_run(
    server, memory, backend, module, header, size, status
):
    async def script():
        ran = []
        async with module.AsyncClient(trust_env=False) as client:
            with anyio.CancelScope() as scope:
                request = client.build_request("GET", f"{server.url}/asked")
                response = await client.send(request, stream=True)
                scope.cancel()
                try:
                    await anyio.sleep(1)
                finally:
                    await response.aclose()
                    ran.append("what follows")
        return ran

    head = b"HTTP/1.1 %s So\r\n%s\r\n\r\n" % (status, header)
    server.answer = head + size + b"x" * 100_000, False
    bare = anyio.run(script, backend=backend)
    with watching(server.url, memory):
        ours = anyio.run(script, backend=backend)

    assert ours == bare == ["what follows"]
