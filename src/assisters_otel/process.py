"""The state that a process has once: the handle that `init` returned, its forks, its end.

Python gives a process several moments to send what is queued, and a process may have more than one
of them:

* the end of a server, a task runner or a work horse (`runtimes`), by `flush_at_end`;
* the end of a child of multiprocessing, by a finalizer (`runtimes.children`);
* the normal exit of the interpreter, by `atexit`.

Together they may delay the end by `END_S`, and each moment uses up a part of that. If the collector
has taken everything in one, the next has all of it again: a collector that is alive delays nothing.
`RESERVE_S` are kept for the exit, where the providers are shut down.

A fork copies the handle, and none of the threads. The child starts anew: locks, limits of time, and
then the handle (`Handle.forked`). Under gevent the child may be another program at once, and then
it must not run the app's greenlets.
"""

from __future__ import annotations

import atexit
import inspect
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from assisters_otel import logger
from assisters_otel.fail_safe import fail_safe
from assisters_otel.weak_identity import WeakIdentityDict

if TYPE_CHECKING:
    from collections.abc import Callable

END_S: Final = 5.0
"""How long all moments of an end may take together, in seconds. Source: the contract of `init`."""

RESERVE_S: Final = 1.0
"""How much of that is kept for the interpreter's exit, in seconds: a collector that has just come
back takes everything in that time."""

FORGET_S: Final = 30.0
"""How long after a moment the next one belongs to another end, in seconds. The server of a test or
of a notebook ends, and the process goes on."""

_PROGRAMS: Final = frozenset({"subprocess", "gevent.subprocess"})
"""The modules that start programs."""

_LOOK_S: Final = 0.01
"""How often a child looks whether the app's threads have ended, in seconds."""

_THREADS: Final = ("Otel", "assisters-otel")
"""The starts of the names of the SDK's threads and of the library's. Source: the SDK, 1.44 and
1.45."""


class Handle(Protocol):
    """The part of `init`'s handle that this module calls."""

    @property
    def has_app_providers(self) -> bool:
        """True if the handle records in a provider of the app's own."""

    def flush_at_end(self, timeout_s: float) -> bool:
        """Send what is queued; return True if all of it was taken."""

    def end(self, timeout_s: float) -> None:
        """Shut down within *timeout_s* seconds."""

    def forked(self) -> None:
        """Start anew in a forked child."""


