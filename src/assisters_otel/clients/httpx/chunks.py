"""The chunks of a successful answer's body, watched while the caller reads them.

Chunks, exceptions and closes stay the same. The watcher is an iterator and no generator: asyncio
and trio warn of generators that the garbage collector finds open
(test_trio_says_no_more_of_generators_left_behind_than_without_us).
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.body_end import BodyEnd
from assisters_otel.clients.classes import CLIENTS, is_a
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from types import TracebackType

    from assisters_otel.recording.response_body import ResponseBody

_SDKS: Final = frozenset({"openai", "assisters"})
_CHAT_HELPER: Final = "openai.lib.streaming"
"""The module that joins a chat's chunks in the `openai` SDK. Source: `ChatCompletionStream`."""


def _no_method(*_: object) -> None:
    """Stand in for a method that an iterator does not have."""


async def _no_async_method(*_: object) -> None:
    """Stand in for an async method that an iterator does not have."""


class DecodingError(Exception):
    """Stands for the client's exception of that name, which this body is going to raise."""


@fail_safe
def report_close(body: ResponseBody) -> None:
    """Report that the stream is closed, with the reason.

    A client that cannot decode the body, or an SDK that cannot read it, closes the stream while its
    exception passes. That is a failure. Otherwise the caller has closed the stream.
    """
    error = sys.exc_info()[1]
    # A known exception is that of another stream, which is read inside the `with` of this one.
    if isinstance(error, Exception) and not body.is_known(error) and _is_of_reading(error, body):
        body.broke(error, BodyEnd.UNREADABLE)
    elif not isinstance(error, GeneratorExit):
        body.closed()
    elif body.events is not None and body.events.is_broken:  # httpx2 closes it before it raises
        body.broke(DecodingError(), BodyEnd.UNREADABLE)
    else:  # the app has dropped the generator that reads
        body.left()


def _is_of_reading(error: Exception, body: ResponseBody) -> bool:
    """Return True if a passing exception was raised while this body was decoded or read."""
    if not is_a(error, CLIENTS, "DecodingError"):
        return _comes_from_sdk_reading(error)
    try:
        return body.was_sent_as(error.request)  # type: ignore[attr-defined]
    except RuntimeError:  # it has none: the app itself raises it
        return False


def _comes_from_sdk_reading(error: Exception) -> bool:
    """Return True if a passing exception was raised by an SDK while it read a stream."""
    trace = error.__traceback__
    if trace is not None and _module(trace).partition(".")[0] in _SDKS:
        return True
    # The helper for chats raises in the caller's `with` block, which then closes the stream.
    while trace is not None:
        if (
            _module(trace).startswith(_CHAT_HELPER)
            and trace.tb_frame.f_code.co_name == "__stream__"
        ):
            return True
        trace = trace.tb_next
    return False


def _module(trace: TracebackType) -> str:
    return str(trace.tb_frame.f_globals.get("__name__"))


class Chunks:
    """The chunks of a stream, with the methods of a generator, which the client's code may call."""

    __slots__ = ("_body", "_chunks", "_skip_chunk", "close", "send", "throw")

    def __init__(self, chunks: Any, body: ResponseBody) -> None:
        self._chunks = chunks
        self._body = body
        self._skip_chunk = body.skip_chunk
        self.close = getattr(chunks, "close", _no_method)
        self.send = getattr(chunks, "send", _no_method)
        self.throw = getattr(chunks, "throw", _no_method)

    def __iter__(self) -> Chunks:
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
        if not self._skip_chunk(chunk):
            self._body.feed(chunk)
        return chunk


class AsyncChunks:
    """The chunks of an async stream."""

    __slots__ = ("_body", "_chunks", "_skip_chunk", "aclose", "asend", "athrow")

    def __init__(self, chunks: Any, body: ResponseBody) -> None:
        self._chunks = chunks
        self._body = body
        self._skip_chunk = body.skip_chunk
        self.aclose = getattr(chunks, "aclose", _no_async_method)
        self.asend = getattr(chunks, "asend", _no_async_method)
        self.athrow = getattr(chunks, "athrow", _no_async_method)

    def __aiter__(self) -> AsyncChunks:
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
        if not self._skip_chunk(chunk):
            self._body.feed(chunk)
        return chunk
