"""Each public method of aiohttp's `StreamReader`, on a failed answer, with us and without.

The library waits for the body's beginning, so that the body may have broken off already when the
app gets the response. The app must find what it finds without the library: also of methods that
look at the reader's exception, and do not wait.
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
import warnings
from contextlib import closing, suppress

import aiohttp
import pytest

from assisters_otel.api.limits import MAX_BYTES
from exception_chains import kinds
from memory import watching


class Pace:
    """By how much all of these times are longer: a busy machine comes too late for the first."""

    times = 1


BREAKS_S = 0.25
"""When the server ends the connection, after the first bytes of the body."""

LATER_S = 0.75
"""When the app looks at the body late: what breaks off has done so."""

LIMIT_S = 3.5
"""The caller's limit for a read. What stalls reaches it."""

HANGS_S = 5.0
"""What takes longer hangs, as `wait_eof` does of a body that has broken off."""

HANGS = "it hangs"

BEGINNING = b"first\nsecond\nthird"
LONG = b"a line\n" * (2 * MAX_BYTES // 7)


async def _items(iterator):
    """Return what comes, and how it ends."""
    found = []
    try:
        async for item in iterator:
            found.append(item)  # noqa: PERF401 - what came before the exception
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        found.append(kinds(error))
    joined = b"".join(item for item in found if isinstance(item, bytes))
    return len(found) > 1, joined, found[-1] if isinstance(found[-1], list) else None


async def _on_eof(content):
    called = []
    content.on_eof(lambda: called.append(1))
    await asyncio.sleep(2 * BREAKS_S * Pace.times)
    return called


def _set_exception(content):
    content.set_exception(ValueError("the app's own"))
    return content.exception()


def _feed(content):
    if not content.is_eof():
        content.feed_data(b"more")
    return content.total_bytes, content.total_raw_bytes


def _feed_eof(content):
    content.feed_eof()
    return content.is_eof(), content.at_eof()


def _unread(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        content.unread_data(b"unread ")
    return content.read_nowait(7)


def _begin_chunk(content):
    try:
        content.begin_http_chunk_receiving()
    except RuntimeError as error:
        return str(error)
    return None


def _end_chunk(content):
    try:
        content.end_http_chunk_receiving()
    except RuntimeError as error:
        return str(error)
    return None


def _set_chunk_size(content):
    content.set_read_chunk_size(1 << 20)
    return content.get_read_buffer_limits()


METHODS = {
    "__aiter__": _items,
    "__repr__": repr,
    "at_eof": lambda content: content.at_eof(),
    "begin_http_chunk_receiving": _begin_chunk,
    "end_http_chunk_receiving": _end_chunk,
    "exception": lambda content: content.exception(),
    "feed_data": _feed,
    "feed_eof": _feed_eof,
    "get_read_buffer_limits": lambda content: content.get_read_buffer_limits(),
    "is_eof": lambda content: content.is_eof(),
    "iter_any": lambda content: _items(content.iter_any()),
    "iter_chunked": lambda content: _items(content.iter_chunked(7)),
    "iter_chunks": lambda content: _items(
        item if isinstance(item, list) else item[0] async for item in content.iter_chunks()
    ),
    "on_eof": _on_eof,
    "read": lambda content: content.read(),
    "read_nowait": lambda content: content.read_nowait(7),
    "readany": lambda content: content.readany(),
    "readchunk": lambda content: content.readchunk(),
    "readexactly": lambda content: content.readexactly(7),
    "readline": lambda content: content.readline(),
    "readuntil": lambda content: content.readuntil(b"third"),
    "set_exception": _set_exception,
    "set_read_chunk_size": _set_chunk_size,
    "total_raw_bytes": lambda content: content.total_raw_bytes,
    "unread_data": _unread,
    "wait_eof": lambda content: content.wait_eof(),
}
BODIES = {
    "breaks off": (BEGINNING, 1000, True),
    "breaks off in a chunk": (b"12\r\n" + BEGINNING + b"\r\nff\r\nhalf", None, True),
    "breaks off at once": (b"", 1000, True),
    "stalls": (BEGINNING, 1000, False),
    "complete": (BEGINNING, len(BEGINNING), False),
    "longer than the limit": (LONG, 2 * len(LONG), False),
}
WHENS = {"at once": 0, "later": LATER_S}


class _Server:
    """Sends a failed answer, and ends the connection after a while or with the test."""

    def __init__(self, body, length, breaks):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}/v1"
        framing = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
        self.answer = f"HTTP/1.1 500 No\r\n{framing}\r\n\r\n".encode() + body
        self.breaks = breaks
        self.kept = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.send, args=(connection,), daemon=True).start()

    def send(self, connection):
        with suppress(OSError):
            connection.recv(65536)
            connection.sendall(self.answer)
            if not self.breaks:
                self.kept.append(connection)
                return
            time.sleep(BREAKS_S * Pace.times)
        connection.close()

    def close(self):
        self.listener.close()
        for connection in self.kept:
            connection.close()


async def _result(call, content):
    try:
        result = call(content)
        if inspect.isawaitable(result):
            waited = asyncio.ensure_future(result)
            if not (await asyncio.wait([waited], timeout=HANGS_S * Pace.times))[0]:
                waited.cancel()
                return HANGS
            result = waited.result()
    except Exception as error:  # noqa: BLE001 - it is compared
        return kinds(error)
    return kinds(result) if isinstance(result, BaseException) else result


async def _look(session, url, call, wait_s):
    """Return what a method returns or raises, twice, and the exception that the reader then has."""
    response = await session.get(f"{url}/models")
    await asyncio.sleep(wait_s * Pace.times)
    found = [await _result(call, response.content)]
    if found != [HANGS]:
        found.append(await _result(call, response.content))
    found.append(await _result(METHODS["exception"], response.content))
    response.close()
    found.append(await _result(METHODS["exception"], response.content))
    return found


async def _look_at_all(url, wait_s):
    """Return by method what `_look` returns. Each method has a response of its own."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(sock_read=LIMIT_S * Pace.times),
        connector=aiohttp.TCPConnector(limit=0),
    ) as session:
        looking = (_look(session, url, call, wait_s) for call in METHODS.values())
        return dict(zip(METHODS, await asyncio.gather(*looking), strict=True))


@pytest.mark.parametrize("when", WHENS)
@pytest.mark.parametrize("body", BODIES)
def test_each_method_of_the_reader_does_as_without_us(memory, monkeypatch, body, when):
    different = []
    for times in (1, 2, 4):
        monkeypatch.setattr(Pace, "times", times)
        with closing(_Server(*BODIES[body])) as server:
            expected = asyncio.run(_look_at_all(server.url, WHENS[when]))
            memory.clear()
            with watching(server, memory):
                found = asyncio.run(_look_at_all(server.url, WHENS[when]))
        assert len(memory.attempts()) == len(METHODS)
        different = [name for name, result in found.items() if result != expected[name]]
        if not different:
            return
    assert {name: found[name] for name in different} == {name: expected[name] for name in different}


def test_no_public_method_of_the_reader_is_left_out():
    public = {name for name in vars(aiohttp.StreamReader) if not name.startswith("_")}
    slots = set(aiohttp.StreamReader.__slots__)
    assert public - slots <= METHODS.keys()
