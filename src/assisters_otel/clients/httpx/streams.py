"""The stream in place of the client's own, which the caller reads an answer's body from.

It reads the beginning of a failed answer's body before the caller does, and replays it. It watches
a successful answer's body while the caller reads it (`chunks`).

The caller gets the same chunks, the same exceptions and the same connection (test_neutral.py).
`Response.read` is not used: after it, ``elapsed`` and `iter_raw` raise.

An exception raised while reading ahead belongs to the caller's read. The stream keeps it, and
raises it behind the chunks that came before it. Only a foreign exception is raised at once.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections import deque
from contextlib import nullcontext, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.api.patterns import pattern
from assisters_otel.clients.classes import GENERATIONS
from assisters_otel.clients.httpx.chunks import AsyncChunks, Chunks, report_close
from assisters_otel.clients.read_ahead import drop_handled_context, find_foreign, raise_in_reader
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractContextManager

    from assisters_otel.recording.response_body import ResponseBody


_MORE_THAN_CHUNKS: Final = pattern(
    rb"(?:\r\n)?0+(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n(?=.)", re.DOTALL
)
"""The last chunk of a chunked body, its trailers, and at least one byte behind them."""


class Stream:
    """A response's own stream, with the chunks that were read ahead of the caller.

    Attributes:
        parts: The chunks as they came, which the caller has not read yet.
    """

    _body: ResponseBody | None = None  # `__del__` is called also if `__init__` is interrupted

    def __init__(
        self,
        stream: Any,
        body: ResponseBody | None = None,
        length: int | None = None,
        deadline: float = 0.0,
    ) -> None:
        """Start with nothing read.

        Args:
            stream: The response's own stream, sync or async.
            body: The record of a body that is watched, or None.
            length: The Content-Length in bytes, or None. If the peer has sent more than that,
                reading ahead ends before the end of the body. Then the client closes the
                connection with the answer, and does not use it again.
            deadline: The time when reading ahead ends, by `time.perf_counter`.
        """
        self.parts: deque[bytes] = deque()
        self._stream = stream
        self._body = body
        self._length = length
        self._deadline = deadline
        self._rest: Any = None
        self._size = 0
        self._error: Exception | None = None

    def __del__(self) -> None:
        if self._body is not None and not self._body.is_over:
            self._body.dropped()

    @fail_safe
    def beginning(self) -> bytes:
        """Return the bytes that were read ahead. The caller has not read any of them yet."""
        return b"".join(self.parts)

    @fail_safe
    def _is_enough(self) -> bool:
        if self._size > MAX_BYTES or time.perf_counter() >= self._deadline:
            return True
        if self._length is not None and self._size < self._length:
            return False
        return bool(_has_more(self._stream, is_chunked=self._length is None))

    @fail_safe
    def _keep(self, error: Exception, handled: BaseException | None) -> None:
        self._error = error
        drop_handled_context(error, handled)
        # Without the library's frame: that would put the exception into a reference cycle.
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next


@fail_safe
def _has_more(stream: Any, *, is_chunked: bool) -> bool:
    """Return True if an HTTP/1.1 connection has received more bytes than those of the answer.

    After the body's end the client would keep the connection, and read those bytes as an answer.

    Args:
        stream: A response's stream, as the client's own transport makes it.
        is_chunked: True if the end of the body is still to be read from these bytes.
    """
    unread: bytes = getattr(_find_h11(stream), "trailing_data", (b"",))[0]
    return bool(_MORE_THAN_CHUNKS.match(unread) if is_chunked else unread)


@fail_safe
def _find_h11(stream: Any) -> Any:
    """Return the state of the HTTP/1.1 connection of a response's stream; None for any other."""
    for name in ("_httpcore_stream", "_stream", "_connection", "_h11_state"):
        stream = getattr(stream, name, None)
    return stream


@fail_safe
def _shield() -> AbstractContextManager[object] | None:
    """Return a scope that a cancelled one around it does not cancel, as httpcore closes in one.

    Returns:
        The scope. None outside of a task: the collector closes a coroutine that is not awaited.
    """
    # httpcore has imported what it awaits by: trio, or anyio on asyncio.
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - exported
        library, is_in_task = sys.modules.get("anyio"), asyncio.current_task() is not None
    else:
        library = sys.modules.get("trio")
        is_in_task = library is not None and library.lowlevel.in_trio_task()
    return library.CancelScope(shield=True) if library is not None and is_in_task else None


