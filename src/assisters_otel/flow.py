"""The flow of control that an attempt comes from: a task, or a thread."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import suppress
from typing import Final, cast

# Modules of which a pool's thread has frames when it has nothing to do. Source: the standard
# library's, anyio's and trio's thread pools.
_POOLS: Final = frozenset({"threading", "queue", "concurrent", "asyncio", "anyio", "trio"})


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
