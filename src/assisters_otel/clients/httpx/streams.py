"""The beginning of a failed answer's body, read before its caller asks for it, and put back.

The caller finds the same chunks, the same exceptions and the same connection behind
them; test_neutral.py asks each client whether it can tell.
"""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.clients.classes import CLIENTS, GENERATIONS, is_a
from assisters_otel.clients.read_ahead import cut, find_foreign, raise_late
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


_MORE_THAN_CHUNKS: Final = re.compile(
    rb"(?:\r\n)?0+(?:;[^\r\n]*)?\r\n(?:[^\r\n]+\r\n)*\r\n(?=.)", re.DOTALL
)
"""The last chunk, its trailers, and more."""


class Ahead:
    """What has been read, and where the rest comes from.

    What went wrong while reading ahead belongs to the caller's read, and is raised there.

    Attributes:
        parts: The chunks as they came, not yet asked for.
    """

    def __init__(self, stream: Any, length: int | None, deadline: float) -> None:
        """Begin with nothing read.

        Args:
            stream: The response's own, sync or async.
            length: How long the peer says the body is, in bytes. Where more than that has come,
                reading ahead ends with it: who closes the answer unread closes that connection.
            deadline: When reading ahead is to end, by `time.perf_counter`.
        """
        self.parts: deque[bytes] = deque()
        self._stream = stream
        self._length = length
        self._deadline = deadline
        self._rest: Any = None
        self._size = 0
        self._error: Exception | None = None

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
        cut(error, handled)
        # Without the frame of ours, which would make it part of a reference cycle.
        if error.__traceback__ is not None:
            error.__traceback__ = error.__traceback__.tb_next


@fail_safe
def _has_more(stream: Any, *, is_chunked: bool) -> bool:
    """Return True if more has come on an HTTP/1.1 connection than the body that is its answer.

    At that body's end the client would keep the connection, and take the rest for an answer.

    Args:
        stream: A response's, as the client's own transport makes it.
        is_chunked: Whether the body's end is still to be read.
    """
    for name in ("_httpcore_stream", "_stream", "_connection", "_h11_state"):
        stream = getattr(stream, name, None)
    unread: bytes = getattr(stream, "trailing_data", (b"",))[0]
    return bool(_MORE_THAN_CHUNKS.match(unread) if is_chunked else unread)


@lru_cache(GENERATIONS)
def replay(base: Any) -> type[Ahead]:  # noqa: C901 - a class, not one function
    """Make the sync stream class for a client's ``SyncByteStream``."""

    class Replay(Ahead, base):  # type: ignore[misc]
        def read(self) -> None:
            self._rest, handled = iter(self._stream), sys.exc_info()[1]
            try:
                for part in self._rest:
                    self.parts.append(part)
                    self._size += len(part)
                    if self._is_enough():
                        return
            except Exception as error:  # noqa: BLE001 - the caller's; its read raises it
                theirs = find_foreign(error, handled)
                if theirs is not None:
                    raise theirs from None
                self._keep(error, handled)
            finally:
                del handled
            self._rest = None

        def __iter__(self) -> Iterator[bytes]:
            rest, self._rest = self._rest, None
            error, self._error = self._error, None
            try:
                while self.parts:
                    yield self.parts.popleft()
            except GeneratorExit:
                self._stream.close()  # left in the middle: as the client's own stream does
                raise
            if error is not None:
                try:
                    raise_late(error)
                finally:
                    del error  # its traceback knows this frame
            if rest is not None:
                yield from rest

        def close(self) -> None:
            rest, self._rest, self._error = self._rest, None, None
            try:
                if rest is not None:
                    rest.close()
            finally:
                self._stream.close()

    return Replay


@lru_cache(GENERATIONS)
def async_replay(base: Any) -> type[Ahead]:  # noqa: C901 - a class, not one function
    """Make the async one, which differs from the other in ``await`` alone."""

    class AsyncReplay(Ahead, base):  # type: ignore[misc]
        async def read(self) -> None:
            self._rest, handled = aiter(self._stream), sys.exc_info()[1]
            try:
                async for part in self._rest:
                    self.parts.append(part)
                    self._size += len(part)
                    if self._is_enough():
                        return
            except Exception as error:  # noqa: BLE001 - the caller's; its read raises it
                theirs = find_foreign(error, handled)
                if theirs is not None:
                    raise theirs from None
                self._keep(error, handled)
            finally:
                del handled
            self._rest = None

        async def __aiter__(self) -> AsyncIterator[bytes]:
            rest, self._rest = self._rest, None
            error, self._error = self._error, None
            try:
                while self.parts:
                    yield self.parts.popleft()
            except GeneratorExit:
                await self._stream.aclose()
                raise
            if error is not None:
                try:
                    raise_late(error)
                finally:
                    del error  # its traceback knows this frame
            if rest is not None:
                async for part in rest:
                    yield part

        async def aclose(self) -> None:
            rest, self._rest, self._error = self._rest, None, None
            await self._stream.aclose()
            # What is left in the middle, of generators within, the garbage collector tells of.
            try:
                while rest is not None and await anext(rest, None) is not None:
                    pass
            except Exception as error:
                if not is_a(error, CLIENTS, "TransportError"):
                    raise

    return AsyncReplay
