"""The flow of control that sends an attempt: a call, a unit of work, a task, or a thread.

What is sent in the scope of a *call* of an SDK may be an attempt of the call. The scope is in
OpenTelemetry's context, which the app's code passes from thread to thread, and in a context
variable: ddtrace's context keeps only the span and the baggage. A flag closes it (`Call.is_open`),
because a task that was started in it, and outlives it, is no part of it.

Resends are looked for in the same flow of control. A *unit of work* is one task, job, message or
invocation of a runtime such as Celery. `runtimes` report its start and its end here. A task or
thread is a flow of its own where no runtime is known. *One send* is the run of a client's own retry
code: an equal request inside it is a resend for certain.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final, cast

from opentelemetry import context

from assisters_otel.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import SpanContext

CALL_KEY: Final = context.create_key("assisters_otel-call")
"""The key of the call in OpenTelemetry's context."""

CALL: Final[ContextVar[object]] = ContextVar("assisters_otel-call", default=None)
"""The context variable with the call, or None."""

# A pool's thread that waits for work has frames of these modules only. Source: the thread pools of
# the standard library, anyio and trio.
_POOLS: Final = frozenset({"threading", "queue", "concurrent", "asyncio", "anyio", "trio"})

_send: Final[ContextVar[object | None]] = ContextVar("assisters_otel-send", default=None)


@contextmanager
def one_send(send: object = None) -> Iterator[None]:
    """Mark the requests of the ``with`` block as sent by a client's retry code for one request.

    Args:
        send: The object that identifies the block, if it is in several parts; else None.
    """
    token = _send.set(object() if send is None else send)
    try:
        yield
    finally:
        with suppress(ValueError):  # the garbage collector closes it in another context
            _send.reset(token)


def current_send() -> object | None:
    """Return the object that identifies the `one_send` block that this runs in, or None."""
    return _send.get()


UNKNOWN: Final = ""
"""The name that stands for an unknown one of several running units."""


class Units:
    """The units of work that a runtime runs in this process, such as the tasks of Celery.

    A unit is identified by its name. A task that is run again has the same name.

    Attributes:
        has_had_any: True if a unit has started in this process or before its fork. Until then
            `current` need not be called (``200, alone``).
    """

    def __init__(self) -> None:
        """Start without a unit."""
        self._lock = threading.RLock()  # a signal handler may run a task meanwhile
        self.has_had_any = False
        self._running: tuple[str, ...] = ()
        self._entered: ContextVar[tuple[str, ...]] = ContextVar("assisters_otel-units", default=())
        if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows has no fork
            os.register_at_fork(after_in_child=self._forked)

    def _forked(self) -> None:
        """Forget the units of the parent's other threads: they do not end in this process."""
        self._lock = threading.RLock()
        self._running = self._entered.get()

    def start(self, name: str) -> None:
        """Record that this task or thread works for a unit from now on."""
        self.has_had_any = True
        self._entered.set((*self._entered.get(), name))
        with self._lock:
            self._running = (*self._running, name)

    def end(self, name: str) -> None:
        """Record that this task or thread works for the unit around this one again.

        Without a `start` this does nothing: the runtime may have been hooked while the unit ran.
        """
        entered = self._entered.get()
        if name not in entered:
            return
        # Searched from the end: a unit may run another one of the same name within it.
        around = len(entered) - 1 - entered[::-1].index(name)
        self._entered.set(entered[:around])
        with self._lock:
            running = list(self._running)
            for ended in entered[around:]:
                with suppress(ValueError):  # it has ended in another copy of this context
                    running.remove(ended)
            self._running = tuple(running)

    def is_inside(self) -> bool:
        """Return True if this task or thread works for a unit whose context it has."""
        return bool(self._entered.get())

    def current(self) -> str | None:
        """Return the name of the unit that this task or thread works for, or None.

        A thread that a unit has started does not know its unit. If only one unit is running, as in
        a child of Celery's pool, the thread is assigned to that. If several are, the result is
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
"""The units of this process."""


def current_task_or_thread() -> object:
    """Return the running task, else the running thread."""
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - exported; `get_running_loop` raises without a loop
        task = asyncio.current_task()
        if task is not None:
            return task
    lowlevel = getattr(sys.modules.get("trio"), "lowlevel", None)
    # Before version 0.29 trio has no `in_trio_task`, and `current_task` raises outside of one.
    if lowlevel is not None and getattr(lowlevel, "in_trio_task", _always)():
        with suppress(RuntimeError):
            return cast("object", lowlevel.current_task())
    return threading.current_thread()


def _always() -> bool:
    return True


def has_ended(task: object) -> bool:
    """Return True if a task or thread has ended, or is a pool's thread that waits for work."""
    if task is None:
        return True
    if isinstance(task, threading.Thread):
        return not task.is_alive() or _is_idle_pool_thread(task)
    done = getattr(task, "done", None)
    if done is not None:
        return bool(done())
    return getattr(getattr(task, "coro", None), "cr_frame", None) is None  # trio's


def _is_idle_pool_thread(thread: threading.Thread) -> bool:
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - documented, for debugging
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in _POOLS:
            return False
        frame = frame.f_back
    return True


class Origin(Record):
    """The origin of an attempt.

    Attributes:
        owner: A function that returns the task or thread that has sent the attempt, or None if
            that is gone. All attempts of one task or thread have the same.
        owner_id: The id of the task or thread.
        parent: The span under which the attempt, or its call, was made; None without one.
        is_known: True if the attempt can be of one unit only: at most one runs, or its trace is
            known.
        whole: The unit of work that the attempt shares with its resends, else the trace id, or
            None.
        place: The key by which a resend of another task or thread is found, or None without one. It
            is the hash of the unit of work, else the id of the parent span.
    """

    owner: Callable[[], object]
    owner_id: int
    parent: SpanContext | None
    is_known: bool
    whole: str | int | None
    place: int | None


def origin_here(parent: SpanContext | None, unit: str | None) -> Origin:
    """Return the origin of an attempt that the running task or thread sends.

    Args:
        parent: The span under which the attempt, or its call, was made; None without one.
        unit: The unit of work that the attempt is part of, as `Units` has it, or None.
    """
    owner = current_task_or_thread()
    whole: str | int | None = unit or (None if parent is None else parent.trace_id)
    place = hash(unit) if unit else (None if parent is None else parent.span_id)
    is_known = unit != UNKNOWN or parent is not None
    return Origin(weakref.ref(owner), id(owner), parent, is_known, whole, place)
