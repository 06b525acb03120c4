"""What there is once a process: the handle that is switched on, its forks, its end.

A process ends in one of several moments, and may meet more than one of them: the end of a server
(`runtimes`), of a child of multiprocessing, of the interpreter. Each sends what is queued, one at a
time. Together they take `END_S` at most, unless the collector has taken everything in between. Of
that `RESERVE_S` are left for the interpreter's exit.
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
"""What sending the rest may hold a process's end up, in seconds."""

RESERVE_S: Final = 1.0
"""What is left of that for the interpreter's exit, in seconds: enough for a collector that is back
to take everything."""

FORGET_S: Final = 30.0
"""How long after a moment the next one is no part of the same end, in seconds: the server of a test
or of a notebook has ended, and the process goes on."""

_PROGRAMS: Final = frozenset({"subprocess", "gevent.subprocess"})
"""The modules that run programs."""

_LOOK_S: Final = 0.01
"""How often to look whether the app's threads are done, in seconds."""

_THREADS: Final = ("Otel", "assisters-otel")
"""What the names of the SDK's threads and of ours start with. Source: the SDK, 1.44 and 1.45."""


class Handle(Protocol):
    """What a process must know of the handle that `init` returns."""

    @property
    def has_app_providers(self) -> bool:
        """True if it records in a provider of the app's own."""

    def flush_at_end(self, timeout_s: float) -> bool:
        """Send what is queued; return True if all of it was taken."""

    def end(self, timeout_s: float) -> None:
        """Shut down, and wait *timeout_s* seconds for it at most."""

    def forked(self) -> None:
        """Begin anew in a forked child."""


class Patched(Protocol):
    """What a process must know of the clients that are patched in it."""

    def flush(self, timeout_s: float, *, at_exit: bool = False) -> bool:
        """Send what the app's providers hold; return True if all of it was taken."""

    def forked(self, before_next: Callable[[], object] | None) -> None:
        """Begin anew in a forked child."""