@fail_safe
def _is_suspended(rest: Any) -> bool:
    """Return True if the rest of a body is a generator that has to be closed with this one.

    httpx2 closes the outermost alone. At asyncio's end each one is closed by itself, at once.
    """
    return not getattr(rest, "ag_running", getattr(rest, "gi_running", True))


@lru_cache(GENERATIONS)
def sync_stream_class(base: Any) -> type[Stream]:  # noqa: C901 - a class, not one function
    """Return the sync stream class for a client's ``SyncByteStream``."""

    class SyncStream(Stream, base):  # type: ignore[misc]
        def read_ahead(self) -> None:
            self._rest, handled = iter(self._stream), sys.exc_info()[1]
            try:
                for part in self._rest:
                    self.parts.append(part)
                    self._size += len(part)
                    if self._is_enough():
                        return
            except Exception as error:  # noqa: BLE001 - the caller's read raises it
                foreign = find_foreign(error, handled)
                if foreign is not None:
                    raise foreign from None
                self._keep(error, handled)
            finally:
                del handled
            self._rest = None

        def __iter__(self) -> Iterator[bytes]:
            if self._body is None:
                return self._replay()
            return Chunks(iter(self._stream), self._body)

        def _replay(self) -> Iterator[bytes]:
            rest, self._rest = self._rest, None
            error, self._error = self._error, None
            try:
                while self.parts:
                    yield self.parts.popleft()
                if error is not None:
                    try:
                        raise_in_reader(error)
                    finally:
                        del error  # its traceback refers to this frame
                if rest is not None:
                    yield from rest
            except GeneratorExit:
                self._stream.close()  # as the client's own stream does
                if _is_suspended(rest):
                    rest.close()
                raise

        def close(self) -> None:
            rest, self._rest, self._error = self._rest, None, None
            try:
                if hasattr(rest, "close"):  # an app's own stream may be iterated by no generator
                    rest.close()
            finally:
                try:
                    self._stream.close()
                finally:
                    if self._body is not None and not self._body.is_over:
                        report_close(self._body)

    return SyncStream


@lru_cache(GENERATIONS)
def async_stream_class(base: Any) -> type[Stream]:  # noqa: C901 - a class, not one function
    """Return the async stream class. It differs from the sync one in ``await`` alone."""

    class AsyncStream(Stream, base):  # type: ignore[misc]
        async def read_ahead(self) -> None:
            self._rest, handled = aiter(self._stream), sys.exc_info()[1]
            try:
                async for part in self._rest:
                    self.parts.append(part)
                    self._size += len(part)
                    if self._is_enough():
                        return
            except Exception as error:  # noqa: BLE001 - the caller's read raises it
                foreign = find_foreign(error, handled)
                if foreign is not None:
                    raise foreign from None
                self._keep(error, handled)
            finally:
                del handled
            self._rest = None

        def __aiter__(self) -> AsyncIterator[bytes]:
            if self._body is None:
                return self._replay()
            return AsyncChunks(aiter(self._stream), self._body)

        async def _replay(self) -> AsyncIterator[bytes]:
            rest, self._rest = self._rest, None
            error, self._error = self._error, None
            try:
                while self.parts:
                    yield self.parts.popleft()
                if error is not None:
                    try:
                        raise_in_reader(error)
                    finally:
                        del error  # its traceback refers to this frame
                if rest is not None:
                    async for part in rest:
                        yield part
            except GeneratorExit:
                await self._stream.aclose()  # as the client's own stream does
                if _is_suspended(rest):
                    await rest.aclose()
                raise

        async def aclose(self) -> None:
            rest, self._rest, self._error = self._rest, None, None
            try:
                await self._stream.aclose()
            finally:
                if self._body is not None and not self._body.is_over:
                    report_close(self._body)
            if not hasattr(rest, "aclose"):
                return
            if _find_h11(self._stream) is None:
                # A connection of HTTP/2 is open still, and a read would wait for other answers.
                await rest.aclose()
                return
            # Read to the end: asyncio and trio report generators that the collector finds open. The
            # client itself reads nothing here, so the app gets no exception of it.
            with suppress(Exception), _shield() or nullcontext():
                while await anext(rest, None) is not None:
                    pass

    return AsyncStream
