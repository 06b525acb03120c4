"""The flow of control that an attempt comes from: a unit of work, a task, or a thread."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

# Modules of which a pool's thread has frames when it has nothing to do. Source: the standard
# library's, anyio's and trio's thread pools.
_POOLS: Final = frozenset({"threading", "queue", "concurrent", "asyncio", "anyio", "trio"})

_send: Final[ContextVar[object | None]] = ContextVar("assisters_otel-send", default=None)


@contextmanager
def one_send() -> Iterator[None]:
    """Run what a client's own retry code sends, again and again, for one request of the app's."""
    token = _send.set(object())
    try:
        yield
    finally:
        with suppress(ValueError):  # closed in another context, by whoever found the coroutine
            _send.reset(token)


def current_send() -> object | None:
    """Return what stands for the send of a client's own retry code that this is in, or None."""
    return _send.get()


UNKNOWN: Final = ""
"""What stands for a unit of work that may be any of those that are running."""


class Units:
    """The units of work that a runtime runs in this process, such as the tasks of Celery.

    A unit is known by its name. A task that is run again has the name that it had.
    """

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.RLock()  # a signal handler may run a task meanwhile
        self._running: tuple[str, ...] = ()
        self._entered: ContextVar[tuple[str, ...]] = ContextVar("assisters_otel-units", default=())
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """Forget what other threads of the parent's run: it never ends in this process."""
        self._lock = threading.RLock()
        self._running = self._entered.get()

    def start(self, name: str) -> None:
        """Take what this task or thread does from now on for the work of one unit."""
        self._entered.set((*self._entered.get(), name))
        with self._lock:
            self._running = (*self._running, name)

    def end(self, name: str) -> None:
        """Take it for the work of the unit around this one again.

        Without a `start` this does nothing: the runtime may have been hooked in between.
        """
        entered = self._entered.get()
        if name not in entered:
            return
        # From the end: a unit may run another one of its own name within it.
        around = len(entered) - 1 - entered[::-1].index(name)
        self._entered.set(entered[:around])
        with self._lock:
            running = list(self._running)
            for ended in entered[around:]:
                with suppress(ValueError):  # it has ended in another copy of this context
                    running.remove(ended)
            self._running = tuple(running)

    def current(self) -> str | None:
        """Return the name of the unit that this task or thread works for, or None.

        A thread that a unit has started does not know its unit. Where one unit alone is running,
        as in a child of Celery's pool, the thread is taken for that one's. Where several are, it is
        `UNKNOWN`: a pool's thread may work for one after the other.
        """
        entered = self._entered.get()
        if entered:
            return entered[-1]
        running = self._running
        if not running:
            return None
        return running[0] if running.count(running[0]) == len(running) else UNKNOWN


units: Final = Units()
"""Those of this process."""


def owner() -> object:
    """Find the task that is running, else the thread."""
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - exported; the other one raises
        task = asyncio.current_task()
        if task is not None:
            return task
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    # Before trio 0.29 nothing can be asked first.
    if lowlevel is not None and getattr(lowlevel, "in_trio_task", _always)():
        with suppress(RuntimeError):
            return cast("object", lowlevel.current_task())
    return threading.current_thread()


def _always() -> bool:
    return True


def is_over(task: object) -> bool:
    """Say whether a task or thread has ended, or is a pool's and has nothing to do."""
    if task is None:
        return True
    if isinstance(task, threading.Thread):
        return not task.is_alive() or _is_idle(task)
    done = getattr(task, "done", None)
    if done is not None:
        return bool(done())
    return getattr(getattr(task, "coro", None), "cr_frame", None) is None  # trio's


def _is_idle(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented, for debugging
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _POOLS:
            return False
        frame = frame.f_back
    return True
