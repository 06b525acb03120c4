"""Hides the failure of a body that broke off while it was read ahead, until an app would see it.

The methods of aiohttp's `StreamReader` look at two attributes. A reader with a hidden failure gets
a subclass that has properties in their place.
"""

from __future__ import annotations

import asyncio
import sys
from functools import lru_cache
from typing import Any, Final

from assisters_otel.clients.classes import GENERATIONS, take_identity
from assisters_otel.fail_safe import fail_safe
from assisters_otel.records import Record

_HIDDEN: Final = ("_exception", "_timer")
"""The attributes of a reader by which it refuses a read."""


class _PendingFailure(Record):
    """The failure of a body that broke off while it was read ahead.

    Without the library the app would hold the response for as long before the body breaks off. So
    the reader shows no failure for that time, or until the app waits for more bytes.

    Attributes:
        error: The exception that the reader has, or None: the clock of the whole request has rung.
        rung: Not empty when that time is over. A timer of the event loop has this list alone.
    """

    error: Exception | None
    rung: list[bool]


# By the id of the reader, which has slots and no room for an attribute. Its `__del__` removes it.
_pending_failures: Final[dict[int, _PendingFailure]] = {}


@fail_safe
def show_later(reader: Any, error: Exception, began_s: float) -> None:
    """Hide a failure of the reader for as long as it has taken to come."""
    error.__traceback__ = None  # it refers to frames of the library
    hidden: Exception | None = error
    if reader.exception() is not error:
        if not isinstance(error, asyncio.TimeoutError):
            return
        # The limit of the whole request. Its clock refuses every read, also of what is there.
        if error.__cause__ is not None:
            error.__cause__.__traceback__ = None  # it refers to the reader
        hidden = None
    kind: Any = type(reader)
    hiding = _hiding_class(kind)
    loop = asyncio.get_running_loop()
    took_s = loop.time() - began_s
    rung: list[bool] = []
    # From the loop's next step on: until then the library reports, and the app cannot have waited.
    loop.call_soon(loop.call_later, took_s, rung.append, True)
    _pending_failures[id(reader)] = _PendingFailure(hidden, rung)
    reader.__class__ = hiding


@fail_safe
def _pending_of(reader: Any) -> _PendingFailure | None:
    """Return the failure that a reader hides, or None if it hides none any more."""
    pending = _pending_failures.get(id(reader))
    return None if pending is None or pending.rung else pending


@fail_safe
def _show(reader: Any, base: type) -> None:
    """Restore the class *base* of a reader. It hides nothing."""
    reader.__class__ = base
    _pending_failures.pop(id(reader), None)


class _InDict:
    """Reads and writes an attribute of an object that has no slot for it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, reader: Any, kind: type | None = None) -> Any:
        return vars(reader)[self._name]

    def __set__(self, reader: Any, value: object) -> None:
        vars(reader)[self._name] = value


@lru_cache(GENERATIONS)
def _hiding_class(base: Any) -> type:  # noqa: C901 - a class, not one function
    """Return a subclass of a reader's class that hides its failure while that is pending.

    The methods of the reader look at two slots, which are behind properties meanwhile.
    """
    # `set_exception` clears nothing. Before aiohttp 3.11 they are no slots.
    exception, timer = (getattr(base, name, None) or _InDict(name) for name in _HIDDEN)

    class StreamReader(base):  # type: ignore[misc]
        __slots__ = ()

        @property
        def _exception(self) -> Any:
            if _pending_of(self) is not None:
                return None
            _show(self, base)  # for good: aiohttp asks again, to raise it
            return exception.__get__(self)

        @_exception.setter
        def _exception(self, error: Any) -> None:  # of a response that the app closes
            _show(self, base)
            exception.__set__(self, error)

        @property
        def _timer(self) -> Any:
            pending = _pending_of(self)
            if pending is not None and pending.error is None:
                return sys.modules["aiohttp.helpers"].TimerNoop()
            return timer.__get__(self)

        async def _wait(self, func_name: str) -> None:
            _show(self, base)
            if exception.__get__(self) is not None:
                raise exception.__get__(self)
            await base._wait(self, func_name)  # noqa: SLF001 - `self` is none of this class now

        async def wait_eof(self) -> None:
            pending = _pending_of(self)
            if pending is not None and pending.error is not None:
                _show(self, base)
                raise pending.error
            await base.wait_eof(self)

        def __del__(self) -> None:
            _pending_failures.pop(id(self), None)

    return take_identity(base, StreamReader)
