"""Flushes at the end of a unit of work: a platform may freeze the process until the next one.

A platform that freezes a process, such as AWS Lambda, gives it no other moment to export. So the
caller waits for the flush, and the wait is bounded three times:

* by `LIMIT_S`;
* by the time that the platform leaves, less `RESERVE_S`;
* by what earlier flushes have shown. After `MAX_IN_VAIN` flushes in a row that ran out of time, the
  next `NOT_WAITED_FOR` units do not wait. The threads of the SDK go on exporting meanwhile.

A unit inside another one does not flush: the outer one does so at its end. So a function that is
decorated with `flushed`, and that a hooked runtime calls, is flushed once.

A unit that ends by a cancellation, a `KeyboardInterrupt` or a `SystemExit` does not flush either:
such an exception has to leave at once.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from assisters_otel.attempts.control_flow import units
from assisters_otel.fail_safe import fail_safe
from assisters_otel.process import PROCESS
from assisters_otel.providers.owned_providers import UNREACHABLE_WAIT_S
from assisters_otel.providers.workers import DaemonWorkers

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

LIMIT_S: Final = 2.0
"""How long a unit waits for its flush at most, in seconds. Source: the contract of `init`."""

RESERVE_S: Final = 0.5
"""The part of the platform's time that no flush uses, in seconds: enough for the platform's end."""

MAX_IN_VAIN: Final = 2
"""After how many flushes in a row that ran out of time the units do not wait for a while."""

NOT_WAITED_FOR: Final = 10
"""How many units do not wait then. A collector that hangs costs less than half a second a unit."""


class _Waits:
    """How long the units of this process may wait for their flushes."""

    def __init__(self) -> None:
        self._forked()
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        self._lock = threading.Lock()
        self._in_vain = 0
        self._left = 0

    def flush(self, left_s: float) -> None:
        """Send what is queued, and wait for that as long as allowed.

        Args:
            left_s: The time that the platform leaves, in seconds.
        """
        timeout_s = min(LIMIT_S, left_s - RESERVE_S)
        if timeout_s <= 0 or not self._may_wait():
            return
        started_s = time.monotonic()
        is_taken = PROCESS.flush(timeout_s)
        # The wait for a receiver that is known not to answer is shorter.
        waited_s, limit_s = time.monotonic() - started_s, min(timeout_s, UNREACHABLE_WAIT_S)
        with self._lock:
            self._in_vain = self._in_vain + 1 if not is_taken and waited_s >= limit_s else 0
            if self._in_vain == MAX_IN_VAIN:
                self._in_vain, self._left = 0, NOT_WAITED_FOR

    def _may_wait(self) -> bool:
        with self._lock:
            if not self._left:
                return True
            self._left -= 1
            return False


_waits: Final = _Waits()


def no_limit() -> float:
    """Return the time that a platform without a limit leaves, in seconds."""
    return LIMIT_S + RESERVE_S


class WorkUnit:
    """One run of a unit of work. Used by ``with`` or, where an event loop runs, ``async with``.

    Attributes:
        is_flushed: False if other code flushes at the end of the unit.
        is_over: True if it has ended. A task that it has started may live on in its context.
    """

    def __init__(
        self, name: str, left_s: Callable[[], float] = no_limit, *, is_flushed: bool = True
    ) -> None:
        """Create the unit without starting it.

        Args:
            name: The name of the flow of control. Inside a unit of a runtime, or inside another
                unit of this class, it is not used: the outer one is the flow of control.
            left_s: A function that returns the time that the platform leaves, in seconds.
            is_flushed: False if other code flushes at the end of the unit.
        """
        self._name = name
        self._left_s = left_s
        self.is_flushed = is_flushed
        self._is_outermost = False
        self._is_named = False
        self.is_over = False

    def __enter__(self) -> None:
        self._start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_over = True
        if self._end(error):
            self._flush()

    async def __aenter__(self) -> None:
        self._start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_over = True
        if self._end(error):
            flushed = self._start_flush()
            if flushed is not None:
                await flushed

    @fail_safe
    def _start(self) -> None:
        around = _current.get()
        self._is_outermost = around is None or around.is_over
        if self._is_outermost:
            _current.set(self)
            self._is_named = not units.is_inside()
        if self._is_named:
            units.start(self._name)

    @fail_safe
    def _end(self, error: BaseException | None) -> bool:
        """End the unit, and return True if it has to be flushed."""
        if self._is_named:
            units.end(self._name)
        if not self._is_outermost:
            return False
        _current.set(None)
        return self.is_flushed and (error is None or isinstance(error, Exception))

    @fail_safe
    def _flush(self) -> None:
        _waits.flush(self._left_s())

    @fail_safe
    def _start_flush(self) -> asyncio.Future[object] | None:
        """Flush in another thread while the event loop goes on; return the future of that.

        trio's loop cannot await the thread. There the flush is waited for, and the result is None.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._flush()
            return None
        senders = DaemonWorkers(1)
        (sent,) = senders.submit([self._flush])
        senders.stop()
        return asyncio.wrap_future(sent, loop=loop)


_current: Final[ContextVar[WorkUnit | None]] = ContextVar("assisters_otel-work-unit", default=None)
