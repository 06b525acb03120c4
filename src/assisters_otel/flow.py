"""The flow of control that an attempt comes from: a task, or a thread."""

from __future__ import annotations

import asyncio
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