class Process:
    """What there is once a process.

    Attributes:
        lock: Held while anything is switched on or off.
        current: The handle that is switched on, or None.
        suspended: The one that a recording of `testing` has taken the place of, or None.
        instrumentation: What is patched, by `init` or by ``opentelemetry-instrument``, or None.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.current: Handle | None = None
        self.suspended: Handle | None = None
        self.instrumentation: Patched | None = None
        self._ended: WeakIdentityDict[bool] = WeakIdentityDict()
        self._is_watching = False
        self._has_warned = False
        self._is_program = False
        self._ends_in: int | None = None
        self._end_lock = threading.Lock()
        self._left_s = END_S
        self._last_s = 0.0  # when a moment ended last, on a steady clock
        atexit.register(self._exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(before=self._forking, after_in_child=self._forked)

    def end(self, provider: object) -> None:
        """Remember that we have shut a provider down: it is never used again."""
        self._ended.put(provider, True)

    def has_ended(self, provider: object) -> bool:
        """Return True if we have shut a provider down."""
        return self._ended.get(provider) is not None

    # -- its end ------------------------------------------------------------------------------

    def flush_at_end(self) -> None:
        """Send what is queued. Python may give this process no later moment to do so.

        Source: uvicorn raises the signal that has ended it again, with Python's own handler in
        place; the children of Celery and RQ leave by ``os._exit``. Nothing of `atexit` runs then.
        """
        if self._end_lock.acquire(timeout=END_S):
            try:
                self._flush_at_end()
            finally:
                self._end_lock.release()

    def _budget_s(self) -> float:
        """Return what is left of `END_S` for the end that this moment is part of, in seconds."""
        return self._left_s if time.monotonic() - self._last_s <= FORGET_S else END_S

    def _flush_at_end(self) -> None:
        started_s, budget_s = time.monotonic(), self._budget_s()
        is_taken = False
        try:
            timeout_s = max(budget_s - RESERVE_S, 0.0)
            if self.current is not None:
                is_taken = self.current.flush_at_end(timeout_s)
            elif self.instrumentation is not None:
                is_taken = self.instrumentation.flush(timeout_s)
        finally:
            # What has taken everything is alive, and costs the next moment nothing.
            self._last_s = time.monotonic()
            left_s = budget_s - (self._last_s - started_s)
            self._left_s = END_S if is_taken else max(left_s, RESERVE_S)

    def _exit(self) -> None:
        """End what `init` has made, and flush what does not end by itself, at the normal exit."""
        handles = self._handles()
        for handle in handles:
            handle.end(self._budget_s())
        if not handles and self.instrumentation is not None:
            self.instrumentation.flush(self._budget_s(), at_exit=True)

    def _handles(self) -> list[Handle]:
        return [one for one in (self.current, self.suspended) if one is not None]

    def _exit_child(self) -> None:
        """End a child of multiprocessing: it leaves by ``os._exit``, and nothing of `atexit` runs.

        Its threads go on until they are done, also those of executors: Python waits for them after
        this. So does a thread that is started here, and ends what there is when they are.
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
        """End what there is, and flush the app's own providers: none ends by itself here."""
        if self.current is None or self.current.has_app_providers:
            self.flush_at_end()
        self._exit()

    # -- multiprocessing ----------------------------------------------------------------------

    @fail_safe
    def start(self, instrumentation: Patched) -> None:
        """See to the end of the process that *instrumentation* is switched on in."""
        self.instrumentation = instrumentation
        self._left_s = END_S
        self._watch_multiprocessing()
        multiprocessing = sys.modules.get("multiprocessing.process")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            self._end_with_multiprocessing()

    @fail_safe
    def stop(self, instrumentation: Patched) -> None:
        """Forget *instrumentation*, which is switched off."""
        if self.instrumentation is instrumentation:
            self.instrumentation = None

    def _watch_multiprocessing(self) -> None:
        """See to it that a child of multiprocessing ends well.

        Forked, by its parent or by the fork server, it leaves by ``os._exit``: no `atexit`,
        but finalizers of its own. It clears those that are there when it starts, and then
        runs what is registered here.
        """
        util = sys.modules.get("multiprocessing.util")
        if util is not None and not self._is_watching:
            self._is_watching = True
            util.register_after_fork(self, Process._end_with_multiprocessing)

    def _end_with_multiprocessing(self) -> None:
        util = sys.modules.get("multiprocessing.util")
        if util is not None and self._ends_in != os.getpid():
            self._ends_in = os.getpid()
            util.Finalize(None, self._exit_child, exitpriority=0)

    # -- its forks ----------------------------------------------------------------------------

    def _forking(self) -> None:
        self._is_program = False
        monkey = sys.modules.get("gevent.monkey")
        if self.instrumentation is None or monkey is None:
            return
        if monkey.is_module_patched("threading"):
            self._is_program = _runs_a_program()
            if self._has_warned or self._is_program:
                return
            self._has_warned = True
            logger.warning(
                "a fork under gevent: OpenTelemetry's SDK starts its threads anew in the child, "
                "and to start a greenlet lets others run there as well, which then send what "
                "the parent sends. Fork workers before greenlets send",
            )

    def _forked(self) -> None:
        if self._is_program:
            _leave_greenlets()
            return
        self.lock = threading.RLock()
        self._end_lock, self._left_s = threading.Lock(), END_S
        self._watch_multiprocessing()
        handles = self._handles()
        for handle in handles:
            handle.forked()
        if not handles and self.instrumentation is not None:
            self.instrumentation.forked(None)


def _threads_of_the_app() -> list[threading.Thread]:
    """List the threads that Python waits for at a process's end, but for the two that may ask."""
    here_are = (threading.main_thread(), threading.current_thread())
    return [one for one in threading.enumerate() if not one.daemon and one not in here_are]


def _runs_a_program() -> bool:
    """Return True if a fork is under way for `subprocess`, whose child is another program at once.

    The `openai` SDK and trio ask ``uname`` for the processor so.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") in _PROGRAMS:
            return True
        frame = frame.f_back
    return False


def _leave_greenlets() -> None:
    """Run none of the app's greenlets in this child, which is another program at once.

    OpenTelemetry's SDK starts threads here and waits for some, which lets all greenlets run. They
    read what the parent waits for: a worker of Celery's has then lost a task, and waits for Redis
    (test_a_program_that_is_run_is_not_the_app_once_more). So no thread of the SDK's or ours is
    started, and what is waited for is so in an event loop that knows of no other greenlet.
    """
    start = threading.Thread.start

    def start_others(self: threading.Thread) -> None:
        if not self.name.startswith(_THREADS):
            start(self)

    threading.Thread.start = start_others  # type: ignore[method-assign] # in this child alone
    hub: Any = sys.modules.get("gevent.hub")
    with suppress(AttributeError, TypeError):  # a version of gevent that makes hubs otherwise
        hub.set_hub(type(hub.get_hub())(default=False))


here: Final = Process()
