"""aiohttp's `StreamReader`: a failed body's beginning seen in it, a successful one's told of.

Nothing is taken out of a reader. One that is to tell gets another class for as long as its body
lasts, with the same slots and the same methods; all others, also of aiohttp's own server, stay
as they are.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.clients.classes import GENERATIONS, is_of, named_as
from assisters_otel.clients.read_ahead import find_foreign
from assisters_otel.fail_safe import fail_safe

if TYPE_CHECKING:
    from assisters_otel.recording.response_body import ResponseBody

READ_AHEAD_S: Final = 5.0
"""How long the beginning of a failed body is waited for, if the caller has set no limit."""

_CLOSED: Final = ("Connection closed",)
# What a reader is told when its response is closed. Source: aiohttp's `_notify_content`.


class _Watch(NamedTuple):
    """Who is told of a reader.

    Attributes:
        body: Gets the bytes as they are read, and the end.
        response: Refers to the response weakly, and tells the body when that is dropped.
        cancelled: What the last read was cancelled with, if no other has followed.
    """

    body: ResponseBody
    response: weakref.ref[Any]
    cancelled: BaseException | None = None


# By the reader's id, since its slots have no room; gone with it.
_watched: Final[dict[int, _Watch]] = {}
_broken: Final[dict[int, Exception]] = {}


def watch(response: Any, body: ResponseBody) -> None:
    """Have a body told of what is read.

    Args:
        response: A response, of which nothing has been read.
        body: Gets the bytes as they are read, and the end.
    """
    reader = response.content
    if not can_be_waited_for(reader) or reader.at_eof():
        body.ended()  # nothing will come
        return
    # A response that is dropped gives its connection back to the pool, and its reader with it, if
    # all of the body has arrived. The reader then lives until the connection is used again.
    _watched[id(reader)] = _Watch(body, weakref.ref(response, lambda _: body.dropped()))
    kind: Any = type(reader)
    reader.__class__ = _telling(kind)


async def wait_for_beginning(reader: Any, limit_s: float) -> None:
    """Wait until the beginning of a body is there, its end, or a time has passed.

    What goes wrong meanwhile belongs to the caller's read, and is raised there, behind the
    bytes that came before it.

    Args:
        reader: A response's content, of which nothing has been read, and which can be waited for.
        limit_s: That time.
    """
    loop = asyncio.get_running_loop()
    end_s = loop.time() + limit_s

    def wake() -> None:
        waiter = reader._waiter  # noqa: SLF001 - there is no other way to wait and take nothing
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    before = reader.exception()
    timer, handled = loop.call_later(limit_s, wake), sys.exc_info()[1]
    try:
        while _may_wait(reader) and loop.time() < end_s:
            await reader._wait("read")  # noqa: SLF001 - as above
        met = reader.exception()
        if met is not None and met is not before:  # the clock of ours has rung with theirs
            _put_behind(reader, met)
    except Exception as error:  # noqa: BLE001 - the caller's; its read raises it
        theirs = find_foreign(error, handled)
        if theirs is not None:
            raise theirs from None
        _put_behind(reader, error)
    finally:
        timer.cancel()
        del handled


def can_be_waited_for(reader: Any) -> bool:
    """Say whether a response's content is of the class that `wait_for_beginning` knows."""
    return is_of(type(reader), "aiohttp.streams", "StreamReader")


@fail_safe
def beginning(reader: Any) -> bytes:
    """Copy the beginning of what a reader holds, up to `limits.MAX_BYTES`."""
    found = bytearray()
    offset = getattr(reader, "_buffer_offset", 0)
    for part in getattr(reader, "_buffer", ()):
        found += part[offset : offset + MAX_BYTES - len(found)]
        offset = 0
        if len(found) >= MAX_BYTES:
            break
    return bytes(found)


def _may_wait(reader: Any) -> bool:
    return not (
        reader.is_eof()
        or reader.exception() is not None
        or reader._size > MAX_BYTES  # noqa: SLF001 - what is held, without taking it
        or reader._protocol._reading_paused  # noqa: SLF001 - then nothing more comes
    )


@fail_safe
def _put_behind(reader: Any, error: Exception) -> None:
    """Have what has been raised raised again, once what was there before it is read."""
    error.__traceback__ = None  # it knows frames of ours
    if reader.exception() is error:
        if not reader._buffer:  # noqa: SLF001 - as above
            return
        reader._exception = None  # noqa: SLF001 - `set_exception` cannot take it back
    elif isinstance(error, asyncio.TimeoutError):
        # The limit for all of the request. Its clock lets nobody read any more, not what is there.
        if error.__cause__ is not None:
            error.__cause__.__traceback__ = None  # it knows the reader
        reader._timer = sys.modules["aiohttp.helpers"].TimerNoop()  # noqa: SLF001 - as above
    else:
        return
    _broken[id(reader)] = error
    kind: Any = type(reader)
    reader.__class__ = _broken_off(kind)


@lru_cache(GENERATIONS)
def _telling(base: Any) -> type:  # noqa: C901 - a class, not one function
    class StreamReader(base):  # type: ignore[misc]
        __slots__ = ()

        def _read_nowait_chunk(self, n: int) -> bytes:
            chunk: bytes = super()._read_nowait_chunk(n)
            watch = _watched.get(id(self))
            if watch is not None:
                body, _, cancelled = watch
                body.read_s = perf_counter()
                if cancelled is not None:
                    _watched[id(self)] = watch._replace(cancelled=None)
                if body.events is not None and not body.events.skip_plain_event(chunk):
                    body.feed(chunk)
                if self.at_eof():
                    body.ended()
                    self._tell_no_more()
            return chunk

        def feed_eof(self) -> None:
            super().feed_eof()
            watch = _watched.get(id(self))
            if watch is not None and self.at_eof():
                watch.body.ended()
                self._tell_no_more()

        def set_exception(self, exc: BaseException, *cause: Any) -> None:
            super().set_exception(exc, *cause)
            watch = _watched.get(id(self))
            if watch is not None:
                self._tell_no_more()
                if type(exc).__name__ == "ClientConnectionError" and exc.args == _CLOSED:
                    if watch.cancelled is None:
                        watch.body.closed()
                    else:
                        watch.body.broke(watch.cancelled)
                else:
                    watch.body.broke(exc)

        async def _wait(self, func_name: str) -> None:
            try:
                await super()._wait(func_name)
            except BaseException as error:
                watch = _watched.get(id(self))
                if watch is not None and isinstance(error, Exception):
                    self._tell_no_more()
                    watch.body.broke(error)
                elif watch is not None:
                    # A cancelled read is no end: the next one goes on, unless none comes. Not the
                    # very exception, whose traceback knows the reader.
                    _watched[id(self)] = watch._replace(cancelled=asyncio.CancelledError())
                raise

        def _tell_no_more(self) -> None:
            _watched.pop(id(self), None)
            self.__class__ = base

        def __del__(self) -> None:
            watch = _watched.pop(id(self), None)
            if watch is not None:
                watch.body.dropped()

    return named_as(base, StreamReader)


@lru_cache(GENERATIONS)
def _broken_off(base: Any) -> type:
    class StreamReader(base):  # type: ignore[misc]
        __slots__ = ()

        async def _wait(self, _func_name: str) -> None:
            error = _broken.pop(id(self))
            self._exception = error  # type: ignore[misc] # a slot of the class above
            self.__class__ = base
            raise error

        def __del__(self) -> None:
            _broken.pop(id(self), None)

    return named_as(base, StreamReader)