class Patched(Protocol):
    """The part of the instrumentation, which patches the clients, that this module calls."""

    def flush(self, timeout_s: float, *, at_exit: bool = False) -> bool:
        """Flush the app's providers; return True if all of it was taken."""

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Start anew in a forked child."""

    def records_in_global_providers(self) -> bool:
        """Return True if the global providers have all that the library records."""


class ProcessState:
    """The state of one process.

    Attributes:
        lock: Held while anything is switched on or off.
        current: The handle that is switched on, or None.
        instrumentation: The object that patches the clients, for `init` or for
            ``opentelemetry-instrument``, or None.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.current: Handle | None = None
        self.instrumentation: Patched | None = None
        self._shut_down_providers: WeakIdentityDict[bool] = WeakIdentityDict()
        self._has_warned_of_gevent = False
        self._child_is_program = False
        self._end_lock = threading.Lock()
        self._left_s = END_S
        self._last_moment_s = 0.0  # on a steady clock
        atexit.register(self._exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._before_fork, after_in_child=self._after_fork)

    def note_shut_down(self, provider: object) -> None:
        """Record that the library has shut *provider* down. It is never used again."""
        self._shut_down_providers.put(provider, True)

    def was_shut_down(self, provider: object) -> bool:
        """Return True if the library has shut *provider* down."""
        return self._shut_down_providers.get(provider) is not None

    # -- the end ------------------------------------------------------------------------------

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued; return True if all of it was taken within *timeout_s* seconds."""
        if self.current is not None:
            return self.current.flush_at_end(timeout_s)
        return self.instrumentation is not None and self.instrumentation.flush(timeout_s)

    def flush_at_end(self) -> None:
        """Send what is queued: the process may have no later moment for it.

        Source: uvicorn raises the signal that has ended it again, with Python's own handler in
        place. The children of Celery and RQ leave by ``os._exit``. `atexit` runs nothing then.
        """
        if self._end_lock.acquire(timeout=END_S):
            try:
                self._flush_in_time()
            finally:
                self._end_lock.release()

    def _time_left_s(self) -> float:
        """Return what is left of `END_S` for the end that this moment belongs to, in seconds."""
        return self._left_s if time.monotonic() - self._last_moment_s <= FORGET_S else END_S

    def _flush_in_time(self) -> None:
        started_s, available_s = time.monotonic(), self._time_left_s()
        is_taken = False
        try:
            is_taken = self.flush(max(available_s - RESERVE_S, 0.0))
        finally:
            self._last_moment_s = time.monotonic()
            left_s = available_s - (self._last_moment_s - started_s)
            self._left_s = END_S if is_taken else max(left_s, RESERVE_S)

    def _exit(self) -> None:
        """Shut down what `init` has made, at the normal exit; flush what does not end by itself."""
        if self.current is not None:
            self.current.end(self._time_left_s())
        elif self.instrumentation is not None:
            self.instrumentation.flush(self._time_left_s(), at_exit=True)

    def exit_child(self) -> None:
        """End a child of multiprocessing, as its finalizer.

        Python waits after this for the threads that are no daemons, also for those of executors,
        and they may send more. So a thread of that kind waits for the others, and ends then.
        """
        if _threads_of_the_app():
            waiting = threading.Thread(target=self._end_after_threads, name="assisters-otel-end")
            waiting.start()
        else:
            self._end_child()

    def _end_after_threads(self) -> None:
        while _threads_of_the_app():
            time.sleep(_LOOK_S)
        self._end_child()

    def _end_child(self) -> None:
        """Shut down, and flush the app's own providers: `atexit`, by which they end, does not run.

        Without a handle it is ``opentelemetry-instrument`` that has set them.
        """
        if self.current is None or self.current.has_app_providers:
            self.flush_at_end()
        self._exit()

    # -- what is switched on --------------------------------------------------------------------

    @fail_safe
    def start(self, instrumentation: Patched) -> None:
        """Flush by *instrumentation*, which is switched on, at the end of the process."""
        self.instrumentation = instrumentation
        self._left_s = END_S

    @fail_safe
    def stop(self, instrumentation: Patched) -> None:
        """Undo `start`, if no other instrumentation has been switched on since."""
        if self.instrumentation is instrumentation:
            self.instrumentation = None

    # -- forks --------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """Find out whether the child is a program, and warn once of a fork of the app under gevent.

        Only under gevent does a thread that the child starts let the app's code run.
        """
        self._child_is_program = False
        monkey = sys.modules.get("gevent.monkey")
        if self.instrumentation is None or monkey is None:
            return
        if monkey.is_module_patched("threading"):
            self._child_is_program = _starts_a_program()
            if self._has_warned_of_gevent or self._child_is_program:
                return
            self._has_warned_of_gevent = True
            logger.warning(
                "a fork under gevent: OpenTelemetry's SDK starts its threads anew in the child, "
                "and to start a greenlet lets others run there as well, which then send what "
                "the parent sends. Fork workers before greenlets send",
            )

    def _after_fork(self) -> None:
        if self._child_is_program:
            _leave_greenlets()
            return
        self.lock = threading.RLock()
        self._end_lock, self._left_s = threading.Lock(), END_S
        if self.current is not None:
            self.current.forked()
        elif self.instrumentation is not None:
            self.instrumentation.forked(None)


def _threads_of_the_app() -> list[threading.Thread]:
    """Return the threads that Python waits for at the end, without the main and this one."""
    asking = (threading.main_thread(), threading.current_thread())
    return [one for one in threading.enumerate() if not one.daemon and one not in asking]


def _starts_a_program() -> bool:
    """Return True if the fork is one of `subprocess`, whose child becomes another program at once.

    The `openai` SDK and trio start ``uname`` so, to learn the processor.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in _PROGRAMS:
            return True
        frame = frame.f_back
    return False


def _leave_greenlets() -> None:
    """Run none of the app's greenlets in this child, which becomes another program at once.

    OpenTelemetry's SDK starts threads after a fork and waits for some of them. Under gevent that
    lets all greenlets run, and they read what the parent waits for: a worker of Celery's has lost a
    task then, and waits for Redis (test_a_program_that_is_run_is_not_the_app_once_more). So here no
    thread of the SDK or of the library starts, and a wait has an event loop without the greenlets.
    """
    start = threading.Thread.start

    def start_others(self: threading.Thread) -> None:
        if not self.name.startswith(_THREADS):
            start(self)

    threading.Thread.start = start_others  # type: ignore[method-assign] # in this child alone
    hub: Any = sys.modules.get("gevent.hub")
    with suppress(AttributeError, TypeError):  # a version of gevent whose hubs are made differently
        hub.set_hub(type(hub.get_hub())(default=False))


PROCESS: Final = ProcessState()
"""The state of this process."""
