"""A successful answer's body, told of as it passes: the same chunks, exceptions and closes.

An iterator and no generator: it adds none to those that the client leaves to the garbage
collector, of which asyncio and trio would say something.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.clients.classes import GENERATIONS
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from types import TracebackType

    from assisters_otel.recording.response_body import ResponseBody

_SDKS: Final = frozenset({"openai", "assisters"})
_HELPERS: Final = "openai.lib.streaming"
"""Where the `openai` SDK puts a chat's chunks together. Source: its `ChatCompletionStream`."""


def _always(_: bytes) -> bool:
    return True


def _nothing(*_: object) -> None:
    """Close an iterator that has no close."""


async def _nothing_async(*_: object) -> None:
    """The same, async."""


@fail_safe
def _closed(body: ResponseBody) -> None:
    """Tell a body that its stream is closed: by the caller, or as an SDK's own error passes.

    An SDK that cannot read what came closes the stream and lets its exception go on: that is a
    failure, and no caller who has had enough.
    """
    error = sys.exc_info()[1]
    # Known already it is that of another stream, which was read inside this one's `with`.
    if isinstance(error, Exception) and not body.is_known(error) and _is_of_sdk(error):
        body.broke(error)
    elif isinstance(error, GeneratorExit):  # of a generator that is dropped
        body.left()
    else:
        body.closed()


def _is_of_sdk(error: Exception) -> bool:
    """Say whether an exception that is on its way comes out of an SDK's reading of a stream."""
    trace = error.__traceback__
    if trace is not None and _module(trace).partition(".")[0] in _SDKS:
        return True
    # Out of the helper for chats: it is the caller's `with` that closes the stream.
    while trace is not None:
        if _module(trace).startswith(_HELPERS) and trace.tb_frame.f_code.co_name == "__stream__":
            return True
        trace = trace.tb_next
    return False


def _module(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__"))


class _Chunks:
    """The chunks of a stream; whoever asks for a generator gets the other one's ways."""

    __slots__ = ("_body", "_chunks", "_is_ordinary", "close", "send", "throw")

    def __init__(self, chunks: Any, body: ResponseBody) -> None:
        self._chunks = chunks
        self._body = body
        events = body.events
        # What is no event stream is fed to nobody.
        self._is_ordinary = _always if events is None else events.skip_plain_event
        self.close = getattr(chunks, "close", _nothing)
        self.send = getattr(chunks, "send", _nothing)
        self.throw = getattr(chunks, "throw", _nothing)

    def __iter__(self) -> _Chunks:
        return self

    def __next__(self) -> bytes:
        try:
            chunk: bytes = next(self._chunks)
        except StopIteration:
            self._body.ended()
            raise
        except BaseException as error:
            self._body.broke(error)
            raise
        self._body.read_s = perf_counter()
        if not self._is_ordinary(chunk):
            self._body.feed(chunk)
        return chunk


class _AsyncChunks:
    """The same, async."""

    __slots__ = ("_body", "_chunks", "_is_ordinary", "aclose", "asend", "athrow")

    def __init__(self, chunks: Any, body: ResponseBody) -> None:
        self._chunks = chunks
        self._body = body
        events = body.events
        self._is_ordinary = _always if events is None else events.skip_plain_event
        self.aclose = getattr(chunks, "aclose", _nothing_async)
        self.asend = getattr(chunks, "asend", _nothing_async)
        self.athrow = getattr(chunks, "athrow", _nothing_async)

    def __aiter__(self) -> _AsyncChunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk: bytes = await anext(self._chunks)
        except StopAsyncIteration:
            self._body.ended()
            raise
        except BaseException as error:
            self._body.broke(error)
            raise
        self._body.read_s = perf_counter()
        if not self._is_ordinary(chunk):
            self._body.feed(chunk)
        return chunk


class _Watched:
    """A stream whose end is told of."""

    def __init__(self, stream: Any, body: ResponseBody) -> None:
        self._stream = stream
        self._body = body

    def __del__(self) -> None:
        self._body.dropped()


@lru_cache(GENERATIONS)
def watched(base: Any) -> type[_Watched]:
    """Make the sync stream class for a client's ``SyncByteStream``."""

    class Watched(_Watched, base):  # type: ignore[misc]
        def __iter__(self) -> _Chunks:
            return _Chunks(iter(self._stream), self._body)

        def close(self) -> None:
            try:
                self._stream.close()
            finally:
                _closed(self._body)

    return Watched


@lru_cache(GENERATIONS)
def async_watched(base: Any) -> type[_Watched]:
    """Make the async one, which differs from the other in ``await`` alone."""

    class AsyncWatched(_Watched, base):  # type: ignore[misc]
        def __aiter__(self) -> _AsyncChunks:
            return _AsyncChunks(aiter(self._stream), self._body)

        async def aclose(self) -> None:
            try:
                await self._stream.aclose()
            finally:
                _closed(self._body)

    return AsyncWatched
