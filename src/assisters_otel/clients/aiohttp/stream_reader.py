"""aiohttp's `StreamReader`: waits for a failed body's beginning, and watches a successful body.

No bytes are taken out of a reader. A watched reader gets a subclass with the same slots, until its
body has ended. All other readers, also those of aiohttp's server, keep their class.
"""

from __future__ import annotations

import asyncio
import sys
import weakref
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from assisters_otel.api.limits import MAX_BYTES
from assisters_otel.clients.aiohttp.hidden_failure import show_later
from assisters_otel.clients.classes import GENERATIONS, is_of, take_identity
from assisters_otel.clients.read_ahead import find_foreign
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

if TYPE_CHECKING:
    from assisters_otel.recording.response_body import ResponseBody

READ_AHEAD_S: Final = 5.0
"""The limit of waiting for a failed body's beginning, in seconds, if the caller has set none."""

_CLOSED: Final = ("Connection closed",)
# The arguments of the exception that a reader gets when its response is closed. Source: aiohttp's
# `_notify_content`.
_REFUSED_CLOSED: Final = ("Connection closed.",)
# The arguments of the RuntimeError of a read after the app has closed its session. Any other one of
# aiohttp's `_wait` refuses a read as well, such as a second at once, and the first goes on.


class _Observation(Record):
    """The record of a watched reader.

    Attributes:
        body: The receiver of the bytes as they are read, and of the end.
        response: A weak reference to the response. Its callback reports that it was collected.
        cancelled: The exception of a cancelled read, until another read follows; or None.
    """

    body: ResponseBody
    response: weakref.ref[Any]
    cancelled: BaseException | None = None


# By the id of the reader, which has slots and no room for an attribute. Its `__del__` removes it.
_watched: Final[dict[int, _Observation]] = {}


def watch(response: Any, body: ResponseBody) -> None:
    """Report what is read of a response to *body*.

    Args:
        response: A response, of which nothing has been read.
        body: The receiver of the bytes as they are read, and of the end.
    """
    reader = response.content
    if not can_be_waited_for(reader) or reader.at_eof():
        body.ended()  # there is nothing to read
        return
    broken = reader.exception()
    if broken is not None:  # its beginning came with the headers
        body.broke(broken)
        return
    # If all of the body has arrived, a response that is collected gives its connection back to the
    # pool. The connection keeps the reader until it is used again. So the response is watched, too.
    _watched[id(reader)] = _Observation(body, weakref.ref(response, lambda _: body.dropped()))
    kind: Any = type(reader)
    reader.__class__ = _watching_class(kind)


async def wait_for_read_ahead(reader: Any, limit_s: float) -> None:
    """Wait until the beginning of a body has arrived, or its end, or a time has passed.

    An exception of the client belongs to the caller's read. It is raised there, behind the bytes
    that came before it. The reader shows it after as long a time as it has taken to come.

    Args:
        reader: A response's content, of which nothing has been read. `can_be_waited_for` is True.
        limit_s: The longest time to wait, in seconds.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    end_s = began_s + limit_s

    def wake() -> None:
        waiter = reader._waiter  # noqa: SLF001 - there is no other way to wait and read nothing
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    before = reader.exception()
    timer, handled = loop.call_later(limit_s, wake), sys.exc_info()[1]
    try:
        while _may_wait(reader) and loop.time() < end_s:
            await reader._wait("read")  # noqa: SLF001 - as above
        met = reader.exception()
        if met is not None and met is not before:  # the library's clock has rung with the caller's
            show_later(reader, met, began_s)
    except Exception as error:  # noqa: BLE001 - the caller's read raises it
        foreign = find_foreign(error, handled)
        if foreign is not None:
            raise foreign from None
        show_later(reader, error, began_s)
    finally:
        timer.cancel()
        del handled


def can_be_waited_for(reader: Any) -> bool:
    """Return True if a response's content has the class that `wait_for_read_ahead` knows."""
    return is_of(type(reader), "aiohttp.streams", "StreamReader")


@fail_safe
def peek(reader: Any) -> bytes:
    """Return a copy of the first bytes that a reader holds, up to `limits.MAX_BYTES`."""
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
        or reader._size > MAX_BYTES  # noqa: SLF001 - the bytes that the reader holds
        or reader._protocol._reading_paused  # noqa: SLF001 - then no more bytes arrive
    )


@lru_cache(GENERATIONS)
def _watching_class(base: Any) -> type:  # noqa: C901 - a class, not one function
    """Return a subclass of a reader's class that reports reads and the end to `_watched`."""

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
                if not body.skip_chunk(chunk):
                    body.feed(chunk)
                if self.at_eof():
                    body.ended()
                    self._stop_watching()
            return chunk

        def feed_eof(self) -> None:
            super().feed_eof()
            watch = _watched.get(id(self))
            if watch is not None and self.at_eof():
                watch.body.ended()
                self._stop_watching()

        def set_exception(self, exc: BaseException, *cause: Any) -> None:
            super().set_exception(exc, *cause)
            watch = _watched.get(id(self))
            if watch is not None:
                if type(exc).__name__ == "ClientConnectionError" and exc.args == _CLOSED:
                    if watch.cancelled is None:
                        watch.body.closed()
                    else:
                        watch.body.broke(watch.cancelled)
                else:
                    watch.body.broke(exc)
                self._stop_watching()  # last: after an interrupt the next end counts

        async def _wait(self, func_name: str) -> None:
            try:
                await super()._wait(func_name)
            except BaseException as error:
                watch = _watched.get(id(self))
                if watch is not None and type(error) is RuntimeError:
                    if error.args == _REFUSED_CLOSED:
                        watch.body.closed()
                        self._stop_watching()
                elif watch is not None and isinstance(error, Exception):
                    watch.body.broke(error)
                    self._stop_watching()
                elif watch is not None:
                    # A cancelled read is no end, as the next read goes on. A new exception is kept:
                    # the traceback of the original refers to the reader.
                    _watched[id(self)] = watch._replace(cancelled=asyncio.CancelledError())
                raise

        def _stop_watching(self) -> None:
            _watched.pop(id(self), None)
            self.__class__ = base

        def __del__(self) -> None:
            watch = _watched.pop(id(self), None)
            if watch is not None:
                watch.body.dropped()

    return take_identity(base, StreamReader)
